//! Promises of `socket` that take the whole process to test: its limits, its table of descriptors
//! and its signals.

mod support;

use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketFlags, SocketType, recvmsg, socketpair,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sealed_mmap::socket::{MAX_FDS, recv_fd, recv_fds, send_fds};
use support::process::{open_descriptors, turn};

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, kind, flags, None).unwrap()
}

/// Runs `f` while the process can open just `room` more descriptors.
fn with_room_for<T>(room: usize, f: impl FnOnce() -> T) -> T {
    let free = |fd: &u64| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err();
    let limit = (0..).filter(free).nth(room);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit, ..before }).unwrap();
    let result = f();
    setrlimit(Resource::Nofile, before).unwrap();
    result
}

#[test]
fn without_room_for_every_descriptor_none_arrives() {
    let _turn = turn();
    let file = tempfile();
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        for room in 0..5 {
            let (ours, theirs) = pair(kind);
            let mut fds = vec![tempfile()];
            let before = open_descriptors();

            send_fds(&ours, b"lost", &[file.as_fd(); 5]).unwrap();
            let result = with_room_for(room, || recv_fds(&theirs, &mut [0; 10], &mut fds));
            assert_eq!(result.unwrap_err().kind(), ErrorKind::QuotaExceeded);
            assert_eq!(fds.len(), 1);
            assert_eq!(open_descriptors(), before);

            // Control: the kernel reports success, and those that fit are open.
            send_fds(&ours, b"lost", &[file.as_fd(); 5]).unwrap();
            let (flags, some) = with_room_for(room, || {
                let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut bytes = [0; 10];
                let mut bytes = [IoSliceMut::new(&mut bytes)];
                let message =
                    recvmsg(&theirs, &mut bytes, &mut control, RecvFlags::empty()).unwrap();
                let mut some = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        some.extend(received);
                    }
                }
                (message.flags, some)
            });
            assert!(flags.contains(ReturnFlags::CTRUNC));
            assert_eq!(some.len(), room);

            // The next message is whole.
            send_fds(&ours, b"next", &[file.as_fd(); 5]).unwrap();
            let len = with_room_for(5, || recv_fds(&theirs, &mut [0; 10], &mut fds)).unwrap();
            assert_eq!((len, fds.len()), (4, 6));
        }
    }
}

#[test]
fn ten_thousand_cycles_with_failures_leak_nothing() {
    let _turn = turn();
    let file = tempfile();
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let (ours, theirs) = pair(kind);
        let before = open_descriptors();
        for _ in 0..10_000 {
            let mut fds = Vec::new();
            send_fds(&ours, b"fits", &[file.as_fd(); 3]).unwrap();
            recv_fds(&theirs, &mut [0; 4], &mut fds).unwrap();
            assert_eq!(fds.len(), 3);

            send_fds(&ours, b"x", &[file.as_fd(); MAX_FDS + 1]).unwrap_err();
            let takes_empty = kind == SocketType::DGRAM;
            assert_eq!(send_fds(&ours, b"", &[file.as_fd()]).is_ok(), takes_empty);
            assert_eq!(recv_fd(&theirs, &mut [0; 1]).is_ok(), takes_empty);

            send_fds(&ours, b"surplus", &[file.as_fd(); 3]).unwrap();
            recv_fd(&theirs, &mut [0; 7]).unwrap_err();

            send_fds(&ours, b"too long", &[file.as_fd(); 3]).unwrap();
            if recv_fds(&theirs, &mut [0; 4], &mut fds).is_ok() {
                recv_fds(&theirs, &mut [0; 4], &mut fds).unwrap();
            }
        }
        assert_eq!(open_descriptors(), before);
    }
}

/// A call with a timeout that a stop interrupts is not restarted by the kernel, even without a
/// signal handler: see "Interruption of system calls and library functions by stop signals" in
/// signal(7).
#[test]
fn an_interrupted_call_is_repeated() {
    const TIMEOUT: Option<Duration> = Some(Duration::from_secs(60));
    let _turn = turn();
    let empty = || {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_read_timeout(TIMEOUT).unwrap();
        (ours, theirs)
    };
    let full = || {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while ours.send(b"x").is_ok() {}
        ours.set_nonblocking(false).unwrap();
        ours.set_write_timeout(TIMEOUT).unwrap();
        (ours, theirs)
    };
    let (to_receiver, receiving) = empty();
    let receiver = thread::spawn(move || recv_fd(receiving, &mut [0; 10]).unwrap());
    let (sending, from_sender) = full();
    let sender = thread::spawn(move || send_fds(sending, b"x", &[]).unwrap());
    // Control: the plain calls in the same situation end with EINTR.
    let (_kept, receiving) = empty();
    let plain_receiver =
        thread::spawn(move || rustix::net::recv(receiving, &mut [0; 10], RecvFlags::empty()).err());
    let (sending, _kept_too) = full();
    let plain_sender =
        thread::spawn(move || rustix::net::send(sending, b"x", SendFlags::empty()).err());

    let mut more = 3;
    while more > 0 {
        let stop = "sleep 0.05; kill -STOP $PPID; sleep 0.05; kill -CONT $PPID";
        assert!(Command::new("sh").args(["-c", stop]).status().unwrap().success());
        if plain_receiver.is_finished() && plain_sender.is_finished() {
            more -= 1;
        }
    }
    assert_eq!(plain_receiver.join().unwrap(), Some(Errno::INTR));
    assert_eq!(plain_sender.join().unwrap(), Some(Errno::INTR));
    assert!(!receiver.is_finished());
    assert!(!sender.is_finished());

    send_fds(&to_receiver, b"awaited", &[tempfile().as_fd()]).unwrap();
    assert!(matches!(receiver.join().unwrap(), (7, Some(_))));
    from_sender.set_nonblocking(true).unwrap();
    // The kernel wakes a sender only when most of the queue is gone.
    while recv_fd(&from_sender, &mut [0; 10]).is_ok() {}
    assert_eq!(sender.join().unwrap(), 1);
}

#[test]
fn a_peer_that_has_gone_raises_no_signal() {
    let _turn = turn();
    let raised = Arc::new(AtomicBool::new(false));
    let id = signal_hook::flag::register(signal_hook::consts::SIGPIPE, raised.clone()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = send_fds(&ours, b"x", &[tempfile().as_fd()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert!(!raised.load(Ordering::SeqCst));
    // Control: without MSG_NOSIGNAL the same send raises it.
    assert_eq!(rustix::net::send(&ours, b"x", SendFlags::empty()), Err(Errno::PIPE));
    assert!(raised.load(Ordering::SeqCst));
    signal_hook::low_level::unregister(id);
}

fn tempfile() -> OwnedFd {
    rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}
