//! The protocol of `broadcast`, from the crate's own source, under every interleaving and every stale read
//! that the memory model allows.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))] // where loom's switching of stacks builds

mod model;
mod support;

use std::sync::Arc;

use loom::sync::atomic::Ordering::{Acquire, Release};

use model::{Draft, Futex, Memory, NOTHING, Omission, check, deadlocks, failure};

/// A writer that publishes while a reader reads.
#[derive(Clone, Copy)]
struct Run {
    /// Bytes of a record in the area, which has 512.
    size: usize,
    /// How many are published before the reader begins, before it reads, and by the other thread.
    old: u64,
    before: u64,
    during: u64,
    /// Whether the reader begins while the other thread publishes, with what comes next.
    begins_late: bool,
    /// How often it tries to read meanwhile.
    reads: usize,
    /// Whether it goes on with the oldest after a lag, or in the middle.
    oldest: bool,
    interruptions: usize,
    writer: Omission,
    reader: Omission,
}

/// The first record is overwritten while it is read.
const OVERTAKEN: Run = Run {
    size: 128,
    old: 0,
    before: 4,
    during: 1,
    begins_late: false,
    reads: 1,
    oldest: false,
    interruptions: 2,
    writer: NOTHING,
    reader: NOTHING,
};
/// A record is read as soon as it is there.
const FRESH: Run = Run { before: 0, ..OVERTAKEN };
/// The reader has been overtaken, and the place where it goes on is overwritten.
const LAGGED: Run = Run { before: 6, oldest: true, ..OVERTAKEN };
/// The reader has been overtaken, and goes on with the record that is being written: the last half of the
/// capacity has the beginning of no other.
const LONG: Run = Run { size: 144, before: 36, ..OVERTAKEN };
/// The reader finds the place of the record that comes next.
const LATE: Run = Run { begins_late: true, reads: 0, ..FRESH };
const WAIT: Run = FRESH;

/// Whether the model finds that an honest reader and an honest writer do not agree.
fn fails(run: impl FnOnce()) -> bool {
    let message = failure(run).unwrap_or_default();
    ["torn", "miscounted", "Broken"].iter().any(|found| message.contains(found))
}

