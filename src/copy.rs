//! Copying in: files, pipes and sockets become immutable files.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::create::CreateOptions;
use crate::file::receive::{ReceiveError, ThisKernel};
use crate::file::sealed::SealedFile;
use crate::huge_pages::HugePages;
use crate::policy::{Refusal, SealPolicy};
use crate::state::{ReadOnlySealed, Unsealed};
use crate::sys;

impl CreateOptions {
    /// Creates an immutable copy of what `source` holds: of a regular file the whole of it, from its
    /// beginning and without moving its offset; of anything else (a pipe, a socket, a terminal)
    /// what can be read until its end.
    ///
    /// The copy cannot change any more, which is not the same as showing one moment: a regular file
    /// whose size or modification time changes meanwhile is an error, but a writer that hides its
    /// writes (through a mapping, within the clock's tick, or by setting the time back) can make a
    /// copy that mixes old and new. A non-blocking source is waited for.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and:
    ///
    /// * `EFBIG`: the source has more than `limit` bytes, or is a regular file that claims to (those
    ///   of sysfs claim a page).
    /// * `ResourceBusy`: the source changed while it was copied.
    /// * `EBADF`: the source is not open for reading. `EISDIR`: it is a directory.
    /// * `ENOSPC`, `ENOMEM`: no memory for the contents.
    /// * For hugetlb pages, `InvalidInput`: the length is not a multiple of the page size;
    ///   `StorageFull`, `OutOfMemory`: too few pages are free in the pool (the errno is the `source`).
    /// * Whatever reading the source returns.
    ///
    /// # Examples
    ///
    /// ```
    /// let source = std::fs::File::open("Cargo.toml")?;
    /// let copy = sealed_mmap::CreateOptions::new().copy_of("manifest", &source, 1 << 20)?;
    /// assert_eq!(&copy.map_read_only()?[..], std::fs::read("Cargo.toml")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn copy_of(
        &self,
        name: &str,
        source: impl AsFd,
        limit: u64,
    ) -> io::Result<SealedFile<ReadOnlySealed>> {
        let mut file = self.huge_pages(HugePages::None).create(name)?;
        let len = append(source.as_fd(), &mut file, limit)?;
        file.rewind()?;
        let plain = file.seal_with_len(len)?;
        if self.fills_through_a_mapping(len) {
            return self.from_bytes(name, plain.map_read_only()?);
        }
        Ok(plain)
    }
}

/// Copies.
impl SealedFile<ReadOnlySealed> {
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
        let refused = match Self::receive_read_only(fd, policy) {
            Ok(file) => return Ok(file),
            Err(refused) => refused,
        };
        match refused.reason() {
            Refusal::NotSealable(_)
            | Refusal::MissingSeals { .. }
            | Refusal::UntrustedWriteSeal => {}
            _ => return Err(refused),
        }
        let (refusal, fd) = refused.into_parts();
        copy_regular_file(fd.as_fd(), policy, copy_limit, refusal)
            .map_err(|refusal| ReceiveError::new(refusal, fd))
    }
}

/// Copies a regular file. Of anything else, which might never end, `refusal` stands.
fn copy_regular_file(
    fd: BorrowedFd<'_>,
    policy: &SealPolicy,
    limit: u64,
    refusal: Refusal,
) -> Result<SealedFile<ReadOnlySealed>, Refusal> {
    let stat = sys::stat(fd).map_err(Refusal::Io)?;
    if !stat.is_regular {
        return Err(refusal);
    }
    // Files of procfs only claim a length of 0.
    if stat.len > 0 {
        policy.judge_length(stat.len)?;
    }
    policy.judge_owner(stat.owner, &ThisKernel)?;
    let copy = SealedFile::copy_of("sealed-mmap-copy", fd, limit).map_err(Refusal::Io)?;
    policy.judge_length(copy.len().map_err(Refusal::Io)?)?;
    Ok(copy)
}

/// Appends all of `source` to `target` and returns how much that was.
fn append(
    source: BorrowedFd<'_>,
    target: &mut SealedFile<Unsealed>,
    limit: u64,
) -> io::Result<u64> {
    let too_large = || io::Error::from(Errno::FBIG);
    let before = sys::stat(source)?;
    if before.is_regular && before.len > limit {
        return Err(too_large());
    }
    let reach = limit.saturating_add(1);
    let copied = if before.is_regular {
        copy_regular(source, target, reach)?
    } else {
        copy_stream(source, target, reach)?
    };
    if copied > limit {
        return Err(too_large());
    }
    let after = sys::stat(source)?;
    // What was copied need not be as long: files of procfs and sysfs only claim some length.
    if before.is_regular && (before.len, before.modified) != (after.len, after.modified) {
        let message = "the source changed while it was copied";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(copied)
}

/// Copies at most `reach` bytes from the beginning, inside the kernel where the file allows that.
fn copy_regular(
    source: BorrowedFd<'_>,
    target: &mut SealedFile<Unsealed>,
    reach: u64,
) -> io::Result<u64> {
    struct FromStart<'a>(BorrowedFd<'a>, u64);
    impl Read for FromStart<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = rustix::io::pread(self.0, buffer, self.1)?;
            self.1 += count as u64;
            Ok(count)
        }
    }

    let mut copied = 0;
    while copied < reach {
        match sys::send_file(target.file(), source, copied, reach - copied) {
            Ok(0) => break,
            Ok(count) => copied += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Not every file system can do this.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && copied == 0 => {
                return io::copy(&mut FromStart(source, 0).take(reach), target);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}

/// Copies at most `reach` bytes, to the end of the stream.
fn copy_stream(
    source: BorrowedFd<'_>,
    target: &mut SealedFile<Unsealed>,
    reach: u64,
) -> io::Result<u64> {
    let file = File::from(source.try_clone_to_owned()?);
    loop {
        let copied = target.stream_position()?;
        match io::copy(&mut (&file).take(reach - copied), &mut target.file()) {
            Ok(count) => return Ok(copied + count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sys::wait_readable(source)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
