//! What a reader hands over and a writer takes: points, their stored bytes, and everything else the file held.

use std::fmt;

use crate::cloud::PointCloud;
use crate::{Error, Result};

use super::{bin, e57, las, npy, pcd, ply, text};

/// A whole scan in memory.
///
/// `cloud` and `records` describe the same points in the order of the file. Points without usable coordinates (NaN
/// marks a missing return) stay in the cloud, so that a written scan has every row of the input; see
/// [`PointCloud::usable_rows`].
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// The points with all their attributes as numbers.
    pub cloud: PointCloud,
    /// The same points as the bytes of the file; empty when the points did not come from a file.
    pub records: Records,
    /// The rest of the file: headers, other elements, comments, coordinate system.
    pub source: Source,
    /// What the reader noticed and mended.
    pub warnings: Vec<Warning>,
}

impl From<PointCloud> for Scan {
    fn from(cloud: PointCloud) -> Self {
        Scan {
            cloud,
            ..Default::default()
        }
    }
}

/// Some consecutive points of a scan.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// The points with all their attributes as numbers.
    pub cloud: PointCloud,
    /// The same points as the bytes of the file.
    pub records: Records,
}

/// Points as the bytes that the file stores, one row per point: what lets a writer of the same format keep every bit,
/// including those that have no name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    bytes: Vec<u8>,
    ends: Ends,
}

#[derive(Debug, Clone, PartialEq)]
enum Ends {
    /// All rows have this many bytes.
    Stride(usize),
    /// Row i ends before byte `ends[i]`.
    Each(Vec<usize>),
}

impl Default for Ends {
    fn default() -> Self {
        Ends::Stride(0)
    }
}

impl Records {
    /// Rows of `stride` bytes each.
    pub(crate) fn fixed(bytes: Vec<u8>, stride: usize) -> Self {
        debug_assert!(stride > 0 && bytes.len().is_multiple_of(stride));
        Records {
            bytes,
            ends: Ends::Stride(stride),
        }
    }

    /// Rows of any length; row i ends before `ends[i]`.
    pub(crate) fn varying(bytes: Vec<u8>, ends: Vec<usize>) -> Self {
        debug_assert_eq!(ends.last().copied().unwrap_or(0), bytes.len());
        Records {
            bytes,
            ends: Ends::Each(ends),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match &self.ends {
            Ends::Stride(0) => 0,
            Ends::Stride(stride) => self.bytes.len() / stride,
            Ends::Each(ends) => ends.len(),
        }
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All rows, one behind the other.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of row `i`.
    pub fn row(&self, i: usize) -> &[u8] {
        match &self.ends {
            Ends::Stride(stride) => &self.bytes[i * stride..(i + 1) * stride],
            Ends::Each(ends) => {
                let start = if i == 0 { 0 } else { ends[i - 1] };
                &self.bytes[start..ends[i]]
            }
        }
    }

    /// Appends the rows of `other`, which come from the same file.
    pub(crate) fn append(&mut self, mut other: Records) {
        if self.is_empty() {
            *self = other;
            return;
        }
        if let (Ends::Each(a), Ends::Each(b)) = (&mut self.ends, &other.ends) {
            let start = self.bytes.len();
            a.extend(b.iter().map(|e| start + e));
        } else {
            debug_assert_eq!(self.ends, other.ends);
        }
        self.bytes.append(&mut other.bytes);
    }
}

/// What a file held besides its points, enough to write the same format again with nothing lost.
#[derive(Debug, Clone, Default)]
pub enum Source {
    /// The points were made by a program.
    #[default]
    None,
    /// LAS or LAZ: header, variable-length records, what follows the points.
    Las(Box<las::Source>),
    /// PLY: header with comments, the other elements.
    Ply(Box<ply::Source>),
    /// PCD: header.
    Pcd(Box<pcd::Source>),
    /// NPY: type and memory order.
    Npy(Box<npy::Source>),
    /// Text: separator, names, the lines between the rows.
    Text(Box<text::Source>),
    /// KITTI or nuScenes: numbers of a point.
    Bin(Box<bin::Source>),
    /// E57: the file, whose stored values are copied.
    E57(Box<e57::Source>),
}

/// Something a reader noticed and went on from.
#[derive(Debug, Clone, PartialEq)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// How many points, bytes or records it concerns.
    pub count: u64,
    /// One line for people.
    pub text: String,
}

/// Kinds of [`Warning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningKind {
    /// Points with NaN or infinite coordinates; they get no prediction.
    MissingCoordinates,
    /// Points with finite coordinates beyond [`crate::cloud::COORDINATE_LIMIT`]; they get no prediction.
    AbsurdCoordinates,
    /// The header's bounding box is not that of the points.
    BoundingBox,
    /// Bytes or rows follow the last promised point.
    LeftOver,
    /// Records beside the points could not be read and are left out.
    SkippedRecords,
    /// The output cannot carry something over.
    NotKept,
    /// Annotations beside a room do not fit its points.
    Annotations,
}

