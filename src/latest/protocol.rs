//! The layout of the file, and the order in which words are written and read: a seqlock with several
//! slots.
//!
//! ```text
//! byte 0     magic, version, size of a word, slots, capacity      written once, read once
//! byte 128   NEWEST  the sequence number of the newest value, and whether the publisher has ended
//! byte 136   BELL    the low word of NEWEST again
//! byte 256   slot 0  BEGUN, LEN; from byte 64 on the payload
//!            slot 1  …                                            `stride` words each
//! ```
//!
//! Value *n* goes to slot *n* mod `slots`. The writer stores *n* in the slot's `BEGUN`, then the
//! length and the payload, then *n* in `NEWEST`, with a release fence between each two. A reader goes
//! the other way: `NEWEST`, length and payload, `BEGUN`, with an acquire fence between each two. If
//! both sequence numbers are *n*, everything read in between belongs to value *n*:
//!
//! * nothing is older, because a reader that sees `NEWEST` = *n* sees what was stored before it;
//! * nothing is newer, because a reader that sees a word of a later value sees the `BEGUN` that was
//!   stored before that word.
//!
//! Sequence numbers have 64 bits. Where a word has 32, `NEWEST` is announced and `BEGUN` claimed
//! (`memory.rs`): if `NEWEST` reads as *n*, then its low half, and with it all of the payload, belongs to
//! value *n* or a later one. If `BEGUN` reads as *n*, then its low half, and with it all of the payload,
//! belongs to value *n* or an earlier one.
//!
//! Readers sleep on `BELL`, which is stored last and loaded first. A reader that finds nothing newer
//! therefore holds a `BELL` from before the next value, and the kernel does not let the reader fall
//! asleep once `BELL` has changed. `NEWEST` itself would not do: of its two halves, the one stored
//! last is not the one that changes.
//!
//! The kernel lets any reader move the sleepers on `BELL` elsewhere. So nothing here relies on being
//! woken: a sleep is bounded, and followed by another look.

use std::cmp::Ordering;
use std::io;

use super::super::memory::{
    HALVES, HEADER, LINE, Sink, Source, Span, WORD, announce, announced, claim, claimed,
    from_header, halves, header,
};
use super::super::word::Word;

const NEWEST: usize = LINE / WORD;
/// The word to sleep on: its low 32 bits change with every value.
pub(crate) const BELL: usize = NEWEST + HALVES;
const FIRST_SLOT: usize = 2 * LINE / WORD;

// Within a slot; the payload has cache lines of its own, for whole lines are copied fastest.
const BEGUN: usize = 0;
const LEN: usize = HALVES;
const PAYLOAD: usize = 64 / WORD;

const MAGIC: &[u8; 8] = b"latest!\n";

/// How often a reader begins anew before it gives up. One that is overtaken again after this many
/// has a publisher that is faster by more than the number of slots, or hostile.
const ATTEMPTS: usize = 100;

/// How the memory is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// A power of two.
    pub(crate) slots: usize,
    /// Bytes of the longest value.
    pub(crate) capacity: usize,
    /// Words from one slot to the next.
    stride: usize,
}

impl Geometry {
    /// Says why not, if the number of slots is not a power of two, at least 2, or they are more than can be mapped.
    pub(crate) fn new(slots: u64, capacity: u64) -> Result<Self, String> {
        if !slots.is_power_of_two() || slots < 2 {
            return Err(format!(
                "the number of slots must be a power of two, at least 2, and is {slots}"
            ));
        }
        let (head, first_slot) = ((PAYLOAD * WORD) as u64, (FIRST_SLOT * WORD) as u64);
        let stride = || {
            let stride = capacity.checked_add(head)?.checked_next_multiple_of(LINE as u64)?;
            let len = stride.checked_mul(slots)?.checked_add(first_slot)?;
            isize::try_from(len).is_ok().then_some(stride as usize / WORD)
        };
        let stride = stride().ok_or_else(|| {
            format!("{slots} slots for {capacity} bytes each are more than can be mapped")
        })?;
        Ok(Self { slots: slots as usize, capacity: capacity as usize, stride })
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        (FIRST_SLOT + self.slots * self.stride) * WORD
    }

    fn slot(&self, number: u64) -> usize {
        FIRST_SLOT + (number as usize & (self.slots - 1)) * self.stride
    }

    pub(crate) fn to_header(self) -> [u8; HEADER] {
        header(MAGIC, [self.slots as u64, self.capacity as u64])
    }

