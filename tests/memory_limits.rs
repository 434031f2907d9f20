//! Where memory is short, what would be a `SIGBUS` later is an error now: under strict overcommit
//! and with an empty hugetlb pool. The limits are the machine's, so these tests run one by one.
#![allow(unsafe_code, reason = "a map that reserves nothing")]

mod support;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, fallocate, memfd_create};
use rustix::io::Errno;
use sealed_mmap::{CreateOptions, HugePages, Producer, Refusal, SealPolicy, SealedFile};

use support::files::{WHOLE, hole, is_root, map_writable, memfd, refused, reopen, seal};
use support::machine::Machine;
use support::meminfo;
use support::process::Forked;
use support::runs::{is_configured_as, is_emulated};

const MIB: u64 = 1 << 20;

/// Only a virtual machine that exists for the tests is anyone's to change.
fn may_be_changed() -> bool {
    is_root() && is_emulated()
}

/// Strict overcommit, and a length for which there is memory, but not under it.
fn strict_overcommit() -> Option<(Machine, u64)> {
    const MODE: &str = "/proc/sys/vm/overcommit_memory";
    let mut machine = Machine::alone()?;
    let strict = fs::read_to_string(MODE).unwrap().trim() == "2";
    if is_configured_as("overcommit2") {
        assert!(strict, "this configuration was to be strict");
    }
    if !strict {
        if !may_be_changed() {
            eprintln!("not run: vm.overcommit_memory is not 2, and this machine is not the test's");
            return None;
        }
        // Without effect in the other modes, so it need not be put back.
        let limit = meminfo("Committed_AS") + 64 * MIB;
        fs::write("/proc/sys/vm/overcommit_kbytes", (limit / 1024).to_string()).unwrap();
        machine.change(MODE, "2").unwrap();
    }
    let headroom = meminfo("CommitLimit").saturating_sub(meminfo("Committed_AS"));
    let too_much = headroom + 32 * MIB;
    if too_much > (1 << 30).min(meminfo("MemAvailable")) {
        eprintln!("not run: {} MiB are allowed, too many to exhaust", headroom / MIB);
        return None;
    }
    Some((machine, too_much))
}

fn is_lack_of_memory(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::NOMEM]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

/// Where the error has words of its own.
fn is_lack_of_pages(error: &io::Error) -> bool {
    error.to_string().contains("/proc/sys/vm/nr_hugepages")
        && [ErrorKind::StorageFull, ErrorKind::OutOfMemory].contains(&error.kind())
}

/// A child that touches memory when it is told to, and does no more.
fn child_that(touches: impl FnOnce()) -> Forked {
    Forked::that(|mut parent| {
        let _ = parent.read(&mut [0]);
        touches();
    })
}

fn dies_of_sigbus(child: Forked) -> bool {
    let status = child.finish();
    let signal = status.terminating_signal();
    assert!(status.exit_status() == Some(0) || signal == Some(libc::SIGBUS), "{status:?}");
    status.exit_status().is_none()
}

fn reading_is_sigbus(map: &[u8]) -> bool {
    let read = || {
        black_box(map.iter().step_by(4096).fold(0, |all, byte| all ^ byte));
    };
    dies_of_sigbus(child_that(read))
}

#[test]
fn filling_a_file_beyond_strict_overcommit_is_an_error() {
    let Some((_machine, too_much)) = strict_overcommit() else { return };
    let mut draft = SealedFile::create("draft").unwrap();
    draft.set_len(too_much).unwrap();
    let error = draft.map_mut().unwrap_err();
    assert!(is_lack_of_memory(&error), "{error:?}");
    assert_eq!(draft.metadata().unwrap().blocks(), 0, "nothing was taken");

    let error = SealedFile::build("too much", too_much, |_| panic!("there is no slice"));
    let error = error.unwrap_err();
    assert!(is_lack_of_memory(&error), "{error:?}");

    // What fits is still to be had, in the same file too.
    draft.set_len(MIB).unwrap();
    draft.map_mut().unwrap().fill(7);
    assert_eq!(draft.seal_read_only().unwrap().map_read_only().unwrap()[..], [7; MIB as usize]);
}

