//! Descriptors over Unix sockets.
//!
//! A sealed file becomes shared memory when its descriptor reaches another process. [`send_fds`],
//! [`recv_fds`] and [`recv_fd`] pass descriptors over any Unix socket: stream, datagram or seqpacket,
//! blocking or non-blocking. [`send_fds_to`] sends to a datagram socket by its address, and
//! [`recv_fds_with_credentials`] also says who sent. They are written for a peer that nobody trusts.
//! Whatever the peer sends, no descriptor leaks, none is inherited by a program that is started
//! meanwhile, and none arrives as standard input, output or error.
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
//! A datagram can be empty, and still carry descriptors: that is how `systemd-journald` takes large
//! records. A stream drops descriptors that come with no byte, and a seqpacket receiver cannot tell an
//! empty record from the end of the connection. So [`send_fds`] refuses to send either.
//!
//! On a stream, therefore, let the bytes say how many descriptors belong to a message, and receive
//! into a buffer no longer than the message's header. Or use a seqpacket socket.
//!
//! # Timeouts and signals
//!
//! A call that a signal interrupts is repeated. A timeout of the socket (`SO_RCVTIMEO`,
//! `SO_SNDTIMEO`; [`set_read_timeout`] and [`set_write_timeout`] in `std`) covers all repetitions
//! together, however many signals arrive: the call ends in `WouldBlock` once the timeout has passed.
//! A socket without a timeout waits until the message comes. Where a sandbox denies the question for
//! the timeout (`getsockopt`), an interrupted call ends in `Interrupted` instead.
//!
//! # Async
//!
//! `WouldBlock` is returned to the caller, as `async_io` and `try_io` of tokio's sockets and
//! `AsyncFd` expect: `socket.async_io(Interest::READABLE, || recv_fd(&socket, &mut header)).await`.
//!
//! # Not covered
//!
//! * Other control messages: security labels and timestamps are discarded, and so are credentials
//!   where they are not asked for; process descriptors (`SO_PASSPIDFD`) are closed. Whoever holds a
//!   duplicate of the receiving socket can make the kernel send them.
//! * Sockets other than Unix sockets. A TCP socket sends the bytes and ignores the descriptors.
//! * Descriptors in flight: a file stays open in the socket until the message is received, even if
//!   its sender exits. Closing the receiving socket closes the descriptors.
//!
//! [`set_read_timeout`]: std::os::unix::net::UnixStream::set_read_timeout
//! [`set_write_timeout`]: std::os::unix::net::UnixStream::set_write_timeout

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::SocketAddr;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, socket_type};

use crate::failure::while_doing;
use crate::sys;
use crate::sys::net::{
    RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketType, sendmsg, sendmsg_addr,
};
use crate::sys::socket::{
    Received, Sender, expect_credentials, named, receive, retry_until_timeout,
};

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
/// With no descriptors this is a plain `send(2)`. `bytes` may be empty on a datagram socket only: see
/// [Which socket](self#which-socket). If the call fails, nothing was sent.
///
/// A peer that has closed its socket is an error and never raises `SIGPIPE`. A call that a signal
/// interrupts is repeated, [within the socket's timeout](self#timeouts-and-signals).
///
/// # Errors
///
/// * [`InvalidInput`](ErrorKind::InvalidInput): `bytes` is empty, and `socket` is no datagram socket;
///   or there are more than [`MAX_FDS`] descriptors.
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
    let socket = socket.as_fd();
    if bytes.is_empty() {
        match kind(socket)? {
            SocketType::DGRAM => {}
            SocketType::STREAM => {
                return Err(invalid(
                    "a message on a stream socket needs at least one byte: a stream drops \
                     descriptors that come with none",
                ));
            }
            _ => {
                return Err(invalid(
                    "a record on a seqpacket socket needs at least one byte: its receiver would take \
                     an empty one for the end of the connection",
                ));
            }
        }
    }
    send_message(socket, None, bytes, fds)
}

