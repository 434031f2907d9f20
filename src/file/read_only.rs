//! Immutable files: making one in one call, taking one from a peer, and reading it.

use std::fs::File;
use std::io;
use std::ops::RangeBounds;
use std::os::fd::{AsFd, OwnedFd};

use crate::receive;
use crate::state::ReadOnlySealed;
use crate::{CreateOptions, OutOfBounds, ReadOnlyMap, ReceiveError, SealPolicy, SealedFile};

/// An immutable file.
impl SealedFile<ReadOnlySealed> {
    /// Creates an immutable file that holds `bytes`, with the default [`CreateOptions`].
    ///
    /// # Errors
    ///
    /// As [`CreateOptions::from_bytes`].
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_bytes(name: &str, bytes: impl AsRef<[u8]>) -> io::Result<Self> {
        CreateOptions::new().from_bytes(name, bytes)
    }

    /// Creates an immutable file of `len` bytes, which are what `fill` makes of a zeroed slice that
    /// begins at a multiple of 4096, with the default [`CreateOptions`].
    ///
    /// # Errors
    ///
    /// As [`CreateOptions::build`].
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::build("greeting", 5, |bytes| {
    ///     bytes.copy_from_slice(b"hello");
    ///     Ok(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build(
        name: &str,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        CreateOptions::new().build(name, len, fill)
    }

    /// Creates an immutable copy of a file, or of what a pipe or a socket gives until its end, with
    /// the default [`CreateOptions`].
    ///
    /// # Errors
    ///
    /// As [`CreateOptions::copy_of`], whose documentation says what a copy of a changing file is.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealedFile;
    /// use std::io::{ErrorKind, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (reader, mut writer) = UnixStream::pair()?;
    /// writer.write_all(b"hello")?;
    /// drop(writer);
    /// let file = SealedFile::copy_of("from a socket", &reader, 1024)?;
    /// assert_eq!(&file.map_read_only()?[..], b"hello");
    ///
    /// let error = SealedFile::copy_of("shorter", &file, 4).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn copy_of(name: &str, source: impl AsFd, limit: u64) -> io::Result<Self> {
        CreateOptions::new().copy_of(name, source, limit)
    }

