//! Receiving with control messages, and waiting for a socket.
//!
//! Control messages are decoded here and not by rustix, whose `RecvAncillaryBuffer::drain` (1.1.6)
//! reads credentials into a `Pid`, which cannot be 0. The kernel writes 0 for a sender that has no
//! number in this PID namespace, and for a message that was queued before `SO_PASSCRED` was set.
//! `drain` also skips process descriptors, which then stay open.
#![allow(unsafe_code, reason = "descriptors arrive as numbers in a buffer that the kernel fills")]

use std::ffi::c_int;
use std::io::{self, IoSliceMut};
use std::iter;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::sockopt::{Timeout, socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, SocketAddrUnix, recv, recvmsg, send,
};

use super::Interruptions;

/// The type of `cmsg_len`, the types of messages that the kernel adds, and what has to do with them.
#[cfg(not(target_os = "freebsd"))]
mod target {
    use super::*;
    use crate::failure::while_doing;
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;

    pub(super) type Len = usize;
    pub(super) const SCM_CREDENTIALS: Option<c_int> = Some(2);
    pub(super) const SCM_PIDFD: Option<c_int> = Some(4);

    pub(super) fn abstract_address(address: &SocketAddr) -> Option<Result<SocketAddrUnix>> {
        address.as_abstract_name().map(SocketAddrUnix::new_abstract_name)
    }

    pub(crate) fn pass_credentials(socket: BorrowedFd<'_>, pass: bool) -> io::Result<()> {
        rustix::net::sockopt::set_socket_passcred(socket, pass)
            .map_err(while_doing("ask for the credentials of senders (SO_PASSCRED)"))
    }

    pub(crate) fn expect_credentials() -> io::Result<()> {
        Ok(())
    }
}

/// FreeBSD has no such messages. 2 and 4 are the numbers of timestamps there.
#[cfg(target_os = "freebsd")]
mod target {
    use super::*;

    pub(super) type Len = u32;
    pub(super) const SCM_CREDENTIALS: Option<c_int> = None;
    pub(super) const SCM_PIDFD: Option<c_int> = None;

    pub(super) fn abstract_address(_: &SocketAddr) -> Option<Result<SocketAddrUnix>> {
        None
    }

    pub(crate) fn pass_credentials(_: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        expect_credentials()
    }

    pub(crate) fn expect_credentials() -> io::Result<()> {
        let message = "credentials of senders need Linux or Android: FreeBSD's SCM_CREDS differs";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }
}

use target::{Len, SCM_CREDENTIALS, SCM_PIDFD};
pub(crate) use target::{expect_credentials, pass_credentials};

const SOL_SOCKET: c_int = if cfg!(any(
    target_os = "freebsd",
    target_arch = "mips",
    target_arch = "mips32r6",
    target_arch = "mips64",
    target_arch = "mips64r6",
    target_arch = "sparc",
    target_arch = "sparc64",
)) {
    0xffff
} else {
    1
};
const SCM_RIGHTS: c_int = 1;

/// `CMSG_ALIGN(1)`.
const ALIGN: usize = size_of::<usize>();
/// `CMSG_LEN(0)`: `cmsg_len`, `cmsg_level`, `cmsg_type`, and what aligns the payload.
const HEADER: usize = (size_of::<Len>() + 2 * size_of::<c_int>()).next_multiple_of(ALIGN);

struct ControlMessage<'a> {
    level: c_int,
    kind: c_int,
    payload: &'a [u8],
}

