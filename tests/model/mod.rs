//! What the models share: the crate's own protocols with words of three sizes, and memory for them.
//!
//! loom runs every interleaving of the threads, and keeps the stores that a relaxed load may still return
//! and tries each. So a missing fence shows: the controls leave out one at a time. What loom does not
//! model is a load that returns what is only stored later in the same run; [`Kind::Owned`] makes up for it
//! where memory has one owner at a time.
//!
//! How often threads are interrupted is bounded: as a rule twice, four times with `SEALED_MMAP_FULL=1`, and
//! as often as `LOOM_MAX_PREEMPTIONS` says. Best run with `--release`.
#![allow(dead_code, reason = "every model compiles all of this, and none uses all of it")]

use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Value;

use loom::cell::UnsafeCell;
use loom::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicUsize, fence};
use loom::sync::{Condvar, Mutex};

use crate::support;

/// Memory while nobody else has it.
#[derive(Clone)]
pub(crate) struct Draft {
    words: Vec<usize>,
    is_stored: Vec<bool>,
}

impl Draft {
    pub(crate) fn new(words: usize) -> Self {
        Self { words: vec![0; words], is_stored: vec![false; words] }
    }

    /// What stands in it now, as if it had always been there.
    pub(crate) fn settled(&self) -> Self {
        Self { words: self.words.clone(), is_stored: vec![false; self.words.len()] }
    }
}

/// Words that two threads share.
pub(crate) struct Memory {
    words: Arc<[Kind]>,
    leaves_out: Omission,
    /// How many fences of each ordering this side has come to.
    fences: [Cell<usize>; 3],
    /// How often this side has loaded each word, and how often before it waits for the other side.
    loads: Vec<Cell<usize>>,
    pub(crate) patience: usize,
}

/// What loom has to know of a word. It takes time for each that it knows.
enum Kind {
    Constant(usize),
    Shared(AtomicUsize),
    /// Whoever accesses it owns it: a write is ordered with every other access, not only with those that
    /// happened to be before it in this run. Anything else is a race, as with plain memory.
    Owned(UnsafeCell<()>, Value),
}

/// Fences that a side leaves out: how many of this ordering it executes before.
pub(crate) type Omission = &'static [(Ordering, usize)];
pub(crate) const NOTHING: Omission = &[];

impl Memory {
    /// Memory as it was before, in which those words change that have been stored since.
    pub(crate) fn new(before: &Draft, since: &Draft, owned: Range<usize>) -> Self {
        let kind = |word: usize| match before.words[word] {
            value if !since.is_stored[word] => Kind::Constant(value),
            value if owned.contains(&word) => Kind::Owned(UnsafeCell::new(()), Value::new(value)),
            value => Kind::Shared(AtomicUsize::new(value)),
        };
        let words: Arc<[Kind]> = (0..before.words.len()).map(kind).collect();
        let loads = vec![Cell::new(0); words.len()];
        Self { words, leaves_out: NOTHING, fences: Default::default(), loads, patience: 12 }
    }

    pub(crate) fn side(&self, leaves_out: Omission) -> Self {
        let (words, loads) = (Arc::clone(&self.words), vec![Cell::new(0); self.words.len()]);
        Self { words, leaves_out, fences: Default::default(), loads, patience: 12 }
    }

    /// Whoever tries again and again sees something new in the end: from then on, a word is no
    /// longer what it was before. Otherwise there would be no end of what to try.
    fn load(&self, word: usize) -> usize {
        match &self.words[word] {
            Kind::Constant(value) => *value,
            Kind::Shared(shared) => {
                let before = self.loads[word].get();
                self.loads[word].set(before + 1);
                if before >= self.patience {
                    loom::thread::yield_now();
                }
                shared.load(Relaxed)
            }
            Kind::Owned(owned, value) => owned.with(|_| value.load(Relaxed)),
        }
    }

    fn store(&self, word: usize, value: usize) {
        match &self.words[word] {
            Kind::Constant(_) => panic!("word {word} is not stored in other runs"),
            Kind::Shared(word) => word.store(value, Relaxed),
            Kind::Owned(owned, word) => owned.with_mut(|_| word.store(value, Relaxed)),
        }
    }

    fn fence(&self, ordering: Ordering) {
        let index = [Acquire, Release, SeqCst].iter().position(|one| *one == ordering).unwrap();
        let before = self.fences[index].get();
        self.fences[index].set(before + 1);
        if !self.leaves_out.contains(&(ordering, before)) {
            fence(ordering);
        }
    }
}

