//! Adopting: exactly the missing seals are added, and only to a file that would then be taken.

mod support;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, OFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use sealed_mmap::{Refusal, SealFailure, SealPolicy, SealedFile, Seals};

use support::files::{
    IMMUTABLE, LIVE, UNCHECKED, WHOLE, every_set, exec_seal_is_checked, executable, filled,
    is_too_old_for, look, map_writable, ordinary_file, reopen, seal, sealed, seals_of, tmpfs_file,
    write_seal_counts,
};
use support::runs;

fn adopt(fd: impl Into<OwnedFd>, policy: &SealPolicy) -> SealedFile {
    SealedFile::adopt_read_only(fd, policy).unwrap()
}

fn not_adopted(fd: impl Into<OwnedFd>, policy: &SealPolicy) -> (Refusal, OwnedFd) {
    support::files::refused(fd, |fd| SealedFile::adopt_read_only(fd, policy))
}

#[test]
fn a_draft_that_left_the_typestate_comes_back_immutable() {
    let mut draft = SealedFile::create("draft").unwrap();
    draft.write_all(b"hello").unwrap();
    let mut file = draft.into_file();
    file.seek(SeekFrom::Start(2)).unwrap();
    let shared = file.try_clone().unwrap();
    let (number, inode) = (file.as_raw_fd(), look(file.as_fd()).inode);
    (&shared).write_all(b"p ").unwrap();

    let mut adopted = adopt(file, &SealPolicy::new());
    assert_eq!((adopted.as_raw_fd(), look(adopted.as_fd()).inode), (number, inode));
    assert_eq!(&adopted.map_read_only().unwrap()[..], b"hep o");
    assert_eq!(adopted.stream_position().unwrap(), 4);
    let error = (&shared).write_all(b"!").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
}

#[test]
fn exactly_the_missing_seals_are_added_and_grow_and_seal() {
    let last = Seals::GROW | Seals::SEAL;
    let any = SealPolicy::new;
    let policies = [
        (any(), IMMUTABLE, last),
        (any().require(Seals::GROW), IMMUTABLE | Seals::GROW, last),
        (SealPolicy::untrusted(5), IMMUTABLE | Seals::GROW, last),
        (any().forbid(Seals::SEAL), IMMUTABLE, Seals::GROW),
        (any().require(Seals::SEAL), IMMUTABLE | Seals::SEAL, last),
        (any().forbid(Seals::GROW), IMMUTABLE, Seals::SEAL),
        (any().forbid(last), IMMUTABLE, Seals::empty()),
    ];
    let mut unknown = 0;
    for before in every_set().filter(|seals| !seals.contains(Seals::SEAL)) {
        for (policy, required, last) in &policies {
            let file = filled(b"hello");
            if let Err(errno) = seal(&file, before) {
                assert!(is_too_old_for(before, errno), "{before}: {errno}");
                unknown += 1;
                continue;
            }
            let before = seals_of(&file);
            if before.contains(Seals::GROW) && !last.contains(Seals::GROW) {
                continue; // the policy forbids what the file has
            }
            let missing = *required - before;
            let wanted = if missing.is_empty() { missing } else { missing | *last };
            if write_seal_counts(before | wanted) {
                let adopted = adopt(file, policy);
                assert_eq!(seals_of(&adopted), before | wanted, "{before} {policy:?}");
                assert_eq!(&adopted.map_read_only().unwrap()[..], b"hello");
            } else {
                // `refused` sees to it that no seal was added.
                let (refusal, _) = not_adopted(file, policy);
                assert!(matches!(refusal, Refusal::UntrustedWriteSeal), "{before}: {refusal:?}");
            }
        }
    }
    assert!(unknown < 7 * 32);
    if unknown > 0 {
        eprintln!("{unknown} of 224: this kernel does not know one of the seals");
    }
}

#[test]
fn a_file_that_is_sealed_already_is_left_as_it_is() {
    for seals in [IMMUTABLE, IMMUTABLE | Seals::GROW, IMMUTABLE | Seals::SEAL] {
        let file = sealed(b"hello", seals);
        let before = look(file.as_fd());
        let adopted = adopt(file, &SealPolicy::new());
        assert_eq!(look(adopted.as_fd()), before);
    }
    let file = sealed(b"hello", IMMUTABLE);
    adopt(reopen(&file, OFlags::RDONLY), &SealPolicy::new());
}

