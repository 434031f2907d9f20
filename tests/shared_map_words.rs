//! What `SharedMap` promises of bytes and words: what is named is read and written, nothing beside it, by
//! whole words, in order, by any number of threads. Runs as any user.
#![allow(unsafe_code, reason = "the controls write by hand")]

mod support;

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use sealed_mmap::{OutOfBounds, SealedFile, Seals, SharedMap, SizeSealed};
use support::files::contents;
use support::runs::{in_full, rounds};
use support::salted_pattern;

const WORD: usize = size_of::<usize>();
const THREADS: usize = 8;

/// A shared file, and another descriptor of it.
fn shared(len: usize) -> (SealedFile<SizeSealed>, File) {
    let mut draft = SealedFile::create("shared").unwrap();
    draft.set_len(len as u64).unwrap();
    let file = draft.seal_size(Seals::empty()).unwrap();
    let again = File::from(file.try_clone().unwrap());
    (file, again)
}

fn map(len: usize) -> (SharedMap, File) {
    let (file, again) = shared(len);
    (file.map_shared().unwrap(), again)
}

/// How long to look for what has to happen, and how long to wait before it counts as never.
fn patience() -> (Duration, Duration) {
    (Duration::from_millis(if in_full() { 10_000 } else { 200 }), Duration::from_secs(60))
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn every_range_is_read_and_written_and_nothing_beside_it() {
    let len = 43; // no multiple of a word
    let (map, file) = map(len);
    let (old, new) = (salted_pattern(len, 0), salted_pattern(len, 100));
    for start in 0..=len {
        for end in start..=len {
            map.write_at(0, &old).unwrap();
            map.write_at(start as u64, &new[start..end]).unwrap();
            let expected = [&old[..start], &new[start..end], &old[end..]].concat();
            assert_eq!(contents(&file), expected, "{start}..{end}");

            let mut around = vec![0xee; end - start + 2];
            map.read_at(start as u64, &mut around[1..=end - start]).unwrap();
            assert_eq!(around[1..=end - start], new[start..end], "{start}..{end}");
            assert_eq!([around[0], around[end - start + 1]], [0xee; 2], "{start}..{end}");
            assert_eq!(map.to_vec(start as u64..end as u64).unwrap(), new[start..end]);
        }
    }
}

#[test]
fn ranges_across_lines_and_pages_are_read_and_written() {
    let len = (128 << 10) + 21;
    let (map, file) = map(len);
    let (old, new) = (salted_pattern(len, 0), salted_pattern(len, 100));
    let edges = [0, 1, 63, 64, 65, 4095, 4096, 65_535, 65_536, 131_072, len - 1, len];
    for start in edges {
        for end in edges.into_iter().filter(|end| *end >= start) {
            map.write_at(0, &old).unwrap();
            map.write_at(start as u64, &new[start..end]).unwrap();
            let expected = [&old[..start], &new[start..end], &old[end..]].concat();
            assert!(contents(&file) == expected, "{start}..{end}");
            assert!(map.to_vec(..).unwrap() == expected, "{start}..{end}");
        }
    }
}

/// What lies behind the end in the last word is somebody else's as soon as the file grows.
#[test]
fn what_lies_behind_the_end_is_neither_given_out_nor_changed() {
    for len in 1..=2 * WORD {
        let (map, file) = map(len);
        file.set_len(64).unwrap();
        let behind = vec![0x5a; 64 - len];
        std::os::unix::fs::FileExt::write_all_at(&file, &behind, len as u64).unwrap();

        map.write_at(0, &vec![1; len]).unwrap();
        map.write_at(len as u64 - 1, &[2]).unwrap();
        let found = contents(&file);
        assert_eq!(found[..len - 1], vec![1; len - 1]);
        assert_eq!((found[len - 1], &found[len..]), (2, &behind[..]), "length {len}");
        assert_eq!(map.to_vec(..).unwrap(), found[..len]);

        let last = (len / WORD * WORD) as u64;
        assert!(map.read_at(len as u64, &mut [0]).is_err());
        for behind_the_last_word in [last, last + WORD as u64] {
            let offset = behind_the_last_word;
            let expected = OutOfBounds { offset, len: WORD as u64, size: len as u64 };
            assert_eq!(map.load(offset), Err(expected));
            assert_eq!(map.store(offset, 0), Err(expected));
            assert_eq!(map.fetch_and(offset, 0), Err(expected));
            assert_eq!(map.compare_exchange(offset, 0, 1), Err(expected));
        }
        assert_eq!(contents(&file), found);
    }
}

#[test]
fn out_of_bounds_says_what_and_changes_nothing() {
    let (map, file) = map(10);
    for (offset, len) in [(0, 11), (8, 3), (10, 1), (11, 0), (11, 1), (u64::MAX, 1), (u64::MAX, 0)]
    {
        let mut bytes = vec![0xee; len];
        let expected = OutOfBounds { offset, len: len as u64, size: 10 };
        assert_eq!(map.read_at(offset, &mut bytes), Err(expected));
        assert_eq!(bytes, vec![0xee; len]);
        assert_eq!(map.write_at(offset, &bytes), Err(expected));
    }
    assert_eq!(contents(&file), [0; 10]);
    map.read_at(10, &mut []).unwrap();
    map.write_at(10, &[]).unwrap();
}

#[test]
fn a_word_begins_only_at_a_multiple_of_its_size() {
    let (map, file) = map(4 * WORD);
    for offset in (0..2 * WORD as u64).filter(|offset| offset % WORD as u64 != 0) {
        let outcomes = [
            map.load(offset).map(drop),
            map.store(offset, 1),
            map.swap(offset, 1).map(drop),
            map.fetch_add(offset, 1).map(drop),
            map.fetch_or(offset, 1).map(drop),
            map.fetch_xor(offset, 1).map(drop),
            map.compare_exchange(offset, 0, 1).map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error, OutOfBounds { offset, len: WORD as u64, size: 4 * WORD as u64 });
            assert!(error.to_string().contains("is not a multiple of"), "{error}");
        }
    }
    assert!(!map.load(u64::MAX).unwrap_err().to_string().contains("multiple"));
    assert_eq!(contents(&file), [0; 4 * WORD]);
}

