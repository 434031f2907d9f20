//! What a peer can do to a file beside its bytes: leases on it, lengths that end within a huge page,
//! seals that bring others with them.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "leases and forking are system calls without a safe wrapper")]

mod support;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use sealed_mmap::{
    CreateOptions, Refusal, SealFailure, SealPolicy, SealedFile, Seals, add_seals, get_seals,
};
use support::files::read_only;
use support::machine::HugePool;
use support::runs::is_emulated;

const IMMUTABLE: Seals = Seals::WRITE.union(Seals::SHRINK).union(Seals::GROW);

fn lease(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: this only takes numbers.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[test]
fn a_lease_on_the_file_does_not_make_the_receiver_wait() {
    // The kernel would tell the holder of the lease by a signal, and wait for it for 45 seconds.
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let writable = File::from(SealedFile::build("leased", 8, |_| Ok(())).unwrap());
    let file = read_only(&writable);
    drop(writable);
    if let Err(error) = lease(&file, libc::F_RDLCK) {
        return eprintln!("not tested, this kernel gives no lease here: {error}");
    }

    let start = Instant::now();
    let refused = SealedFile::receive_read_only(file, &SealPolicy::untrusted(8)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    match refused.reason() {
        Refusal::CannotReserve(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        other => panic!("{other}"),
    }

    // Without memory to reserve there is nothing to open. A lease for writing forbids reading, too.
    let file = SealedFile::receive_read_only(refused.into_fd(), &SealPolicy::new()).unwrap();
    assert_eq!(file.map_read_only().unwrap().len(), 8);
    let file = File::from(file);
    lease(&file, libc::F_WRLCK).unwrap();
    let file = SealedFile::try_from(file).unwrap();
    assert_eq!(file.reopen().unwrap_err().kind(), ErrorKind::WouldBlock);

    // Control: it was the lease.
    let file = File::from(file);
    lease(&file, libc::F_UNLCK).unwrap();
    SealedFile::receive_read_only(file, &SealPolicy::untrusted(8)).unwrap();
}

#[test]
fn a_file_that_ends_within_a_huge_page_is_refused() {
    let Some(_pool) = HugePool::with_free_pages(2) else { return };
    let huge_file = |len| -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        let file = File::from(memfd_create("huge", flags)?);
        fallocate(&file, FallocateFlags::empty(), 0, len)?;
        add_seals(&file, IMMUTABLE)?;
        Ok(file)
    };
    let policy = SealPolicy::new().allow_hugetlb(true);
    for len in [1, 5000] {
        let file = huge_file(len).unwrap();
        assert_eq!(file.metadata().unwrap().len(), len, "fallocate makes such a length");
        let refused = SealedFile::receive_read_only(file, &policy).unwrap_err();
        assert!(matches!(refused.reason(), Refusal::HugeTlb), "{refused}");

        let copy = SealedFile::receive_or_copy(refused.into_fd(), &policy, 1 << 20);
        assert!(matches!(copy.unwrap_err().reason(), Refusal::HugeTlb), "it is sealed, and odd");
    }

    // Control: a whole page is taken.
    let page = SealedFile::try_from(huge_file(1).unwrap()).unwrap_err();
    let page = rustix::fs::fstatfs(page.fd()).unwrap().f_bsize as u64;
    let file = SealedFile::receive_read_only(huge_file(page).unwrap(), &policy).unwrap();
    assert_eq!(file.map_read_only().unwrap().len() as u64, page);
}

/// Executable, or nothing where `vm.memfd_noexec` forbids that or the kernel has no exec seal.
fn executable_to_seal() -> Option<File> {
    let file = CreateOptions::new().executable(true).create("executable").ok()?.into_file();
    let probe = CreateOptions::new().executable(true).create("probe").ok()?.into_file();
    add_seals(&probe, Seals::EXEC).ok()?;
    Some(file)
}

#[test]
fn adopting_counts_the_seals_that_exec_brings_with_it() {
    let Some(file) = executable_to_seal() else {
        return eprintln!("not tested, there is no executable memfd with an exec seal here");
    };
    let policy = SealPolicy::new().require(Seals::EXEC).forbid(Seals::FUTURE_WRITE);
    let refused = SealedFile::adopt_read_only(file, &policy).unwrap_err();
    assert!(matches!(refused.reason(), Refusal::ForbiddenSeals { .. }), "{refused}");
    assert_eq!(get_seals(refused.fd()).unwrap(), Seals::empty(), "it is not sealed");

    // Control: the kernel does bring them.
    add_seals(refused.fd(), Seals::EXEC).unwrap();
    assert!(get_seals(refused.fd()).unwrap().contains(Seals::FUTURE_WRITE));
}

#[test]
fn finishing_adds_no_seal_that_would_not_be_believed() {
    let draft = CreateOptions::new().create("live").unwrap().into_file();
    if !get_seals(&draft).unwrap().contains(Seals::EXEC) {
        return eprintln!("not tested, this kernel has no exec seal");
    }
    add_seals(&draft, Seals::FUTURE_WRITE | Seals::SHRINK).unwrap();
    let fd = OwnedFd::from(draft);
    let live = SealedFile::receive_future_write(fd, &SealPolicy::new()).unwrap();
    let before = live.get_seals().unwrap();
    match live.finish() {
        Ok(file) => println!("this kernel can be believed: {}", file.get_seals().unwrap()),
        Err(error) => {
            assert_eq!(error.reason(), SealFailure::UntrustedWriteSeal);
            assert_eq!(error.into_file().get_seals().unwrap(), before);
        }
    }
}

#[test]
fn exactly_takes_the_last_word() {
    let file = SealedFile::from_bytes("file", b"bytes").unwrap();
    let seals = file.get_seals().unwrap();
    let policy = SealPolicy::new().exactly(Seals::empty()).exactly(seals);
    SealedFile::receive_read_only(file, &policy).unwrap();
}

#[test]
fn children_of_other_threads_do_not_hinder_sealing() {
    let done = AtomicBool::new(false);
    let program = ["/bin/true", "/bin/busybox"].into_iter().find(|path| fs::exists(path).unwrap());
    let Some(program) = program else { return eprintln!("not tested, nothing to execute here") };
    if is_emulated() {
        return eprintln!("not tested: emulated, a child takes longer to start than is waited for");
    }
    let rounds = 2000;
    thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::process::CommandExt;
            while !done.load(Ordering::Relaxed) {
                let mut command = Command::new(program);
                // SAFETY: the closure does nothing. That there is one makes it a real fork.
                unsafe { command.pre_exec(|| Ok(())) };
                command.status().unwrap();
            }
        });
        let failed =
            (0..rounds).filter_map(|_| SealedFile::build("built", 4096, |_| Ok(())).err()).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "of {rounds}");
    });
}
