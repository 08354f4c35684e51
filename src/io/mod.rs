//! Scan formats: what a file holds decides how it is read, its name how it is written.
//!
//! | format | file | read | written |
//! |---|---|---|---|
//! | LAS 1.0–1.4, point formats 0–10; LAZ, COPC | `las/` | yes | yes, COPC as LAZ |
//! | PLY, ascii and both binary forms | `ply/` | yes | yes |
//! | PCD 0.5–0.7, ascii, binary, compressed | `pcd/` | yes | yes |
//! | NPY, tables and records | `npy/` | yes | yes |
//! | MCAP bags of robots | `bag/` | message by message | with labels |
//! | E57 | `e57/` | yes | yes |
//! | XYZ, TXT, ASC, CSV: tables of numbers; rooms of S3DIS with their annotations | `text/` | yes | yes |
//! | PTS, PTX | `text/` | yes | from their own kind |
//! | KITTI and nuScenes `.bin` with `.label` | `bin/` | yes | yes |
//!
//! [`read`] takes a whole scan into memory, [`open`] gives it piece by piece; [`write()`] and [`create`] are their
//! counterparts. A scan keeps the bytes of its points and everything else that the file held, so that writing the same
//! format again loses nothing: only the label and the confidence are new. Another format gets every attribute that it
//! can hold.
//!
//! Readers trust no header. A count is compared with the bytes that are there before anything is allocated by it, and a
//! fault is an [`Error::Malformed`] with its place. Outputs appear whole or not at all.
//!
//! What comes back from each, and how fast, two cores of a Xeon (measured by `tests/io_formats.rs`, which tells how):
//!
#![doc = include_str!("formats.md")]
//!
//! A new format is a file with a [`Format`] and one line in [`FORMATS`].

mod atomic;
pub mod bag;
pub mod bin;
pub mod e57;
pub mod frames;
mod input;
mod labels;
pub mod las;
mod names;
pub mod npy;
pub mod pcd;
pub mod ply;
mod scan;
pub mod text;

use std::path::{Path, PathBuf};

use crate::cloud::PointCloud;
use crate::{Error, Result};

pub use atomic::{Atomic, give_up_on};
pub use input::{Input, open_regular, read_text};
pub use names::{expand, is_scan_name, names_many};
pub use scan::{
    Chunk, Labels, Output, Reader, Records, Scan, Source, Warning, WarningKind, Writer,
};

/// Points that are asked of a reader at a time.
pub const CHUNK: usize = 1 << 16;
/// Bytes at the start of a file that decide its format.
const HEAD: u64 = 512;

/// A file format.
#[derive(Clone, Copy)]
pub struct Format {
    /// Short name for people.
    pub name: &'static str,
    /// Lower-case file name extensions, the usual one first.
    pub extensions: &'static [&'static str],
    /// How a file of this format is recognised.
    pub detect: Detect,
    /// Starts reading; the input stands at its first byte.
    pub open: fn(Input) -> Result<Box<dyn Reader>>,
    /// Starts writing.
    pub create: fn(Atomic, &Output<'_>) -> Result<Box<dyn Writer>>,
    /// Says why this format cannot hold a scan with these class codes.
    pub check: fn(&Scan, &[i32]) -> std::result::Result<(), String>,
}

/// How files of a format are recognised.
#[derive(Clone, Copy)]
pub enum Detect {
    /// By their first bytes, whatever their name.
    Content(fn(&[u8]) -> bool),
    /// By their name alone, since nothing marks their content. Files that another format recognises are refused.
    Name,
}

impl Format {
    /// True when the first bytes of a file mark it as one of this format.
    fn recognises(&self, head: &[u8]) -> bool {
        matches!(self.detect, Detect::Content(is_mine) if is_mine(head))
    }
}

/// All formats.
pub const FORMATS: &[Format] = &[
    las::LAS,
    las::LAZ,
    ply::FORMAT,
    pcd::FORMAT,
    npy::FORMAT,
    e57::FORMAT,
    text::TABLE,
    text::PTS,
    text::PTX,
    bin::FORMAT,
    bin::LABELS,
];

impl Source {
    /// Name of the format the points came from.
    pub fn format_name(&self) -> Option<&'static str> {
        match self {
            Source::None => None,
            Source::Las(source) if source.is_compressed() => Some(las::LAZ.name),
            Source::Las(_) => Some(las::LAS.name),
            Source::Ply(_) => Some(ply::FORMAT.name),
            Source::Pcd(_) => Some(pcd::FORMAT.name),
            Source::Npy(_) => Some(npy::FORMAT.name),
            Source::Text(source) => Some(source.format_name()),
            Source::Bin(_) => Some(bin::FORMAT.name),
            Source::E57(_) => Some(e57::FORMAT.name),
        }
    }

    /// How the file stored its points: version, encoding, elements. Empty for points made by a program.
    pub fn description(&self) -> String {
        match self {
            Source::None => String::new(),
            Source::Las(source) => source.description(),
            Source::Ply(source) => source.description(),
            Source::Pcd(source) => source.description(),
            Source::Npy(source) => source.description(),
            Source::Text(source) => source.description(),
            Source::Bin(source) => source.description(),
            Source::E57(source) => source.description(),
        }
    }

    /// True when the file names a coordinate system.
    pub fn has_crs(&self) -> bool {
        match self {
            Source::Las(source) => source.has_crs(),
            Source::E57(source) => source.has_crs(),
            _ => false,
        }
    }

    /// True for LAS and LAZ.
    pub fn is_las(&self) -> bool {
        matches!(self, Source::Las(_))
    }
}

