//! The set of seals, and reading and adding seals on any descriptor.

mod support;

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{OFlags, SealFlags};
use rustix::io::Errno;
use sealed_mmap::{Seals, add_seals, get_seals};

use support::assert_errno;
use support::files::{
    IMMUTABLE, every_set, filled, is_too_old_for, look, map_writable, memfd, ordinary_file, reopen,
    sealed, seals_of, tmpfs_file,
};

const UNKNOWN: Seals = Seals::from_bits_retain(1 << 31 | 1 << 6);

const NAMES: [(Seals, &str); 6] = [
    (Seals::SEAL, "seal"),
    (Seals::SHRINK, "shrink"),
    (Seals::GROW, "grow"),
    (Seals::WRITE, "write"),
    (Seals::FUTURE_WRITE, "future_write"),
    (Seals::EXEC, "exec"),
];

#[test]
fn the_bits_are_the_kernels() {
    let kernels = [
        SealFlags::SEAL,
        SealFlags::SHRINK,
        SealFlags::GROW,
        SealFlags::WRITE,
        SealFlags::FUTURE_WRITE,
    ];
    for ((ours, _), kernels) in NAMES.into_iter().zip(kernels) {
        assert_eq!(ours.bits(), kernels.bits());
    }
    // <linux/fcntl.h>: F_SEAL_EXEC
    assert_eq!(Seals::EXEC.bits(), 0x20);
}

#[test]
fn there_are_six_and_no_other() {
    assert_eq!(!Seals::empty(), Seals::all());
    assert!(Seals::all().iter().eq(NAMES.map(|(seal, _)| seal)));
    assert_eq!(Seals::all().bits(), 0x3f);
    assert_eq!(Seals::default(), Seals::empty());
    assert_eq!(Seals::from_bits(1 << 6), None);
    assert_eq!(Seals::from_bits_truncate(u32::MAX), Seals::all());
}

#[test]
fn operators_are_those_of_sets() {
    for a in every_set() {
        assert_eq!(!a, Seals::all() - a);
        assert_eq!(a.iter().collect::<Seals>(), a);
        assert_eq!(a.iter().count() as u32, a.bits().count_ones());
        for b in every_set() {
            assert_eq!((a | b).bits(), a.bits() | b.bits());
            assert_eq!((a & b).bits(), a.bits() & b.bits());
            assert_eq!((a ^ b).bits(), a.bits() ^ b.bits());
            assert_eq!((a - b).bits(), a.bits() & !b.bits());
            assert_eq!(a.contains(b), a.bits() & b.bits() == b.bits());
            assert_eq!(a.intersects(b), a.bits() & b.bits() != 0);
            assert_eq!(a.union(b), a | b);
            assert_eq!(a.difference(b), a - b);
            assert_eq!(a == b, a.bits() == b.bits());
            assert_eq!(a.cmp(&b), a.bits().cmp(&b.bits()));
        }
    }
    assert_eq!(every_set().collect::<HashSet<_>>().len(), 64);
    let mut seals = Seals::WRITE;
    seals |= Seals::GROW;
    seals -= Seals::WRITE;
    seals.insert(Seals::SEAL);
    assert_eq!(seals, Seals::GROW | Seals::SEAL);
}

#[test]
fn unknown_bits_are_kept() {
    let seals = Seals::WRITE | UNKNOWN;
    assert_eq!(seals.bits(), 1 << 31 | 1 << 6 | Seals::WRITE.bits());
    assert_eq!(seals - Seals::WRITE, UNKNOWN);
    assert_eq!(seals & UNKNOWN, UNKNOWN);
    assert!(seals.contains(Seals::WRITE) && seals.contains(UNKNOWN));
    assert!(!Seals::all().contains(UNKNOWN));
    assert_eq!(seals.iter().collect::<Seals>(), seals);
}

#[test]
fn every_set_is_displayed_by_its_names_in_the_order_of_the_bits() {
    for seals in every_set() {
        let names: Vec<&str> = NAMES
            .into_iter()
            .filter(|(seal, _)| seals.bits() & seal.bits() != 0)
            .map(|(_, name)| name)
            .collect();
        let expected = if names.is_empty() { "none".to_owned() } else { names.join("|") };
        assert_eq!(seals.to_string(), expected);
        let separator = if names.is_empty() { "" } else { "|" };
        let known = if names.is_empty() { "" } else { &expected };
        assert_eq!((seals | UNKNOWN).to_string(), format!("{known}{separator}0x80000040"));
    }
    assert_eq!(Seals::all().to_string(), "seal|shrink|grow|write|future_write|exec");
    assert_eq!(Seals::empty().to_string(), "none");
}

