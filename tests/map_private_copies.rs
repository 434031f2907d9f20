//! What is written to a private map stays in it, and takes a page for each page written.

mod support;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use rustix::mm::MapFlags;
use sealed_mmap::{PrivateMap, SealPolicy, SealedFile};
use support::files::{IMMUTABLE, WHOLE, contents, filled, map_writable, read_only, sealed};
use support::mapping::{Mapping, READ_WRITE};
use support::pattern;
use support::process::Forked;

const LEN: usize = 1 << 20;

/// Every way to see the contents of the file.
#[track_caller]
fn assert_contents(file: &SealedFile, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == expected, "read(2)");
    assert!(file.map_read_only().unwrap() == expected, "a map for reading");
    assert!(file.map_private().unwrap()[..] == *expected, "a private map");
    let copy = SealedFile::copy_of("copy", file, expected.len() as u64).unwrap();
    assert!(copy.map_read_only().unwrap() == expected, "a copy");
}

#[test]
fn what_is_written_stays_in_the_map() {
    let bytes = pattern(LEN);
    let file = SealedFile::from_bytes("snapshot", &bytes).unwrap();
    let older = file.map_read_only().unwrap();
    let (mut first, mut second) = (file.map_private().unwrap(), file.map_private().unwrap());
    assert!(first[..] == bytes && second[..] == bytes);

    // Attack: every byte of one map, and a byte of each page of the other.
    first.fill(b'!');
    second.iter_mut().step_by(4096).for_each(|byte| *byte ^= 0xff);
    assert!(first.iter().all(|byte| *byte == b'!'));
    assert!(older == bytes);
    assert_contents(&file, &bytes);
    drop(first);
    assert_contents(&file, &bytes);
    let expected = bytes.iter().enumerate();
    let expected = expected.map(|(at, byte)| if at % 4096 == 0 { byte ^ 0xff } else { *byte });
    assert!(second.iter().copied().eq(expected));

    // Control: the same writes through a mapping that is not private.
    let plain = filled(&bytes);
    map_writable(&plain).fill(b'!');
    assert!(contents(&plain).iter().all(|byte| *byte == b'!'));
}

#[test]
fn every_descriptor_of_the_file_can_be_mapped_privately() {
    let bytes = pattern(5000);
    for file in [
        SealedFile::try_from(sealed(&bytes, IMMUTABLE)).unwrap(),
        SealedFile::try_from(sealed(&bytes, WHOLE)).unwrap(),
        SealedFile::try_from(read_only(&sealed(&bytes, WHOLE))).unwrap(),
        SealedFile::from_bytes("reopened", &bytes).unwrap().reopen().unwrap(),
    ] {
        let mut map = file.map_private().unwrap();
        assert_eq!(map.len(), bytes.len());
        map.reverse();
        map.reverse();
        assert!(map[..] == bytes);
        map.fill(0);
        assert_contents(&file, &bytes);
    }
}

#[test]
fn a_map_does_not_reach_what_the_file_gains() {
    let file = sealed(b"short", IMMUTABLE);
    let clone = file.try_clone().unwrap();
    let sealed = SealedFile::receive_read_only(file, &SealPolicy::new()).unwrap();
    let map = sealed.map_private().unwrap();
    clone.set_len(1 << 16).unwrap();
    assert_eq!(&map[..], b"short");
    assert_eq!(&sealed.map_private().unwrap()[..], b"short");
}

/// What the parent sees after its child has written `c`, and the child after its parent has written `p`.
fn seen_across_a_fork<M>(map: &mut M, get: fn(&M) -> u8, set: fn(&mut M, u8)) -> (char, char) {
    let mut child = Forked::that(|mut parent| {
        set(map, b'c');
        parent.write_all(b"written").unwrap();
        parent.read_exact(&mut [0; 7]).unwrap();
        parent.write_all(&[get(map)]).unwrap();
    });
    child.line.read_exact(&mut [0; 7]).unwrap();
    let by_parent = get(map);
    set(map, b'p');
    child.line.write_all(b"written").unwrap();
    let mut by_child = [0];
    child.line.read_exact(&mut by_child).unwrap();
    assert_eq!(child.finish().exit_status(), Some(0));
    (by_parent.into(), by_child[0].into())
}

