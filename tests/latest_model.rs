//! The sequence protocol of `latest`, from the crate's own source, under every interleaving and
//! every stale read that the memory model allows.
//!
//! loom keeps the stores that a relaxed load may still return and tries each, so that a missing
//! fence shows as a torn value: the controls leave out one at a time. What it does not model is a
//! load that returns what is only stored later in the same run. How often threads are interrupted is
//! bounded: twice, four times with `SEALED_MMAP_FULL=1`, and as often as `LOOM_MAX_PREEMPTIONS` says.
//! Best run with `--release`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))] // where loom's switching of stacks builds
#![allow(dead_code, reason = "the model needs a part of the protocol")]
#![allow(clippy::duplicate_mod, clippy::unnecessary_cast, reason = "each time with other words")]

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use loom::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicUsize, fence};
use loom::sync::{Condvar, Mutex};

#[path = "../src"]
mod words_of_64_bits {
    pub(crate) mod word {
        pub(crate) type Word = u64;
    }
    pub(crate) mod memory;
    pub(crate) mod latest {
        pub(crate) mod protocol;
    }
}

#[path = "../src"]
mod words_of_32_bits {
    pub(crate) mod word {
        pub(crate) type Word = u32;
    }
    pub(crate) mod memory;
    pub(crate) mod latest {
        pub(crate) mod protocol;
    }
}

/// A stand-in for 32 bits, whose lowest part of a number comes round soon enough for a test.
#[path = "../src"]
mod words_of_16_bits {
    pub(crate) mod word {
        pub(crate) type Word = u16;
    }
    pub(crate) mod memory;
    pub(crate) mod latest {
        pub(crate) mod protocol;
    }
}

/// Words that two threads share.
struct Memory {
    words: Arc<[AtomicUsize]>,
    /// How many fences this side executes before it leaves one out.
    before_omission: Cell<usize>,
}

impl Memory {
    fn new(words: usize) -> Self {
        let words = (0..words).map(|_| AtomicUsize::new(0)).collect();
        Self { words, before_omission: Cell::new(NEVER) }
    }

    fn side(&self, before_omission: usize) -> Self {
        Self { words: Arc::clone(&self.words), before_omission: Cell::new(before_omission) }
    }

    fn fence(&self, ordering: Ordering) {
        let before = self.before_omission.get();
        self.before_omission.set(before.wrapping_sub(1));
        if before != 0 {
            fence(ordering);
        }
    }
}

const NEVER: usize = usize::MAX;

/// A writer that publishes while a reader reads.
#[derive(Clone, Copy)]
struct Run {
    /// The numbers published beforehand, and by the other thread.
    before: &'static [u64],
    during: &'static [u64],
    reads: usize,
    /// Whether the writer ends after that.
    ends: bool,
    /// Fences executed before one is left out.
    writer: usize,
    reader: usize,
}

const RUN: Run =
    Run { before: &[1], during: &[2, 3], reads: 2, ends: false, writer: NEVER, reader: NEVER };
const WAIT: Run = Run { during: &[2], ..RUN };

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound =
        builder.preemption_bound.or(Some(if support::runs::in_full() { 4 } else { 2 }));
    builder.check(model);
}

