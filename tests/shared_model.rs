//! How parts of a word are written while others write it, from the crate's own source, in every order and
//! with every stale read that the memory model allows. Each claim has a control that leaves out what it
//! rests on. `SEALED_MMAP_FULL=1` interrupts threads more often. Best run with `--release`.
//!
//! loom remembers one access of each word, the last, to tell which orders differ. Where a writer loads the word
//! before it changes it, somebody else's load is forgotten. So whoever only looks on is started last.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))] // where loom's switching of stacks builds
#![allow(dead_code, reason = "the model needs a part of the source")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::Arc;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::sync::atomic::fence;
use loom::thread;

#[path = "../src/live"]
mod live {
    pub(crate) mod atomic {
        pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    }
    pub(crate) mod merge;
}
use live::atomic::AtomicUsize;
use live::merge::merge;

const WORD: usize = size_of::<usize>();
/// Only the exchange, which two writers cannot prevent so often; the exchange once, and then the bits; only
/// the bits.
const EVERY_WAY: [usize; 3] = [64, 1, 0];

type Write = fn(&AtomicUsize, usize, &[u8], usize);

/// What the only writer of a word may do.
fn load_and_store(word: &AtomicUsize, skip: usize, source: &[u8], _tries: usize) {
    let mut bytes = word.load(Relaxed).to_ne_bytes();
    bytes[skip..][..source.len()].copy_from_slice(source);
    word.store(usize::from_ne_bytes(bytes), Relaxed);
}

fn found(word: &AtomicUsize) -> [u8; WORD] {
    word.load(Relaxed).to_ne_bytes()
}

fn holds(model: impl Fn() + Send + Sync + 'static) -> bool {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound =
        builder.preemption_bound.or(Some(if support::runs::in_full() { 4 } else { 2 }));
    catch_unwind(AssertUnwindSafe(|| builder.check(model))).is_ok()
}

/// Two write their own bytes, a third looks on, and what belongs to nobody stays.
fn two_writers_lose_nothing(write: Write, tries: usize) -> bool {
    holds(move || {
        let word = Arc::new(AtomicUsize::new(usize::from_ne_bytes([0xee; WORD])));
        let writers: Vec<_> = [(0, [1, 2]), (2, [3, 0xfc])]
            .into_iter()
            .map(|(skip, bytes)| {
                let word = Arc::clone(&word);
                thread::spawn(move || {
                    write(&word, skip, &bytes, tries);
                    assert_eq!(found(&word)[skip..][..2], bytes, "our own is there at once");
                })
            })
            .collect();
        let reader = {
            let word = Arc::clone(&word);
            thread::spawn(move || assert_eq!(found(&word)[4..], [0xee; WORD - 4]))
        };
        for thread in writers.into_iter().chain([reader]) {
            thread.join().unwrap();
        }
        let mut expected = [0xee; WORD];
        expected[..4].copy_from_slice(&[1, 2, 3, 0xfc]);
        assert_eq!(found(&word), expected);
    })
}

#[test]
fn writers_of_one_word_lose_nothing_of_each_other() {
    for tries in EVERY_WAY {
        assert!(two_writers_lose_nothing(merge, tries), "{tries} tries");
    }
    assert!(!two_writers_lose_nothing(load_and_store, 0), "the control");
}

/// Two write the same bytes.
fn one_of_two_wins(tries: usize) -> bool {
    holds(move || {
        let word = Arc::new(AtomicUsize::new(0));
        let other = {
            let word = Arc::clone(&word);
            thread::spawn(move || merge(&word, 1, &[0x0f, 0x0f], tries))
        };
        merge(&word, 1, &[0xf0, 0xf0], tries);
        other.join().unwrap();
        assert!([[0x0f; 2], [0xf0; 2]].contains(&[found(&word)[1], found(&word)[2]]));
    })
}

#[test]
fn the_same_bytes_are_exchanged_whole_and_bits_can_mix() {
    assert!(one_of_two_wins(64));
    assert!(!one_of_two_wins(0), "as documented");
}

/// One writes two bytes, and another looks on.
fn nothing_is_seen_halfway(tries: usize) -> bool {
    holds(move || {
        let word = Arc::new(AtomicUsize::new(0));
        let writer = {
            let word = Arc::clone(&word);
            thread::spawn(move || {
                merge(&word, 1, &[0x3f, 0x3f], tries);
                merge(&word, 1, &[0xfc, 0xfc], tries);
            })
        };
        let reader = thread::spawn(move || {
            let seen = found(&word);
            assert!([[0, 0], [0x3f; 2], [0xfc; 2]].contains(&[seen[1], seen[2]]));
        });
        writer.join().unwrap();
        reader.join().unwrap();
    })
}

#[test]
fn the_middle_state_is_seen_only_where_bits_are_changed() {
    assert!(nothing_is_seen_halfway(64));
    assert!(!nothing_is_seen_halfway(0), "as documented");
}

/// A record, and then a part of a word that says so. Both sides use the fences of `write_at` and `read_at`.
fn a_record_comes_before_its_flag(tries: usize, writers_fence: bool, readers_fence: bool) -> bool {
    holds(move || {
        let both = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let writer = {
            let both = Arc::clone(&both);
            thread::spawn(move || {
                both[0].store(7, Relaxed);
                if writers_fence {
                    fence(Release);
                }
                merge(&both[1], 3, &[1], tries);
            })
        };
        let reader = thread::spawn(move || {
            if found(&both[1])[3] == 1 {
                if readers_fence {
                    fence(Acquire);
                }
                assert_eq!(both[0].load(Relaxed), 7);
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    })
}

#[test]
fn whoever_sees_a_part_of_a_word_sees_what_came_before() {
    for tries in EVERY_WAY {
        assert!(a_record_comes_before_its_flag(tries, true, true), "{tries} tries");
        assert!(!a_record_comes_before_its_flag(tries, false, true), "the writer's fence");
        assert!(!a_record_comes_before_its_flag(tries, true, false), "the reader's fence");
    }
}
