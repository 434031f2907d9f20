//! The protocols of `ring` and of the doorbell, from the crate's own source, under every interleaving and
//! every stale read that the memory model allows.
//!
//! The records are checked as plain memory would be: each side owns what it accesses. That is more than the
//! words that are atomic need, and it shows that the fences around `TAIL` are needed, which keep a record
//! from being overwritten before it is read: loom has no load that returns what is stored only later.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))] // where loom's switching of stacks builds

mod model;
mod support;

use std::sync::Arc;

use loom::sync::atomic::Ordering::{Acquire, Release, SeqCst};

use model::{Bell, Draft, Memory, NOTHING, Omission, check, deadlocks, races};

/// A sender that sends, drains and ends, while a receiver receives.
#[derive(Clone, Copy)]
struct Run {
    /// Bytes of a record in the ring, of 128.
    size: usize,
    /// How many are received beforehand, wait in the ring, and are sent by the other thread.
    received: u64,
    waiting: u64,
    sent: u64,
    /// Records that are sent with one flush.
    batch: u64,
    drains: bool,
    /// How often the receiver has slept before.
    sleeps: usize,
    /// How many the receiver takes before it leaves.
    taken: u64,
    sender: Omission,
    receiver: Omission,
}

/// The ring holds two records, and the third goes on at its beginning.
const RUN: Run = Run {
    size: 48,
    received: 0,
    waiting: 1,
    sent: 2,
    batch: 1,
    drains: false,
    sleeps: 0,
    taken: u64::MAX,
    sender: NOTHING,
    receiver: NOTHING,
};
/// The receiver sleeps while the ring is empty, the sender until the record is received.
const EMPTY: Run = Run { waiting: 0, sent: 1, drains: true, ..RUN };
/// The sender sleeps while the ring is full: it has room for one record.
const FULL: Run = Run { size: 96, sent: 1, ..RUN };

