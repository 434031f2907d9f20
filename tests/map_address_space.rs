//! Files that are too long for a mapping, or for one in a 32-bit process, are received all the same
//! and mapped in parts. They consist of holes and take next to no memory.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use sealed_mmap::{SealPolicy, SealedFile};

const GIB: u64 = 1 << 30;
const IS_32_BIT: bool = usize::BITS == 32;

/// A file from a peer: `len` bytes, zero but for what `writes` puts at the offsets.
fn received(len: u64, writes: &[(u64, &[u8])]) -> SealedFile {
    let mut draft = SealedFile::create("long").unwrap();
    draft.set_len(len).unwrap();
    for (offset, bytes) in writes {
        draft.write_all_at(bytes, *offset).unwrap();
    }
    let sent = OwnedFd::from(draft.seal_read_only().unwrap());
    SealedFile::receive_read_only(sent, &SealPolicy::new()).unwrap()
}

#[test]
fn three_gibibytes_are_mapped_whole_unless_32_bit() {
    let len = 3 * GIB;
    let file = received(len, &[(len - 3, b"end")]);
    assert_eq!(file.len().unwrap(), len);
    if IS_32_BIT {
        assert_eq!(file.map_read_only().unwrap_err().kind(), ErrorKind::FileTooLarge);
    } else {
        assert!(file.map_read_only().unwrap().ends_with(b"\0end"));
    }
}

#[test]
fn a_range_needs_the_same_room_as_a_file() {
    let file = received(3 * GIB, &[]);
    let one_too_many = i32::MAX as usize + 1;
    if IS_32_BIT {
        let error = file.map_range(1..1 + one_too_many as u64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    } else {
        assert_eq!(file.map_range(1..1 + one_too_many as u64).unwrap().len(), one_too_many);
    }
}

#[test]
fn an_offset_beyond_32_bits_is_not_cut_off() {
    let offset = 4 * GIB + 5;
    let file = received(5 * GIB, &[(5, b"cut off"), (offset, b"meant")]);
    assert_eq!(&file.map_range(offset..offset + 5).unwrap()[..], b"meant");
    assert_eq!(&file.map_range(5..12).unwrap()[..], b"cut off");
}

#[test]
fn a_file_longer_than_any_address_space_is_mapped_in_parts() {
    // A 32-bit mmap(2) reaches 2^32 pages, which is 16 TiB.
    let within_reach = 15 << 40;
    let file = received(i64::MAX as u64, &[(within_reach, b"here")]);
    let kind = if IS_32_BIT { ErrorKind::FileTooLarge } else { ErrorKind::OutOfMemory };
    assert_eq!(file.map_read_only().unwrap_err().kind(), kind);
    assert_eq!(&file.map_range(within_reach..within_reach + 4).unwrap()[..], b"here");
}

#[test]
fn a_length_that_no_slice_can_have_is_refused_before_filling() {
    let len = isize::MAX as u64 + 1;
    let error = SealedFile::build("long", len, |_| unreachable!()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
}
