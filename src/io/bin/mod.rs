//! Frames of rotating scanners as bare 32-bit floats: KITTI and nuScenes, with labels in a second file.
//!
//! | file | holds |
//! |---|---|
//! | `velodyne/000000.bin` (KITTI, SemanticKITTI) | `x y z intensity` of each point, little-endian f32 |
//! | `*.pcd.bin` (nuScenes) | `x y z intensity ring`, little-endian f32 |
//! | `labels/000000.label`, or `NAME.label` beside `NAME.bin` | u32 per point: class in the low 16 bits, instance above |
//!
//! Nothing in a `.bin` file tells the two apart: `.pcd.bin` is nuScenes, and so is a length that fits both when every
//! fifth number is a ring (a whole number below 256). Labels are read when the label file is there, as the attributes
//! `label` and `instance`.
//!
//! A written `.bin` has its labels in the label file of the same rule; the name `.label` writes that file alone.
//! Instances stay. Neither holds a confidence. Points without a class get 0, the data sets' "unlabelled".

mod writer;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cloud::{Attribute, Column, Endian, Kind, PointCloud};
use crate::{Error, Result};

use super::input::{Input, read_le};
use super::scan::{Chunk, Reader, Records, Source as AnySource, Warning};
use super::{Detect, Format};

/// KITTI and nuScenes frames in the list of formats.
pub const FORMAT: Format = Format {
    name: "BIN",
    extensions: &["bin"],
    detect: Detect::Name,
    open,
    create: writer::create,
    check: |scan, codes| {
        writer::check_codes(codes)?;
        writer::check_coordinates(scan)
    },
};

/// Label files in the list of formats: an output only.
pub const LABELS: Format = Format {
    name: "KITTI labels",
    extensions: &["label"],
    detect: Detect::Name,
    open: |input| {
        Err(Error::unusable(
            input.path(),
            "holds labels and no points; name the .bin file that it belongs to",
        ))
    },
    create: writer::create_labels,
    check: |_, codes| writer::check_codes(codes),
};

/// Numbers of a point.
const KITTI: usize = 4;
const NUSCENES: usize = 5;
/// Points looked at to tell the two apart.
const SAMPLE: u64 = 1000;

/// What a frame was.
#[derive(Debug, Clone)]
pub struct Source {
    /// Numbers of a point: 4 or 5.
    width: usize,
}

impl Source {
    /// Which of the two layouts.
    pub fn description(&self) -> String {
        match self.width {
            NUSCENES => "nuScenes, x y z intensity ring",
            _ => "KITTI, x y z intensity",
        }
        .into()
    }
}

/// The label file of a frame, whether it exists or not.
pub(crate) fn label_path(frame: &Path) -> PathBuf {
    let name = PathBuf::from(frame.file_name().map_or(OsString::new(), OsString::from));
    let name = name.with_extension("label");
    let folder = frame.parent().unwrap_or(Path::new(""));
    match folder.file_name() {
        Some(last) if last == "velodyne" => folder.with_file_name("labels").join(name),
        _ => folder.join(name),
    }
}

struct BinReader {
    input: Input,
    labels: Option<Input>,
    width: usize,
    points: u64,
    done: u64,
    schema: PointCloud,
}

fn open(mut input: Input) -> Result<Box<dyn Reader>> {
    let width = width(&mut input)?;
    input.seek(0)?;
    let points = input.size() / (4 * width as u64);
    let path = label_path(input.path());
    let labels = path.is_file().then(|| Input::open(&path)).transpose()?;
    if let Some(labels) = labels.as_ref().filter(|l| l.size() != 4 * points) {
        let fault = format!(
            "{points} points, but {} holds {} bytes, which is {} labels of 4 bytes; mend it or move it away",
            path.display(),
            labels.size(),
            labels.size() / 4
        );
        return Err(input.malformed("labels", fault));
    }
    let mut reader = BinReader {
        input,
        labels,
        width,
        points,
        done: 0,
        schema: PointCloud::default(),
    };
    reader.schema = reader.decode(&[], &[]);
    Ok(Box::new(reader))
}

