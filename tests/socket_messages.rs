//! What `socket` promises, on every kind of Unix socket. What changes the whole process is tested
//! in `socket_process_limits.rs`.

mod support;

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_getfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair, sockopt,
};
use rustix::pipe::{PipeFlags, pipe_with};
use sealed_mmap::socket::{MAX_FDS, recv_fd, recv_fds, send_fds};
use support::assert_errno;
use support::process::may_open_many;

const STREAM: SocketType = SocketType::STREAM;
const DATAGRAM: SocketType = SocketType::DGRAM;
const RECORDS: SocketType = SocketType::SEQPACKET;
const KINDS: [SocketType; 3] = [STREAM, DATAGRAM, RECORDS];

fn blocking(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn nonblocking(kind: SocketType) -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, kind, flags, None).unwrap()
}

fn every_pair() -> impl Iterator<Item = (OwnedFd, OwnedFd)> {
    KINDS.into_iter().flat_map(|kind| [blocking(kind), nonblocking(kind)])
}

/// A file that `number_of` recognizes in another descriptor.
fn numbered_file(number: u64) -> OwnedFd {
    let fd = memfd_create("numbered", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, number).unwrap();
    fd
}

fn number_of(fd: impl AsFd) -> i64 {
    fstat(fd).unwrap().st_size
}

fn numbers_of(fds: &[OwnedFd]) -> Vec<i64> {
    fds.iter().map(number_of).collect()
}

/// The reading end of a pipe sees its end once no writing end is left in any table or message.
struct Witness(OwnedFd);

impl Witness {
    fn new() -> (Self, OwnedFd) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (Self(reader), writer)
    }

    fn all_closed(&self) -> bool {
        match rustix::io::read(&self.0, &mut [0; 1]) {
            Ok(0) => true,
            Err(Errno::AGAIN) => false,
            other => panic!("{other:?}"),
        }
    }
}

/// `send_fds` without its checks.
fn send_raw(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(fds.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// `recv_fds` without its flags, checks and room.
fn recv_raw(socket: &OwnedFd, bytes: &mut [u8], room: usize) -> (ReturnFlags, Vec<OwnedFd>) {
    let mut space = vec![MaybeUninit::uninit(); room];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message =
        recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::empty()).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    (message.flags, fds)
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn fill_queue(socket: &OwnedFd) {
    while rustix::net::send(socket, &[0; 4096], SendFlags::DONTWAIT).is_ok() {}
}

#[test]
fn as_many_as_253_descriptors_arrive_in_order() {
    if !may_open_many() {
        return;
    }
    let files: Vec<_> = (0..MAX_FDS as u64).map(numbered_file).collect();
    let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    for (ours, theirs) in every_pair() {
        assert_eq!(send_fds(&ours, b"all", &borrowed).unwrap(), 3);

        let (mut bytes, mut fds) = ([0; 10], vec![numbered_file(1000)]);
        assert_eq!(recv_fds(&theirs, &mut bytes, &mut fds).unwrap(), 3);
        assert_eq!(&bytes[..3], b"all");
        assert_eq!(number_of(&fds[0]), 1000, "what the vector had stays in front");
        assert_eq!(numbers_of(&fds[1..]), (0..253).collect::<Vec<_>>());
    }
}

#[test]
fn no_descriptors_is_a_plain_message() {
    for (ours, theirs) in every_pair() {
        send_fds(&ours, b"plain", &[]).unwrap();
        let (mut bytes, mut fds) = ([0; 10], Vec::new());
        assert_eq!(recv_fds(&theirs, &mut bytes, &mut fds).unwrap(), 5);
        assert_eq!(&bytes[..5], b"plain");
        assert!(fds.is_empty());
    }
}

#[test]
fn more_than_253_is_an_error_and_nothing_is_sent() {
    let file = numbered_file(1);
    let fds = [file.as_fd(); MAX_FDS + 1];
    for socket in KINDS {
        let (ours, theirs) = nonblocking(socket);
        let error = send_fds(&ours, b"x", &fds).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.raw_os_error(), None, "refused before the kernel is asked");
        assert_eq!(kind(recv_fd(&theirs, &mut [0; 10])), ErrorKind::WouldBlock);
        // Control: the limit is the kernel's.
        assert_eq!(send_raw(&ours, b"x", &fds), Err(Errno::INVAL));
        assert_eq!(send_raw(&ours, b"x", &fds[1..]), Ok(1));
    }
}

#[test]
fn an_empty_message_needs_a_datagram_socket() {
    let file = numbered_file(1);
    for (socket, name) in [(STREAM, "stream"), (RECORDS, "seqpacket")] {
        let (ours, theirs) = nonblocking(socket);
        for fds in [&[file.as_fd()][..], &[]] {
            let error = send_fds(&ours, b"", fds).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("on a {name} socket")), "{error}");
        }
        assert_eq!(kind(recv_fd(&theirs, &mut [0; 10])), ErrorKind::WouldBlock);
    }
    // Control: a stream takes descriptors without bytes, and drops them.
    let (ours, theirs) = nonblocking(STREAM);
    let (witness, writer) = Witness::new();
    assert_eq!(send_raw(&ours, b"", &[writer.as_fd()]), Ok(0));
    drop(writer);
    assert!(witness.all_closed());
    assert_eq!(kind(recv_fd(&theirs, &mut [0; 10])), ErrorKind::WouldBlock);
    // Control: an empty record looks like the end, which it is not.
    let (ours, theirs) = nonblocking(RECORDS);
    assert_eq!(send_raw(&ours, b"", &[]), Ok(0));
    send_fds(&ours, b"x", &[]).unwrap();
    assert!(matches!(recv_fd(&theirs, &mut [0; 10]), Ok((0, None))));
    assert!(matches!(recv_fd(&theirs, &mut [0; 10]), Ok((1, None))));
}

