//! `copy_of` of sources that hold records: refused by name with every record still there, or copied
//! whole.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "some descriptors are made with raw calls")]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{OFlags, fcntl_setfl, inotify};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};
use sealed_mmap::{Refusal, SealPolicy, SealedFile};

/// More than the buffer of any copying loop.
const RECORD: usize = 100_000;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[track_caller]
fn refused_as(source: impl AsFd, what: &str) {
    let source = source.as_fd().try_clone_to_owned().unwrap();
    let (done, result) = mpsc::channel();
    // Who reads most of these waits for ever.
    thread::spawn(move || done.send(SealedFile::copy_of("copy", source, u64::MAX)));
    let copied = result.recv_timeout(Duration::from_secs(60)).expect("it is read");
    let error = copied.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let message = error.to_string();
    assert!(message.contains(what) && message.contains("from_bytes"), "{message}");
}

fn socket_pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn sockets_of_records_are_refused_and_keep_them() {
    let record = pattern(RECORD);
    for (kind, what) in
        [(SocketType::DGRAM, "a datagram socket"), (SocketType::SEQPACKET, "a seqpacket socket")]
    {
        let (ours, theirs) = socket_pair(kind);
        assert_eq!(rustix::net::send(&theirs, &record, SendFlags::empty()), Ok(RECORD));
        refused_as(&ours, what);
        let mut received = vec![0; RECORD];
        let (count, _) = rustix::net::recv(&ours, &mut received[..], RecvFlags::DONTWAIT).unwrap();
        assert_eq!((count, received == record), (RECORD, true), "{what}");

        // Control: who reads it like a stream loses the rest of the record.
        assert_eq!(rustix::net::send(&theirs, &record, SendFlags::empty()), Ok(RECORD));
        let mut file = File::from(ours);
        assert_eq!(file.read(&mut [0; 8192]).unwrap(), 8192);
        fcntl_setfl(&file, OFlags::NONBLOCK).unwrap();
        assert_eq!(file.read(&mut [0; 8192]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn sockets_of_other_families_are_refused() {
    refused_as(UdpSocket::bind("127.0.0.1:0").unwrap(), "a datagram socket");
    refused_as(UnixDatagram::unbound().unwrap(), "a datagram socket");
    for (family, what) in [(AddressFamily::NETLINK, "netlink"), (AddressFamily::INET, "IPv4")] {
        let icmp = (family == AddressFamily::INET).then_some(rustix::net::ipproto::ICMP);
        match rustix::net::socket(family, SocketType::RAW, icmp) {
            Ok(socket) => refused_as(socket, "a raw socket"),
            Err(errno) => eprintln!("raw sockets of {what} cannot be tried here: {errno}"),
        }
    }
}

/// The descriptor that a raw call has just made.
fn made(number: libc::c_int) -> OwnedFd {
    assert!(number >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the call has returned this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[test]
fn anonymous_inodes_are_refused_and_not_read() {
    let event = eventfd(3, EventfdFlags::CLOEXEC).unwrap();
    refused_as(&event, "an eventfd");
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&event, &mut count[..]), Ok(8));
    assert_eq!(u64::from_ne_bytes(count), 3);

    refused_as(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), "an anonymous inode");
    refused_as(inotify::init(inotify::CreateFlags::CLOEXEC).unwrap(), "an anonymous inode");
    // SAFETY: has no precondition.
    let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    refused_as(made(timer), "an anonymous inode");
    // SAFETY: all zeros are an empty set of signals.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is a valid set.
    let signals = unsafe { libc::signalfd(-1, &none, libc::SFD_CLOEXEC) };
    refused_as(made(signals), "an anonymous inode");
}

#[test]
fn the_kernel_log_is_refused() {
    match File::open("/dev/kmsg") {
        Ok(log) => refused_as(log, "the kernel log"),
        Err(error) => eprintln!("/dev/kmsg cannot be tried here: {error}"),
    }
    // Control: another character device with an end is copied.
    let null = File::open("/dev/null").unwrap();
    assert!(SealedFile::copy_of("copy", null, 0).unwrap().is_empty().unwrap());
}

#[test]
fn what_receive_or_copy_gets_is_not_read_either() {
    let (ours, theirs) = socket_pair(SocketType::SEQPACKET);
    rustix::net::send(&theirs, b"record", SendFlags::empty()).unwrap();
    let refused = SealedFile::receive_or_copy(ours, &SealPolicy::new(), u64::MAX).unwrap_err();
    let (refusal, ours) = refused.into_parts();
    assert!(matches!(refusal, Refusal::NotSealable(_)), "{refusal:?}");
    assert_eq!(rustix::net::recv(ours, &mut [0; 9], RecvFlags::DONTWAIT).unwrap().0, 6);
}

#[test]
fn a_pipe_in_packet_mode_is_copied_whole() {
    let packet_pipe = || {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
        (File::from(reader), File::from(writer))
    };
    let bytes = pattern(RECORD);
    let (reader, mut writer) = packet_pipe();
    let writing = bytes.clone();
    let writer = thread::spawn(move || {
        // Beyond `PIPE_BUF` the kernel makes several packets of it.
        let (first, rest) = writing.split_at(7);
        for packet in [first].into_iter().chain(rest.chunks(9_000)) {
            writer.write_all(packet).unwrap();
        }
    });
    let copy = SealedFile::copy_of("copy", reader, RECORD as u64).unwrap();
    assert!(copy.map_read_only().unwrap()[..] == bytes);
    writer.join().unwrap();

    // Control: a smaller buffer loses the rest of each packet.
    let (mut reader, mut writer) = packet_pipe();
    writer.write_all(b"first").unwrap();
    writer.write_all(b"second").unwrap();
    let mut three = [0; 3];
    for expected in [b"fir", b"sec"] {
        reader.read_exact(&mut three).unwrap();
        assert_eq!(&three, expected);
    }
}

fn terminal() -> Option<(File, File)> {
    let (mut master, mut slave) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: the descriptors are written to two variables; null is allowed for all that follows.
    let failed = unsafe { libc::openpty(&mut master, &mut slave, none, none.cast(), none.cast()) };
    if failed != 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        eprintln!("not tested, no terminal can be made here: {error}");
        return None;
    }
    Some((made(master).into(), made(slave).into()))
}

#[test]
fn a_terminal_is_copied_up_to_the_end_that_is_typed() {
    const LINES: &[u8] = b"first line\nsecond, without an end";

    let Some((mut master, slave)) = terminal() else { return };
    master.write_all(LINES).unwrap();
    // Twice: after an unfinished line the first one only hands that over.
    master.write_all(&[4, 4]).unwrap();
    let copy = SealedFile::copy_of("copy", &slave, 100).unwrap();
    assert_eq!(&copy.map_read_only().unwrap()[..], LINES);

    drop(slave);
    let error = SealedFile::copy_of("copy", &master, 100).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::IO), "the end of a master: {error}");
}

#[test]
fn a_socket_without_a_peer_is_the_kernel_s_error() {
    let folder = std::env::temp_dir().join(format!("sealed-mmap-listens-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let listener = UnixListener::bind(folder.join("socket")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let unconnected = |family| rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    for (source, expected) in [
        (OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()), Errno::NOTCONN),
        (unconnected(AddressFamily::INET), Errno::NOTCONN),
        (OwnedFd::from(listener), Errno::INVAL),
        (unconnected(AddressFamily::UNIX), Errno::INVAL),
    ] {
        for flags in [OFlags::empty(), OFlags::NONBLOCK] {
            fcntl_setfl(&source, flags).unwrap();
            let error = SealedFile::copy_of("copy", &source, 100).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(expected), "{source:?}");
        }
    }
}
