//! What `LiveMap` promises: it shows what the producer writes, in this process and another, by whole
//! words, in order, within its bounds. Needs `/proc`; runs as any user.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use sealed_mmap::{
    LiveMap, OutOfBounds, Producer, Refusal, SealPolicy, SealedFile, Seals, add_seals,
};
use support::files::contents;
use support::kernel::*;
use support::process::{self, Peer};
use support::runs::{in_full, live};
use support::salted_pattern;

const WORD: usize = size_of::<usize>();

/// `None` where the system has no producers: then that is what is checked.
fn live_map(len: usize) -> Option<(Producer, LiveMap)> {
    let producer = live(Producer::create("live", len as u64))?;
    let map = producer.file().map_live().unwrap();
    Some((producer, map))
}

/// How long to look for what has to happen, and how long to wait before it counts as never.
fn patience() -> (Duration, Duration) {
    (Duration::from_millis(if in_full() { 10_000 } else { 200 }), Duration::from_secs(60))
}

/// Ends the writer's loop, also when the reader panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn every_range_is_read_as_it_was_written() {
    let len = 43; // no multiple of a word
    let Some((mut producer, map)) = live_map(len) else { return };
    let model = salted_pattern(len, 0);
    producer.write_at(0, &model).unwrap();
    for start in 0..=len {
        for end in start..=len {
            let mut around = vec![0xee; end - start + 2];
            map.read_at(start as u64, &mut around[1..=end - start]).unwrap();
            assert_eq!(around[1..=end - start], model[start..end], "{start}..{end}");
            assert_eq!([around[0], around[end - start + 1]], [0xee; 2], "{start}..{end}");
        }
    }
}

#[test]
fn ranges_across_lines_and_pages_are_read_as_they_were_written() {
    let len = (128 << 10) + 21;
    let Some((mut producer, map)) = live_map(len) else { return };
    let model = salted_pattern(len, 0);
    producer.write_at(0, &model).unwrap();
    let edges =
        [0, 1, 7, 8, 63, 64, 65, 4095, 4096, 65_535, 65_536, 131_071, 131_072, len - 1, len];
    for start in edges {
        for end in edges.into_iter().filter(|end| *end >= start) {
            assert!(map.to_vec(start as u64..end as u64).unwrap() == model[start..end]);
        }
    }
}

#[test]
fn every_kind_of_range_can_be_named() {
    let Some((mut producer, map)) = live_map(5) else { return };
    producer.write_at(0, b"hello").unwrap();
    assert_eq!(map.to_vec(..).unwrap(), b"hello");
    assert_eq!(map.to_vec(1..).unwrap(), b"ello");
    assert_eq!(map.to_vec(..2).unwrap(), b"he");
    assert_eq!(map.to_vec(..=2).unwrap(), b"hel");
    assert_eq!(map.to_vec(5..5).unwrap(), b"");
    assert_eq!(map.to_vec((Bound::Excluded(1), Bound::Included(3))).unwrap(), b"lo".map(|_| b'l'));
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is tried")]
    let backwards = map.to_vec(3..1);
    assert_eq!(backwards, Err(OutOfBounds { offset: 3, len: u64::MAX - 1, size: 5 }));
    for (range, offset, len) in [
        ((Bound::Included(0), Bound::Included(5)), 0, 6),
        ((Bound::Included(6), Bound::Excluded(6)), 6, 0),
        ((Bound::Included(0), Bound::Included(u64::MAX)), 0, u64::MAX),
        ((Bound::Excluded(u64::MAX), Bound::Excluded(u64::MAX)), u64::MAX, 0),
    ] {
        assert_eq!(map.to_vec(range), Err(OutOfBounds { offset, len, size: 5 }));
    }
}

#[test]
fn out_of_bounds_says_what_and_reads_nothing() {
    let Some((_producer, map)) = live_map(10) else { return };
    for (offset, len) in [(0, 11), (8, 3), (10, 1), (11, 0), (11, 1), (u64::MAX, 1), (u64::MAX, 0)]
    {
        let mut target = vec![0xee; len];
        let expected = OutOfBounds { offset, len: len as u64, size: 10 };
        assert_eq!(map.read_at(offset, &mut target), Err(expected));
        assert_eq!(target, vec![0xee; len]);
    }
    map.read_at(10, &mut []).unwrap();
}