macro_rules! model {
    ($width:ident) => {
        use super::*;
        use crate::$width::latest::protocol::{BELL, Geometry, News, Reader, Writer};
        use crate::$width::memory::{Sink, Source, Span};
        use crate::$width::word::Word;

        const WORD: usize = size_of::<Word>();

        impl Source for Memory {
            fn load(&self, word: usize) -> Word {
                self.words[word].load(Relaxed) as Word
            }

            fn read(&self, offset: usize, bytes: &mut [u8]) {
                for (i, bytes) in bytes.chunks_exact_mut(WORD).enumerate() {
                    bytes.copy_from_slice(&Source::load(self, offset / WORD + i).to_ne_bytes());
                }
            }

            fn acquire_fence(&self) {
                self.fence(Acquire);
            }
        }

        impl Sink for Memory {
            fn store(&mut self, word: usize, value: Word) {
                self.words[word].store(value as usize, Relaxed);
            }

            fn write(&mut self, offset: usize, bytes: &[u8]) {
                for (i, bytes) in bytes.chunks_exact(WORD).enumerate() {
                    let word = Word::from_ne_bytes(bytes.try_into().unwrap());
                    Sink::store(self, offset / WORD + i, word);
                }
            }

            fn release_fence(&mut self) {
                self.fence(Release);
            }

            fn full_fence(&mut self) {
                self.fence(SeqCst);
            }
        }

        /// Takes stores and keeps none.
        struct Void;

        impl Sink for Void {
            fn store(&mut self, _: usize, _: Word) {}
            fn write(&mut self, _: usize, _: &[u8]) {}
            fn release_fence(&mut self) {}
            fn full_fence(&mut self) {}
        }

        /// Two words that tell the number.
        fn value_of(number: u64) -> Vec<u8> {
            (number as Word).to_ne_bytes().repeat(2)
        }

        /// For each number to be published, a writer that has come that far.
        fn writers(geometry: Geometry, numbers: &[u64]) -> Vec<(Writer, u64)> {
            let mut writer = Writer::new(geometry);
            let mut published = 0;
            let mut writers = Vec::new();
            for &number in numbers {
                while published < number - 1 {
                    (published, ()) = writer.publish(&mut Void, 0, |_, _| ());
                }
                writers.push((writer.clone(), number));
            }
            writers
        }

        fn publish_one(writer: &mut Writer, memory: &mut Memory, number: u64) {
            let value = value_of(number);
            let write = |memory: &mut Memory, span: Span| span.write(memory, 0, &value);
            assert_eq!(writer.publish(memory, value.len(), write), (number, ()));
        }

        fn publish(writers: &[(Writer, u64)], memory: &mut Memory) {
            for (writer, number) in writers {
                publish_one(&mut writer.clone(), memory, *number);
            }
        }

        /// One attempt of the reader's to copy the newest value.
        fn attempt(
            reader: &mut Reader,
            memory: &Memory,
            value: &mut Vec<u8>,
        ) -> Option<Option<u64>> {
            let read = reader.attempt(memory, |memory, span: Span| span.copy_to(memory, value))?;
            Some(read.unwrap().map(|(number, ())| number))
        }

        fn run(run: Run) {
            let geometry = Geometry::new(2, 2 * WORD as u64).unwrap();
            let (before, during) =
                (writers(geometry, run.before), Arc::new(writers(geometry, run.during)));
            check(move || {
                let mut memory = Memory::new(geometry.len() / WORD);
                publish(&before, &mut memory);
                let (mut theirs, numbers) = (memory.side(run.writer), Arc::clone(&during));
                let thread = loom::thread::spawn(move || publish(&numbers, &mut theirs));
                let (memory, mut reader) = (memory.side(run.reader), Reader::new(geometry));
                let mut seen = 0;
                for _ in 0..run.reads {
                    let mut value = Vec::new();
                    let Some(read) = attempt(&mut reader, &memory, &mut value) else { continue };
                    let number = read.unwrap_or(0);
                    assert!(number >= seen, "older");
                    seen = number;
                    assert!(number == 0 || value == value_of(number), "torn");
                }
                thread.join().unwrap();
                let mut value = Vec::new();
                let last = attempt(&mut reader, &memory, &mut value).unwrap();
                assert_eq!((last.as_ref(), value), (run.during.last(), value_of(last.unwrap())));
            });
        }

        /// Whether the model finds a value that is torn.
        fn tears(run_without_a_fence: Run) -> bool {
            let run = AssertUnwindSafe(|| run(run_without_a_fence));
            let failure = catch_unwind(run).err();
            failure.is_some_and(|panic| panic.downcast_ref() == Some(&"torn"))
        }

        /// A reader that sleeps until each value, and until the end if there is one.
        fn wait(run: Run) {
            let geometry = Geometry::new(2, 2 * WORD as u64).unwrap();
            let (before, during) =
                (writers(geometry, run.before), Arc::new(writers(geometry, run.during)));
            check(move || {
                let mut memory = Memory::new(geometry.len() / WORD);
                publish(&before, &mut memory);
                let (mut theirs, numbers) = (memory.side(run.writer), Arc::clone(&during));
                // To the kernel, comparing and falling asleep is one step.
                let futex = Arc::new((Mutex::new(()), Condvar::new()));
                let theirs_too = Arc::clone(&futex);
                let thread = loom::thread::spawn(move || {
                    let wake = || {
                        drop(theirs_too.0.lock());
                        theirs_too.1.notify_all();
                    };
                    for (writer, number) in &*numbers {
                        let mut writer = writer.clone();
                        publish_one(&mut writer, &mut theirs, *number);
                        wake();
                        if run.ends && Some(number) == run.during.last() {
                            writer.end(&mut theirs);
                            wake();
                        }
                    }
                });
                let memory = memory.side(run.reader);
                let (mut reader, mut value) = (Reader::new(geometry), Vec::new());
                let mut seen = *run.before.last().unwrap();
                while run.ends || Some(&seen) != run.during.last() {
                    match Reader::news(&memory, seen) {
                        News::Newer => {
                            if let Some(read) = attempt(&mut reader, &memory, &mut value) {
                                seen = read.unwrap();
                            }
                        }
                        News::Ended => break,
                        News::Nothing { bell } => {
                            let awake = futex.0.lock().unwrap();
                            if Source::load(&memory, BELL) == bell {
                                drop(futex.1.wait(awake));
                            }
                        }
                    }
                }
                assert_eq!(Some(&seen), run.during.last(), "missed");
                thread.join().unwrap();
            });
        }

        /// Whether the model finds a reader that nobody wakes.
        fn sleeps_for_ever(run_without_a_fence: Run) -> bool {
            let run = AssertUnwindSafe(|| wait(run_without_a_fence));
            let failure = catch_unwind(run).err();
            let message = failure.and_then(|panic| panic.downcast::<String>().ok());
            message.is_some_and(|message| message.starts_with("deadlock"))
        }
    };
}

