//! Reserving: a sealed file's holes get memory, for good, or there is an error and nothing is taken.
#![allow(unsafe_code, reason = "madvise(2) on a map, and signals sent to one thread")]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::Advice;
use rustix::thread::{set_thread_res_uid, set_thread_uid};
use sealed_mmap::{Refusal, SealPolicy, SealedFile, Seals};

use support::assert_errno;
use support::files::{IMMUTABLE, filled, is_root, look, memfd, reopen, seal, sealed};
use support::files::{WHOLE, hole, refused};

const MIB: u64 = 1 << 20;

/// Bytes of memory that the file has.
fn taken(file: impl AsFd) -> u64 {
    rustix::fs::fstat(file).unwrap().st_blocks as u64 * 512
}

#[test]
fn every_hole_has_memory_afterwards() {
    let file = hole(MIB);
    assert_eq!(taken(&file), 0);
    file.reserve().unwrap();
    assert!(taken(&file) >= MIB);
    assert!(file.map_read_only().unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(file.metadata().unwrap().len(), MIB);

    // Again, and of nothing.
    file.reserve().unwrap();
    hole(0).reserve().unwrap();
}

#[test]
fn what_was_written_stays() {
    let file = filled(&[7; 4096]);
    file.set_len(MIB).unwrap();
    seal(&file, WHOLE).unwrap();
    let file = SealedFile::receive_read_only(file, &SealPolicy::new()).unwrap();
    file.reserve().unwrap();
    let map = file.map_read_only().unwrap();
    assert!(map[..4096].iter().all(|byte| *byte == 7));
    assert!(map[4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn no_seal_stands_in_the_way() {
    for seals in [IMMUTABLE, IMMUTABLE | Seals::GROW, WHOLE] {
        let file = memfd();
        file.set_len(MIB).unwrap();
        seal(&file, seals).unwrap();
        let file = SealedFile::receive_read_only(file, &SealPolicy::new()).unwrap();
        let before = look(file.as_fd());
        file.reserve().unwrap();
        assert!(taken(&file) >= MIB);
        assert_eq!(look(file.as_fd()), before);
    }
}

#[test]
fn a_policy_can_reserve_on_receiving_and_on_adopting() {
    for policy in [SealPolicy::untrusted(MIB), SealPolicy::new().reserve(true)] {
        let received = SealedFile::receive_read_only(hole(MIB), &policy).unwrap();
        assert!(taken(&received) >= MIB);
        let draft = memfd();
        draft.set_len(MIB).unwrap();
        let adopted = SealedFile::adopt_read_only(draft, &policy).unwrap();
        assert!(taken(&adopted) >= MIB);
    }
    let lazy = SealPolicy::untrusted(MIB).reserve(false);
    let received = SealedFile::receive_read_only(hole(MIB), &lazy).unwrap();
    assert_eq!(taken(&received), 0);
}

#[test]
fn a_reserved_hole_keeps_its_memory_and_one_only_read_does_not() {
    fn read_and_reclaim(file: &SealedFile) -> [u64; 2] {
        let map = file.map_read_only().unwrap();
        assert!(map.iter().all(|byte| *byte == 0));
        let after_reading = taken(file);
        // Several times: pages that are still on another processor's list are passed over.
        for _ in 0..100 {
            // SAFETY: the range is one whole mapping; its pages go to swap or, if nobody wrote
            // them, away, and read the same when they come back.
            let done = unsafe {
                rustix::mm::madvise(map.as_ptr().cast_mut().cast(), map.len(), Advice::LinuxPageOut)
            };
            done.unwrap();
            if taken(file) == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        [after_reading, taken(file)]
    }

    let reserved = hole(MIB);
    reserved.reserve().unwrap();
    let [before, after] = read_and_reclaim(&reserved);
    assert!(before >= MIB && after >= MIB);

    // Control: reading alone looks the same, and does not last.
    let [before, after] = read_and_reclaim(&hole(MIB));
    assert!(before >= MIB);
    assert!(after < before, "{after} of {before} bytes are left");
}

#[test]
fn a_read_only_description_can_reserve_where_reopening_works() {
    let file = hole(MIB);
    let read_only = reopen(&file, OFlags::RDONLY);
    // Control: that description alone cannot do it.
    let direct = rustix::fs::fallocate(&read_only, FallocateFlags::empty(), 0, MIB);
    assert_eq!(direct, Err(Errno::BADF));
    SealedFile::try_from(read_only).unwrap().reserve().unwrap();
    assert!(taken(&file) >= MIB);
}

#[test]
fn a_read_only_description_and_mode_cannot_reserve() {
    /// Runs as a user whom the mode bits bind. Only this thread changes.
    fn bound_by_the_mode<T: Send>(action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let as_nobody = || {
                if is_root() {
                    let nobody = rustix::process::Uid::from_raw(65534);
                    set_thread_res_uid(nobody, nobody, nobody).unwrap();
                    assert!(set_thread_uid(rustix::process::Uid::ROOT).is_err());
                }
                action()
            };
            scope.spawn(as_nobody).join().unwrap()
        })
    }

    let file = hole(MIB);
    let read_only = SealedFile::try_from(reopen(&file, OFlags::RDONLY)).unwrap();
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444)).unwrap();
    bound_by_the_mode(|| {
        assert_errno(read_only.reserve(), Errno::ACCESS);
        let (refusal, _) = refused(read_only.try_clone().unwrap(), |fd| {
            SealedFile::receive_read_only(fd, &SealPolicy::untrusted(MIB))
        });
        let Refusal::CannotReserve(error) = refusal else { panic!("{refusal:?}") };
        assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
        assert_eq!(taken(&file), 0);

        // A writable description does not ask for the mode.
        file.reserve().unwrap();
    });
    assert!(taken(&file) >= MIB);
}

#[test]
fn more_than_the_machine_has_is_an_error_and_takes_nothing() {
    let file = hole(1 << 50);
    let start = Instant::now();
    assert_errno(file.reserve(), Errno::NOMEM);
    let (refusal, fd) =
        refused(file, |fd| SealedFile::receive_read_only(fd, &SealPolicy::untrusted(u64::MAX)));
    let Refusal::CannotReserve(error) = refusal else { panic!("{refusal:?}") };
    assert_eq!(error.raw_os_error(), Some(Errno::NOMEM.raw_os_error()));
    assert_eq!(taken(&fd), 0);

    let read_only = SealedFile::try_from(reopen(&fd, OFlags::RDONLY)).unwrap();
    assert_errno(read_only.reserve(), Errno::NOMEM);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn the_policy_refuses_a_length_before_anything_is_reserved() {
    for len in [MIB + 1, 1 << 50] {
        let (refusal, fd) =
            refused(hole(len), |fd| SealedFile::receive_read_only(fd, &SealPolicy::untrusted(MIB)));
        assert!(
            matches!(refusal, Refusal::Length { len: found, .. } if found == len),
            "{refusal:?}"
        );
        assert_eq!(taken(fd), 0);
    }
    // And before a seal that is missing.
    let draft = sealed(b"hello", Seals::empty());
    draft.set_len(MIB).unwrap();
    let before = taken(&draft);
    let (refusal, fd) =
        refused(draft, |fd| SealedFile::receive_read_only(fd, &SealPolicy::untrusted(MIB)));
    assert!(matches!(refusal, Refusal::MissingSeals { .. }), "{refusal:?}");
    assert_eq!(taken(fd), before);
}

#[test]
fn signals_that_keep_arriving_do_not_keep_it_from_ending() {
    /// Runs under a signal in every millisecond, and says how many of them arrived.
    fn harassed<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> (T, usize) {
        let arrived = Arc::new(AtomicUsize::new(0));
        let counter = arrived.clone();
        // SAFETY: adding to an atomic is all that the handler does.
        let handler = unsafe {
            signal_hook::low_level::register(libc::SIGUSR1, move || {
                counter.fetch_add(1, Ordering::Relaxed);
            })
        }
        .unwrap();
        let worker = thread::spawn(action);
        while !worker.is_finished() {
            #[allow(clippy::unnecessary_cast, reason = "the type differs by target")]
            let id = worker.as_pthread_t() as libc::pthread_t;
            // SAFETY: a thread that was not joined has a valid id, even if it has ended.
            unsafe { libc::pthread_kill(id, libc::SIGUSR1) };
            thread::sleep(Duration::from_millis(1));
        }
        let result = worker.join().unwrap();
        signal_hook::low_level::unregister(handler);
        (result, arrived.load(Ordering::Relaxed))
    }

    let available = memory_available();
    let len = [512, 128, 32].map(|mib| mib * MIB).into_iter().find(|len| 3 * len < available);
    let len = len.expect("100 MiB of memory");
    if len < 512 * MIB {
        eprintln!("with {} MiB only: {} MiB are available", len / MIB, available / MIB);
    }

    // Control: one call for all of it does not end well.
    let file = hole(len);
    let fd = OwnedFd::from(file.try_clone().unwrap());
    let (done, signals) =
        harassed(move || rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len));
    match done {
        Ok(()) => eprintln!("{signals} signals did not interrupt fallocate on this kernel"),
        Err(errno) => {
            assert_eq!(errno, Errno::INTR);
            assert_eq!(taken(&file), 0, "the kernel undoes the whole call");
        }
    }

    let file = hole(len);
    let fd = OwnedFd::from(file.try_clone().unwrap());
    let start = Instant::now();
    let (done, signals) = harassed(move || SealedFile::try_from(fd).unwrap().reserve());
    done.unwrap();
    assert!(taken(&file) >= len);
    assert!(signals > 0);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

fn memory_available() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}