/// Sends a datagram, with descriptors attached, from a socket that need not be connected to the socket
/// that is bound to `address`: a path, or a name of Linux's abstract namespace. Returns the length.
///
/// Otherwise this is [`send_fds`]. `bytes` may be empty. If the call fails, nothing was sent.
///
/// # Errors
///
/// * [`InvalidInput`](ErrorKind::InvalidInput): `socket` is no datagram socket (a stream has to be
///   connected, and a seqpacket socket would ignore the address); `address` is unnamed; or there are
///   more than [`MAX_FDS`] descriptors.
/// * [`NotFound`](ErrorKind::NotFound) (`ENOENT`), [`ConnectionRefused`](ErrorKind::ConnectionRefused)
///   (`ECONNREFUSED`): no socket has the address, nobody has that socket any more, or the file there is
///   no socket.
/// * [`PermissionDenied`](ErrorKind::PermissionDenied) (`EACCES`): this user may not write to the
///   socket's file. `EPERM`: the socket there is connected to another one.
/// * `EPROTOTYPE`: the socket there is no datagram socket.
/// * `WouldBlock`, `EMSGSIZE`, `ETOOMANYREFS`, `EINVAL`, `ENOTSOCK`, as [`send_fds`].
///
/// # Examples
///
/// A record of any size for `systemd-journald`, which maps the file. `examples/journal.rs` has all of it.
///
/// ```no_run
/// use std::os::fd::AsFd;
/// use std::os::unix::net::{SocketAddr, UnixDatagram};
///
/// use sealed_mmap::{CreateOptions, socket};
///
/// let journald = SocketAddr::from_pathname("/run/systemd/journal/socket")?;
/// // Older versions take a file with F_SEAL_EXEC for one that is not sealed.
/// let options = CreateOptions::new().exec_seal(false);
/// let record = options.from_bytes("record", b"MESSAGE=hello\nPRIORITY=6\n")?;
/// socket::send_fds_to(UnixDatagram::unbound()?, &journald, b"", &[record.as_fd()])?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "SCM_RIGHTS")]
#[doc(alias = "sendto")]
pub fn send_fds_to(
    socket: impl AsFd,
    address: &SocketAddr,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let socket = socket.as_fd();
    if kind(socket)? != SocketType::DGRAM {
        return Err(invalid(
            "only a datagram socket sends to an address; connect this one, and use send_fds",
        ));
    }
    send_message(socket, Some(&named(address)?), bytes, fds)
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, message)
}

pub(crate) fn kind(socket: BorrowedFd<'_>) -> io::Result<SocketType> {
    socket_type(socket).map_err(while_doing("tell what kind of socket it is (SO_TYPE)"))
}

/// Sends to the address, or to the peer that the socket is connected to.
fn send_message(
    socket: BorrowedFd<'_>,
    address: Option<&SocketAddrUnix>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // `push` alone takes a few more, in what `space` has for alignment.
    if fds.len() > MAX_FDS || !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(invalid("a message carries at most 253 descriptors"));
    }
    let bytes = [IoSlice::new(bytes)];
    let sent = retry_until_timeout(socket, Timeout::Send, |may_wait| {
        let mut flags = SendFlags::NOSIGNAL;
        flags.set(SendFlags::DONTWAIT, !may_wait);
        match address {
            Some(address) => sendmsg_addr(socket, address, &bytes, &mut control, flags),
            None => sendmsg(socket, &bytes, &mut control, flags),
        }
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
/// descriptors. So on a datagram socket, which has no end, 0 is a message like any other. On a seqpacket
/// socket 0 without descriptors is the end, or a peer that pretends it.
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
    Ok(recv_message(socket.as_fd(), bytes, fds, true)?.0)
}

/// Receives as [`recv_fds`] does, and says who sent the message, if the socket asks for that: see
/// [`pass_credentials`].
///
/// The kernel vouches for the [`Credentials`]. They are `None` if the socket does not ask for them, at
/// the end of a connection (where Linux names root), and for a message that was queued before the socket
/// asked. On a stream, one call returns bytes of one sender only.
///
/// Who sent a file is not who [owns](crate::SealPolicy::owner) it: a descriptor can be passed on.
///
/// # Errors
///
/// As [`recv_fds`].
///
/// # Platform-specific
///
/// Linux and Android. Always [`Unsupported`](ErrorKind::Unsupported) on FreeBSD.
///
/// # Examples
///
/// ```
/// # if cfg!(target_os = "freebsd") { return Ok(()); }
/// use std::os::unix::net::UnixDatagram;
///
/// use sealed_mmap::socket::{pass_credentials, recv_fds_with_credentials, send_fds};
///
/// let (ours, theirs) = UnixDatagram::pair()?;
/// pass_credentials(&theirs, true)?;
/// send_fds(&ours, b"it is me", &[])?;
///
/// let (mut bytes, mut fds) = ([0; 64], Vec::new());
/// let (len, sender) = recv_fds_with_credentials(&theirs, &mut bytes, &mut fds)?;
/// assert_eq!(&bytes[..len], b"it is me");
/// let sender = sender.ok_or(std::io::ErrorKind::InvalidData)?;
/// assert_eq!(sender.pid, Some(std::process::id()));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "SCM_CREDENTIALS")]
pub fn recv_fds_with_credentials(
    socket: impl AsFd,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<(usize, Option<Credentials>)> {
    expect_credentials()?;
    let before = fds.len();
    let (len, sender) = recv_message(socket.as_fd(), bytes, fds, true)?;
    let is_empty = len == 0 && fds.len() == before;
    Ok((len, sender.and_then(|sender| Credentials::of(sender, is_empty))))
}

/// Whether the kernel is to say who sent the messages that this socket receives. It does not at first.
///
/// Only the receiver has to ask. Ask before anything can be sent: a message that is in the queue already
/// has no credentials. A connection inherits the setting from the listening socket that it was accepted
/// from, so set it there.
///
/// # Errors
///
/// * `ENOTSOCK`: `socket` is not a socket. `EOPNOTSUPP`: it is not a Unix socket (since Linux 6.16).
/// * [`Unsupported`](ErrorKind::Unsupported): on FreeBSD.
///
/// # Platform-specific
///
/// Linux and Android. A socket without a name gets one of the abstract namespace when it connects or
/// sends while this is on.
///
/// # Examples
///
/// See [`recv_fds_with_credentials`].
#[doc(alias = "SO_PASSCRED")]
pub fn pass_credentials(socket: impl AsFd, pass: bool) -> io::Result<()> {
    sys::socket::pass_credentials(socket.as_fd(), pass)
}

/// Who sent a message: the process, and its user and group, as they were at that time.
///
/// The kernel fills these in, and checks what a sender puts there itself: its own process id, and any of
/// its real, effective and saved ids. Only a process with `CAP_SYS_ADMIN` can name another process, with
/// `CAP_SETUID` another user, and with `CAP_SETGID` another group: root can lie. The process may have
/// ended since, and its number may belong to another one. See [`unix(7)`].
///
/// # Examples
///
/// ```
/// use sealed_mmap::socket::Credentials;
///
/// fn is_root(sender: Option<Credentials>) -> bool {
///     sender.is_some_and(|sender| sender.uid == 0)
/// }
/// assert!(!is_root(None));
/// ```
///
/// [`unix(7)`]: https://man7.org/linux/man-pages/man7/unix.7.html
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "ucred")]
#[non_exhaustive]
pub struct Credentials {
    /// The process id, in the receiver's PID namespace. `None` if the sender has no number there, as a
    /// process outside of a container has none inside of it. So the kernel's 0 cannot end up in a
    /// `kill(2)`, where it stands for the caller's own process group.
    pub pid: Option<u32>,
    /// The user id, in the receiver's user namespace. The overflow uid (65534) stands for every user that
    /// the namespace does not map.
    pub uid: u32,
    /// The group id, in the receiver's user namespace, with an overflow gid like the uid's.
    pub gid: u32,
}

