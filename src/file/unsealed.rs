//! Filling a file, and sealing it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use crate::map;
use crate::seals;
use crate::state::private::Internals;
use crate::state::{Extent, ReadOnlySealed, Unsealed};
use crate::sys;
use crate::{CreateOptions, HugePages, SealError, SealedFile, Seals, UnsealedMap};

/// The only handle to a file that is being filled.
impl SealedFile<Unsealed> {
    /// Creates an empty file with the default [`CreateOptions`].
    ///
    /// # Errors
    ///
    /// As [`CreateOptions::create`].
    ///
    /// # Examples
    ///
    /// ```
    /// let draft = sealed_mmap::SealedFile::create("draft")?;
    /// assert_eq!(draft.len()?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "memfd_create")]
    pub fn create(name: &str) -> io::Result<Self> {
        CreateOptions::new().create(name)
    }

    /// The length in bytes.
    ///
    /// # Errors
    ///
    /// Those of `fstat(2)`.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("draft")?;
    /// draft.set_len(3)?;
    /// assert_eq!(draft.len()?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn len(&self) -> io::Result<u64> {
        Ok(sys::stat(self.file.as_fd())?.len)
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(sealed_mmap::SealedFile::create("draft")?.is_empty()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file off, or extends it with zeros that take no memory yet.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the length is more than `i64::MAX`, or, for hugetlb pages, not a multiple of
    ///   the page size.
    /// * `EFBIG`: the length is more than the kernel allows.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("draft")?;
    /// draft.set_len(4096)?;
    /// assert!(draft.map_mut()?.iter().all(|byte| *byte == 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ftruncate")]
    pub fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(|error| {
            self.known.explain(error, "the length of a hugetlb file is a multiple of its page size")
        })
    }

    /// Maps the whole file as `&mut [u8]`, with memory reserved for all of it, so that writing
    /// never runs out.
    ///
    /// # Errors
    ///
    /// * `ENOSPC`, `ENOMEM`: not enough memory. A length beyond the machine's memory and swap is
    ///   refused before it is tried. Below that, a machine without strict overcommit or a memory
    ///   cgroup may call its OOM killer instead.
    /// * `StorageFull`, `OutOfMemory`: not enough pages in the hugetlb pool; the errno is the `source`.
    /// * `FileTooLarge`: the length does not fit into the address space.
    /// * `ENOMEM` also: no address space, or no mapping left (`vm.max_map_count`).
    ///
    /// # Platform-specific
    ///
    /// On FreeBSD the kernel does not reserve memory, and a child of `fork(2)` inherits the mapping.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("draft")?;
    /// draft.set_len(5)?;
    /// draft.map_mut()?.copy_from_slice(b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "mmap")]
    pub fn map_mut(&mut self) -> io::Result<UnsealedMap<'_>> {
        let len = self.len()?;
        UnsealedMap::new(self, len)
    }

    /// [`map_mut`](Self::map_mut) of a file that is still empty.
    pub(crate) fn map_mut_with_len(&mut self, len: u64) -> io::Result<UnsealedMap<'_>> {
        // Reserving plain pages extends the file by itself.
        if self.known != HugePages::None {
            map::address_space(len)?;
            self.set_len(len)?;
        }
        UnsealedMap::new(self, len)
    }

    pub(crate) fn explain_lack_of_memory(&self, error: io::Error) -> io::Error {
        self.known.explain_lack(error)
    }

    /// Makes the file immutable, for every process and forever: adds [`Seals::WRITE`],
    /// [`SHRINK`](Seals::SHRINK), [`GROW`](Seals::GROW) and [`SEAL`](Seals::SEAL) in one call and
    /// confirms them.
    ///
    /// The kernel looks at every page: that takes a microsecond for a small file and 2 to 15 µs more
    /// for each MiB, or next to nothing if the pages are [huge](crate::HugePages). Where another
    /// CPU wrote them last it takes tens of microseconds more, and milliseconds at worst. So seal on
    /// the thread that wrote, and before sharing, for a reader can pin pages and make sealing wait.
    ///
    /// # Errors
    ///
    /// The file comes back as it was; see [`SealFailure`](crate::SealFailure) for what can stand in
    /// the way. Most likely is [`WritableMapping`](crate::SealFailure::WritableMapping) (`EBUSY`): a
    /// map that was leaked, or a child that was forked while a map was being made and has not executed
    /// another program since (that is waited for, for some milliseconds). Pinned pages are waited for,
    /// for about a second.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let mut draft = sealed_mmap::SealedFile::create("greeting")?;
    /// draft.write_all(b"hello")?;
    /// let file = draft.seal_read_only()?;
    /// assert_eq!(&file.map_read_only()?[..], b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "F_ADD_SEALS")]
    pub fn seal_read_only(self) -> Result<SealedFile<ReadOnlySealed>, SealError> {
        // Many a sender never asks for the length.
        self.seal(None)
    }

    /// [`seal_read_only`](Self::seal_read_only) of a file whose length is known.
    pub(crate) fn seal_with_len(self, len: u64) -> Result<SealedFile<ReadOnlySealed>, SealError> {
        let is_plain = !matches!(self.known, HugePages::HugeTlb(_));
        self.seal(is_plain.then_some(Extent { len, huge_page: None }))
    }

    fn seal(self, extent: Option<Extent>) -> Result<SealedFile<ReadOnlySealed>, SealError> {
        let seals = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
        match seals::add_and_confirm(&self.file, seals) {
            Ok(()) => Ok(SealedFile::confirmed(self.file, extent)),
            Err(failure) => Err(SealError::new(failure, self)),
        }
    }

    /// Leaves the typestate with a plain file, which can be shared while it is still written.
    /// [`SealedFile::adopt_read_only`] leads back.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    /// use std::io::Write;
    ///
    /// let mut file = SealedFile::create("greeting")?.into_file();
    /// file.write_all(b"hello")?;
    /// let sealed = SealedFile::adopt_read_only(file, &SealPolicy::new())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_file(self) -> File {
        self.file
    }

    /// A second handle, for a self-test. It never leaves the crate.
    pub(crate) fn duplicate(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub(crate) fn wants_transparent_huge_pages(&self) -> bool {
        self.known == HugePages::Transparent && sys::huge_pages_on_advice()
    }
}

/// Writes at the file's offset. A hugetlb file cannot be written, only mapped.
impl Write for SealedFile<Unsealed> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| Unsealed::explain_write(self.known, error))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.file.write_vectored(slices).map_err(|error| Unsealed::explain_write(self.known, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
