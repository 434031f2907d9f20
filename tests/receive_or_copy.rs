//! Receiving or copying: what can be relied on is taken as it is, other regular files are copied.

mod support;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, OFlags, memfd_create};
use rustix::io::Errno;
use sealed_mmap::{Refusal, SealPolicy, SealedFile, Seals};

use support::errno_of;
use support::files::{
    IMMUTABLE, LIVE, UNCHECKED, exec_seal_is_checked, executable, filled, is_root, is_too_old_for,
    look, map_writable, ordinary_file, reopen, seal, sealed, seals_of, tmpfs_file,
};

const LIMIT: u64 = 4096;
/// What every copy is sealed with.
const COPY: Seals = IMMUTABLE.union(Seals::GROW).union(Seals::SEAL);

fn take(fd: impl Into<OwnedFd>, policy: &SealPolicy) -> SealedFile {
    SealedFile::receive_or_copy(fd, policy, LIMIT).unwrap()
}

fn neither_taken_nor_copied(
    fd: impl Into<OwnedFd>,
    policy: &SealPolicy,
    limit: u64,
) -> (Refusal, OwnedFd) {
    support::files::refused(fd, |fd| SealedFile::receive_or_copy(fd, policy, limit))
}

/// Takes a file that is expected to be copied, and has its offset in the middle.
fn copied(mut file: File, bytes: &[u8], policy: &SealPolicy) -> SealedFile {
    file.seek(SeekFrom::Start(2)).unwrap();
    let before = look(file.as_fd());
    let copy = take(file.try_clone().unwrap(), policy);
    assert_eq!(look(file.as_fd()), before, "the original is left alone");
    assert_ne!(look(copy.as_fd()).inode, before.inode);
    assert!(seals_of(&copy).contains(COPY));
    assert_eq!(&copy.map_read_only().unwrap()[..], bytes);
    assert_eq!(copy.len().unwrap(), bytes.len() as u64);
    copy
}

#[test]
fn a_sealed_file_is_taken_without_a_copy() {
    for seals in [IMMUTABLE, COPY] {
        let file = sealed(b"hello", seals);
        let before = look(file.as_fd());
        // The limit of a copy is none of what is not copied.
        let taken = SealedFile::receive_or_copy(file, &SealPolicy::new(), 0).unwrap();
        assert_eq!(look(taken.as_fd()), before);
        assert_eq!(&taken.map_read_only().unwrap()[..], b"hello");
    }
}

#[test]
fn a_file_in_memory_that_is_not_sealed_enough_is_copied() {
    for seals in [Seals::empty(), Seals::SHRINK, Seals::WRITE, Seals::SEAL] {
        copied(sealed(b"hello", seals), b"hello", &SealPolicy::new());
    }
    if let Some(file) = tmpfs_file(b"hello") {
        copied(file, b"hello", &SealPolicy::new());
    }
}

#[test]
fn an_ordinary_file_is_copied() {
    let file = ordinary_file(b"hello");
    copied(reopen(&file, OFlags::RDONLY).into(), b"hello", &SealPolicy::new());
    copied(file, b"hello", &SealPolicy::new());
}

#[test]
fn an_empty_file_is_copied() {
    copied(ordinary_file(b""), b"", &SealPolicy::new().len(0..=0));
    copied(filled(b""), b"", &SealPolicy::new());
}

#[test]
fn a_file_of_procfs_is_copied_whatever_length_it_claims() {
    let version = std::fs::read("/proc/version").unwrap();
    let file = File::open("/proc/version").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    copied(file, &version, &SealPolicy::new().len(1..));
}

#[test]
fn a_file_that_a_producer_still_writes_is_copied() {
    let file = filled(b"hello");
    let mut producer = map_writable(&file);
    if let Err(errno) = seal(&file, LIVE) {
        assert_eq!(errno, Errno::INVAL);
        return eprintln!("not tried: the future-write seal is unknown before Linux 5.1");
    }
    let copy = copied(file.try_clone().unwrap(), b"hello", &SealPolicy::new());
    producer.copy_from_slice(b"jelly");
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"jelly", "the original changes");
    assert_eq!(&copy.map_read_only().unwrap()[..], b"hello", "the copy does not");
}