/// Numbers of a point of this file.
fn width(input: &mut Input) -> Result<usize> {
    let fits = |width: usize| input.size().is_multiple_of(4 * width as u64);
    let name = input.path().to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".pcd.bin") && fits(NUSCENES) {
        return Ok(NUSCENES);
    }
    match (fits(KITTI), fits(NUSCENES)) {
        (true, false) => Ok(KITTI),
        (false, true) => Ok(NUSCENES),
        (true, true) => {
            let stride = 4 * NUSCENES as u64;
            let rows = input.bytes(input.size().min(SAMPLE * stride), "points")?;
            let mut rings = (rows.chunks_exact(stride as usize)).map(|row| read_le!(row, 16, f32));
            let is_ring = rings.all(|r| r.fract() == 0.0 && (0.0..256.0).contains(&r));
            Ok(if is_ring { NUSCENES } else { KITTI })
        }
        (false, false) => Err(input.malformed(
            format!("point {}", input.size() / 16),
            format!(
                "{} bytes are neither whole points of 16 bytes (KITTI) nor of 20 (nuScenes); the file is cut short \
                 or holds something else",
                input.size()
            ),
        )),
    }
}

impl BinReader {
    fn decode(&self, rows: &[u8], labels: &[u8]) -> PointCloud {
        let stride = 4 * self.width;
        let column = |i: usize| {
            let mut column = Column::new(Kind::F32);
            column.extend_strided(rows, 4 * i, stride, Endian::Little);
            column
        };
        let axes = [0, 1, 2].map(column);
        let mut attributes = vec![attribute("intensity", column(3))];
        if self.width == NUSCENES {
            attributes.push(attribute("ring", column(4)));
        }
        if self.labels.is_some() {
            for (name, at) in [("label", 0), ("instance", 2)] {
                let mut column = Column::new(Kind::U16);
                column.extend_strided(labels, at, 4, Endian::Little);
                attributes.push(attribute(name, column));
            }
        }
        PointCloud {
            coord: (0..rows.len() / stride)
                .map(|row| [0, 1, 2].map(|a: usize| axes[a].get(row)))
                .collect(),
            attributes,
        }
    }
}

fn attribute(name: &str, column: Column) -> Attribute {
    Attribute {
        name: name.into(),
        column,
    }
}

impl Reader for BinReader {
    fn schema(&self) -> &PointCloud {
        &self.schema
    }

    fn count(&self) -> Option<u64> {
        Some(self.points)
    }

    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>> {
        let points = (self.points - self.done).min(max as u64);
        if points == 0 {
            return Ok(None);
        }
        let stride = 4 * self.width;
        let rows = self.input.bytes(points * stride as u64, "points")?;
        let labels = match &mut self.labels {
            Some(labels) => labels.bytes(4 * points, "labels")?,
            None => Vec::new(),
        };
        self.done += points;
        Ok(Some(Chunk {
            cloud: self.decode(&rows, &labels),
            records: Records::fixed(rows, stride),
        }))
    }