/// The control messages in a buffer, up to the first that is not whole.
///
/// Linux shortens `cmsg_len` to what it wrote. FreeBSD does not, and has then closed the message's
/// descriptors (FreeBSD-SA-19:02.fd, "the kernel handles the truncation case by closing descriptors
/// referenced by the discarded message"): the numbers may belong to other files by now.
fn control_messages(mut buffer: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    iter::from_fn(move || {
        let (len, rest) = buffer.split_first_chunk()?;
        let (level, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        #[allow(clippy::useless_conversion, reason = "the type differs by target")]
        let len = usize::try_from(Len::from_ne_bytes(*len)).ok()?;
        let payload = buffer.get(HEADER..len)?;
        buffer = buffer.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(ControlMessage {
            level: c_int::from_ne_bytes(*level),
            kind: c_int::from_ne_bytes(*kind),
            payload,
        })
    })
}

/// The whole numbers in the payload of a message that carries descriptors.
fn numbers(mut payload: &[u8]) -> impl Iterator<Item = RawFd> {
    iter::from_fn(move || {
        let (number, rest) = payload.split_first_chunk()?;
        payload = rest;
        Some(RawFd::from_ne_bytes(*number))
    })
}

/// The descriptors in a buffer of control messages, each with the type of its message: `SCM_RIGHTS`
/// or `SCM_PIDFD`.
fn descriptors(buffer: &[u8]) -> impl Iterator<Item = (c_int, RawFd)> {
    control_messages(buffer)
        .filter(|message| message.level == SOL_SOCKET)
        .filter(|message| message.kind == SCM_RIGHTS || Some(message.kind) == SCM_PIDFD)
        .flat_map(|message| numbers(message.payload).map(move |number| (message.kind, number)))
        // Where the kernel could not open a process descriptor, an errno stands in its place.
        .filter(|(_, number)| *number >= 0)
}

/// `struct ucred`, as the kernel fills it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    /// 0 for a process that has no number in this PID namespace.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The credentials in a buffer of control messages. There is one such message at most.
fn sender(buffer: &[u8]) -> Option<Sender> {
    let is_it = |message: &ControlMessage<'_>| {
        message.level == SOL_SOCKET && Some(message.kind) == SCM_CREDENTIALS
    };
    let (pid, rest) = control_messages(buffer).find(is_it)?.payload.split_first_chunk()?;
    let (uid, rest) = rest.split_first_chunk()?;
    let (gid, _) = rest.split_first_chunk()?;
    Some(Sender {
        pid: u32::from_ne_bytes(*pid),
        uid: u32::from_ne_bytes(*uid),
        gid: u32::from_ne_bytes(*gid),
    })
}

/// rustix hands the kernel what follows the first boundary of `align_of::<cmsghdr>()` in a buffer,
/// which is therefore the whole of one with at least this alignment.
#[repr(C, align(16))]
struct Aligned<const ROOM: usize>([MaybeUninit<u8>; ROOM]);

/// What a message had beside its descriptors.
pub(crate) struct Received {
    /// Bytes.
    pub(crate) len: usize,
    pub(crate) flags: ReturnFlags,
    pub(crate) sender: Option<Sender>,
}

