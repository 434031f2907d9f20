//! Receiving: what is taken from a peer, and what is refused, judged on real descriptors.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::io::Errno;
use sealed_mmap::{
    FutureWriteSealed, ReadOnlySealed, Refusal, SealFailure, SealPolicy, SealedFile, Seals, State,
};

use support::files::{
    IMMUTABLE, LIVE, UNCHECKED, every_set, exec_seal_is_checked, executable, filled, is_root,
    is_too_old_for, look, map_writable, memfd, ordinary_file, reopen, seal, sealed, seals_of,
    tmpfs, tmpfs_file, write_seal_counts,
};
use support::runs::rounds;

fn not_received(fd: impl Into<OwnedFd>, policy: &SealPolicy) -> (Refusal, OwnedFd) {
    support::files::refused(fd, |fd| SealedFile::receive_read_only(fd, policy))
}

fn refused_as_live(fd: impl Into<OwnedFd>, policy: &SealPolicy) -> (Refusal, OwnedFd) {
    support::files::refused(fd, |fd| SealedFile::receive_future_write(fd, policy))
}

fn receive(fd: impl Into<OwnedFd>) -> SealedFile {
    SealedFile::receive_read_only(fd, &SealPolicy::new()).unwrap()
}

/// A live file and its producer's mapping; `None`, with a word on it, where the kernel has no such seal.
fn live_file(bytes: &[u8]) -> Option<(File, memmap2::MmapMut)> {
    let file = filled(bytes);
    let producer = map_writable(&file);
    match seal(&file, LIVE) {
        Ok(()) => Some((file, producer)),
        Err(errno) => {
            assert_eq!(errno, Errno::INVAL);
            eprintln!("no live files here: the future-write seal is unknown before Linux 5.1");
            None
        }
    }
}

// What is taken.

#[test]
fn write_and_shrink_are_enough() {
    let mut file = sealed(b"hello", IMMUTABLE);
    file.seek(SeekFrom::Start(2)).unwrap();
    let (number, before) = (file.as_raw_fd(), look(file.as_fd()));

    let mut received = receive(file);
    assert_eq!(received.as_raw_fd(), number, "it is the same descriptor");
    assert_eq!(received.len().unwrap(), 5);
    assert_eq!(&received.map_read_only().unwrap()[..], b"hello");
    assert_eq!(look(received.as_fd()), before, "no seal was added, nothing was moved");
    let mut rest = String::new();
    received.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "llo");
}

#[test]
fn every_set_of_seals_is_accepted_or_refused_as_defined() {
    let (mut taken, mut refusals, mut unknown) = (0, 0, 0);
    for seals in every_set() {
        for required in [ReadOnlySealed::REQUIRED, FutureWriteSealed::REQUIRED] {
            let file = filled(b"hello");
            if let Err(errno) = seal(&file, seals) {
                assert!(is_too_old_for(seals, errno), "{seals}: {errno}");
                unknown += 1;
                continue;
            }
            let present = seals_of(&file);
            assert!(present.contains(seals));
            let trusted = required == LIVE || write_seal_counts(present);
            if present.contains(required) && trusted {
                taken += 1;
                if required == IMMUTABLE {
                    assert_eq!(&receive(file).map_read_only().unwrap()[..], b"hello");
                } else {
                    SealedFile::receive_future_write(file, &SealPolicy::new()).unwrap();
                }
                continue;
            }
            refusals += 1;
            let (refusal, _) = if required == IMMUTABLE {
                not_received(file, &SealPolicy::new())
            } else {
                refused_as_live(file, &SealPolicy::new())
            };
            match refusal {
                Refusal::UntrustedWriteSeal => assert!(present.contains(required) && !trusted),
                Refusal::MissingSeals { missing, present: reported } => {
                    assert_eq!(reported, present);
                    assert_eq!(missing | present, required | present);
                    assert!(required.contains(missing));
                }
                other => panic!("{present}: {other:?}"),
            }
        }
    }
    assert_eq!(taken + refusals + unknown, 2 * 64);
    assert!(taken >= 4 && refusals >= 12, "{taken} {refusals}");
    if unknown > 0 {
        eprintln!("{unknown} of 128: this kernel does not know one of the seals");
    }
}

#[test]
fn a_read_only_description_is_taken() {
    let file = sealed(b"hello", IMMUTABLE);
    let received = receive(reopen(&file, OFlags::RDONLY));
    assert_eq!(&received.map_read_only().unwrap()[..], b"hello");
}

