//! What a hostile holder of a shared file can do, and what it cannot: shrink, grow, write, seal, punch, map
//! and fork, all at the worst moment. Needs `/proc`; runs as any user.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "a peer that writes by other means than the crate")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sealed_mmap::{
    Refusal, SealFailure, SealPolicy, SealedFile, Seals, SharedMap, SizeSealed, add_seals,
};
use support::errno_in;
use support::files::{self, contents, punch_hole};
use support::kernel::*;
use support::mapping::{Mapping, READ, READ_WRITE};
use support::process::Forked;
use support::runs::{in_full, rounds};

const WORD: usize = size_of::<usize>();
const PAGE: u64 = 4096;

fn receive(file: &File) -> SealedFile<SizeSealed> {
    let same_file = file.try_clone().unwrap();
    SealedFile::receive_size_sealed(same_file, &SealPolicy::untrusted_live(64 << 20)).unwrap()
}

fn pool(len: u64) -> File {
    let file = files::memfd();
    file.set_len(len).unwrap();
    add_seals(&file, Seals::SHRINK).unwrap();
    file
}

fn quick() -> Duration {
    Duration::from_millis(if in_full() { 5000 } else { 200 })
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Runs `peer` again and again while `meanwhile` runs.
fn beside<T>(peer: impl Fn() + Sync, peers: usize, meanwhile: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        for _ in 0..peers {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    peer();
                }
            });
        }
        meanwhile()
    })
}

/// The seal comes at any moment between two changes of the length.
#[test]
fn a_peer_that_shrinks_before_sealing_gains_nothing() {
    let mut lengths = [0; 2];
    for round in 0..rounds(300, 10_000) {
        let file = files::memfd();
        file.set_len(4 * PAGE).unwrap();
        let resize = || {
            // EPERM, once it is sealed.
            let _ = file.set_len(PAGE);
            let _ = file.set_len(4 * PAGE);
        };
        beside(resize, 1, || {
            let mut descriptor = file.try_clone().unwrap().into();
            let received = loop {
                match SealedFile::receive_size_sealed(descriptor, &SealPolicy::new()) {
                    Ok(received) => break received,
                    Err(refused) => {
                        assert!(matches!(refused.reason(), Refusal::MissingSeals { .. }));
                        descriptor = refused.into_fd();
                        if round % 2 == 0 {
                            thread::yield_now();
                        }
                        add_seals(&descriptor, Seals::SHRINK).unwrap();
                    }
                }
            };
            let map = received.map_shared().unwrap();
            // Each page, read and written: beyond the end of the file that would be SIGBUS.
            map.write_at(0, &vec![1; map.len()]).unwrap();
            assert!(map.to_vec(..).unwrap().iter().all(|byte| *byte == 1));
            lengths[usize::from(map.len() as u64 > PAGE)] += 1;
        });
    }
    eprintln!("short {}, long {}", lengths[0], lengths[1]);
}

/// Control of the above: without the seal, the same access is the end of the process.
#[test]
fn without_the_seal_an_access_beyond_the_end_ends_the_process() {
    let file = files::memfd();
    file.set_len(4 * PAGE).unwrap();
    let mapping = Mapping::shared(&file, READ_WRITE).unwrap();
    let status = Forked::that(|_| {
        file.set_len(PAGE).unwrap();
        mapping.set(2 * PAGE as usize, 1);
    })
    .finish();
    assert_eq!(status.terminating_signal(), Some(libc::SIGBUS));
}

#[test]
fn a_peer_that_grows_without_pause_is_followed_within_the_bound() {
    let max = 64 * PAGE;
    for _ in 0..rounds(10, 200) {
        let file = pool(PAGE);
        let mut ours = receive(&file);
        let grow = || {
            let len = file.metadata().unwrap().len();
            if len < 2 * max {
                file.set_len(len + 100).unwrap();
            }
        };
        beside(grow, 1, || {
            let (mut maps, mut before): (Vec<SharedMap>, _) = (Vec::new(), PAGE);
            loop {
                match ours.refresh_len(max) {
                    Ok(len) => {
                        assert!((before..=max).contains(&len));
                        before = len;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
                        break;
                    }
                }
                maps.push(ours.map_shared().unwrap());
                let newest = maps.last().unwrap();
                assert_eq!(newest.len() as u64, before);
                newest.write_at(before - 1, &[1]).unwrap();
            }
            assert_eq!(ours.len().unwrap(), before);
            for map in &maps {
                assert_eq!(map.to_vec(map.len() as u64 - 1..).unwrap().len(), 1);
            }
        });
    }
}