impl Credentials {
    /// `None` for the credentials of nobody. The kernel has two: the overflow ids for a message that was
    /// queued without any, and zeros, which are root's, for the end of a stream.
    fn of(Sender { pid, uid, gid }: Sender, is_empty: bool) -> Option<Self> {
        let pid = (pid != 0).then_some(pid);
        let is_somebody = pid.is_some() || !is_empty && !sys::is_nobody(uid, gid);
        is_somebody.then_some(Self { pid, uid, gid })
    }
}

/// Receives a message, and waits for one as far as the socket lets this call wait. On an error `fds` is
/// as it was before.
fn recv_message(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    waits: bool,
) -> io::Result<(usize, Option<Sender>)> {
    if bytes.is_empty() {
        return Err(invalid("the buffer needs room for at least one byte"));
    }
    let before = fds.len();
    let received = recv_into(socket, bytes, fds, waits);
    if received.is_err() {
        fds.truncate(before);
    }
    received
}

/// Receives a message. On an error `fds` may have more descriptors than before.
fn recv_into(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    waits: bool,
) -> io::Result<(usize, Option<Sender>)> {
    const ROOM: usize = cmsg_space!(ScmRights(MAX_FDS)) + OTHER_CONTROL_MESSAGES;

    let before = fds.len();
    let Received { len, flags, sender } = retry_until_timeout(socket, Timeout::Recv, |may_wait| {
        let mut flags = RecvFlags::empty();
        flags.set(RecvFlags::DONTWAIT, !(waits && may_wait));
        receive::<ROOM>(socket, bytes, fds, flags)
    })
    .map_err(while_doing("receive a message (recvmsg)"))?;
    if flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE.into());
    }
    if flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            ErrorKind::QuotaExceeded,
            "descriptors were lost: too many open files, or refused by a security module",
        ));
    }
    for fd in fds.iter_mut().skip(before) {
        match sys::above_standard_descriptors(fd.as_fd()) {
            Ok(None) => {}
            // Assigning closes the lower one.
            Ok(Some(higher)) => *fd = higher,
            // No number is free, or none is allowed.
            Err(Errno::MFILE | Errno::INVAL) => {
                return Err(io::Error::new(
                    ErrorKind::QuotaExceeded,
                    "a descriptor was lost: too many open files, no number above 2 is left",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((len, sender))
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
    recv_at_most_one(socket.as_fd(), bytes, true)
}

/// As [`recv_fd`], of what is there already: `WouldBlock` otherwise, whatever the socket's flags are.
pub(crate) fn try_recv_fd(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    recv_at_most_one(socket, bytes, false)
}

fn recv_at_most_one(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    waits: bool,
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut fds = Vec::new();
    let (len, _) = recv_message(socket, bytes, &mut fds, waits)?;
    if fds.len() > 1 {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "the peer sent more than one descriptor",
        ));
    }
    Ok((len, fds.pop()))
}
