//! The layout of the two files, and the order in which words are written and read: a queue with one
//! writer for each piece of memory.
//!
//! ```text
//! the sender's file                           the receiver's file
//! byte 0     header, with the capacity        byte 0     header
//! byte 128   HEAD: where writing ends         byte 128   TAIL: where reading has come to
//! byte 256   ASLEEP (`bell/protocol.rs`)      byte 256   ASLEEP
//! byte 384   the records
//! ```
//!
//! The sender writes the one file, the receiver the other, and neither can write both. A record is a word
//! with the length of its payload, and the payload, which goes on at the beginning of the area where the
//! area ends. Each record begins at a word. A payload of 256 bytes or more begins at a cache line.
//!
//! Positions count bytes from the first record on, in 64 bits, and never come round. `HEAD` and `TAIL` are
//! the lowest word of such a position. The other side knows the position that it read last, and that the
//! new one is not beyond it by more than the capacity, which is less than half of what a word counts. So
//! the word gives the whole position. The lowest bit, which no position has, tells the end.
//!
//! # Order
//!
//! The sender writes records, executes a release fence, and stores `HEAD`. The receiver loads `HEAD`,
//! executes an acquire fence, and reads the records: it reads what was written. The receiver has read
//! records, executes a release fence, and stores `TAIL`. The sender loads `TAIL`, executes an acquire
//! fence, and writes to where those records were: the receiver has read what was there before.
//!
//! # What is believed
//!
//! Nothing that would lead out of the area or into a loop. `HEAD` must not go back, nor be beyond the last
//! `TAIL` by more than the capacity; `TAIL` must not go back, nor be beyond the last `HEAD`; a record must
//! end at or before `HEAD`. All of them are multiples of a word. A length is loaded once. Whatever breaks
//! a rule is [`Broken`]: only a peer that keeps to no protocol does that. A payload can be any bytes, and
//! can change while it is copied.

use std::io;

use super::super::memory::{Area, HEADER, LINE, Sink, Source, Span, WORD, from_header, header};
use super::super::word::Word;

/// `HEAD` in the sender's file, `TAIL` in the receiver's.
pub(crate) const CURSOR: usize = LINE / WORD;
/// Where the records begin in the sender's file, in bytes. The receiver's file ends here.
pub(crate) const RECORDS: usize = 3 * LINE;

const SENDER: &[u8; 8] = b"ring->!\n";
const RECEIVER: &[u8; 8] = b"ring<-!\n";

/// The bit of a cursor that tells the end.
const ENDED: Word = 1;

pub(crate) fn sender_header(area: &Area) -> [u8; HEADER] {
    header(SENDER, [area.capacity as u64, 0])
}

pub(crate) fn sender_area(header: &[u8; HEADER], len: usize) -> Result<Area, String> {
    let [capacity, _] = from_header(header, SENDER, "a sender")?;
    Area::in_file(RECORDS, capacity, len)
}

pub(crate) fn receiver_header() -> [u8; HEADER] {
    header(RECEIVER, [0, 0])
}

pub(crate) fn check_receiver(header: &[u8; HEADER]) -> Result<(), String> {
    from_header(header, RECEIVER, "a receiver").map(|_| ())
}

/// The longest record that fits wherever it begins.
pub(crate) fn longest(area: &Area) -> usize {
    area.capacity - LINE
}

/// What the peer has done that it must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl From<Broken> for io::Error {
    fn from(Broken(what): Broken) -> Self {
        Self::new(io::ErrorKind::InvalidData, what)
    }
}

/// A cursor as it is stored: the lowest word of a position.
fn cursor(position: u64, ended: bool) -> Word {
    position as Word | if ended { ENDED } else { 0 }
}

/// How far the cursor is beyond `from`, and whether it tells the end.
fn distance(cursor: Word, from: u64) -> (u64, bool) {
    #[allow(clippy::unnecessary_cast, reason = "the model checks other words too")]
    let distance = (cursor & !ENDED).wrapping_sub(from as Word) as u64;
    (distance, cursor & ENDED != 0)
}

/// Where to write a record, and how much of the area it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) payload: Span,
    size: usize,
}

/// The side that writes records.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    area: Area,
    /// Where writing has come to, as a position and from the start of the area on.
    head: u64,
    offset: usize,
    /// What the receiver knows of `head`.
    published: u64,
    /// What this side knows of the receiver.
    tail: u64,
    receiver_has_ended: bool,
}

impl Sender {
    /// For memory that is zero but for the header.
    pub(crate) fn new(area: Area) -> Self {
        Self { area, head: 0, offset: 0, published: 0, tail: 0, receiver_has_ended: false }
    }

    pub(crate) fn area(&self) -> &Area {
        &self.area
    }

    /// Whether the receiver has said that it reads no more.
    pub(crate) fn receiver_has_ended(&self) -> bool {
        self.receiver_has_ended
    }

    /// Room for a record of `len` bytes, which is not more than the longest. `None` while the ring is too full.
    #[inline]
    pub(crate) fn room(
        &mut self,
        theirs: &impl Source,
        len: usize,
    ) -> Result<Option<Room>, Broken> {
        let Some((payload, size)) = self.area.record(self.offset, WORD, len) else {
            return Ok(None);
        };
        if self.free() < size {
            self.look(theirs)?;
        }
        Ok((self.free() >= size).then_some(Room { payload, size }))
    }

