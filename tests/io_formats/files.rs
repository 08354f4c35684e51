//! Files of every format with the points of a survey: by the writers of the crate where these choose the form, by hand
//! where they only keep it.

#[cfg(feature = "laz")]
#[path = "copc.rs"]
mod copc;

use crate::survey::Survey;
use cairn::cloud::PointCloud;
use cairn::io::{self, Output, Records, Source};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// One form of a format.
pub struct Form {
    pub name: &'static str,
    /// Name of the file, with its folder where that matters.
    pub file: &'static str,
    pub make: fn(&Path, &Survey),
    /// Coordinates start at 0, as in the frame of a sensor.
    pub is_local: bool,
    pub kind: Kind,
}

/// How a file is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Scan,
    /// Columns have no names.
    Nameless,
    /// Has no place for a confidence.
    Frame,
    Bag,
}

const fn scan(name: &'static str, file: &'static str, make: fn(&Path, &Survey)) -> Form {
    Form {
        name,
        file,
        make,
        is_local: false,
        kind: Kind::Scan,
    }
}

const fn nameless(name: &'static str, file: &'static str, make: fn(&Path, &Survey)) -> Form {
    Form {
        kind: Kind::Nameless,
        ..scan(name, file, make)
    }
}

const fn frame(name: &'static str, file: &'static str, make: fn(&Path, &Survey)) -> Form {
    Form {
        is_local: true,
        kind: Kind::Frame,
        ..scan(name, file, make)
    }
}

pub const FORMS: &[Form] = &[
    scan("LAS", "scan.las", own),
    #[cfg(feature = "laz")]
    scan("LAZ", "scan.laz", own),
    #[cfg(feature = "laz")]
    scan("COPC, written as LAZ", "scan.copc.laz", copc::make),
    scan("PLY, binary", "scan.ply", own),
    scan("PLY, binary, big-endian", "scan.ply", |path, survey| {
        ply(path, survey, true)
    }),
    scan("PLY, ascii", "scan.ply", |path, survey| {
        ply(path, survey, false)
    }),
    scan("PCD, binary", "scan.pcd", own),
    scan("PCD, ascii", "scan.pcd", |path, survey| {
        pcd(path, survey, false)
    }),
    scan("PCD, compressed", "scan.pcd", |path, survey| {
        pcd(path, survey, true)
    }),
    scan("NPY, records", "scan.npy", own),
    scan("E57", "scan.e57", own),
    scan("CSV", "scan.csv", own),
    scan("XYZ, TXT", "scan.xyz", own),
    nameless("PTS", "scan.pts", |path, survey| pts(path, survey, "")),
    nameless("PTX", "scan.ptx", ptx),
    nameless("S3DIS room", "room/room.txt", room),
    frame("KITTI", "velodyne/0.bin", |path, survey| {
        bin(path, survey, 4)
    }),
    frame("nuScenes", "0.pcd.bin", |path, survey| bin(path, survey, 5)),
    Form {
        is_local: true,
        kind: Kind::Bag,
        ..scan("MCAP bag", "run.mcap", bag)
    },
];

/// By the writer that the name asks for.
fn own(path: &Path, survey: &Survey) {
    let schema = survey.part(0, 0);
    let plan = Output {
        schema: &schema,
        source: &Source::None,
        count: survey.points,
        extent: Some(survey.extent()),
        classes: None,
    };
    let mut writer = io::create(path, &plan).unwrap();
    for chunk in survey.chunks() {
        writer.write(&chunk, &Records::default(), None).unwrap();
    }
    assert!(writer.finish().unwrap().is_empty());
}

fn create(path: &Path) -> BufWriter<File> {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    BufWriter::new(File::create(path).unwrap())
}

/// Names and letters of the stored columns: positions as doubles, attributes in their types.
fn columns(cloud: &PointCloud) -> Vec<(String, cairn::cloud::Kind)> {
    let axes = ["x", "y", "z"].map(|axis| (axis.to_string(), cairn::cloud::Kind::F64));
    let others = cloud
        .attributes
        .iter()
        .map(|a| (a.name.clone(), a.column.kind()));
    axes.into_iter().chain(others).collect()
}

