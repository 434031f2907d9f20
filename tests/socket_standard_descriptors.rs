//! In a process whose standard descriptors are closed, the kernel gives their numbers to what is
//! opened next. A file from a peer must not become the standard output.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "the standard descriptors are closed")]

mod support;

use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sealed_mmap::socket::{recv_fd, recv_fds, send_fds};
use support::process;

/// Runs `f` while descriptors 0, 1 and 2 are closed. It must not panic, for nobody would see it.
fn without_standard_descriptors<T>(f: impl FnOnce() -> T) -> T {
    let kept = [0, 1, 2].map(|number| {
        // SAFETY: it is open, as in every process that Rust's runtime has started.
        let standard = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_dupfd_cloexec(standard, 10).unwrap()
    });
    for number in 0..3 {
        // SAFETY: until it is open again nothing but `f` runs in this process.
        unsafe { libc::close(number) };
    }
    let result = f();
    for (number, kept) in (0..).zip(&kept) {
        // SAFETY: nobody owns the number that is replaced.
        assert_eq!(unsafe { libc::dup2(kept.as_raw_fd(), number) }, number);
    }
    result
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD answers for any number.
    unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
}

fn numbered(number: u64) -> OwnedFd {
    let fd = memfd_create("numbered", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, number).unwrap();
    fd
}

/// What there is to know of a received descriptor: its number, its file, and whether it is inherited.
fn facts(fd: OwnedFd) -> (RawFd, i64, FdFlags) {
    (fd.as_raw_fd(), fstat(&fd).unwrap().st_size, fcntl_getfd(&fd).unwrap())
}

/// `recv_fds` without its care.
fn recv_raw(socket: &OwnedFd) -> Vec<RawFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(10))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 10];
    let mut bytes = [IoSliceMut::new(&mut bytes)];
    recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    fds.iter().map(AsRawFd::as_raw_fd).collect()
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn what_is_received_is_never_0_1_or_2() {
    if !process::is_alone("what_is_received_is_never_0_1_or_2") {
        return;
    }
    let (ours, theirs) = pair();
    let files = [1, 2, 3, 4].map(numbered);
    let borrowed = files.each_ref().map(AsFd::as_fd);
    for _ in 0..3 {
        send_fds(&ours, b"x", &borrowed).unwrap();
    }
    send_fds(&ours, b"x", &borrowed[..1]).unwrap();

    let control = without_standard_descriptors(|| recv_raw(&theirs));
    assert_eq!(control[..3], [0, 1, 2]);
    assert!(control[3] > 2);

    for kept in [0, 1] {
        let mut fds: Vec<_> = [numbered(100)].into_iter().take(kept).collect();
        let result = without_standard_descriptors(|| recv_fds(&theirs, &mut [0; 10], &mut fds));
        assert_eq!(result.unwrap(), 1);
        let fds: Vec<_> = fds.into_iter().skip(kept).map(facts).collect();
        assert!(fds.iter().all(|(number, ..)| *number > 2), "{fds:?}");
        assert_eq!(fds.iter().map(|(_, file, _)| *file).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(fds.iter().all(|(.., flags)| *flags == FdFlags::CLOEXEC), "{fds:?}");
    }
    let result = without_standard_descriptors(|| recv_fd(&theirs, &mut [0; 10]));
    let (number, file, flags) = facts(result.unwrap().1.unwrap());
    assert!(number > 2);
    assert_eq!((file, flags), (1, FdFlags::CLOEXEC));
}

#[test]
fn where_no_higher_number_is_left_all_are_closed() {
    if !process::is_alone("where_no_higher_number_is_left_all_are_closed") {
        return;
    }
    let (ours, theirs) = pair();
    let file = numbered(1);
    for none_is_allowed in [false, true] {
        for count in 1..=3 {
            let mut fds = vec![file.try_clone().unwrap()];
            for _ in 0..2 {
                send_fds(&ours, b"x", &vec![file.as_fd(); count]).unwrap();
            }
            let (control, result, left) = without_standard_descriptors(|| {
                let free = (3..).find(|number| !is_open(*number)).unwrap();
                let before = getrlimit(Resource::Nofile);
                let limit = if none_is_allowed { 3 } else { free as u64 };
                let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..before });
                let control = recv_raw(&theirs);
                let result = recv_fds(&theirs, &mut [0; 10], &mut fds);
                let _ = setrlimit(Resource::Nofile, before);
                let left = [0, 1, 2, free].map(is_open);
                (control, result, left)
            });
            assert_eq!(control, (0..count as RawFd).collect::<Vec<_>>(), "all were delivered");
            assert_eq!(result.unwrap_err().kind(), ErrorKind::QuotaExceeded);
            assert_eq!(left, [false; 4]);
            assert_eq!(fds.len(), 1);
        }
    }
}
