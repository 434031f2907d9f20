//! The only writer of a live file.
#![allow(unsafe_code, reason = "only its maker knows that a mapping can be written")]

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};

use crate::create::CreateOptions;
use crate::failure::explained;
use crate::file::draft::SealError;
use crate::file::sealed::SealedFile;
use crate::live::{Mapping, Words, WordsMut};
use crate::map::OutOfBounds;
use crate::sealing::{self, SealFailure};
use crate::seals::Seals;
use crate::state::{FutureWriteSealed, ReadOnlySealed, Unsealed};
use crate::sys;

impl CreateOptions {
    /// Creates a live file of `len` zeros, and its only writer.
    ///
    /// # Errors
    ///
    /// As [`Producer::create`] and [`create`](Self::create), and:
    ///
    /// * `InvalidInput`: the options make the file executable, which a live file never is, or its
    ///   [mode](Self::mode) has write bits, which a live file never has; or, for hugetlb pages, the length
    ///   is not a multiple of the page size.
    /// * `EPERM`: the options do not allow sealing.
    ///
    /// # Examples
    ///
    /// ```
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use sealed_mmap::{CreateOptions, HugePages};
    ///
    /// let options = CreateOptions::new().huge_pages(HugePages::Transparent);
    /// let mut producer = options.create_producer("frames", 1 << 20)?;
    /// producer.write_at(0, b"the first of them")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create_producer(&self, name: &str, len: u64) -> io::Result<Producer> {
        self.build_producer(name, len, |_| Ok(()))
    }

    /// Creates a live file of `len` bytes that `fill` writes in place, and its only writer, as
    /// [`Producer::build`] does.
    ///
    /// # Errors
    ///
    /// As [`create_producer`](Self::create_producer), and whatever `fill` returns. On a kernel without
    /// live files, `fill` has run already when the error is found.
    pub fn build_producer(
        &self,
        name: &str,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Producer> {
        if self.is_executable() {
            let message = "a live file cannot be executable";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mode = self.checked_mode()?.unwrap_or(0o444);
        if mode & 0o222 != 0 {
            let message = format!("the mode {mode:#o} has write bits, which a live file never has");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // `EXEC` beside `FUTURE_WRITE` would make `WRITE` untrustworthy
        // (`sealing::write_seal_is_enforced`).
        let mut file = self.exec_seal(false).mode(mode.into()).create(name)?;
        // A map of its own, so that no slice is left when the file is sealed and shared.
        fill(&mut file.map_mut_with_len(len)?)?;
        Producer::new(file, self.has_final_seals())
    }
}

/// The only writer of a live file that any number of readers watch.
///
/// The producer holds the one mapping through which the file can still be written. The kernel has
/// promised readers that nobody else writes and that the length stays ([`Seals::FUTURE_WRITE`],
/// [`SHRINK`](Seals::SHRINK), [`GROW`](Seals::GROW)). [`finish`](Self::finish) makes the file immutable.
///
/// # Guarantees
///
/// * Readers see each aligned `usize` of the file whole, as some call stored it. Nothing larger is whole:
///   a read that overlaps a write gets some words new and some old. For the newest complete value there
///   is [`latest`](crate::latest); records need an order of their own.
/// * Calls are ordered: a reader that has read what one `write_at` stored, even a single word, reads in
///   later calls nothing older than what the calls before that one stored.
/// * Memory for the whole file is reserved, so writing does not run out of memory.
/// * A child of `fork(2)` does not inherit the mapping. It must neither use nor drop the producer,
///   because something else of the child's may be at that address. A child that is forked while the
///   producer is being created may inherit the mapping, and then keeps the file from being finished until
///   the child ends.
/// * Dropping the producer ends writing, not reading. The file can then never be finished.
///
/// # Not guaranteed
///
/// * That nobody prevents finishing. [`finish`](Self::finish) fails for good once somebody has added
///   [`Seals::SEAL`], or [`Seals::EXEC`] on a kernel whose write seal cannot be trusted beside it.
///   Another user, with the descriptor from [`file`](Self::file), can add no seal and open no writable
///   descriptor, because the file's mode is `0444`. The same user can change the mode back and open the
///   file for writing, and root can do so without changing the mode. Even then they can only add seals,
///   and write nothing; [`final_seals`](CreateOptions::final_seals) keeps them from that, for a file that
///   is never to be finished. And any reader can pin pages (`EBUSY`), for as long as it likes.
/// * That nobody else writes, on a kernel that lets udmabuf write: see
///   [Known holes in kernels](crate::soundness#known-holes-in-kernels).
/// * That a reader sees every value: values that are overwritten are gone.
///
/// # Platform-specific
///
/// Linux and Android, from Linux 5.1 (the guarantees are claimed from 5.4.4), with `/proc` mounted
/// (`/proc/thread-self/fd`, Linux 3.17). Under `vm.memfd_noexec=2` no file can be created without
/// [`Seals::EXEC`], and so no producer.
///
/// # Examples
///
/// ```
/// use sealed_mmap::Producer;
/// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
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
    /// Read-only, for sharing.
    file: SealedFile<FutureWriteSealed>,
}

impl Producer {
    /// Creates a live file of `len` zeros. [`Producer`] has an example.
    ///
    /// # Errors
    ///
    /// * `Unsupported`: before Linux 5.1 and on FreeBSD, under `vm.memfd_noexec=2`, or without `/proc`.
    /// * `EACCES`: a security policy does not let this program reopen its own memfd (such as Android's
    ///   SELinux policy for apps).
    /// * `ENOSPC`, `ENOMEM`: no memory for the contents. Always `ENOMEM` if `len` is more than the
    ///   machine's memory and swap.
    /// * `OutOfMemory`: too much locked memory, as for [`map_read_only`](SealedFile::map_read_only).
    /// * `FileTooLarge`: the length does not fit into the address space.
    /// * `InvalidInput`: the name has a NUL byte or is longer than 249 bytes.
    /// * `EMFILE`, `ENFILE`: no descriptor left; a producer requires two.
    pub fn create(name: &str, len: u64) -> io::Result<Self> {
        CreateOptions::new().create_producer(name, len)
    }

    /// Creates a live file of `len` bytes that `fill` writes in place, before anybody else can see the
    /// file. The slice is zeroed and page-aligned.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and whatever `fill` returns.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
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

    /// Returns whether live files are supported here and now, by creating one.
    ///
    /// They are not before Linux 5.1, on FreeBSD, under `vm.memfd_noexec=2`, without `/proc`, or in a
    /// sandbox that denies what [`create`](Self::create) requires. The error of `create` says which.
    ///
    /// # Examples
    ///
    /// ```
    /// if !sealed_mmap::Producer::is_supported() {
    ///     eprintln!("no live files here: sending a new immutable file for every change");
    /// }
    /// ```
    #[must_use]
    pub fn is_supported() -> bool {
        Self::create("sealed-mmap-producer-test", 0).is_ok()
    }

    /// Maps a draft, whose memory is reserved and which is not mapped, and seals it against every other
    /// writer. The file's mode allows nobody to open it for writing.
    fn new(draft: SealedFile<Unsealed>, has_final_seals: bool) -> io::Result<Self> {
        let file = draft.into_inner();
        let extent = sys::extent(file.as_fd(), &sys::stat(file.as_fd())?)?;
        // Has to be there before the seal that allows no more of it.
        // SAFETY: nobody else has the file, so it stays as long as it is until it carries SHRINK; where
        // it does not come to that, the mapping is dropped here.
        let map = unsafe { Mapping::writable(&file, extent) }?;
        let mut seals = Seals::FUTURE_WRITE | Seals::SHRINK | Seals::GROW;
        seals.set(Seals::SEAL, has_final_seals);
        sealing::add_and_confirm(file.as_fd(), seals).map_err(|(reason, error)| match reason {
            SealFailure::Unsupported => explained(
                io::ErrorKind::Unsupported,
                "the kernel has no F_SEAL_FUTURE_WRITE (Linux 5.1 and later do)",
                error,
            ),
            _ => error,
        })?;
        // SAFETY: `F_GET_SEALS` has reported FUTURE_WRITE and SHRINK, and the extent is what it was when
        // nobody else had the file.
        let writable = unsafe { SealedFile::<FutureWriteSealed>::sealed(file, Some(extent)) };
        let file = writable.reopen()?;
        Ok(Self { map, writable, file })
    }

    /// Returns the live file, to share with readers: send it, clone it, or map it here.
    ///
    /// It is a description of its own, open for reading only. All descriptors that are sent share the
    /// offset of that description; [`reopen`](SealedFile::reopen) makes a separate one.
    pub fn file(&self) -> &SealedFile<FutureWriteSealed> {
        &self.file
    }

    /// Returns the length in bytes. It never changes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes. Readers may see the words of one call in any order, but they see all that earlier
    /// calls wrote before they see any of these words.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]. Nothing is written then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// let mut producer = Producer::create("log", 4096)?;
    /// let records = producer.file().map_live()?;
    /// producer.write_at(8, b"a record")?;
    /// producer.write_at(0, &1_usize.to_ne_bytes())?; // whoever sees this sees the record
    /// # assert_eq!(records.to_vec(8..16)?, b"a record");
    /// assert!(producer.write_at(4090, b"too long").is_err());
    ///
    /// let mut word = [0; 6];
    /// producer.read_at(10, &mut word)?; // the producer reads back what it wrote
    /// assert_eq!(&word, b"record");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let start = self.map.locate(offset, bytes.len())?;
        fence(Ordering::Release);
        self.words_mut().write(start, bytes);
        Ok(())
    }

    /// Stores one word, whole: what [`write_at`](Self::write_at) does with an aligned `usize`, in a
    /// fraction of the time, and ordered in the same way. Readers [load](crate::LiveMap::load) it.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]: the offset, in bytes, is not a multiple of the word's size (4 or 8), or the word
    /// does not lie within the file. Nothing is written then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// let mut producer = Producer::create("log", 4096)?;
    /// let records = producer.file().map_live()?;
    /// producer.write_at(8, b"a record")?;
    /// producer.store(0, 1)?; // whoever sees this sees the record
    /// assert_eq!(records.load(0)?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn store(&mut self, offset: u64, value: usize) -> Result<(), OutOfBounds> {
        let word = self.map.word(offset)?;
        fence(Ordering::Release);
        self.words_mut().store(word, value);
        Ok(())
    }

    /// Adds to one word, as to a counter, and returns the old value. It wraps around at the end of `usize`.
    ///
    /// Readers see the old word or the new one. No other instruction than a load and a store is needed,
    /// for nobody else writes.
    ///
    /// # Errors
    ///
    /// As [`store`](Self::store).
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// let mut producer = Producer::create("counters", 64)?;
    /// let counters = producer.file().map_live()?;
    /// assert_eq!(producer.add(16, 5)?, 0);
    /// assert_eq!(producer.add(16, 1)?, 5);
    /// assert_eq!(counters.load(16)?, 6);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn add(&mut self, offset: u64, value: usize) -> Result<usize, OutOfBounds> {
        let word = self.map.word(offset)?;
        let old = self.words().load(word);
        fence(Ordering::Release);
        self.words_mut().store(word, old.wrapping_add(value));
        Ok(old)
    }

    /// Returns where the producer's mapping begins, for code that this crate cannot call: a C library
    /// that renders into it, a device. The address begins a page. An empty file has one, too, with no
    /// bytes behind it.
    ///
    /// Getting the pointer is safe. Whoever uses it promises that
    ///
    /// * nothing is read or written beyond [`len`](Self::len) bytes, or after the producer has been
    ///   dropped or [finished](Self::finish);
    /// * no method of this producer writes meanwhile, and none that reads runs while bytes are written
    ///   through the pointer other than by whole, aligned words
    ///   ([`AtomicUsize::from_ptr`](std::sync::atomic::AtomicUsize::from_ptr), `Relaxed`): a word that is
    ///   written in part is loaded, changed and stored, so one of two writers would be lost, and a plain
    ///   access beside an atomic one is a data race;
    /// * no reference to the memory is made while a [`LiveMap`](crate::LiveMap) of this process may read
    ///   it. Readers in other processes see what was written in any order and in any pieces;
    ///   what they need whole is [stored](Self::store) afterwards.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use std::os::fd::AsRawFd;
    ///
    /// let mut producer = Producer::create("frame", 4096)?;
    /// let source = std::fs::File::open("/dev/zero")?;
    ///
    /// // SAFETY: read(2) writes as many bytes as the file has, while the producer lives and does nothing
    /// // else, and nobody in this process reads the file.
    /// let count = unsafe { libc::read(source.as_raw_fd(), producer.as_ptr().cast(), producer.len()) };
    /// assert_eq!(count, 4096);
    /// producer.store(0, 1)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_ptr().cast_mut()
    }

    /// Reads bytes back, as they were written last. [`write_at`](Self::write_at) has an example.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]. Nothing is read then.
    #[inline]
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        let start = self.map.locate(offset, target.len())?;
        self.words().read(start, target);
        Ok(())
    }

    /// Ends writing: drops the mapping, adds [`Seals::WRITE`] and [`Seals::SEAL`], and confirms them.
    /// Readers' maps stay valid, and their bytes no longer change.
    ///
    /// # Errors
    ///
    /// Writing is over, and the live file comes back, to retry with [`SealedFile::finish`]. Its
    /// description is the writable one. Do not share it: through it, seals can be added.
    ///
    /// * [`PinnedPages`](SealFailure::PinnedPages) (`EBUSY`): a reader pins pages for I/O, with
    ///   `vmsplice(2)` or io_uring. Transient `EBUSY` is retried for about a second. Readers that map, or
    ///   `read(2)`, without pause also hold pages for moments. That delays this call by some 0.3 s
    ///   (measured), and rarely makes it fail.
    /// * [`WritableMapping`](SealFailure::WritableMapping) (`EBUSY`): a child that was forked while
    ///   the producer was being created still runs, or, on kernels before 6.7 and its backports, somebody
    ///   maps the file through a writable descriptor.
    /// * [`NotAllowed`](SealFailure::NotAllowed) (`EPERM`): the file has [final
    ///   seals](CreateOptions::final_seals), or somebody has added [`Seals::SEAL`], see
    ///   [Not guaranteed](#not-guaranteed). No retry helps.
    /// * [`UntrustedWriteSeal`](SealFailure::UntrustedWriteSeal): somebody has added [`Seals::EXEC`],
    ///   and this kernel does not enforce a write seal beside it. No retry helps.
    ///
    /// # Examples
    ///
    /// A compositor lets its clients watch a keymap while the user edits it. In the end it finishes the
    /// keymap, which clients then parse in place. The file is the same: a client that has its descriptor
    /// needs no other.
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use sealed_mmap::{SealFailure, SealPolicy, SealedFile};
    ///
    /// let mut keymap = Producer::build("keymap", 16, |text| Ok(text.fill(b' ')))?;
    /// let sent = keymap.file().try_clone()?; // to a client
    ///
    /// // The client. Nobody promises it memory for holes; this producer leaves none.
    /// let policy = SealPolicy::untrusted_live(1 << 20);
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
    /// // The client is told, and receives the file that it has as an immutable one.
    /// let text = SealedFile::receive_read_only(live, &policy)?.map_read_only()?;
    /// assert_eq!(&text[..14], b"xkb_keymap {};"); // a `&[u8]`
    ///
    /// // Others only get the immutable one, through which they can reserve memory.
    /// let sent = keymap.try_clone()?;
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

    #[inline]
    pub(crate) fn words(&self) -> Words<'_> {
        self.map.words()
    }

    #[inline]
    pub(crate) fn words_mut(&mut self) -> WordsMut<'_> {
        // SAFETY: `new` has made this mapping with `Mapping::writable`.
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
