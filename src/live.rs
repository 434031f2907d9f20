//! Live and shared files: one mapping or many write, any number of mappings read.
//!
//! Another thread or process may write to this memory at any time. So the memory is never viewed as bytes,
//! only as whole aligned words that are accessed atomically; [`soundness`](crate::soundness), "Live files",
//! has the argument. Every mapping begins at a page and is as long as whole words ([`Mapping::new`]), so no
//! access crosses a word boundary or leaves the mapping. The bytes behind the end of the file, in its last
//! word and page, can be accessed, and are never given out.
#![allow(unsafe_code, reason = "mappings are seen as atomic words")]

mod atomic;
// Not for x32, whose pointers leave half of a register of x86_64 undefined.
#[cfg(all(
    any(target_arch = "x86", all(target_arch = "x86_64", target_pointer_width = "64")),
    not(miri)
))]
mod avx;
mod live_map;
mod merge;
mod one_by_one;
mod shared_map;
mod words;

use std::fs::File;
use std::io;
use std::ops::RangeBounds;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

use crate::map::{self, OutOfBounds, address_space};
use crate::sys::Extent;

pub use live_map::LiveMap;
pub(crate) use one_by_one::WORD;
pub use shared_map::SharedMap;
pub(crate) use words::{SharedWords, Words, WordsMut};

/// How many words are moved at once.
#[cfg(all(
    any(target_arch = "x86", all(target_arch = "x86_64", target_pointer_width = "64")),
    not(miri)
))]
use avx as bulk;
#[cfg(not(all(
    any(target_arch = "x86", all(target_arch = "x86_64", target_pointer_width = "64")),
    not(miri)
)))]
use one_by_one as bulk;

/// The whole of a live or shared file, mapped shared.
pub(crate) struct Mapping {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<MmapRaw>,
    /// Of the file. The mapping is as long or longer.
    len: usize,
}

impl Mapping {
    /// Maps a file for reading.
    ///
    /// # Safety
    ///
    /// For as long as this value lives the file is no shorter than `extent` says.
    pub(crate) unsafe fn read_only(file: &File, extent: Extent) -> io::Result<Self> {
        // SAFETY: this function's obligation.
        unsafe { Self::new(extent, |options| options.map_raw_read_only(file)) }
    }

    /// Maps a file for reading and writing. A child of `fork(2)` does not inherit the mapping.
    ///
    /// # Safety
    ///
    /// As [`read_only`](Self::read_only).
    pub(crate) unsafe fn writable(file: &File, extent: Extent) -> io::Result<Self> {
        // SAFETY: this function's obligation.
        let mapping = unsafe { Self::new(extent, |options| options.map_raw(file)) }?;
        if let Some(map) = &mapping.map {
            // SAFETY: it is one live mapping, whole.
            unsafe { map::keep_from_children(map.as_ptr(), map.len()) }?;
        }
        Ok(mapping)
    }

    /// # Safety
    ///
    /// As [`read_only`](Self::read_only), and `map` maps that file.
    unsafe fn new(
        extent: Extent,
        map: impl FnOnce(&MmapOptions) -> io::Result<MmapRaw>,
    ) -> io::Result<Self> {
        // Both divide a page, so this reaches beyond the file but not beyond its last page. munmap(2)
        // wants whole pages of hugetlbfs.
        let unit = extent.huge_page.unwrap_or(WORD as u64);
        let map = match address_space(extent.len.next_multiple_of(unit))? {
            0 => None,
            whole => Some(map(MmapOptions::new().len(whole)).map_err(map::explain)?),
        };
        Ok(Self { map, len: extent.len as usize })
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn words(&self) -> Words<'_> {
        let Some(map) = &self.map else { return Words::new(&[]) };
        let first = map.as_ptr().cast::<AtomicUsize>();
        // SAFETY: `slice::from_raw_parts` wants memory that is (1) valid for as many words, in one
        // allocation of at most `isize::MAX` bytes, for as long as `self` is borrowed: `map` is one
        // mapping of that length (`address_space`), and is unmapped when dropped; no page of it is beyond
        // the end of the file (`new`); (2) aligned: a mapping begins at a page; (3) initialized: every
        // value of the bytes is an `AtomicUsize`; (4) "not mutated […] except inside an `UnsafeCell`",
        // which is what an `AtomicUsize` is. That others write at the same time, in this process or
        // another, is what atomics are for: see the top of this file for the size of the accesses.
        Words::new(unsafe { slice::from_raw_parts(first, map.len() / WORD) })
    }

    /// Where `len` bytes from `offset` on begin, if all of them lie within the file.
    #[inline]
    pub(crate) fn locate(&self, offset: u64, len: usize) -> Result<usize, OutOfBounds> {
        let range = OutOfBounds::locate(offset, len as u64, self.len as u64)?;
        Ok(range.start as usize)
    }

    /// Copies bytes out. What one call of a writer wrote is seen before what its later calls wrote.
    #[inline]
    pub(crate) fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        let start = self.locate(offset, target.len())?;
        self.words().read(start, target);
        fence(Ordering::Acquire);
        Ok(())
    }

    /// As [`read_at`](Self::read_at).
    pub(crate) fn to_vec(&self, range: impl RangeBounds<u64>) -> Result<Vec<u8>, OutOfBounds> {
        let range = OutOfBounds::resolve(range, self.len as u64)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.read_at(range.start, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`read_at`](Self::read_at), of one word.
    #[inline]
    pub(crate) fn load(&self, offset: u64) -> Result<usize, OutOfBounds> {
        let value = self.words().load(self.word(offset)?);
        fence(Ordering::Acquire);
        Ok(value)
    }

    /// The word at `offset`, a multiple of the word's size, if it lies within the file.
    #[inline]
    pub(crate) fn word(&self, offset: u64) -> Result<usize, OutOfBounds> {
        let start = self.locate(offset, WORD)?;
        if start % WORD != 0 {
            return Err(OutOfBounds { offset, len: WORD as u64, size: self.len as u64 });
        }
        Ok(start / WORD)
    }

    /// Where the mapping begins. For an empty file, which has no mapping, it is a place without bytes.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.map.as_ref().map_or(map::empty().as_ptr(), |map| map.as_ptr())
    }
}