#[test]
fn an_empty_file_can_be_mapped() {
    let Some((_producer, map)) = live_map(0) else { return };
    assert!(map.is_empty());
    assert_eq!(map.to_vec(..).unwrap(), b"");
    assert_eq!(map.to_vec(..1), Err(OutOfBounds { offset: 0, len: 1, size: 0 }));
}

#[test]
fn another_process_sees_what_is_written_meanwhile() {
    const NAME: &str = "another_process_sees_what_is_written_meanwhile";
    if let Some(mut role) = process::role() {
        let file = SealedFile::receive_future_write(role.fd, &SealPolicy::new()).unwrap();
        let map = file.map_live().unwrap();
        let mut seen = [0; 9];
        let deadline = Instant::now() + patience().1;
        role.parent.tell("maps");
        while &seen != b"meanwhile" {
            assert!(Instant::now() < deadline);
            map.read_at(4091, &mut seen).unwrap();
        }
        return;
    }
    let Some((mut producer, _)) = live_map(8192) else { return };
    let mut reader = Peer::start(NAME, "reader", producer.file());
    assert_eq!(reader.channel.hear(), "maps");
    assert!(reader.status().is_none());
    producer.write_at(4091, b"meanwhile").unwrap();
    assert!(reader.wait().success());
}

/// While one thread writes, by whole words, files full of one byte each.
#[test]
fn no_word_is_ever_torn() {
    let len = 3 * 4096 + 3 * WORD;
    let Some((mut producer, map)) = live_map(len) else { return };
    let done = AtomicBool::new(false);
    let (least, most) = patience();
    let (mut mixed, mut torn_between_words) = (false, false);
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        scope.spawn(|| {
            for byte in (0..=255).cycle().take_while(|_| !done.load(Relaxed)) {
                producer.write_at(0, &vec![byte; len]).unwrap();
            }
        });
        let start = Instant::now();
        // Both offsets, so that targets are filled from whole words and from parts.
        for offset in (0..WORD as u64).cycle() {
            let enough = mixed && torn_between_words && start.elapsed() > least;
            if enough || start.elapsed() > most {
                break;
            }
            let bytes = map.to_vec(offset..).unwrap();
            let aligned = &bytes[(WORD - offset as usize) % WORD..];
            let whole = |word: &[u8]| word.iter().all(|byte| *byte == word[0]);
            let torn = aligned.chunks_exact(WORD).position(|word| !whole(word));
            assert_eq!(torn, None, "from offset {offset}");
            // The controls: writing and reading do meet, and what is no word is torn.
            mixed |= !whole(aligned);
            torn_between_words |= aligned[WORD / 2..].chunks_exact(WORD).any(|word| !whole(word));
        }
    });
    assert!(mixed && torn_between_words, "the reader never met the writer");
}

/// A record is written before its number, so whoever reads a number finds its record or a later one.
#[test]
fn calls_are_seen_in_order() {
    let Some((mut producer, map)) = live_map(4096 + 64) else { return };
    let done = AtomicBool::new(false);
    let (least, most) = patience();
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        scope.spawn(|| {
            for number in (1_usize..).take_while(|_| !done.load(Relaxed)) {
                let number = number.to_ne_bytes();
                producer.write_at(4096, &number.repeat(64 / WORD)).unwrap();
                producer.write_at(8, &number).unwrap();
            }
        });
        let number_at = |offset| {
            let mut bytes = [0; WORD];
            map.read_at(offset, &mut bytes).unwrap();
            usize::from_ne_bytes(bytes)
        };
        let (start, mut changes, mut before) = (Instant::now(), 0, 0);
        while start.elapsed() < least || (changes < 100 && start.elapsed() < most) {
            let number = number_at(8);
            let record = number_at(4096 + 64 - WORD as u64);
            assert!(number <= record, "number {number} before its record, {record}");
            assert!(before <= number, "{before} was seen before {number}");
            changes += u32::from(number != before);
            before = number;
        }
        assert!(changes >= 100, "the reader saw {changes} changes");
    });
}

