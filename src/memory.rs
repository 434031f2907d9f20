//! Memory that one process writes and others read, as the protocols see it: words, fences, and how
//! numbers, headers and stretches of bytes stand in it.
//!
//! This module knows nothing of mappings or system calls, and neither do the protocols, so that the very
//! same code runs under a model checker (`tests/*_model.rs`).
//!
//! # Numbers of two words
//!
//! Numbers have 64 bits, so that they never wrap. Where a word has 32 bits, a number takes two words, and
//! a reader may get halves of different numbers. A number that only rises can be written such that what a
//! reader makes of the halves errs to one side only:
//!
//! * One that is *announced* is written low half first and read high half first, so the high half that
//!   was read is the older one. A reader never gets more than the number was. If the whole reads as *n*,
//!   the low half is of *n* or of a later number.
//! * One that is *claimed* is written and read the other way around. A reader never gets less than the
//!   number was. If the whole reads as *n*, the low half is of *n* or of an earlier number.

use std::io;

use super::word::Word;

/// Bytes of a word.
pub(crate) const WORD: usize = size_of::<Word>();
/// Words of a number.
pub(crate) const HALVES: usize = size_of::<u64>() / WORD;
/// Bytes that no two processors fetch or own in part: two cache lines, which some fetch together.
pub(crate) const LINE: usize = 128;
/// Bytes of a cache line. What begins at one is copied fastest.
pub(crate) const CACHE_LINE: usize = 64;

/// What a reader needs of the memory. A word is atomic (`Relaxed`), bytes are copied word by word.
pub(crate) trait Source {
    fn load(&self, word: usize) -> Word;
    fn read(&self, offset: usize, bytes: &mut [u8]);
    fn acquire_fence(&self);
}

/// What the writer needs of the memory. The fences order what this thread does with any memory.
pub(crate) trait Sink {
    fn store(&mut self, word: usize, value: Word);
    fn write(&mut self, offset: usize, bytes: &[u8]);
    fn release_fence(&mut self);
    /// `SeqCst`.
    fn full_fence(&mut self);
}

/// The parts of a number, the low one first.
#[inline]
pub(crate) fn halves(number: u64) -> [Word; HALVES] {
    std::array::from_fn(|i| (number >> (i * WORD * 8)) as Word)
}

#[inline]
pub(crate) fn whole(halves: [Word; HALVES]) -> u64 {
    (0..HALVES).fold(0, |number, i| number | (halves[i] as u64) << (i * WORD * 8))
}

/// Stores a number after what has been written before.
#[inline]
pub(crate) fn announce(memory: &mut impl Sink, word: usize, number: u64) {
    for (i, half) in halves(number).into_iter().enumerate() {
        memory.release_fence();
        memory.store(word + i, half);
    }
}

/// Loads a number, before what is read afterwards.
#[inline]
pub(crate) fn announced(memory: &impl Source, word: usize) -> u64 {
    let mut halves = [0; HALVES];
    for (i, half) in halves.iter_mut().enumerate().rev() {
        *half = memory.load(word + i);
        memory.acquire_fence();
    }
    whole(halves)
}

/// Stores a number before what is written afterwards.
#[inline]
pub(crate) fn claim(memory: &mut impl Sink, word: usize, number: u64) {
    for (i, half) in halves(number).into_iter().enumerate().rev() {
        memory.store(word + i, half);
        memory.release_fence();
    }
}

/// Loads a number, after what has been read before.
#[inline]
pub(crate) fn claimed(memory: &impl Source, word: usize) -> u64 {
    let mut halves = [0; HALVES];
    for (i, half) in halves.iter_mut().enumerate() {
        memory.acquire_fence();
        *half = memory.load(word + i);
    }
    whole(halves)
}

/// Bytes at the beginning of a file that are written once and read once.
pub(crate) const HEADER: usize = 32;
const VERSION: u32 = 1;

/// Says what the file is, for what machine words, and two numbers of the protocol's.
pub(crate) fn header(magic: &[u8; 8], numbers: [u64; 2]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(magic);
    header[8..12].copy_from_slice(&VERSION.to_ne_bytes());
    header[12..16].copy_from_slice(&(WORD as u32).to_ne_bytes());
    header[16..24].copy_from_slice(&numbers[0].to_ne_bytes());
    header[24..].copy_from_slice(&numbers[1].to_ne_bytes());
    header
}

/// The two numbers, of which nothing is known yet. Says why not if another `maker` made the file.
pub(crate) fn from_header(
    header: &[u8; HEADER],
    magic: &[u8; 8],
    maker: &str,
) -> Result<[u64; 2], String> {
    let number = |at| u64::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
    let small = |at| u32::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
    if header[..8] != magic[..] {
        return Err(format!("the file was not made by {maker}"));
    }
    let [version, word] = [8, 12].map(small);
    if version != VERSION {
        return Err(format!("the layout is of version {version}, not {VERSION}"));
    }
    if word != WORD as u32 {
        return Err(format!("the peer's machine words have {word} bytes, not {WORD}"));
    }
    Ok([16, 24].map(number))
}