/// Receives bytes, and appends the descriptors that came with them, also when the flags say that
/// something was cut off. `ROOM` bytes are there for control messages.
pub(crate) fn receive<const ROOM: usize>(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> Result<Received> {
    // rustix does not tell how much the kernel wrote. Zeros, a message shorter than its header, end
    // the list.
    let mut buffer = Aligned([MaybeUninit::new(0); ROOM]);
    // Dropping it would decode the messages.
    let mut control = ManuallyDrop::new(RecvAncillaryBuffer::new(&mut buffer.0));
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    // SAFETY: the pointer is to a local array, so it is aligned and valid for reads of all of it, and
    // nothing writes to the array as long as the reference lives: `control`, which borrowed it, is
    // not used again. Each byte is initialized: `MaybeUninit::new` has done so, and since then only
    // the kernel has written, to which `with_recv_msghdr` of rustix 1.1.6 passes the pointer without
    // a write of its own.
    let buffer: &[u8; ROOM] = unsafe { &*(&raw const buffer.0).cast() };
    for (kind, number) in descriptors(buffer) {
        // SAFETY: the descriptor is open, and nobody else owns it. Messages of level SOL_SOCKET come
        // from the kernel alone. By SCM_RIGHTS it says which descriptors this call has opened
        // (unix(7): they "behave as though they have been created with dup(2)"), by SCM_PIDFD
        // likewise (scm_pidfd_recv in net/core/scm.c installs the one that it names). The buffer was
        // zero before the call, so no message is a leftover. Each number is read once: the parser
        // only moves on, and `control`, which would read it again, is neither drained nor dropped.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        // A process descriptor is not asked for, and is closed here.
        if kind == SCM_RIGHTS {
            fds.push(fd);
        }
    }
    Ok(Received { len: received.bytes, flags: received.flags, sender: sender(buffer) })
}

/// The address of a socket in the form that rustix sends to. `InvalidInput` if it is unnamed.
pub(crate) fn named(address: &SocketAddr) -> io::Result<SocketAddrUnix> {
    if let Some(path) = address.as_pathname() {
        return Ok(SocketAddrUnix::new(path)?);
    }
    let address = target::abstract_address(address).ok_or_else(|| {
        let message = "an unnamed address is nobody's, so nothing can be sent to it";
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    Ok(address?)
}

/// Calls again after a signal, until the timeout of the socket (`SO_RCVTIMEO`, `SO_SNDTIMEO`) is
/// over, counted from the first call. `call` is told whether it may wait.
pub(crate) fn retry_until_timeout<T>(
    socket: BorrowedFd<'_>,
    direction: Timeout,
    mut call: impl FnMut(bool) -> Result<T>,
) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(10);

    let start = Instant::now();
    let mut interruptions = Interruptions::new();
    let timeout = loop {
        match call(true) {
            Err(Errno::INTR) if interruptions.may_be_signals() => {}
            done => return done,
        }
        match socket_timeout(socket, direction) {
            Ok(None) => {}
            Ok(Some(timeout)) => break timeout,
            // A sandbox forbids the question. The caller knows whether there is a timeout to keep.
            Err(_) => return Err(Errno::INTR),
        }
    };
    let events = match direction {
        Timeout::Recv => PollFlags::IN,
        Timeout::Send => PollFlags::OUT,
    };
    let mut seems_ready = false;
    loop {
        match call(false) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(Errno::AGAIN);
        }
        let mut fds = [PollFd::from_borrowed_fd(socket, events)];
        // poll(2) also returns for what the call does not report, such as a queued error. It would
        // do so again at once, so pause instead.
        let (fds, left) =
            if seems_ready { (&mut fds[..0], left.min(PAUSE)) } else { (&mut fds[..], left) };
        // A timeout that cannot be expressed is none.
        seems_ready = match poll(fds, Timespec::try_from(left).ok().as_ref()) {
            Err(Errno::INTR) => false,
            count => count? == 1,
        };
    }
}

/// Sends a byte, without ever waiting.
pub(crate) fn send_byte(socket: BorrowedFd<'_>) -> Result<()> {
    send(socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(|_| ())
}

/// Takes some of the bytes that are there, or waits for one, and returns how many; 0 at the end of the
/// connection. Descriptors that a peer attaches to them do not arrive (recv(2) has no room for them).
pub(crate) fn take_bytes(socket: BorrowedFd<'_>, may_wait: bool) -> Result<usize> {
    let mut flags = RecvFlags::empty();
    flags.set(RecvFlags::DONTWAIT, !may_wait);
    recv(socket, &mut [0; 64][..], flags).map(|(count, _)| count)
}

/// Waits until the socket has something to read, or `timeout` is over. May end early.
pub(crate) fn wait_readable(socket: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    // A timeout that cannot be expressed is none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(false),
        count => Ok(count? == 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel lays it out, of which `len` is claimed.
    fn message_of_len(len: usize, level: c_int, kind: c_int, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Len::try_from(len).unwrap().to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    fn message(level: c_int, kind: c_int, payload: &[u8]) -> Vec<u8> {
        message_of_len(HEADER + payload.len(), level, kind, payload)
    }

    fn rights(numbers: &[RawFd]) -> Vec<u8> {
        let payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        message(SOL_SOCKET, SCM_RIGHTS, &payload)
    }

    fn found(buffer: &[u8]) -> Vec<RawFd> {
        descriptors(buffer).map(|(_, number)| number).collect()
    }

    #[test]
    fn the_layout_is_that_of_libc() {
        assert_eq!(SOL_SOCKET, libc::SOL_SOCKET);
        assert_eq!(SCM_RIGHTS, libc::SCM_RIGHTS);
        #[cfg(target_os = "linux")]
        assert_eq!(SCM_CREDENTIALS, Some(libc::SCM_CREDENTIALS));
        for payload in 0..100 {
            let bytes = message(0, 0, &vec![0; payload]);
            // SAFETY: it calculates with its argument, and no more.
            assert_eq!(bytes.len(), unsafe { libc::CMSG_SPACE(payload as u32) } as usize);
        }
        // SAFETY: it calculates with its argument, and no more.
        assert_eq!(HEADER, unsafe { libc::CMSG_LEN(0) } as usize);
        assert!(align_of::<Aligned<1>>() >= align_of::<libc::cmsghdr>());
        let cmsg_len = std::mem::offset_of!(libc::cmsghdr, cmsg_level);
        assert_eq!(size_of::<Len>(), cmsg_len, "also where libc has a shorter one and padding");
        assert_eq!(cmsg_len + 4, std::mem::offset_of!(libc::cmsghdr, cmsg_type));
    }

    #[test]
    fn descriptors_are_found_among_other_messages() {
        let credentials = message(SOL_SOCKET, 2, &[0; 12]);
        let label = message(SOL_SOCKET, 3, b"system_u:object_r:unlabeled_t");
        let elsewhere = message(SOL_SOCKET + 1, SCM_RIGHTS, &9_i32.to_ne_bytes());
        let end = vec![0; 64];
        let all = [credentials, label, rights(&[3, 4]), elsewhere, rights(&[5]), end, rights(&[6])];
        assert_eq!(found(&all.concat()), [3, 4, 5]);
    }

    #[test]
    fn process_descriptors_are_found_on_either_side_of_others() {
        let Some(kind) = SCM_PIDFD else { return };
        let pidfd = |number: RawFd| message(SOL_SOCKET, kind, &number.to_ne_bytes());
        let all = [pidfd(7), rights(&[3, 4]), pidfd(8), pidfd(-3), pidfd(0)].concat();
        let all: Vec<_> = descriptors(&all).collect();
        assert_eq!(all, [(kind, 7), (SCM_RIGHTS, 3), (SCM_RIGHTS, 4), (kind, 8), (kind, 0)]);
    }

    #[test]
    fn credentials_are_found_whole_or_not_at_all() {
        let Some(kind) = SCM_CREDENTIALS else { return };
        let payload = [7_u32, 8, 9].map(u32::to_ne_bytes).concat();
        let expected = Some(Sender { pid: 7, uid: 8, gid: 9 });
        let credentials = message(SOL_SOCKET, kind, &payload);
        assert_eq!(sender(&credentials), expected);
        assert_eq!(sender(&[rights(&[3, 4]), credentials].concat()), expected);
        for cut in 0..payload.len() {
            assert_eq!(sender(&message(SOL_SOCKET, kind, &payload[..cut])), None, "{cut}");
        }
        for (level, kind) in [(SOL_SOCKET + 1, kind), (SOL_SOCKET, SCM_RIGHTS)] {
            assert_eq!(sender(&message(level, kind, &payload)), None);
        }
        assert_eq!(sender(&[]), None);
    }

    #[test]
    fn a_buffer_cut_off_anywhere_gives_whole_messages_only() {
        let all = [message(SOL_SOCKET, 2, &[0xff; 12]), rights(&[3, 4, 5]), rights(&[6])].concat();
        let ends = [2, 3].map(|messages| {
            let lens = [HEADER + 12, HEADER + 12, HEADER + 4];
            let before: usize =
                lens[..messages - 1].iter().map(|len| len.next_multiple_of(ALIGN)).sum();
            before + lens[messages - 1]
        });
        for cut in 0..=all.len() {
            let expected: &[RawFd] = match cut {
                _ if cut < ends[0] => &[],
                _ if cut < ends[1] => &[3, 4, 5],
                _ => &[3, 4, 5, 6],
            };
            assert_eq!(found(&all[..cut]), expected, "of {cut} bytes");
        }
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_list() {
        let number = 3_i32.to_ne_bytes();
        let lens = (0..HEADER).chain([HEADER + 4 + ALIGN, 4096, Len::MAX / 2, Len::MAX]);
        for len in lens {
            let bytes = message_of_len(len, SOL_SOCKET, SCM_RIGHTS, &number);
            assert_eq!(found(&bytes), [], "{len}");
            assert_eq!(found(&[rights(&[1]), bytes].concat()), [1], "{len}");
        }
    }

    #[test]
    fn a_part_of_a_number_is_no_descriptor() {
        for cut in 0..8 {
            let payload = [3_i32, 4].map(i32::to_ne_bytes).concat();
            let bytes = message(SOL_SOCKET, SCM_RIGHTS, &payload[..cut]);
            assert_eq!(found(&bytes), [3][..cut / 4], "{cut}");
        }
    }

    #[test]
    fn no_alignment_is_needed() {
        let bytes = [message(SOL_SOCKET, 2, &[1; 3]), rights(&[3, 4])].concat();
        for offset in 0..ALIGN {
            let moved = [vec![0xff; offset], bytes.clone()].concat();
            assert_eq!(found(&moved[offset..]), [3, 4]);
        }
    }

    #[test]
    fn every_byte_string_comes_to_an_end() {
        let mut state = 1_u64;
        for len in (0..4096).step_by(7) {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    // Small lengths, so that the walk goes on.
                    state =
                        state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    if state >> 60 == 0 { (state >> 50) as u8 } else { 0 }
                })
                .collect();
            assert!(descriptors(&bytes).count() <= len / size_of::<RawFd>());
            sender(&bytes);
        }
    }
}
