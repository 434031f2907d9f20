//! `copy_of` and `receive_or_copy` where a sandbox denies or falsifies system calls: another way, or
//! an error that says what happened, and always an end.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]

mod support;

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use libc::c_long;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::pipe;
use sealed_mmap::{Refusal, SealPolicy, SealedFile};

use support::pattern;
use support::seccomp::{can_filter, denied, under, with_answers, with_code};

#[cfg(not(target_arch = "x86_64"))]
const POLL: &[c_long] = &[libc::SYS_ppoll];
#[cfg(target_arch = "x86_64")]
const POLL: &[c_long] = &[libc::SYS_poll, libc::SYS_ppoll];

/// What a sandbox or an old kernel answers, and what sendfile(2) lists for files that it cannot copy.
const OF_THE_WAY: [Errno; 8] = [
    Errno::PERM,
    Errno::NOSYS,
    Errno::ACCESS,
    Errno::INVAL,
    Errno::OPNOTSUPP,
    Errno::OVERFLOW,
    Errno::AGAIN,
    Errno::INTR,
];
const OF_THE_DATA: [Errno; 5] = [Errno::IO, Errno::NOSPC, Errno::NOMEM, Errno::FBIG, Errno::DQUOT];

fn copy(source: impl AsFd) -> io::Result<SealedFile> {
    SealedFile::copy_of("copy", source, u64::MAX)
}

/// A file with these bytes that carries no seals.
fn file_of(bytes: &[u8]) -> File {
    let mut draft = SealedFile::create("source").unwrap();
    draft.write_all(bytes).unwrap();
    draft.into_file()
}

fn pipe_of(bytes: &[u8]) -> OwnedFd {
    let (reader, writer) = pipe().unwrap();
    File::from(writer).write_all(bytes).unwrap();
    reader
}

#[test]
fn a_denied_sendfile_gives_way_to_reading() {
    if !can_filter() {
        return;
    }
    let bytes = pattern(300_001);
    for errno in OF_THE_WAY {
        let control = file_of(b"control");
        let answer = denied(&[libc::SYS_sendfile], errno, move || {
            rustix::fs::sendfile(file_of(b""), control, None, 7)
        });
        assert_eq!(answer, Err(errno));

        let source = file_of(&bytes);
        let copied = denied(&[libc::SYS_sendfile], errno, move || copy(source));
        let copied = copied.unwrap_or_else(|error| panic!("{errno:?}: {error}"));
        assert!(copied.map_read_only().unwrap()[..] == bytes);

        let source = file_of(&bytes);
        let taken = denied(&[libc::SYS_sendfile], errno, move || {
            SealedFile::receive_or_copy(source, &SealPolicy::new(), 300_001)
        });
        let taken = taken.unwrap_or_else(|error| panic!("{errno:?}: {error}"));
        assert!(taken.map_read_only().unwrap()[..] == bytes);
    }
}