macro_rules! words {
    ($width:ident, $word:ident) => {
        #[path = "../../src"]
        #[allow(
            clippy::duplicate_mod,
            clippy::unnecessary_cast,
            reason = "each time with other words"
        )]
        #[allow(unreachable_pub, reason = "what the crate exports")]
        pub(crate) mod $width {
            pub(crate) mod word {
                pub(crate) type Word = $word;
            }
            pub(crate) mod memory;
            pub(crate) mod bell {
                pub(crate) mod protocol;
            }
            pub(crate) mod latest {
                pub(crate) mod protocol;
            }
            pub(crate) mod ring {
                pub(crate) mod protocol;
            }
            pub(crate) mod broadcast {
                pub(crate) mod protocol;
            }

            use super::{Bell, Draft, Memory};
            use bell::protocol::Sleeper;
            use memory::{Sink, Source, WORD};
            use word::Word;

            impl Source for Memory {
                fn load(&self, word: usize) -> Word {
                    self.load(word) as Word
                }

                fn read(&self, offset: usize, bytes: &mut [u8]) {
                    for (i, bytes) in bytes.chunks_exact_mut(WORD).enumerate() {
                        bytes.copy_from_slice(&Source::load(self, offset / WORD + i).to_ne_bytes());
                    }
                }

                fn acquire_fence(&self) {
                    self.fence(super::Acquire);
                }
            }

            impl Sink for Memory {
                fn store(&mut self, word: usize, value: Word) {
                    Memory::store(self, word, value as usize);
                }

                fn write(&mut self, offset: usize, bytes: &[u8]) {
                    for (i, bytes) in bytes.chunks_exact(WORD).enumerate() {
                        let word = Word::from_ne_bytes(bytes.try_into().unwrap());
                        Sink::store(self, offset / WORD + i, word);
                    }
                }

                fn release_fence(&mut self) {
                    self.fence(super::Release);
                }

                fn full_fence(&mut self) {
                    self.fence(super::SeqCst);
                }
            }

            impl Source for Draft {
                fn load(&self, word: usize) -> Word {
                    self.words[word] as Word
                }

                fn read(&self, offset: usize, bytes: &mut [u8]) {
                    for (i, bytes) in bytes.chunks_exact_mut(WORD).enumerate() {
                        bytes.copy_from_slice(&self.load(offset / WORD + i).to_ne_bytes());
                    }
                }

                fn acquire_fence(&self) {}
            }

            impl Sink for Draft {
                fn store(&mut self, word: usize, value: Word) {
                    self.words[word] = value as usize;
                    self.is_stored[word] = true;
                }

                fn write(&mut self, offset: usize, bytes: &[u8]) {
                    for (i, bytes) in bytes.chunks_exact(WORD).enumerate() {
                        let word = Word::from_ne_bytes(bytes.try_into().unwrap());
                        self.store(offset / WORD + i, word);
                    }
                }

                fn release_fence(&mut self) {}
                fn full_fence(&mut self) {}
            }

            /// A payload that tells the number in each word.
            pub(crate) fn payload(number: u64, words: usize) -> Vec<u8> {
                (number as Word).to_ne_bytes().repeat(words)
            }

            /// As `Waiter::wait`, without a timeout.
            pub(crate) fn sleep_until<T>(
                sleeper: &mut Sleeper,
                ours: &mut Memory,
                bell: &Bell,
                mut look: impl FnMut() -> Option<T>,
            ) -> T {
                loop {
                    sleeper.lie_down(ours);
                    let found = look();
                    if found.is_none() {
                        bell.wait();
                    }
                    sleeper.get_up(ours);
                    if let Some(found) = found.or_else(&mut look) {
                        return found;
                    }
                }
            }
        }
    };
}

words!(words_of_64_bits, u64);
words!(words_of_32_bits, u32);
// A stand-in for 32 bits, whose lowest part of a number comes round soon enough for a test.
words!(words_of_16_bits, u16);

/// A socket: what was sent while nobody was waiting is still there.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    ringing: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.ringing.notify_all();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.ringing.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// The kernel's side of a futex: comparing and falling asleep is one step.
#[derive(Default)]
pub(crate) struct Futex {
    comparing: Mutex<()>,
    waking: Condvar,
}

impl Futex {
    pub(crate) fn wake(&self) {
        drop(self.comparing.lock());
        self.waking.notify_all();
    }

    pub(crate) fn wait(&self, is_unchanged: impl FnOnce() -> bool) {
        let awake = self.comparing.lock().unwrap();
        if is_unchanged() {
            drop(self.waking.wait(awake));
        }
    }
}

/// Threads are interrupted so often, and twice more if all is to be tried.
pub(crate) fn check(interruptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let more = if support::runs::in_full() { 2 } else { 0 };
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(interruptions + more));
    builder.max_branches = 10_000;
    builder.check(model);
}

/// How the model fails, if it does.
pub(crate) fn failure(run: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
    let message = match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast::<&str>().unwrap().to_string(),
    };
    Some(message)
}

/// Whether the model finds a way in which a thread is never woken.
pub(crate) fn deadlocks(run: impl FnOnce()) -> bool {
    failure(run).is_some_and(|message| message.starts_with("deadlock"))
}

/// Whether the model finds bytes that belong to different values.
pub(crate) fn tears(run: impl FnOnce()) -> bool {
    failure(run).is_some_and(|message| message == "torn")
}

/// Whether the model finds two accesses to what only one side may own at a time.
pub(crate) fn races(run: impl FnOnce()) -> bool {
    failure(run).is_some_and(|message| message.contains("Causality violation"))
}