#[test]
fn a_copy_does_not_change_with_the_original() {
    for original in [filled(b"hello"), ordinary_file(b"hello")] {
        let copy = copied(original.try_clone().unwrap(), b"hello", &SealPolicy::new());
        let map = copy.map_read_only().unwrap();

        original.write_all_at(b"jelly", 0).unwrap();
        original.set_len(3).unwrap();
        let mut bytes = [0; 3];
        original.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, original.metadata().unwrap().len()), (b"jel", 3), "the attack works");
        assert_eq!(&map[..], b"hello");
        assert_eq!(&copy.map_read_only().unwrap()[..], b"hello");

        let error = File::from(copy).write_all(b"!").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    }
}

#[test]
fn a_write_seal_that_cannot_be_relied_on_leads_to_a_copy() {
    let Some(mut file) = executable() else { return };
    file.write_all(b"hello").unwrap();
    let writable = map_writable(&file);
    if let Err(errno) = seal(&file, Seals::EXEC) {
        assert_eq!(errno, Errno::BUSY);
        drop(writable);
        seal(&file, Seals::EXEC).unwrap();
        eprintln!("this kernel checks, so the file is taken as it is");
        let before = look(file.as_fd());
        return assert_eq!(look(take(file, &SealPolicy::new()).as_fd()), before);
    }
    assert!(seals_of(&file).contains(IMMUTABLE | UNCHECKED), "it claims to be immutable");
    let copy = copied(file.try_clone().unwrap(), b"hello", &SealPolicy::new());
    let mut writable = writable;
    writable.copy_from_slice(b"jelly");
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"jelly", "and is not");
    assert_eq!(&copy.map_read_only().unwrap()[..], b"hello");
}

#[test]
fn a_write_seal_that_no_test_can_vouch_for_leads_to_a_copy() {
    let file = filled(b"hello");
    if let Err(errno) = seal(&file, IMMUTABLE | UNCHECKED) {
        assert!(is_too_old_for(UNCHECKED, errno), "{errno}");
        return eprintln!("not tried: the exec seal is unknown before Linux 6.3");
    }
    if exec_seal_is_checked() == Some(true) {
        let before = look(file.as_fd());
        assert_eq!(look(take(file, &SealPolicy::new()).as_fd()), before);
    } else {
        copied(file, b"hello", &SealPolicy::new());
    }
}

#[test]
fn what_need_never_end_is_refused_and_not_read() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (socket, mut other) = UnixStream::pair().unwrap();
    let mut writer = File::from(writer);
    writer.write_all(b"hello").unwrap();
    other.write_all(b"hello").unwrap();
    // Those that would end come first: a mistake is then a failure rather than a test that hangs.
    let mut endless = vec![("a directory", OwnedFd::from(File::open("/").unwrap()))];
    match File::open("/dev/zero") {
        Ok(zero) => endless.push(("/dev/zero", zero.into())),
        Err(error) => eprintln!("/dev/zero is not tried: {error}"),
    }
    endless.extend([("a pipe", reader), ("a socket", socket.into())]);
    for (name, fd) in endless {
        let (refusal, fd) = neither_taken_nor_copied(fd, &SealPolicy::new(), LIMIT);
        let Refusal::NotSealable(error) = refusal else { panic!("{name}: {refusal:?}") };
        assert_eq!(error.raw_os_error(), Some(Errno::INVAL.raw_os_error()), "{name}");
        if name == "a pipe" || name == "a socket" {
            assert_eq!(rustix::io::ioctl_fionread(fd).unwrap(), 5, "{name}");
        }
    }
}

#[test]
fn what_cannot_be_read_cannot_be_copied() {
    for file in [filled(b"hello"), ordinary_file(b"hello"), sealed(b"hello", COPY)] {
        for flags in [OFlags::WRONLY, OFlags::PATH] {
            let (refusal, _) =
                neither_taken_nor_copied(reopen(&file, flags), &SealPolicy::new(), LIMIT);
            assert!(matches!(refusal, Refusal::NotReadable), "{refusal:?}");
        }
        take(reopen(&file, OFlags::RDONLY), &SealPolicy::new());
    }
}