#[test]
fn the_length_that_was_received_is_what_is_mapped() {
    let Some(file) = future_write_sealed(SHRINK) else { return };
    let grows = File::from(file.try_clone().unwrap());
    let received = SealedFile::receive_future_write(file, &SealPolicy::new()).unwrap();
    grows.set_len(LEN * 2).unwrap();
    let map = received.map_live().unwrap();
    assert_eq!(map.len() as u64, LEN);
    assert!(map.to_vec(..).unwrap() == contents(&grows)[..LEN as usize]);
    assert_eq!(map.to_vec(..=LEN), Err(OutOfBounds { offset: 0, len: LEN + 1, size: LEN }));
}

/// On old kernels a mapping of a writable descriptor would keep the file from being finished.
#[test]
fn a_map_from_a_writable_descriptor_does_not_hinder_finishing() {
    let Some(file) = future_write_sealed(FIXED_SIZE) else { return };
    let received = SealedFile::receive_future_write(file, &SealPolicy::new()).unwrap();
    let map = received.map_live().unwrap();
    let control = map_read_only(&received.try_clone().unwrap().into()).unwrap();
    let received = match received.finish() {
        Ok(_) => return eprintln!("this kernel tells mappings that only read from others"),
        Err(error) => error.into_file(),
    };
    drop(control);
    received.finish().unwrap();
    assert_eq!(map.to_vec(..1).unwrap(), b"a");
}

#[test]
fn a_file_that_anybody_can_write_is_not_received_as_live() {
    let file = OwnedFd::from(sealed_draft(SHRINK));
    let refused = SealedFile::receive_future_write(file, &SealPolicy::new()).unwrap_err();
    let Refusal::MissingSeals { missing, .. } = refused.reason() else { panic!("{refused}") };
    assert_eq!(*missing, Seals::FUTURE_WRITE);
}

#[test]
fn a_live_file_of_another_owner_than_allowed_is_refused() {
    let Some((producer, _map)) = live_map(1) else { return };
    let own = geteuid().as_raw();
    let mut owners = vec![own];
    match fchown(producer.file(), Some(4242), None) {
        Ok(()) => owners.push(4242),
        // EINVAL: root of a user namespace that has no other users.
        Err(error) => {
            assert!([Some(1), Some(22)].contains(&error.raw_os_error()), "{error}");
            eprintln!("a file given away with fchown is not tried: {error}");
        }
    }
    for owner in owners {
        fchown(producer.file(), Some(owner), None).unwrap();
        for named in [own, 4242] {
            let fd = producer.file().try_clone().unwrap();
            match SealedFile::receive_future_write(fd, &SealPolicy::new().owner(named)) {
                Ok(_) => assert_eq!(owner, named),
                Err(refused) => {
                    let Refusal::Owner { expected, found } = *refused.reason() else {
                        panic!("{refused}")
                    };
                    assert_eq!((expected, found), (named, owner));
                    assert_ne!(owner, named);
                }
            }
        }
    }
}

#[test]
fn a_live_map_can_move_and_be_shared_across_threads() {
    fn assert<T: Send + Sync + std::fmt::Debug + 'static>() {}
    assert::<LiveMap>();
    let Some((mut producer, map)) = live_map(8) else { return };
    producer.write_at(0, b"anywhere").unwrap();
    drop(producer);
    let read = thread::spawn(move || map.to_vec(..).unwrap());
    assert_eq!(read.join().unwrap(), b"anywhere");
}

/// By a producer that is not this crate's, through a descriptor that can write. Without EXEC where
/// the system allows that, for finishing is refused on some kernels otherwise.
fn future_write_sealed(others: Seals) -> Option<OwnedFd> {
    let options = sealed_mmap::CreateOptions::new().executable(memfd_noexec() != Some(2));
    let file = fill(options.create("live").unwrap().into_file());
    add_seals(&file, others | FUTURE_WRITE).unwrap();
    (memfd_noexec() != Some(2)).then(|| file.into())
}