#[test]
fn a_file_of_procfs_is_copied_without_sendfile() {
    if !can_filter() {
        return;
    }
    for path in
        ["/proc/version", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"]
    {
        let Ok(source) = File::open(path) else {
            eprintln!("{path} cannot be tried here");
            continue;
        };
        let copied = denied(&[libc::SYS_sendfile], Errno::PERM, move || copy(source)).unwrap();
        let bytes = copied.map_read_only().unwrap();
        assert!(!bytes.is_empty());
        if path != "/proc/self/status" {
            assert_eq!(bytes[..], std::fs::read(path).unwrap());
        }
    }
}

#[test]
fn a_sendfile_that_copies_nothing_is_not_the_end() {
    if !can_filter() {
        return;
    }
    let source = file_of(b"bytes");
    let copied = under(vec![with_code(libc::SYS_sendfile, 0)], move || copy(source)).unwrap();
    assert_eq!(&copied.map_read_only().unwrap()[..], b"bytes");
}

#[test]
fn an_error_of_the_data_is_not_hidden_by_reading() {
    if !can_filter() {
        return;
    }
    for errno in OF_THE_DATA {
        let source = file_of(b"bytes");
        let copied = denied(&[libc::SYS_sendfile], errno, move || copy(source));
        if errno == Errno::IO {
            // Some kernels answer it whatever the file system said. Here reading finds no error.
            assert_eq!(&copied.unwrap().map_read_only().unwrap()[..], b"bytes");
        } else {
            assert_eq!(Errno::from_io_error(&copied.unwrap_err()), Some(errno));
        }
        // While reading takes the place of sendfile.
        for call in [libc::SYS_pread64, libc::SYS_pwrite64] {
            let source = file_of(b"bytes");
            let error =
                with_answers(&[(libc::SYS_sendfile, Errno::PERM), (call, errno)], move || {
                    copy(source)
                });
            assert_eq!(Errno::from_io_error(&error.unwrap_err()), Some(errno));
        }
    }
}

#[test]
fn a_call_that_is_always_interrupted_ends_as_that() {
    if !can_filter() {
        return;
    }
    let sendfile_and = |call| vec![libc::SYS_sendfile, call];
    for calls in [sendfile_and(libc::SYS_pread64), sendfile_and(libc::SYS_pwrite64)] {
        let source = file_of(b"bytes");
        let error = denied(&calls, Errno::INTR, move || copy(source)).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::INTR));

        let source = file_of(b"bytes");
        let refused = denied(&calls, Errno::INTR, move || {
            SealedFile::receive_or_copy(source, &SealPolicy::new(), 100)
        });
        let (refusal, _) = refused.unwrap_err().into_parts();
        let Refusal::Io(error) = refusal else { panic!("{refusal:?}") };
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }
    for calls in [&[libc::SYS_read][..], &[libc::SYS_pwrite64]] {
        let source = pipe_of(b"bytes");
        let error = denied(calls, Errno::INTR, move || copy(source)).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::INTR));
    }
}

/// A pipe without data, and its other end.
fn empty_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe().unwrap();
    fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    (reader, writer)
}

/// That `error` says what failed, and has the errno as its source.
#[track_caller]
fn says(error: &io::Error, what: &str, errno: Errno) {
    assert!(error.to_string().contains(what), "{error}");
    assert_eq!(error.kind(), io::Error::from(errno).kind());
    let source = error.source().expect("it has a source");
    let source = source.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
    assert_eq!(source, Some(errno));
}

#[test]
fn a_denied_poll_is_named() {
    if !can_filter() {
        return;
    }
    for errno in [Errno::PERM, Errno::NOSYS, Errno::ACCESS, Errno::INVAL, Errno::INTR] {
        let (reader, _writer) = empty_pipe();
        let error = denied(POLL, errno, move || copy(reader)).unwrap_err();
        says(&error, "poll", errno);
    }
    // Nobody waits where there is something to be read.
    let source = pipe_of(b"bytes");
    let copied = denied(POLL, Errno::PERM, move || copy(source)).unwrap();
    assert_eq!(&copied.map_read_only().unwrap()[..], b"bytes");
}

#[test]
fn a_denied_question_about_a_socket_is_named() {
    if !can_filter() {
        return;
    }
    for errno in [Errno::PERM, Errno::NOSYS, Errno::ACCESS] {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = denied(&[libc::SYS_getsockopt], errno, move || copy(ours)).unwrap_err();
        says(&error, "read timeout", errno);
    }
    // Nobody asks about anything but a socket.
    let source = pipe_of(b"bytes");
    denied(&[libc::SYS_getsockopt], Errno::PERM, move || copy(source)).unwrap();
}

#[test]
fn readiness_without_data_ends_the_wait() {
    if !can_filter() {
        return;
    }
    let source = pipe_of(b"bytes");
    let error = denied(&[libc::SYS_read], Errno::AGAIN, move || copy(source)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other, "not one that invites waiting: {error}");
    assert!(error.to_string().contains("over and over"), "{error}");
}

#[test]
fn writes_that_write_nothing_end_the_copy() {
    if !can_filter() {
        return;
    }
    let source = pipe_of(b"bytes");
    let error = under(vec![with_code(libc::SYS_pwrite64, 0)], move || copy(source)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WriteZero);
}

#[test]
fn an_errno_of_writing_is_not_taken_for_one_of_the_source() {
    if !can_filter() {
        return;
    }
    let source = pipe_of(b"bytes");
    let error = denied(&[libc::SYS_pwrite64], Errno::AGAIN, move || copy(source)).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::AGAIN));
}