/// All numbers of a point as words.
fn words(cloud: &PointCloud, i: usize) -> String {
    let [x, y, z] = cloud.coord[i];
    let mut line = format!("{x} {y} {z}");
    for attribute in &cloud.attributes {
        let value = attribute.column.get(i);
        line += &match attribute.column.kind() {
            cairn::cloud::Kind::F32 => format!(" {}", value as f32),
            _ => format!(" {value}"),
        };
    }
    line
}

fn ply(path: &Path, survey: &Survey, is_binary: bool) {
    use cairn::cloud::Kind as K;
    let mut file = create(path);
    let form = if is_binary {
        "binary_big_endian"
    } else {
        "ascii"
    };
    writeln!(
        file,
        "ply\nformat {form} 1.0\nelement vertex {}",
        survey.points
    )
    .unwrap();
    for (name, kind) in columns(&survey.part(0, 0)) {
        let kind = match kind {
            K::F64 => "double",
            K::F32 => "float",
            K::U16 => "ushort",
            K::U8 => "uchar",
            _ => unreachable!("the survey has no such attribute"),
        };
        writeln!(file, "property {kind} {name}").unwrap();
    }
    writeln!(file, "end_header").unwrap();
    for chunk in survey.chunks() {
        for i in 0..chunk.len() {
            match is_binary {
                true => file.write_all(&stored(&chunk, i, true)).unwrap(),
                false => writeln!(file, "{}", words(&chunk, i)).unwrap(),
            }
        }
    }
}

/// All numbers of a point in their types.
fn stored(cloud: &PointCloud, i: usize, is_big: bool) -> Vec<u8> {
    use cairn::cloud::Column as C;
    let mut bytes = Vec::new();
    let mut put = |little: &[u8]| match is_big {
        true => bytes.extend(little.iter().rev()),
        false => bytes.extend(little),
    };
    cloud.coord[i].iter().for_each(|x| put(&x.to_le_bytes()));
    for attribute in &cloud.attributes {
        match &attribute.column {
            C::F64(v) => put(&v[i].to_le_bytes()),
            C::F32(v) => put(&v[i].to_le_bytes()),
            C::U16(v) => put(&v[i].to_le_bytes()),
            C::U8(v) => put(&[v[i]]),
            _ => unreachable!("the survey has no such attribute"),
        }
    }
    bytes
}

fn pcd(path: &Path, survey: &Survey, is_compressed: bool) {
    let mut file = create(path);
    let columns = columns(&survey.part(0, 0));
    let line = |name: &str, of: &dyn Fn(&(String, cairn::cloud::Kind)) -> String| {
        let words: Vec<String> = columns.iter().map(of).collect();
        format!("{name} {}\n", words.join(" "))
    };
    let letter = |kind: &cairn::cloud::Kind| match kind {
        cairn::cloud::Kind::F32 | cairn::cloud::Kind::F64 => "F",
        _ => "U",
    };
    let head = [
        "VERSION 0.7\n".to_string(),
        line("FIELDS", &|c| c.0.clone()),
        line("SIZE", &|c| c.1.size().to_string()),
        line("TYPE", &|c| letter(&c.1).into()),
        line("COUNT", &|_| "1".into()),
        format!(
            "WIDTH {0}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {0}\n",
            survey.points
        ),
    ];
    file.write_all(head.concat().as_bytes()).unwrap();
    if !is_compressed {
        file.write_all(b"DATA ascii\n").unwrap();
        for chunk in survey.chunks() {
            (0..chunk.len()).for_each(|i| writeln!(file, "{}", words(&chunk, i)).unwrap());
        }
        return;
    }
    // Column by column, in literal runs of LZF: a length below 32, less one, and so many bytes.
    let mut data = vec![Vec::new(); columns.len()];
    for chunk in survey.chunks() {
        for i in 0..chunk.len() {
            let row = stored(&chunk, i, false);
            let mut at = 0;
            for (column, (_, kind)) in data.iter_mut().zip(&columns) {
                column.extend_from_slice(&row[at..at + kind.size()]);
                at += kind.size();
            }
        }
    }
    let data = data.concat();
    let packed: Vec<u8> = (data.chunks(32))
        .flat_map(|run| std::iter::once(run.len() as u8 - 1).chain(run.iter().copied()))
        .collect();
    file.write_all(b"DATA binary_compressed\n").unwrap();
    for length in [packed.len(), data.len()] {
        file.write_all(&(length as u32).to_le_bytes()).unwrap();
    }
    file.write_all(&packed).unwrap();
}

