//! `copy_of` and `receive_or_copy` of a file that another process serves through FUSE, with errors as
//! that process likes. The server is a process of its own because nobody would answer the last
//! requests of one that is killed while it reads its own file.
#![cfg(all(target_os = "linux", target_endian = "little"))]
#![allow(unsafe_code, reason = "a mount namespace, and signals")]

mod support;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{Refusal, SealPolicy, SealedFile};
use support::fuse;
use support::process::{ENTRY, Peer, Role, role};

const LEN: u32 = 1 << 20;

fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// What the file does, in the words of a role.
#[derive(Clone, Copy)]
enum Mood {
    AlwaysInterrupted,
    InterruptedTwiceOfThree,
    Slow,
    /// The second half cannot be read at first, but can after so many failures.
    BrokenAtFirst(Errno, u32),
}

impl Mood {
    fn role(self) -> String {
        match self {
            Self::AlwaysInterrupted => "always interrupted".into(),
            Self::InterruptedTwiceOfThree => "interrupted twice of three".into(),
            Self::Slow => "slow".into(),
            Self::BrokenAtFirst(errno, times) => format!("{} {times}", errno.raw_os_error()),
        }
    }

    fn of_role(role: &str) -> Self {
        match role {
            "always interrupted" => Self::AlwaysInterrupted,
            "interrupted twice of three" => Self::InterruptedTwiceOfThree,
            "slow" => Self::Slow,
            broken => {
                let (errno, times) = broken.split_once(' ').unwrap();
                let errno = Errno::from_raw_os_error(errno.parse().unwrap());
                Self::BrokenAtFirst(errno, times.parse().unwrap())
            }
        }
    }

    /// What reading at `offset` fails with, after `reads` reads of which `failures` have failed.
    fn answer(self, offset: u64, reads: u32, failures: u32) -> Result<(), Errno> {
        match self {
            Self::AlwaysInterrupted => Err(Errno::INTR),
            Self::InterruptedTwiceOfThree if reads % 3 < 2 => Err(Errno::INTR),
            Self::BrokenAtFirst(errno, times)
                if offset >= u64::from(LEN / 2) && failures < times =>
            {
                Err(errno)
            }
            Self::Slow => {
                thread::sleep(Duration::from_millis(20));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Not a promise: what [`Peer::start`] starts, with the socket to send the file to. Says how often
/// reading has failed whenever it is asked.
#[test]
fn role_of_another_process() {
    let Some(Role { name, fd: socket, mut parent }) = role() else { return };
    let mood = Mood::of_role(&name);
    let at = std::env::temp_dir().join(format!("sealed-mmap-moody-{}", std::process::id()));
    let device = match fuse::mounted(&at) {
        Ok(device) => device,
        Err(error) => return parent.tell(error.raw_os_error().unwrap()),
    };
    let (mut reads, failures) = (0, AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::open(&at).unwrap();
            unmount(&at, UnmountFlags::DETACH).unwrap();
            fs::remove_file(&at).unwrap();
            send_fds(&socket, b"file", &[file.as_fd()]).unwrap();
            drop(file);
            parent.tell("serving");
            while !parent.hear().is_empty() {
                parent.tell(failures.load(Ordering::Relaxed));
            }
        });
        // Ends with an error when everybody has closed the file.
        let read = |offset: u64, count: usize| {
            let answer = mood.answer(offset, reads, failures.load(Ordering::Relaxed));
            reads += 1;
            failures.fetch_add(answer.is_err().into(), Ordering::Relaxed);
            answer.map(|()| (offset..).take(count).map(byte_at).collect())
        };
        let _ = fuse::serve(&device, LEN, fuse::DIRECT_IO, read, |_| Err(Errno::NOSYS));
    });
}

/// A file of [`LEN`] bytes and its server; `None`, with a word on it, where there is no FUSE for this
/// user.
fn moody_file(mood: Mood) -> Option<(File, Peer)> {
    let (socket, theirs) = UnixDatagram::pair().unwrap();
    let mut peer = Peer::start(ENTRY, &mood.role(), theirs);
    match peer.channel.hear().as_str() {
        "serving" => {
            let file = recv_fd(&socket, &mut [0; 4]).unwrap().1.unwrap();
            Some((file.into(), peer))
        }
        answer => {
            let errno = Errno::from_raw_os_error(answer.parse().expect(answer));
            let known = [Errno::ACCESS, Errno::PERM, Errno::NOENT, Errno::NODEV, Errno::NXIO];
            assert!(known.contains(&errno), "{errno}");
            eprintln!("not tested, there is no FUSE for this user here: {errno}");
            None
        }
    }
}

/// How often reading the file has failed.
fn failures(server: &mut Peer) -> u32 {
    server.channel.ask("how often?").parse().unwrap()
}

/// Runs this in another thread, which is left behind if it does not end.
#[track_caller]
fn ends<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens after a failure.
        let _ = done.send(run());
    });
    result.recv_timeout(Duration::from_secs(60)).expect("it never ends, or panicked")
}

