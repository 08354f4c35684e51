//! What is done with bytes from outside, once for every reader. `tests/fuzz.rs` runs this with mutated files on the stable
//! toolchain, `target.rs` beside it with libFuzzer.

use cairn::cloud::PointCloud;
use cairn::device::Device;
use cairn::infer::LabelMap;
use cairn::io::{self, Labels, Scan, bag, frames};
use cairn::train::Config;
use cairn::weights::{ClassInfo, InputSpec, ModelMetadata, info, load_model, safetensors};
use cairn::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A reader and how it is given bytes.
pub struct Target {
    pub name: &'static str,
    /// Files to start from, as patterns from the root of the repository.
    pub seeds: &'static [&'static str],
    /// Reads the bytes; files, where the reader wants some, go into the folder.
    run: fn(&[u8], &Path) -> Result<()>,
    /// Memory that may be in use at once whatever the size of the input, bytes: buffers, tables of decoders, a piece of points.
    pub always: usize,
    /// Memory beyond that, as a multiple of the input's size.
    pub times: usize,
}

const MIB: usize = 1 << 20;
/// Points of a piece where scans are read piece by piece.
const PIECE: usize = 1000;
/// One in so many readable scans is written with labels and read again.
const WRITTEN: usize = 8;

/// All targets.
#[rustfmt::skip]
pub const TARGETS: &[Target] = &[
    // A record of 20 bytes becomes 24 of coordinates, a number for each field and a copy, and vectors double.
    Target { name: "las", seeds: &["tests/data/las/*.las", "tests/data/las_odd/*.las", "tests/data/malformed/las*.las"], always: MIB, times: 16, run: las },
    // The models of the decoder.
    Target { name: "laz", seeds: &["tests/data/laz/*.laz", "tests/data/malformed/laz*.laz"], always: 4 * MIB, times: 16, run: laz },
    Target { name: "ply", seeds: &["tests/data/ply/*.ply", "tests/data/malformed/ply*.ply"], always: MIB, times: 32, run: ply },
    // A point of 65 536 numbers.
    Target { name: "pcd", seeds: &["tests/data/pcd/*.pcd", "tests/data/malformed/pcd*.pcd"], always: 12 * MIB, times: 32, run: pcd },
    // "1 " becomes a number of eight bytes; a line of 64 KiB may have 32 768 columns.
    Target { name: "text", seeds: &["tests/data/text/*.txt", "tests/data/text/*.xyz", "tests/data/malformed/s3dis*.txt", "fuzz/seeds/text/*"], always: 8 * MIB, times: 32, run: text },
    Target { name: "pts", seeds: &["tests/data/text/*.pts"], always: 8 * MIB, times: 32, run: pts },
    Target { name: "ptx", seeds: &["tests/data/text/*.ptx"], always: 8 * MIB, times: 32, run: ptx },
    Target { name: "room", seeds: &["fuzz/seeds/room/*"], always: 8 * MIB, times: 32, run: room },
    // 65 536 columns without a row.
    Target { name: "npy", seeds: &["tests/data/malformed/npy*.npy", "fuzz/seeds/npy/*"], always: 8 * MIB, times: 32, run: npy },
    Target { name: "bin", seeds: &["tests/data/malformed/kitti*.bin", "fuzz/seeds/bin/*"], always: MIB, times: 32, run: bin },
    Target { name: "e57", seeds: &["fuzz/seeds/e57/*"], always: MIB, times: 32, run: e57 },
    Target { name: "bag", seeds: &["fuzz/seeds/bag/*"], always: MIB, times: 32, run: bag },
    Target { name: "stream", seeds: &["fuzz/seeds/stream/*"], always: 12 * MIB, times: 32, run: stream },
    Target { name: "safetensors", seeds: &["tests/fixtures/pth/odd.safetensors", "fuzz/seeds/safetensors/*"], always: MIB, times: 32, run: tensors },
    // Each byte of a pickle may be a value.
    Target { name: "pth", seeds: &["tests/fixtures/pth/*odd*.pth"], always: MIB, times: 128, run: checkpoint },
    // The TOML crate keeps some hundred bytes for `a=1`; a network may have a thousand blocks.
    Target { name: "config", seeds: &["data/configs/*.toml", "src/train/*.toml"], always: 8 * MIB, times: 256, run: config },
    Target { name: "labels", seeds: &["fuzz/seeds/labels/*"], always: MIB, times: 256, run: label_map },
];

/// The target of a name.
pub fn find(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|t| t.name == name);
    found.unwrap_or_else(|| panic!("no target is called {name}"))
}

