//! Records and values, in the memory where they stand.

use std::fmt;
use std::io;
use std::ops::RangeBounds;

use crate::live::{Words, WordsMut};
use crate::map::OutOfBounds;
use crate::memory::Span;

/// Room for a record or a value, in the memory that readers will see it in.
///
/// Nobody sees what is written before the call that handed out the slot has returned. Bytes that are not
/// written are whatever was there before: zeros, or parts of older records.
///
/// A slot is an [`io::Write`], too, which appends to what was written last and is full at its end.
///
/// # Examples
///
/// ```
/// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
/// use std::io::Write;
///
/// use sealed_mmap::latest::{Publisher, Subscriber};
///
/// let mut publisher = Publisher::create("position", 64)?;
/// publisher.publish_with(12, |slot| {
///     slot.write_at(8, &3_u32.to_ne_bytes())?;
///     slot.write_all(&7_u64.to_ne_bytes())
/// })?.1?;
///
/// let mut value = Vec::new();
/// Subscriber::open(publisher.file())?.latest(&mut value)?;
/// assert_eq!(value, [&7_u64.to_ne_bytes()[..], &3_u32.to_ne_bytes()].concat());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Slot<'a> {
    words: WordsMut<'a>,
    span: Span,
    next: usize,
}

impl<'a> Slot<'a> {
    pub(crate) fn new(words: &'a mut WordsMut<'_>, span: Span) -> Self {
        Self { words: words.reborrow(), span, next: 0 }
    }
}

impl Slot<'_> {
    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.span.len
    }

    /// Returns whether the slot is for an empty record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes at an offset. What [`io::Write`] writes next is not affected.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]. Nothing is written then.
    #[inline]
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let range = OutOfBounds::locate(offset, bytes.len() as u64, self.len() as u64)?;
        self.span.write(&mut self.words, range.start as usize, bytes);
        Ok(())
    }
}

impl Slot<'_> {
    /// Writes all of the slot.
    #[inline]
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        self.span.write(&mut self.words, 0, bytes);
    }
}

impl io::Write for Slot<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.len() - self.next);
        self.span.write(&mut self.words, self.next, &bytes[..count]);
        self.next += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A record or a value, in the memory where its writer put it.
///
/// Reading copies bytes out: those that are asked for, and no others. There is no slice, because a hostile
/// writer can change the bytes at any time. For the same reason, read what a decision rests on once.
///
/// A record is an [`io::Read`], too, from its beginning to its end.
///
/// # Examples
///
/// ```
/// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
/// use sealed_mmap::latest::{Publisher, Subscriber};
///
/// let mut publisher = Publisher::create("picture", 1 << 20)?;
/// publisher.publish(&[&8_u32.to_ne_bytes()[..], &[0xff; 1 << 16]].concat())?;
///
/// let mut subscriber = Subscriber::open(publisher.file())?;
/// let mut width = [0; 4];
/// subscriber.read_with(|value| value.read_at(0, &mut width))?.expect("there is a value").1?;
/// assert_eq!(u32::from_ne_bytes(width), 8); // and nothing else was copied
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Record<'a> {
    words: Words<'a>,
    span: Span,
    next: usize,
}

impl<'a> Record<'a> {
    pub(crate) fn new(words: Words<'a>, span: Span) -> Self {
        Self { words, span, next: 0 }
    }
}

impl Record<'_> {
    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.span.len
    }

    /// Returns whether the record is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out. What [`io::Read`] reads next is not affected.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]. Nothing is read then.
    #[inline]
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        let range = OutOfBounds::locate(offset, target.len() as u64, self.len() as u64)?;
        self.span.read(&self.words, range.start as usize, target);
        Ok(())
    }

    /// Copies a range out.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`].
    pub fn to_vec(&self, range: impl RangeBounds<u64>) -> Result<Vec<u8>, OutOfBounds> {
        let range = OutOfBounds::resolve(range, self.len() as u64)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.read_at(range.start, &mut bytes)?;
        Ok(bytes)
    }
}

impl io::Read for Record<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = target.len().min(self.len() - self.next);
        self.span.read(&self.words, self.next, &mut target[..count]);
        self.next += count;
        Ok(count)
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("len", &self.len()).finish_non_exhaustive()
    }
}