fn extension(path: &Path) -> String {
    (path.extension())
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
}

/// The format that a file name asks for.
pub fn format_of_name(path: &Path) -> Result<&'static Format> {
    let wanted = extension(path);
    (FORMATS.iter())
        .find(|f| f.extensions.contains(&wanted.as_str()))
        .ok_or_else(|| {
            Error::unusable(
                path,
                match wanted.as_str() {
                    "" => format!(
                        "the name has no ending that says the format; {}",
                        known_formats()
                    ),
                    _ => format!("`{wanted}` names no known format; {}", known_formats()),
                },
            )
        })
}

fn known_formats() -> String {
    let extensions = FORMATS.iter().flat_map(|f| f.extensions);
    let names: Vec<String> = extensions.map(|e| format!(".{e}")).collect();
    format!("known are {}", names.join(", "))
}

/// The format that a file holds.
///
/// A name that asks for another known format is an error: one of the two is wrong, and a program that goes by the name
/// would fail later. LAS and LAZ count as one, since they are often mixed up and share their header.
pub fn format_of_content(path: &Path) -> Result<&'static Format> {
    detect(&mut Input::open(path)?)
}

fn detect(input: &mut Input) -> Result<&'static Format> {
    let path = input.path().to_path_buf();
    if input.size() == 0 {
        return Err(Error::malformed(path, "byte 0", "the file is empty"));
    }
    let head = input.bytes(input.size().min(HEAD), "start of the file")?;
    input.seek(0)?;
    let wanted = extension(&path);
    let named = FORMATS
        .iter()
        .find(|f| f.extensions.contains(&wanted.as_str()));
    let Some(found) = FORMATS.iter().find(|f| f.recognises(&head)) else {
        if let Some(format) = named.filter(|f| matches!(f.detect, Detect::Name)) {
            return Ok(format);
        }
        return Err(match named {
            Some(format) => Error::malformed(
                path,
                "byte 0",
                format!("not a {} file, whatever its name says", format.name),
            ),
            None if bag::is_head(&head) => Error::unusable(
                path,
                "a bag of many clouds, not a scan; `cairn segment` labels the clouds of a --topic",
            ),
            None => Error::unusable(
                path,
                format!(
                    "its first bytes are those of no known format; {}",
                    known_formats()
                ),
            ),
        });
    };
    let family = |f: &Format| {
        if f.name == las::LAZ.name {
            las::LAS.name
        } else {
            f.name
        }
    };
    match named {
        Some(format) if family(format) != family(found) => Err(Error::unusable(
            path,
            format!(
                "holds {} though its name says {}; rename it to .{}",
                found.name, format.name, found.extensions[0]
            ),
        )),
        _ => Ok(found),
    }
}

/// Opens a scan to read it piece by piece.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn Reader>> {
    open_input(Input::open(path.as_ref())?)
}

fn open_input(mut input: Input) -> Result<Box<dyn Reader>> {
    (detect(&mut input)?.open)(input)
}

/// Reads a whole scan.
///
/// Points without usable coordinates are kept and counted in a warning. A scan without any point is no error here.
pub fn read(path: impl AsRef<Path>) -> Result<Scan> {
    collect(open(path)?)
}

/// Reads a whole scan from the bytes of a file, in a format that is recognised by its content; `name` is for messages.
pub fn read_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Scan> {
    collect(open_bytes(name, bytes)?)
}

/// Opens the bytes of a file as [`read_bytes`] does, to read them piece by piece.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Box<dyn Reader>> {
    open_input(Input::from_bytes(name, bytes))
}

/// Reads what a reader has left as a whole scan.
///
/// # Errors
/// As [`read`].
pub fn collect(mut reader: Box<dyn Reader>) -> Result<Scan> {
    let mut scan = Scan {
        cloud: reader.schema().clone(),
        ..Default::default()
    };
    while let Some(chunk) = reader.next_chunk(CHUNK)? {
        scan.cloud.append(&chunk.cloud)?;
        scan.records.append(chunk.records);
    }
    (scan.source, scan.warnings) = reader.finish()?;
    scan.warnings.extend(coordinate_warnings(&scan.cloud));
    Ok(scan)
}

/// What is to be said about the coordinates of a cloud.
pub fn coordinate_warnings(cloud: &PointCloud) -> Vec<Warning> {
    let missing = (cloud.coord.iter())
        .filter(|p| p.iter().any(|x| !x.is_finite()))
        .count() as u64;
    let usable = (cloud.coord.iter())
        .filter(|p| crate::cloud::is_usable(p))
        .count() as u64;
    let points = cloud.len() as u64;
    warnings_about(points, missing, points - missing - usable)
}

