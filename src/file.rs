//! The file, and what its states have in common. Each state's own methods are in a file of its name.

// In the order of a file's life, in which the documentation shows them.
mod unsealed;

mod read_only;

mod future_write;

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use crate::receive;
use crate::state::{Extent, ReadOnlySealed, Sealed, State, Unsealed};
use crate::sys;
use crate::{HugePages, SealPolicy, Seals, get_seals};

/// A file in memory, and in its type what the kernel has promised about it.
///
/// | state | got by | promised | allowed |
/// |---|---|---|---|
/// | [`Unsealed`] | [`create`](Self::create) | nothing; this is the only handle | write, resize, [`map_mut`](SealedFile::map_mut) |
/// | [`ReadOnlySealed`] | [`seal_read_only`](SealedFile::seal_read_only), [`from_bytes`](SealedFile::from_bytes), [`receive_read_only`](SealedFile::receive_read_only), … | no byte changes, forever | share, clone, [`map_read_only`](SealedFile::map_read_only) → `&[u8]` |
/// | [`FutureWriteSealed`](crate::FutureWriteSealed) | [`Producer::file`](crate::Producer::file), [`receive_future_write`](SealedFile::receive_future_write) | nobody new writes | share, clone, [`map_live`](SealedFile::map_live) → copies |
///
/// The type parameter need not be written: the constructors fix it, and where a type has to be
/// named, `SealedFile` alone is the immutable file.
///
/// # Examples
///
/// ```
/// use sealed_mmap::SealedFile;
/// use std::io::Write;
///
/// let mut draft = SealedFile::create("greeting")?;
/// draft.write_all(b"hello")?;
/// let file: SealedFile = draft.seal_read_only()?;
/// assert_eq!(&file.map_read_only()?[..], b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A draft cannot be shared:
///
/// ```compile_fail,E0277
/// use std::os::fd::AsFd;
///
/// let draft = sealed_mmap::SealedFile::create("draft")?;
/// let descriptor = AsFd::as_fd(&draft);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SealedFile<S: State = ReadOnlySealed> {
    file: File,
    known: S::Known,
}

impl SealedFile<Unsealed> {
    /// The caller has just created `file` and keeps no other handle to it.
    pub(crate) fn unsealed(file: File, huge_pages: HugePages) -> Self {
        Self { file, known: huge_pages }
    }
}

/// Every state.
impl<S: State> SealedFile<S> {
    /// What `fstat(2)` says of the file.
    ///
    /// # Errors
    ///
    /// Those of [`File::metadata`].
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// assert_eq!(file.metadata()?.len(), 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// The seals that the file carries now: at least [`S::REQUIRED`](State::REQUIRED).
    ///
    /// # Errors
    ///
    /// As [`get_seals`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealedFile, Seals};
    ///
    /// let file = SealedFile::from_bytes("greeting", b"hello")?;
    /// assert!(file.get_seals()?.contains(Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "F_GET_SEALS")]
    pub fn get_seals(&self) -> io::Result<Seals> {
        get_seals(&self.file)
    }

    /// For the modules that make system calls; never handed out.
    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }
}

/// Both sealed states.
impl<S: Sealed> SealedFile<S> {
    /// The only way into a sealed state. Every caller has seen `F_GET_SEALS` report `S::REQUIRED`
    /// in a combination that the kernel enforces ([`write_seal_is_enforced`]), and `extent` was
    /// true of the file then or later. It may be left out, to be asked for when it is needed, where
    /// the file also cannot grow: the answer is the same whenever it is asked for.
    ///
    /// [`write_seal_is_enforced`]: crate::seals::write_seal_is_enforced
    pub(crate) fn confirmed(file: File, extent: Option<Extent>) -> Self {
        Self { file, known: extent }
    }

    pub(crate) fn extent(&self) -> io::Result<Extent> {
        match self.known {
            Some(extent) => Ok(extent),
            None => sys::extent(self.as_fd(), &sys::stat(self.as_fd())?),
        }
    }