macro_rules! model {
    ($width:ident) => {
        use super::*;
        use crate::model::$width::broadcast::protocol::{
            BELL, News, RECORDS, Reader, StartAt, Writer,
        };
        use crate::model::$width::memory::{Area, Sink, Source, Span, WORD};
        use crate::model::$width::payload;

        /// Bytes of a record before its payload.
        const HEAD: usize = WORD + size_of::<u64>();

        /// The payload's first word and its last tell the number.
        fn publish(writer: &mut Writer, memory: &mut impl Sink, len: usize) {
            let room = writer.room(len).unwrap();
            let value = payload(writer.last() + 1, 1);
            writer.publish(memory, room, |memory, span| {
                span.write(memory, 0, &value);
                span.write(memory, len - WORD, &value);
            });
        }

        /// What a reader has been told, and how far it has come.
        struct Count {
            reader: Reader,
            len: usize,
            /// The last record that was read or missed.
            last: u64,
            /// Whether the writer has come to its end, so that nothing is overtaken any longer.
            is_alone: bool,
        }

        impl Count {
            /// Returns the bell if there is nothing, and `None` at the end.
            fn step(&mut self, memory: &impl Source) -> Option<Result<(), usize>> {
                match self.reader.look(memory) {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(bell) => return Some(Err(bell as usize)),
                }
                let len = self.len;
                let mut read = [0; 2 * WORD];
                let news = self.reader.attempt(memory, |memory, span: Span| {
                    if span.len == len {
                        span.read(memory, 0, &mut read[..WORD]);
                        span.read(memory, len - WORD, &mut read[WORD..]);
                    }
                    Ok(())
                });
                match news.unwrap_or_else(|failure| panic!("{failure:?}")) {
                    Some(News::Record(number, ())) => {
                        assert_eq!(number, self.last + 1, "miscounted");
                        assert!(read[..] == payload(number, 2), "torn");
                        self.last = number;
                    }
                    Some(News::Lagged(missed)) => {
                        self.last += missed;
                        assert_eq!(self.reader.next_number(), self.last + 1);
                    }
                    Some(other) => panic!("{other:?}"),
                    None => assert!(!self.is_alone, "miscounted"),
                }
                Some(Ok(()))
            }
        }

        fn run(run: Run) {
            let area = Area::new(RECORDS, 512).unwrap();
            let len = run.size - HEAD;
            let mut draft = Draft::new(area.end() / WORD);
            let mut writer = Writer::new(area);
            for _ in 0..run.old {
                publish(&mut writer, &mut draft, len);
            }
            let old = draft.clone();
            for _ in 0..run.before {
                publish(&mut writer, &mut draft, len);
            }
            let (before, mut since) = (draft.settled(), draft.settled());
            let mut finished = writer.clone();
            for _ in 0..run.during {
                publish(&mut finished, &mut since, len);
            }
            finished.end(&mut since);
            let all = finished.last();

            check(run.interruptions, move || {
                let memory = Memory::new(&before, &since, 0..0);
                let thread = {
                    let mut memory = memory.side(run.writer);
                    let mut writer = writer.clone();
                    loom::thread::spawn(move || {
                        for _ in 0..run.during {
                            publish(&mut writer, &mut memory, len);
                        }
                        writer.end(&mut memory);
                    })
                };
                let mut memory = memory.side(run.reader);
                if run.begins_late {
                    memory.patience = 2; // of a reader that tries a hundred times
                }
                let reader = match run.begins_late {
                    true => Reader::new(area, &memory, StartAt::Now),
                    false => Reader::new(area, &old, StartAt::Now),
                };
                let mut reader = reader.unwrap();
                if run.oldest {
                    reader.set_after_lag(StartAt::Oldest);
                }
                let last = reader.next_number() - 1;
                let mut count = Count { reader, len, last, is_alone: false };
                for _ in 0..run.reads {
                    if count.step(&memory).is_none() {
                        break;
                    }
                }
                thread.join().unwrap();
                count.is_alone = true;
                while let Some(news) = count.step(&memory) {
                    assert_eq!(news, Ok(()), "lost");
                }
                assert_eq!(count.last, all, "miscounted");
            });
        }

        /// A reader that sleeps until each record and the end.
        fn wait(run: Run) {
            let area = Area::new(RECORDS, 512).unwrap();
            let len = run.size - HEAD;
            let (before, mut since) =
                (Draft::new(area.end() / WORD), Draft::new(area.end() / WORD));
            let mut finished = Writer::new(area);
            publish(&mut finished, &mut since, len);
            finished.end(&mut since);
            check(run.interruptions, move || {
                let memory = Memory::new(&before, &since, 0..0);
                let futex = Arc::new(Futex::default());
                let thread = {
                    let (mut memory, futex) = (memory.side(run.writer), Arc::clone(&futex));
                    let mut writer = Writer::new(area);
                    loom::thread::spawn(move || {
                        publish(&mut writer, &mut memory, len);
                        futex.wake();
                        writer.end(&mut memory);
                        futex.wake();
                    })
                };
                let memory = memory.side(run.reader);
                let reader = Reader::new(area, &before, StartAt::Now).unwrap();
                let mut count = Count { reader, len, last: 0, is_alone: false };
                while let Some(news) = count.step(&memory) {
                    if let Err(bell) = news {
                        futex.wait(|| Source::load(&memory, BELL) as usize == bell);
                    }
                }
                assert_eq!(count.last, 1, "missed");
                thread.join().unwrap();
            });
        }
    };
}

mod with_64_bits {
    model!(words_of_64_bits);

    #[test]
    fn a_record_is_whole_or_missed_and_every_one_is_counted() {
        run(FRESH);
        run(OVERTAKEN);
        if support::runs::in_full() {
            run(Run { reads: 2, during: 2, ..OVERTAKEN });
        }
    }

    #[test]
    fn who_lags_goes_on_with_a_record_and_its_number() {
        run(LAGGED);
        run(LONG);
    }

