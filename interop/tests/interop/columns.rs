//! Tables: Arrow in place, from one process to another, and parquet.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, StringViewArray};
use arrow_buffer::Buffer;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{FileDecoder, StreamDecoder, read_footer_length};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_ipc::{Block, root_as_footer};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};

use crate::lies_in;
use crate::process::{Peer, role};

const ROWS: i64 = 10_000;

fn batch(first: i64) -> Result<RecordBatch> {
    let ids = first..first + ROWS;
    let names: StringArray = ids.clone().map(|id| Some(format!("row number {id}"))).collect();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    Ok(RecordBatch::try_from_iter([("id", ids), ("name", Arc::new(names) as ArrayRef)])?)
}

/// All batches of an IPC file, in place.
fn batches(file: &Buffer) -> Result<Vec<RecordBatch>> {
    let (rest, trailer) = file.split_last_chunk().context("no trailer")?;
    let (_, footer) = rest
        .len()
        .checked_sub(read_footer_length(*trailer)?)
        .and_then(|start| rest.split_at_checked(start))
        .context("no footer")?;
    let footer = root_as_footer(footer)?;
    let schema = fb_to_schema(footer.schema().context("no schema")?);
    let mut decoder =
        FileDecoder::new(Arc::new(schema), footer.version()).with_require_alignment(true); // an error, instead of a copy
    let part = |block: &Block| {
        let start = usize::try_from(block.offset()).ok()?;
        let len = block.bodyLength().checked_add(block.metaDataLength().into())?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= file.len()).then(|| file.slice_with_length(start, end - start))
    };
    for block in footer.dictionaries().into_iter().flatten() {
        decoder.read_dictionary(block, &part(block).context("a dictionary is cut off")?)?;
    }
    let mut batches = Vec::new();
    for block in footer.recordBatches().into_iter().flatten() {
        let part = part(block).context("a batch is cut off")?;
        batches.extend(decoder.read_record_batch(block, &part)?);
    }
    Ok(batches)
}

/// The other process.
fn receive(socket: UnixStream) -> Result<(usize, i64, String)> {
    let (_, fd) = recv_fd(&socket, &mut [0; 5])?;
    let fd = fd.context("no descriptor")?;
    let table = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(1 << 24))?;
    let map = Bytes::from_owner(table.map_read_only()?);
    let batches = batches(&Buffer::from(map.clone()))?;

    let mut sum = 0;
    for batch in &batches {
        let ids = batch.column(0).as_primitive::<Int64Type>().values();
        let names = batch.column(1).as_string::<i32>();
        sum += ids.iter().sum::<i64>();
        ensure!(lies_in(ids, &map) && lies_in(names.value_data(), &map), "a column was copied");
        ensure!(lies_in(names.value_offsets(), &map), "offsets were copied");
    }
    let last = batches.last().context("no batch")?.column(1).as_string::<i32>().value(99).into();
    Ok((batches.len(), sum, last))
}

#[test]
fn columns_lie_in_the_map_of_the_other_process() -> Result<()> {
    if let Some(role) = role() {
        let (batches, sum, last) = receive(role.fd.into())?;
        let mut parent = role.parent;
        parent.tell(format!("{batches} {sum} {last}"));
        return Ok(());
    }
    let (socket, theirs) = UnixStream::pair()?;
    let mut reader =
        Peer::start("columns::columns_lie_in_the_map_of_the_other_process", "reader", theirs);
    let (first, second) = (batch(0)?, batch(ROWS)?);

    let draft = SealedFile::create("table")?;
    let mut writer = FileWriter::try_new_buffered(draft, &first.schema())?;
    writer.write(&first)?;
    writer.write(&second)?;
    let draft = writer.into_inner()?.into_inner()?; // finishes the file, and empties the buffer
    let table = draft.seal_read_only()?;
    send_fds(&socket, b"table", &[table.as_fd()])?;

    let sum = (0..2 * ROWS).sum::<i64>();
    assert_eq!(reader.channel.hear(), format!("2 {sum} row number {}", ROWS + 99));
    assert!(reader.wait().success());
    Ok(())
}

