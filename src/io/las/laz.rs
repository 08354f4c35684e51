//! The compressed point data of LAZ, through the crate `laz` but for the layers of point formats 6 to 10.
//!
//! | bytes | holds |
//! |---|---|
//! | 8 | where the chunk table starts, i64 (missing in the oldest, pointwise form) |
//! | … | chunks: the first record as it is, then coded differences; formats 6 to 10 put each field into a layer |
//! | 8 + … | chunk table: version u32, count u32, coded sizes |
//!
//! The crate trusts what it reads: it allocates what counts and sizes ask for before a byte is missing. So the chunk table
//! is checked here first, against the bytes that are there, and the crate only ever sees one whole chunk in memory. It does
//! not decode layers here at all; `layered` says why.

use std::io::Cursor;

use laz::laszip::{ChunkTable, CompressorType};
use laz::{LasZipCompressor, LazItem, LazItemRecordBuilder, LazItemType, LazVlr, LazVlrBuilder};

use crate::io::atomic::Atomic;
use crate::io::input::{Input, read_le};
use crate::{Error, Result};

use super::decode::{Decoder, guarded};
use super::header::{Header, Vlr};
use super::layered::Layered;
use super::layout;
use super::reader::Body;

/// Points that one compressed byte can stand for at most. Equal points in layers of length zero reach about 700 at the
/// usual 50 000 points per chunk; more is a lie.
const DENSEST: u64 = 1024;

/// Extra bytes of a point that go through the crate `laz`, which makes a table of 1.3 kB for each (for each scanner channel,
/// when it writes formats 6 to 10) however small the file is. Descriptions have room for 341 numbers of eight bytes.
const MOST_EXTRA: usize = 4096;

/// Where the LASzip record lists the fields of points, bytes.
const ITEMS: usize = 34;

/// One run of compressed points.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    bytes: u64,
    points: u64,
}

pub(super) struct Compressed {
    items: Vec<LazItem>,
    record_len: usize,
    /// Spans still to read, last first.
    spans: Vec<Span>,
    decoder: Option<Decoder>,
    /// Points that the open decoder still holds.
    left: u64,
    done: u64,
    end: u64,
}

/// The compression parameters and how the points are cut into chunks.
struct Plan {
    items: Vec<LazItem>,
    form: CompressorType,
    /// Points per chunk; `None` when the chunk table has them.
    chunk_points: Option<u64>,
}

fn read_plan(input: &Input, header: &Header, vlrs: &[Vlr]) -> Result<Plan> {
    let fault = |text: String| input.malformed("LASzip record", text);
    let vlr = vlrs
        .iter()
        .find(|v| v.is(LazVlr::USER_ID, LazVlr::RECORD_ID))
        .ok_or_else(|| {
            fault("missing, though the header says that the points are compressed".into())
        })?;
    if vlr.data.len() < ITEMS {
        return Err(fault(format!(
            "{} bytes long; at least {ITEMS} are needed",
            vlr.data.len()
        )));
    }
    let parsed = LazVlr::from_buffer(&vlr.data).map_err(|e| fault(e.to_string()))?;
    let form = match read_le!(vlr.data, 0, u16) {
        1 => CompressorType::PointWise,
        2 => CompressorType::PointWiseChunked,
        3 => CompressorType::LayeredChunked,
        other => return Err(fault(format!("compressor {other}; 1, 2 and 3 can be read"))),
    };
    let least = layout::record_len(header.format).expect("the header was checked");
    let extra = (header.record_len - least) as u16;
    let expected = LazItemRecordBuilder::default_for_point_format_id(header.format, extra)
        .map_err(|e| fault(e.to_string()))?;
    let layered = form == CompressorType::LayeredChunked;
    if !layered && usize::from(extra) > MOST_EXTRA {
        return Err(fault(format!(
            "{extra} extra bytes in a point of format {}; {MOST_EXTRA} can be unpacked: turn the file into LAS with another tool",
            header.format
        )));
    }
    let fits = parsed.items().len() == expected.len()
        && (parsed.items().iter().zip(&expected)).all(|(a, b)| {
            a.item_type() == b.item_type()
                && a.size() == b.size()
                && matches!((layered, a.version()), (false, 1 | 2) | (true, 3 | 4))
        });
    if !fits {
        return Err(fault(format!(
            "its fields are not those of point format {} with {extra} extra bytes",
            header.format
        )));
    }
    Ok(Plan {
        items: parsed.items().clone(),
        form,
        chunk_points: (!parsed.uses_variable_size_chunks()).then(|| u64::from(parsed.chunk_size())),
    })
}