    fn finish(self: Box<Self>) -> Result<(AnySource, Vec<Warning>)> {
        let source = Source { width: self.width };
        Ok((AnySource::Bin(Box::new(source)), Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Labels, Scan, check_output, read, write, write_unlabelled};

    fn floats(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn labels(codes: &[i32]) -> Labels {
        Labels {
            code: codes.to_vec(),
            confidence: vec![0.5; codes.len()],
            classes: Vec::new(),
        }
    }

    #[test]
    fn labels_lie_in_their_own_file_and_keep_the_instances() {
        let folder = tempfile::tempdir().unwrap();
        let [velodyne, names] = ["velodyne", "labels"].map(|f| folder.path().join(f));
        std::fs::create_dir_all(&velodyne).unwrap();
        std::fs::create_dir_all(&names).unwrap();
        let frame = velodyne.join("000000.bin");
        let points = floats(&[1.0, 2.0, 3.0, 0.5, 4.0, 5.0, 6.0, 0.25]);
        std::fs::write(&frame, &points).unwrap();
        let label = names.join("000000.label");
        std::fs::write(&label, [10, 0, 7, 0, 255, 1, 0, 1]).unwrap();
        let scan = read(&frame).unwrap();
        assert_eq!(scan.cloud.coord, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        assert_eq!(scan.cloud.labels().unwrap().code, [10, 511]);
        let want = Column::U16(vec![7, 256]);
        assert_eq!(scan.cloud.attribute("instance"), Some(&want));

        let notes = write(&frame, &scan, &labels(&[300, -1])).unwrap();
        assert!(notes[0].text.contains("confidence"), "{notes:?}");
        assert_eq!(std::fs::read(&frame).unwrap(), points);
        assert_eq!(std::fs::read(&label).unwrap(), [44, 1, 7, 0, 0, 0, 0, 1]);
        let alone = folder.path().join("alone.label");
        write(&alone, &scan, &labels(&[3, 4])).unwrap();
        assert_eq!(std::fs::read(&alone).unwrap(), [3, 0, 7, 0, 4, 0, 0, 1]);
        let fault = read(&alone).unwrap_err().to_string();
        assert!(fault.contains("name the .bin file"), "{fault}");
        std::fs::write(&label, [0; 12]).unwrap();
        let fault = read(&frame).unwrap_err().to_string();
        assert!(
            fault.contains("2 points") && fault.contains("3 labels"),
            "{fault}"
        );
    }

    #[test]
    fn frames_of_five_numbers_are_told_by_name_or_rings() {
        let folder = tempfile::tempdir().unwrap();
        let rings: Vec<f32> = (0..4)
            .flat_map(|i| [0.1, 0.2, 0.3, 9.5, i as f32])
            .collect();
        let plain: Vec<f32> = (0..20).map(|i| i as f32 / 8.0).collect();
        for (name, numbers, width) in [
            ("a.bin", &rings, 5),
            ("a.bin", &plain, 4),
            ("a.pcd.bin", &plain, 5),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, floats(numbers)).unwrap();
            let scan = read(&path).unwrap();
            assert_eq!(scan.cloud.len(), 20 / width);
            assert_eq!(scan.cloud.attributes.len(), width - 3);
            let copy = folder.path().join("copy.bin");
            write_unlabelled(&copy, &scan).unwrap();
            assert_eq!(std::fs::read(&copy).unwrap(), floats(numbers));
        }
    }

    #[test]
    fn a_frame_and_its_labels_change_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let frame = folder.path().join("a.bin");
        std::fs::write(&frame, floats(&[1.0, 2.0, 3.0, 0.5])).unwrap();
        let scan = read(&frame).unwrap();
        let plan = crate::io::Output {
            schema: &scan.cloud,
            source: &scan.source,
            count: 2,
            extent: None,
            classes: Some(&[]),
        };
        let copy = folder.path().join("copy.bin");
        let mut writer = crate::io::create(&copy, &plan).unwrap();
        writer
            .write(&scan.cloud, &scan.records, Some(&labels(&[1])))
            .unwrap();
        assert!(writer.finish().is_err(), "one point of two is missing");
        assert!(!copy.exists() && !folder.path().join("copy.label").exists());
    }

    #[test]
    fn what_floats_or_labels_cannot_hold_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let scan = |x: f64| {
            Scan::from(PointCloud {
                coord: vec![[x, 2.0, f64::NAN]],
                attributes: vec![attribute("echo", Column::U8(vec![1]))],
            })
        };
        for (x, code, fault) in [
            (6_543_210.123, 1, "write another format"),
            (1.5, 70_000, "code 70000"),
        ] {
            let early = check_output(&path, &scan(x), &[code]).unwrap_err();
            let late = write(&path, &scan(x), &labels(&[code])).unwrap_err();
            for found in [early, late] {
                assert!(found.to_string().contains(fault), "{found}");
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        let notes = write(&path, &scan(1.5), &labels(&[3])).unwrap();
        assert!(notes.iter().any(|n| n.text.contains("echo")), "{notes:?}");
        assert_eq!(read(&path).unwrap().cloud.labels().unwrap().code, [3]);
    }
}
