//! Copying in: files, pipes and sockets become immutable files.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::create::CreateOptions;
use crate::failure::{explained, failed, while_doing};
use crate::file::receive::{ReceiveError, ThisKernel};
use crate::file::sealed::SealedFile;
use crate::huge_pages::HugePages;
use crate::policy::{Refusal, SealPolicy};
use crate::state::{ReadOnlySealed, Unsealed};
use crate::sys::{self, Readings};

/// Whole records of a pipe in packet mode, which are never longer than a page, and as fast as
/// splicing.
const BUFFER: usize = 64 << 10;

impl CreateOptions {
    /// Creates an immutable copy of what `source` holds: all of a regular file, from its beginning and
    /// without moving its offset; of any other stream of bytes (a pipe, a stream socket, a terminal,
    /// a device) everything that can be read until its end.
    ///
    /// The copy cannot change any more, which is not the same as showing one moment: a regular file
    /// whose size or modification time changes meanwhile is an error, but a writer that hides its
    /// writes (through a mapping, within the clock's tick, or by setting the time back) can make a
    /// copy that mixes old and new.
    ///
    /// Sources of records are refused before anything is read: reading them like a stream would join
    /// records or cut them off, and most never report an end. These are datagram, seqpacket and raw
    /// sockets (netlink among them), `/dev/kmsg`, and anonymous inodes (eventfd, timerfd,
    /// signalfd, inotify, epoll, …). Receive one record, with
    /// [`recv_fds`](crate::socket::recv_fds) for example, and share it with
    /// [`from_bytes`](Self::from_bytes). A pipe in packet mode (`O_DIRECT`) is copied, without the
    /// boundaries of its packets.
    ///
    /// # Waiting
    ///
    /// The call blocks until the source ends, even if the source is non-blocking. Signals do not end
    /// it; their handlers run.
    ///
    /// The read timeout of a socket (`SO_RCVTIMEO`, such as
    /// [`UnixStream::set_read_timeout`](std::os::unix::net::UnixStream::set_read_timeout)) limits how
    /// long the source may stay silent. The time is counted from the last byte, so a peer that
    /// trickles bytes is stopped by `limit` alone. The timeout counts for a non-blocking socket, too,
    /// and no signal extends it. What was set when the copy began holds for all of it.
    ///
    /// Any other source that stays silent is waited for without limit, a regular file of a special
    /// file system included (`/proc/kmsg`, `trace_pipe`, a FUSE file). One that never ends,
    /// such as `/dev/zero`, is read until `limit` is exceeded.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and:
    ///
    /// * `FileTooLarge`: the source has more than `limit` bytes, or is a regular file that claims to
    ///   (those of sysfs claim a page). The errno, `EFBIG`, is the `source`. Up to 64 KiB beyond the
    ///   limit are consumed from a stream.
    /// * `ResourceBusy`: the source changed while it was copied.
    /// * `InvalidInput`, without an errno: the source is one of the sources of records listed above.
    ///   Nothing is consumed.
    /// * `TimedOut`: the source is a socket, and nothing came for as long as its read timeout. What
    ///   had come before is lost.
    /// * `EBADF`: the source is not open for reading. `EISDIR`: it is a directory.
    /// * `ENOTCONN`, or `EINVAL` for a Unix socket: the source is a socket that listens or is not
    ///   connected. `ECONNRESET`: its peer is gone and has left bytes unread.
    /// * `EIO`: reading failed. The master of a pseudoterminal ends so when all slaves are closed.
    /// * `EINTR`: reading was interrupted a thousand times in a row without a byte. File systems in user
    ///   space and system call filters answer like that; signals do it only to a regular file that
    ///   makes its readers wait, such as `trace_pipe`.
    /// * `EAGAIN`: a non-blocking regular file of a special file system has no data now.
    /// * `Other`: `poll(2)` reports again and again that the source can be read, and reading it would
    ///   block. A socket whose error queue is not empty is like that (`MSG_ERRQUEUE`).
    /// * `ENOSPC`, `ENOMEM`: no memory for the contents.
    /// * For hugetlb pages, `InvalidInput`: the length is not a multiple of the page size;
    ///   `StorageFull`, `OutOfMemory`: too few pages are free in the pool (the errno is the `source`).
    /// * Whatever reading the source returns. If a sandbox denies `poll(2)` or `getsockopt(2)` where
    ///   they are needed, the message says which, and the errno is the `source`.
    ///
    /// # Platform-specific
    ///
    /// On Linux a regular file is copied by `sendfile(2)`. Where a file system or a sandbox does not
    /// allow that, the copy falls back to `read(2)` and `write(2)`.
    ///
    /// # Examples
    ///
    /// ```
    /// let source = std::fs::File::open("Cargo.toml")?;
    /// let copy = sealed_mmap::CreateOptions::new().copy_of("manifest", &source, 1 << 20)?;
    /// assert_eq!(&copy.map_read_only()?[..], std::fs::read("Cargo.toml")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// A peer that stays silent is not waited for without end:
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    ///
    /// let (ours, _silent) = UnixStream::pair()?;
    /// ours.set_read_timeout(Some(Duration::from_millis(20)))?;
    /// let error = sealed_mmap::CreateOptions::new().copy_of("request", &ours, 4096).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "sendfile")]
    pub fn copy_of(
        &self,
        name: &str,
        source: impl AsFd,
        limit: u64,
    ) -> io::Result<SealedFile<ReadOnlySealed>> {
        let mut file = self.huge_pages(HugePages::None).create(name)?;
        let len = append(source.as_fd(), &file, limit)?;
        // Copying inside the kernel moves it.
        file.rewind().map_err(while_doing("rewind the copy (lseek)"))?;
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

    /// Receives an immutable file, or copies a regular file that is not reliably sealed. The result is
    /// immutable either way.
    ///
    /// A copy is made where the refusal would be [`NotSealable`], [`MissingSeals`] or
    /// [`UntrustedWriteSeal`], and only of regular files, because a pipe need never end. The policy's
    /// length and owner apply to a copy, too; its seals do not. A file that changes meanwhile is copied
    /// as [`copy_of`](Self::copy_of) describes.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor; [`Io`] with `FileTooLarge` if the file has more
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

/// Copies all of `source` to the empty `target`, and returns how much that was.
fn append(source: BorrowedFd<'_>, target: &SealedFile<Unsealed>, limit: u64) -> io::Result<u64> {
    let before = sys::stat(source)?;
    if !before.is_regular {
        return copy_stream(source, target.file(), limit);
    }
    if before.len > limit {
        return Err(over(limit));
    }
    let copied = copy_regular(source, target.file(), before.len, limit)?;
    let after = sys::stat(source)?;
    // What was copied need not be as long: files of procfs and sysfs only claim some length.
    if (before.len, before.modified) != (after.len, after.modified) {
        let message = "the source changed while it was copied";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(copied)
}

/// Copies a file that claims `len` bytes from its beginning, inside the kernel as far as that goes.
fn copy_regular(source: BorrowedFd<'_>, target: &File, len: u64, limit: u64) -> io::Result<u64> {
    let mut copied = 0;
    while copied < len {
        match sys::uninterrupted(|| sys::send_file(target, source, copied, len - copied)) {
            Ok(0) => break,
            Ok(count) => copied += count as u64,
            // Of the memory that the data goes to.
            Err(error @ (Errno::NOSPC | Errno::NOMEM | Errno::FBIG | Errno::DQUOT)) => {
                return Err(error.into());
            }
            // Of the way, and there is another one; or of the data, which reading finds, too. Linux 7.3
            // answers EIO whatever the file system said.
            Err(_) => break,
        }
    }
    // The end of a file is where reading finds it.
    pump(target, copied, limit, |buffer, offset| {
        sys::uninterrupted(|| rustix::io::pread(source, spare_capacity(buffer), offset))
            .map(drop)
            .map_err(while_doing("read the source (pread)"))
    })
}

/// Copies what can be read until the end.
fn copy_stream(source: BorrowedFd<'_>, target: &File, limit: u64) -> io::Result<u64> {
    let asking = failed("ask for the type and the read timeout of the source (getsockopt)");
    match sys::readings(source).map_err(asking)? {
        Readings::Stream { timeout } => {
            pump(target, 0, limit, |buffer, _| read_patiently(source, buffer, timeout))
        }
        Readings::Records { of } => {
            let message = format!(
                "the source is {of}, which preserves message boundaries: a copy would merge or \
                 truncate messages; receive one (from a socket, with recv_fds) and share it with \
                 from_bytes"
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// Appends what `read` puts into an empty buffer until that is nothing. `read` is told the offset.
fn pump(
    target: &File,
    mut copied: u64,
    limit: u64,
    mut read: impl FnMut(&mut Vec<u8>, u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(BUFFER).map_err(|_| Errno::NOMEM)?;
    loop {
        buffer.clear();
        read(&mut buffer, copied)?;
        if buffer.is_empty() {
            return Ok(copied);
        }
        if buffer.len() as u64 > limit - copied {
            return Err(over(limit));
        }
        sys::write_all_at(target, &buffer, copied)?;
        copied += buffer.len() as u64;
    }
}

/// Reads once, as soon as there is something to be read. `timeout` is how long that may take.
fn read_patiently(
    source: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut last = Errno::INTR;
    for _ in 0..sys::PATIENCE {
        match rustix::io::read(source, spare_capacity(buffer)) {
            // The source is non-blocking, its timeout is over, or a signal came. Reading again
            // would start the timeout anew.
            Err(error @ (Errno::AGAIN | Errno::INTR)) => last = error,
            done => return done.map(drop).map_err(while_doing("read the source (read)")),
        }
        let waiting = failed("wait for the source (poll)");
        if !sys::wait_readable(source, deadline).map_err(waiting)? {
            let timeout = timeout.unwrap_or_default();
            let message = format!("nothing came from the source for {timeout:?}, its read timeout");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
    }
    if last == Errno::INTR {
        return Err(last.into());
    }
    let message = "poll(2) says over and over that the source can be read, and reading it would \
                   block; if it is a socket, its error queue may have to be emptied";
    Err(io::Error::other(message))
}

fn over(limit: u64) -> io::Error {
    let message = format!("the source has more than the {limit} bytes that a copy may have");
    explained(io::ErrorKind::FileTooLarge, message, io::Error::from(Errno::FBIG))
}
