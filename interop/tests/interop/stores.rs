//! Files with an index: fst, safetensors.

use std::io::BufWriter;

use anyhow::Result;
use fst::SetBuilder;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sealed_mmap::SealedFile;

use crate::lies_in;

#[test]
fn an_fst_owns_the_map() -> Result<()> {
    let mut words = SetBuilder::new(BufWriter::new(SealedFile::create("words")?))?;
    words.extend_iter(["apple", "apricot", "banana"])?;
    let file = words.into_inner()?.into_inner()?.seal_read_only()?;

    let map = file.map_read_only()?;
    let begin = map.as_ptr();
    let words = fst::Set::new(map)?;

    assert!(words.contains("apricot") && !words.contains("cherry"));
    assert_eq!(words.as_fst().as_bytes().as_ptr(), begin);
    Ok(())
}

#[test]
fn safetensors_views_the_map() -> Result<()> {
    let values: Vec<f32> = (0..6).map(|n| n as f32).collect();
    let weight = TensorView::new(Dtype::F32, vec![2, 3], bytemuck::cast_slice(&values))?;
    let model = safetensors::serialize([("weight", weight)], None)?;
    let file = SealedFile::from_bytes("model", model)?;

    let map = file.map_read_only()?;
    let model = SafeTensors::deserialize(&map)?;
    let weight = model.tensor("weight")?;
    let values: &[f32] = bytemuck::try_cast_slice(weight.data())?;

    assert_eq!((weight.shape(), values[5]), (&[2, 3][..], 5.0));
    assert!(lies_in(values, &map));
    Ok(())
}
