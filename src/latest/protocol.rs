//! The layout of the file, and the order in which words are written and read: a seqlock with several
//! slots.
//!
//! This module knows nothing of mappings or system calls, so that the very same code runs under a
//! model checker (`tests/latest_model.rs`).
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
//! Sequence numbers have 64 bits and so never wrap. Where a word has 32 bits, a sequence number takes
//! two words, and a reader may get halves of different numbers. `NEWEST` is written low half first
//! and read high half first, `BEGUN` the other way around, with fences in between. In `NEWEST`, the
//! high half that was read is therefore the older one: if the whole reads as *n*, then the low half,
//! and with it all of the payload, belongs to value *n* or a later one. In `BEGUN`, the low half is
//! the older one: if the whole reads as *n*, then the low half, and with it all of the payload,
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

use super::word::Word;

/// Bytes of a word.
const WORD: usize = size_of::<Word>();
/// Words of a number.
const HALVES: usize = size_of::<u64>() / WORD;
/// Bytes that no two processors fetch or own in part.
const LINE: usize = 128;

const NEWEST: usize = LINE / WORD;
/// The word to sleep on: its low 32 bits change with every value.
pub(crate) const BELL: usize = NEWEST + HALVES;
const FIRST_SLOT: usize = 2 * LINE / WORD;

// Within a slot; the payload has cache lines of its own, for whole lines are copied fastest.
const BEGUN: usize = 0;
const LEN: usize = HALVES;
const PAYLOAD: usize = 64 / WORD;

const MAGIC: u64 = u64::from_ne_bytes(*b"latest!\n");
const VERSION: u32 = 1;
/// Bytes of the part that never changes.
pub(crate) const HEADER: usize = 32;

/// How often a reader begins anew before it gives up. One that is overtaken again after this many
/// has a publisher that is faster by more than the number of slots, or hostile.
const ATTEMPTS: usize = 100;

/// What a reader needs of the memory. A word is atomic (`Relaxed`), bytes are copied word by word.
pub(crate) trait Source {
    fn load(&self, word: usize) -> Word;
    fn read(&self, word: usize, bytes: &mut [u8]);
    fn acquire_fence(&self);
}

/// What the writer needs of the memory.
pub(crate) trait Sink {
    fn store(&mut self, word: usize, value: Word);
    /// What is left of the last word is undefined.
    fn write(&mut self, word: usize, bytes: &[u8]);
    fn release_fence(&mut self);
}

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
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        header[8..12].copy_from_slice(&VERSION.to_ne_bytes());
        header[12..16].copy_from_slice(&(WORD as u32).to_ne_bytes());
        header[16..24].copy_from_slice(&(self.slots as u64).to_ne_bytes());
        header[24..].copy_from_slice(&(self.capacity as u64).to_ne_bytes());
        header
    }

    /// Believes nothing that the header says beyond what fits into `len` bytes.
    pub(crate) fn from_header(header: &[u8; HEADER], len: usize) -> Result<Self, String> {
        let number = |at| u64::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
        let small = |at| u32::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
        if number(0) != MAGIC {
            return Err("the file was not made by a publisher".into());
        }
        let [version, word] = [8, 12].map(small);
        if version != VERSION {
            return Err(format!("the layout is of version {version}, not {VERSION}"));
        }
        if word != WORD as u32 {
            return Err(format!("the publisher's machine words have {word} bytes, not {WORD}"));
        }
        let geometry = Self::new(number(16), number(24))?;
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
fn halves(number: u64, ended: bool) -> [Word; HALVES] {
    let stamp = number << 1 | u64::from(ended);
    std::array::from_fn(|i| (stamp >> (i * WORD * 8)) as Word)
}

fn whole(halves: [Word; HALVES]) -> (u64, bool) {
    let stamp = (0..HALVES).fold(0, |stamp, i| stamp | (halves[i] as u64) << (i * WORD * 8));
    (stamp >> 1, stamp & 1 == 1)
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

    /// The value must not be longer than the capacity.
    pub(crate) fn publish(&mut self, memory: &mut impl Sink, value: &[u8]) -> u64 {
        let number = self.newest + 1;
        let slot = self.geometry.slot(number);
        for (i, half) in halves(number, false).into_iter().enumerate().rev() {
            memory.store(slot + BEGUN + i, half);
            memory.release_fence();
        }
        memory.store(slot + LEN, value.len() as Word);
        memory.write(slot + PAYLOAD, value);
        self.newest = number;
        self.announce(memory, false);
        number
    }

    /// Tells readers that nothing newer will come.
    pub(crate) fn end(&mut self, memory: &mut impl Sink) {
        self.announce(memory, true);
    }

    fn announce(&self, memory: &mut impl Sink, ended: bool) {
        for (i, half) in halves(self.newest, ended).into_iter().enumerate() {
            memory.release_fence();
            memory.store(NEWEST + i, half);
        }
        memory.release_fence();
        memory.store(BELL, halves(self.newest, ended)[0]);
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
        let mut halves = [0; HALVES];
        for (i, half) in halves.iter_mut().enumerate().rev() {
            *half = memory.load(NEWEST + i);
            memory.acquire_fence();
        }
        whole(halves)
    }

    /// Copies the newest value. Nothing has been published at `None`. What `value` holds after that
    /// or an error is undefined.
    pub(crate) fn latest(
        &mut self,
        memory: &impl Source,
        value: &mut Vec<u8>,
    ) -> io::Result<Option<u64>> {
        (0..ATTEMPTS).find_map(|_| self.attempt(memory, value)).unwrap_or_else(|| {
            let message = "the publisher overtook every attempt to read a value";
            Err(io::Error::new(io::ErrorKind::WouldBlock, message))
        })
    }

    /// `None` if the value was overwritten meanwhile.
    pub(crate) fn attempt(
        &mut self,
        memory: &impl Source,
        value: &mut Vec<u8>,
    ) -> Option<io::Result<Option<u64>>> {
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
        if let Err(error) = value.try_reserve_exact(plausible.saturating_sub(value.len())) {
            return Some(Err(error.into()));
        }
        value.resize(plausible, 0);
        memory.read(slot + PAYLOAD, value);
        let mut begun = [0; HALVES];
        for (i, half) in begun.iter_mut().enumerate() {
            memory.acquire_fence();
            *half = memory.load(slot + BEGUN + i);
        }
        if whole(begun).0 != number {
            return None;
        }
        if len != plausible {
            let message = format!("a value of {len} bytes, where no more than {plausible} fit");
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
        }
        self.seen = number;
        Some(Ok(Some(number)))
    }
}