impl Target {
    /// Gives the reader some bytes; tells whether it took them. Panics if it was wrong to take them, and if its error does
    /// not say in one line what is wrong.
    pub fn takes(&self, bytes: &[u8], folder: &Path) -> bool {
        match (self.run)(bytes, folder) {
            Ok(()) => true,
            Err(error) => {
                check(&error);
                false
            }
        }
    }
}

/// An error is one line for people: it names a fault, shows no value of the program's own types, and what it quotes of a file
/// can neither fill a screen nor steer a terminal.
fn check(error: &Error) {
    let text = error.to_string();
    let (_, fault) = text.split_once(": ").expect("what is wrong with what");
    assert!(fault.len() > 5, "{text:?} names no fault");
    assert!(text.len() < 2000, "{} bytes: {text:?}", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
    for dump in ["Some(", "Ok(", "Err(", "Error {", "Error(", "Os {"] {
        assert!(!text.contains(dump), "{text:?} shows {dump}");
    }
}

/// Reads a scan as a whole, and writes and reads some of them again.
fn whole(name: &str, bytes: &[u8], folder: &Path) -> Result<()> {
    again(io::read_bytes(name, bytes.to_vec())?, name, bytes, folder)
}

fn again(scan: Scan, name: &str, bytes: &[u8], folder: &Path) -> Result<()> {
    check_cloud(&scan.cloud);
    assert_eq!(scan.cloud.len(), scan.records.len());
    let sum = bytes
        .iter()
        .fold(0usize, |sum, b| sum.wrapping_add((*b).into()));
    if sum.is_multiple_of(WRITTEN) {
        let copy = folder
            .join("again")
            .with_extension(Path::new(name).extension().unwrap());
        io::write(&copy, &scan, &made(scan.cloud.len()))?;
        let back = io::read(&copy).expect("what was written can be read");
        assert_eq!(back.cloud.len(), scan.cloud.len());
    }
    Ok(())
}

/// Reads a scan piece by piece: compressed points may be far larger than their file.
fn pieces(name: &str, bytes: &[u8]) -> Result<()> {
    let mut reader = io::open_bytes(name, bytes.to_vec())?;
    let promised = reader.count();
    let mut points = 0;
    while let Some(chunk) = reader.next_chunk(PIECE)? {
        assert!((1..=PIECE).contains(&chunk.cloud.len()));
        assert_eq!(chunk.cloud.len(), chunk.records.len());
        check_cloud(&chunk.cloud);
        points += chunk.cloud.len() as u64;
    }
    assert!(
        promised.is_none_or(|n| n == points),
        "{points} of {promised:?}"
    );
    reader.finish().map(drop)
}

fn check_cloud(cloud: &PointCloud) {
    for attribute in &cloud.attributes {
        assert_eq!(attribute.column.len(), cloud.len(), "{}", attribute.name);
    }
}

/// Labels as a network could give them.
fn made(points: usize) -> Labels {
    Labels {
        code: (0..points).map(|i| (i % 3) as i32).collect(),
        confidence: vec![0.5; points],
        classes: vec![(0, "ground".into()), (2, "car".into())],
    }
}

/// A file with these bytes. It is kept and written over: a million files are made in a moment.
fn file(path: PathBuf, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn las(bytes: &[u8], folder: &Path) -> Result<()> {
    whole("fuzz.las", bytes, folder)
}

fn laz(bytes: &[u8], _: &Path) -> Result<()> {
    pieces("fuzz.laz", bytes)
}

fn ply(bytes: &[u8], folder: &Path) -> Result<()> {
    whole("fuzz.ply", bytes, folder)
}

fn pcd(bytes: &[u8], folder: &Path) -> Result<()> {
    whole("fuzz.pcd", bytes, folder)
}

fn npy(bytes: &[u8], folder: &Path) -> Result<()> {
    whole("fuzz.npy", bytes, folder)
}

fn text(bytes: &[u8], folder: &Path) -> Result<()> {
    whole("fuzz.txt", bytes, folder)
}

fn pts(bytes: &[u8], folder: &Path) -> Result<()> {
    whole("fuzz.pts", bytes, folder)
}

fn ptx(bytes: &[u8], folder: &Path) -> Result<()> {
    whole("fuzz.ptx", bytes, folder)
}

/// A room and its objects, with zero bytes between them.
fn room(bytes: &[u8], folder: &Path) -> Result<()> {
    let folder = folder.join("room_1");
    let mut parts = bytes.splitn(4, |b| *b == 0);
    let room = parts.next().expect("there is always a first part");
    for object in ["wall_1", "chair_2", "hoverboard_1"] {
        let part = parts.next().unwrap_or_default();
        file(
            folder
                .join("Annotations")
                .join(object)
                .with_extension("txt"),
            part,
        );
    }
    io::read(file(folder.join("room_1.txt"), room)).map(drop)
}

/// A frame in the first four fifths, its labels behind.
fn bin(bytes: &[u8], folder: &Path) -> Result<()> {
    let (points, labels) = bytes.split_at(bytes.len() / 5 * 4);
    file(folder.join("fuzz.label"), labels);
    let frame = file(folder.join("fuzz.bin"), points);
    again(io::read(frame)?, "fuzz.bin", bytes, folder)
}

/// Most damage would end at the sums of the pages, so most inputs get the right ones.
fn e57(bytes: &[u8], folder: &Path) -> Result<()> {
    let mut bytes = bytes.to_vec();
    if bytes.last().is_some_and(|b| !b.is_multiple_of(8)) {
        bytes.resize(bytes.len().next_multiple_of(1024), 0);
        for page in bytes.chunks_exact_mut(1024) {
            let sum = crc32c(&page[..1020]);
            page[1020..].copy_from_slice(&sum.to_be_bytes());
        }
    }
    let path = file(folder.join("fuzz.e57"), &bytes);
    again(io::read(path)?, "fuzz.e57", &bytes, folder)
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |s, _| {
            (s >> 1) ^ (0x82f6_3b78 & (s & 1).wrapping_neg())
        })
    })
}

