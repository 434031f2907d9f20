//! Types that own bytes, or read them: bytes, ownedbytes, `Cursor` and `BufRead`.

use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

use anyhow::{Context, Result};
use bytes::Bytes;
use ownedbytes::OwnedBytes;
use sealed_mmap::SealedFile;

use crate::lies_in;

#[test]
fn bytes_and_their_slices_own_the_map() -> Result<()> {
    let file = SealedFile::from_bytes("message", b"a header and a body")?;
    let map = file.map_read_only()?;
    let begin = map.as_ptr();

    let bytes = Bytes::from_owner(map);
    let body = bytes.slice(13..);

    assert_eq!(bytes.as_ptr(), begin);
    assert!(lies_in(&body, &bytes));
    drop((file, bytes));
    let body = std::thread::spawn(move || body).join().unwrap();
    assert_eq!((&body[..], body.as_ptr()), (&b"a body"[..], begin.wrapping_add(13)));
    Ok(())
}

#[test]
fn the_last_slice_of_bytes_ends_the_map() -> Result<()> {
    let file = SealedFile::from_bytes("unmapped", [7; 100])?;
    let is_mapped = || -> Result<bool> {
        Ok(std::fs::read_to_string("/proc/self/maps")?.contains("/memfd:unmapped"))
    };
    let bytes = Bytes::from_owner(file.map_read_only()?);
    let last = bytes.slice(90..).slice(..1);
    drop((file, bytes));
    assert!(is_mapped()?);
    drop(last);
    assert!(!is_mapped()?);
    Ok(())
}

#[test]
fn owned_bytes_own_the_map() -> Result<()> {
    let map = SealedFile::from_bytes("segment", b"postings and positions")?.map_read_only()?;
    let begin = map.as_ptr();

    let (postings, positions) = OwnedBytes::new(map).split(9);

    assert_eq!((&postings[..], &positions[..]), (&b"postings "[..], &b"and positions"[..]));
    assert_eq!(postings.as_ptr(), begin);
    assert_eq!(positions.as_ptr(), begin.wrapping_add(9));
    Ok(())
}

#[test]
fn a_cursor_reads_and_seeks_in_the_map() -> Result<()> {
    let map = SealedFile::from_bytes("record", b"\x05\0\0\0hello and more")?.map_read_only()?;
    let begin = map.as_ptr();

    let mut cursor = Cursor::new(map);
    let mut len = [0; 4];
    cursor.read_exact(&mut len)?;
    let rest = cursor.fill_buf()?;
    let text = rest.get(..u32::from_le_bytes(len) as usize).context("too short")?;

    assert_eq!((text, text.as_ptr()), (&b"hello"[..], begin.wrapping_add(4)));
    cursor.seek(SeekFrom::End(-4))?;
    assert_eq!(cursor.fill_buf()?, b"more");
    Ok(())
}

#[test]
fn lines_are_split_in_place_or_read_without_a_map() -> Result<()> {
    let file = SealedFile::from_bytes("lines", b"one\ntwo\nthree")?;
    let map = file.map_read_only()?;

    let lines: Vec<&[u8]> = map.split(|byte| *byte == b'\n').collect();
    let copies: Vec<String> = BufReader::new(&file).lines().collect::<Result<_, _>>()?;

    assert_eq!(lines, [&b"one"[..], b"two", b"three"]);
    assert!(lines.iter().all(|line| lies_in(line, &map)));
    assert_eq!(copies, ["one", "two", "three"]);
    Ok(())
}