#[test]
fn a_file_that_the_policy_refuses_in_any_case_is_not_sealed() {
    let own = rustix::process::geteuid().as_raw();
    let any = SealPolicy::new;
    let file = || sealed(b"hello", Seals::GROW);

    // `refused` sees to it that the seals are as before.
    for (policy, is_expected) in [
        (any().len(..5), (|r| matches!(r, Refusal::Length { len: 5, .. })) as fn(&Refusal) -> bool),
        (SealPolicy::untrusted(4), |r| matches!(r, Refusal::Length { len: 5, .. })),
        (any().owner(own + 1), |r| matches!(r, Refusal::Owner { .. })),
        (any().forbid(Seals::GROW), |r| {
            matches!(r, Refusal::ForbiddenSeals { forbidden: Seals::GROW, .. })
        }),
        (any().forbid(Seals::WRITE), |r| {
            matches!(r, Refusal::ForbiddenSeals { forbidden: Seals::WRITE, .. })
        }),
        (any().exactly(Seals::empty()), |r| {
            matches!(r, Refusal::ForbiddenSeals { forbidden, .. }
                if forbidden.contains(Seals::GROW) && !forbidden.contains(Seals::SEAL))
        }),
    ] {
        let (refusal, fd) = not_adopted(file(), &policy);
        assert!(is_expected(&refusal), "{refusal:?} {policy:?}");
        File::from(fd).write_all_at(b"j", 0).unwrap();
    }
}

#[test]
fn hugetlb_pages_are_not_sealed_unless_allowed() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    match memfd_create("huge", flags) {
        Ok(file) => {
            let (refusal, file) = not_adopted(file, &SealPolicy::new());
            assert!(matches!(refusal, Refusal::HugeTlb), "{refusal:?}");
            adopt(file, &SealPolicy::new().allow_hugetlb(true));
        }
        Err(errno) => {
            assert!(matches!(errno, Errno::NODEV | Errno::INVAL | Errno::NOSYS), "{errno}");
            eprintln!("hugetlb files are not tried: the kernel has none ({errno})");
        }
    }
}

#[test]
fn a_write_seal_that_would_not_count_is_not_added() {
    let file = filled(b"hello");
    let before = Seals::EXEC | Seals::FUTURE_WRITE;
    if let Err(errno) = seal(&file, before) {
        assert!(is_too_old_for(before, errno), "{errno}");
        return eprintln!("not tried: the exec seal is unknown before Linux 6.3");
    }
    if exec_seal_is_checked() == Some(true) {
        assert!(seals_of(adopt(file, &SealPolicy::new())).contains(UNCHECKED));
    } else {
        let (refusal, fd) = not_adopted(file, &SealPolicy::new());
        assert!(matches!(refusal, Refusal::UntrustedWriteSeal), "{refusal:?}");
        assert_eq!(seals_of(fd), before);
    }
}

#[test]
fn seals_that_came_along_are_judged_too() {
    // EXEC on an executable file brings FUTURE_WRITE, which was not asked for.
    let Some(file) = executable() else { return };
    let fd = OwnedFd::from(file.try_clone().unwrap());
    match SealedFile::adopt_read_only(fd, &SealPolicy::new().require(Seals::EXEC)) {
        Ok(adopted) => {
            assert_eq!(exec_seal_is_checked(), Some(true));
            assert!(adopted.is_empty().unwrap());
            assert!(seals_of(&file).contains(IMMUTABLE | UNCHECKED));
        }
        Err(error) => {
            assert_eq!(exec_seal_is_checked(), Some(false));
            assert!(matches!(error.reason(), Refusal::UntrustedWriteSeal), "{error:?}");
            assert_eq!(seals_of(&file), Seals::empty(), "sealed in vain");
        }
    }
}

#[test]
fn seals_that_cannot_be_added_are_reported_as_missing() {
    let mut files = vec![
        ("sealed for good", OwnedFd::from(sealed(b"hello", Seals::SEAL | Seals::SHRINK))),
        ("read-only", reopen(filled(b"hello"), OFlags::RDONLY)),
    ];
    files.extend(tmpfs_file(b"hello").map(|file| ("on tmpfs", file.into())));
    for (name, fd) in files {
        let before = seals_of(&fd);
        let (refusal, _) = not_adopted(fd, &SealPolicy::new());
        let Refusal::MissingSeals { missing, present } = refusal else {
            panic!("{name}: {refusal:?}");
        };
        assert_eq!((missing, present), (IMMUTABLE - before, before), "{name}");
    }
}

#[test]
fn what_cannot_be_received_cannot_be_adopted() {
    let file = filled(b"hello");
    for flags in [OFlags::WRONLY, OFlags::PATH] {
        let (refusal, _) = not_adopted(reopen(&file, flags), &SealPolicy::new());
        assert!(matches!(refusal, Refusal::NotReadable), "{refusal:?}");
    }
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    for fd in [reader, ordinary_file(b"hello").into()] {
        let (refusal, _) = not_adopted(fd, &SealPolicy::new());
        assert!(matches!(refusal, Refusal::NotSealable(_)), "{refusal:?}");
    }
}

