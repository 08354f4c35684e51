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
//! The crate checks page sums, sizes of the XML part and of packets. It does not compare the promised number of points
//! with the file, and fills memory when no field takes any bit; both are checked here first. Its readers and writers
//! borrow the file, so each runs in a thread of its own behind a short queue: memory does not grow with the file.

mod fields;
mod writer;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use e57::{E57Reader, RecordValue};

use crate::cloud::{Column, PointCloud};
use crate::{Error, Result};

use super::Detect;
use super::input::Input;
use super::scan::{Chunk, Reader, Records, Source as AnySource, Warning};
use fields::{Fields, union, value_of};

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
/// Points that a reader or writer takes at a time.
const BATCH: usize = 1 << 14;
/// Batches that wait between the threads.
const QUEUE: usize = 2;

type Handle = E57Reader<BufReader<File>>;

/// The file that was read; its stored values are copied from there when E57 is written again.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
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

fn open_file(path: &Path) -> Result<Handle> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    E57Reader::new(BufReader::new(file)).map_err(|e| fault(path, "header", &e))
}

struct E57File {
    schema: PointCloud,
    count: u64,
    chunks: Receiver<Result<PointCloud>>,
    /// What came from the queue and was not asked for yet.
    open: PointCloud,
    source: Source,
    images: usize,
    done: u64,
}

fn open(input: Input) -> Result<Box<dyn Reader>> {
    let path = input.path().to_path_buf();
    let size = input.size();
    if input.is_in_memory() {
        return Err(Error::unusable(
            path,
            "E57 is read from files only; send another format",
        ));
    }
    let handle = open_file(&path)?;
    let mut clouds = Vec::new();
    for (i, cloud) in handle.pointclouds().into_iter().enumerate() {
        let place = format!("cloud {i}");
        let checked = Fields::new(cloud).and_then(|f| f.check(size).map(|()| f));
        clouds.push(checked.map_err(|fault| Error::malformed(&path, place, fault))?);
    }
    let schema = union(&mut clouds);
    let count = (clouds.iter())
        .try_fold(0u64, |sum, c| sum.checked_add(c.cloud.records))
        .ok_or_else(|| Error::malformed(&path, "header", "more than 2^64 points promised"))?;
    let source = Source {
        path: path.clone(),
        clouds: clouds.len(),
        points: count,
        has_crs: handle.coordinate_metadata().is_some(),
    };
    let images = handle.images().len();
    let (sender, chunks) = sync_channel(QUEUE);
    let empty = schema.clone();
    thread::Builder::new()
        .name("e57".into())
        .spawn(move || {
            // A reader that has gone away needs no more points.
            if let Err(error) = read_clouds(handle, &clouds, &empty, &path, &sender) {
                let _ = sender.send(Err(error));
            }
        })
        .map_err(|e| Error::io(input.path(), e))?;
    Ok(Box::new(E57File {
        open: schema.clone(),
        schema,
        count,
        chunks,
        source,
        images,
        done: 0,
    }))
}

fn read_clouds(
    mut handle: Handle,
    clouds: &[Fields],
    empty: &PointCloud,
    path: &Path,
    sender: &SyncSender<Result<PointCloud>>,
) -> Result<()> {
    let mut done = 0u64;
    for fields in clouds {
        let points = handle
            .pointcloud_raw(&fields.cloud)
            .map_err(|e| fault(path, &format!("point {done}"), &e))?;
        let mut batch = empty.clone();
        for values in points {
            let values = values.map_err(|e| fault(path, &format!("point {done}"), &e))?;
            take(&mut batch, fields, &values)
                .map_err(|fault| Error::malformed(path, format!("point {done}"), fault))?;
            done += 1;
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, empty.clone());
                if sender.send(Ok(full)).is_err() {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() && sender.send(Ok(batch)).is_err() {
            return Ok(());
        }
    }
    Ok(())
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
        while self.open.len() < max {
            match self.chunks.recv() {
                Ok(batch) => self.open.append(&batch?)?,
                Err(_) => break,
            }
        }
        let have = self.open.len() as u32;
        let given = have.min(u32::try_from(max).unwrap_or(u32::MAX));
        if given == 0 {
            if self.done < self.count {
                let place = format!("point {}", self.done);
                return Err(Error::malformed(&self.source.path, place, "cannot be read"));
            }
            return Ok(None);
        }
        let cloud = match given == have {
            true => std::mem::replace(&mut self.open, self.schema.clone()),
            false => {
                let rows = |range: std::ops::Range<u32>| range.collect::<Vec<u32>>();
                let cloud = self.open.select(&rows(0..given));
                self.open = self.open.select(&rows(given..have));
                cloud
            }
        };
        self.done += cloud.len() as u64;
        // A row of no bytes: stored values are copied from the file when it is written again.
        let records = Records::varying(Vec::new(), vec![0; cloud.len()]);
        Ok(Some(Chunk { cloud, records }))
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
