//! A writer that stops after any of its stores, for a moment or for good, leaves whole records, in
//! order, and counted: the protocols from the crate's own source, looked at after each store. What
//! processors reorder is for the models; what is left out here is only where in time a writer stands.
#![allow(dead_code, reason = "the test needs a part of the protocols")]
#![allow(unreachable_pub, reason = "the crate exports it")]
#![allow(clippy::duplicate_mod, clippy::unnecessary_cast, reason = "each time with other words")]

mod support;

use std::cell::Cell;
use std::rc::Rc;

use support::runs::rounds;

#[path = "../src"]
mod words_of_64_bits {
    pub(crate) mod word {
        pub(crate) type Word = u64;
    }
    pub(crate) mod memory;
    pub(crate) mod ring {
        pub(crate) mod protocol;
    }
    pub(crate) mod broadcast {
        pub(crate) mod protocol;
    }
}

/// A stand-in for 32 bits, whose halves change soon enough for a test.
#[path = "../src"]
mod words_of_16_bits {
    pub(crate) mod word {
        pub(crate) type Word = u16;
    }
    pub(crate) mod memory;
    pub(crate) mod ring {
        pub(crate) mod protocol;
    }
    pub(crate) mod broadcast {
        pub(crate) mod protocol;
    }
}

const CAPACITY: u64 = 512;

/// A record that tells its number, of a length that follows from it.
fn record(number: u64, longest: usize) -> Vec<u8> {
    // Some long ones, which fill a third of the area each, and short ones in between.
    let len = match number % 5 {
        0 => longest,
        1 => 100,
        2 => 0,
        _ => (number * 31 % 97) as usize,
    };
    support::salted_pattern(len.min(longest), number as usize * 13)
}