#[test]
fn an_empty_file_is_taken() {
    let received = receive(sealed(b"", IMMUTABLE));
    assert!(received.is_empty().unwrap());
    assert!(received.map_read_only().unwrap().is_empty());
}

#[test]
fn conversions_receive_under_the_default_policy() {
    let file = sealed(b"hello", IMMUTABLE);
    let fd = OwnedFd::from(file.try_clone().unwrap());
    for received in [SealedFile::try_from(fd).unwrap(), SealedFile::try_from(file).unwrap()] {
        assert_eq!(&received.map_read_only().unwrap()[..], b"hello");
    }
    for (refusal, _) in [
        support::files::refused(filled(b"hello"), SealedFile::try_from),
        support::files::refused(filled(b"hello"), |fd| SealedFile::try_from(File::from(fd))),
    ] {
        assert!(matches!(refusal, Refusal::MissingSeals { missing: IMMUTABLE, .. }));
    }
}

#[test]
fn the_received_length_is_kept_when_a_peer_grows_the_file() {
    let file = sealed(b"hello", IMMUTABLE);
    let peers = file.try_clone().unwrap();
    let received = receive(file);
    let before = received.map_read_only().unwrap();

    peers.set_len(1 << 20).unwrap();
    assert_eq!(received.metadata().unwrap().len(), 1 << 20, "the attack works");
    assert_eq!(received.len().unwrap(), 5);
    assert_eq!(&before[..], b"hello");
    assert_eq!(&received.map_read_only().unwrap()[..], b"hello");
    assert!(received.map_range(0..6).is_err());

    // With GROW it does not.
    let file = sealed(b"hello", IMMUTABLE | Seals::GROW);
    let received = receive(file.try_clone().unwrap());
    let error = file.set_len(1 << 20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    assert_eq!(received.metadata().unwrap().len(), 5);
}

#[test]
fn no_race_makes_the_received_length_more_than_the_file_has() {
    for round in 0..rounds(30, 5_000) {
        let file = filled(&[1; 8192]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Until SHRINK is there; the length can still be raised then, without GROW.
                while file.set_len(0).and_then(|()| file.set_len(8192)).is_ok() {}
                file.set_len(16384).unwrap();
            });
            scope.spawn(|| {
                (0..round % 64).for_each(|_| std::thread::yield_now());
                seal(&file, IMMUTABLE).unwrap();
            });
            let mut fd = OwnedFd::from(file.try_clone().unwrap());
            let received = loop {
                match SealedFile::receive_read_only(fd, &SealPolicy::new()) {
                    Ok(received) => break received,
                    Err(error) => fd = error.into_fd(),
                }
                std::thread::yield_now();
            };
            let len = received.len().unwrap();
            assert!(len <= received.metadata().unwrap().len());
            // Past the end of the file this would be SIGBUS.
            let map = received.map_read_only().unwrap();
            assert_eq!(map.iter().filter(|byte| **byte <= 1).count() as u64, len);
        });
    }
}

// What cannot be mapped, or cannot carry seals.

#[test]
fn a_descriptor_that_cannot_be_read_is_refused() {
    let file = sealed(b"hello", IMMUTABLE);
    for flags in [OFlags::WRONLY, OFlags::PATH] {
        let (refusal, _) = not_received(reopen(&file, flags), &SealPolicy::new());
        assert!(matches!(refusal, Refusal::NotReadable), "{refusal:?}");
        let (refusal, _) = refused_as_live(reopen(&file, flags), &SealPolicy::new());
        assert!(matches!(refusal, Refusal::NotReadable), "{refusal:?}");
    }
    for flags in [OFlags::RDONLY, OFlags::RDWR] {
        receive(reopen(&file, flags));
    }
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    let (refusal, _) = not_received(writer, &SealPolicy::new());
    assert!(matches!(refusal, Refusal::NotReadable), "{refusal:?}");
}