/// Where the chunk table starts.
fn table_start(input: &mut Input, header: &Header) -> Result<u64> {
    let first = header.data_offset + 8;
    input.seek(header.data_offset)?;
    let mut start = read_le!(input.bytes(8, "chunk table offset")?, 0, i64);
    if start == -1 {
        // A writer that could not go back put the offset behind everything.
        input.seek(input.size() - 8)?;
        start = read_le!(input.bytes(8, "chunk table offset")?, 0, i64);
    }
    match u64::try_from(start) {
        Ok(start) if start >= first && start + 8 <= input.size() => Ok(start),
        _ => Err(input.malformed(
            format!("byte {}", header.data_offset),
            format!(
                "the chunk table is said to start at byte {start}, outside the file of {} bytes; the file is cut short \
                 or was never finished",
                input.size()
            ),
        )),
    }
}

fn read_table(input: &mut Input, header: &Header, plan: &Plan) -> Result<Vec<Span>> {
    if header.count == 0 {
        return Ok(Vec::new());
    }
    if plan.form == CompressorType::PointWise {
        return Ok(vec![Span {
            start: header.data_offset,
            bytes: input.size() - header.data_offset,
            points: header.count,
        }]);
    }
    let table = table_start(input, header)?;
    let first = header.data_offset + 8;
    let place = format!("chunk table at byte {table}");
    input.seek(table)?;
    let head = input.bytes(8, "chunk table")?;
    let chunks = u64::from(read_le!(head, 4, u32));
    // Each chunk stores its first record as it is.
    let most = (table - first) / header.record_len as u64;
    if chunks > most {
        return Err(input.malformed(
            place,
            format!("{chunks} chunks promised, but the compressed points have room for {most}"),
        ));
    }
    input.seek(table)?;
    let coded = input.bytes(input.remaining().min(8 + chunks * 16 + 64), "chunk table")?;
    let variable = plan.chunk_points.is_none();
    let entries = guarded(|| ChunkTable::read(&mut Cursor::new(coded), variable))
        .map_err(|text| input.malformed(place.clone(), text))?;
    let mut spans = Vec::new();
    let mut start = first;
    let mut left = header.count;
    for (i, entry) in entries.into_iter().enumerate() {
        let points = plan.chunk_points.unwrap_or(entry.point_count).min(left);
        let fits =
            entry.byte_count <= table - start && points <= entry.byte_count.saturating_mul(DENSEST);
        if !fits {
            return Err(input.malformed(
                place,
                format!(
                    "chunk {i} of {} bytes and {points} points does not fit the file",
                    entry.byte_count
                ),
            ));
        }
        if points > 0 {
            spans.push(Span {
                start,
                bytes: entry.byte_count,
                points,
            });
        }
        start += entry.byte_count;
        left -= points;
    }
    if left > 0 {
        return Err(input.malformed(
            format!("point {}", header.count - left),
            format!(
                "the chunk table ends here, but the header promises {} points",
                header.count
            ),
        ));
    }
    Ok(spans)
}

impl Compressed {
    pub fn open(input: &mut Input, header: &Header, vlrs: &[Vlr]) -> Result<Self> {
        let plan = read_plan(input, header, vlrs)?;
        let mut spans = read_table(input, header, &plan)?;
        let promised = header.count;
        if promised > input.size().saturating_mul(DENSEST) {
            return Err(input.malformed(
                "header byte 107",
                format!("{promised} points cannot be held by {} bytes", input.size()),
            ));
        }
        let end = spans
            .last()
            .map_or(header.data_offset, |s| s.start + s.bytes);
        spans.reverse();
        Ok(Compressed {
            items: plan.items,
            record_len: header.record_len,
            spans,
            decoder: None,
            left: 0,
            done: 0,
            end,
        })
    }

