//! Reads LAS and LAZ as raw records plus the numbers in them.

use crate::Result;
use crate::cloud::PointCloud;
use crate::io::input::Input;
use crate::io::scan::{Chunk, Reader, Records, Source as AnySource, Warning, WarningKind};

use super::Source;
use super::header::{Header, Tail};
use super::layout::{self, Field};

/// Where records come from, compressed or not.
pub(super) trait Body {
    /// Appends exactly `points` records.
    fn read(&mut self, input: &mut Input, points: usize, out: &mut Vec<u8>) -> Result<()>;

    /// Byte of the file behind the last record, once all are read.
    fn end(&self) -> u64;
}

/// Records that lie in the file as they are.
struct Plain {
    record_len: usize,
    at: u64,
}

impl Body for Plain {
    fn read(&mut self, input: &mut Input, points: usize, out: &mut Vec<u8>) -> Result<()> {
        input.seek(self.at)?;
        let bytes = input.bytes((points * self.record_len) as u64, "point records")?;
        self.at += bytes.len() as u64;
        if out.is_empty() {
            *out = bytes;
        } else {
            out.extend_from_slice(&bytes);
        }
        Ok(())
    }

    fn end(&self) -> u64 {
        self.at
    }
}

pub(super) struct LasReader {
    input: Input,
    source: Source,
    fields: Vec<Field>,
    schema: PointCloud,
    body: Box<dyn Body>,
    done: u64,
    low: [f64; 3],
    high: [f64; 3],
    warnings: Vec<Warning>,
}

impl LasReader {
    pub fn open(mut input: Input) -> Result<Self> {
        let header = Header::read(&mut input)?;
        let (vlrs, gap) = header.read_vlrs(&mut input)?;
        let body: Box<dyn Body> = if header.compressed {
            open_compressed(&mut input, &header, &vlrs)?
        } else {
            Box::new(Plain {
                record_len: header.record_len,
                at: header.data_offset,
            })
        };
        let mut warnings = Vec::new();
        let tail = read_tail(&mut input, &header, &mut warnings)?;
        let source = Source {
            header,
            vlrs,
            gap,
            tail,
        };
        let (extras, lost) = source.extras();
        if lost > 0 {
            warnings.push(Warning::new(
                WarningKind::SkippedRecords,
                lost,
                format!(
                    "{lost} descriptions of extra bytes do not fit the records and are not used"
                ),
            ));
        }
        let fields = layout::all_fields(source.header.format, &extras);
        let axes = (source.header.scale, source.header.offset);
        Ok(LasReader {
            schema: layout::decode(&[], source.header.record_len, &fields, axes),
            input,
            source,
            fields,
            body,
            done: 0,
            low: [f64::INFINITY; 3],
            high: [f64::NEG_INFINITY; 3],
            warnings,
        })
    }

    /// Compares the header's bounding box with that of the points; two steps of the grid are rounding.
    fn check_bounds(&mut self) {
        let header = &self.source.header;
        let near = |axis: usize, a: f64, b: f64| {
            (a - b).abs() <= 2.0 * header.scale[axis].abs() + 1e-9 * a.abs()
        };
        let (low, high) = header.bounds;
        let agree = (0..3).all(|i| near(i, low[i], self.low[i]) && near(i, high[i], self.high[i]));
        if self.done > 0 && !agree {
            self.warnings.push(Warning::new(
                WarningKind::BoundingBox,
                self.done,
                format!(
                    "the header's bounding box {low:?} to {high:?} is not that of the points, {:?} to {:?}; the \
                     points count",
                    self.low, self.high
                ),
            ));
        }
    }
}

#[cfg(feature = "laz")]
fn open_compressed(
    input: &mut Input,
    header: &Header,
    vlrs: &[super::header::Vlr],
) -> Result<Box<dyn Body>> {
    Ok(Box::new(super::laz::Compressed::open(input, header, vlrs)?))
}

#[cfg(not(feature = "laz"))]
fn open_compressed(
    input: &mut Input,
    _header: &Header,
    _vlrs: &[super::header::Vlr],
) -> Result<Box<dyn Body>> {
    Err(super::no_laz(input.path()))
}

/// Everything behind the points that the header speaks of, and for plain LAS whatever else is there.
fn read_tail(input: &mut Input, header: &Header, warnings: &mut Vec<Warning>) -> Result<Tail> {
    let extended = (header.evlr_count > 0).then_some(header.evlr_start);
    let waveform = (header.waveform_start > 0).then_some(header.waveform_start);
    let least = match header.compressed {
        true => header.data_offset,
        false => header.data_offset + header.count * header.record_len as u64,
    };
    let start = (extended.into_iter().chain(waveform))
        .filter(|s| (least..input.size()).contains(s))
        .min();
    let start = match (start, header.compressed) {
        (Some(start), true) => start,
        (None, true) => input.size(),
        (_, false) => least,
    };
    let (tail, lost) = Tail::read(input, header, start)?;
    if lost > 0 {
        warnings.push(Warning::new(
            WarningKind::SkippedRecords,
            lost,
            format!("{lost} extended variable-length records do not lie inside the file and are left out"),
        ));
    }
    Ok(tail)
}

impl Reader for LasReader {
    fn schema(&self) -> &PointCloud {
        &self.schema
    }

    fn count(&self) -> Option<u64> {
        Some(self.source.header.count)
    }

    fn held(&self) -> u64 {
        // A writer works on a copy.
        2 * self.source.tail.bytes.len() as u64
    }

    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>> {
        let left = self.source.header.count - self.done;
        let points = left.min(max as u64) as usize;
        if points == 0 {
            return Ok(None);
        }
        let header = &self.source.header;
        let mut bytes = Vec::new();
        self.body.read(&mut self.input, points, &mut bytes)?;
        let axes = (header.scale, header.offset);
        let cloud = layout::decode(&bytes, header.record_len, &self.fields, axes);
        for p in &cloud.coord {
            for (axis, &x) in p.iter().enumerate() {
                self.low[axis] = self.low[axis].min(x);
                self.high[axis] = self.high[axis].max(x);
            }
        }
        self.done += points as u64;
        Ok(Some(Chunk {
            cloud,
            records: Records::fixed(bytes, header.record_len),
        }))
    }

    fn finish(mut self: Box<Self>) -> Result<(AnySource, Vec<Warning>)> {
        self.check_bounds();
        let behind = self.input.size() - self.body.end().min(self.input.size());
        let known = &self.source.tail.records;
        if !self.source.header.compressed
            && behind > 0
            && known.is_empty()
            && self.source.header.waveform_start == 0
        {
            self.warnings.push(Warning::new(
                WarningKind::LeftOver,
                behind,
                format!("{behind} bytes follow the last point; they are kept but not understood"),
            ));
        }
        Ok((AnySource::Las(Box::new(self.source)), self.warnings))
    }
}