    /// The length in bytes, as it was found when the seals had been confirmed. A file without
    /// [`Seals::GROW`] may have become longer since; what was added is not mapped, though reading
    /// and seeking show the file as it is now.
    ///
    /// # Errors
    ///
    /// Those of `fstat(2)`, which is asked only if nobody knew the length when the file was sealed.
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// assert_eq!(file.len()?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.extent()?.len)
    }

    /// Whether [`len`](Self::len) is 0.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(sealed_mmap::SealedFile::from_bytes("nothing", b"")?.is_empty()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// A second descriptor of the same open file: it shares the offset, and is close-on-exec.
    ///
    /// # Errors
    ///
    /// * `EMFILE`: no descriptor left.
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// assert_eq!(file.try_clone()?.map_read_only()?[..], file.map_read_only()?[..]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "dup")]
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, known: self.known })
    }

    /// Opens the same file anew, read-only (and `O_NONBLOCK`, which means nothing to such a file) and
    /// with an offset of its own, at 0.
    ///
    /// # Errors
    ///
    /// * `Unsupported`: `/proc` is not mounted, or leads to another file.
    /// * `EACCES`: the mode bits, or a security policy, do not let this user open it. SELinux as
    ///   Android has it may keep apps from opening any memfd anew.
    /// * `InvalidData`: meanwhile somebody has added seals, or length, with which it would not be
    ///   received any more either (see [`Refusal`](crate::Refusal)).
    /// * `WouldBlock`: somebody holds a write lease on the file (`F_SETLEASE`).
    /// * `EMFILE`, `ENFILE`: no descriptor left.
    ///
    /// # Platform-specific
    ///
    /// Needs `/proc/self/fd`. Always `Unsupported` on FreeBSD.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Read;
    ///
    /// let mut file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// let mut text = String::new();
    /// file.reopen()?.read_to_string(&mut text)?;
    /// assert_eq!(text, "hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reopen(&self) -> io::Result<Self> {
        let fd = sys::reopen(self.as_fd(), false)?;
        // Judged like a stranger's, so that nothing rests on /proc having told the truth.
        let as_long = SealPolicy::new().allow_hugetlb(true).len(self.len()?..);
        receive::verify::<S>(fd.as_fd(), &as_long)?;
        Ok(Self { file: fd.into(), known: self.known })
    }
}

impl<S: State> fmt::Debug for SealedFile<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedFile")
            .field("state", &format_args!("{}", S::NAME))
            .field("fd", &self.file.as_raw_fd())
            .finish_non_exhaustive()
    }
}

impl<S: State> Read for SealedFile<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        self.file.read_vectored(buffers)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.file.read_to_end(buffer)
    }

    fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
        self.file.read_to_string(buffer)
    }
}

impl<S: State> Seek for SealedFile<S> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Reading at an offset, in every state. Writing succeeds only while the file is [`Unsealed`];
/// afterwards it is `EPERM`, `EBADF` through a read-only descriptor, `EINVAL` on hugetlb pages.
impl<S: State> FileExt for SealedFile<S> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset).map_err(|error| S::explain_write(self.known, error))
    }
}

impl<S: Sealed> AsFd for SealedFile<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<S: Sealed> AsRawFd for SealedFile<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Leaves the typestate.
impl<S: State> From<SealedFile<S>> for File {
    fn from(file: SealedFile<S>) -> Self {
        file.file
    }
}

/// Leaves the typestate.
impl<S: State> From<SealedFile<S>> for OwnedFd {
    fn from(file: SealedFile<S>) -> Self {
        file.file.into()
    }
}

/// Leaves the typestate.
impl<S: State> IntoRawFd for SealedFile<S> {
    fn into_raw_fd(self) -> RawFd {
        self.file.into_raw_fd()
    }
}

/// Leaves the typestate: the file becomes a child's standard input, output or error.
impl<S: State> From<SealedFile<S>> for Stdio {
    fn from(file: SealedFile<S>) -> Self {
        file.file.into()
    }
}
