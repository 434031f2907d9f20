//! How long `copy_of` waits: as long as the caller lets it, whatever signals come.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "signal handlers and a socket option are set with raw calls")]

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout};
use rustix::pipe::pipe;
use sealed_mmap::SealedFile;

const TIMEOUT: Duration = Duration::from_millis(500);
/// More than enough on a busy machine.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Copies in another thread, which is left behind if it does not end.
#[track_caller]
fn copied(source: OwnedFd, signals: bool) -> (io::Result<SealedFile>, Duration) {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        let start = Instant::now();
        let copy = || SealedFile::copy_of("copy", &source, 64 << 20);
        let copy = if signals { under_signals(copy) } else { copy() };
        // Nobody listens after a failure.
        let _ = done.send((copy, start.elapsed()));
    });
    result.recv_timeout(FOR_EVER).expect("the copy never ends")
}

/// Runs this with a signal every millisecond, which interrupts whatever sleeps.
fn under_signals<T>(call: impl FnOnce() -> T) -> T {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static HANDLER: Once = Once::new();

    extern "C" fn count(_signal: libc::c_int) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    HANDLER.call_once(|| {
        // SAFETY: all zeros are a valid `sigaction`, one without SA_RESTART.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count as *const () as usize;
        // SAFETY: `action` is a valid handler, which does one atomic addition.
        assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
    });
    // SAFETY: has no precondition.
    let this_thread = unsafe { libc::pthread_self() } as usize;
    let (before, done) = (COUNT.load(Ordering::Relaxed), AtomicBool::new(false));
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                // SAFETY: the thread waits for this scope to end.
                unsafe { libc::pthread_kill(this_thread as libc::pthread_t, libc::SIGUSR1) };
            }
        });
        let result = call();
        done.store(true, Ordering::Relaxed);
        result
    });
    assert_ne!(COUNT.load(Ordering::Relaxed), before, "no signal came");
    result
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// Connected sockets of two families, the first one blocking and not blocking.
fn socket_pairs() -> Vec<(OwnedFd, OwnedFd)> {
    let mut pairs = Vec::new();
    for blocking in [true, false] {
        let (unix, tcp) = (UnixStream::pair().unwrap(), tcp_pair());
        let both: [(OwnedFd, OwnedFd); 2] =
            [(unix.0.into(), unix.1.into()), (tcp.0.into(), tcp.1.into())];
        for (ours, theirs) in both {
            if !blocking {
                fcntl_setfl(&ours, OFlags::NONBLOCK).unwrap();
            }
            pairs.push((ours, theirs));
        }
    }
    pairs
}

fn set_timeout(socket: impl AsFd) {
    set_socket_timeout(socket, Timeout::Recv, Some(TIMEOUT)).unwrap();
}

#[track_caller]
fn timed_out(source: OwnedFd, signals: bool, least: Duration) {
    let (copy, elapsed) = copied(source, signals);
    let error = copy.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains(" for 500ms"), "{error}");
    assert!(elapsed >= least, "{elapsed:?}");
    assert!(elapsed < least + Duration::from_secs(5), "{elapsed:?}");
}

#[test]
fn a_read_timeout_ends_the_wait_for_a_silent_peer() {
    for (ours, _theirs) in socket_pairs() {
        set_timeout(&ours);
        timed_out(ours, false, TIMEOUT);
    }
}

#[test]
fn signals_do_not_extend_a_read_timeout() {
    for (ours, theirs) in socket_pairs() {
        set_timeout(&ours);
        timed_out(ours, true, TIMEOUT);
        drop(theirs);
    }
    // Control: a call that is made again after each signal gets the whole time anew.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    set_timeout(&ours);
    let start = Instant::now();
    let interrupted = under_signals(|| {
        while start.elapsed() < TIMEOUT * 3 {
            let error = rustix::io::read(&ours, &mut [0; 1]).unwrap_err();
            if error != Errno::INTR {
                return false;
            }
        }
        true
    });
    assert!(interrupted);
}

#[test]
fn a_read_timeout_counts_from_the_last_byte() {
    const BYTES: u32 = 5;

    for ends in [true, false] {
        let pause = TIMEOUT / 3;
        for (ours, theirs) in socket_pairs() {
            set_timeout(&ours);
            let mut theirs = File::from(theirs);
            let writer = thread::spawn(move || {
                for _ in 0..BYTES {
                    thread::sleep(pause);
                    theirs.write_all(b"x").unwrap();
                }
                theirs
            });
            if ends {
                thread::spawn(|| drop(writer.join()));
                let (copy, _) = copied(ours, true);
                assert_eq!(copy.unwrap().len().unwrap(), BYTES.into());
            } else {
                // The writer may have begun a pause earlier. From the first byte it would be less.
                timed_out(ours, true, pause * (BYTES - 1) + TIMEOUT);
                writer.join().unwrap();
            }
        }
    }
}

#[test]
fn no_signal_ends_the_wait_for_a_slow_writer() {
    // Many more signals than a call would be repeated that does nothing.
    const SILENCE: Duration = Duration::from_millis(2500);

    let mut sources = socket_pairs();
    for blocking in [true, false] {
        let (reader, writer) = pipe().unwrap();
        if !blocking {
            fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
        }
        sources.push((reader, writer));
    }
    thread::scope(|scope| {
        for (ours, theirs) in sources {
            scope.spawn(|| {
                let mut theirs = File::from(theirs);
                thread::sleep(SILENCE);
                theirs.write_all(b"late").unwrap();
            });
            scope.spawn(|| {
                let (copy, elapsed) = copied(ours, true);
                assert_eq!(&copy.unwrap().map_read_only().unwrap()[..], b"late");
                assert!(elapsed > SILENCE / 2);
            });
        }
    });
}

#[test]
fn no_signal_ends_the_copy_of_a_large_file() {
    const LEN: u64 = 64 << 20;

    let source = SealedFile::build("source", LEN, |bytes| {
        bytes.fill(7);
        Ok(())
    });
    let (copy, _) = copied(source.unwrap().into(), true);
    let copy = copy.unwrap().map_read_only().unwrap();
    assert!(copy.len() as u64 == LEN && copy.iter().all(|byte| *byte == 7));
}

#[test]
fn an_error_that_comes_while_waiting_is_returned() {
    let (ours, theirs) = tcp_pair();
    ours.set_nonblocking(true).unwrap();
    set_socket_linger(&theirs, Some(Duration::ZERO)).unwrap();
    thread::spawn(|| {
        thread::sleep(Duration::from_millis(100));
        // Without lingering this is a reset.
        drop(theirs);
    });
    let error = copied(ours.into(), false).0.unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::CONNRESET), "{error}");
}

#[test]
fn an_error_that_reading_does_not_return_ends_the_wait() {
    const TX_SOFTWARE: u32 = 1 << 1;
    const SOFTWARE: u32 = 1 << 4;

    let (mut ours, _theirs) = tcp_pair();
    ours.set_nonblocking(true).unwrap();
    let (flags, len) = (TX_SOFTWARE | SOFTWARE, size_of::<u32>() as libc::socklen_t);
    let (level, name) = (libc::SOL_SOCKET, libc::SO_TIMESTAMPING);
    let value = (&raw const flags).cast();
    // SAFETY: the kernel reads the four bytes of `flags`.
    let set = unsafe { libc::setsockopt(ours.as_raw_fd(), level, name, value, len) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    // When it was sent is put into the socket's error queue, which poll(2) reports from then on.
    ours.write_all(b"x").unwrap();

    let error = copied(ours.into(), false).0.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other);
    assert!(error.to_string().contains("error queue"), "{error}");
}