mod with_64_bits {
    model!(words_of_64_bits);

    #[test]
    fn a_value_is_whole_and_never_older_than_the_one_before() {
        run(RUN);
    }

    #[test]
    fn the_first_value_is_whole() {
        run(Run { before: &[], during: &[1, 2], ..RUN });
    }

    #[test]
    fn every_fence_is_needed() {
        for fence in [3, 4] {
            assert!(tears(Run { writer: fence, ..RUN }), "writer {fence}");
        }
        for fence in [0, 1] {
            assert!(tears(Run { reader: fence, ..RUN }), "reader {fence}");
        }
    }

    #[test]
    fn a_reader_that_sleeps_misses_neither_a_value_nor_the_end() {
        wait(WAIT);
        wait(Run { ends: true, ..WAIT });
    }

    #[test]
    fn the_fences_around_the_bell_are_needed() {
        assert!(sleeps_for_ever(Run { writer: 2, ..WAIT }));
        assert!(sleeps_for_ever(Run { reader: 0, ..WAIT }));
    }
}

mod with_32_bits {
    model!(words_of_32_bits);

    #[test]
    fn a_value_is_whole_and_never_older_than_the_one_before() {
        run(RUN);
    }
}

/// Where a number is several words, a reader may take halves of different numbers for one.
mod with_16_bits {
    model!(words_of_16_bits);

    /// The lowest word of a number comes round every 2^15 numbers.
    const ROUND: u64 = 1 << 15;
    const BEGUN: Run = Run { during: &[3, ROUND + 1], reads: 1, ..RUN };
    const NEWEST: Run = Run { during: &[ROUND, ROUND + 1], reads: 1, ..RUN };

    #[test]
    fn a_slot_whose_number_has_come_round_in_part_is_not_mistaken() {
        run(BEGUN);
    }

    #[test]
    fn a_newest_number_that_has_come_round_in_part_is_not_mistaken() {
        run(NEWEST);
    }

    #[test]
    fn a_sleeping_reader_is_woken_by_a_number_that_comes_round() {
        wait(Run { before: &[ROUND - 1], during: &[ROUND], ..WAIT });
    }

    #[test]
    fn the_fences_within_a_number_are_needed() {
        assert!(tears(Run { writer: 11, ..BEGUN }));
        assert!(tears(Run { reader: 5, ..BEGUN }));
        assert!(tears(Run { writer: 5, ..NEWEST }));
        assert!(tears(Run { reader: 2, ..NEWEST }));
    }
}