    /// Takes an immutable file from a peer that need not be trusted, if it carries
    /// [`Seals::WRITE`](crate::Seals::WRITE) and [`Seals::SHRINK`](crate::Seals::SHRINK), the kernel
    /// enforces them, and the policy allows it. Adds no seal and changes no byte.
    ///
    /// For a hostile peer use [`SealPolicy::untrusted`].
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    /// use std::os::fd::OwnedFd;
    ///
    /// fn parse(received: OwnedFd) -> std::io::Result<usize> {
    ///     let file = SealedFile::receive_read_only(received, &SealPolicy::untrusted(1 << 20))?;
    ///     let bytes = file.map_read_only()?; // no copy, and nobody can change it
    ///     Ok(bytes.iter().filter(|byte| **byte == b'\n').count())
    /// }
    /// # let sent = SealedFile::from_bytes("lines", b"one\ntwo\n")?;
    /// # assert_eq!(parse(sent.into())?, 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn receive_read_only(
        fd: impl Into<OwnedFd>,
        policy: &SealPolicy,
    ) -> Result<Self, ReceiveError> {
        receive::receive(fd.into(), policy)
    }

    /// Takes a file and makes it immutable first where it is not: adds the seals that the state or
    /// the policy requires and the file lacks, and with them [`Seals::SEAL`](crate::Seals::SEAL),
    /// unless the policy forbids that. A file that lacks none is left as it is. A file that the policy
    /// would refuse in any case is not sealed; one that fails only when memory is
    /// [reserved](SealPolicy::reserve) for it comes back sealed.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor.
    /// [`MissingSeals`](crate::Refusal::MissingSeals) where no seal can be added (`EPERM`), and
    /// [`CannotSeal`](crate::Refusal::CannotSeal) with `EBUSY` where somebody maps the file for
    /// writing or has pinned its pages. The latter is waited for for about a second, the former for
    /// some milliseconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile, Seals};
    ///
    /// let file = SealedFile::create("draft")?.into_file();
    /// let sealed = SealedFile::adopt_read_only(file, &SealPolicy::new())?;
    /// assert!(sealed.get_seals()?.contains(Seals::WRITE | Seals::SHRINK | Seals::SEAL));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn adopt_read_only(
        fd: impl Into<OwnedFd>,
        policy: &SealPolicy,
    ) -> Result<Self, ReceiveError> {
        receive::adopt(fd.into(), policy)
    }

    /// Takes an immutable file, or a copy of a regular file that is not sealed in a way that can be
    /// relied on. Either way the result is immutable; which of the two it is makes no difference
    /// to the caller but in time and memory.
    ///
    /// A copy is made where the refusal would be [`NotSealable`], [`MissingSeals`] or
    /// [`UntrustedWriteSeal`], and only of regular files, for a pipe need never end. The policy's
    /// length and owner are judged for a copy too, its seals are not. What
    /// [`copy_of`](Self::copy_of) says about files that change meanwhile holds.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor; [`Io`] with `EFBIG` if the file has more
    /// than `copy_limit` bytes. Reading a file on a slow or hostile file system (network, FUSE, some of
    /// procfs) may block.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    ///
    /// let plain = std::fs::File::open("Cargo.toml")?;
    /// let file = SealedFile::receive_or_copy(plain, &SealPolicy::new(), 1 << 20)?;
    /// assert_eq!(&file.map_read_only()?[..], std::fs::read("Cargo.toml")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// [`NotSealable`]: crate::Refusal::NotSealable
    /// [`MissingSeals`]: crate::Refusal::MissingSeals
    /// [`UntrustedWriteSeal`]: crate::Refusal::UntrustedWriteSeal
    /// [`Io`]: crate::Refusal::Io
    pub fn receive_or_copy(
        fd: impl Into<OwnedFd>,
        policy: &SealPolicy,
        copy_limit: u64,
    ) -> Result<Self, ReceiveError> {
        receive::receive_or_copy(fd.into(), policy, copy_limit)
    }

    /// Maps the whole file.
    ///
    /// # Errors
    ///
    /// * `ENOMEM`: no address space or no mapping left.
    /// * Those of [`reopen`](Self::reopen), for hugetlb pages before Linux 6.7, which
    ///   makes that necessary.
    /// * `FileTooLarge`: the length does not fit into the address space (32-bit); use
    ///   [`map_range`](Self::map_range).
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// let map = file.map_read_only()?;
    /// assert_eq!(&map[..], b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "mmap")]
    pub fn map_read_only(&self) -> io::Result<ReadOnlyMap> {
        let extent = self.extent()?;
        ReadOnlyMap::new(self, extent, 0, extent.len)
    }

    /// Maps a range of bytes, which may begin and end anywhere.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`, with an [`OutOfBounds`](crate::OutOfBounds) inside: the range is not within
    ///   the file.
    /// * `EOVERFLOW`, `EINVAL`: the offset is beyond what the kernel can map (16 TiB on 32-bit).
    /// * Otherwise as [`map_read_only`](Self::map_read_only).
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello world")?;
    /// assert_eq!(&file.map_range(6..)?[..], b"world");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn map_range(&self, range: impl RangeBounds<u64>) -> io::Result<ReadOnlyMap> {
        let extent = self.extent()?;
        let range = OutOfBounds::check(range, extent.len)?;
        ReadOnlyMap::new(self, extent, range.start, range.end - range.start)
    }

    /// Takes memory for every hole, now and for good, so that no access to a map of this file ends
    /// in `SIGBUS` for lack of it. A sender can leave holes, and can hide that from a check. A file
    /// made by this crate's one-call writers has none.
    ///
    /// # Errors
    ///
    /// * `ENOSPC`, `ENOMEM`: not enough memory. What was taken until then stays with the file (on
    ///   hugetlb pages, and where signals made the kernel go in steps). A length beyond the machine's
    ///   memory and swap is refused before it is tried. Below that, a machine without strict
    ///   overcommit or a memory cgroup may call its OOM killer instead, so bound the length first.
    /// * `EACCES`, `Unsupported`, `WouldBlock`: the descriptor is read-only, and the file cannot be
    ///   opened for writing through `/proc/self/fd`: its mode forbids it, there is no `/proc`, or
    ///   somebody holds a lease on it (`F_SETLEASE`).
    ///
    /// # Platform-specific
    ///
    /// On FreeBSD the kernel does not reserve memory.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("sparse")?;
    /// draft.set_len(1 << 20)?; // one hole
    /// let file = draft.seal_read_only()?;
    /// file.reserve()?;
    /// assert!(file.map_read_only()?.iter().all(|byte| *byte == 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fallocate")]
    pub fn reserve(&self) -> io::Result<()> {
        receive::reserve(self.as_fd(), self.len()?)
    }
}

/// [`SealedFile::receive_read_only`] under the default policy.
impl TryFrom<OwnedFd> for SealedFile<ReadOnlySealed> {
    type Error = ReceiveError;

    fn try_from(fd: OwnedFd) -> Result<Self, ReceiveError> {
        Self::receive_read_only(fd, &SealPolicy::new())
    }
}

/// [`SealedFile::receive_read_only`] under the default policy.
impl TryFrom<File> for SealedFile<ReadOnlySealed> {
    type Error = ReceiveError;

    fn try_from(file: File) -> Result<Self, ReceiveError> {
        Self::try_from(OwnedFd::from(file))
    }
}