#[test]
fn an_empty_datagram_carries_descriptors_like_any_other() {
    if !may_open_many() {
        return;
    }
    let files: Vec<_> = (0..MAX_FDS as u64).map(numbered_file).collect();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    for (ours, theirs) in [blocking(DATAGRAM), nonblocking(DATAGRAM)] {
        for count in [0, 1, MAX_FDS] {
            assert_eq!(send_fds(&ours, b"", &files[..count]).unwrap(), 0);
            send_fds(&ours, b"next", &[]).unwrap();
            let (mut bytes, mut fds) = ([0; 10], Vec::new());
            assert_eq!(recv_fds(&theirs, &mut bytes, &mut fds).unwrap(), 0);
            assert_eq!(numbers_of(&fds), (0..count as i64).collect::<Vec<_>>());
            assert_eq!(recv_fds(&theirs, &mut bytes, &mut fds).unwrap(), 4);
            assert_eq!(fds.len(), count);
        }
    }
    let (ours, theirs) = nonblocking(DATAGRAM);
    let too_many = [files[0]; MAX_FDS + 1];
    assert_eq!(kind(send_fds(&ours, b"", &too_many)), ErrorKind::InvalidInput);
    drop(theirs);
    assert_errno(send_fds(&ours, b"", &files), Errno::CONNREFUSED);
}

#[test]
fn an_empty_buffer_is_an_error_and_nothing_is_received() {
    for (ours, theirs) in every_pair() {
        send_fds(&ours, b"x", &[numbered_file(7).as_fd()]).unwrap();
        assert_eq!(kind(recv_fds(&theirs, &mut [], &mut Vec::new())), ErrorKind::InvalidInput);
        let (len, fd) = recv_fd(&theirs, &mut [0; 10]).unwrap();
        assert_eq!((len, fd.map(number_of)), (1, Some(7)));
    }
}

#[test]
fn descriptors_are_close_on_exec_when_they_arrive() {
    let file = numbered_file(1);
    for (ours, theirs) in every_pair() {
        send_fds(&ours, b"x", &[file.as_fd(); 3]).unwrap();
        let mut fds = Vec::new();
        recv_fds(&theirs, &mut [0; 1], &mut fds).unwrap();
        assert_eq!(fds.len(), 3);
        for fd in fds {
            assert_eq!(fcntl_getfd(fd).unwrap(), FdFlags::CLOEXEC);
        }
        // Control: the flag is not the sender's to give.
        send_fds(&ours, b"x", &[file.as_fd()]).unwrap();
        let (_, fds) = recv_raw(&theirs, &mut [0; 1], cmsg_space!(ScmRights(1)));
        assert_eq!(fcntl_getfd(&fds[0]).unwrap(), FdFlags::empty());
    }
}

#[test]
fn a_plain_read_loses_the_descriptors_that_recv_fds_hands_out() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (witness, writer) = Witness::new();
    send_fds(&ours, b"x", &[writer.as_fd()]).unwrap();
    send_fds(&ours, b"y", &[writer.as_fd()]).unwrap();
    drop(writer);
    let (len, fd) = recv_fd(&theirs, &mut [0; 10]).unwrap();
    assert_eq!(len, 1);
    assert!(!witness.all_closed());
    drop(fd.unwrap());
    assert!(!witness.all_closed(), "the second is in flight");
    theirs.read_exact(&mut [0; 1]).unwrap();
    assert!(witness.all_closed());
}

