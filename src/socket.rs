//! Descriptors over Unix sockets.
//!
//! A sealed file becomes shared memory when its descriptor reaches another process. [`send_fds`],
//! [`recv_fds`] and [`recv_fd`] pass descriptors over any Unix socket: stream, datagram or seqpacket,
//! blocking or non-blocking. They are written for a peer that nobody trusts. Whatever the peer sends,
//! no descriptor leaks, none is inherited by a program that is started meanwhile, and none arrives as
//! standard input, output or error.
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
//! Datagram and seqpacket sockets preserve message boundaries: what one call sends, one call
//! receives, bytes and descriptors together. A stream has no messages. Descriptors are attached to a
//! position in it:
//!
//! * A send can be short. All descriptors went with the part that was sent, so send the rest
//!   *without* them.
//! * A receive can return part of what was sent. The descriptors arrive with the first of those
//!   bytes, and the rest arrives without any.
//! * On Linux a receive stops after bytes that carried descriptors, so it returns the descriptors of
//!   at most one send. Bytes that were sent earlier without descriptors can precede them: after a
//!   send of `a`, and then one of `b` with a descriptor, a single receive returns `ab` and the
//!   descriptor.
//!
//! On a stream, therefore, let the bytes say how many descriptors belong to a message, and receive
//! into a buffer no longer than the message's header. Or use a seqpacket socket.
//!
//! # Timeouts and signals
//!
//! A call that a signal interrupts is repeated. A timeout of the socket (`SO_RCVTIMEO`,
//! `SO_SNDTIMEO`; [`set_read_timeout`] and [`set_write_timeout`] in `std`) covers all repetitions
//! together, however many signals arrive: the call ends in `WouldBlock` once the timeout has passed.
//! A socket without a timeout waits until the message comes.
//!
//! # Async
//!
//! `WouldBlock` is returned to the caller, as `async_io` and `try_io` of tokio's sockets and
//! `AsyncFd` expect: `socket.async_io(Interest::READABLE, || recv_fd(&socket, &mut header)).await`.
//!
//! # Not covered
//!
//! * Other control messages: credentials, security labels and timestamps are discarded, and process
//!   descriptors (`SO_PASSPIDFD`) are closed. Whoever holds a duplicate of the receiving socket can
//!   make the kernel send them.
//! * Sockets other than Unix sockets. A TCP socket sends the bytes and ignores the descriptors.
//! * Descriptors in flight: a file stays open in the socket until the message is received, even if
//!   its sender exits. Closing the receiving socket closes the descriptors.
//!
//! [`set_read_timeout`]: std::os::unix::net::UnixStream::set_read_timeout
//! [`set_write_timeout`]: std::os::unix::net::UnixStream::set_write_timeout

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::sockopt::Timeout;

use crate::sys::net::{
    RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg,
};
use crate::sys::socket::{receive, retry_until_timeout};

/// The maximum number of descriptors in one message: 253.
///
/// This is `SCM_MAX_FD` in Linux's `include/net/scm.h`; see `SCM_RIGHTS` in [`unix(7)`]. Send more
/// than that in several messages.
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

// Credentials, timestamps and the security label precede the descriptors and would displace them. A
// label is a string of any length: unix(7) asks for NAME_MAX bytes, and SELinux can need more.
const OTHER_CONTROL_MESSAGES: usize = 1024;

/// Sends bytes, with descriptors attached to the first byte, and returns how many bytes were sent.
///
/// The peer receives duplicates in the order of `fds`; the caller keeps its own. On a stream the
/// result can be less than `bytes.len()`. All descriptors went with the part that was sent, so send
/// the rest without them. A datagram or record is sent whole or not at all.
///
/// With no descriptors this is a plain `send(2)`. `bytes` must not be empty: a stream drops
/// descriptors that come with no byte, and a seqpacket receiver cannot tell an empty record from the
/// end of the connection. If the call fails, nothing was sent.
///
/// A peer that has closed its socket is an error and never raises `SIGPIPE`. A call that a signal
/// interrupts is repeated, [within the socket's timeout](self#timeouts-and-signals).
///
/// # Errors
///
/// * [`InvalidInput`](ErrorKind::InvalidInput): `bytes` is empty, or there are more than
///   [`MAX_FDS`] descriptors.
/// * [`WouldBlock`](ErrorKind::WouldBlock) (`EAGAIN`): the peer's queue is full, and the socket is
///   non-blocking or its send timeout has passed.
/// * [`BrokenPipe`](ErrorKind::BrokenPipe) (`EPIPE`), `ECONNRESET`, `ECONNREFUSED`: the peer has
///   closed its socket.
/// * `ENOTCONN`, `EDESTADDRREQ`: the socket is not connected.
/// * `EMSGSIZE`: the datagram or record is larger than the socket's send buffer.
/// * `ETOOMANYREFS`: this user has more descriptors in flight than `RLIMIT_NOFILE` allows.
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
    let (socket, bytes) = (socket.as_fd(), [IoSlice::new(bytes)]);
    let sent = retry_until_timeout(socket, Timeout::Send, |may_wait| {
        let mut flags = SendFlags::NOSIGNAL;
        flags.set(SendFlags::DONTWAIT, !may_wait);
        sendmsg(socket, &bytes, &mut control, flags)
    })?;
    Ok(sent)
}