/// Where the bytes of a record or a value are. They may go on at the beginning of the area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) len: usize,
    start: usize,
    /// How many bytes there are before the end of the area.
    before_end: usize,
    /// Where the others are.
    restart: usize,
}

impl Span {
    /// For bytes that do not go on anywhere else.
    pub(crate) fn new(start: usize, len: usize) -> Self {
        Self { len, start, before_end: len, restart: start }
    }

    /// All of the bytes must lie within the span.
    #[inline]
    pub(crate) fn write(&self, memory: &mut impl Sink, offset: usize, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() <= self.len);
        let (bytes, rest) = bytes.split_at(self.before_end.saturating_sub(offset).min(bytes.len()));
        if !bytes.is_empty() {
            memory.write(self.start + offset, bytes);
        }
        if !rest.is_empty() {
            memory.write(self.restart + (offset + bytes.len() - self.before_end), rest);
        }
    }

    /// All of the bytes must lie within the span.
    #[inline]
    pub(crate) fn read(&self, memory: &impl Source, offset: usize, bytes: &mut [u8]) {
        debug_assert!(offset + bytes.len() <= self.len);
        let before_end = self.before_end.saturating_sub(offset).min(bytes.len());
        let (bytes, rest) = bytes.split_at_mut(before_end);
        if !bytes.is_empty() {
            memory.read(self.start + offset, bytes);
        }
        if !rest.is_empty() {
            memory.read(self.restart + (offset + bytes.len() - self.before_end), rest);
        }
    }

    /// Replaces `target` by a copy of all bytes.
    #[inline]
    pub(crate) fn copy_to(&self, memory: &impl Source, target: &mut Vec<u8>) -> io::Result<()> {
        target.try_reserve_exact(self.len.saturating_sub(target.len()))?;
        target.resize(self.len, 0);
        self.read(memory, 0, target);
        Ok(())
    }
}

/// The part of a file that is used again and again, from its beginning on when its end is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    /// In bytes.
    pub(crate) start: usize,
    /// In bytes, a multiple of [`LINE`].
    pub(crate) capacity: usize,
}

impl Area {
    /// From this length on a payload begins at a cache line.
    const LONG: usize = 256;

    /// Says why not, if the area is empty, has no whole lines, or the file can be neither mapped nor
    /// counted in words.
    pub(crate) fn new(start: usize, capacity: u64) -> Result<Self, String> {
        if capacity == 0 || capacity % LINE as u64 != 0 {
            return Err(format!("a capacity of {capacity} bytes is no multiple of {LINE}"));
        }
        let most = (Word::MAX >> 1) as u64;
        let len = capacity.checked_add(start as u64).filter(|len| *len <= most);
        match len.and_then(|len| isize::try_from(len).ok()) {
            Some(_) => Ok(Self { start, capacity: capacity as usize }),
            None => Err(format!("a capacity of {capacity} bytes is more than can be mapped")),
        }
    }

    /// The area for a capacity that a caller has asked for, in whole pages.
    pub(crate) fn of_pages(start: usize, capacity: usize) -> io::Result<Self> {
        const PAGE: u64 = 4096;

        let whole = (capacity as u64).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        Self::new(start, whole)
            .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    /// The area that a peer says there is, in a file of `len` bytes.
    pub(crate) fn in_file(start: usize, capacity: u64, len: usize) -> Result<Self, String> {
        let area = Self::new(start, capacity)?;
        if area.end() > len {
            let needed = area.end();
            return Err(format!("{capacity} bytes need {needed} bytes, and the file has {len}"));
        }
        Ok(area)
    }

    /// Where the area ends in the file.
    pub(crate) fn end(&self) -> usize {
        self.start + self.capacity
    }

    /// What is `distance` bytes after what is at `offset`, both from the start of the area on.
    #[inline]
    pub(crate) fn after(&self, offset: usize, distance: usize) -> usize {
        let offset = offset + distance;
        if offset < self.capacity { offset } else { offset - self.capacity }
    }

    /// The word of the file at this offset.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> usize {
        (self.start + offset) / WORD
    }

    /// A record whose head of `head` bytes begins at this offset: where its payload is, and how many
    /// bytes it takes with what is left free. `None` if that is more than the area has.
    #[inline]
    pub(crate) fn record(&self, offset: usize, head: usize, len: usize) -> Option<(Span, usize)> {
        if len > self.capacity {
            return None;
        }
        let distance = if len < Self::LONG {
            head
        } else {
            (offset + head).next_multiple_of(CACHE_LINE) - offset
        };
        let size = distance + len.next_multiple_of(WORD);
        if size > self.capacity {
            return None;
        }
        let offset = self.after(offset, distance);
        let before_end = self.capacity - offset;
        let span = Span { len, start: self.start + offset, before_end, restart: self.start };
        Some((span, size))
    }
}