/// What is to be said about a scan of `points` points of which some have no coordinates and others absurd ones.
pub fn warnings_about(points: u64, missing: u64, absurd: u64) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if missing > 0 {
        warnings.push(Warning::new(
            WarningKind::MissingCoordinates,
            missing,
            format!("{missing} of {points} points have no coordinates (NaN or infinite) and get no prediction"),
        ));
    }
    if absurd > 0 {
        warnings.push(Warning::new(
            WarningKind::AbsurdCoordinates,
            absurd,
            format!(
                "{absurd} of {points} points lie beyond {:e} and get no prediction; is the byte order right?",
                crate::cloud::COORDINATE_LIMIT
            ),
        ));
    }
    warnings
}

/// Starts writing a scan piece by piece, in the format that the name asks for.
pub fn create(path: impl AsRef<Path>, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    let path = path.as_ref();
    (format_of_name(path)?.create)(Atomic::create(path)?, plan)
}

/// Finds out before the work is done whether [`write()`] can succeed: whether the name asks for a known format, the
/// folder can be written, and the format holds the points of the scan and the class codes.
pub fn check_output(path: impl AsRef<Path>, scan: &Scan, codes: &[i32]) -> Result<()> {
    let path = path.as_ref();
    let format = format_of_name(path)?;
    (format.check)(scan, codes).map_err(|fault| Error::unusable(path, fault))?;
    // The file is made and goes at once: only the system knows what it allows.
    Atomic::create(path).map(drop)
}

/// For formats that hold anything.
fn holds_everything(_scan: &Scan, _codes: &[i32]) -> std::result::Result<(), String> {
    Ok(())
}

/// Writes a whole scan with its labels; returns what could not be kept.
///
/// The file has the points of the scan in their order. It appears only when it is complete; it may replace the file
/// that the scan came from.
pub fn write(path: impl AsRef<Path>, scan: &Scan, labels: &Labels) -> Result<Vec<Warning>> {
    write_with(path.as_ref(), scan, Some(labels))
}

/// Writes a whole scan as it is; returns what could not be kept.
pub fn write_unlabelled(path: impl AsRef<Path>, scan: &Scan) -> Result<Vec<Warning>> {
    write_with(path.as_ref(), scan, None)
}

fn write_with(path: &Path, scan: &Scan, labels: Option<&Labels>) -> Result<Vec<Warning>> {
    let plan = Output {
        schema: &scan.cloud,
        source: &scan.source,
        count: scan.cloud.len() as u64,
        extent: scan.cloud.extent(),
        classes: labels.map(|l| l.classes.as_slice()),
    };
    let mut writer = create(path, &plan)?;
    writer.write(&scan.cloud, &scan.records, labels)?;
    let mut warnings = writer.finish()?;
    warnings.extend(beyond_attributes(path, &scan.source)?);
    Ok(warnings)
}

/// What is to be said about the parts of a file besides its points that the format of `path` cannot keep.
pub fn beyond_attributes(path: &Path, source: &Source) -> Result<Option<Warning>> {
    let Source::Ply(source) = source else {
        return Ok(None);
    };
    let is_kept = format_of_name(path)?.name == ply::FORMAT.name;
    let parts = source.beyond_attributes().filter(|_| !is_kept);
    Ok(parts.map(|parts| {
        let text = format!("only a PLY file can keep {parts}; they are left out");
        Warning::new(WarningKind::NotKept, 1, text)
    }))
}

/// The words of a text row that are to stay, with the blanks between neighbours as they were.
fn kept_words<'a>(row: &'a [u8], keep: &[bool]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    let mut at = 0;
    let mut keep = keep.iter();
    for word in row.split(u8::is_ascii_whitespace) {
        let (start, end) = (at, at + word.len());
        at = end + 1;
        if word.is_empty() {
            continue;
        }
        if keep.next() == Some(&true) {
            open = Some((open.map_or(start, |(first, _)| first), end));
        } else if let Some((first, last)) = open.take() {
            parts.push(&row[first..last]);
        }
    }
    parts.extend(open.map(|(first, last)| &row[first..last]));
    parts
}

/// Checks that what is handed to a writer belongs together; `records` only where the writer uses them.
fn check_batch(
    cloud: &PointCloud,
    records: Option<&Records>,
    labels: Option<&Labels>,
    labelled: bool,
) -> Result<()> {
    if let Some(records) = records.filter(|r| r.len() != cloud.len()) {
        return Err(Error::argument(
            "records",
            format!(
                "{} for {} points; a changed cloud is written without its source",
                records.len(),
                cloud.len()
            ),
        ));
    }
    if labels.is_some() != labelled {
        return Err(Error::argument(
            "labels",
            "must be given for all points or for none",
        ));
    }
    labels.map_or(Ok(()), |l| l.check_count(cloud.len()))
}

/// Checks that a writer got as many points as it was promised.
fn check_total(path: &Path, promised: u64, done: u64) -> Result<()> {
    if promised == done {
        return Ok(());
    }
    Err(Error::argument(
        path.display().to_string(),
        format!("{done} points written of {promised} promised"),
    ))
}