/// Position, and if wanted the intensity, then the colour with 8 bits.
fn line(cloud: &PointCloud, i: usize, has_intensity: bool) -> String {
    let [x, y, z] = cloud.coord[i];
    let value = |name: &str| cloud.attribute(name).unwrap().get(i);
    let [r, g, b] = ["red", "green", "blue"].map(|name| value(name) / 257.0);
    match has_intensity {
        true => format!("{x} {y} {z} {} {r} {g} {b}", value("intensity")),
        false => format!("{x} {y} {z} {r} {g} {b}"),
    }
}

fn pts(path: &Path, survey: &Survey, head: &str) {
    let mut file = create(path);
    match head {
        "" => writeln!(file, "{}", survey.points).unwrap(),
        head => write!(file, "{head}").unwrap(),
    }
    for chunk in survey.chunks() {
        (0..chunk.len()).for_each(|i| writeln!(file, "{}", line(&chunk, i, true)).unwrap());
    }
}

fn ptx(path: &Path, survey: &Survey) {
    let place = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n";
    pts(path, survey, &format!("{}\n1\n{place}", survey.points));
}

fn room(path: &Path, survey: &Survey) {
    let folder = path.parent().unwrap().join("Annotations");
    let mut file = create(path);
    let mut objects = ["chair_1.txt", "wall_1.txt"].map(|name| create(&folder.join(name)));
    for chunk in survey.chunks() {
        for i in 0..chunk.len() {
            let line = line(&chunk, i, false);
            writeln!(file, "{line}").unwrap();
            writeln!(objects[i % 2], "{line}").unwrap();
        }
    }
}

fn bin(path: &Path, survey: &Survey, numbers: usize) {
    let mut file = create(path);
    for chunk in survey.chunks() {
        for i in 0..chunk.len() {
            let [x, y, z] = chunk.coord[i];
            let intensity = chunk.attribute("intensity").unwrap().get(i);
            let point = [x, y, z, intensity, (i % 32) as f64];
            for number in &point[..numbers] {
                file.write_all(&(*number as f32).to_le_bytes()).unwrap();
            }
        }
    }
}

/// Messages of ROS 2 on one topic, one for every chunk.
fn bag(path: &Path, survey: &Survey) {
    let mut writer = mcap::Writer::new(create(path)).unwrap();
    let schema = writer
        .add_schema("sensor_msgs/msg/PointCloud2", "ros2msg", b"")
        .unwrap();
    let channel = writer
        .add_channel(schema, "/points", "cdr", &BTreeMap::new())
        .unwrap();
    for (number, chunk) in survey.chunks().enumerate() {
        let header = mcap::records::MessageHeader {
            channel_id: channel,
            sequence: number as u32,
            log_time: number as u64 * 100_000_000,
            publish_time: number as u64 * 100_000_000,
        };
        writer
            .write_to_known_channel(&header, &message(&chunk))
            .unwrap();
    }
    writer.finish().unwrap();
}

/// A `sensor_msgs/PointCloud2` in CDR, little-endian.
fn message(cloud: &PointCloud) -> Vec<u8> {
    use cairn::cloud::Kind as K;
    let mut out = vec![0, 1, 0, 0];
    // Numbers lie at multiples of their size behind the first four bytes.
    let word = |out: &mut Vec<u8>, x: u32| {
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(x.to_le_bytes());
    };
    let text = |out: &mut Vec<u8>, s: &str| {
        word(out, s.len() as u32 + 1);
        out.extend(s.bytes().chain([0]));
    };
    for x in [0, 0] {
        word(&mut out, x);
    }
    text(&mut out, "sensor");
    for x in [1, cloud.len() as u32] {
        word(&mut out, x);
    }
    let columns = columns(cloud);
    word(&mut out, columns.len() as u32);
    let mut offset = 0;
    for (name, kind) in &columns {
        text(&mut out, name);
        word(&mut out, offset);
        out.push(match kind {
            K::U8 => 2,
            K::U16 => 4,
            K::F32 => 7,
            K::F64 => 8,
            _ => unreachable!("the survey has no such attribute"),
        });
        word(&mut out, 1);
        offset += kind.size() as u32;
    }
    out.push(0);
    let size = offset * cloud.len() as u32;
    for x in [offset, size, size] {
        word(&mut out, x);
    }
    (0..cloud.len()).for_each(|i| out.extend(stored(cloud, i, false)));
    out.push(1);
    out
}
