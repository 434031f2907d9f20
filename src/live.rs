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
mod words;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::fd::AsFd;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

use crate::map::address_space;
use crate::seals;
use crate::state::{Extent, FutureWriteSealed, ReadOnlySealed, Unsealed};
use crate::sys::{self, advice};
use crate::{CreateOptions, OutOfBounds, SealError, SealFailure, SealedFile, Seals};

pub(crate) use words::{WORD, Words, WordsMut};

/// The only writer of a live file, which any number of readers watch.
///
/// It holds the one mapping through which the file can still be written. The kernel has promised
/// readers that nobody else writes and that the length stays ([`Seals::FUTURE_WRITE`],
/// [`SHRINK`](Seals::SHRINK), [`GROW`](Seals::GROW)); [`finish`](Self::finish) makes the file
/// immutable.
///
/// # Guarantees
///
/// * Readers see each aligned `usize` of the file whole, as some call stored it. Nothing larger is
///   whole: a read that meets a write gets some words new and some old. For the newest complete
///   value there is [`latest`](crate::latest); records need an order of their own.
/// * Calls are in order: whoever has read what one `write_at` stored, even a single word, reads in
///   later calls nothing older than what was stored by the calls before it.
/// * Memory for the whole file is reserved, so writing does not run out of it.
/// * A child of `fork(2)` does not inherit the mapping, and so must neither use nor drop the producer:
///   something else of its own may be there. One that is forked while the producer is being created
///   may inherit it, and then keeps the file from being finished until it ends.
/// * Dropping the producer ends writing, not reading. The file can then not be finished any more.
///
/// # Not guaranteed
///
/// * That somebody else does not prevent finishing. Another user, with the descriptor from
///   [`file`](Self::file), can add no seal and open no writable descriptor, for the file's mode is
///   `0444`. The same user can change the mode back and open it, and root need not. They can write
///   nothing even so, but add seals, and [`finish`](Self::finish) fails for good: after
///   [`Seals::SEAL`], or after [`Seals::EXEC`] on a kernel whose write seal is then not believed. And
///   any reader can pin pages (`EBUSY`), for as long as it likes.
/// * That nobody else writes, on a kernel that lets udmabuf do it: see
///   [Known holes in kernels](crate::soundness#known-holes-in-kernels).
/// * That a reader was there to see: values that are overwritten are gone.
///
/// # Platform-specific
///
/// Linux and Android, from Linux 5.1 (the guarantees are claimed from 5.4.4), with `/proc` mounted.
/// With `vm.memfd_noexec=2` no file without [`Seals::EXEC`] can be created, and so no producer.
///
/// # Examples
///
/// ```
/// use sealed_mmap::Producer;
/// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
///
/// let mut producer = Producer::create("temperature", 8)?;
/// let reader = producer.file().map_live()?; // in another process, as a rule
///
/// producer.write_at(0, &21.5_f64.to_ne_bytes())?;
/// let mut temperature = [0; 8];
/// reader.read_at(0, &mut temperature)?;
/// assert_eq!(f64::from_ne_bytes(temperature), 21.5);
///
/// let last = producer.finish()?;
/// assert_eq!(last.map_read_only()?[..], temperature);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "F_SEAL_FUTURE_WRITE")]
pub struct Producer {
    /// Writable.
    map: Mapping,
    /// Writable, for adding seals.
    writable: SealedFile<FutureWriteSealed>,
    /// Read-only, for giving away.
    file: SealedFile<FutureWriteSealed>,
}

