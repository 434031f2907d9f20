//! Everybody's side of shared files.
#![allow(
    unsafe_code,
    reason = "its maker says how long the file stays, and that it can be written"
)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::RangeBounds;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicUsize, fence};

use super::{Mapping, SharedWords};
use crate::map::OutOfBounds;
use crate::sys::Extent;

/// Reads and writes a shared file, from [`SealedFile::map_shared`](crate::SealedFile::map_shared).
///
/// Bytes are copied in and out, and words are changed in place. There is no slice of a shared file,
/// because everybody who has the file may write to it at any time. The map owns its mapping: the file may
/// be dropped, and the map may be used by many threads at once, or live forever.
///
/// # Guarantees
///
/// * Each aligned `usize` is read and written whole. Nothing larger is whole: of two calls that write
///   the same bytes at the same time, each word shows one or the other.
/// * A call changes the bytes that it names and no others, not even those that share a word with them,
///   however many write to that word.
/// * Calls are ordered: whoever has read what one call wrote, even a single word, reads in later calls
///   nothing older than what the writer wrote in the calls before that one.
/// * Every call ends, whatever the other holders do, but see [Hostile writers](#hostile-writers).
/// * The file cannot shrink, so the map stays valid; new writable maps can be forbidden, and this one goes
///   on writing.
///
/// # Not guaranteed
///
/// * That a peer keeps to any of this. A peer may write by other instructions, and at any time. Treat what
///   is read as hostile input, and read it once: what was checked in the file can be different when it is
///   read again.
/// * That calls on *different* words are seen in one order by all. A program that needs that calls
///   [`fence(SeqCst)`](std::sync::atomic::fence) between them.
/// * Atomic access to anything smaller or larger than a word.
///
/// # Hostile writers
///
/// To write a part of a word, a call exchanges the whole word as long as nobody else changes it meanwhile,
/// and tries that 64 times. A peer that writes that word without pause can make all of them fail. Then
/// the call clears and sets the bits of its bytes, in two steps that cannot fail. Between the two, others
/// see bytes of which some bits are new, and if they write the same bytes just then, the bits of both may
/// mix. So keep in words of their own what peers must not disturb.
///
/// [`fetch_and`](Self::fetch_and), [`fetch_or`](Self::fetch_or) and [`fetch_xor`](Self::fetch_xor) are one
/// instruction on some processors. On others, such as x86, they try until nobody has changed the word
/// meanwhile, and such a peer can delay them.
///
/// # Holes
///
/// Any holder with a writable descriptor can punch holes into the file, at any time. Their bytes are
/// zero, and touching them allocates memory again. So memory that was reserved is not reserved for good,
/// and no policy asks for it. Where there is none, the access raises `SIGBUS` (under
/// `vm.overcommit_memory=2`, or with hugetlb pages) or invokes the OOM killer. What helps:
///
/// * copy by descriptor where the peer is not trusted: [`read_at`](std::os::unix::fs::FileExt::read_at)
///   of the file reads holes as zeros and allocates nothing, `write_at` returns `ENOSPC`, and neither
///   raises a signal;
/// * have the file sealed against writing, which forbids holes, too: receive it as
///   [live](crate::SealedFile::receive_future_write) or [immutable](crate::SealedFile::receive_read_only);
/// * do without strict overcommit, and bound the memory of the peer (`memory.max` of its cgroup).
///
/// # Forks
///
/// A child of `fork(2)` does not inherit the map (`MADV_DONTFORK`), so that it cannot keep the file from
/// being [finished](crate::SealedFile::finish). A child that touches it dies (`SIGSEGV`), or reaches
/// whatever else of the child's is at that address. Let the child map the file itself.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealPolicy, SealedFile, Seals};
///
/// let mut draft = SealedFile::create("pool")?;
/// draft.set_len(4096)?;
/// let file = draft.seal_size(Seals::GROW)?;
/// let sent = file.try_clone()?; // to another process, as a rule
/// let ours = file.map_shared()?;
///
/// let received = SealedFile::receive_size_sealed(sent, &SealPolicy::untrusted_live(1 << 20))?;
/// let theirs = received.map_shared()?;
/// ours.write_at(64, b"a frame")?;
/// ours.fetch_add(0, 1)?; // how many frames there are
///
/// assert_eq!(theirs.load(0)?, 1); // whoever sees this sees the frame
/// assert_eq!(theirs.to_vec(64..71)?, b"a frame");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SharedMap {
    /// Writable.
    map: Mapping,
}