/// Receives bytes and the descriptors that came with them, and returns how many bytes were received.
///
/// Descriptors are appended to `fds` in the order in which the peer sent them, [`MAX_FDS`] at most.
/// They are close-on-exec from the moment they exist, and none of them is 0, 1 or 2, even where
/// those numbers are free. Whether any come, and how many, is the peer's choice: check the count.
///
/// The result is 0 at the end of a stream or seqpacket connection, when the peer has closed its
/// socket. On datagram and seqpacket sockets it is also 0 for an empty message, which can carry
/// descriptors.
///
/// On an error `fds` is left as it was, and descriptors that came with the message are closed. A
/// call that a signal interrupts is repeated, [within the socket's
/// timeout](self#timeouts-and-signals).
///
/// # Errors
///
/// The first three occur before anything is received. The next two lose the message:
///
/// * [`InvalidInput`](ErrorKind::InvalidInput): `bytes` is empty, so that 0 would have two meanings.
/// * [`WouldBlock`](ErrorKind::WouldBlock) (`EAGAIN`): no message is there, and the socket is
///   non-blocking or its receive timeout has passed.
/// * `ENOTCONN`, `EINVAL`: a stream or seqpacket socket that is not connected. `ENOTSOCK`: not a
///   socket.
/// * `EMSGSIZE`: the datagram or record is longer than `bytes`.
/// * [`QuotaExceeded`](ErrorKind::QuotaExceeded): some descriptors could not be received. Either the
///   kernel did not deliver all of them (`MSG_CTRUNC`), for a reason that it does not tell: this
///   process has reached `RLIMIT_NOFILE`, the system has reached its own limit, a security module
///   refused a file, or the control messages did not fit. Or one arrived as 0, 1 or 2, and
///   `RLIMIT_NOFILE` leaves no higher number. On a stream the bytes that came with the descriptors
///   are lost too, and with them the position in the stream: close the connection.
/// * [`ConnectionReset`](ErrorKind::ConnectionReset) (`ECONNRESET`): the peer closed a stream or
///   seqpacket socket before it had read all data.
///
/// # Platform-specific
///
/// * Linux and Android: no message has more than [`MAX_FDS`] descriptors.
/// * FreeBSD: a peer can send more. Receiving such a message fails with `QuotaExceeded`.
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
    let before = fds.len();
    let received = recv_message(socket.as_fd(), bytes, fds);
    if received.is_err() {
        fds.truncate(before);
    }
    received
}

/// Receives a message. On an error `fds` may have more descriptors than before.
fn recv_message(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    const ROOM: usize = cmsg_space!(ScmRights(MAX_FDS)) + OTHER_CONTROL_MESSAGES;

    let before = fds.len();
    let (len, flags) = retry_until_timeout(socket, Timeout::Recv, |may_wait| {
        let mut flags = RecvFlags::empty();
        flags.set(RecvFlags::DONTWAIT, !may_wait);
        receive::<ROOM>(socket, bytes, fds, flags)
    })?;
    if flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE.into());
    }
    if flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            ErrorKind::QuotaExceeded,
            "descriptors were lost: too many open files, or refused by a security module",
        ));
    }
    for fd in fds.iter_mut().skip(before).filter(|fd| fd.as_raw_fd() < 3) {
        // Assigning closes the lower one.
        *fd = match fcntl_dupfd_cloexec(&*fd, 3) {
            // No number is free, or none is allowed.
            Err(Errno::MFILE | Errno::INVAL) => {
                return Err(io::Error::new(
                    ErrorKind::QuotaExceeded,
                    "a descriptor was lost: too many open files, no number above 2 is left",
                ));
            }
            done => done?,
        };
    }
    Ok(len)
}

/// Receives bytes and at most one descriptor, for a protocol with one file per message.
///
/// Otherwise this is [`recv_fds`]. Whether a descriptor comes is the peer's choice. At the end of a
/// stream the result is `(0, None)`.
///
/// # Errors
///
/// * [`InvalidData`](ErrorKind::InvalidData): the message had more than one descriptor. All of them
///   are closed, and the message is lost.
/// * All errors of [`recv_fds`].
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