#[test]
fn words_change_as_atomics_do() {
    let (map, file) = map(4 * WORD);
    let at = WORD as u64;
    map.store(at, 5).unwrap();
    assert_eq!(map.swap(at, 6).unwrap(), 5);
    assert_eq!(map.fetch_add(at, usize::MAX).unwrap(), 6); // wraps around
    assert_eq!(map.fetch_or(at, 0b1010).unwrap(), 5);
    assert_eq!(map.fetch_and(at, 0b0111).unwrap(), 0b1111);
    assert_eq!(map.fetch_xor(at, 0b0101).unwrap(), 0b0111);
    assert_eq!(map.compare_exchange(at, 1, 9).unwrap(), Err(0b0010));
    assert_eq!(map.compare_exchange(at, 0b0010, 9).unwrap(), Ok(0b0010));
    assert_eq!(map.load(at).unwrap(), 9);
    let expected = [[0; WORD], 9_usize.to_ne_bytes(), [0; WORD], [0; WORD]].concat();
    assert_eq!(contents(&file), expected);
}

#[test]
fn an_empty_file_can_be_mapped() {
    let (map, _file) = map(0);
    assert!(map.is_empty());
    assert_eq!(map.to_vec(..).unwrap(), b"");
    assert!(map.write_at(0, &[1]).is_err() && map.load(0).is_err());
    assert!(!map.as_ptr().is_null() && map.as_ptr().addr() % 4096 == 0);
}

#[test]
fn the_pointer_leads_to_the_same_bytes() {
    let (map, file) = map(8192);
    map.write_at(5000, b"pixels").unwrap();
    // SAFETY: it lies within the map, and nobody writes meanwhile.
    assert_eq!(unsafe { map.as_ptr().wrapping_add(5000).read_volatile() }, b'p');
    // SAFETY: as above.
    unsafe { map.as_ptr().wrapping_add(5000).write_volatile(b'P') };
    assert_eq!(contents(&file)[5000..5006], *b"Pixels");
}

#[test]
fn threads_that_share_a_word_lose_no_byte() {
    /// How many bytes were found changed by somebody else, of one word of which each thread has one byte.
    fn lost(write: impl Fn(&SharedMap, u64, u8) + Sync) -> usize {
        let (map, _file) = map(WORD);
        let (lost, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for place in 0..WORD as u64 {
                let (map, write, lost, done) = (&map, &write, &lost, &done);
                scope.spawn(move || {
                    let (start, mut byte) = (Instant::now(), 0_u8);
                    // Until the control has seen what it is to see.
                    while !done.load(Relaxed) && start.elapsed() < patience().0 {
                        for _ in 0..1000 {
                            byte = byte.wrapping_add(1);
                            write(map, place, byte);
                            let mut found = [0];
                            map.read_at(place, &mut found).unwrap();
                            lost.fetch_add(usize::from(found != [byte]), Relaxed);
                        }
                    }
                });
            }
        });
        lost.into_inner()
    }
    assert_eq!(lost(|map, place, byte| map.write_at(place, &[byte]).unwrap()), 0);

    // Control: as somebody would who is the only writer.
    let only_writer = |map: &SharedMap, place: u64, byte| {
        let mut bytes = map.load(0).unwrap().to_ne_bytes();
        bytes[place as usize] = byte;
        map.store(0, usize::from_ne_bytes(bytes)).unwrap();
    };
    assert_ne!(lost(only_writer), 0, "the threads never met");
}

