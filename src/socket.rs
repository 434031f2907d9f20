//! Descriptors over Unix sockets.
//!
//! A sealed file becomes shared memory when its descriptor reaches another process. [`send_fds`],
//! [`recv_fds`] and [`recv_fd`] carry descriptors over every kind of Unix socket: stream, datagram
//! and seqpacket, blocking or not. They are written for a peer that nobody trusts: whatever it
//! sends, no descriptor stays open unseen, and none is inherited by a program started meanwhile.
//!
//! ```
//! use std::os::fd::AsFd;
//! use std::os::unix::net::UnixStream;
//!
//! use sealed_mmap::socket::{recv_fd, send_fds};
//! use sealed_mmap::{SealPolicy, SealedFile};
//!
//! let (ours, theirs) = UnixStream::pair()?;
//!
//! let frame = SealedFile::from_bytes("frame", b"pixels")?;
//! send_fds(&ours, b"frame 1", &[frame.as_fd()])?;
//!
//! let mut header = [0; 7];
//! let (len, fd) = recv_fd(&theirs, &mut header)?;
//! assert_eq!(&header[..len], b"frame 1");
//! let fd = fd.ok_or(std::io::ErrorKind::InvalidData)?;
//! let frame = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(1 << 20))?;
//! assert_eq!(&frame.map_read_only()?[..], b"pixels");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Which socket
//!
//! Datagram and seqpacket sockets keep messages apart: one send is one receive, descriptors and
//! bytes together. A stream has no messages, and descriptors sit at a place in it:
//!
//! * A send may be short. What was sent has the descriptors; send the rest *without* them.
//! * A receive may return part of what was sent. The descriptors come with the first of these
//!   bytes, the rest comes without.
//! * On Linux a receive never goes on past bytes that had descriptors, so it returns those of one
//!   send at most. Bytes sent earlier without any may stand in front of them: after `a` and then
//!   `b` with a descriptor, one receive returns `ab` and the descriptor.
//!
//! So on a stream let the bytes say how many descriptors belong to a message, and read with a
//! buffer no longer than the message's header; or use a seqpacket socket.
//!
//! # Async
//!
//! `WouldBlock` is passed on, which is what `async_io` and `try_io` of tokio's sockets and `AsyncFd`
//! wait for: `socket.async_io(Interest::READABLE, || recv_fd(&socket, &mut header)).await`.
//!
//! # Not covered
//!
//! * Other control messages. Credentials, security labels and timestamps are left out of the result.
//!   The receiving socket must not have `SO_PASSPIDFD` set (Linux 6.5): the kernel then opens a
//!   process descriptor for every message, which these functions cannot hand out, and it stays open.
//!   Whoever holds a duplicate of the receiving socket can set it; one that only sends cannot.
//! * Sockets that are not Unix sockets. A TCP socket takes the bytes and ignores the descriptors.
//! * Descriptors wait in the socket until they are received: a file in flight is open, whatever its
//!   sender does. Closing the receiving socket closes them.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::{Errno, retry_on_intr};

use crate::sys::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors that one message can carry: 253.
///
/// It is `SCM_MAX_FD` in Linux's `include/net/scm.h`, see `SCM_RIGHTS` in [`unix(7)`]. More go in
/// several messages.
///
/// # Examples
///
/// ```
/// # use std::os::fd::AsFd;
/// # use std::os::unix::net::UnixStream;
/// # use sealed_mmap::socket::{MAX_FDS, send_fds};
/// # let (socket, _peer) = UnixStream::pair()?;
/// # let files = [std::io::stdin()];
/// let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
/// for message in descriptors.chunks(MAX_FDS) {
///     send_fds(&socket, &[message.len() as u8], message)?;
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`unix(7)`]: https://man7.org/linux/man-pages/man7/unix.7.html
#[doc(alias = "SCM_MAX_FD")]
pub const MAX_FDS: usize = 253;

// Credentials, timestamps and the security label stand in front of the descriptors and would push
// them out. A label is a string of any length: unix(7) asks for NAME_MAX bytes, and SELinux can need
// more.
const OTHER_CONTROL_MESSAGES: usize = 1024;