#[test]
fn a_message_longer_than_the_buffer_is_an_error_and_leaks_no_fd() {
    for socket in [DATAGRAM, RECORDS] {
        for (ours, theirs) in [blocking(socket), nonblocking(socket)] {
            let (witness, writer) = Witness::new();
            send_fds(&ours, b"four", &[writer.as_fd(); 5]).unwrap();
            send_fds(&ours, b"next", &[]).unwrap();
            drop(writer);
            let mut fds = vec![numbered_file(1)];
            let result = recv_fds(&theirs, &mut [0; 3], &mut fds);
            assert_errno(result, Errno::MSGSIZE);
            assert_eq!(numbers_of(&fds), [1]);
            assert!(witness.all_closed());

            let mut bytes = [0; 4];
            assert_eq!(recv_fds(&theirs, &mut bytes, &mut fds).unwrap(), 4);
            assert_eq!(&bytes, b"next");
        }
    }
}

#[test]
fn a_stream_keeps_the_rest_and_its_first_part_has_the_fds() {
    for (ours, theirs) in [blocking(STREAM), nonblocking(STREAM)] {
        send_fds(&ours, b"four", &[numbered_file(1).as_fd()]).unwrap();
        let mut bytes = [0; 3];
        let (len, fd) = recv_fd(&theirs, &mut bytes).unwrap();
        assert_eq!((len, &bytes, fd.map(number_of)), (3, b"fou", Some(1)));
        let (len, fd) = recv_fd(&theirs, &mut bytes).unwrap();
        assert_eq!((len, bytes[0], fd.map(number_of)), (1, b'r', None));
    }
}

#[test]
fn a_stream_receive_ends_with_the_bytes_that_had_descriptors() {
    for (ours, theirs) in [blocking(STREAM), nonblocking(STREAM)] {
        let (one, two) = (numbered_file(1), numbered_file(2));
        send_fds(&ours, b"a", &[]).unwrap();
        send_fds(&ours, b"b", &[one.as_fd()]).unwrap();
        send_fds(&ours, b"c", &[two.as_fd()]).unwrap();
        send_fds(&ours, b"d", &[]).unwrap();
        for (expected, number) in [(&b"ab"[..], Some(1)), (b"c", Some(2)), (b"d", None)] {
            let mut bytes = [0; 10];
            let (len, fd) = recv_fd(&theirs, &mut bytes).unwrap();
            assert_eq!((&bytes[..len], fd.map(number_of)), (expected, number));
        }
    }
}

#[test]
fn messages_of_other_sockets_stay_apart() {
    for socket in [DATAGRAM, RECORDS] {
        let (ours, theirs) = blocking(socket);
        send_fds(&ours, b"a", &[]).unwrap();
        send_fds(&ours, b"b", &[numbered_file(1).as_fd()]).unwrap();
        for (expected, number) in [(b'a', None), (b'b', Some(1))] {
            let mut bytes = [0; 10];
            let (len, fd) = recv_fd(&theirs, &mut bytes).unwrap();
            assert_eq!((len, bytes[0], fd.map(number_of)), (1, expected, number));
        }
    }
}

#[test]
fn a_short_send_has_taken_all_descriptors() {
    const LEN: usize = 1 << 20;
    let (ours, theirs) = nonblocking(STREAM);
    let message: Vec<u8> = (0..LEN).map(|i| i as u8).collect();
    let file = numbered_file(1);
    let sent = send_fds(&ours, &message, &[file.as_fd(); 2]).unwrap();
    assert!(sent < LEN);
    assert_eq!(kind(send_fds(&ours, &message[sent..], &[])), ErrorKind::WouldBlock);

    let mut ours = UnixStream::from(ours);
    ours.set_nonblocking(false).unwrap();
    let rest = message[sent..].to_vec();
    let writer = thread::spawn(move || ours.write_all(&rest).unwrap());
    rustix::io::ioctl_fionbio(&theirs, false).unwrap();
    let (mut received, mut buffer, mut fds) = (Vec::new(), vec![0; 1 << 16], Vec::new());
    loop {
        let len = recv_fds(&theirs, &mut buffer, &mut fds).unwrap();
        assert_eq!(fds.len(), 2, "with the first bytes, and never again");
        if len == 0 {
            break;
        }
        received.extend_from_slice(&buffer[..len]);
    }
    writer.join().unwrap();
    assert!(received == message);
}

