//! Writes LAS and LAZ: from LAS with every bit kept, or from the attributes of any cloud.

use std::io::Seek;

use crate::cloud::PointCloud;
use crate::io::atomic::Atomic;
use crate::io::input::read_le;
use crate::io::scan::{Labels, Output, Records, Scan, Source as AnySource, Warning, Writer};
use crate::io::{check_batch, check_total};
use crate::{Error, Result};

use super::fresh::Fresh;
use super::kept::Kept;
use super::layout;

/// Whether the points are compressed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Packing {
    Plain,
    #[cfg(feature = "laz")]
    Compressed,
}

/// Where records go.
enum Sink {
    Plain(Atomic),
    #[cfg(feature = "laz")]
    Packed(Box<super::laz::Packer>),
}

/// How records are made.
pub(super) enum Recipe {
    /// From the records of a LAS file.
    Kept(Kept),
    /// From attributes.
    Fresh(Fresh),
}

/// The parts of the file around the points.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// Header block; places and counts are filled in here.
    pub header: Vec<u8>,
    /// Variable-length records as stored, and how many.
    pub vlrs: Vec<u8>,
    pub vlr_count: u32,
    pub gap: Vec<u8>,
    pub tail: super::header::Tail,
    pub format: u8,
    pub record_len: usize,
    pub scale: [f64; 3],
    pub offset: [f64; 3],
}

impl Frame {
    /// Moves what the header says about the bytes behind the points to where they are now.
    fn place_tail(&mut self, start: u64) {
        let tail = &self.tail;
        let moved = |at: u64| match at.checked_sub(tail.start) {
            Some(inside) if inside < tail.bytes.len() as u64 => start + inside,
            // A place that never was inside the file says as much as before.
            _ => at,
        };
        if self.header[25] >= 3 && self.header.len() >= 235 {
            let at = moved(read_le!(self.header, 227, u64));
            put(&mut self.header, 227, &at.to_le_bytes());
        }
        if self.header[25] >= 4 {
            let first = tail
                .records
                .first()
                .map_or(0, |r| start + r.span.start as u64);
            let count = tail.records.len() as u32;
            put(&mut self.header, 235, &first.to_le_bytes());
            put(&mut self.header, 243, &count.to_le_bytes());
        }
    }
}

pub(super) fn create(
    mut output: Atomic,
    plan: &Output<'_>,
    packing: Packing,
) -> Result<Box<dyn Writer>> {
    let (mut frame, recipe, warnings) = match plan.source {
        AnySource::Las(source) => {
            let (frame, kept, warnings) = Kept::plan(source, plan, output.path())?;
            (frame, Recipe::Kept(kept), warnings)
        }
        _ => {
            let (frame, fresh, warnings) = Fresh::plan(plan, output.path())?;
            (frame, Recipe::Fresh(fresh), warnings)
        }
    };
    #[cfg_attr(
        not(feature = "laz"),
        allow(unused_mut, reason = "only LAZ marks the format")
    )]
    let mut format_byte = frame.format;
    #[cfg(feature = "laz")]
    if packing == Packing::Compressed {
        format_byte |= 0x80;
        super::laz::laszip_vlr(frame.format, frame.record_len).put(&mut frame.vlrs);
        frame.vlr_count += 1;
    }
    let start = frame.header.len() + frame.vlrs.len() + frame.gap.len();
    let start = u32::try_from(start).map_err(|_| {
        Error::unusable(output.path(), "more than 4 GiB of variable-length records")
    })?;
    put(&mut frame.header, 96, &start.to_le_bytes());
    put(&mut frame.header, 100, &frame.vlr_count.to_le_bytes());
    frame.header[104] = format_byte;
    let record_len = u16::try_from(frame.record_len).map_err(|_| {
        let fault = format!("records of {} bytes; LAS holds 65535", frame.record_len);
        Error::unusable(output.path(), fault)
    })?;
    put(&mut frame.header, 105, &record_len.to_le_bytes());
    output.put(&frame.header)?;
    output.put(&frame.vlrs)?;
    output.put(&frame.gap)?;
    let sink = match packing {
        Packing::Plain => Sink::Plain(output),
        #[cfg(feature = "laz")]
        Packing::Compressed => {
            let packer = super::laz::Packer::new(output, frame.format, frame.record_len)?;
            Sink::Packed(Box::new(packer))
        }
    };
    Ok(Box::new(LasWriter {
        sink,
        frame,
        recipe,
        warnings,
        promised: plan.count,
        done: 0,
        labelled: plan.classes.is_some(),
        low: [i32::MAX; 3],
        high: [i32::MIN; 3],
        by_return: [0; 16],
    }))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Says why LAS cannot hold a scan with these class codes.