/// Sends bytes and, with the first of them, descriptors; returns how many bytes were sent.
///
/// The peer receives duplicates in the order of `fds`, and the caller keeps its own. On a stream
/// the count can be less than `bytes.len()`; all descriptors have gone with what was sent, so send
/// the rest without. Datagrams and records are sent whole or not at all.
///
/// Without descriptors this is a plain `send(2)`. `bytes` must not be empty: a stream drops
/// descriptors that come with no byte, and a seqpacket receiver cannot tell an empty record from the
/// end. On an error nothing was sent.
///
/// A peer that has gone is an error and never the signal `SIGPIPE`. A call interrupted by a signal
/// is repeated.
///
/// # Errors
///
/// * [`InvalidInput`](ErrorKind::InvalidInput): `bytes` is empty, or there are more than
///   [`MAX_FDS`] descriptors.
/// * [`WouldBlock`](ErrorKind::WouldBlock) (`EAGAIN`): the socket is non-blocking, or its send
///   timeout is over, and the peer's queue is full.
/// * [`BrokenPipe`](ErrorKind::BrokenPipe) (`EPIPE`), `ECONNRESET`, `ECONNREFUSED`: the peer has
///   closed its socket.
/// * `ENOTCONN`, `EDESTADDRREQ`: the socket is not connected.
/// * `EMSGSIZE`: the datagram or record is larger than the socket's send buffer.
/// * `ETOOMANYREFS`: this user has more descriptors in flight than `RLIMIT_NOFILE`.
/// * `EINVAL`: a descriptor of a kind that may not be sent, such as an `io_uring`.
/// * `ENOTSOCK`: `socket` is not a socket.
///
/// # Platform-specific
///
/// * Linux: `EPERM` if the receiver has turned `SO_PASSRIGHTS` off (since 6.16).
///
/// See [`unix(7)`](https://man7.org/linux/man-pages/man7/unix.7.html) and
/// [`sendmsg(2)`](https://man7.org/linux/man-pages/man2/sendmsg.2.html).
///
/// # Examples
///
/// The rest of a short send goes without the descriptors:
///
/// ```
/// # use std::io::{self, Write};
/// # use std::os::fd::AsFd;
/// # use std::os::unix::net::UnixStream;
/// # use sealed_mmap::socket::send_fds;
/// # fn main() -> io::Result<()> {
/// # let (mut socket, _peer) = UnixStream::pair()?;
/// let message = b"a picture of 640 by 480";
/// let sent = send_fds(&socket, message, &[io::stdin().as_fd()])?;
/// socket.write_all(&message[sent..])?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "SCM_RIGHTS")]
#[doc(alias = "sendmsg")]
pub fn send_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "a message needs at least one byte"));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // `push` alone takes a few more, in what `space` has for alignment.
    if fds.len() > MAX_FDS || !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "a message carries at most 253 descriptors",
        ));
    }
    let bytes = [IoSlice::new(bytes)];
    Ok(retry_on_intr(|| sendmsg(&socket, &bytes, &mut control, SendFlags::NOSIGNAL))?)
}