#[test]
fn a_peer_that_writes_during_every_read_changes_no_other_byte() {
    let file = pool(4 * PAGE);
    let theirs = Mapping::shared(&file, READ_WRITE).unwrap();
    let map = receive(&file).map_shared().unwrap();
    // By bytes, in the middle of words: each is seen old or new, and those beside it stay.
    let next = AtomicUsize::new(0);
    let scribble = || {
        let n = next.fetch_add(1, Relaxed);
        theirs.set(1 + n * 2 % (2 * PAGE as usize), n as u8 | 0x80);
    };
    beside(scribble, 1, || {
        let (start, mut met) = (Instant::now(), false);
        while start.elapsed() < quick() || (!met && start.elapsed() < Duration::from_secs(60)) {
            let bytes = map.to_vec(..).unwrap();
            met |= bytes.iter().any(|byte| *byte != 0);
            assert!(bytes.iter().step_by(2).all(|byte| *byte == 0));
            assert!(bytes.iter().all(|byte| *byte == 0 || *byte >= 0x80));
        }
        assert!(met, "they never met");
    });
}

/// An exchange of the whole word could fail forever, for each time somebody else was faster.
#[test]
fn a_partial_write_ends_while_others_hammer_the_word() {
    let file = pool(PAGE);
    let map = receive(&file).map_shared().unwrap();
    let theirs = receive(&file).map_shared().unwrap();
    let number = AtomicUsize::new(0);
    let hammer = || {
        let number = number.fetch_add(1, Relaxed);
        // SAFETY: the pointer is aligned and valid for as long as `theirs` lives; every access to this
        // word in this process is atomic and of this size.
        let word = unsafe { AtomicUsize::from_ptr(theirs.as_ptr().wrapping_add(64).cast()) };
        for n in 0..1000 {
            word.store(number.wrapping_mul(1000) + n, Relaxed);
        }
    };
    let mut worst = Duration::ZERO;
    beside(hammer, 3, || {
        let start = Instant::now();
        while start.elapsed() < quick() {
            let one = Instant::now();
            map.write_at(66, b"ab").unwrap();
            worst = worst.max(one.elapsed());
        }
    });
    eprintln!("the slowest took {worst:?}");
    assert!(worst < Duration::from_secs(5));
    map.write_at(66, b"ab").unwrap();
    assert_eq!(map.to_vec(66..68).unwrap(), b"ab");
    assert_eq!(map.to_vec(..64).unwrap(), [0; 64]);
}

/// Whoever hammers only a part of a word does not get to the rest, whichever way it is written.
#[test]
fn what_is_written_beside_a_hammered_part_stays() {
    let file = pool(PAGE);
    let (ours, theirs) =
        (receive(&file).map_shared().unwrap(), Mapping::shared(&file, READ_WRITE).unwrap());
    let next = AtomicUsize::new(0);
    let hammer = || {
        for _ in 0..1000 {
            theirs.set(WORD, next.fetch_add(1, Relaxed) as u8);
        }
    };
    beside(hammer, 2, || {
        let start = Instant::now();
        for byte in (0..=255).cycle() {
            ours.write_at(WORD as u64 + 1, &[byte; WORD - 1]).unwrap();
            let found = ours.to_vec(WORD as u64 + 1..2 * WORD as u64).unwrap();
            assert_eq!(found, [byte; WORD - 1]);
            if byte == 255 && start.elapsed() > quick() {
                break;
            }
        }
    });
    assert_eq!(contents(&file)[..WORD], [0; WORD]);
}

#[test]
fn nobody_can_seal_against_writing_while_there_is_a_shared_map() {
    let file = pool(PAGE);
    let ours = receive(&file);
    let map = ours.map_shared().unwrap();
    fails_with("WRITE", add_seals(&file, WRITE), Errno::BUSY);
    map.write_at(0, b"still writing").unwrap();
    assert_eq!(ours.finish().unwrap_err().reason(), SealFailure::WritableMapping);
    // Control: the map it was.
    drop(map);
    add_seals(&file, WRITE).unwrap();
    all_refused(&file, &WRITES[..1]);
}