pub(super) fn check(scan: &Scan, codes: &[i32]) -> std::result::Result<(), String> {
    let format = match &scan.source {
        AnySource::Las(source) => source.header.format,
        _ => {
            let lost = scan.cloud.len() - scan.cloud.usable_rows().len();
            if lost > 0 {
                return Err(format!(
                    "{lost} points have no usable coordinates, which LAS cannot hold; write PLY or PCD instead"
                ));
            }
            6
        }
    };
    let mut record = vec![0; layout::record_len(format).expect("formats are checked on reading")];
    (codes.iter()).try_for_each(|&code| set_class(&mut record, format, code))
}

/// Sets the class of a record. Code −1 stands for a point without a prediction and is stored as 0, which LAS defines as
/// "never classified".
pub(super) fn set_class(
    record: &mut [u8],
    format: u8,
    code: i32,
) -> std::result::Result<(), String> {
    let most = if layout::is_long(format) { 255 } else { 31 };
    let code = if code == -1 { 0 } else { code };
    if !(0..=most).contains(&code) {
        return Err(format!(
            "class code {code} does not fit point format {format}, which holds 0 to {most}; map the classes to smaller \
             codes or write PLY"
        ));
    }
    if layout::is_long(format) {
        record[16] = code as u8;
    } else {
        // The upper three bits are the flags synthetic, key point and withheld.
        record[15] = record[15] & 0xe0 | code as u8;
    }
    Ok(())
}

struct LasWriter {
    sink: Sink,
    frame: Frame,
    recipe: Recipe,
    warnings: Vec<Warning>,
    promised: u64,
    done: u64,
    labelled: bool,
    /// Bounds in grid steps.
    low: [i32; 3],
    high: [i32; 3],
    /// Points by return number.
    by_return: [u64; 16],
}

impl LasWriter {
    fn path(&self) -> &std::path::Path {
        match &self.sink {
            Sink::Plain(output) => output.path(),
            #[cfg(feature = "laz")]
            Sink::Packed(packer) => packer.path(),
        }
    }

    fn note(&mut self, records: &[u8]) {
        let width = if layout::is_long(self.frame.format) {
            0x0f
        } else {
            0x07
        };
        for record in records.chunks_exact(self.frame.record_len) {
            for axis in 0..3 {
                let b = &record[4 * axis..4 * axis + 4];
                let step = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                self.low[axis] = self.low[axis].min(step);
                self.high[axis] = self.high[axis].max(step);
            }
            self.by_return[usize::from(record[14] & width)] += 1;
        }
    }

    /// Header fields that depend on the points.
    fn complete_header(&mut self) {
        complete_counts(
            &mut self.frame.header,
            self.frame.format,
            self.done,
            &self.by_return,
        );
        let frame = &mut self.frame;
        if self.done == 0 {
            return;
        }
        for axis in 0..3 {
            let (scale, offset) = (frame.scale[axis], frame.offset[axis]);
            let ends = [self.high[axis], self.low[axis]].map(|s| f64::from(s) * scale + offset);
            let ends = if scale < 0.0 {
                [ends[1], ends[0]]
            } else {
                ends
            };
            for (i, end) in ends.into_iter().enumerate() {
                let at = 179 + 16 * axis + 8 * i;
                let stored = read_le!(frame.header, at, f64);
                // A right box stays as its first writer rounded it.
                let is_right = (stored - end).abs() <= scale.abs();
                if !is_right {
                    put(&mut frame.header, at, &end.to_le_bytes());
                }
            }
        }
    }
}