#[test]
fn a_forked_child_has_a_copy_of_its_own() {
    let file = SealedFile::from_bytes("forked", b"file").unwrap();
    let mut untouched = file.map_private().unwrap();
    let mut written = file.map_private().unwrap();
    written[0] = b'w';
    let seen =
        |map: &mut PrivateMap| seen_across_a_fork(map, |map| map[0], |map, byte| map[0] = byte);
    assert_eq!(seen(&mut untouched), ('f', 'c'));
    assert_eq!(seen(&mut written), ('w', 'c'));
    assert_eq!((untouched[0], written[0]), (b'p', b'p'));
    assert_contents(&file, b"file");

    // Control: a shared mapping is one for both.
    let plain = filled(b"file");
    let mut shared = Mapping::new(&plain, 4, READ_WRITE, MapFlags::SHARED).unwrap();
    let seen = seen_across_a_fork(&mut shared, |map| map.get(0), |map, byte| map.set(0, byte));
    assert_eq!(seen, ('c', 'p'));
}

/// KiB of the mappings of a memfd of this name: pages of the process's own, and all that it has touched.
fn kib(name: &str) -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let of_name = maps.lines().skip_while(|line| !line.contains(&format!("/memfd:{name} ")));
    let value = |field: &str| -> usize {
        let line = of_name.clone().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (value("Anonymous:"), value("Rss:"))
}

#[test]
fn memory_is_taken_page_by_page_as_it_is_written() {
    const NAME: &str = "private-pages";
    let page = rustix::param::page_size();
    let file = SealedFile::from_bytes(NAME, pattern(LEN)).unwrap();
    let mut map = file.map_private().unwrap();
    assert_eq!(kib(NAME), (0, 0), "nothing is touched");
    let sum: usize = map.iter().map(|byte| usize::from(*byte)).sum();
    assert!(sum > 0);
    assert_eq!(kib(NAME), (0, LEN >> 10), "reading copies nothing");

    map[0] = 1;
    assert_eq!(kib(NAME).0, page >> 10);
    map[1..page].fill(1);
    assert_eq!(kib(NAME).0, page >> 10, "the same page");
    map[LEN - 1] = 1;
    assert_eq!(kib(NAME).0, (2 * page) >> 10);
    // Control.
    map.fill(1);
    assert_eq!(kib(NAME).0, LEN >> 10);
}

#[test]
fn a_debugger_changes_the_map_and_not_the_file() {
    let file = SealedFile::from_bytes("debugged", b"file").unwrap();
    let map = file.map_private().unwrap();
    let memory = File::options().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(b"!", map.as_ptr().addr() as u64).unwrap();
    assert_eq!(std::hint::black_box(&map)[..], *b"!ile");
    assert_contents(&file, b"file");
}

#[test]
fn an_empty_file_is_an_empty_slice_at_a_page() {
    let file = SealedFile::from_bytes("empty", b"").unwrap();
    let mut map = file.map_private().unwrap();
    map.fill(1);
    assert_eq!((map.len(), map.as_ptr().addr() % (64 << 10)), (0, 0));
    let full = SealedFile::from_bytes("full", b"x").unwrap().map_private().unwrap();
    assert_eq!(full.as_ptr().addr() % rustix::param::page_size(), 0);
}

#[test]
fn a_map_outlives_its_file_and_goes_to_other_threads() {
    let mut map = SealedFile::from_bytes("gone", pattern(LEN)).unwrap().map_private().unwrap();
    let map = thread::spawn(move || {
        thread::scope(|scope| {
            for part in map.chunks_mut(LEN / 8) {
                scope.spawn(|| part.sort());
            }
        });
        map
    });
    let map = Arc::new(map.join().unwrap());
    let clone = Arc::clone(&map);
    let sorted = move || clone.chunks(LEN / 8).all(|part| part.is_sorted());
    assert!(thread::spawn(sorted).join().unwrap());
    let as_bytes: &[u8] = (*map).as_ref();
    assert_eq!(as_bytes.len(), LEN);
}

#[test]
fn maps_of_one_file_are_made_and_dropped_without_end() -> io::Result<()> {
    const NAME: &str = "private-many";
    let file = SealedFile::from_bytes(NAME, pattern(9000))?;
    for round in 0..2000_usize {
        let mut map = file.map_private()?;
        map[round % 9000] = !map[round % 9000];
    }
    assert_eq!(support::runs::traces(NAME), (1, 0));
    assert_contents(&file, &pattern(9000));
    Ok(())
}