    #[test]
    fn who_begins_late_begins_with_a_record_and_its_number() {
        run(LATE);
        run(Run { reads: 1, ..LATE });
    }

    #[test]
    fn the_fences_around_a_record_are_needed() {
        // An entry of the index is stored between these two; where there is none, there is only the first.
        let claim = &[(Release, 0), (Release, 1)];
        assert!(fails(|| run(Run { writer: claim, ..OVERTAKEN })), "after CLAIMED");
        assert!(fails(|| run(Run { reader: &[(Acquire, 2)], ..OVERTAKEN })), "before it is loaded");
        // NEXT is stored between these two; either keeps what is before TAIL there.
        assert!(fails(|| run(Run { writer: &[(Release, 2), (Release, 3)], ..FRESH })), "TAIL");
        assert!(fails(|| run(Run { reader: &[(Acquire, 1)], ..FRESH })), "after it is loaded");
    }

    #[test]
    fn the_fences_around_an_entry_are_needed() {
        assert!(fails(|| run(Run { writer: &[(Release, 1)], ..LONG })), "before the position");
        assert!(fails(|| run(Run { reader: &[(Acquire, 18)], ..LONG })), "after it is loaded");
        assert!(fails(|| run(Run { writer: &[(Release, 0)], ..LAGGED })), "after CLAIMED");
        assert!(fails(|| run(Run { reader: &[(Acquire, 5)], ..LAGGED })), "before it is loaded");
    }

    #[test]
    fn the_fences_around_the_end_of_the_last_record_are_needed() {
        // Adjacent fences: either is enough.
        assert!(fails(|| run(Run { writer: &[(Release, 2), (Release, 3)], ..LATE })), "NEXT, TAIL");
        assert!(fails(|| run(Run { writer: &[(Release, 4)], ..LATE })), "TAIL, LAST");
        assert!(fails(|| run(Run { reader: &[(Acquire, 0)], ..LATE })), "LAST, TAIL");
        assert!(fails(|| run(Run { reader: &[(Acquire, 1), (Acquire, 2)], ..LATE })), "TAIL, NEXT");
    }

    #[test]
    fn a_reader_that_sleeps_misses_neither_a_record_nor_the_end() {
        wait(WAIT);
    }

    #[test]
    fn the_fences_around_the_bell_are_needed() {
        // LAST is stored between these two; either keeps TAIL before BELL.
        assert!(deadlocks(|| wait(Run { writer: &[(Release, 8), (Release, 9)], ..WAIT })));
        assert!(deadlocks(|| wait(Run { reader: &[(Acquire, 0)], ..WAIT })));
    }
}

mod with_32_bits {
    model!(words_of_32_bits);

    #[test]
    fn a_record_is_whole_or_missed_and_every_one_is_counted() {
        run(OVERTAKEN);
    }

    #[test]
    fn a_reader_that_sleeps_misses_neither_a_record_nor_the_end() {
        wait(WAIT);
    }
}

/// Where a number is several words, a reader may take halves of different numbers for one.
mod with_16_bits {
    model!(words_of_16_bits);

    /// After so many records, the lowest word of the position comes round with the next.
    const ROUND: u64 = (1 << 16) / 128 - 1;

    #[test]
    fn positions_that_come_round_in_part_are_not_mistaken() {
        run(Run { old: ROUND, interruptions: 1, ..FRESH });
        if support::runs::in_full() {
            run(Run { old: ROUND - 4, ..OVERTAKEN });
        }
    }

    #[test]
    fn numbers_that_come_round_in_part_are_not_mistaken() {
        run(Run { size: 32, old: (1 << 16) - 1, interruptions: 0, ..LATE });
    }

    #[test]
    fn a_reader_that_sleeps_misses_neither_a_record_nor_the_end() {
        wait(Run { interruptions: 1, ..WAIT });
    }

    #[test]
    fn the_fences_within_a_number_are_needed() {
        let tail = Run { old: ROUND, ..FRESH };
        assert!(fails(|| run(Run { writer: &[(Release, 13)], ..tail })), "halves of TAIL");
        assert!(fails(|| run(Run { reader: &[(Acquire, 3)], ..tail })), "as they are loaded");
    }
}
