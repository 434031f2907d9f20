//! Files that go on changing: one mapping writes, any number read.
//!
//! What is mapped here is written by another thread or process at any time, so it is never seen as
//! bytes, only as whole aligned words that are accessed atomically; [`soundness`](crate::soundness),
//! "Live files", has the argument. Every mapping begins at a page and is as long as whole words
//! ([`Mapping::new`]), so that no access crosses a word or leaves the mapping. What lies behind the
//! end of the file, in its last word and page, can be accessed, and is never given out.
#![allow(unsafe_code, reason = "mappings are seen as atomic words")]

// Not for x32, whose pointers leave half of a register of x86_64 undefined.
#[cfg_attr(
    all(
        any(target_arch = "x86", all(target_arch = "x86_64", target_pointer_width = "64")),
        not(miri)
    ),
    path = "live/avx.rs"
)]
mod bulk;
mod live_map;
mod producer;
mod words;

use std::fs::File;
use std::io;
use std::slice;
use std::sync::atomic::AtomicUsize;

use memmap2::{MmapOptions, MmapRaw};

use crate::OutOfBounds;
use crate::map::address_space;
use crate::state::Extent;
use crate::sys::advice;

pub use live_map::LiveMap;
pub use producer::Producer;
pub(crate) use words::{WORD, Words, WordsMut};

/// The whole of a live file, mapped shared.
struct Mapping {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<MmapRaw>,
    /// Of the file. The mapping is as long or longer.
    len: usize,
}

impl Mapping {
    fn new(
        file: &File,
        extent: Extent,
        map: impl FnOnce(&MmapOptions, &File) -> io::Result<MmapRaw>,
    ) -> io::Result<Self> {
        // Both divide a page, so this reaches beyond the file but not beyond its last page. munmap(2)
        // wants whole pages of hugetlbfs.
        let unit = extent.huge_page.unwrap_or(WORD as u64);
        let map = match address_space(extent.len.next_multiple_of(unit))? {
            0 => None,
            whole => Some(map(MmapOptions::new().len(whole), file)?),
        };
        Ok(Self { map, len: extent.len as usize })
    }

    /// A forked child would be a second writer.
    fn keep_from_children(&self) -> io::Result<()> {
        let (Some(map), Some(dont_fork)) = (&self.map, advice::DONT_FORK) else { return Ok(()) };
        // SAFETY: the range is one live mapping of ours, and the advice does not change what it
        // shows. madvise(2): "Do not make the pages in this range available to the child after a
        // fork(2)".
        unsafe { rustix::mm::madvise(map.as_mut_ptr().cast(), map.len(), dont_fork) }
            .map_err(Into::into)
    }

    fn words(&self) -> Words<'_> {
        let Some(map) = &self.map else { return Words::new(&[]) };
        let first = map.as_ptr().cast::<AtomicUsize>();
        // SAFETY: `slice::from_raw_parts` wants memory that is (1) valid for as many words, in one
        // allocation of at most `isize::MAX` bytes, for as long as `self` is borrowed: `map` is one
        // mapping of that length (`new`), and is unmapped when dropped; no page of it is beyond the
        // end of the file, for `extent` was observed after F_SEAL_SHRINK, or the file is our own and
        // about to get it; (2) aligned: a mapping begins at a page; (3) initialized: every value of
        // the bytes is an `AtomicUsize`; (4) "not mutated […] except inside an `UnsafeCell`", which
        // is what an `AtomicUsize` is. That others write at the same time, in this process or
        // another, is what atomics are for: see the top of this file for the size of the accesses.
        Words::new(unsafe { slice::from_raw_parts(first, map.len() / WORD) })
    }

    /// Where a range of the file begins, if it lies within.
    fn locate(&self, offset: u64, len: u64) -> Result<usize, OutOfBounds> {
        let size = self.len as u64;
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(offset as usize),
            _ => Err(OutOfBounds { offset, len, size }),
        }
    }
}