#[test]
fn a_hole_beyond_strict_overcommit_is_an_error_not_a_sigbus() {
    let Some((_machine, too_much)) = strict_overcommit() else { return };
    let file = hole(too_much);
    let error = file.reserve().unwrap_err();
    assert!(is_lack_of_memory(&error), "{error:?}");
    assert_eq!(file.metadata().unwrap().blocks(), 0, "nothing was taken");

    let (refusal, fd) =
        refused(file, |fd| SealedFile::receive_read_only(fd, &SealPolicy::untrusted(u64::MAX)));
    let Refusal::CannotReserve(error) = refusal else { panic!("{refusal:?}") };
    assert!(is_lack_of_memory(&error), "{error:?}");

    let file = SealedFile::try_from(fd).unwrap();
    // Control: without reserving, the same file is deadly.
    let deadly = reading_is_sigbus(&file.map_read_only().unwrap());
    drop(file);
    assert!(deadly);
    // Taking the page faults at once is an error, too (or unsupported, before Linux 5.14).
    hole(too_much).map_read_only().unwrap().populate().unwrap_err();

    let small = hole(MIB);
    small.reserve().unwrap();
    assert!(!reading_is_sigbus(&small.map_read_only().unwrap()));
}

/// A file that has all memory that strict overcommit would give to anybody.
fn everything() -> File {
    let file = memfd();
    let (mut len, mut step) = (0, 64 * MIB);
    while step >= 4096 {
        match fallocate(&file, FallocateFlags::empty(), len, step) {
            Ok(()) => len += step,
            Err(errno) => {
                assert!(matches!(errno, Errno::NOSPC | Errno::NOMEM), "{errno}");
                step /= 2;
            }
        }
    }
    file
}

#[test]
fn writing_a_live_file_needs_no_memory_under_strict_overcommit() {
    let Some((_machine, too_much)) = strict_overcommit() else { return };
    const LEN: u64 = 8 * MIB;
    let mut producer = match Producer::create("live", LEN) {
        Ok(producer) => producer,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            return eprintln!("not run: {error}");
        }
    };
    let error = Producer::create("too much", too_much).unwrap_err();
    assert!(is_lack_of_memory(&error), "{error:?}");

    let map = producer.file().map_live().unwrap();
    let (bytes, mut seen) = (vec![7; LEN as usize], vec![0; LEN as usize]);
    // Control: a file of the same length for which nothing was reserved.
    let sparse = memfd();
    sparse.set_len(LEN).unwrap();
    let mut sparse = map_writable(&sparse);
    let control = child_that(|| sparse.fill(7));

    let rest = everything();
    let deadly = dies_of_sigbus(control);
    producer.write_at(0, &bytes).unwrap();
    map.read_at(0, &mut seen).unwrap();
    drop(rest);
    assert!(deadly);
    assert!(seen == bytes);
    assert!(producer.finish().unwrap().map_read_only().unwrap()[..] == bytes);
}

#[test]
fn a_private_map_beyond_strict_overcommit_is_an_error() {
    let Some((_machine, too_much)) = strict_overcommit() else { return };
    let file = hole(too_much);
    let error = file.map_private().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOMEM.raw_os_error()));
    // Control: a map that cannot be written takes no memory.
    file.map_read_only().unwrap();
}

