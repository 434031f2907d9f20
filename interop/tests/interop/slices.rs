//! Slices of other types than bytes: zerocopy, bytemuck, ndarray.

use anyhow::{Context, Result};
use ndarray::ArrayView2;
use sealed_mmap::SealedFile;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::lies_in;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Point {
    x: f32,
    y: f32,
}

fn points() -> Vec<Point> {
    (0..1000).map(|n| Point { x: n as f32, y: -(n as f32) }).collect()
}

#[test]
fn zerocopy_sees_the_whole_and_a_range() -> Result<()> {
    let sent = points();
    let file = SealedFile::from_bytes("points", sent.as_bytes())?;

    let map = file.map_read_only()?;
    let all = <[Point]>::ref_from_bytes(&map).ok().context("not a number of points")?;
    let tail = file.map_range(800..)?; // a multiple of the alignment of `Point`
    let tail = <[Point]>::ref_from_bytes(&tail).ok().context("not a number of points")?;

    assert!(lies_in(all, &map));
    assert_eq!((all, tail), (&sent[..], &sent[100..]));
    Ok(())
}

#[test]
fn a_range_is_aligned_as_its_first_byte_is() -> Result<()> {
    let file = SealedFile::from_bytes("points", points().as_bytes())?;
    for begin in 0..64 {
        let range = file.map_range(begin..begin + 8)?;
        let is_aligned = begin % align_of::<Point>() as u64 == 0;
        assert_eq!(<[Point]>::ref_from_bytes(&range).is_ok(), is_aligned, "{begin}");
        assert_eq!(bytemuck::try_cast_slice::<u8, u32>(&range).is_ok(), is_aligned, "{begin}");
    }
    // Also where nothing is mapped, and where a slice is not a whole number of values.
    assert_eq!(<[Point]>::ref_from_bytes(&file.map_range(8..8)?).unwrap(), []);
    assert!(<[Point]>::ref_from_bytes(&file.map_range(..12)?).is_err());
    Ok(())
}

#[test]
fn bytemuck_fills_in_place_and_reads_in_place() -> Result<()> {
    let mut draft = SealedFile::create("samples")?;
    draft.set_len(4096)?;
    bytemuck::try_cast_slice_mut::<u8, f32>(&mut draft.map_mut()?)?.fill(0.5);
    let file = draft.seal_read_only()?;

    let map = file.map_read_only()?;
    let samples: &[f32] = bytemuck::try_cast_slice(&map)?;
    let range = file.map_range(1024..2048)?;
    let quarter: &[f32] = bytemuck::try_cast_slice(&range)?;

    assert_eq!((samples, quarter), (&[0.5; 1024][..], &[0.5; 256][..]));
    assert!(lies_in(samples, &map) && lies_in(quarter, &range));
    Ok(())
}

#[test]
fn ndarray_views_the_map() -> Result<()> {
    let values: Vec<f32> = (0..12).map(|n| n as f32).collect();
    let map = SealedFile::from_bytes("matrix", values.as_bytes())?.map_read_only()?;

    let matrix = ArrayView2::from_shape((3, 4), bytemuck::try_cast_slice::<u8, f32>(&map)?)?;
    let column = matrix.column(1);

    assert_eq!(column.to_vec(), [1.0, 5.0, 9.0]);
    assert_eq!(matrix.as_ptr().cast(), map.as_ptr());
    assert_eq!(column.as_ptr(), matrix.as_ptr().wrapping_add(1));
    assert!(ArrayView2::from_shape((4, 4), bytemuck::try_cast_slice::<u8, f32>(&map)?).is_err());
    Ok(())
}