#[track_caller]
fn is_whole(copy: &SealedFile) {
    let map = copy.map_read_only().unwrap();
    assert_eq!(map.len(), LEN as usize);
    assert!(map.iter().zip(0..).all(|(byte, offset)| *byte == byte_at(offset)));
}

#[test]
fn a_file_that_is_always_interrupted_ends_the_copy() {
    let Some((file, mut server)) = moody_file(Mood::AlwaysInterrupted) else { return };
    let source = file.try_clone().unwrap();
    let error = ends(move || SealedFile::copy_of("copy", source, u64::MAX)).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::INTR));
    let tries = failures(&mut server);
    assert!((2..=10_000).contains(&tries), "it was tried {tries} times");

    let receive = || SealedFile::receive_or_copy(file, &SealPolicy::new(), u64::MAX);
    let (refusal, _) = ends(receive).unwrap_err().into_parts();
    let Refusal::Io(error) = refusal else { panic!("{refusal:?}") };
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[test]
fn a_file_that_is_interrupted_now_and_then_is_copied() {
    let Some((file, mut server)) = moody_file(Mood::InterruptedTwiceOfThree) else { return };
    is_whole(&ends(move || SealedFile::copy_of("copy", file, LEN.into())).unwrap());
    assert_ne!(failures(&mut server), 0);
}

/// How many failures it takes until sendfile(2) has returned one, and which. Others only cut a call short.
fn failures_of_sendfile(errno: Errno) -> Option<(u32, Errno)> {
    let (file, mut server) = moody_file(Mood::BrokenAtFirst(errno, u32::MAX))?;
    // The kernel does not know the length before somebody asks for it.
    assert_eq!(file.metadata().unwrap().len(), LEN.into());
    let target = SealedFile::create("target").unwrap().into_file();
    let mut copied = 0;
    let result = loop {
        match rustix::fs::sendfile(&target, &file, Some(&mut copied), LEN as usize) {
            Ok(count) if count > 0 => {}
            end => break end,
        }
    };
    assert_eq!(copied, u64::from(LEN / 2));
    let told = result.unwrap_err();
    assert!(told == errno || told == Errno::IO, "{told}");
    Some((failures(&mut server), told))
}

#[test]
fn a_sendfile_that_fails_midway_goes_on_by_reading() {
    for errno in [Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::OPNOTSUPP] {
        let Some((times, _)) = failures_of_sendfile(errno) else { return };
        let mood = Mood::BrokenAtFirst(errno, times);
        let (file, mut server) = moody_file(mood).unwrap();
        is_whole(&ends(move || SealedFile::copy_of("copy", file, LEN.into())).unwrap());
        assert_eq!(failures(&mut server), times);

        let (file, _server) = moody_file(mood).unwrap();
        let policy = SealPolicy::new();
        is_whole(&ends(move || SealedFile::receive_or_copy(file, &policy, LEN.into())).unwrap());
    }
}

#[test]
fn an_error_of_the_data_midway_ends_the_copy() {
    for errno in [Errno::IO, Errno::NOSPC, Errno::NOMEM, Errno::DQUOT] {
        let Some((times, told)) = failures_of_sendfile(errno) else { return };
        let (file, _server) = moody_file(Mood::BrokenAtFirst(errno, u32::MAX)).unwrap();
        let error = ends(move || SealedFile::copy_of("copy", file, LEN.into())).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(errno));

        if told == Errno::IO {
            // It may be of the way, so that reading has the last word.
            continue;
        }
        let (file, mut server) = moody_file(Mood::BrokenAtFirst(errno, times)).unwrap();
        let error = ends(move || SealedFile::copy_of("copy", file, LEN.into())).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(errno));
        assert_eq!(failures(&mut server), times, "reading would have succeeded");
    }
}

#[test]
fn no_signal_ends_the_copy_of_a_slow_file() {
    extern "C" fn nothing(_signal: libc::c_int) {}

    let Some((file, _server)) = moody_file(Mood::Slow) else { return };
    // SAFETY: all zeros are a valid `sigaction`, one without SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: `action` is a valid handler, which does nothing.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
    let copy = ends(move || {
        // SAFETY: has no precondition.
        let this_thread = unsafe { libc::pthread_self() } as usize;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                    // SAFETY: the thread waits for this scope to end.
                    unsafe { libc::pthread_kill(this_thread as libc::pthread_t, libc::SIGUSR1) };
                }
            });
            let copy = SealedFile::copy_of("copy", &file, LEN.into());
            done.store(true, Ordering::Relaxed);
            copy
        })
    });
    is_whole(&copy.unwrap());
}