macro_rules! model {
    ($width:ident) => {
        use super::*;
        use crate::model::$width::bell::protocol::{Ringer, Sleeper};
        use crate::model::$width::memory::{Area, Sink, WORD};
        use crate::model::$width::ring::protocol::{RECORDS, Receiver, Room, Sender};
        use crate::model::$width::{payload, sleep_until};

        fn fill(sender: &mut Sender, memory: &mut impl Sink, room: Room, number: u64) {
            room.payload.write(memory, 0, &payload(number, room.payload.len / WORD));
            sender.complete(memory, room);
        }

        /// Both sides in one thread, which get ahead by no more than the ring holds.
        #[derive(Clone)]
        struct Both {
            sender: Sender,
            receiver: Receiver,
            sent: u64,
            senders: Draft,
            receivers: Draft,
        }

        impl Both {
            fn new(area: Area) -> Self {
                Self {
                    sender: Sender::new(area),
                    receiver: Receiver::new(area),
                    sent: 0,
                    senders: Draft::new(area.end() / WORD),
                    receivers: Draft::new(RECORDS / WORD),
                }
            }

            fn send(&mut self, len: usize) {
                let room = self.sender.room(&self.receivers, len).unwrap().unwrap();
                fill(&mut self.sender, &mut self.senders, room, self.sent);
                self.sender.publish(&mut self.senders);
                self.sent += 1;
            }

            fn receive(&mut self) {
                let found = self.receiver.next(&self.senders).unwrap().unwrap();
                self.receiver.release(&mut self.receivers, &self.senders, found);
            }
        }

        fn run(run: Run) {
            let area = Area::new(RECORDS, 128).unwrap();
            let len = run.size - WORD;
            let mut before = Both::new(area);
            for _ in 0..run.received {
                before.send(len);
                before.receive();
            }
            for _ in 0..run.waiting {
                before.send(len);
            }
            (before.senders, before.receivers) =
                (before.senders.settled(), before.receivers.settled());

            let mut since = before.clone();
            for _ in 0..run.waiting {
                since.receive();
            }
            for _ in 0..run.sent {
                since.send(len);
                since.receive();
            }
            for memory in [&mut since.senders, &mut since.receivers] {
                Sleeper::default().lie_down(memory);
            }
            let (mut sleeper, mut draft) = (Sleeper::default(), before.receivers.clone());
            for _ in 0..run.sleeps {
                sleeper.lie_down(&mut draft);
            }
            since.sender.end(&mut since.senders);
            since.receiver.end(&mut since.receivers);

            let records = RECORDS / WORD..area.end() / WORD;
            check(2, move || {
                let senders = Memory::new(&before.senders, &since.senders, records.clone());
                let receivers = Memory::new(&before.receivers, &since.receivers, 0..0);
                let bells = Arc::new([Bell::default(), Bell::default()]);
                let thread = {
                    let mut side = SenderSide {
                        ring: before.sender.clone(),
                        ours: senders.side(run.sender),
                        theirs: receivers.side(run.sender),
                        sleeper: Sleeper::default(),
                        ringer: Ringer::default(),
                        bells: Arc::clone(&bells),
                    };
                    let numbers = before.sent..before.sent + run.sent;
                    loom::thread::spawn(move || side.run(run, len, numbers))
                };
                let mut side = ReceiverSide {
                    ring: before.receiver.clone(),
                    ours: receivers.side(run.receiver),
                    theirs: senders.side(run.receiver),
                    sleeper: sleeper.clone(),
                    ringer: Ringer::default(),
                    bells,
                };
                let numbers = run.received..before.sent + run.sent;
                let rest = side.run(run.taken, len, numbers);
                let is_told = thread.join().unwrap();
                if run.taken == u64::MAX {
                    assert_eq!((rest, is_told), (0, true), "lost");
                }
            });
        }

        struct SenderSide {
            ring: Sender,
            ours: Memory,
            theirs: Memory,
            sleeper: Sleeper,
            ringer: Ringer,
            bells: Arc<[Bell; 2]>,
        }

        impl SenderSide {
            /// Returns whether all records were received, or sent, as far as it waits for that.
            fn run(&mut self, run: Run, len: usize, numbers: std::ops::Range<u64>) -> bool {
                let done = self.send(run, len, numbers);
                self.ring.end(&mut self.ours);
                self.wake();
                done
            }

            fn send(&mut self, run: Run, len: usize, numbers: std::ops::Range<u64>) -> bool {
                for number in numbers.clone() {
                    let room = match self.ring.room(&self.theirs, len).unwrap() {
                        Some(room) => room,
                        None => match self.wait_for_room(len) {
                            Some(room) => room,
                            None => return false,
                        },
                    };
                    fill(&mut self.ring, &mut self.ours, room, number);
                    if (number - numbers.start + 1) % run.batch == 0 {
                        self.flush();
                    }
                }
                self.flush();
                !run.drains || self.drain()
            }

            fn wait_for_room(&mut self, len: usize) -> Option<Room> {
                self.flush();
                let Self { ring, ours, theirs, sleeper, bells, .. } = self;
                sleep_until(sleeper, ours, &bells[0], || match ring.room(theirs, len).unwrap() {
                    None if !ring.receiver_has_ended() => None,
                    done => Some(done),
                })
            }

            fn drain(&mut self) -> bool {
                let Self { ring, ours, theirs, sleeper, bells, .. } = self;
                let mut look = || match ring.is_drained(theirs).unwrap() {
                    false if !ring.receiver_has_ended() => None,
                    done => Some(done),
                };
                look().unwrap_or_else(|| sleep_until(sleeper, ours, &bells[0], look))
            }

            fn flush(&mut self) {
                if self.ring.publish(&mut self.ours) {
                    self.wake();
                }
            }

            fn wake(&mut self) {
                if self.ringer.is_due(&self.theirs) {
                    self.bells[1].ring();
                }
            }
        }

        struct ReceiverSide {
            ring: Receiver,
            ours: Memory,
            theirs: Memory,
            sleeper: Sleeper,
            ringer: Ringer,
            bells: Arc<[Bell; 2]>,
        }

        impl ReceiverSide {
            /// Returns how many records did not come before the end.
            fn run(&mut self, taken: u64, len: usize, mut numbers: std::ops::Range<u64>) -> usize {
                let mut record = Vec::new();
                for _ in 0..taken {
                    let Some(found) = self.ring.next(&self.theirs).unwrap().or_else(|| self.wait())
                    else {
                        break;
                    };
                    found.payload.copy_to(&self.theirs, &mut record).unwrap();
                    let number = numbers.next().expect("more than were sent");
                    assert_eq!(record, payload(number, len / WORD), "not the next one");
                    let is_told = self.ring.release(&mut self.ours, &self.theirs, found);
                    if is_told && self.ring.is_half_free() {
                        self.wake();
                    }
                }
                self.ring.end(&mut self.ours);
                self.wake();
                numbers.count()
            }

            fn wait(&mut self) -> Option<crate::model::$width::ring::protocol::Found> {
                let Self { ring, ours, theirs, sleeper, bells, .. } = self;
                if ring.has_ended() {
                    return None;
                }
                sleep_until(sleeper, ours, &bells[1], || match ring.next(theirs).unwrap() {
                    None if !ring.has_ended() => None,
                    done => Some(done),
                })
            }

            fn wake(&mut self) {
                if self.ringer.is_due(&self.theirs) {
                    self.bells[0].ring();
                }
            }
        }
    };
}