impl Producer {
    /// Creates a live file of `len` zeros.
    ///
    /// # Errors
    ///
    /// * `Unsupported`: before Linux 5.1 and on FreeBSD, under `vm.memfd_noexec=2`, or without `/proc`.
    /// * `EACCES`: a security policy does not let this program open its own memfd anew (SELinux, as
    ///   Android has it for apps).
    /// * `ENOSPC`, `ENOMEM`: no memory for the contents. Always `ENOMEM` if `len` is more than the
    ///   machine's memory and swap.
    /// * `FileTooLarge`: the length does not fit into the address space.
    /// * `InvalidInput`: the name has a NUL byte or is longer than 249 bytes.
    /// * `EMFILE`, `ENFILE`: no descriptor left; it takes two.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// let producer = Producer::create("counters", 4096)?;
    /// assert_eq!(producer.len(), 4096);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create(name: &str, len: u64) -> io::Result<Self> {
        CreateOptions::new().create_producer(name, len)
    }

    /// Creates a live file of `len` bytes that `fill` writes in place, before anybody can see it.
    /// The slice is zeroed and page-aligned.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and whatever `fill` returns.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// let producer = Producer::build("blank page", 4096, |bytes| {
    ///     bytes.fill(b' ');
    ///     Ok(())
    /// })?;
    /// assert_eq!(producer.file().map_live()?.to_vec(..2)?, b"  ");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build(
        name: &str,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        CreateOptions::new().build_producer(name, len, fill)
    }

    /// Maps a draft, whose memory is reserved and of which no map is left, and seals it against
    /// everybody else. Its mode lets nobody write.
    pub(crate) fn new(draft: SealedFile<Unsealed>) -> io::Result<Self> {
        let file = draft.into_file();
        let extent = sys::extent(file.as_fd(), &sys::stat(file.as_fd())?)?;
        // Has to be there before the seal that allows no more of it.
        let map = Mapping::new(&file, extent, |options, file| options.map_raw(file))?;
        map.keep_from_children()?;
        let seals = Seals::FUTURE_WRITE | Seals::SHRINK | Seals::GROW;
        seals::add_and_confirm(&file, seals).map_err(|(reason, error)| match reason {
            SealFailure::Unsupported => io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel has no F_SEAL_FUTURE_WRITE (Linux 5.1 and later do)",
            ),
            _ => error,
        })?;
        let writable = SealedFile::<FutureWriteSealed>::confirmed(file, Some(extent));
        let file = writable.open_read_only()?;
        Ok(Self { map, writable, file })
    }

    /// The live file, as a description that is open for reading only, to share with readers: send
    /// it, clone it, or map it here. All descriptors that are sent share its offset;
    /// [`open_read_only`](SealedFile::open_read_only) makes one apart.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// use sealed_mmap::{SealPolicy, SealedFile};
    ///
    /// let producer = Producer::create("counters", 4096)?;
    /// let sent = producer.file().try_clone()?.into();
    /// let received = SealedFile::receive_future_write(sent, &SealPolicy::new())?;
    /// assert_eq!(received.map_live()?.len(), 4096);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn file(&self) -> &SealedFile<FutureWriteSealed> {
        &self.file
    }

    /// The length in bytes. It stays.
    pub fn len(&self) -> usize {
        self.map.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes. Readers may see any of its words before any other, but see all that earlier
    /// calls wrote before they see one of them.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing is written then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// let mut producer = Producer::create("log", 4096)?;
    /// let records = producer.file().map_live()?;
    /// producer.write_at(8, b"a record")?;
    /// producer.write_at(0, &1_usize.to_ne_bytes())?; // whoever sees this sees the record
    /// # assert_eq!(records.to_vec(8..16)?, b"a record");
    /// assert!(producer.write_at(4090, b"too long").is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let start = self.map.locate(offset, bytes.len() as u64)?;
        fence(Ordering::Release);
        self.words_mut().write(start, bytes);
        Ok(())
    }

    /// Reads bytes back, as they were written last.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing is read then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// let mut producer = Producer::create("log", 4096)?;
    /// producer.write_at(3, b"a record")?;
    /// let mut word = [0; 6];
    /// producer.read_at(5, &mut word)?;
    /// assert_eq!(&word, b"record");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        let start = self.map.locate(offset, target.len() as u64)?;
        self.words().read(start, target);
        Ok(())
    }

    /// Ends writing: gives up the mapping, adds [`Seals::WRITE`] and [`Seals::SEAL`], and confirms
    /// them. Maps of readers stay, and show what no longer changes.
    ///
    /// # Errors
    ///
    /// The live file comes back, as the description that can still be
    /// [finished](SealedFile::finish), which is the way to try again. It is not for giving away:
    /// with it seals can be added. Writing is over even so.
    ///
    /// * [`PinnedPages`](SealFailure::PinnedPages) (`EBUSY`): a reader pins pages for I/O, with
    ///   `vmsplice(2)` or io_uring. That is waited for, for about a second. Readers that map, or
    ///   `read(2)`, without pause also hold pages for moments. That delays this call by some 0.3 s
    ///   (measured), rarely by more than it waits.
    /// * [`WritableMapping`](SealFailure::WritableMapping) (`EBUSY`): a child that was forked while
    ///   the producer was being created still runs, or, on kernels before 6.7 and its backports, somebody
    ///   maps the file through a writable descriptor.
    /// * [`NotAllowed`](SealFailure::NotAllowed) (`EPERM`): somebody has added [`Seals::SEAL`], see
    ///   [Not guaranteed](#not-guaranteed). It stays so.
    /// * [`Other`](SealFailure::Other), without an errno: somebody has added [`Seals::EXEC`], and with
    ///   that this kernel's write seal is not believed
    ///   ([`UntrustedWriteSeal`](crate::Refusal::UntrustedWriteSeal)). It stays so.
    ///
    /// # Examples
    ///
    /// A compositor lets its clients watch a keymap while the user edits it, and in the end gives
    /// out the immutable one, which clients parse in place. It is the same file: a client that has
    /// its descriptor already needs no other.
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// use sealed_mmap::{SealFailure, SealPolicy, SealedFile};
    ///
    /// let mut keymap = Producer::build("keymap", 16, |text| Ok(text.fill(b' ')))?;
    /// let sent = keymap.file().try_clone()?.into(); // to a client
    ///
    /// // The client. Only root could reserve memory through this descriptor; the producer has.
    /// let policy = SealPolicy::untrusted(1 << 20).reserve(false);
    /// let live = SealedFile::receive_future_write(sent, &policy)?;
    /// let preview = live.map_live()?;
    ///
    /// keymap.write_at(0, b"xkb_keymap {};")?;
    /// assert_eq!(preview.to_vec(..14)?, b"xkb_keymap {};");
    ///
    /// let mut finished = keymap.finish();
    /// for _ in 0..3 {
    ///     match finished {
    ///         // A client pins pages; nothing is lost.
    ///         Err(error) if error.reason() == SealFailure::PinnedPages => {
    ///             finished = error.into_file().finish();
    ///         }
    ///         _ => break,
    ///     }
    /// }
    /// let keymap = finished?;
    ///
    /// // The client is told, and takes the file that it has as an immutable one.
    /// let text = SealedFile::receive_read_only(live.into(), &policy)?.map_read_only()?;
    /// assert_eq!(&text[..14], b"xkb_keymap {};"); // a `&[u8]`
    ///
    /// // Others only get the immutable one, through which they can reserve memory.
    /// let sent = keymap.try_clone()?.into();
    /// let received = SealedFile::receive_read_only(sent, &SealPolicy::untrusted(1 << 20))?;
    /// assert_eq!(received.map_read_only()?[..], text[..]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "F_SEAL_WRITE")]
    pub fn finish(
        self,
    ) -> Result<SealedFile<ReadOnlySealed>, SealError<SealedFile<FutureWriteSealed>>> {
        let Self { map, writable, .. } = self;
        drop(map);
        writable.finish()
    }

    pub(crate) fn words(&self) -> Words<'_> {
        self.map.words()
    }

    pub(crate) fn words_mut(&mut self) -> WordsMut<'_> {
        // SAFETY: `WordsMut::new` wants memory that can be written. `new` makes this mapping with
        // `MmapOptions::map_raw`, "a writeable memory map".
        unsafe { WordsMut::new(self.words()) }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("len", &self.len())
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// A reader's view of a live file, from [`SealedFile::map_live`].
///
/// It copies out. There is no slice of it, for the producer goes on writing. It owns its mapping:
/// the file may be dropped, and the map moved to other threads or kept forever, after the producer
/// has ended too.
///
/// # Guarantees
///
/// * Each aligned `usize` is read whole. Whether that is a value that somebody stored is up to the
///   producer: a [`Producer`] stores whole words, another program need not.
/// * Calls are in order: whoever has read what one [`Producer::write_at`] stored, even a single word,
///   reads in later calls nothing older than what was stored by the calls before it.
///
/// # Not guaranteed
///
/// * That what one call reads belongs together: words that the producer writes meanwhile are new or
///   old, each for itself.
/// * That reading cannot run out of memory, where a foreign producer left holes and there is none:
///   that is a `SIGBUS`, under `vm.overcommit_memory=2` or with hugetlb pages, unless the file was
///   received with [`SealPolicy::reserve`](crate::SealPolicy::reserve). A [`Producer`] leaves none.
///
/// # Examples
///
/// ```
/// # use sealed_mmap::Producer;
/// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
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
pub struct LiveMap {
    /// Read-only.
    map: Mapping,
}