/// What the header says of how many points there are, all and by return: right as it was, or as it is now.
///
/// LAS 1.4 has these numbers twice: bytes 107 to 130 hold those that fit 32 bits and five returns, for older programs, or
/// zeros.
fn complete_counts(header: &mut [u8], format: u8, points: u64, by_return: &[u64; 16]) {
    // Returns are counted from 1; some writers take the number 0 for the first.
    let first = by_return[0] + by_return[1];
    let mut returns: [u64; 15] = std::array::from_fn(|i| by_return[i + 1]);
    let is_long = header[25] >= 4;
    if is_long {
        put(header, 247, &points.to_le_bytes());
        let stored = |i: usize| read_le!(header, 255 + 8 * i, u64);
        let is_right = (1..15).all(|i| stored(i) == returns[i]);
        let is_unknown = (0..15).all(|i| stored(i) == 0);
        if !(is_unknown || is_right && [first, returns[0]].contains(&stored(0))) {
            returns[0] = first;
            for (i, count) in returns.iter().enumerate() {
                put(header, 255 + 8 * i, &count.to_le_bytes());
            }
        }
    }
    let stored = |i: usize| u64::from(read_le!(header, 107 + 4 * i, u32));
    let is_empty = is_long && (0..6).all(|i| stored(i) == 0);
    let is_right = stored(0) == points && (2..6).all(|i| stored(i) == returns[i - 1]);
    if is_empty || is_right && [first, by_return[1]].contains(&stored(1)) {
        return;
    }
    let numbers = [
        points, first, returns[1], returns[2], returns[3], returns[4],
    ];
    let fits = !is_long || format < 6 && points <= u64::from(u32::MAX);
    for (i, number) in numbers.into_iter().enumerate() {
        let number = if fits { number as u32 } else { 0 };
        put(header, 107 + 4 * i, &number.to_le_bytes());
    }
}

impl Writer for LasWriter {
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        let native = matches!(self.recipe, Recipe::Kept(_)).then_some(records);
        check_batch(cloud, native, labels, self.labelled)?;
        // Some records at a time: a second copy of a large scan would cost as much as the scan.
        const SOME: usize = 4096;
        let mut bytes = Vec::with_capacity(SOME.min(cloud.len()) * self.frame.record_len);
        for start in (0..cloud.len()).step_by(SOME) {
            let rows = start..cloud.len().min(start + SOME);
            bytes.clear();
            let made = match &self.recipe {
                Recipe::Kept(kept) => kept.records(records, rows, labels, &mut bytes),
                Recipe::Fresh(fresh) => fresh.records(cloud, rows, labels, &mut bytes),
            };
            made.map_err(|fault| Error::unusable(self.path(), fault))?;
            self.note(&bytes);
            match &mut self.sink {
                Sink::Plain(output) => output.put(&bytes)?,
                #[cfg(feature = "laz")]
                Sink::Packed(packer) => packer.put(&bytes)?,
            }
        }
        self.done += cloud.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Warning>> {
        check_total(self.path(), self.promised, self.done)?;
        self.complete_header();
        let LasWriter {
            sink,
            mut frame,
            warnings,
            ..
        } = *self;
        #[cfg_attr(
            not(feature = "laz"),
            allow(
                clippy::infallible_destructuring_match,
                reason = "one variant without LAZ"
            )
        )]
        let mut output = match sink {
            Sink::Plain(output) => output,
            #[cfg(feature = "laz")]
            Sink::Packed(packer) => packer.finish()?,
        };
        let end = (output.seek(std::io::SeekFrom::End(0))).map_err(|e| output.io(e))?;
        frame.place_tail(end);
        output.put(&frame.tail.bytes)?;
        output.go(0)?;
        output.put(&frame.header)?;
        output.finish()?;
        Ok(warnings)
    }
}