/// Receives bytes and the descriptors that came with them; returns how many bytes were received.
///
/// Descriptors are appended to `fds` in the sender's order, [`MAX_FDS`] at most, close-on-exec from
/// the moment they exist. Whether and how many come is the sender's choice: check the count.
///
/// The count of bytes is 0 at the end of a stream, when the peer has closed its socket. On datagram
/// and seqpacket sockets it is also 0 for an empty message, with which a peer can send descriptors.
///
/// On an error `fds` is as before, and descriptors that came with the message are closed. A call
/// interrupted by a signal is repeated.
///
/// # Errors
///
/// The first three happen before anything is received, and the next two lose the message:
///
/// * [`InvalidInput`](ErrorKind::InvalidInput): `bytes` is empty, so that 0 would have two meanings.
/// * [`WouldBlock`](ErrorKind::WouldBlock) (`EAGAIN`): the socket is non-blocking, or its receive
///   timeout is over, and nothing is there.
/// * `ENOTCONN`, `EINVAL`: a stream or seqpacket socket that is not connected. `ENOTSOCK`: not a
///   socket.
/// * `EMSGSIZE`: the datagram or record is longer than `bytes`.
/// * [`QuotaExceeded`](ErrorKind::QuotaExceeded): the kernel could not deliver every descriptor
///   (`MSG_CTRUNC`). It does not say why: this process has reached `RLIMIT_NOFILE`, the system its
///   own limit, a security module refused a file, or the control data was longer than the room for
///   it. On a stream the bytes that came with the lost descriptors are lost too, so that the place
///   in the stream is unknown: close the connection.
/// * [`ConnectionReset`](ErrorKind::ConnectionReset) (`ECONNRESET`): the peer closed a stream or
///   seqpacket socket with unread data.
///
/// # Platform-specific
///
/// * Linux and Android: no message has more than [`MAX_FDS`] descriptors.
/// * FreeBSD: a peer can send more; such a message is `QuotaExceeded` here.
///
/// See [`unix(7)`](https://man7.org/linux/man-pages/man7/unix.7.html),
/// [`recvmsg(2)`](https://man7.org/linux/man-pages/man2/recvmsg.2.html) and
/// [`cmsg(3)`](https://man7.org/linux/man-pages/man3/cmsg.3.html).
///
/// # Examples
///
/// ```
/// # use std::io;
/// # use std::os::fd::AsFd;
/// # use std::os::unix::net::UnixDatagram;
/// # use sealed_mmap::socket::{recv_fds, send_fds};
/// # fn main() -> io::Result<()> {
/// # let (ours, theirs) = UnixDatagram::pair()?;
/// send_fds(&ours, b"planes", &[io::stdin().as_fd(), io::stdout().as_fd()])?;
///
/// let (mut bytes, mut fds) = ([0; 64], Vec::new());
/// let len = recv_fds(&theirs, &mut bytes, &mut fds)?;
/// assert_eq!((&bytes[..len], fds.len()), (&b"planes"[..], 2));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "SCM_RIGHTS")]
#[doc(alias = "recvmsg")]
#[doc(alias = "MSG_CMSG_CLOEXEC")]
pub fn recv_fds(socket: impl AsFd, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    if bytes.is_empty() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "the buffer needs room for at least one byte",
        ));
    }
    let mut space =
        [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS)) + OTHER_CONTROL_MESSAGES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(bytes)];
    let received =
        retry_on_intr(|| recvmsg(&socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    // Dropping `control` closes every descriptor in it, so an early return leaks none.
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE.into());
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            ErrorKind::QuotaExceeded,
            "descriptors were lost: too many open files, or refused by a security module",
        ));
    }
    fds.extend(
        control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten(),
    );
    Ok(received.bytes)
}

/// Receives bytes and at most one descriptor: what a protocol of one file a message wants.
///
/// Otherwise as [`recv_fds`]. The peer chooses whether a descriptor comes; at the end of a stream
/// the result is `(0, None)`.
///
/// # Errors
///
/// * [`InvalidData`](ErrorKind::InvalidData): there was more than one descriptor. All are closed,
///   and the message is lost.
/// * All of [`recv_fds`].
///
/// # Examples
///
/// ```
/// # use std::io;
/// # use std::os::fd::AsFd;
/// # use std::os::unix::net::UnixStream;
/// # use sealed_mmap::socket::{recv_fd, send_fds};
/// # fn main() -> io::Result<()> {
/// # let (ours, theirs) = UnixStream::pair()?;
/// # send_fds(&ours, &[0; 8], &[io::stdin().as_fd()])?;
/// # drop(ours);
/// let mut header = [0; 8];
/// loop {
///     match recv_fd(&theirs, &mut header)? {
///         (0, _) => break,
///         (8, Some(fd)) => println!("frame {header:?} in {fd:?}"),
///         _ => return Err(io::ErrorKind::InvalidData.into()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "SCM_RIGHTS")]
pub fn recv_fd(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut fds = Vec::new();
    let len = recv_fds(socket, bytes, &mut fds)?;
    if fds.len() > 1 {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "the peer sent more than one descriptor",
        ));
    }
    Ok((len, fds.pop()))
}
