//! The records of a bag, chunks opened.
//!
//! | part | bytes |
//! |---|---|
//! | mark | 8 |
//! | record | u8 kind; u64 length; content |
//! | chunk, the content of a record | u64 first and last time; u64 length and u32 CRC of the records in it; compression, a string; u64 length; the records, compressed |
//!
//! Source: <https://mcap.dev/spec>. The outer records are told apart here, since nothing can be longer than the file; a chunk
//! goes to the crate `mcap` as if it were all of a file. The crate counts below zero where a record runs past the end of a
//! chunk that is not compressed, so such chunks are gone through first.

use std::path::Path;

use mcap::records::{Record, op};
use mcap::sans_io::linear_reader::{LinearReadEvent, LinearReader, LinearReaderOptions};

use super::lengths;
use crate::io::input::{Input, read_le};
use crate::{Error, Result};

/// Bytes of kind and length.
const HEAD: usize = 9;
/// Bytes given to the crate at a time.
const PIECE: usize = 1 << 18;
/// A record may be this many times as long as the file: chunks are compressed.
const EXPANSION: u64 = 64;

type See<'a> = dyn FnMut(Record<'_>) -> Result<()> + 'a;

/// Hands every record of the data part to `see`, without those that only say where others are.
pub fn read(path: &Path, see: &mut See<'_>) -> Result<()> {
    let mut input = Input::open(path)?;
    let mark = input.bytes(mcap::MAGIC.len() as u64, "mark of a bag")?;
    if mark != mcap::MAGIC {
        return Err(input.malformed("byte 0", "not a bag (MCAP)"));
    }
    let longest = input.size().saturating_mul(EXPANSION) + (1 << 20);
    while input.remaining() > 0 {
        let place = format!("record at byte {}", input.position());
        let head = input.bytes(HEAD as u64, "kind and length of a record")?;
        let content = input.bytes(read_le!(head, 1, u64), "record")?;
        let fault = |fault: String| Error::malformed(path, place.clone(), fault);
        match head[0] {
            // Behind it there are copies and indexes only.
            op::DATA_END => return Ok(()),
            op::CHUNK => chunk(&[head, content].concat(), longest, &fault, see)?,
            kind => give(kind, &content, &fault, see)?,
        }
    }
    let fault = "the bag ends without the end of its data; it is cut short";
    Err(input.malformed(format!("byte {}", input.size()), fault))
}

fn give(
    kind: u8,
    content: &[u8],
    fault: &dyn Fn(String) -> Error,
    see: &mut See<'_>,
) -> Result<()> {
    match lengths::check(kind, content).map_err(fault)? {
        true => see(mcap::parse_record(kind, content).map_err(|e| fault(e.to_string()))?),
        false => Ok(()),
    }
}

/// Opens a chunk, given as a whole record; no record in it may be longer than `longest`.
fn chunk(
    record: &[u8],
    longest: u64,
    fault: &dyn Fn(String) -> Error,
    see: &mut See<'_>,
) -> Result<()> {
    let content = &record[HEAD..];
    lengths::check(op::CHUNK, content).map_err(fault)?;
    if read_le!(content, 28, u32) == 0 {
        let length = read_le!(content, 32, u64);
        let records = content[40..].get(..usize::try_from(length).unwrap_or(usize::MAX));
        let short = || {
            fault(format!(
                "a chunk of {length} bytes is promised, it has fewer"
            ))
        };
        walk(records.ok_or_else(short)?).map_err(fault)?;
    }
    let longest = longest.min(read_le!(content, 16, u64)).max(HEAD as u64);
    let options = LinearReaderOptions::default()
        .with_skip_start_magic(true)
        .with_skip_end_magic(true)
        .with_validate_chunk_crcs(true)
        .with_record_length_limit(usize::try_from(longest).unwrap_or(usize::MAX));
    let mut reader = LinearReader::new_with_options(options);
    let mut rest = record;
    while let Some(event) = reader.next_event() {
        match event.map_err(|e| fault(e.to_string()))? {
            LinearReadEvent::ReadRequest(wanted) => {
                let some;
                (some, rest) = rest.split_at(wanted.clamp(1, PIECE).min(rest.len()));
                reader.insert(some.len()).copy_from_slice(some);
                reader.notify_read(some.len());
            }
            LinearReadEvent::Record { data, opcode } => give(opcode, data, fault, see)?,
        }
    }
    Ok(())
}

/// Goes through the records of a chunk that is not compressed.
fn walk(mut records: &[u8]) -> std::result::Result<(), String> {
    while !records.is_empty() {
        let (head, rest) = records
            .split_at_checked(HEAD)
            .ok_or("the chunk ends inside a record")?;
        let length = read_le!(head, 1, u64);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        records = rest.get(length..).ok_or_else(|| {
            let there = rest.len();
            format!("a record of {length} bytes is promised in a chunk with {there} left")
        })?;
    }
    Ok(())
}