#[test]
fn a_private_map_has_its_memory_under_strict_overcommit() {
    let Some((_machine, _)) = strict_overcommit() else { return };
    // Each fork asks for the memory of all private maps once more.
    const LEN: u64 = MIB;
    let filled = SealedFile::from_bytes("filled", vec![1; LEN as usize]).unwrap();
    let (reserved, unreserved) = (hole(LEN), hole(LEN));
    reserved.reserve().unwrap();
    let [filled, reserved, unreserved] = [filled, reserved, unreserved].map(|file| {
        let mut map = file.map_private().unwrap();
        child_that(move || map.fill(7))
    });
    // Control: touching a hole takes memory of the file, too.
    let rest = everything();
    let unreserved = dies_of_sigbus(unreserved);
    // What a child has had is free when it has ended.
    let more = everything();
    let [filled, reserved] = [filled, reserved].map(|child| {
        let deadly = dies_of_sigbus(child);
        (deadly, everything())
    });
    drop((rest, more));
    assert_eq!((unreserved, filled.0, reserved.0), (true, false, false));
}

/// An empty hugetlb file, and a length that its pool has too few free pages for.
fn more_than_the_pool() -> Option<(File, u64)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let file = match memfd_create("huge", flags) {
        Ok(fd) => File::from(fd),
        Err(errno) => {
            assert!(matches!(errno, Errno::NODEV | Errno::INVAL | Errno::NOSYS), "{errno}");
            eprintln!("not run: the kernel has no hugetlb pages ({errno})");
            return None;
        }
    };
    let page = file.metadata().unwrap().blksize();
    let pool = |what: &str| -> u64 {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/{what}", page / 1024);
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    };
    if pool("nr_overcommit_hugepages") > 0 {
        eprintln!("not run: the hugetlb pool grows on demand here");
        return None;
    }
    Some((file, (pool("free_hugepages") - pool("resv_hugepages") + 1) * page))
}

#[test]
fn filling_a_file_beyond_the_hugetlb_pool_is_an_error() {
    let Some(_machine) = Machine::alone() else { return };
    let Some((_, too_much)) = more_than_the_pool() else { return };
    let options = CreateOptions::new().huge_pages(HugePages::HugeTlb(None));
    let mut draft = options.create("draft").unwrap();
    draft.set_len(too_much).unwrap();
    let error = draft.map_mut().unwrap_err();
    assert!(is_lack_of_pages(&error), "{error:?}");
    let error = options.build("too much", too_much, |_| panic!("there is no slice")).unwrap_err();
    assert!(is_lack_of_pages(&error), "{error:?}");
}

#[test]
fn a_hole_beyond_the_hugetlb_pool_is_an_error_not_a_sigbus() {
    let Some(mut machine) = Machine::alone() else { return };
    if may_be_changed() {
        // A page for the beginning of the file, and none for its end.
        machine.change("/proc/sys/vm/nr_hugepages", "1").unwrap();
    }
    let Some((file, too_much)) = more_than_the_pool() else { return };
    file.set_len(too_much).unwrap();
    seal(&file, WHOLE).unwrap();

    // Control: mapped without asking the pool, the file is deadly.
    let mut options = MmapOptions::new();
    // SAFETY: the file is sealed, and only read.
    let map = unsafe { options.no_reserve_swap().map(&file) };
    match map {
        Ok(map) => assert!(reading_is_sigbus(&map)),
        Err(error) => {
            // Kernels before 6.7 refuse shared maps of a writable descriptor of a sealed file.
            assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
            let file = reopen(&file, OFlags::RDONLY);
            // SAFETY: as above.
            let map = unsafe { options.no_reserve_swap().map(&file) }.unwrap();
            assert!(reading_is_sigbus(&map));
        }
    }

    let policy = SealPolicy::untrusted(u64::MAX).allow_hugetlb(true);
    let error = SealedFile::receive_read_only(OwnedFd::from(file), &policy).unwrap_err();
    let Refusal::CannotReserve(lack) = error.reason() else { panic!("{error:?}") };
    assert!(is_lack_of_memory(lack), "{lack:?}");

    let policy = SealPolicy::new().allow_hugetlb(true);
    let file = SealedFile::receive_read_only(error.into_fd(), &policy).unwrap();
    let error = file.reserve().unwrap_err();
    assert!(is_lack_of_memory(&error), "{error:?}");
    let error = file.map_read_only().unwrap_err();
    assert!(is_lack_of_memory(&error), "{error:?}");
}