fn bag(bytes: &[u8], folder: &Path) -> Result<()> {
    let path = file(folder.join("fuzz.mcap"), bytes);
    let topics = bag::topics(&path)?;
    let topic = bag::choose(&path, topics.first().map(|t| t.name.as_str()))?;
    let mut clouds = 0;
    bag::label(
        &path,
        &folder.join("again.mcap"),
        &topic.name,
        &mut |frame| {
            check_cloud(&frame.cloud);
            clouds += 1;
            Ok(made(frame.cloud.len()))
        },
    )?;
    assert_eq!(clouds, topic.messages);
    Ok(())
}

/// Requests until the input ends, answered as a network would.
fn stream(bytes: &[u8], _: &Path) -> Result<()> {
    let mut input = bytes;
    let mut number = 0;
    while let Some(request) = frames::request(&mut input, "pipe", number)? {
        let labels =
            io::read_bytes(format!("cloud {number}"), request).map(|s| made(s.cloud.len()));
        let answer = frames::answer(&labels)?;
        let length = u32::from_le_bytes(*answer.first_chunk().unwrap()) as usize;
        assert_eq!(length, answer.len() - 4);
        match &labels {
            Ok(labels) => assert_eq!(length, 1 + 8 * labels.code.len()),
            Err(error) => check(error),
        }
        number += 1;
    }
    Ok(())
}

/// As a model is loaded.
fn tensors(bytes: &[u8], _: &Path) -> Result<()> {
    let tensors = safetensors::from_bytes(bytes, "fuzz.safetensors")?;
    let metadata = ModelMetadata::from_tensors(&tensors, "fuzz.safetensors")?;
    load_model(&metadata.network, &tensors, Device::Cpu).map(drop)
}

/// As `cairn info` and `cairn convert` read what somebody else trained.
fn checkpoint(bytes: &[u8], folder: &Path) -> Result<()> {
    info(file(folder.join("fuzz.pth"), bytes)).map(drop)
}

fn config(bytes: &[u8], folder: &Path) -> Result<()> {
    match str::from_utf8(bytes) {
        Ok(text) => Config::parse(text, Path::new("fuzz.toml")).map(drop),
        Err(_) => Config::read(&file(folder.join("fuzz.toml"), bytes)).map(drop),
    }
}

/// The text of a file, and its first line as a list on the command line.
fn label_map(bytes: &[u8], _: &Path) -> Result<()> {
    let class = |(code, name): (u32, &str)| ClassInfo {
        code: Some(code),
        ..ClassInfo::named(name)
    };
    let input = InputSpec {
        voxel_size: 0.1,
        features: Vec::new(),
        crop_points: None,
        frame: Default::default(),
    };
    let classes = [(2, "ground"), (5, "vegetation"), (6, "building")].map(class);
    let metadata = ModelMetadata::new(Default::default(), classes.into(), input);
    let text = String::from_utf8_lossy(bytes);
    let list = text.lines().next().unwrap_or_default();
    if !list.ends_with(".toml") {
        let map = LabelMap::parse(Some(list), &[7]).and_then(|map| map.for_classes(&metadata, 0));
        map.as_ref().err().into_iter().for_each(check);
    }
    let codes = LabelMap::from_toml(&text, Path::new("fuzz.toml"))?.for_classes(&metadata, 0)?;
    assert_eq!(codes.all().len(), 4);
    Ok(())
}