#[test]
fn a_stream_of_batches_is_decoded_in_place() -> Result<()> {
    let sent = batch(0)?;
    let mut writer = StreamWriter::try_new_buffered(SealedFile::create("stream")?, &sent.schema())?;
    writer.write(&sent)?;
    let file = writer.into_inner()?.into_inner()?.seal_read_only()?;

    let map = Bytes::from_owner(file.map_read_only()?);
    let mut rest = Buffer::from(map.clone());
    let mut decoder = StreamDecoder::new().with_require_alignment(true);
    let batch = decoder.decode(&mut rest)?.context("no batch")?;

    assert!(lies_in(batch.column(0).as_primitive::<Int64Type>().values(), &map));
    assert_eq!(batch, sent);
    Ok(())
}

#[test]
fn a_stream_that_is_not_aligned_is_copied_unless_that_is_an_error() -> Result<()> {
    let sent = batch(0)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &sent.schema())?;
    writer.write(&sent)?;
    let file = SealedFile::from_bytes("moved", [&[0], &writer.into_inner()?[..]].concat())?;
    let map = Bytes::from_owner(file.map_range(1..)?);
    let decode = |mut decoder: StreamDecoder| decoder.decode(&mut Buffer::from(map.clone()));

    let copied = decode(StreamDecoder::new())?.context("no batch")?;
    assert_eq!(copied, sent);
    assert!(!lies_in(copied.column(0).as_primitive::<Int64Type>().values(), &map));
    let error = decode(StreamDecoder::new().with_require_alignment(true)).unwrap_err();
    assert!(error.to_string().contains("align"), "{error}");
    Ok(())
}

#[test]
fn an_ipc_file_that_is_not_aligned_is_an_error() -> Result<()> {
    let sent = batch(0)?;
    let mut writer = FileWriter::try_new(Vec::new(), &sent.schema())?;
    writer.write(&sent)?;
    let bytes = writer.into_inner()?;
    let file = SealedFile::from_bytes("moved", [&[0], &bytes[..]].concat())?;
    let moved = Buffer::from(Bytes::from_owner(file.map_range(1..)?));
    let error = batches(&moved).unwrap_err();
    assert!(error.to_string().contains("align"), "{error}");
    Ok(())
}

#[test]
fn an_ipc_file_that_is_cut_off_is_an_error() -> Result<()> {
    let sent = batch(0)?;
    let mut writer = FileWriter::try_new(Vec::new(), &sent.schema())?;
    writer.write(&sent)?;
    let bytes = writer.into_inner()?;
    assert_eq!(batches(&Buffer::from(bytes.clone()))?, [sent]);
    // From the front, so that the footer is whole and its offsets lie beyond the end.
    for cut in [1, 8, bytes.len() / 2, bytes.len() - 600, bytes.len() - 10, bytes.len()] {
        assert!(batches(&Buffer::from(&bytes[cut..])).is_err(), "{cut}");
    }
    Ok(())
}

#[test]
fn parquet_decodes_from_bytes_and_strings_stay() -> Result<()> {
    let sent = StringViewArray::from_iter_values((0..ROWS).map(|n| format!("row number {n:09}")));
    let sent = RecordBatch::try_from_iter([("name", Arc::new(sent) as ArrayRef)])?;
    let plain = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .build();
    let mut writer =
        ArrowWriter::try_new(SealedFile::create("table")?, sent.schema(), Some(plain))?;
    writer.write(&sent)?;
    let file = writer.into_inner()?.seal_read_only()?;

    let map = Bytes::from_owner(file.map_read_only()?);
    let reader = ParquetRecordBatchReaderBuilder::try_new(map.clone())?.build()?;
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;

    let names = batches[0].column(0).as_string_view();
    assert_eq!(names.value(7), "row number 000000007");
    assert!(lies_in(names.value(7).as_bytes(), &map));
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), ROWS as usize);
    Ok(())
}