    #[inline]
    fn free(&self) -> usize {
        self.area.capacity - (self.head - self.tail) as usize
    }

    /// Learns how far the receiver has come.
    fn look(&mut self, theirs: &impl Source) -> Result<(), Broken> {
        let tail = theirs.load(CURSOR);
        theirs.acquire_fence();
        let (distance, ended) = distance(tail, self.tail);
        if distance > self.published - self.tail || distance % WORD as u64 != 0 {
            return Err(Broken("the receiver claims to have read what was not sent"));
        }
        self.tail += distance;
        self.receiver_has_ended |= ended;
        Ok(())
    }

    /// Whether the receiver has read everything that was published.
    pub(crate) fn is_drained(&mut self, theirs: &impl Source) -> Result<bool, Broken> {
        self.look(theirs)?;
        Ok(self.tail == self.published)
    }

    /// Completes the record whose payload has been written. Nobody sees it yet.
    #[inline]
    pub(crate) fn complete(&mut self, ours: &mut impl Sink, room: Room) {
        ours.store(self.area.word(self.offset), room.payload.len as Word);
        self.head += room.size as u64;
        self.offset = self.area.after(self.offset, room.size);
    }

    /// Publishes what has been completed, if anything has. The receiver may have to be woken then.
    #[inline]
    pub(crate) fn publish(&mut self, ours: &mut impl Sink) -> bool {
        let is_new = self.published != self.head;
        if is_new {
            self.tell(ours, false);
        }
        is_new
    }

    /// Publishes what has been completed, and says that nothing more will come.
    pub(crate) fn end(&mut self, ours: &mut impl Sink) {
        self.tell(ours, true);
    }

    #[inline]
    fn tell(&mut self, ours: &mut impl Sink, ended: bool) {
        self.published = self.head;
        ours.release_fence();
        ours.store(CURSOR, cursor(self.head, ended));
        ours.full_fence();
    }
}

/// A record that has not been released yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) payload: Span,
    size: usize,
}

/// The side that reads records.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    area: Area,
    /// Where reading has come to, as a position and from the start of the area on.
    position: u64,
    offset: usize,
    /// What the sender knows of `position`.
    released: u64,
    /// What this side knows of the sender.
    head: u64,
    sender_has_ended: bool,
}

impl Receiver {
    /// For memory that is zero but for the header.
    pub(crate) fn new(area: Area) -> Self {
        Self { area, position: 0, offset: 0, released: 0, head: 0, sender_has_ended: false }
    }

    pub(crate) fn area(&self) -> &Area {
        &self.area
    }

    /// Whether everything has been read, and nothing more will come.
    pub(crate) fn has_ended(&self) -> bool {
        self.sender_has_ended && self.position == self.head
    }

    /// The next record, if there is one.
    #[inline]
    pub(crate) fn next(&mut self, theirs: &impl Source) -> Result<Option<Found>, Broken> {
        if self.position == self.head {
            self.look(theirs)?;
            if self.position == self.head {
                return Ok(None);
            }
        }
        #[allow(clippy::unnecessary_cast, reason = "the model checks other words too")]
        let len = theirs.load(self.area.word(self.offset)) as usize;
        let record = self.area.record(self.offset, WORD, len);
        match record.filter(|(_, size)| *size as u64 <= self.head - self.position) {
            Some((payload, size)) => Ok(Some(Found { payload, size })),
            None => Err(Broken("the sender claims that a record is longer than all that it sent")),
        }
    }

    /// Learns how far the sender has come.
    fn look(&mut self, theirs: &impl Source) -> Result<(), Broken> {
        if self.sender_has_ended {
            return Ok(());
        }
        let head = theirs.load(CURSOR);
        theirs.acquire_fence();
        let (distance, ended) = distance(head, self.released);
        if distance < self.head - self.released {
            return Err(Broken("the sender takes back what it has sent"));
        }
        if distance > self.area.capacity as u64 || distance % WORD as u64 != 0 {
            return Err(Broken("the sender claims to have sent more than there is room for"));
        }
        self.head = self.released + distance;
        self.sender_has_ended = ended;
        Ok(())
    }

    /// Gives the record's room back, now or with a later one: every eighth of the capacity, and when
    /// nothing is left to read. Says whether the sender has been told, and may have to be woken.
    #[inline]
    pub(crate) fn release(
        &mut self,
        ours: &mut impl Sink,
        theirs: &impl Source,
        found: Found,
    ) -> bool {
        self.position += found.size as u64;
        self.offset = self.area.after(self.offset, found.size);
        if self.position == self.head {
            // The record was sent, whatever is wrong with what comes after it. `next` will look again.
            let _ = self.look(theirs);
        }
        let is_time = (self.position - self.released) as usize >= self.area.capacity / 8;
        if is_time || self.position == self.head {
            self.tell(ours, false);
        }
        self.released == self.position
    }

    /// Says that this side reads no more.
    pub(crate) fn end(&mut self, ours: &mut impl Sink) {
        self.tell(ours, true);
    }

    fn tell(&mut self, ours: &mut impl Sink, ended: bool) {
        self.released = self.position;
        ours.release_fence();
        ours.store(CURSOR, cursor(self.position, ended));
        ours.full_fence();
    }

    /// Whether so much is free, as far as this side knows, that waking the sender is worth it.
    #[inline]
    pub(crate) fn is_half_free(&self) -> bool {
        (self.head - self.released) as usize <= self.area.capacity / 2
    }
}
