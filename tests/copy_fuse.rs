//! `copy_of` and `receive_or_copy` of a file that a process serves through FUSE, with errors as that
//! process likes.
#![cfg(all(target_os = "linux", target_endian = "little"))]
#![allow(unsafe_code, reason = "a mount namespace, and signals")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sealed_mmap::{Refusal, SealPolicy, SealedFile};

const LEN: u32 = 1 << 20;

fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// Answers what is asked about the file, which is all that this file system has. `fail` is asked
/// what is wrong with reading at an offset.
fn serve(mut device: &File, mut fail: impl FnMut(u64) -> Result<(), Errno>) -> io::Result<()> {
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const READ: u32 = 15;
    const INIT: u32 = 26;
    /// So that each read is asked for as it is made, and nothing in advance.
    const DIRECT_IO: u32 = 1;

    let mut request = vec![0; 1 << 16];
    loop {
        let _ = device.read(&mut request)?;
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let answer = match word(4) {
            // Version 7.31, and writes of a page, of which none comes.
            INIT => Ok(with(64, &[(0, 7), (4, 31), (20, 4096)])),
            // The length at 8 and the mode at 60 of the attributes, which are not to be kept.
            GETATTR => Ok(with(16 + 88, &[(16 + 8, LEN), (16 + 60, 0o100_444), (16 + 64, 1)])),
            OPEN => Ok(with(16, &[(8, DIRECT_IO)])),
            READ => {
                let start = u64::from(word(48));
                let end = u64::from(LEN).min(start + u64::from(word(56)));
                fail(start).map(|()| (start..end).map(byte_at).collect())
            }
            _ => Err(Errno::NOSYS),
        };
        let errno = answer.as_ref().err().map_or(0, |errno| -errno.raw_os_error());
        let answer = answer.unwrap_or_default();
        let len = 16 + answer.len() as u32;
        let head = [&len.to_ne_bytes(), &errno.to_ne_bytes(), &request[8..16]].concat();
        // Some requests want no answer, and some are interrupted.
        let _ = device.write(&[head, answer].concat());
    }
}

/// A structure of this length that is zero but for some words.
fn with(len: usize, words: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, word) in words {
        bytes[*at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// Mounts the file where only this thread and its children see it.
fn mounted(at: &PathBuf) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    // SAFETY: the thread relies neither on sharing its working directory with other threads nor on
    // seeing their mounts.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    File::create(at)?;
    let number = device.as_raw_fd();
    let options = format!("fd={number},rootmode=100444,user_id=0,group_id=0");
    let options = CString::new(options).unwrap();
    let done = mount("moody", at, "fuse", MountFlags::empty(), options.as_c_str());
    if done.is_err() {
        fs::remove_file(at)?;
    }
    done?;
    Ok(device)
}

/// A file of [`LEN`] bytes; `None`, with a word on it, where there is no FUSE for this user.
fn moody_file(fail: impl FnMut(u64) -> Result<(), Errno> + Send + 'static) -> Option<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);

    let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let at = std::env::temp_dir().join(format!("sealed-mmap-moody-{unique}"));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let device = match mounted(&at) {
            Ok(device) => device,
            Err(error) => return sender.send(Err(error)).unwrap(),
        };
        thread::spawn(move || {
            let file = File::open(&at).unwrap();
            unmount(&at, UnmountFlags::DETACH).unwrap();
            fs::remove_file(&at).unwrap();
            sender.send(Ok(file)).unwrap();
        });
        // Ends with an error when the file is closed.
        let _ = serve(&device, fail);
    });
    match receiver.recv().unwrap() {
        Ok(file) => Some(file),
        Err(error) => {
            let known = [Errno::ACCESS, Errno::PERM, Errno::NOENT, Errno::NODEV, Errno::NXIO];
            assert!(known.map(|errno| Some(errno)).contains(&Errno::from_io_error(&error)));
            eprintln!("not tested, there is no FUSE for this user here: {error}");
            None
        }
    }
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
    let reads = Arc::new(AtomicU64::new(0));
    let counted = reads.clone();
    let Some(file) = moody_file(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Err(Errno::INTR)
    }) else {
        return;
    };
    let source = file.try_clone().unwrap();
    let error = ends(move || SealedFile::copy_of("copy", source, u64::MAX)).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::INTR));
    let reads = reads.load(Ordering::Relaxed);
    assert!((2..=10_000).contains(&reads), "it was tried {reads} times");

    let receive = || SealedFile::receive_or_copy(file, &SealPolicy::new(), u64::MAX);
    let (refusal, _) = ends(receive).unwrap_err().into_parts();
    let Refusal::Io(error) = refusal else { panic!("{refusal:?}") };
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[test]
fn a_file_that_is_interrupted_now_and_then_is_copied() {
    let mut turn = 0;
    let Some(file) = moody_file(move |_| {
        turn += 1;
        if turn % 3 == 0 { Ok(()) } else { Err(Errno::INTR) }
    }) else {
        return;
    };
    is_whole(&ends(move || SealedFile::copy_of("copy", file, LEN.into())).unwrap());
}

