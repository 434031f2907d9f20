//! A map is as good as the bytes in it: it compares, sorts, hashes and iterates like them, and is
//! aligned whatever its length.

mod support;

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Bound;
use std::process::{Command, Stdio};

use sealed_mmap::{ReadOnlyMap, SealPolicy, SealedFile};
use support::pattern;

fn map_of(bytes: impl AsRef<[u8]>) -> ReadOnlyMap {
    SealedFile::from_bytes("bytes", bytes).unwrap().map_read_only().unwrap()
}

#[test]
fn maps_compare_with_each_other_and_with_bytes() {
    let (map, same, other) = (map_of("abc"), map_of(b"abc"), map_of(vec![b'a', b'b', b'd']));
    assert_eq!(map, same);
    assert_ne!(map, other);
    assert!(map < other);
    assert!(map < b"abd"[..]);
    assert_eq!(map, *b"abc");
    assert_eq!(map, b"abc");
    assert_eq!(map, b"abc"[..]);
    assert_eq!(map, &b"abc"[..]);
    assert_eq!(map, b"abc".to_vec());
    assert_eq!(b"abc"[..], map);
    assert_eq!(*b"abc", map);
    assert_eq!(b"abc", map);
    assert_eq!(&b"abc"[..], map);
    assert_eq!(b"abc".to_vec(), map);
    assert_ne!(map, b"ab"[..]);
    assert_eq!(map_of(""), map_of(""));
}

#[test]
fn maps_are_keys_that_bytes_find() {
    let hasher = RandomState::new();
    assert_eq!(hasher.hash_one(map_of("key")), hasher.hash_one(&b"key"[..]));
    let mut values = HashMap::new();
    values.insert(map_of("key"), 1);
    assert_eq!(values.get(&b"key"[..]), Some(&1));
    let sorted: BTreeSet<_> = ["b", "a", ""].map(map_of).into_iter().collect();
    assert!(sorted.contains(&b"a"[..]) && !sorted.contains(&b"c"[..]));
    assert_eq!(sorted.iter().map(|map| map.len()).collect::<Vec<_>>(), [0, 1, 1]);
    let map = map_of("borrowed");
    let borrowed: &[u8] = map.borrow();
    assert_eq!(borrowed, b"borrowed");
}

#[test]
fn a_map_is_iterated_like_a_slice() {
    let map = map_of(pattern(1000));
    let mut sum = 0_u64;
    for byte in &map {
        sum += u64::from(*byte);
    }
    assert_eq!(sum, pattern(1000).iter().map(|byte| u64::from(*byte)).sum());
}

/// What a cast to a type of this alignment asks for.
fn alignment(bytes: &[u8]) -> u32 {
    bytes.as_ptr().addr().trailing_zeros()
}

#[test]
fn an_empty_map_is_aligned_like_any_other() {
    const PAGE: u32 = 12;

    let nothing = SealedFile::from_bytes("nothing", b"").unwrap();
    let received = SealedFile::receive_read_only(nothing, &SealPolicy::untrusted(1)).unwrap();
    assert!(alignment(&received.map_read_only().unwrap()) >= PAGE);
    assert!(alignment(&received.map_range(..).unwrap()) >= PAGE);
    assert!(alignment(&SealedFile::create("nothing").unwrap().map_mut().unwrap()) >= PAGE);
    let file = SealedFile::from_bytes("bytes", pattern(10_000)).unwrap();
    for start in [0, 1, 8, 4096, 9_999, 10_000] {
        assert!(alignment(&file.map_range(start..start).unwrap()) >= PAGE, "{start}");
    }
    // Others are as far behind a page as their range.
    for start in [0, 8, 4096, 4104] {
        let map = file.map_range(start..).unwrap();
        assert_eq!(map.as_ptr().addr() % 4096, start as usize % 4096);
    }
}

#[test]
fn every_form_of_range_is_understood() {
    let bytes = pattern(10);
    let file = SealedFile::from_bytes("bytes", &bytes).unwrap();
    assert_eq!(file.map_range(..).unwrap(), bytes);
    assert_eq!(file.map_range(3..).unwrap(), bytes[3..]);
    assert_eq!(file.map_range(..3).unwrap(), bytes[..3]);
    assert_eq!(file.map_range(..=3).unwrap(), bytes[..=3]);
    assert_eq!(file.map_range(3..=9).unwrap(), bytes[3..=9]);
    assert_eq!(file.map_range((Bound::Excluded(3), Bound::Unbounded)).unwrap(), bytes[4..]);
    assert_eq!(file.map_range(10..).unwrap(), bytes[10..]);
    let behind = file.map_range(11..).unwrap_err().to_string();
    assert_eq!(behind, "offset 11 is beyond the 10 bytes there are");
    file.map_range(..=10).unwrap_err();
    file.map_range(..=u64::MAX).unwrap_err();
    file.map_range((Bound::Excluded(u64::MAX), Bound::Unbounded)).unwrap_err();
    #[allow(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
    let reversed = file.map_range(5..3).unwrap_err().to_string();
    assert_eq!(reversed, "the range that begins at offset 5 ends before it begins");
}

#[test]
fn a_shared_reference_reads_and_seeks() {
    let file = SealedFile::from_bytes("bytes", b"hello").unwrap();
    let mut reader = &file;
    reader.seek(SeekFrom::Start(1)).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "ello");
}

#[test]
fn a_child_gets_all_of_a_draft_that_was_written() {
    let mut draft = SealedFile::create("standard input").unwrap();
    std::io::Write::write_all(&mut draft, b"all of it").unwrap();
    let file = draft.seal_read_only().unwrap();
    let Ok(child) = Command::new("cat")
        .stdin(Stdio::from(file.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
    else {
        return eprintln!("not tested: there is no cat here");
    };
    assert_eq!(child.wait_with_output().unwrap().stdout, b"all of it");

    // Control: the offset is the description's, and nobody else's to go back.
    let mut control = SealedFile::create("control").unwrap().into_file();
    std::io::Write::write_all(&mut control, b"all of it").unwrap();
    let mut read = Vec::new();
    control.read_to_end(&mut read).unwrap();
    assert!(read.is_empty());
}

#[test]
fn debug_output_tells_name_length_and_seals() {
    let file = SealedFile::from_bytes("frame 7", b"hello").unwrap();
    let text = format!("{file:?}");
    for part in ["ReadOnlySealed", "\"frame 7\"", "len: 5", "seal|shrink|grow|write"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(format!("{:?}", SealedFile::create("draft").unwrap()).contains("Unsealed"));
    let policy = SealPolicy::untrusted(1 << 20).owner(1000);
    let expected = "SealPolicy { require: grow, len: at most 1048576, owner: 1000, reserve: true }";
    assert_eq!(format!("{policy:?}"), expected);
    assert_eq!(format!("{:?}", SealPolicy::new()), "SealPolicy");
}