impl LiveMap {
    pub(crate) fn new(file: &SealedFile<FutureWriteSealed>) -> io::Result<Self> {
        // Old kernels count every shared mapping of a writable descriptor as one that can write,
        // and the producer could not finish.
        let read_only =
            if sys::is_writable(file.as_fd())? { file.open_read_only().ok() } else { None };
        let mapped = read_only.as_ref().unwrap_or(file);
        let map = Mapping::new(mapped.as_file(), file.extent()?, |options, file| {
            options.map_raw_read_only(file)
        })?;
        Ok(Self { map })
    }

    pub(crate) fn words(&self) -> Words<'_> {
        self.map.words()
    }

    /// The length in bytes. It stays, whatever becomes of the file.
    pub fn len(&self) -> usize {
        self.map.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out, as they are at this moment, word for word.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing is read then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// let mut producer = Producer::create("greeting", 5)?;
    /// let map = producer.file().map_live()?;
    /// producer.write_at(0, b"hello")?;
    ///
    /// let mut end = [0; 2];
    /// map.read_at(3, &mut end)?;
    /// assert_eq!(&end, b"lo");
    /// assert!(map.read_at(4, &mut end).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        let start = self.map.locate(offset, target.len() as u64)?;
        self.words().read(start, target);
        fence(Ordering::Acquire);
        Ok(())
    }

    /// [`read_at`](Self::read_at) into a new vector.
    ///
    /// Like every vector it ends the process if there is no memory for it: bound the length of a
    /// foreign file by the [policy](crate::SealPolicy::len), or use `read_at`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]. A range that ends before it begins is out of bounds, too; its `len` is the difference
    /// modulo 2⁶⁴.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// let mut producer = Producer::create("greeting", 5)?;
    /// producer.write_at(0, b"hello")?;
    /// let map = producer.file().map_live()?;
    /// assert_eq!(map.to_vec(..)?, b"hello");
    /// assert_eq!(map.to_vec(1..=2)?, b"el");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn to_vec(&self, range: impl RangeBounds<u64>) -> Result<Vec<u8>, OutOfBounds> {
        let offset = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.map.len as u64,
        };
        let len = end.wrapping_sub(offset);
        self.map.locate(offset, len)?;
        let mut bytes = vec![0; len as usize];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Debug for LiveMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

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
