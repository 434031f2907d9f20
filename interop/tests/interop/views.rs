//! Parsed views that own the map they look into: self_cell, yoke; and the trait behind yoke.

use anyhow::Result;
use sealed_mmap::{PrivateMap, ReadOnlyMap, SealedFile};
use self_cell::self_cell;
use serde::Deserialize;
use stable_deref_trait::StableDeref;
use yoke::Yoke;

use crate::lies_in;

#[derive(Deserialize)]
struct Config<'a> {
    name: &'a str,
}

self_cell!(
    struct OwnedConfig {
        owner: ReadOnlyMap,
        #[covariant]
        dependent: Config,
    }
);

#[test]
fn a_self_cell_owns_the_map_that_it_parsed() -> Result<()> {
    let map = SealedFile::from_bytes("config.json", br#"{ "name": "left" }"#)?.map_read_only()?;

    let config = OwnedConfig::try_new(map, |map| serde_json::from_slice(map))?;

    let config = std::thread::spawn(move || config).join().unwrap();
    assert_eq!(config.borrow_dependent().name, "left");
    assert!(lies_in(config.borrow_dependent().name.as_bytes(), config.borrow_owner()));
    Ok(())
}

#[test]
fn a_yoke_owns_the_map_that_it_parsed() -> Result<()> {
    let map = SealedFile::from_bytes("words", "two words")?.map_read_only()?;

    let words: Yoke<&'static str, ReadOnlyMap> =
        Yoke::try_attach_to_cart(map, |bytes| std::str::from_utf8(bytes))?;

    let moved = Box::new(words);
    assert_eq!(*moved.get(), "two words");
    assert!(lies_in(moved.get().as_bytes(), moved.backing_cart()));
    Ok(())
}

fn address<M: StableDeref<Target = [u8]>>(map: &M) -> (*const u8, usize) {
    (map.as_ptr(), map.len())
}

#[test]
fn the_bytes_stay_where_they_are_when_a_map_moves() -> Result<()> {
    let file = SealedFile::from_bytes("stays", vec![7; 100_000])?;
    let empty = SealedFile::from_bytes("empty", "")?;
    for map in [file.map_read_only()?, file.map_range(4097..)?, empty.map_read_only()?] {
        let before = address(&map);
        map.populate().or_else(|error| match error.kind() {
            std::io::ErrorKind::Unsupported => Ok(()),
            _ => Err(error),
        })?;
        let moved = std::thread::spawn(move || Box::new(map)).join().unwrap();
        assert_eq!(address::<ReadOnlyMap>(&moved), before);
    }
    for mut map in [file.map_private()?, empty.map_private()?] {
        let before = address(&map);
        map.fill(8);
        assert_eq!(map.as_mut_ptr().cast_const(), before.0);
        let moved = std::thread::spawn(move || Box::new(map)).join().unwrap();
        assert_eq!(address::<PrivateMap>(&moved), before);
    }
    Ok(())
}