impl SharedMap {
    /// # Safety
    ///
    /// The file carries F_SEAL_SHRINK, and was as long as `extent` says at some time after that.
    pub(crate) unsafe fn new(file: &File, extent: Extent) -> io::Result<Self> {
        // SAFETY: fcntl(2) on F_SEAL_SHRINK: "the file in question cannot be reduced in size"; "once set,
        // seals cannot be removed".
        Ok(Self { map: unsafe { Mapping::writable(file, extent) }? })
    }

    #[inline]
    fn words(&self) -> SharedWords<'_> {
        // SAFETY: `new` has made this mapping with `Mapping::writable`.
        unsafe { SharedWords::new(self.map.words()) }
    }

    #[inline]
    fn word(&self, offset: u64) -> Result<&AtomicUsize, OutOfBounds> {
        Ok(self.words().word(self.map.word(offset)?))
    }

    /// Returns the length in bytes. It never changes, whatever becomes of the file.
    #[inline]
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
    /// # let mut draft = sealed_mmap::SealedFile::create("greeting")?;
    /// # draft.set_len(5)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// map.write_at(0, b"hello")?;
    /// let mut end = [0; 2];
    /// map.read_at(3, &mut end)?;
    /// assert_eq!(&end, b"lo");
    /// assert!(map.read_at(4, &mut end).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        self.map.read_at(offset, target)
    }

    /// Copies a range of bytes into a new vector, as [`read_at`](Self::read_at) does.
    ///
    /// If there is no memory for the vector, the process ends, as with every vector. Bound the length of
    /// a foreign file by the [policy](crate::SealPolicy::len), or use `read_at`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`], as for [`LiveMap::to_vec`](crate::LiveMap::to_vec).
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("greeting")?;
    /// # draft.set_len(5)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// map.write_at(0, b"hello")?;
    /// assert_eq!(map.to_vec(1..=2)?, b"el");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn to_vec(&self, range: impl RangeBounds<u64>) -> Result<Vec<u8>, OutOfBounds> {
        self.map.to_vec(range)
    }

    /// Writes bytes. Others may see the words of one call in any order, but they see all that earlier
    /// calls wrote before they see any of these words.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]. Nothing is written then.
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("log")?;
    /// # draft.set_len(4096)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| map.write_at(0, b"one ")); // the same word
    ///     scope.spawn(|| map.write_at(4, b"two "));
    /// });
    /// assert_eq!(map.to_vec(..8)?, b"one two ");
    /// assert!(map.write_at(4090, b"too long").is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let start = self.map.locate(offset, bytes.len())?;
        fence(Release);
        self.words().write(start, bytes);
        Ok(())
    }

    /// Reads the word at an offset in bytes, ordered as [`read_at`](Self::read_at) is.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]: the word does not lie within the map, or the offset is not a multiple of
    /// `size_of::<usize>()`. The same holds for every method that takes the offset of a word.
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("words")?;
    /// # draft.set_len(4096)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// map.store(64, 7)?;
    /// assert_eq!(map.load(64)?, 7);
    ///
    /// let error = map.load(3).unwrap_err();
    /// assert!(error.to_string().starts_with("offset 3 is not a multiple of"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn load(&self, offset: u64) -> Result<usize, OutOfBounds> {
        self.map.load(offset)
    }

    /// Writes the word at an offset in bytes, ordered as [`write_at`](Self::write_at) is.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), which has an example.
    #[inline]
    pub fn store(&self, offset: u64, value: usize) -> Result<(), OutOfBounds> {
        let word = self.word(offset)?;
        fence(Release);
        word.store(value, Relaxed);
        Ok(())
    }

    /// Replaces the word at an offset in bytes, and returns the old value. Ordered as a read and as a write.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("words")?;
    /// # draft.set_len(4096)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// assert_eq!(map.swap(8, 5)?, 0);
    /// assert_eq!(map.swap(8, 6)?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn swap(&self, offset: u64, value: usize) -> Result<usize, OutOfBounds> {
        self.change(offset, |word| word.swap(value, Relaxed))
    }

    /// Adds to the word at an offset in bytes, wrapping around, and returns the old value. Ordered as a
    /// read and as a write.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("counters")?;
    /// # draft.set_len(4096)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// std::thread::scope(|scope| {
    ///     for _ in 0..4 {
    ///         scope.spawn(|| map.fetch_add(16, 10));
    ///     }
    /// });
    /// assert_eq!(map.fetch_add(16, 1_usize.wrapping_neg())?, 40);
    /// assert_eq!(map.load(16)?, 39);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn fetch_add(&self, offset: u64, value: usize) -> Result<usize, OutOfBounds> {
        self.change(offset, |word| word.fetch_add(value, Relaxed))
    }

    /// Clears the bits that are not set in `value`, and returns the old word. Ordered as a read and as a
    /// write; see [Hostile writers](Self#hostile-writers).
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("flags")?;
    /// # draft.set_len(4096)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// map.fetch_or(0, 0b110)?;
    /// assert_eq!(map.fetch_and(0, !0b010)?, 0b110);
    /// assert_eq!(map.fetch_xor(0, 0b001)?, 0b100);
    /// assert_eq!(map.load(0)?, 0b101);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn fetch_and(&self, offset: u64, value: usize) -> Result<usize, OutOfBounds> {
        self.change(offset, |word| word.fetch_and(value, Relaxed))
    }

    /// Sets the bits that are set in `value`, and returns the old word. Otherwise as
    /// [`fetch_and`](Self::fetch_and), which has an example.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    #[inline]
    pub fn fetch_or(&self, offset: u64, value: usize) -> Result<usize, OutOfBounds> {
        self.change(offset, |word| word.fetch_or(value, Relaxed))
    }

    /// Flips the bits that are set in `value`, and returns the old word. Otherwise as
    /// [`fetch_and`](Self::fetch_and), which has an example.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    #[inline]
    pub fn fetch_xor(&self, offset: u64, value: usize) -> Result<usize, OutOfBounds> {
        self.change(offset, |word| word.fetch_xor(value, Relaxed))
    }

    /// Replaces the word at an offset in bytes if it is `current`. Returns the old value, as `Ok` if it was
    /// replaced and as `Err` if not. Ordered as a read and as a write.
    ///
    /// A loop around this can be kept from ending by a peer that changes the word without pause. Bound it.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("owner")?;
    /// # draft.set_len(4096)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// assert_eq!(map.compare_exchange(0, 0, 42)?, Ok(0)); // free: now it is 42's
    /// assert_eq!(map.compare_exchange(0, 0, 43)?, Err(42));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn compare_exchange(
        &self,
        offset: u64,
        current: usize,
        new: usize,
    ) -> Result<Result<usize, usize>, OutOfBounds> {
        self.change(offset, |word| word.compare_exchange(current, new, Relaxed, Relaxed))
    }

    #[inline]
    fn change<T>(&self, offset: u64, op: impl Fn(&AtomicUsize) -> T) -> Result<T, OutOfBounds> {
        let word = self.word(offset)?;
        fence(Release);
        let old = op(word);
        fence(Acquire);
        Ok(old)
    }

    /// Returns where the mapping begins, at a page boundary, for C libraries, drivers and devices.
    ///
    /// The pointer is valid for reading and writing [`len`](Self::len) bytes until the map is dropped.
    /// Whoever dereferences it has to know that everybody who has the file may write at the same time.
    /// In Rust that means: no reference to these bytes, no access that is not atomic, and none of another
    /// size than `usize`. Code in other languages needs its own reason why racing accesses are fine. As
    /// everywhere, touching a [hole](Self#holes) can raise `SIGBUS`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut draft = sealed_mmap::SealedFile::create("pool")?;
    /// # draft.set_len(4096)?;
    /// # let map = draft.seal_size(sealed_mmap::Seals::empty())?.map_shared()?;
    /// let texture = map.as_ptr().wrapping_add(1024); // to `glTexSubImage2D`
    /// assert_eq!(map.as_ptr().addr() % 4096, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_ptr().cast_mut()
    }
}

impl fmt::Debug for SharedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMap").field("len", &self.len()).finish_non_exhaustive()
    }
}