#[test]
fn no_more_than_the_limit_is_copied() {
    for file in [filled(b"hello"), ordinary_file(b"hello")] {
        let (refusal, fd) = neither_taken_nor_copied(file, &SealPolicy::new(), 4);
        let Refusal::Io(error) = refusal else { panic!("{refusal:?}") };
        assert_eq!(errno_of(&error), Errno::FBIG);
        assert!(error.to_string().contains("more than the 4 bytes"), "{error}");
        SealedFile::receive_or_copy(fd, &SealPolicy::new(), 5).unwrap();
    }
    // The lengths of these files are not known beforehand.
    let file = File::open("/proc/version").unwrap();
    let (refusal, _) = neither_taken_nor_copied(file, &SealPolicy::new(), 4);
    assert!(matches!(refusal, Refusal::Io(_)), "{refusal:?}");
    // A hole counts like any other byte.
    let sparse = filled(b"");
    sparse.set_len(1 << 50).unwrap();
    let (refusal, _) = neither_taken_nor_copied(sparse, &SealPolicy::new(), LIMIT);
    assert!(matches!(refusal, Refusal::Io(_)), "{refusal:?}");
}

#[test]
fn length_and_owner_are_judged_for_a_copy_too() {
    let own = rustix::process::geteuid().as_raw();
    let any = SealPolicy::new;
    for file in [filled(b"hello"), ordinary_file(b"hello")] {
        let (refusal, fd) = neither_taken_nor_copied(file, &any().len(..5), LIMIT);
        assert!(matches!(refusal, Refusal::Length { len: 5, .. }), "{refusal:?}");
        let (refusal, fd) = neither_taken_nor_copied(fd, &any().owner(own + 1), LIMIT);
        assert!(matches!(refusal, Refusal::Owner { .. }), "{refusal:?}");
        take(fd, &any().len(5..=5).owner(own));
    }
    if is_root() {
        let file = filled(b"hello");
        rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(4242)), None).unwrap();
        let (refusal, fd) = neither_taken_nor_copied(file, &any().owner(own), LIMIT);
        assert!(matches!(refusal, Refusal::Owner { expected: 0, found: 4242 }), "{refusal:?}");
        take(fd, &any().owner(4242));
    }
}

#[test]
fn the_seals_of_a_policy_are_not_asked_of_a_copy() {
    for policy in [
        SealPolicy::new().require(Seals::FUTURE_WRITE),
        SealPolicy::new().require(Seals::GROW).forbid(Seals::SEAL),
        SealPolicy::new().exactly(Seals::from_bits_retain(1 << 30)),
        SealPolicy::untrusted(5),
    ] {
        copied(filled(b"hello"), b"hello", &policy);
        copied(ordinary_file(b"hello"), b"hello", &policy);
    }
}

#[test]
fn what_a_copy_would_not_help_is_refused() {
    let any = SealPolicy::new;
    let file = sealed(b"hello", COPY);
    let (refusal, file) = neither_taken_nor_copied(file, &any().forbid(Seals::GROW), LIMIT);
    assert!(matches!(refusal, Refusal::ForbiddenSeals { .. }), "{refusal:?}");
    let (refusal, _) = neither_taken_nor_copied(file, &any().len(6..), LIMIT);
    assert!(matches!(refusal, Refusal::Length { len: 5, .. }), "{refusal:?}");

    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    match memfd_create("huge", flags) {
        Ok(file) => {
            seal(&file, IMMUTABLE).unwrap();
            let (refusal, _) = neither_taken_nor_copied(file, &any(), LIMIT);
            assert!(matches!(refusal, Refusal::HugeTlb), "{refusal:?}");
        }
        Err(errno) => {
            assert!(matches!(errno, Errno::NODEV | Errno::INVAL | Errno::NOSYS), "{errno}");
            eprintln!("hugetlb files are not tried: the kernel has none ({errno})");
        }
    }
}
