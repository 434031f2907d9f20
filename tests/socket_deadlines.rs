//! The timeout of a socket holds whatever signals come. The kernel does not restart a call that has
//! one ("Interruption of system calls and library functions by signal handlers" in signal(7)), and
//! each new call has all of the timeout before it.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "an option of a socket is set with a raw call")]

mod support;

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags,
    SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use sealed_mmap::socket::{recv_fd, recv_fds, send_fds, send_fds_to};
use support::runs;
use support::signals::{Signals, cpu_time, timed};

const KINDS: [SocketType; 3] = [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET];
const PERIODS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];
const TIMEOUT: Duration = Duration::from_millis(500);
/// Far from one timeout, for a busy machine, and less than what the plain loop is seen to take.
const LATEST: Duration = Duration::from_millis(1500);

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn file() -> OwnedFd {
    memfd_create("file", MemfdFlags::CLOEXEC).unwrap()
}

/// Something that blocks on the first end of a pair that `blocking` has made.
type Call = fn(&OwnedFd) -> io::Result<usize>;

/// The calls of the library, and which timeout is theirs.
const CALLS: [(&str, Call, Timeout); 3] = [
    ("recv_fd", |socket| Ok(recv_fd(socket, &mut [0; 10])?.0), Timeout::Recv),
    ("recv_fds", |socket| recv_fds(socket, &mut [0; 10], &mut Vec::new()), Timeout::Recv),
    ("send_fds", |socket| send_fds(socket, &[0; 4096], &[file().as_fd()]), Timeout::Send),
];

/// The same without any care for signals.
const PLAIN: [(&str, Call, Timeout); 2] = [
    (
        "recvmsg",
        |socket| {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; 10];
            let mut bytes = [IoSliceMut::new(&mut bytes)];
            Ok(recvmsg(socket, &mut bytes, &mut control, RecvFlags::empty())?.bytes)
        },
        Timeout::Recv,
    ),
    (
        "sendmsg",
        |socket| {
            let mut control = SendAncillaryBuffer::default();
            Ok(sendmsg(socket, &[IoSlice::new(&[0; 4096])], &mut control, SendFlags::NOSIGNAL)?)
        },
        Timeout::Send,
    ),
];

/// A pair on whose first end this kind of call blocks, until its timeout is over.
fn blocking(kind: SocketType, direction: Timeout, timeout: Option<Duration>) -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = pair(kind);
    set_socket_timeout(&ours, direction, timeout).unwrap();
    if matches!(direction, Timeout::Send) {
        while send(&ours, &[0; 4096], SendFlags::DONTWAIT).is_ok() {}
    }
    (ours, theirs)
}

/// Repeats what is interrupted, as `retry_on_intr` does, but not for longer than `most`.
fn plain_loop(socket: &OwnedFd, call: Call, most: Duration) -> (io::Result<usize>, Duration) {
    let start = Instant::now();
    loop {
        let result = call(socket);
        let interrupted =
            result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted);
        if !interrupted || start.elapsed() > most {
            return (result, start.elapsed());
        }
    }
}

#[track_caller]
fn in_time(what: &str, (result, took): (io::Result<usize>, Duration)) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock, "{what}");
    assert!((TIMEOUT..LATEST).contains(&took), "{what} took {took:?}");
}

#[test]
fn a_timeout_holds_under_periodic_signals() {
    for period in PERIODS {
        if runs::is_emulated() && period < Duration::from_millis(10) {
            eprintln!("not tested, an emulated processor is too slow for signals every {period:?}");
            continue;
        }
        thread::scope(|scope| {
            for kind in KINDS {
                for (name, call, direction) in CALLS {
                    scope.spawn(move || {
                        let (ours, _theirs) = blocking(kind, direction, Some(TIMEOUT));
                        let _signals = Signals::every(period);
                        let what = format!("{name} on {kind:?} under {period:?}");
                        in_time(&what, timed(|| call(&ours)));
                    });
                }
                // Control: a plain loop does not end.
                for (name, call, direction) in PLAIN {
                    scope.spawn(move || {
                        let (ours, _theirs) = blocking(kind, direction, Some(TIMEOUT));
                        let _signals = Signals::every(period);
                        let (result, took) = plain_loop(&ours, call, 4 * TIMEOUT);
                        let interrupted = result.unwrap_err().kind() == ErrorKind::Interrupted;
                        assert!(interrupted && took > 4 * TIMEOUT, "{name} on {kind:?}: {took:?}");
                    });
                }
            }
        });
    }
}