mod with_64_bits {
    model!(words_of_64_bits);

    #[test]
    fn records_arrive_whole_and_in_order_while_room_is_reused() {
        run(RUN);
        run(Run { waiting: 0, batch: 2, sent: 2, ..RUN });
        if support::runs::in_full() {
            run(Run { waiting: 0, sent: 3, ..RUN });
        }
    }

    #[test]
    fn nobody_sleeps_for_ever() {
        run(EMPTY);
        run(FULL);
        run(Run { drains: true, ..FULL });
    }

    #[test]
    fn a_receiver_that_leaves_wakes_the_sender() {
        run(Run { taken: 0, ..FULL });
        run(Run { taken: 0, ..EMPTY });
    }

    #[test]
    fn the_fences_around_the_cursors_are_needed() {
        assert!(races(|| run(Run { sender: &[(Release, 0)], ..EMPTY })), "before HEAD is stored");
        assert!(races(|| run(Run { receiver: &[(Acquire, 0)], ..EMPTY })), "after it is loaded");
        assert!(races(|| run(Run { receiver: &[(Release, 0)], ..FULL })), "before TAIL is stored");
        assert!(races(|| run(Run { sender: &[(Acquire, 0)], ..FULL })), "after it is loaded");
    }

    #[test]
    fn the_fences_of_who_sleeps_and_who_rings_are_needed() {
        assert!(deadlocks(|| run(Run { sender: &[(SeqCst, 0)], ..EMPTY })), "the record");
        assert!(deadlocks(|| run(Run { receiver: &[(SeqCst, 0)], ..EMPTY })), "its sleeper");
        assert!(deadlocks(|| run(Run { receiver: &[(SeqCst, 0)], ..FULL })), "the room");
        assert!(deadlocks(|| run(Run { sender: &[(SeqCst, 0)], ..FULL })), "its sleeper");
        assert!(deadlocks(|| run(Run { sender: &[(SeqCst, 1)], ..EMPTY })), "who drains");
        let ends = Run { sent: 0, ..EMPTY };
        assert!(deadlocks(|| run(Run { sender: &[(SeqCst, 0)], ..ends })), "the sender's end");
        let leaves = Run { taken: 0, ..FULL };
        assert!(deadlocks(|| run(Run { receiver: &[(SeqCst, 0)], ..leaves })), "the receiver's");
    }
}

mod with_32_bits {
    model!(words_of_32_bits);

    #[test]
    fn records_arrive_whole_and_in_order_while_room_is_reused() {
        run(RUN);
    }
}

/// A cursor is the lowest word of a position.
mod with_16_bits {
    model!(words_of_16_bits);

    /// So many records, and the positions come round with the next two.
    const ROUND: u64 = (1 << 16) / 48;

    #[test]
    fn cursors_that_come_round_are_not_mistaken() {
        run(Run { received: ROUND - 1, ..RUN });
        run(Run { received: ROUND - 1, waiting: 2, sent: 1, drains: true, ..RUN });
    }

    #[test]
    fn a_ticket_that_comes_round_wakes() {
        run(Run { sleeps: u16::MAX.into(), ..EMPTY });
        run(Run { sleeps: usize::from(u16::MAX) - 1, ..EMPTY });
    }
}
