//! The readers' side of live and shared files.
#![allow(unsafe_code, reason = "its maker says how long the file stays")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::RangeBounds;

use super::{Mapping, Words};
use crate::map::OutOfBounds;
use crate::sys::Extent;

/// A reader's view of a live or a shared file, from [`SealedFile::map_live`](crate::SealedFile::map_live).
///
/// Reading copies bytes out. There is no slice of such a file, because somebody goes on writing. The
/// map owns its mapping: the file may be dropped, and the map may move to other threads or live forever,
/// even after the producer has ended.
///
/// # Guarantees
///
/// * Each aligned `usize` is read whole. Whether that word is a value that somebody stored is up to the
///   writer: a [`Producer`] and a [`SharedMap`](crate::SharedMap) store whole words, another program need
///   not.
/// * Calls are ordered: a reader that has read what one [`Producer::write_at`] stored (or one
///   [`SharedMap::write_at`](crate::SharedMap::write_at)), even a single word, reads in later calls nothing older than what the calls before that one stored.
///
/// # Not guaranteed
///
/// * That what one call reads belongs together. Of the words that a writer writes meanwhile, each is
///   new or old, independently of the others.
/// * That reading cannot run out of memory. If a foreign producer left holes and there is no memory for
///   them, reading raises `SIGBUS` (under `vm.overcommit_memory=2`, or with hugetlb pages), unless the
///   file was received with [`SealPolicy::reserve`](crate::SealPolicy::reserve). A [`Producer`] leaves no
///   holes. Into a shared file a peer can [punch holes again](crate::SharedMap#holes).
///
/// A core dump contains the map: see [core dumps](crate::soundness#core-dumps).
///
/// # Examples
///
/// ```
/// # use sealed_mmap::Producer;
/// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
/// let mut producer = Producer::create("ticks", 8)?;
/// let ticks = producer.file().map_live()?;
/// let reader = std::thread::spawn(move || {
///     while ticks.to_vec(..).unwrap() != 3_u64.to_ne_bytes() {
///         std::thread::yield_now();
///     }
/// });
/// for tick in 1..=3_u64 {
///     producer.write_at(0, &tick.to_ne_bytes())?;
/// }
/// reader.join().unwrap();
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`Producer`]: crate::Producer
/// [`Producer::write_at`]: crate::Producer::write_at
pub struct LiveMap {
    /// Read-only.
    map: Mapping,
}

impl LiveMap {
    /// # Safety
    ///
    /// The file carries F_SEAL_SHRINK, and was as long as `extent` says at some time after that.
    pub(crate) unsafe fn new(file: &File, extent: Extent) -> io::Result<Self> {
        // SAFETY: fcntl(2) on F_SEAL_SHRINK: "the file in question cannot be reduced in size"; "once set,
        // seals cannot be removed".
        Ok(Self { map: unsafe { Mapping::read_only(file, extent) }? })
    }

    #[inline]
    pub(crate) fn words(&self) -> Words<'_> {
        self.map.words()
    }

    /// Returns the length in bytes. It never changes, whatever becomes of the file.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns whether the map has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out, as they are at this moment, word by word.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]. Nothing is read then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// let mut producer = Producer::create("greeting", 5)?;
    /// let map = producer.file().map_live()?;
    /// producer.write_at(0, b"hello")?;
    ///
    /// let mut end = [0; 2];
    /// map.read_at(3, &mut end)?;
    /// assert_eq!(&end, b"lo");
    /// assert!(map.read_at(4, &mut end).is_err());
    /// assert_eq!(map.to_vec(1..=2)?, b"el");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        self.map.read_at(offset, target)
    }

    /// Loads one word, whole: what [`read_at`](Self::read_at) copies of an aligned `usize`, in a fraction
    /// of the time.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]: the offset, in bytes, is not a multiple of the word's size (4 or 8), or the word
    /// does not lie within the file. The last bytes of a file that is not made of whole words are in no
    /// word; `read_at` reads them.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// let mut producer = Producer::create("counters", 64)?;
    /// let counters = producer.file().map_live()?;
    /// producer.add(8, 3)?;
    /// assert_eq!(counters.load(8)?, 3);
    ///
    /// let error = counters.load(9).unwrap_err();
    /// assert!(error.to_string().starts_with("offset 9 is not a multiple of "));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn load(&self, offset: u64) -> Result<usize, OutOfBounds> {
        self.map.load(offset)
    }

    /// Returns where the map begins, for code that this crate cannot call: a C library, the upload to a
    /// GPU. The address begins a page. An empty map has one, too, with no bytes behind it.
    ///
    /// Getting the pointer is safe. Whoever uses it promises that
    ///
    /// * nothing is read beyond [`len`](Self::len) bytes, or after the map has been dropped;
    /// * nothing is written through it: the pages are read-only (`SIGSEGV`);
    /// * no reference to the memory is made, neither `&[u8]` nor `&T`, for the producer changes the bytes
    ///   at any time;
    /// * Rust code reads it as this map does: whole, aligned words, through
    ///   [`AtomicUsize::from_ptr`](std::sync::atomic::AtomicUsize::from_ptr), `Relaxed`. Every other read
    ///   is a data race while the producer writes, [`ptr::copy`](std::ptr::copy) included, unless
    ///   something else rules out that it writes meanwhile;
    /// * code in another language copes with bytes that change between two reads of them: it copies them
    ///   out, as an upload does, and judges the copy. Code that parses in place does not.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use std::os::fd::AsRawFd;
    ///
    /// let producer = Producer::build("frame", 4096, |pixels| Ok(pixels.fill(7)))?;
    /// let frame = producer.file().map_live()?;
    /// let target = std::fs::File::create("/dev/null")?;
    ///
    /// // SAFETY: write(2) reads as many bytes as the map has, while the map lives, and only copies them.
    /// let count = unsafe { libc::write(target.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
    /// assert_eq!(count, 4096);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr()
    }

    /// Copies a range of bytes into a new vector, as [`read_at`](Self::read_at) does.
    ///
    /// If there is no memory for the vector, the process ends, as with every vector. Bound the length of
    /// a foreign file by the [policy](crate::SealPolicy::len), or use `read_at`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`], also for a range that ends before it begins.
    pub fn to_vec(&self, range: impl RangeBounds<u64>) -> Result<Vec<u8>, OutOfBounds> {
        self.map.to_vec(range)
    }
}

impl fmt::Debug for LiveMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveMap").field("len", &self.len()).finish_non_exhaustive()
    }
}