#[test]
fn the_seal_against_future_writers_leaves_earlier_maps_writing() {
    let file = pool(LEN);
    let ours = receive(&file);
    let (map, reader) = (ours.map_shared().unwrap(), ours.map_live().unwrap());
    add_seals(&file, FUTURE_WRITE).unwrap();

    map.write_at(0, b"on and on").unwrap();
    map.fetch_add(64, 3).unwrap();
    assert_eq!((reader.to_vec(..9).unwrap(), reader.load(64).unwrap()), (b"on and on".into(), 3));
    let error = ours.map_shared().unwrap_err();
    assert_eq!(errno_in(&error), Some(Errno::PERM));
    assert!(error.to_string().contains("future_write"), "{error}");
    assert!(ours.map_live().unwrap().to_vec(..).unwrap().starts_with(b"on and on"));
    all_refused(&file, &WRITES);

    if memfd_noexec() != Some(2) {
        drop(map);
        let finished = ours.finish().unwrap();
        assert_eq!(finished.map_read_only().unwrap()[..9], *b"on and on");
    }
}

/// Why reserving is not offered here.
#[test]
fn a_peer_can_take_reserved_memory_away_and_no_map_breaks() {
    fn taken(file: &File) -> u64 {
        rustix::fs::fstat(file).unwrap().st_blocks as u64 * 512
    }
    let file = pool(LEN);
    allocate(&file, LEN).unwrap();
    let ours = receive(&file);
    let map = ours.map_shared().unwrap();
    map.write_at(0, &[7; LEN as usize]).unwrap();
    assert!(taken(&file) >= LEN);

    punch_hole(&file, 0, LEN).unwrap();
    assert_eq!(taken(&file), 0, "what was reserved is gone");
    // Reading by descriptor takes no memory, reading a map does.
    let mut bytes = vec![1; LEN as usize];
    std::os::unix::fs::FileExt::read_at(&ours, &mut bytes, 0).unwrap();
    assert_eq!((bytes, taken(&file)), (vec![0; LEN as usize], 0));
    assert_eq!(map.to_vec(..).unwrap(), [0; LEN as usize]);
    assert!(taken(&file) >= LEN);

    // What is sealed against writing cannot be punched.
    drop(map);
    let finished = ours.finish().unwrap();
    finished.reserve().unwrap();
    assert_eq!(punch_hole(&file, 0, LEN).unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn a_peer_that_maps_and_forks_delays_finishing_until_the_child_ends() {
    let file = pool(LEN);
    let theirs = map_shared(&file).unwrap();
    let ours = receive(&file);
    let ours = while_forked(
        Some(theirs),
        || Ok(()),
        || {
            let error = ours.finish().unwrap_err();
            assert_eq!(error.reason(), SealFailure::WritableMapping);
            error.into_file()
        },
    );
    ours.finish().unwrap();
}

/// `SharedMap` says so: a child has no such map, and dies if it touches one.
#[test]
fn a_child_does_not_inherit_a_shared_map() {
    let file = pool(LEN);
    let ours = receive(&file);
    let map = ours.map_shared().unwrap();
    let status = Forked::that(|_| {
        let _ = map.store(0, 1);
    })
    .finish();
    assert_eq!(status.terminating_signal(), Some(libc::SIGSEGV));
    assert_eq!(map.load(0).unwrap(), 0);

    // Control: an ordinary mapping is inherited, and reaches the file.
    let mapping = Mapping::shared(&file, READ_WRITE).unwrap();
    Forked::that(|_| mapping.set(0, 1)).finish();
    assert_eq!(map.to_vec(..1).unwrap(), [1]);
    drop(mapping);

    // So a child does not keep the file from being finished. It runs until it is told to end.
    let child = Forked::that(|mut parent| drop(parent.read(&mut [0])));
    drop(map);
    ours.finish().unwrap();
    child.finish();
}

/// On old kernels a mapping of a writable descriptor would count as one that writes.
#[test]
fn a_map_that_only_reads_does_not_hinder_finishing() {
    let file = pool(LEN);
    let ours = receive(&file);
    let reader = ours.map_live().unwrap();
    let control = Mapping::shared(&file, READ).unwrap();
    let ours = match ours.finish() {
        Ok(_) => return eprintln!("this kernel tells mappings that only read from others"),
        Err(error) => error.into_file(),
    };
    drop(control);
    ours.finish().unwrap();
    assert_eq!(reader.to_vec(..1).unwrap(), [0]);
}