    fn open_next(&mut self, input: &mut Input) -> Result<()> {
        let span = self
            .spans
            .pop()
            .expect("the spans hold all points of the header");
        input.seek(span.start)?;
        let bytes = input.bytes(span.bytes, "compressed points")?;
        let decoder = match self.items[0].version() {
            3 | 4 => Layered::open(&self.items, &bytes).map(|l| Decoder::Layered(Box::new(l))),
            _ => Decoder::sequential(&self.items, bytes),
        };
        let place = || format!("chunk at byte {}, point {}", span.start, self.done);
        self.decoder = Some(decoder.map_err(|text| input.malformed(place(), text))?);
        self.left = span.points;
        Ok(())
    }
}

impl Body for Compressed {
    fn read(&mut self, input: &mut Input, points: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut wanted = points as u64;
        while wanted > 0 {
            if self.left == 0 {
                self.open_next(input)?;
            }
            let some = wanted.min(self.left);
            let start = out.len();
            out.resize(start + some as usize * self.record_len, 0);
            let decoder = self.decoder.as_mut().expect("opened above");
            let rows = &mut out[start..];
            (decoder
                .read(rows, self.record_len)
                .map_err(|e| input.io(e))?)
            .map_err(|text| input.malformed(format!("chunk with point {}", self.done), text))?;
            self.left -= some;
            self.done += some;
            wanted -= some;
        }
        Ok(())
    }

    fn end(&self) -> u64 {
        self.end
    }
}

/// Compresses records into an output.
pub(super) struct Packer {
    inner: LasZipCompressor<'static, Atomic>,
}

/// The record that tells readers how the points are compressed.
pub(super) fn laszip_vlr(format: u8, record_len: usize) -> Vlr {
    let mut data = Vec::new();
    (parameters(format, record_len).write_to(&mut data)).expect("writing to memory cannot fail");
    // The wave packets of formats 4 and 5 have one version only, of which the crate makes two that are the same; LASzip
    // itself refuses the second. Items: type, size, version.
    for item in data[ITEMS..].chunks_exact_mut(6) {
        if read_le!(item, 0, u16) == u16::from(LazItemType::WavePacket13) {
            item[4..].copy_from_slice(&1u16.to_le_bytes());
        }
    }
    Vlr::new(
        LazVlr::USER_ID,
        LazVlr::RECORD_ID,
        LazVlr::DESCRIPTION,
        data,
    )
}

fn extra_bytes(format: u8, record_len: usize) -> usize {
    record_len - layout::record_len(format).expect("formats are checked on reading")
}

fn parameters(format: u8, record_len: usize) -> LazVlr {
    LazVlrBuilder::default()
        .with_point_format(format, extra_bytes(format, record_len) as u16)
        .expect("formats are checked on reading")
        .build()
}

impl Packer {
    /// Starts compressing at the present end of the output.
    pub fn new(output: Atomic, format: u8, record_len: usize) -> Result<Self> {
        let path = output.path().to_path_buf();
        let extra = extra_bytes(format, record_len);
        if extra > MOST_EXTRA {
            let fault = format!(
                "{extra} extra bytes in a point; {MOST_EXTRA} can be packed: choose a name that ends in .las"
            );
            return Err(Error::unusable(path, fault));
        }
        let inner = LasZipCompressor::new(output, parameters(format, record_len))
            .map_err(|e| Error::unusable(path, e.to_string()))?;
        Ok(Packer { inner })
    }

    /// The final name of the output.
    pub fn path(&self) -> &std::path::Path {
        self.inner.get().path()
    }

    /// Appends whole records.
    pub fn put(&mut self, records: &[u8]) -> Result<()> {
        let done = self.inner.compress_many(records);
        done.map_err(|e| self.inner.get().io(e))
    }

    /// Writes the chunk table and gives the output back.
    pub fn finish(mut self) -> Result<Atomic> {
        let done = self.inner.done();
        done.map_err(|e| self.inner.get().io(e))?;
        Ok(self.inner.into_inner())
    }
}