#[test]
fn a_file_that_is_not_in_memory_cannot_carry_seals() {
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let mut files: Vec<(&str, OwnedFd)> = vec![
        ("an ordinary file", ordinary_file(b"hello").into()),
        ("a pipe", reader),
        ("a socket", UnixStream::pair().unwrap().0.into()),
        ("a directory", File::open("/").unwrap().into()),
        ("a file of procfs", File::open("/proc/self/status").unwrap().into()),
        ("an eventfd", eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
        ("an epoll", epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()),
    ];
    if let Some(directory) = tmpfs() {
        files.push(("a directory on tmpfs", File::open(directory).unwrap().into()));
    }
    for device in ["/dev/null", "/dev/zero"] {
        match File::options().read(true).write(true).open(device) {
            Ok(file) => files.push((device, file.into())),
            Err(error) => eprintln!("{device} is not tried: {error}"),
        }
    }
    for (name, file) in files {
        let clone = file.try_clone().unwrap();
        for (refusal, _) in
            [not_received(file, &SealPolicy::new()), refused_as_live(clone, &SealPolicy::new())]
        {
            let Refusal::NotSealable(error) = refusal else { panic!("{name}: {refusal:?}") };
            assert_eq!(error.raw_os_error(), Some(Errno::INVAL.raw_os_error()), "{name}");
        }
    }
}

// Which seals are missing.

fn lacks_everything_but_seal(fd: impl Into<OwnedFd>) {
    match not_received(fd, &SealPolicy::new()).0 {
        Refusal::MissingSeals { missing, present } => {
            assert_eq!((missing, present), (IMMUTABLE, Seals::SEAL));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_on_tmpfs_answers_but_lacks_every_seal_that_counts() {
    let Some(file) = tmpfs_file(b"hello") else { return };
    // A read-only mode is not taken for a seal.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444)).unwrap();
    lacks_everything_but_seal(file);

    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let nameless = rustix::fs::open(tmpfs().unwrap(), flags, Mode::RUSR | Mode::WUSR);
    lacks_everything_but_seal(nameless.unwrap());
}

#[test]
fn an_object_of_shm_open_lacks_every_seal_that_counts() {
    let name = format!("/sealed-mmap-{}", std::process::id());
    let flags = rustix::shm::OFlags::CREATE | rustix::shm::OFlags::EXCL | rustix::shm::OFlags::RDWR;
    match rustix::shm::open(&name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(object) => {
            rustix::shm::unlink(&name).unwrap();
            lacks_everything_but_seal(object);
        }
        Err(errno) => {
            assert!(tmpfs().is_none_or(|directory| directory != Path::new("/dev/shm")), "{errno}");
            eprintln!("shm_open is not tried: no /dev/shm that this user can write to ({errno})");
        }
    }
}

#[test]
fn a_file_created_without_sealing_lacks_every_seal_that_counts() {
    match memfd_create("not sealable", MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        Ok(fd) => lacks_everything_but_seal(fd),
        Err(errno) => {
            assert!(matches!(errno, Errno::INVAL | Errno::ACCESS), "{errno}");
            let fd = memfd_create("not sealable", MemfdFlags::CLOEXEC).unwrap();
            match not_received(fd, &SealPolicy::new()).0 {
                Refusal::MissingSeals { missing, present } => {
                    assert_eq!(missing, IMMUTABLE);
                    // Under vm.memfd_noexec=2 such a file is sealable after all.
                    assert!([Seals::SEAL, Seals::EXEC].contains(&present), "{present}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_required_seal_that_is_missing_is_named() {
    for required in [Seals::SEAL, Seals::GROW, Seals::SEAL | Seals::GROW] {
        let policy = SealPolicy::new().require(required);
        for present in [IMMUTABLE, IMMUTABLE | Seals::GROW] {
            let file = sealed(b"hello", present);
            let missing = required.difference(present);
            if missing.is_empty() {
                SealedFile::receive_read_only(file, &policy).unwrap();
                continue;
            }
            let (refusal, fd) = not_received(file, &policy);
            let Refusal::MissingSeals { missing: named, .. } = refusal else {
                panic!("{refusal:?}");
            };
            assert_eq!(named, missing);

            // What the message asks for is what helps.
            seal(&fd, named).unwrap();
            SealedFile::receive_read_only(fd, &policy).unwrap();
        }
    }
}

#[test]
fn a_seal_of_the_future_can_be_required_and_is_not_there_yet() {
    let future = Seals::from_bits_retain(1 << 30);
    let (refusal, _) =
        not_received(sealed(b"hello", IMMUTABLE), &SealPolicy::new().require(future));
    assert!(matches!(refusal, Refusal::MissingSeals { missing, .. } if missing == future));
}

// What the policy refuses.

#[test]
fn a_forbidden_seal_is_named() {
    let forbid = SealPolicy::new().forbid(Seals::SEAL | Seals::GROW);
    let file = sealed(b"hello", IMMUTABLE | Seals::SEAL);
    let (refusal, fd) = not_received(file, &forbid);
    assert!(matches!(refusal, Refusal::ForbiddenSeals { forbidden: Seals::SEAL, present }
            if present == seals_of(&fd)));
    receive(fd);
    SealedFile::receive_read_only(sealed(b"hello", IMMUTABLE), &forbid).unwrap();
}

#[test]
fn exactly_means_neither_fewer_nor_more() {
    let whole = IMMUTABLE | Seals::GROW | Seals::SEAL;
    let file = sealed(b"hello", whole);
    let beside_ours = seals_of(&file).difference(IMMUTABLE);
    let policy = |seals| SealPolicy::new().exactly(seals);
    SealedFile::receive_read_only(file.try_clone().unwrap(), &policy(beside_ours)).unwrap();

    let (refusal, _) = not_received(file.try_clone().unwrap(), &policy(beside_ours - Seals::GROW));
    assert!(matches!(refusal, Refusal::ForbiddenSeals { forbidden: Seals::GROW, .. }));
    let more = Seals::from_bits_retain(beside_ours.bits() | 1 << 30);
    let (refusal, _) = not_received(file, &policy(more));
    assert!(matches!(refusal, Refusal::MissingSeals { missing, .. } if missing.bits() == 1 << 30));
}

#[test]
fn every_kind_of_range_bounds_the_length() {
    let file = sealed(b"hello", IMMUTABLE);
    let any = SealPolicy::new;
    let above_4 = (Bound::Excluded(4), Bound::Unbounded);
    let above_5 = (Bound::Excluded(5), Bound::Included(9));
    for policy in [
        any().len(..),
        any().len(5..),
        any().len(..6),
        any().len(..=5),
        any().len(5..6),
        any().len(5..=5),
        any().len(above_4),
        any().len(0..=u64::MAX),
        any().len(..3).len(..=5),
        SealPolicy::default(),
    ] {
        SealedFile::receive_read_only(file.try_clone().unwrap(), &policy).unwrap();
    }
    #[allow(clippy::reversed_empty_ranges, reason = "nothing is in it")]
    for policy in [
        any().len(6..),
        any().len(..5),
        any().len(..=4),
        any().len(0..5),
        any().len(6..=u64::MAX),
        any().len(9..1),
        any().len(above_5),
        any().len(..).len(..5),
    ] {
        let (refusal, _) = not_received(file.try_clone().unwrap(), &policy);
        assert!(matches!(refusal, Refusal::Length { len: 5, .. }), "{refusal:?} {policy:?}");
    }
}

#[test]
fn an_untrusted_file_must_not_grow_nor_exceed_its_limit() {
    let policy = SealPolicy::untrusted(5);
    let (refusal, fd) = not_received(sealed(b"hello", IMMUTABLE), &policy);
    assert!(matches!(refusal, Refusal::MissingSeals { missing: Seals::GROW, .. }));
    seal(&fd, Seals::GROW).unwrap();
    let (refusal, fd) = not_received(fd, &SealPolicy::untrusted(4));
    assert!(matches!(refusal, Refusal::Length { len: 5, .. }));
    SealedFile::receive_read_only(fd, &policy).unwrap();
}

#[test]
fn another_users_file_is_refused_if_the_policy_names_an_owner() {
    let file = sealed(b"hello", IMMUTABLE);
    let own = rustix::process::geteuid().as_raw();
    let owned_by = |uid| SealPolicy::new().owner(uid);
    SealedFile::receive_read_only(file.try_clone().unwrap(), &owned_by(own)).unwrap();
    let (refusal, fd) = not_received(file, &owned_by(own + 1));
    assert!(matches!(refusal, Refusal::Owner { expected, found }
        if (expected, found) == (own + 1, own)));

    if is_root() {
        rustix::fs::fchown(&fd, Some(rustix::fs::Uid::from_raw(4242)), None).unwrap();
        let (refusal, fd) = not_received(fd, &owned_by(own));
        assert!(matches!(refusal, Refusal::Owner { expected: 0, found: 4242 }));
        SealedFile::receive_read_only(fd, &owned_by(4242)).unwrap();
    } else {
        eprintln!("a file given away with fchown is not tried: that takes root");
    }
}

#[test]
fn hugetlb_pages_are_refused_unless_allowed() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let file = match memfd_create("huge", flags) {
        Ok(file) => file,
        Err(errno) => {
            assert!(matches!(errno, Errno::NODEV | Errno::INVAL | Errno::NOSYS), "{errno}");
            return eprintln!("hugetlb files are not tried: the kernel has none ({errno})");
        }
    };
    let (refusal, file) = not_received(file, &SealPolicy::new());
    assert!(matches!(refusal, Refusal::MissingSeals { .. }), "the seals come first");
    seal(&file, IMMUTABLE).unwrap();
    let (refusal, file) = not_received(file, &SealPolicy::new().len(1..));
    assert!(matches!(refusal, Refusal::HugeTlb), "before the length: {refusal:?}");

    let allowed = SealPolicy::new().allow_hugetlb(true);
    let received = SealedFile::receive_read_only(file, &allowed).unwrap();
    assert!(received.map_read_only().unwrap().is_empty());
}

// The write seal that is no promise.

#[test]
fn a_write_seal_that_a_writable_mapping_outlived_is_refused() {
    let Some(mut file) = executable() else { return };
    file.write_all(b"hello").unwrap();
    let mut writable = map_writable(&file);
    match seal(&file, Seals::EXEC) {
        Err(errno) => {
            assert_eq!(errno, Errno::BUSY);
            eprintln!("this kernel does not let the mapping outlive the seal");
            drop(writable);
            seal(&file, Seals::EXEC).unwrap();
            assert!(seals_of(&file).contains(IMMUTABLE | UNCHECKED));
            assert_eq!(&receive(file).map_read_only().unwrap()[..], b"hello");
        }
        Ok(()) => {
            assert!(seals_of(&file).contains(IMMUTABLE | UNCHECKED), "it claims to be immutable");
            let (refusal, fd) = not_received(file, &SealPolicy::new());
            assert!(matches!(refusal, Refusal::UntrustedWriteSeal), "{refusal:?}");
            writable[0] = b'j';
            let mut start = [0];
            File::from(fd).read_exact_at(&mut start, 0).unwrap();
            assert_eq!(&start, b"j", "and is not");
        }
    }
}

#[test]
fn write_beside_exec_needs_a_kernel_that_checks_for_writers() {
    let file = sealed(b"hello", IMMUTABLE);
    if let Err(errno) = seal(&file, UNCHECKED) {
        assert!(is_too_old_for(UNCHECKED, errno), "{errno}");
        assert_eq!(exec_seal_is_checked(), None);
        return eprintln!("not tried: the exec seal is unknown before Linux 6.3");
    }
    if exec_seal_is_checked() == Some(true) {
        assert_eq!(&receive(file).map_read_only().unwrap()[..], b"hello");
    } else {
        let (refusal, _) = not_received(file, &SealPolicy::new());
        assert!(matches!(refusal, Refusal::UntrustedWriteSeal), "{refusal:?}");
    }
}

// Live files.

#[test]
fn a_live_file_needs_future_write_and_shrink() {
    for present in [Seals::empty(), Seals::SHRINK, Seals::FUTURE_WRITE, IMMUTABLE] {
        let file = filled(b"hello");
        if let Err(errno) = seal(&file, present) {
            assert!(is_too_old_for(present, errno), "{errno}");
            eprintln!("{present} is not tried: unknown before Linux 5.1");
            continue;
        }
        let (refusal, _) = refused_as_live(file, &SealPolicy::new());
        let Refusal::MissingSeals { missing, .. } = refusal else { panic!("{refusal:?}") };
        assert_eq!(missing, LIVE.difference(present));
    }
}

#[test]
fn a_live_file_shows_what_its_producer_writes() {
    let Some((file, mut producer)) = live_file(b"hello") else { return };
    let (number, before) = (file.as_raw_fd(), look(file.as_fd()));
    let received = SealedFile::receive_future_write(file, &SealPolicy::new()).unwrap();
    assert_eq!((received.as_raw_fd(), look(received.as_fd())), (number, before));
    assert_eq!(received.len().unwrap(), 5);

    producer.copy_from_slice(b"jelly");
    let mut bytes = [0; 5];
    received.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"jelly");
    // And from nobody else.
    let error = received.write_at(b"h", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    let (refusal, _) = not_received(received, &SealPolicy::new());
    assert!(matches!(refusal, Refusal::MissingSeals { missing: Seals::WRITE, .. }));
}

#[test]
fn the_policy_holds_for_live_files_too() {
    let Some((file, _producer)) = live_file(b"hello") else { return };
    let (refusal, fd) = refused_as_live(file, &SealPolicy::new().len(..5));
    assert!(matches!(refusal, Refusal::Length { len: 5, .. }));
    let (refusal, fd) = refused_as_live(fd, &SealPolicy::new().require(Seals::GROW));
    assert!(matches!(refusal, Refusal::MissingSeals { missing: Seals::GROW, .. }));
    let (refusal, fd) = refused_as_live(fd, &SealPolicy::new().forbid(Seals::FUTURE_WRITE));
    assert!(matches!(refusal, Refusal::ForbiddenSeals { forbidden: Seals::FUTURE_WRITE, .. }));
    SealedFile::receive_future_write(fd, &SealPolicy::new().len(5..=5)).unwrap();
}

fn receive_live(file: impl Into<OwnedFd>) -> SealedFile<FutureWriteSealed> {
    SealedFile::receive_future_write(file, &SealPolicy::new()).unwrap()
}

/// Under `vm.memfd_noexec=2` every file carries EXEC, and no kernel can be tested: finishing is
/// refused, and adds no seal in vain.
fn finishing_would_not_be_believed(file: &File) -> bool {
    if write_seal_counts(seals_of(file) | Seals::WRITE) {
        return false;
    }
    let before = look(file.as_fd());
    let error = receive_live(file.try_clone().unwrap()).finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::UntrustedWriteSeal);
    assert_eq!(look(error.into_file().as_fd()), before);
    true
}

#[test]
fn finishing_waits_for_the_producer_and_can_be_tried_again() {
    let Some((mut file, mut producer)) = live_file(b"hello") else { return };
    if finishing_would_not_be_believed(&file) {
        return;
    }
    file.seek(SeekFrom::Start(2)).unwrap();
    let (number, before) = (file.as_raw_fd(), look(file.as_fd()));

    let error = receive_live(file).finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::WritableMapping);
    assert_eq!(error.error().raw_os_error(), Some(Errno::BUSY.raw_os_error()));
    let received = error.into_file();
    assert_eq!((received.as_raw_fd(), look(received.as_fd())), (number, before));

    producer[0] = b'j';
    drop(producer);
    let predicted = seals_of(&received) | Seals::WRITE | Seals::SEAL;
    let finished = received.finish().unwrap();
    assert!(finished.get_seals().unwrap().contains(predicted));
    assert_eq!(&finished.map_read_only().unwrap()[..], b"jello");
}

#[test]
fn finishing_takes_a_writable_description() {
    let Some((file, producer)) = live_file(b"hello") else { return };
    drop(producer);
    if finishing_would_not_be_believed(&file) {
        return;
    }
    let received = receive_live(reopen(&file, OFlags::RDONLY));
    let (number, before) = (received.as_raw_fd(), look(received.as_fd()));

    let error = received.finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::NotAllowed);
    let (error, received) = error.into_parts();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!((received.as_raw_fd(), look(received.as_fd())), (number, before));

    receive_live(file).finish().unwrap();
}

#[test]
fn finishing_fails_where_the_seals_are_final() {
    let Some((file, producer)) = live_file(b"hello") else { return };
    drop(producer);
    if finishing_would_not_be_believed(&file) {
        return;
    }
    seal(&file, Seals::SEAL).unwrap();
    let before = look(file.as_fd());
    let error = receive_live(file).finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::NotAllowed);
    assert_eq!(look(error.into_file().as_fd()), before);
}

#[test]
fn a_file_that_is_not_sealed_at_all_is_refused_until_it_is() {
    let (refusal, fd) = not_received(memfd(), &SealPolicy::new());
    assert!(matches!(refusal, Refusal::MissingSeals { missing: IMMUTABLE, .. }));
    seal(&fd, Seals::SHRINK).unwrap();
    let (refusal, fd) = not_received(fd, &SealPolicy::new());
    assert!(matches!(refusal, Refusal::MissingSeals { missing: Seals::WRITE, .. }));
    seal(&fd, Seals::WRITE).unwrap();
    receive(fd);
}