#[test]
fn counters_of_many_threads_are_exact() {
    let (map, _file) = map(4096);
    let times = rounds(20_000, 1_000_000);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let map = &map;
            scope.spawn(move || {
                for n in 0..times {
                    map.fetch_add(64, 1).unwrap();
                    map.fetch_xor(128, 1 << thread).unwrap();
                    // A counter by exchange, as a lock would be.
                    let mut old = map.load(192).unwrap();
                    while let Err(other) = map.compare_exchange(192, old, old + n % 2).unwrap() {
                        old = other;
                    }
                }
            });
        }
    });
    assert_eq!(map.load(64).unwrap(), THREADS * times);
    assert_eq!(map.load(128).unwrap(), 0);
    assert_eq!(map.load(192).unwrap(), THREADS * times / 2);
}

/// While several threads write, by whole words, files full of one byte each.
#[test]
fn no_word_is_ever_torn() {
    let len = 3 * 4096 + 3 * WORD;
    let (map, _file) = map(len);
    let done = AtomicBool::new(false);
    let (least, most) = patience();
    let mut mixed = false;
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        for salt in [0, 128] {
            let (map, done) = (&map, &done);
            scope.spawn(move || {
                for byte in (0..128).cycle().take_while(|_| !done.load(Relaxed)) {
                    map.write_at(0, &vec![byte + salt; len]).unwrap();
                }
            });
        }
        let start = Instant::now();
        while (!mixed || start.elapsed() < least) && start.elapsed() < most {
            let bytes = map.to_vec(..).unwrap();
            let whole = |word: &[u8]| word.iter().all(|byte| *byte == word[0]);
            assert_eq!(bytes.chunks_exact(WORD).position(|word| !whole(word)), None);
            // The control: writing and reading do meet.
            mixed |= !whole(&bytes);
        }
    });
    assert!(mixed, "the reader never met a writer");
}

/// A record is written before its number, so whoever reads a number finds its record or a later one.
#[test]
fn calls_are_seen_in_order() {
    let (file, _) = shared(4096 + 64);
    let (writer, reader) = (file.map_shared().unwrap(), file.map_shared().unwrap());
    let watcher = file.map_live().unwrap();
    let done = AtomicBool::new(false);
    let (least, most) = patience();
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        scope.spawn(|| {
            for number in (1_usize..).take_while(|_| !done.load(Relaxed)) {
                writer.write_at(4096, &number.to_ne_bytes().repeat(64 / WORD)).unwrap();
                match number % 3 {
                    0 => writer.store(64, number).unwrap(),
                    1 => writer.write_at(64, &number.to_ne_bytes()).unwrap(),
                    _ => drop(writer.swap(64, number).unwrap()),
                }
            }
        });
        let (start, mut changes, mut before) = (Instant::now(), 0, 0);
        while start.elapsed() < least || (changes < 100 && start.elapsed() < most) {
            let number = if changes % 2 == 0 { reader.load(64) } else { watcher.load(64) }.unwrap();
            let mut record = [0; WORD];
            reader.read_at(4096 + 64 - WORD as u64, &mut record).unwrap();
            let record = usize::from_ne_bytes(record);
            assert!(number <= record, "number {number} before its record, {record}");
            assert!(before <= number, "{before} was seen before {number}");
            changes += u32::from(number != before);
            before = number;
        }
        assert!(changes >= 100, "the reader saw {changes} changes");
    });
}

#[test]
fn a_shared_map_outlives_its_file_and_shows_no_contents() {
    let (map, file) = map(8);
    drop(file);
    map.write_at(0, b"SECRET").unwrap();
    let text = format!("{map:?}");
    assert!(text.starts_with("SharedMap") && text.contains('8') && !text.contains("SECRET"));
    let read = thread::spawn(move || map.to_vec(..6).unwrap());
    assert_eq!(read.join().unwrap(), b"SECRET");
}