macro_rules! stops {
    ($width:ident) => {
        use super::*;
        use crate::$width::broadcast::protocol as broadcast;
        use crate::$width::memory::{Area, Sink, Source, Span};
        use crate::$width::ring::protocol as ring;
        use crate::$width::word::Word;
        use broadcast::{Failure, News, Reader, StartAt};

        const WORD: usize = size_of::<Word>();

        #[derive(Clone)]
        struct View(Rc<[Cell<Word>]>);

        impl View {
            fn of(area: &Area) -> Self {
                Self((0..area.end() / WORD).map(|_| Cell::new(0)).collect())
            }

            fn write(&self, offset: usize, bytes: &[u8], mut stored: impl FnMut()) {
                for (i, &byte) in bytes.iter().enumerate() {
                    let word = &self.0[(offset + i) / WORD];
                    let mut changed = word.get().to_ne_bytes();
                    changed[(offset + i) % WORD] = byte;
                    word.set(Word::from_ne_bytes(changed));
                    if (offset + i) % WORD == WORD - 1 || i == bytes.len() - 1 {
                        stored();
                    }
                }
            }
        }

        impl Source for View {
            fn load(&self, word: usize) -> Word {
                self.0[word].get()
            }

            fn read(&self, offset: usize, bytes: &mut [u8]) {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = self.0[(offset + i) / WORD].get().to_ne_bytes()[(offset + i) % WORD];
                }
            }

            fn acquire_fence(&self) {}
        }

        /// Calls `stopped` after each store.
        struct Stopping<F> {
            view: View,
            stopped: F,
        }

        impl<F: FnMut()> Sink for Stopping<F> {
            fn store(&mut self, word: usize, value: Word) {
                self.view.0[word].set(value);
                (self.stopped)();
            }

            fn write(&mut self, offset: usize, bytes: &[u8]) {
                let Self { view, stopped } = self;
                view.write(offset, bytes, stopped);
            }

            fn release_fence(&mut self) {}
            fn full_fence(&mut self) {}
        }

        fn copy(view: &View, span: Span) -> Vec<u8> {
            let mut bytes = Vec::new();
            span.copy_to(view, &mut bytes).unwrap();
            bytes
        }

        /// A reader of a broadcast, and the number up to which it has got or missed everything.
        #[derive(Clone)]
        struct Follower {
            reader: Reader,
            accounted: u64,
        }

        impl Follower {
            fn new(area: Area, view: &View, start: StartAt) -> Option<Self> {
                match Reader::new(area, view, start) {
                    Ok(reader) => Some(Self { accounted: reader.next_number() - 1, reader }),
                    Err(Failure::Overtaken) => None,
                    Err(other) => panic!("{other:?}"),
                }
            }

            /// Reads until there is nothing. The writer has stopped: there can be numbers in halves.
            fn catch_up(&mut self, view: &View, longest: usize) {
                loop {
                    match self.reader.next(view, |view, span| Ok(copy(view, span))) {
                        Ok(News::Record(number, bytes)) => {
                            assert_eq!(number, self.accounted + 1);
                            assert!(bytes == record(number, longest), "record {number}");
                            self.accounted = number;
                        }
                        Ok(News::Lagged(missed)) => self.accounted += missed,
                        Ok(News::Nothing { .. } | News::Ended) => return,
                        Err(Failure::Overtaken) if WORD < 8 => return,
                        Err(failure) => panic!("{failure:?} after {}", self.accounted),
                    }
                }
            }
        }

        /// Readers that have read up to some record, and will be overtaken.
        fn publish(records: u64) {
            const PLACES: [StartAt; 3] = [StartAt::Oldest, StartAt::Middle, StartAt::Now];
            const DISTANCES: [usize; 5] = [1, 2, 4, 7, 30];

            let area = Area::new(broadcast::RECORDS, CAPACITY).unwrap();
            let longest = broadcast::longest(&area);
            let (view, mut writer) = (View::of(&area), broadcast::Writer::new(area));
            let mut behind: Vec<Vec<Follower>> = Vec::new();
            for number in 1..=records {
                let bytes = record(number, longest);
                let mut stopped_at: Vec<Follower> = Vec::new();
                let stopped = || {
                    let mut followers: Vec<_> = PLACES
                        .iter()
                        .filter_map(|&start| Follower::new(area, &view, start))
                        .collect();
                    assert!(followers.len() == PLACES.len() || WORD < 8, "opening");
                    for distance in DISTANCES {
                        let there = behind.len().checked_sub(distance);
                        followers.extend(there.iter().flat_map(|&at| behind[at].clone()));
                    }
                    for mut follower in followers {
                        follower.catch_up(&view, longest);
                        assert!(follower.accounted <= number);
                        stopped_at.push(follower);
                    }
                };
                let mut memory = Stopping { view: view.clone(), stopped };
                let room = writer.room(bytes.len()).unwrap();
                let write = |memory: &mut _, span: Span| span.write(memory, 0, &bytes);
                assert_eq!(writer.publish(&mut memory, room, write), (number, ()));
                // The writer goes on, and so does whoever looked meanwhile.
                for follower in &mut stopped_at {
                    follower.catch_up(&view, longest);
                    assert_eq!(follower.accounted, number);
                }
                let now = PLACES.map(|place| {
                    let mut follower = Follower::new(area, &view, StartAt::Now).unwrap();
                    follower.reader.set_after_lag(place);
                    follower
                });
                behind.push(now.into());
            }
            assert!(area.capacity < 1 << 15 && records >= 60);
        }

        #[test]
        fn a_publisher_that_stops_anywhere_leaves_whole_records_and_counts() {
            publish(rounds(60, 2000) as u64);
        }

        /// Receives everything that has been published, and checks that it is what follows.
        fn receive(receiver: &mut ring::Receiver, view: &View, next: &mut u64, longest: usize) {
            struct Nowhere;
            impl Sink for Nowhere {
                fn store(&mut self, _: usize, _: Word) {}
                fn write(&mut self, _: usize, _: &[u8]) {}
                fn release_fence(&mut self) {}
                fn full_fence(&mut self) {}
            }
            while let Some(found) = receiver.next(view).unwrap() {
                let bytes = copy(view, found.payload);
                assert!(bytes == record(*next, longest), "record {next}");
                *next += 1;
                receiver.release(&mut Nowhere, view, found);
            }
        }

        #[test]
        fn a_sender_that_stops_anywhere_leaves_whole_records_in_order() {
            let area = Area::new(ring::RECORDS, CAPACITY).unwrap();
            let longest = ring::longest(&area);
            let (ours, theirs) = (View::of(&area), View::of(&area));
            let (mut sender, mut receiver) = (ring::Sender::new(area), ring::Receiver::new(area));
            let (mut received, mut waited) = (1, 0);
            for number in 1..=rounds(600, 20_000) as u64 {
                let bytes = record(number, longest);
                let room = loop {
                    if let Some(room) = sender.room(&theirs, bytes.len()).unwrap() {
                        break room;
                    }
                    waited += 1;
                    let mut ours_now = Stopping { view: ours.clone(), stopped: || {} };
                    sender.publish(&mut ours_now);
                    let found = receiver.next(&ours).unwrap().unwrap();
                    assert!(copy(&ours, found.payload) == record(received, longest));
                    received += 1;
                    let mut theirs_now = Stopping { view: theirs.clone(), stopped: || {} };
                    receiver.release(&mut theirs_now, &ours, found);
                };
                let stopped = || {
                    let mut next = received;
                    receive(&mut receiver.clone(), &ours, &mut next, longest);
                    assert!(next <= number + 1);
                };
                let mut memory = Stopping { view: ours.clone(), stopped };
                room.payload.write(&mut memory, 0, &bytes);
                sender.complete(&mut memory, room);
                if number % 3 == 0 {
                    sender.publish(&mut memory);
                    let mut next = received;
                    receive(&mut receiver.clone(), &ours, &mut next, longest);
                    assert_eq!(next, number + 1);
                }
            }
            assert!(waited > 100, "the ring has been full {waited} times");
        }
    };
}

mod with_64_bits {
    stops!(words_of_64_bits);
}

mod with_16_bits {
    stops!(words_of_16_bits);
}
