//! Receiving when this process has no descriptor left. That limit is the whole process's, so these
//! tests run one by one, apart from the others.

mod support;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sealed_mmap::{Refusal, SealPolicy, SealedFile, Seals};

use support::files::{
    IMMUTABLE, LIVE, UNCHECKED, exec_seal_is_checked, filled, is_too_old_for, memfd, reopen, seal,
    sealed, seals_of,
};
use support::process::turn;

/// Does something while no file can be opened.
fn without_descriptors<T>(action: impl FnOnce() -> T) -> T {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let result = action();
    setrlimit(Resource::Nofile, limit).unwrap();
    result
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}

#[test]
fn receiving_needs_no_descriptor_unless_the_kernel_is_tested() {
    let _turn = turn();
    let immutable = sealed(b"hello", IMMUTABLE);
    let draft = filled(b"hello");
    let with_all_but_one = [Seals::EXEC, Seals::FUTURE_WRITE].map(|one| {
        let file = filled(b"hello");
        let seals = IMMUTABLE | (UNCHECKED - one);
        let added = seal(&file, seals);
        added.map_or_else(
            |errno| {
                assert!(is_too_old_for(seals, errno), "{errno}");
                eprintln!("{seals} is not tried: this kernel is too old");
                None
            },
            |()| (!seals_of(&file).contains(UNCHECKED)).then_some(file),
        )
    });
    let live = filled(b"hello");
    let is_live = seal(&live, LIVE).is_ok();
    without_descriptors(|| {
        SealedFile::try_from(immutable).unwrap();
        SealedFile::adopt_read_only(draft, &SealPolicy::new()).unwrap();
        for file in with_all_but_one.into_iter().flatten() {
            SealedFile::try_from(file).unwrap();
        }
        if is_live {
            SealedFile::receive_future_write(live, &SealPolicy::new()).unwrap();
        }
    });
}

#[test]
fn an_untested_kernel_is_not_trusted_and_is_tested_again() {
    let _turn = turn();
    let file = sealed(b"hello", IMMUTABLE);
    if let Err(errno) = seal(&file, UNCHECKED) {
        assert!(is_too_old_for(UNCHECKED, errno), "{errno}");
        return eprintln!("not run: the exec seal is unknown before Linux 6.3");
    }
    let number = file.as_raw_fd();
    let error = without_descriptors(|| SealedFile::try_from(file)).unwrap_err();
    assert!(matches!(error.reason(), Refusal::UntrustedWriteSeal), "{error:?}");
    assert_eq!(error.fd().as_raw_fd(), number);

    let again = SealedFile::try_from(error.into_fd());
    let checked = exec_seal_is_checked() == Some(true);
    assert_eq!(again.is_ok(), checked);
    // What was found out is remembered: no second test is needed.
    let fd = again.map_or_else(|error| error.into_fd(), OwnedFd::from);
    assert_eq!(without_descriptors(|| SealedFile::try_from(fd)).is_ok(), checked);
}

#[test]
fn a_copy_that_cannot_be_made_is_an_error_with_the_descriptor() {
    let _turn = turn();
    let file = filled(b"hello");
    let number = file.as_raw_fd();
    let policy = SealPolicy::new();
    let error = without_descriptors(|| SealedFile::receive_or_copy(file, &policy, 5));
    let (refusal, fd) = error.unwrap_err().into_parts();
    assert!(matches!(&refusal, Refusal::Io(error) if is_out_of_descriptors(error)), "{refusal:?}");
    assert_eq!(fd.as_raw_fd(), number);
    SealedFile::receive_or_copy(fd, &policy, 5).unwrap();
}

#[test]
fn only_a_read_only_description_needs_another_fd_to_reserve() {
    let _turn = turn();
    let file = memfd();
    file.set_len(1 << 20).unwrap();
    seal(&file, IMMUTABLE | Seals::GROW).unwrap();
    let read_only = reopen(&file, OFlags::RDONLY);
    let policy = SealPolicy::untrusted(1 << 20);
    let error = without_descriptors(|| SealedFile::receive_read_only(read_only, &policy));
    let (refusal, fd) = error.unwrap_err().into_parts();
    let Refusal::CannotReserve(error) = refusal else { panic!("{refusal:?}") };
    assert!(is_out_of_descriptors(&error), "{error:?}");
    SealedFile::receive_read_only(fd, &policy).unwrap();
    without_descriptors(|| SealedFile::receive_read_only(file, &policy).unwrap());
}