/// A file of which the second half cannot be read at first, but can after so many failures.
fn broken_at_first(errno: Errno, failures: u32) -> Option<(File, Arc<AtomicU32>)> {
    let left = Arc::new(AtomicU32::new(failures));
    let counter = left.clone();
    let file = moody_file(move |offset| {
        if offset < u64::from(LEN / 2) || left.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        left.fetch_sub(1, Ordering::Relaxed);
        Err(errno)
    })?;
    Some((file, counter))
}

/// How many failures it takes until sendfile(2) has returned one. Others only cut a call short.
fn failures_of_sendfile(errno: Errno) -> Option<u32> {
    let (file, left) = broken_at_first(errno, u32::MAX)?;
    // The kernel does not know the length before somebody asks for it.
    assert_eq!(file.metadata().unwrap().len(), LEN.into());
    let target = SealedFile::create("target").unwrap().into_file();
    let mut copied = 0;
    while copied < u64::from(LEN / 2) {
        copied +=
            rustix::fs::sendfile(&target, &file, Some(&mut { copied }), 1 << 30).unwrap() as u64;
    }
    assert_eq!(rustix::fs::sendfile(&target, &file, Some(&mut copied), 1 << 30), Err(errno));
    Some(u32::MAX - left.load(Ordering::Relaxed))
}

#[test]
fn a_sendfile_that_fails_midway_goes_on_by_reading() {
    for errno in [Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::OPNOTSUPP] {
        let Some(failures) = failures_of_sendfile(errno) else { return };
        let (file, left) = broken_at_first(errno, failures).unwrap();
        is_whole(&ends(move || SealedFile::copy_of("copy", file, LEN.into())).unwrap());
        assert_eq!(left.load(Ordering::Relaxed), 0);

        let (file, _) = broken_at_first(errno, failures).unwrap();
        let policy = SealPolicy::new();
        is_whole(&ends(move || SealedFile::receive_or_copy(file, &policy, LEN.into())).unwrap());
    }
}

#[test]
fn an_error_of_the_data_midway_ends_the_copy() {
    for errno in [Errno::IO, Errno::NOSPC, Errno::NOMEM, Errno::DQUOT] {
        let Some(failures) = failures_of_sendfile(errno) else { return };
        let (file, left) = broken_at_first(errno, failures).unwrap();
        let error = ends(move || SealedFile::copy_of("copy", file, LEN.into())).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(errno));
        assert_eq!(left.load(Ordering::Relaxed), 0, "reading would have succeeded");
    }
}

#[test]
fn no_signal_ends_the_copy_of_a_slow_file() {
    extern "C" fn nothing(_signal: libc::c_int) {}

    let Some(file) = moody_file(|_| {
        thread::sleep(Duration::from_millis(20));
        Ok(())
    }) else {
        return;
    };
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
