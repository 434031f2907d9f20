//! The sequence protocol of `latest`, from the crate's own source, under every interleaving and
//! every stale read that the memory model allows.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))] // where loom's switching of stacks builds

mod model;
mod support;

use std::sync::Arc;

use loom::sync::atomic::Ordering::{Acquire, Release};

use model::{Draft, Futex, Memory, NOTHING, Omission, check, deadlocks, tears};

/// A writer that publishes while a reader reads.
#[derive(Clone, Copy)]
struct Run {
    /// The numbers published beforehand, and by the other thread.
    before: &'static [u64],
    during: &'static [u64],
    reads: usize,
    /// Whether the writer ends after that.
    ends: bool,
    writer: Omission,
    reader: Omission,
}

const RUN: Run =
    Run { before: &[1], during: &[2, 3], reads: 2, ends: false, writer: NOTHING, reader: NOTHING };
const WAIT: Run = Run { during: &[2], ..RUN };

macro_rules! model {
    ($width:ident) => {
        use super::*;
        use crate::model::$width::latest::protocol::{BELL, Geometry, News, Reader, Writer};
        use crate::model::$width::memory::{Sink, Source, Span, WORD};
        use crate::model::$width::payload;

        /// For each number to be published, a writer that has come that far.
        fn writers(geometry: Geometry, numbers: &[u64]) -> Vec<(Writer, u64)> {
            let mut nobody_reads = Draft::new(geometry.len() / WORD);
            let mut writer = Writer::new(geometry);
            let mut published = 0;
            let mut writers = Vec::new();
            for &number in numbers {
                while published < number - 1 {
                    (published, ()) = writer.publish(&mut nobody_reads, 0, |_, _| ());
                }
                writers.push((writer.clone(), number));
            }
            writers
        }

        fn publish_one(writer: &mut Writer, memory: &mut impl Sink, number: u64) {
            let value = payload(number, 2);
            let write = |memory: &mut _, span: Span| span.write(memory, 0, &value);
            assert_eq!(writer.publish(memory, value.len(), write), (number, ()));
        }

        fn publish(writers: &[(Writer, u64)], memory: &mut impl Sink) {
            for (writer, number) in writers {
                publish_one(&mut writer.clone(), memory, *number);
            }
        }

        /// What is there before, and what has changed since.
        fn drafts(
            geometry: Geometry,
            before: &[(Writer, u64)],
            during: &[(Writer, u64)],
        ) -> [Draft; 2] {
            let mut draft = Draft::new(geometry.len() / WORD);
            publish(before, &mut draft);
            let before = draft.settled();
            let mut since = before.settled();
            publish(during, &mut since);
            [before, since]
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
            let [before, since] = drafts(geometry, &before, &during);
            check(2, move || {
                let memory = Memory::new(&before, &since, 0..0);
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
                    assert!(number == 0 || value == payload(number, 2), "torn");
                }
                thread.join().unwrap();
                let mut value = Vec::new();
                let last = attempt(&mut reader, &memory, &mut value).unwrap();
                assert_eq!((last.as_ref(), value), (run.during.last(), payload(last.unwrap(), 2)));
            });
        }

        /// A reader that sleeps until each value, and until the end if there is one.
        fn wait(run: Run) {
            let geometry = Geometry::new(2, 2 * WORD as u64).unwrap();
            let (before, during) =
                (writers(geometry, run.before), Arc::new(writers(geometry, run.during)));
            let [before, since] = drafts(geometry, &before, &during);
            check(2, move || {
                let memory = Memory::new(&before, &since, 0..0);
                let (mut theirs, numbers) = (memory.side(run.writer), Arc::clone(&during));
                let futex = Arc::new(Futex::default());
                let theirs_too = Arc::clone(&futex);
                let thread = loom::thread::spawn(move || {
                    for (writer, number) in &*numbers {
                        let mut writer = writer.clone();
                        publish_one(&mut writer, &mut theirs, *number);
                        theirs_too.wake();
                        if run.ends && Some(number) == run.during.last() {
                            writer.end(&mut theirs);
                            theirs_too.wake();
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
                            futex.wait(|| Source::load(&memory, BELL) == bell);
                        }
                    }
                }
                assert_eq!(Some(&seen), run.during.last(), "missed");
                thread.join().unwrap();
            });
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
        for fence in [&[(Release, 3)], &[(Release, 4)]] {
            assert!(tears(|| run(Run { writer: fence, ..RUN })), "writer {fence:?}");
        }
        for fence in [&[(Acquire, 0)], &[(Acquire, 1)]] {
            assert!(tears(|| run(Run { reader: fence, ..RUN })), "reader {fence:?}");
        }
    }

    #[test]
    fn a_reader_that_sleeps_misses_neither_a_value_nor_the_end() {
        wait(WAIT);
        wait(Run { ends: true, ..WAIT });
    }

    #[test]
    fn the_fences_around_the_bell_are_needed() {
        assert!(deadlocks(|| wait(Run { writer: &[(Release, 2)], ..WAIT })));
        assert!(deadlocks(|| wait(Run { reader: &[(Acquire, 0)], ..WAIT })));
    }
}

mod with_32_bits {
    model!(words_of_32_bits);

    #[test]
    fn a_value_is_whole_and_never_older_than_the_one_before() {
        run(RUN);
    }

    #[test]
    fn a_reader_that_sleeps_misses_no_value() {
        wait(WAIT);
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
        assert!(tears(|| run(Run { writer: &[(Release, 11)], ..BEGUN })));
        assert!(tears(|| run(Run { reader: &[(Acquire, 5)], ..BEGUN })));
        assert!(tears(|| run(Run { writer: &[(Release, 5)], ..NEWEST })));
        assert!(tears(|| run(Run { reader: &[(Acquire, 2)], ..NEWEST })));
    }
}