    /// Believes nothing that the header says beyond what fits into `len` bytes.
    pub(crate) fn from_header(header: &[u8; HEADER], len: usize) -> Result<Self, String> {
        let [slots, capacity] = from_header(header, MAGIC, "a publisher")?;
        let geometry = Self::new(slots, capacity)?;
        if geometry.len() > len {
            let Self { slots, capacity, .. } = geometry;
            let needed = geometry.len();
            return Err(format!(
                "{slots} slots for {capacity} bytes each need {needed} bytes, and the file has {len}"
            ));
        }
        Ok(geometry)
    }
}

/// `number` as it stands in memory, with room for one bit.
fn stamp(number: u64, ended: bool) -> u64 {
    number << 1 | u64::from(ended)
}

/// The one writer's side.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    geometry: Geometry,
    newest: u64,
}

impl Writer {
    /// For memory that is zero but for the header.
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self { geometry, newest: 0 }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The sequence number of the newest value, or 0.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Publishes what `write` writes to a slot. The value must not be longer than the capacity.
    pub(crate) fn publish<S: Sink, T>(
        &mut self,
        memory: &mut S,
        len: usize,
        write: impl FnOnce(&mut S, Span) -> T,
    ) -> (u64, T) {
        let number = self.newest + 1;
        let slot = self.geometry.slot(number);
        claim(memory, slot + BEGUN, stamp(number, false));
        memory.store(slot + LEN, len as Word);
        let done = write(memory, Span::new((slot + PAYLOAD) * WORD, len));
        self.newest = number;
        self.announce(memory, false);
        (number, done)
    }

    /// Tells readers that nothing newer will come.
    pub(crate) fn end(&mut self, memory: &mut impl Sink) {
        self.announce(memory, true);
    }

    fn announce(&self, memory: &mut impl Sink, ended: bool) {
        let stamp = stamp(self.newest, ended);
        announce(memory, NEWEST, stamp);
        memory.release_fence();
        memory.store(BELL, halves(stamp)[0]);
    }
}

/// What there is for a reader.
pub(crate) enum News {
    Newer,
    Ended,
    /// Nothing yet, and what [`BELL`] was before.
    Nothing {
        bell: Word,
    },
}

/// One reader's side. What it knows of the geometry it never reads again.
#[derive(Debug)]
pub(crate) struct Reader {
    geometry: Geometry,
    seen: u64,
}

impl Reader {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self { geometry, seen: 0 }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The sequence number of the value that was read last, or 0.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// What there is for a reader that has seen the value of this number.
    pub(crate) fn news(memory: &impl Source, seen: u64) -> News {
        let bell = memory.load(BELL);
        memory.acquire_fence();
        let (newest, ended) = Self::newest(memory);
        match newest.cmp(&seen) {
            Ordering::Greater => News::Newer,
            Ordering::Equal if ended => News::Ended,
            // A smaller number is halves of two numbers, or a hostile publisher's.
            _ => News::Nothing { bell },
        }
    }

    /// The number of the newest value, and whether the publisher has ended.
    fn newest(memory: &impl Source) -> (u64, bool) {
        let stamp = announced(memory, NEWEST);
        (stamp >> 1, stamp & 1 == 1)
    }

    /// What `read` makes of the newest value, and its number. Nothing has been published at `None`.
    /// `read` is called again if the value was overwritten meanwhile.
    pub(crate) fn latest<S: Source, T>(
        &mut self,
        memory: &S,
        mut read: impl FnMut(&S, Span) -> io::Result<T>,
    ) -> io::Result<Option<(u64, T)>> {
        (0..ATTEMPTS).find_map(|_| self.attempt(memory, &mut read)).unwrap_or_else(|| {
            let message = "the publisher overtook every attempt to read a value";
            Err(io::Error::new(io::ErrorKind::WouldBlock, message))
        })
    }

    /// `None` if the value was overwritten meanwhile.
    pub(crate) fn attempt<S: Source, T>(
        &mut self,
        memory: &S,
        read: impl FnOnce(&S, Span) -> io::Result<T>,
    ) -> Option<io::Result<Option<(u64, T)>>> {
        let (number, _) = Self::newest(memory);
        if number < self.seen {
            return None; // halves of two numbers, or a hostile publisher
        }
        if number == 0 {
            return Some(Ok(None));
        }
        let slot = self.geometry.slot(number);
        #[allow(clippy::unnecessary_cast, reason = "the model checks other words too")]
        let len = memory.load(slot + LEN) as usize;
        let plausible = len.min(self.geometry.capacity);
        let done = match read(memory, Span::new((slot + PAYLOAD) * WORD, plausible)) {
            Ok(done) => done,
            Err(error) => return Some(Err(error)),
        };
        if claimed(memory, slot + BEGUN) >> 1 != number {
            return None;
        }
        if len != plausible {
            let message = format!("a value of {len} bytes, where no more than {plausible} fit");
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
        }
        self.seen = number;
        Some(Ok(Some((number, done))))
    }
}