#[test]
fn an_unknown_required_seal_is_an_error_and_adds_no_other() {
    let future = Seals::from_bits_retain(1 << 30);
    let (refusal, _) = not_adopted(filled(b"hello"), &SealPolicy::new().require(future));
    let Refusal::CannotSeal { reason: SealFailure::Unsupported, error } = refusal else {
        panic!("{refusal:?}");
    };
    assert_eq!(error.raw_os_error(), Some(Errno::INVAL.raw_os_error()));
}

#[test]
fn a_writable_mapping_prevents_adopting_until_it_is_gone() {
    let mut file = filled(b"hello");
    file.seek(SeekFrom::Start(2)).unwrap();
    let writable = map_writable(&file);
    let start = Instant::now();
    let (refusal, fd) = not_adopted(file, &SealPolicy::new());
    // Waiting as for pinned pages would have taken five times as long, and `refused` tries twice.
    assert!(start.elapsed() < 2 * KERNEL_WAITS, "{:?}", start.elapsed());
    let Refusal::CannotSeal { reason: SealFailure::WritableMapping, error } = refusal else {
        panic!("{refusal:?}");
    };
    assert_eq!(error.raw_os_error(), Some(Errno::BUSY.raw_os_error()));

    drop(writable);
    assert_eq!(&adopt(fd, &SealPolicy::new()).map_read_only().unwrap()[..], b"hello");
}

/// What the kernel waits for pinned pages before it gives up, at the least.
const KERNEL_WAITS: Duration = Duration::from_millis(150);

/// Pins the first page of a file, for as long as the pipe has not been read.
fn pin_by_splice(file: &File) -> (OwnedFd, OwnedFd) {
    let pipe = pipe_with(PipeFlags::CLOEXEC).unwrap();
    splice(file, Some(&mut 0), &pipe.1, None, 4096, SpliceFlags::empty()).unwrap();
    pipe
}

#[test]
fn pinned_pages_are_waited_for_a_bounded_time() {
    let file = filled(&[1; 4096]);
    let pinned = pin_by_splice(&file);
    let start = Instant::now();
    // `refused` tries twice.
    let (refusal, fd) = not_adopted(file, &SealPolicy::new());
    let waited = start.elapsed() / 2;
    let Refusal::CannotSeal { reason: SealFailure::PinnedPages, error } = refusal else {
        panic!("{refusal:?}");
    };
    assert_eq!(error.raw_os_error(), Some(Errno::BUSY.raw_os_error()));
    assert!(waited >= 2 * KERNEL_WAITS && waited < Duration::from_secs(20), "{waited:?}");

    drop(pinned);
    assert_eq!(adopt(fd, &SealPolicy::new()).map_read_only().unwrap()[..], [1; 4096]);
}

#[test]
fn pages_that_are_released_in_time_do_not_prevent_adopting() {
    let file = filled(&[1; 4096]);
    let pinned = pin_by_splice(&file);
    // Control: the first attempt fails.
    assert_eq!(seal(&file, IMMUTABLE), Err(Errno::BUSY));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(2 * KERNEL_WAITS);
            drop(pinned);
        });
        assert_eq!(adopt(file, &SealPolicy::new()).map_read_only().unwrap()[..], [1; 4096]);
    });
}

#[test]
fn a_finished_producers_file_can_be_adopted() {
    let file = filled(b"hello");
    let mut producer = map_writable(&file);
    if let Err(errno) = seal(&file, LIVE) {
        assert_eq!(errno, Errno::INVAL);
        return eprintln!("not tried: the future-write seal is unknown before Linux 5.1");
    }
    if !write_seal_counts(seals_of(&file) | Seals::WRITE) {
        return eprintln!("not tried: every file carries EXEC, and this kernel cannot be tested");
    }
    let (refusal, fd) = not_adopted(file, &SealPolicy::new());
    assert!(matches!(refusal, Refusal::CannotSeal { reason: SealFailure::WritableMapping, .. }));
    producer[0] = b'j';
    drop(producer);
    assert_eq!(&adopt(fd, &SealPolicy::new()).map_read_only().unwrap()[..], b"jello");
}

