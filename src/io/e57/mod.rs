//! E57 of terrestrial scanners: any number of clouds in one file, through the crate `e57`.
//!
//! All clouds of a file are read one behind the other, each moved by its pose, so that a scan is whole. Cartesian
//! coordinates are taken, else spherical ones; points that the file marks invalid have no coordinates. Attributes have
//! the union of the clouds' fields; where a cloud lacks one its value is NaN.
//!
//! Writing E57 from E57 copies the stored values of every field, the poses and descriptions, and adds the fields
//! `label` and `confidence` in a name space of their own, as the standard provides for; images are left out, with a
//! warning. Clouds from other formats become one cloud with double coordinates; attributes without a standard name go
//! into that name space too.
//!
//! The crate reads the XML part and writes; the points are read here (`packets.rs`). It does not compare the length of the
//! XML part or the promised number of points with the file; both are checked first. Its writer borrows the file, so it runs
//! in a thread of its own behind a short queue: memory does not grow with the file.

mod fields;
mod packets;
mod writer;

use std::path::{Path, PathBuf};

use e57::{E57Reader, RecordValue};

use crate::cloud::{Column, PointCloud};
use crate::{Error, Result};

use super::Detect;
use super::input::{Input, read_le};
use super::scan::{Chunk, Reader, Records, Source as AnySource, Warning};
use fields::{Fields, union, value_of};
use packets::{Pages, Points};

/// E57 in the list of formats.
pub const FORMAT: super::Format = super::Format {
    name: "E57",
    extensions: &["e57"],
    detect: Detect::Content(|head| head.starts_with(b"ASTM-E57")),
    open,
    create: writer::create,
    check: super::holds_everything,
};

/// Name space of fields that the standard does not know.
const SPACE: &str = "cairn";
/// Batches that wait for the writer.
const QUEUE: usize = 2;

/// The file that was read; its stored values are copied from there when E57 is written again.
#[derive(Debug, Clone)]
pub struct Source {
    /// `None` for bytes that a program held.
    path: Option<PathBuf>,
    clouds: usize,
    points: u64,
    has_crs: bool,
}

impl Source {
    /// Number of clouds.
    pub fn description(&self) -> String {
        match self.clouds {
            1 => "1 cloud".into(),
            n => format!("{n} clouds"),
        }
    }

    /// True when the file names a coordinate system.
    pub fn has_crs(&self) -> bool {
        self.has_crs
    }
}

/// A fault that the crate found.
fn fault(path: &Path, place: &str, error: &e57::Error) -> Error {
    let text: Vec<String> = (error.to_string().split_whitespace())
        .map(String::from)
        .collect();
    Error::malformed(path, place, text.join(" "))
}

/// The XML part. Its promised length is checked first: the crate would ask for that much.
fn read_xml(input: &mut Input) -> Result<E57Reader<&mut Input>> {
    let (path, size) = (input.path().to_path_buf(), input.size());
    let head = input.bytes(48, "header")?;
    let length = read_le!(head, 32, u64);
    if length > size {
        let fault = format!("an XML part of {length} bytes in a file of {size}; it is cut short");
        return Err(input.malformed("header byte 32", fault));
    }
    input.seek(0)?;
    E57Reader::new(input).map_err(|e| fault(&path, "header", &e))
}

struct E57File {
    schema: PointCloud,
    count: u64,
    pages: Pages,
    /// Clouds to read, last first.
    clouds: Vec<Fields>,
    /// What is left of the last of them, if it was begun.
    points: Option<Points>,
    /// The values of one point.
    values: Vec<RecordValue>,
    source: Source,
    images: usize,
    done: u64,
}

fn open(mut input: Input) -> Result<Box<dyn Reader>> {
    let path = input.path().to_path_buf();
    let (size, in_memory) = (input.size(), input.is_in_memory());
    let header = read_xml(&mut input)?;
    let mut clouds = Vec::new();
    for (i, cloud) in header.pointclouds().into_iter().enumerate() {
        let place = format!("cloud {i}");
        let checked = Fields::new(cloud).and_then(|f| f.check(size).map(|()| f));
        clouds.push(checked.map_err(|fault| Error::malformed(&path, place, fault))?);
    }
    let schema = union(&mut clouds);
    let count = (clouds.iter())
        .try_fold(0u64, |sum, c| sum.checked_add(c.cloud.records))
        .ok_or_else(|| Error::malformed(&path, "header", "more than 2^64 points promised"))?;
    fields::check_memory(&schema, count, size)
        .map_err(|fault| Error::malformed(&path, "header", fault))?;
    let source = Source {
        path: (!in_memory).then_some(path),
        clouds: clouds.len(),
        points: count,
        has_crs: header.coordinate_metadata().is_some(),
    };
    let images = header.images().len();
    clouds.reverse();
    Ok(Box::new(E57File {
        schema,
        count,
        pages: Pages::new(input),
        clouds,
        points: None,
        values: Vec::new(),
        source,
        images,
        done: 0,
    }))
}

/// Appends one point.
fn take(
    batch: &mut PointCloud,
    fields: &Fields,
    values: &[RecordValue],
) -> std::result::Result<(), String> {
    batch.coord.push(fields.position(values));
    for (i, value) in values.iter().enumerate() {
        let Some(at) = fields.attribute[i] else {
            continue;
        };
        let column = &mut batch.attributes[at].column;
        let fits = match (column, value) {
            // 64-bit integers have more digits than doubles.
            (Column::I64(column), RecordValue::Integer(n)) => {
                column.push(*n);
                true
            }
            (column, value) => {
                column.push_f64(value_of(value, &fields.cloud.prototype[i].data_type))
            }
        };
        if !fits {
            let name = &batch.attributes[at].name;
            return Err(format!("{value} is outside the range of `{name}`"));
        }
    }
    let points = batch.len();
    for attribute in &mut batch.attributes {
        if attribute.column.len() < points && !attribute.column.push_f64(f64::NAN) {
            return Err(format!("no value for `{}`", attribute.name));
        }
    }
    Ok(())
}

impl Reader for E57File {
    fn schema(&self) -> &PointCloud {
        &self.schema
    }

    fn count(&self) -> Option<u64> {
        Some(self.count)
    }

    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>> {
        let mut cloud = self.schema.clone();
        while cloud.len() < max
            && let Some(fields) = self.clouds.last()
        {
            let points = match &mut self.points {
                Some(points) => points,
                none => none.insert(Points::open(&mut self.pages, &fields.cloud)?),
            };
            if !points.next(&mut self.pages, &mut self.values)? {
                self.points = None;
                self.clouds.pop();
                continue;
            }
            take(&mut cloud, fields, &self.values)
                .map_err(|fault| self.pages.malformed(format!("point {}", self.done), fault))?;
            self.done += 1;
        }
        // A row of no bytes: stored values are copied from the file when it is written again.
        let records = Records::varying(Vec::new(), vec![0; cloud.len()]);
        Ok((!cloud.is_empty()).then_some(Chunk { cloud, records }))
    }

    fn finish(self: Box<Self>) -> Result<(AnySource, Vec<Warning>)> {
        let mut warnings = Vec::new();
        if self.images > 0 {
            let text = format!("{} images are left out of outputs", self.images);
            let kind = super::scan::WarningKind::NotKept;
            warnings.push(Warning::new(kind, self.images as u64, text));
        }
        Ok((AnySource::E57(Box::new(self.source)), warnings))
    }
}

#[cfg(test)]
mod tests;
