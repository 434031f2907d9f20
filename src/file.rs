//! What all states of a file have in common. The methods of one state are in a file of its name.
#![allow(unsafe_code, reason = "a second handle of a sealed file is as sealed as the first")]

// In the order of a file's life, in which the documentation shows them.
pub(crate) mod draft;

pub(crate) mod immutable;

pub(crate) mod program;

pub(crate) mod live;

pub(crate) mod shared;

pub(crate) mod changing;

pub(crate) mod receive;
pub(crate) mod sealed;

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use crate::failure::while_doing;
use crate::file::sealed::SealedFile;
use crate::seals::Seals;
use crate::state::{Sealed, State};
use crate::sys::{self, Extent};

/// Every state.
impl<S: State> SealedFile<S> {
    /// Returns what `fstat(2)` reports about the file.
    ///
    /// # Errors
    ///
    /// As [`File::metadata`].
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// assert_eq!(file.metadata()?.len(), 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file().metadata()
    }

    /// Returns the seals that the file carries now: at least [`S::REQUIRED`](State::REQUIRED).
    ///
    /// # Errors
    ///
    /// As [`get_seals`](crate::get_seals).
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
        sys::get_seals(self.file().as_fd())
    }
}

/// Every sealed state.
impl<S: Sealed> SealedFile<S> {
    pub(crate) fn extent(&self) -> io::Result<Extent> {
        match self.known_extent() {
            Some(extent) => Ok(extent),
            None => sys::extent(self.as_fd(), &sys::stat(self.as_fd())?),
        }
    }

    /// Returns the length in bytes, as it was found after the seals had been confirmed.
    ///
    /// A file without [`Seals::GROW`] may have grown since. Reading and seeking reach the bytes that were
    /// added; maps do not, before [`refresh_len`](Self::refresh_len).
    ///
    /// # Errors
    ///
    /// Those of `fstat(2)`, which is called only if the length was not yet known when the file was sealed.
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

    /// Returns whether [`len`](Self::len) is 0.
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

    /// Takes over the length that the file has now, and returns it. A file without [`Seals::GROW`] may have
    /// become longer. It never becomes shorter.
    ///
    /// Maps that exist stay valid and as long as they are; new ones have the new length. Clones keep the
    /// length that they know. Memory that was [reserved](crate::SealPolicy::reserve) does not cover what was
    /// added.
    ///
    /// # Errors
    ///
    /// The length that was known stays.
    ///
    /// * `FileTooLarge`: the file is longer than `max` bytes now.
    /// * `InvalidData`: the file is made of hugetlb pages, and its length is not a multiple of the page size
    ///   any more, so that touching the last page would raise `SIGBUS`.
    /// * Those of `fstat(2)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile, Seals, add_seals};
    ///
    /// let client = SealedFile::create("pool")?.into_file();
    /// client.set_len(100)?;
    /// add_seals(&client, Seals::SHRINK)?;
    /// let policy = SealPolicy::untrusted_live(1000);
    /// let mut pool = SealedFile::receive_size_sealed(client.try_clone()?, &policy)?;
    ///
    /// client.set_len(200)?;
    /// assert_eq!(pool.len()?, 100);
    /// assert_eq!(pool.refresh_len(1000)?, 200);
    ///
    /// client.set_len(2000)?;
    /// let error = pool.refresh_len(1000).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    /// assert_eq!(pool.len()?, 200);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn refresh_len(&mut self, max: u64) -> io::Result<u64> {
        let extent = sys::extent(self.as_fd(), &sys::stat(self.as_fd())?)?;
        if extent.len > max {
            let message = format!("the file has {} bytes now, more than {max}", extent.len);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        if !extent.ends_at_a_page() {
            let message = "the file is made of hugetlb pages, and its length is not a multiple of the \
                           page size any more";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        // SAFETY: this has been seen just now, of a file that is sealed already.
        unsafe { self.set_extent(extent) };
        Ok(extent.len)
    }

    /// Duplicates the descriptor, close-on-exec. Both descriptors share one description, and so one offset.
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
        let same_file = self
            .file()
            .try_clone()
            .map_err(while_doing("duplicate the descriptor (F_DUPFD_CLOEXEC)"))?;
        // SAFETY: it is another descriptor of the file that `self` makes the same statements of, and
        // seals are never removed.
        Ok(unsafe { Self::sealed(same_file, self.known_extent()) })
    }

