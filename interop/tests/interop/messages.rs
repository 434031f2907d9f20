//! Messages that are read where they lie: rkyv, flatbuffers, capnp, serde_json.

use std::borrow::Cow;

use anyhow::{Context, Result};
use arrow_ipc::{KeyValue, KeyValueArgs};
use capnp::message;
use capnp::schema_capnp::node;
use capnp::serialize::{self, BufferSegments};
use flatbuffers::FlatBufferBuilder;
use rkyv::rancor;
use rkyv::ser::writer::IoWriter;
use sealed_mmap::SealedFile;
use serde::Deserialize;

use crate::lies_in;

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Frame {
    name: String,
    samples: Vec<u32>,
}

#[test]
fn rkyv_accesses_what_it_has_written_into_the_draft() -> Result<()> {
    let frame = Frame { name: "left camera, daylight".into(), samples: (0..1000).collect() };

    let draft = IoWriter::new(SealedFile::create("frame")?);
    let draft = rkyv::api::high::to_bytes_in::<_, rancor::Error>(&frame, draft)?.into_inner();
    let file = draft.seal_read_only()?;

    let map = file.map_read_only()?;
    let frame = rkyv::access::<ArchivedFrame, rancor::Error>(&map)?;

    assert_eq!(&*frame.name, "left camera, daylight");
    assert_eq!(frame.samples[999], 999);
    assert!(lies_in(frame.name.as_bytes(), &map) && lies_in(&frame.samples, &map));
    Ok(())
}

#[test]
fn rkyv_refuses_a_range_that_is_not_aligned() -> Result<()> {
    let frame = Frame { name: "a name that is not inlined".into(), samples: vec![1, 2, 3] };
    let bytes = rkyv::to_bytes::<rancor::Error>(&frame)?;
    for begin in 0..8 {
        let file = SealedFile::from_bytes("frame", [&vec![0; begin], &bytes[..]].concat())?;
        let range = file.map_range(begin as u64..)?;
        let accessed = rkyv::access::<ArchivedFrame, rancor::Error>(&range);
        assert_eq!(accessed.is_ok(), begin % align_of::<ArchivedFrame>() == 0, "{begin}");
    }
    Ok(())
}

#[test]
fn flatbuffers_reads_tables_in_the_map() -> Result<()> {
    let mut builder = FlatBufferBuilder::new();
    let [key, value] = ["camera", "left"].map(|text| Some(builder.create_string(text)));
    let pair = KeyValue::create(&mut builder, &KeyValueArgs { key, value });
    builder.finish(pair, None);

    let file = SealedFile::from_bytes("pair", builder.finished_data())?;
    let map = file.map_read_only()?;
    let pair = flatbuffers::root::<KeyValue>(&map)?;
    let value = pair.value().context("no value")?;

    assert_eq!(value, "left");
    assert!(lies_in(value.as_bytes(), &map));

    // The verifier looks at offsets within the slice, and numbers are read byte by byte.
    let moved = SealedFile::from_bytes("moved", [&[0], builder.finished_data()].concat())?;
    assert_eq!(flatbuffers::root::<KeyValue>(&moved.map_range(1..)?)?.value(), Some("left"));
    Ok(())
}

#[test]
fn a_capnp_reader_owns_the_map() -> Result<()> {
    let mut message = message::Builder::new_default();
    message.init_root::<node::Builder<'_>>().set_display_name("left camera");
    let mut draft = SealedFile::create("node")?;
    serialize::write_message(&mut draft, &message)?;
    let file = draft.seal_read_only()?;

    let map = file.map_read_only()?;
    let begin = map.as_ptr_range();
    let options = message::ReaderOptions::new();
    let message = message::Reader::new(BufferSegments::new(map, options)?, options);
    let node: node::Reader<'_> = message.get_root()?;
    let name = node.get_display_name()?;

    assert_eq!(name, "left camera");
    assert!(begin.contains(&name.as_bytes().as_ptr()));
    Ok(())
}

#[test]
fn capnp_refuses_a_range_that_is_not_aligned() -> Result<()> {
    let mut message = message::Builder::new_default();
    message.init_root::<node::Builder<'_>>().set_display_name("left camera");
    let bytes = serialize::write_message_to_words(&message);
    let options = message::ReaderOptions::new();
    for begin in 0..=8 {
        let file = SealedFile::from_bytes("node", [&vec![0; begin], &bytes[..]].concat())?;
        let range = BufferSegments::new(file.map_range(begin as u64..)?, options)?;
        let message = message::Reader::new(range, options);
        let is_aligned = begin % 8 == 0;
        assert_eq!(message.get_root::<node::Reader<'_>>().is_ok(), is_aligned, "{begin}");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Config<'a> {
    name: &'a str,
    #[serde(borrow)]
    title: Cow<'a, str>,
    #[serde(borrow)]
    note: Cow<'a, str>,
}

#[test]
fn serde_json_borrows_strings_from_the_map() -> Result<()> {
    let text = br#"{ "name": "left", "title": "Left camera", "note": "two\nlines" }"#;
    let map = SealedFile::from_bytes("config.json", text)?.map_read_only()?;

    let config: Config<'_> = serde_json::from_slice(&map)?;

    assert!(lies_in(config.name.as_bytes(), &map));
    assert!(matches!(config.title, Cow::Borrowed(title) if lies_in(title.as_bytes(), &map)));
    assert!(matches!(config.note, Cow::Owned(note) if note == "two\nlines"));
    Ok(())
}