#[test]
fn debug_is_never_empty_and_tells_sets_apart() {
    let shown: HashSet<String> =
        every_set().flat_map(|seals| [seals, seals | UNKNOWN].map(|s| format!("{s:?}"))).collect();
    assert_eq!(shown.len(), 2 * 64);
    assert!(shown.iter().all(|text| !text.is_empty()));
}

#[test]
fn every_set_that_is_added_is_read_back() {
    let mut unknown = 0;
    for seals in every_set() {
        let file = memfd();
        let before = seals_of(&file);
        match add_seals(&file, seals) {
            Ok(()) => {
                assert_eq!(seals_of(&file), before | seals);
                assert_eq!(get_seals(&file).unwrap(), before | seals);
            }
            Err(error) => {
                let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap());
                assert!(is_too_old_for(seals, errno), "{seals}: {error}");
                assert_eq!(seals_of(&file), before);
                unknown += 1;
            }
        }
    }
    assert!(unknown <= 48);
    if unknown > 0 {
        eprintln!("{unknown} of 64: this kernel does not know one of the seals");
    }
}

#[test]
fn seals_are_read_through_every_description_but_o_path() {
    let file = sealed(b"hello", IMMUTABLE);
    let seals = seals_of(&file);
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        assert_eq!(get_seals(reopen(&file, flags)).unwrap(), seals);
    }
    let path = reopen(&file, OFlags::PATH);
    assert_errno(get_seals(&path), Errno::BADF);
    assert_errno(add_seals(&path, Seals::GROW), Errno::BADF);
    if let Some(file) = tmpfs_file(b"hello") {
        assert_eq!(get_seals(file).unwrap(), Seals::SEAL);
    }
}

#[test]
fn files_that_are_not_in_memory_have_no_seals() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let files: [OwnedFd; 8] = [
        ordinary_file(b"hello").into(),
        reader,
        writer,
        UnixStream::pair().unwrap().0.into(),
        File::open("/").unwrap().into(),
        File::open("/proc/self/status").unwrap().into(),
        eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
    ];
    for fd in files {
        assert_errno(get_seals(&fd), Errno::INVAL);
        // Whether the descriptor may write is looked at first.
        let access = rustix::fs::fcntl_getfl(&fd).unwrap() & OFlags::RWMODE;
        let errno = if access == OFlags::RDONLY { Errno::PERM } else { Errno::INVAL };
        assert_errno(add_seals(&fd, Seals::WRITE), errno);
    }
}

#[test]
fn no_seal_is_added_after_seal_or_through_a_read_only_fd() {
    let file = sealed(b"hello", IMMUTABLE | Seals::SEAL);
    let before = look(file.as_fd());
    for seals in [Seals::GROW, Seals::WRITE, Seals::empty()] {
        assert_errno(add_seals(&file, seals), Errno::PERM);
    }
    assert_eq!(look(file.as_fd()), before);

    let file = filled(b"hello");
    let before = seals_of(&file);
    assert_errno(add_seals(reopen(&file, OFlags::RDONLY), Seals::GROW), Errno::PERM);
    assert_eq!(seals_of(&file), before);
    // Control: through a writable one it is.
    add_seals(reopen(&file, OFlags::WRONLY), Seals::GROW).unwrap();
    assert_eq!(seals_of(&file), before | Seals::GROW);
}

#[test]
fn a_writable_mapping_prevents_write_and_what_comes_with_it() {
    let file = filled(b"hello");
    let before = seals_of(&file);
    let writable = map_writable(&file);
    assert_errno(add_seals(&file, IMMUTABLE | Seals::GROW | Seals::SEAL), Errno::BUSY);
    assert_eq!(seals_of(&file), before, "all or nothing");
    add_seals(&file, Seals::GROW).unwrap();
    drop(writable);
    add_seals(&file, IMMUTABLE).unwrap();
    assert_eq!(seals_of(&file), before | Seals::GROW | IMMUTABLE);
}

#[test]
fn an_unknown_seal_is_refused_with_all_that_came_with_it() {
    let file = filled(b"hello");
    let before = seals_of(&file);
    assert_errno(add_seals(&file, UNKNOWN | Seals::GROW), Errno::INVAL);
    assert_eq!(seals_of(&file), before);
}