    /// Reopens the file as a description of its own: read-only, with its offset at 0.
    ///
    /// # Errors
    ///
    /// * `Unsupported`: `/proc` is not mounted, or leads to another file.
    /// * `EACCES`: the mode bits, or a security policy, do not let this user open the file. Android's
    ///   SELinux policy may keep apps from reopening any memfd.
    /// * `WouldBlock`: somebody holds a write lease on the file (`F_SETLEASE`).
    /// * `EMFILE`, `ENFILE`: no descriptor left.
    ///
    /// # Platform-specific
    ///
    /// Requires `/proc/thread-self/fd` (Linux 3.17). Always `Unsupported` on FreeBSD.
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
        let same_file = sys::reopen(self.as_fd(), false)?;
        sys::clear_nonblocking(same_file.as_fd())?;
        // SAFETY: as in `try_clone`: it is the same file by device and inode number (inode(7)), which
        // `sys::reopen` has compared. Should they lie (memfds are numbered by a counter of 32 bits,
        // `get_next_ino` in fs/inode.c), the statements hold of the other file, too: it carries the
        // seals and is as long, which `sys::reopen` has seen.
        Ok(unsafe { Self::sealed(same_file.into(), self.known_extent()) })
    }
}

/// For logs: the state, the descriptor and, where the kernel reports them, name, length and seals.
impl<S: State> fmt::Debug for SealedFile<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SealedFile");
        debug.field("state", &format_args!("{}", S::NAME)).field("fd", &self.file().as_raw_fd());
        if let Some(name) = sys::name(self.file().as_fd()) {
            debug.field("name", &name);
        }
        if let Ok(metadata) = self.metadata() {
            debug.field("len", &metadata.len());
        }
        if let Ok(seals) = self.get_seals() {
            debug.field("seals", &format_args!("{seals}"));
        }
        debug.finish()
    }
}

/// Reads at the offset of the description. Every clone shares that offset, and so do the sender and every
/// process that received the descriptor. A hostile sender can move the offset between two reads. So
/// validate and use the bytes of a foreign file on a map, with [`read_at`](FileExt::read_at), or on a
/// [description of its own](SealedFile::reopen).
impl<S: State> Read for SealedFile<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(buffers)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        (&*self).read_to_end(buffer)
    }

    fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
        (&*self).read_to_string(buffer)
    }
}

/// As [`Read for SealedFile`](#impl-Read-for-SealedFile<S>).
impl<S: State> Read for &SealedFile<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file().read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        self.file().read_vectored(buffers)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.file().read_to_end(buffer)
    }

    fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
        self.file().read_to_string(buffer)
    }
}

/// Moves the description's offset, which [clones and receivers share](#impl-Read-for-SealedFile<S>).
impl<S: State> Seek for SealedFile<S> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file().seek(position)
    }
}

/// Moves the description's offset, which [clones and receivers share](#impl-Read-for-SealedFile<S>).
impl<S: State> Seek for &SealedFile<S> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file().seek(position)
    }
}

/// Reads at an offset, in every state. Writing succeeds on a draft and on a shared file. On a file sealed
/// against writing it fails with `EPERM`, and through a read-only descriptor with `EBADF`. On hugetlb pages
/// it always fails with `EINVAL`.
impl<S: State> FileExt for SealedFile<S> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file().read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file()
            .write_at(bytes, offset)
            .map_err(|error| draft::explain_write(self.pages(), error))
    }
}

impl<S: Sealed> AsFd for SealedFile<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl<S: Sealed> AsRawFd for SealedFile<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.file().as_raw_fd()
    }
}

/// Leaves the typestate.
impl<S: State> From<SealedFile<S>> for File {
    fn from(file: SealedFile<S>) -> Self {
        file.into_inner()
    }
}

/// Leaves the typestate.
impl<S: State> From<SealedFile<S>> for OwnedFd {
    fn from(file: SealedFile<S>) -> Self {
        file.into_inner().into()
    }
}

/// Leaves the typestate.
impl<S: State> IntoRawFd for SealedFile<S> {
    fn into_raw_fd(self) -> RawFd {
        self.into_inner().into_raw_fd()
    }
}

/// Leaves the typestate: the file becomes a child's standard input, output or error.
///
/// The child reads from the offset of the description, which is 0 after sealing. Clones share the offset,
/// so each of two children with clones gets only a part. Give each child a
/// [description of its own](SealedFile::reopen).
impl<S: State> From<SealedFile<S>> for Stdio {
    fn from(file: SealedFile<S>) -> Self {
        file.into_inner().into()
    }
}