impl Warning {
    /// A warning about `count` things.
    pub(crate) fn new(kind: WarningKind, count: u64, text: impl Into<String>) -> Self {
        Warning {
            kind,
            count,
            text: crate::error::printable(text),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The result of a segmentation: what a writer adds to the points.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels {
    /// Class code of each point, in the scheme of the output.
    pub code: Vec<i32>,
    /// Probability of that class, 0 to 1; 0 where nothing was predicted.
    pub confidence: Vec<f32>,
    /// Names of the classes by code, kept as comments or lookup tables where the format has room for them.
    pub classes: Vec<(i32, String)>,
}

impl Labels {
    /// The labels of some consecutive points, with the same classes.
    pub fn slice(&self, rows: std::ops::Range<usize>) -> Labels {
        Labels {
            code: self.code[rows.clone()].to_vec(),
            confidence: self.confidence[rows].to_vec(),
            classes: self.classes.clone(),
        }
    }

    /// Errors unless there is one code and one confidence per point.
    pub(crate) fn check_count(&self, points: usize) -> Result<()> {
        if self.code.len() == points && self.confidence.len() == points {
            return Ok(());
        }
        Err(Error::argument(
            "labels",
            format!(
                "{} codes and {} confidences for {points} points",
                self.code.len(),
                self.confidence.len()
            ),
        ))
    }
}

/// What a writer must know before the first point.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Names and types of the attributes to come; the points of this cloud are not used.
    pub schema: &'a PointCloud,
    /// Where the points came from. The writer of the same format keeps all of it.
    pub source: &'a Source,
    /// Number of points to come.
    pub count: u64,
    /// Smallest and largest coordinates to come; decides the offset of LAS files that are not made from LAS files.
    pub extent: Option<([f64; 3], [f64; 3])>,
    /// The classes when labels will be written; codes outside them may still occur.
    pub classes: Option<&'a [(i32, String)]>,
}

/// Reads a scan piece by piece.
pub trait Reader {
    /// A cloud without points that names the attributes and their types.
    fn schema(&self) -> &PointCloud;

    /// Number of points that the header promises, if it does. The reader has compared it with the size of the file,
    /// yet a compressed file can hold less; never allocate by it.
    fn count(&self) -> Option<u64>;

    /// Bytes that the reader holds of its file, at most, however few points are asked for at a time. Most formats are read
    /// as they come and hold next to nothing.
    fn held(&self) -> u64 {
        0
    }

    /// The next points, at most `max` (at least 1), or `None` after the last.
    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>>;

    /// Reads what follows the points and hands over everything besides them.
    fn finish(self: Box<Self>) -> Result<(Source, Vec<Warning>)>;
}

/// Writes a scan piece by piece to a file that appears, whole, when [`Writer::finish`] succeeds.
pub trait Writer {
    /// Appends points. `records` are the stored bytes of the same points, or empty.
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()>;

    /// Completes the file and puts it in its place. Returns what could not be kept.
    fn finish(self: Box<Self>) -> Result<Vec<Warning>>;
}