/// The receiver's queue is full, of which poll(2) on a socket that is not connected knows nothing.
#[test]
fn a_timeout_holds_for_a_socket_that_is_not_connected() {
    let name = format!("sealed-mmap-deadline-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _receiver = UnixDatagram::bind_addr(&address).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    let file = file();
    let send = || send_fds_to(&sender, &address, b"", &[file.as_fd()]);
    sender.set_nonblocking(true).unwrap();
    while send().is_ok() {}
    sender.set_nonblocking(false).unwrap();
    sender.set_write_timeout(Some(TIMEOUT)).unwrap();

    // Control: it counts as ready.
    let mut fds = [PollFd::new(&sender, PollFlags::OUT)];
    assert_eq!(poll(&mut fds, Some(&Timespec::try_from(TIMEOUT).unwrap())), Ok(1));

    in_time("without signals", timed(send));
    let (signals, before) = (Signals::every(PERIODS[1]), cpu_time());
    in_time("under signals", timed(send));
    let busy = cpu_time() - before;
    drop(signals);
    assert!(busy < TIMEOUT / 5, "{busy:?}");
}

/// What is left is waited for, and not all of the timeout once more.
#[test]
fn a_late_signal_does_not_move_the_deadline() {
    const LATE: Duration = Duration::from_millis(800);
    const TIMEOUT: Duration = Duration::from_secs(1);
    /// Before a timeout that the signal has started anew, however coarse the clocks are.
    const ANEW: Duration = Duration::from_millis(1700);

    thread::scope(|scope| {
        for kind in KINDS {
            for (name, call, direction) in CALLS {
                scope.spawn(move || {
                    let (ours, _theirs) = blocking(kind, direction, Some(TIMEOUT));
                    let _signals = Signals::once_after(LATE);
                    let (result, took) = timed(|| call(&ours));
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock);
                    assert!((TIMEOUT..ANEW).contains(&took), "{name}: {took:?}");
                });
            }
            // Control: a plain loop waits anew.
            for (name, call, direction) in PLAIN {
                scope.spawn(move || {
                    let (ours, _theirs) = blocking(kind, direction, Some(TIMEOUT));
                    let _signals = Signals::once_after(LATE);
                    let (result, took) = plain_loop(&ours, call, 10 * TIMEOUT);
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock);
                    assert!(took >= ANEW, "{name}: {took:?}");
                });
            }
        }
    });
}

#[test]
fn signals_lose_no_message_with_or_without_a_timeout() {
    const SILENCE: Duration = Duration::from_millis(300);

    thread::scope(|scope| {
        for kind in KINDS {
            for timeout in [None, Some(Duration::from_secs(60))] {
                scope.spawn(move || {
                    let (ours, theirs) = blocking(kind, Timeout::Recv, timeout);
                    let sender = thread::spawn(move || {
                        thread::sleep(SILENCE);
                        send_fds(&theirs, b"awaited", &[file().as_fd()]).unwrap();
                    });
                    let _signals = Signals::every(PERIODS[0]);
                    // Control: the plain call is interrupted.
                    let (error, _) = timed(|| recv(&ours, &mut [0; 1], RecvFlags::PEEK));
                    assert_eq!(error, Err(Errno::INTR));
                    let ((len, fd), took) = timed(|| recv_fd(&ours, &mut [0; 10]).unwrap());
                    assert_eq!((len, fd.is_some()), (7, true));
                    assert!(took < Duration::from_secs(30), "{took:?}");
                    sender.join().unwrap();
                });
                scope.spawn(move || {
                    let (ours, theirs) = blocking(kind, Timeout::Send, timeout);
                    let receiver = thread::spawn(move || {
                        thread::sleep(SILENCE);
                        let mut fds = Vec::new();
                        while fds.is_empty() {
                            recv_fds(&theirs, &mut [0; 4096], &mut fds).unwrap();
                        }
                    });
                    let _signals = Signals::every(PERIODS[0]);
                    let (sent, took) =
                        timed(|| send_fds(&ours, &[0; 4096], &[file().as_fd()]).unwrap());
                    assert_eq!(sent, 4096);
                    assert!(took < Duration::from_secs(30), "{took:?}");
                    receiver.join().unwrap();
                });
            }
        }
    });
}

/// A socket with a queued error is always ready for poll(2), and has nothing to receive.
#[test]
fn waiting_on_a_queued_error_does_not_spin() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let on: libc::c_int = 1;
    // SAFETY: the value is an integer, and as long as is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_RECVERR,
            (&raw const on).cast(),
            size_of_val(&on) as _,
        )
    };
    assert_eq!(result, 0);
    socket.connect(nobody).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.send(b"x").unwrap();
    assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    // Control: poll(2) does not wait.
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec::try_from(TIMEOUT).unwrap())), Ok(1));
    assert_eq!(fds[0].revents(), PollFlags::ERR);

    let _signals = Signals::once_after(Duration::from_millis(20));
    let before = cpu_time();
    in_time("recv_fd", timed(|| Ok(recv_fd(&socket, &mut [0; 10])?.0)));
    let busy = cpu_time() - before;
    assert!(busy < TIMEOUT / 5, "{busy:?}");
}
