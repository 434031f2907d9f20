//! Sending from a socket that is not connected, to an address: a path or an abstract name.
#![cfg(target_os = "linux")]

mod support;

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    listen, sendmsg_addr, socket_with, socketpair,
};
use sealed_mmap::socket::{MAX_FDS, recv_fd, recv_fds, send_fds, send_fds_to};
use sealed_mmap::{SealPolicy, SealedFile};
use support::assert_errno;
use support::process::may_open_many;

/// A file that `number_of` recognizes in another descriptor.
fn numbered(number: u64) -> OwnedFd {
    let fd = memfd_create("numbered", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, number).unwrap();
    fd
}

fn number_of(fd: impl AsFd) -> i64 {
    fstat(fd).unwrap().st_size
}

/// A path that nobody else uses, and that is gone with this value.
struct Path(PathBuf);

impl Path {
    fn new(name: &str) -> Self {
        let name = format!("sealed-mmap-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from_pathname(&self.0).unwrap()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn abstract_address(name: &str) -> SocketAddr {
    let name = format!("sealed-mmap-{name}-{}", std::process::id());
    SocketAddr::from_abstract_name(name).unwrap()
}

fn receiver(address: &SocketAddr) -> UnixDatagram {
    let receiver = UnixDatagram::bind_addr(address).unwrap();
    receiver.set_nonblocking(true).unwrap();
    receiver
}

fn sender() -> UnixDatagram {
    UnixDatagram::unbound().unwrap()
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn bytes_and_descriptors_reach_a_path_and_an_abstract_name() {
    if !may_open_many() {
        return;
    }
    let path = Path::new("both");
    let files: Vec<_> = (0..MAX_FDS as u64).map(numbered).collect();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    for address in [path.address(), abstract_address("both")] {
        let (receiver, sender) = (receiver(&address), sender());
        for (bytes, count) in [(&b"both"[..], 1), (b"", 1), (b"", MAX_FDS), (b"alone", 0), (b"", 0)]
        {
            assert_eq!(
                send_fds_to(&sender, &address, bytes, &files[..count]).unwrap(),
                bytes.len()
            );
            let (mut buffer, mut fds) = ([0; 10], Vec::new());
            let len = recv_fds(&receiver, &mut buffer, &mut fds).unwrap();
            assert_eq!(&buffer[..len], bytes);
            let numbers: Vec<_> = fds.iter().map(number_of).collect();
            assert_eq!(numbers, (0..count as i64).collect::<Vec<_>>());
        }
        // Nothing is left over.
        assert_eq!(kind(recv_fd(&receiver, &mut [0; 10])), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_sealed_record_arrives_as_the_journal_expects_it() {
    let address = abstract_address("journal");
    let receiver = receiver(&address);
    let record = SealedFile::from_bytes("record", b"MESSAGE=hello\n").unwrap();
    assert_eq!(send_fds_to(sender(), &address, b"", &[record.as_fd()]).unwrap(), 0);
    let (len, fd) = recv_fd(&receiver, &mut [0; 10]).unwrap();
    assert_eq!(len, 0);
    let received = SealedFile::receive_read_only(fd.unwrap(), &SealPolicy::untrusted(64)).unwrap();
    assert_eq!(&received.map_read_only().unwrap()[..], b"MESSAGE=hello\n");
}

#[test]
fn the_longest_names_are_sent_to() {
    // 108 bytes, of which a path has a NUL and an abstract name begins with one.
    let directory = std::env::temp_dir();
    let room = 107 - directory.as_os_str().len() - 1;
    let path = Path(directory.join(format!("{:x<room$}", std::process::id())));
    let name = SocketAddr::from_abstract_name(format!("{:x<107}", std::process::id())).unwrap();
    for address in [path.address(), name] {
        let receiver = receiver(&address);
        send_fds_to(sender(), &address, b"x", &[numbered(7).as_fd()]).unwrap();
        let (len, fd) = recv_fd(&receiver, &mut [0; 10]).unwrap();
        assert_eq!((len, fd.map(number_of)), (1, Some(7)));
    }
}

#[test]
fn an_unnamed_address_is_an_error() {
    let unnamed = sender().local_addr().unwrap();
    assert!(unnamed.is_unnamed());
    let error = send_fds_to(sender(), &unnamed, b"x", &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("unnamed"), "{error}");
}

#[test]
fn an_address_where_nobody_listens_is_an_error() {
    let path = Path::new("nobody");
    let file = numbered(1);
    assert_errno(send_fds_to(sender(), &path.address(), b"x", &[file.as_fd()]), Errno::NOENT);
    let nobody = abstract_address("nobody");
    assert_errno(send_fds_to(sender(), &nobody, b"x", &[file.as_fd()]), Errno::CONNREFUSED);
    drop(receiver(&path.address())); // the file stays
    assert_errno(send_fds_to(sender(), &path.address(), b"x", &[file.as_fd()]), Errno::CONNREFUSED);
    let ordinary = Path::new("ordinary");
    std::fs::write(&ordinary.0, b"").unwrap();
    assert_errno(send_fds_to(sender(), &ordinary.address(), b"x", &[]), Errno::CONNREFUSED);
    // Control: then somebody is there.
    let path = Path::new("somebody");
    let _receiver = receiver(&path.address());
    send_fds_to(sender(), &path.address(), b"x", &[file.as_fd()]).unwrap();
}

#[test]
fn a_socket_of_another_kind_at_the_address_is_an_error() {
    let path = Path::new("listener");
    let _listener = UnixListener::bind(&path.0).unwrap();
    assert_errno(send_fds_to(sender(), &path.address(), b"x", &[]), Errno::PROTOTYPE);
}

#[test]
fn a_socket_that_is_connected_elsewhere_takes_nothing() {
    let (address, other) = (abstract_address("taken"), abstract_address("taken-by"));
    let (receiver, other) = (receiver(&address), receiver(&other));
    receiver.connect_addr(&other.local_addr().unwrap()).unwrap();
    assert_errno(send_fds_to(sender(), &address, b"x", &[numbered(1).as_fd()]), Errno::PERM);
    // Control: from that other one it does.
    send_fds_to(&other, &address, b"x", &[numbered(1).as_fd()]).unwrap();
    assert_eq!(recv_fd(&receiver, &mut [0; 10]).unwrap().0, 1);
}

#[test]
fn a_connected_datagram_socket_can_send_elsewhere() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let address = abstract_address("elsewhere");
    let receiver = receiver(&address);
    send_fds_to(&ours, &address, b"x", &[numbered(7).as_fd()]).unwrap();
    let (len, fd) = recv_fd(&receiver, &mut [0; 10]).unwrap();
    assert_eq!((len, fd.map(number_of)), (1, Some(7)));
    assert_eq!(kind(recv_fd(&theirs, &mut [0; 10])), ErrorKind::WouldBlock);
}

/// A record socket of which the kernel ignores the address: the descriptor would reach the wrong peer.
#[test]
fn only_datagram_sockets_send_to_an_address() {
    let address = abstract_address("records");
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let meant = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let name = address.as_abstract_name().unwrap();
    let raw_address = SocketAddrUnix::new_abstract_name(name).unwrap();
    bind(&meant, &raw_address).unwrap();
    listen(&meant, 1).unwrap();

    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (stream, _peer) = UnixStream::pair().unwrap();
    for socket in [ours.as_fd(), stream.as_fd()] {
        for bytes in [&b"x"[..], b""] {
            let error = send_fds_to(socket, &address, bytes, &[numbered(7).as_fd()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("only a datagram socket"), "{error}");
        }
    }
    assert_eq!(kind(recv_fd(&theirs, &mut [0; 10])), ErrorKind::WouldBlock);
    // Control: the kernel sends it to the peer.
    let mut control = SendAncillaryBuffer::default();
    let bytes = [IoSlice::new(b"astray")];
    let sent = sendmsg_addr(&ours, &raw_address, &bytes, &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(6));
    assert_eq!(recv_fd(&theirs, &mut [0; 10]).unwrap().0, 6);

    assert_errno(send_fds_to(numbered(1), &address, b"", &[]), Errno::NOTSOCK);
}

#[test]
fn more_than_253_or_too_many_bytes_are_not_sent() {
    let address = abstract_address("too-many");
    let receiver = receiver(&address);
    let file = numbered(1);
    let fds = [file.as_fd(); MAX_FDS + 1];
    assert_eq!(kind(send_fds_to(sender(), &address, b"x", &fds)), ErrorKind::InvalidInput);
    let long = vec![0; 1 << 24];
    assert_errno(send_fds_to(sender(), &address, &long, &fds[..1]), Errno::MSGSIZE);
    assert_eq!(kind(recv_fd(&receiver, &mut [0; 10])), ErrorKind::WouldBlock);
}

fn fill_queue(sender: &UnixDatagram, address: &SocketAddr) {
    sender.set_nonblocking(true).unwrap();
    while send_fds_to(sender, address, b"x", &[]).is_ok() {}
    sender.set_nonblocking(false).unwrap();
}

#[test]
fn a_full_queue_is_would_block_or_is_waited_for() {
    let address = abstract_address("full");
    let (receiver, sender) = (receiver(&address), sender());
    fill_queue(&sender, &address);
    sender.set_nonblocking(true).unwrap();
    let file = numbered(7);
    let send = || send_fds_to(&sender, &address, b"", &[file.as_fd()]);
    assert_eq!(kind(send()), ErrorKind::WouldBlock);

    sender.set_nonblocking(false).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(send);
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        let mut fds = Vec::new();
        while fds.is_empty() {
            match recv_fds(&receiver, &mut [0; 10], &mut fds) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                received => drop(received.unwrap()),
            }
        }
        assert_eq!(number_of(&fds[0]), 7);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn what_is_sent_can_be_answered() {
    let (server, client) = (abstract_address("server"), abstract_address("client"));
    let (server, client) = (receiver(&server), receiver(&client));
    send_fds_to(&client, &server.local_addr().unwrap(), b"?", &[]).unwrap();
    let (len, from) = server.recv_from(&mut [0; 10]).unwrap();
    assert_eq!(len, 1);
    send_fds_to(&server, &from, b"", &[numbered(7).as_fd()]).unwrap();
    assert_eq!(recv_fd(&client, &mut [0; 10]).unwrap().1.map(number_of), Some(7));
    // Control: plain sending needs a peer.
    assert_errno(send_fds(&server, b"x", &[]), Errno::NOTCONN);
}