#[test]
fn every_adopted_file_passes_for_one_from_a_stranger() {
    let adopted = adopt(filled(b"hello"), &SealPolicy::new());
    assert!(seals_of(&adopted).contains(WHOLE));
    SealedFile::receive_read_only(adopted, &SealPolicy::untrusted(5)).unwrap();
    // Control: without GROW it is refused.
    let growing = adopt(filled(b"hello"), &SealPolicy::new().forbid(Seals::GROW));
    seal(&growing, Seals::GROW).unwrap_err(); // SEAL is final
    let error = SealedFile::receive_read_only(growing, &SealPolicy::untrusted(5)).unwrap_err();
    assert!(matches!(error.reason(), Refusal::MissingSeals { missing: Seals::GROW, .. }));
}

/// A sandbox that denies GROW, and nothing else, to this thread.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
fn deny_grow(errno: Errno) {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq,
        SeccompCmpOp::MaskedEq, SeccompCondition, SeccompFilter, SeccompRule,
    };

    let grow = u64::from(Seals::GROW.bits());
    let conditions = vec![
        SeccompCondition::new(1, Dword, Eq, libc::F_ADD_SEALS as u64).unwrap(),
        SeccompCondition::new(2, Dword, MaskedEq(grow), grow).unwrap(),
    ];
    let rules = [(libc::SYS_fcntl, vec![SeccompRule::new(conditions).unwrap()])];
    let deny = SeccompAction::Errno(errno.raw_os_error() as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, deny, arch).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
#[test]
fn grow_that_nobody_required_never_causes_a_refusal() {
    let sealed_for_good = IMMUTABLE | Seals::SEAL;
    adopt(sealed(b"hello", sealed_for_good), &SealPolicy::new());

    for errno in [Errno::PERM, Errno::ACCESS, Errno::NOSYS, Errno::INVAL] {
        let in_sandbox = std::thread::spawn(move || {
            deny_grow(errno);
            for policy in [SealPolicy::new(), SealPolicy::new().require(Seals::SEAL)] {
                let adopted = adopt(filled(b"hello"), &policy);
                // Whatever vm.memfd_noexec adds.
                assert_eq!(seals_of(&adopted) - Seals::EXEC, sealed_for_good, "{errno}");
            }
            // Control: it is denied, and whoever requires it is told.
            assert_eq!(seal(filled(b"hello"), Seals::GROW), Err(errno));
            let (refusal, fd) = not_adopted(filled(b"hello"), &SealPolicy::untrusted(5));
            assert!(matches!(refusal, Refusal::CannotSeal { .. }), "{errno}: {refusal:?}");
            assert_eq!(seals_of(fd) - Seals::EXEC, Seals::empty());
        });
        in_sandbox.join().unwrap();
    }
}

#[test]
fn another_who_seals_it_for_good_meanwhile_does_no_harm() {
    let mut without_growth = 0;
    let rounds = runs::rounds(100, 5_000);
    for round in 0..rounds {
        let file = filled(b"hello");
        let others = file.try_clone().unwrap();
        // One of the two starts late, by a time that differs.
        let [mut ours, mut theirs] = [round as u32 % 40 * 50, 0];
        if round % 2 == 0 {
            std::mem::swap(&mut ours, &mut theirs);
        }
        let start = AtomicU32::new(0);
        let at_once = |delay: u32| {
            start.fetch_add(1, SeqCst);
            while start.load(SeqCst) < 2 {}
            (0..delay).for_each(|_| std::hint::spin_loop());
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                at_once(theirs);
                seal(others, IMMUTABLE | Seals::SEAL).is_ok()
            });
            at_once(ours);
            let seals = seals_of(adopt(file, &SealPolicy::new()));
            assert!(seals.contains(IMMUTABLE | Seals::SEAL), "{seals}");
            assert_eq!(other.join().unwrap(), !seals.contains(Seals::GROW));
            without_growth += usize::from(!seals.contains(Seals::GROW));
        });
    }
    println!("of {rounds} the other was faster {without_growth} times");
}

#[test]
fn a_busy_file_is_not_tried_twice_for_the_sake_of_grow() {
    let file = filled(&[1; 4096]);
    let pinned = pin_by_splice(&file);
    let start = Instant::now();
    let (refusal, _) = not_adopted(file, &SealPolicy::new().forbid(Seals::GROW));
    let without = start.elapsed();
    assert!(matches!(refusal, Refusal::CannotSeal { reason: SealFailure::PinnedPages, .. }));
    drop(pinned);

    let file = filled(&[1; 4096]);
    let pinned = pin_by_splice(&file);
    let start = Instant::now();
    not_adopted(file, &SealPolicy::new());
    let with = start.elapsed();
    assert!(with < without * 3 / 2 + KERNEL_WAITS, "{with:?} and {without:?}");
    drop(pinned);
}