#[test]
fn datagrams_and_records_are_sent_whole_or_not_at_all() {
    for socket in [DATAGRAM, RECORDS] {
        let (ours, theirs) = nonblocking(socket);
        let (witness, writer) = Witness::new();
        let result = send_fds(&ours, &vec![0; 1 << 24], &[writer.as_fd()]);
        drop(writer);
        assert_errno(result, Errno::MSGSIZE);
        assert!(witness.all_closed());
        assert_eq!(kind(recv_fd(&theirs, &mut [0; 1])), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_full_queue_is_would_block_and_keeps_no_descriptor() {
    for socket in KINDS {
        let (ours, _theirs) = nonblocking(socket);
        fill_queue(&ours);
        let (witness, writer) = Witness::new();
        let result = send_fds(&ours, &[0; 4096], &[writer.as_fd()]);
        assert_eq!(kind(result), ErrorKind::WouldBlock);
        drop(writer);
        assert!(witness.all_closed());
    }
}

#[test]
fn a_blocking_receive_waits_for_the_message() {
    for socket in KINDS {
        let (ours, theirs) = blocking(socket);
        let receiver = thread::spawn(move || recv_fd(&theirs, &mut [0; 10]).unwrap());
        thread::sleep(Duration::from_millis(20));
        assert!(!receiver.is_finished());
        send_fds(&ours, b"x", &[numbered_file(3).as_fd()]).unwrap();
        let (len, fd) = receiver.join().unwrap();
        assert_eq!((len, fd.map(number_of)), (1, Some(3)));
    }
}

#[test]
fn zero_bytes_is_the_end_after_the_last_message() {
    for socket in [STREAM, RECORDS] {
        for (ours, theirs) in [blocking(socket), nonblocking(socket)] {
            send_fds(&ours, b"last", &[numbered_file(3).as_fd()]).unwrap();
            drop(ours);
            let mut fds = Vec::new();
            assert_eq!(recv_fds(&theirs, &mut [0; 4], &mut fds).unwrap(), 4);
            assert_eq!(recv_fds(&theirs, &mut [0; 4], &mut fds).unwrap(), 0);
            assert_eq!(numbers_of(&fds), [3]);
        }
    }
}

#[test]
fn a_hostile_empty_message_still_hands_out_its_descriptors() {
    for socket in [DATAGRAM, RECORDS] {
        let (ours, theirs) = blocking(socket);
        send_raw(&ours, b"", &[numbered_file(3).as_fd()]).unwrap();
        let (len, fd) = recv_fd(&theirs, &mut [0; 4]).unwrap();
        assert_eq!((len, fd.map(number_of)), (0, Some(3)));
    }
}

#[test]
fn a_peer_that_has_gone_is_an_error() {
    let file = numbered_file(1);
    for (socket, expected) in
        [(STREAM, Errno::PIPE), (RECORDS, Errno::PIPE), (DATAGRAM, Errno::CONNREFUSED)]
    {
        for (ours, theirs) in [blocking(socket), nonblocking(socket)] {
            drop(theirs);
            assert_errno(send_fds(&ours, b"x", &[file.as_fd()]), expected);
        }
    }
}

#[test]
fn a_peer_that_closes_with_unread_data_is_a_reset() {
    for socket in [STREAM, RECORDS] {
        let (ours, theirs) = blocking(socket);
        send_fds(&theirs, b"unread", &[]).unwrap();
        drop(ours);
        assert_eq!(kind(recv_fd(&theirs, &mut [0; 4])), ErrorKind::ConnectionReset);
    }
}

#[test]
fn descriptors_in_flight_are_closed_with_the_receiving_socket() {
    for (ours, theirs) in every_pair() {
        let (witness, writer) = Witness::new();
        send_fds(&ours, b"x", &[writer.as_fd()]).unwrap();
        drop(writer);
        drop(ours);
        assert!(!witness.all_closed(), "a file in flight is open without its sender");
        drop(theirs);
        assert!(witness.all_closed());
    }
}

#[test]
fn credentials_are_left_out_and_push_no_descriptor_out() {
    if !may_open_many() {
        return;
    }
    let file = numbered_file(1);
    let fds = [file.as_fd(); MAX_FDS];
    for (ours, theirs) in every_pair() {
        sockopt::set_socket_passcred(&theirs, true).unwrap();
        let mut received = Vec::new();
        send_fds(&ours, b"x", &fds).unwrap();
        assert_eq!(recv_fds(&theirs, &mut [0; 10], &mut received).unwrap(), 1);
        assert_eq!(received.len(), MAX_FDS);
        send_fds(&ours, b"x", &[]).unwrap();
        assert_eq!(recv_fd(&theirs, &mut [0; 10]).unwrap().0, 1);

        // Control: room for the descriptors alone is too little.
        send_fds(&ours, b"x", &fds).unwrap();
        let room = cmsg_space!(ScmRights(MAX_FDS));
        let (flags, received) = recv_raw(&theirs, &mut [0; 10], room);
        assert!(flags.contains(ReturnFlags::CTRUNC));
        assert!(received.len() < MAX_FDS);
    }
}

#[test]
fn descriptors_of_two_messages_come_in_two_receives() {
    if !may_open_many() {
        return;
    }
    let file = numbered_file(1);
    for (ours, theirs) in every_pair() {
        send_fds(&ours, b"x", &[file.as_fd(); MAX_FDS]).unwrap();
        send_fds(&ours, b"y", &[file.as_fd(); 300 - MAX_FDS]).unwrap();
        let mut fds = Vec::new();
        assert_eq!(recv_fds(&theirs, &mut [0; 10], &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), MAX_FDS);
        assert_eq!(recv_fds(&theirs, &mut [0; 10], &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), 300);
    }
}

#[test]
fn recv_fd_closes_a_surplus_and_goes_on_with_the_next_message() {
    for (ours, theirs) in every_pair() {
        let (witness, writer) = Witness::new();
        send_fds(&ours, b"x", &[writer.as_fd(); 2]).unwrap();
        drop(writer);
        send_fds(&ours, b"y", &[numbered_file(5).as_fd()]).unwrap();
        send_fds(&ours, b"z", &[]).unwrap();
        let mut bytes = [0; 10];
        assert_eq!(kind(recv_fd(&theirs, &mut bytes)), ErrorKind::InvalidData);
        assert!(witness.all_closed());
        let (len, fd) = recv_fd(&theirs, &mut bytes).unwrap();
        assert_eq!((len, bytes[0], fd.map(number_of)), (1, b'y', Some(5)));
        let (len, fd) = recv_fd(&theirs, &mut bytes).unwrap();
        assert_eq!((len, bytes[0], fd.map(number_of)), (1, b'z', None));
    }
}

#[test]
fn what_is_not_a_connected_socket_is_an_error() {
    let file = numbered_file(1);
    assert_errno(send_fds(&file, b"x", &[]), Errno::NOTSOCK);
    assert_errno(send_fds(&file, b"", &[]), Errno::NOTSOCK);
    assert_errno(recv_fd(&file, &mut [0; 1]), Errno::NOTSOCK);
    for (socket, sending, receiving) in [
        (STREAM, Errno::NOTCONN, Errno::INVAL),
        (RECORDS, Errno::NOTCONN, Errno::NOTCONN),
        (DATAGRAM, Errno::NOTCONN, Errno::AGAIN),
    ] {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, socket, flags, None).unwrap();
        assert_errno(send_fds(&socket, b"x", &[file.as_fd()]), sending);
        assert_errno(recv_fd(&socket, &mut [0; 1]), receiving);
    }
}

#[test]
fn tcp_takes_the_bytes_and_ignores_the_descriptors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let (witness, writer) = Witness::new();
    assert_eq!(send_fds(&ours, b"x", &[writer.as_fd()]).unwrap(), 1);
    drop(writer);
    assert!(witness.all_closed());
    assert!(matches!(recv_fd(&theirs, &mut [0; 1]), Ok((1, None))));
}

#[test]
fn tokio_waits_for_readiness() {
    use tokio::io::Interest;
    use tokio::net::UnixDatagram;

    const MESSAGES: u32 = 2000; // more than fit in the queue, so that each side waits for the other
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let sender = tokio::spawn(async move {
            let file = numbered_file(9);
            for i in 0..MESSAGES {
                let send = || send_fds(&ours, &i.to_ne_bytes(), &[file.as_fd()]);
                ours.async_io(Interest::WRITABLE, send).await.unwrap();
            }
        });
        for i in 0..MESSAGES {
            let mut bytes = [0; 4];
            let receive = || recv_fd(&theirs, &mut bytes);
            let (len, fd) = theirs.async_io(Interest::READABLE, receive).await.unwrap();
            assert_eq!((len, u32::from_ne_bytes(bytes)), (4, i));
            assert_eq!(number_of(fd.unwrap()), 9);
        }
        sender.await.unwrap();
    });
}
