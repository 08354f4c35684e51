//! Speed of the scan formats: reading whole files, and writing them with labels.
//!
//! `cargo bench --bench io`; names are `read/format/points` and `write/format/points`, throughput is in points. Each
//! point has coordinates, intensity, colours and a class. Files lie in the system's temporary folder; what is written
//! is also put on the disk, as for a user.

use cairn::cloud::{Column, PointCloud};
use cairn::device::random::{Random, Sequence};
use cairn::io::{self, Labels, Scan};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const POINTS: usize = 200_000;

/// Points in rows as a scanner sees them: along a line, from line to line.
fn scan() -> Scan {
    let mut s = Sequence::new(Random::new(1, 0));
    let coord = (0..POINTS).map(|i| {
        let (x, y) = ((i % 1000) as f64, (i / 1000) as f64);
        let z = 40.0 + (0.01 * x).sin() + 0.02 * s.normal();
        [651_000.0 + 0.1 * x, 6_861_000.0 + 0.3 * y, z].map(|v| (v * 1000.0).round() / 1000.0)
    });
    let mut cloud = PointCloud {
        coord: coord.collect(),
        ..PointCloud::default()
    };
    let mut words =
        |below: u64| -> Vec<u16> { (0..POINTS).map(|_| s.below(below) as u16).collect() };
    for (name, below) in [
        ("intensity", 2000),
        ("red", 65_536),
        ("green", 65_536),
        ("blue", 65_536),
    ] {
        cloud
            .set_attribute(name, Column::U16(words(below)))
            .unwrap();
    }
    let class = words(7).into_iter().map(|class| class as u8).collect();
    cloud
        .set_attribute("classification", Column::U8(class))
        .unwrap();
    cloud.into()
}

/// What no writer chooses by itself: text.
fn write_ascii(path: &Path, cloud: &PointCloud) {
    let mut text = format!("ply\nformat ascii 1.0\nelement vertex {}\n", cloud.len());
    for axis in ["x", "y", "z"] {
        let _ = writeln!(text, "property double {axis}");
    }
    for attribute in &cloud.attributes {
        let _ = writeln!(text, "property ushort {}", attribute.name);
    }
    text += "end_header\n";
    for (i, [x, y, z]) in cloud.coord.iter().enumerate() {
        let _ = write!(text, "{x} {y} {z}");
        for attribute in &cloud.attributes {
            let _ = write!(text, " {}", attribute.column.get(i));
        }
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

fn files(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let scan = scan();
    let mut files = Vec::new();
    for format in ["las", "laz", "ply", "pcd", "npy"] {
        if format == "laz" && !cfg!(feature = "laz") {
            continue;
        }
        let file = folder.join("scan").with_extension(format);
        io::write_unlabelled(&file, &scan).unwrap();
        files.push((format, file));
    }
    let file = folder.join("text.ply");
    write_ascii(&file, &scan.cloud);
    files.push(("ply-ascii", file));
    files
}

fn formats(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(POINTS as u64));
    for (format, file) in &files {
        group.bench_function(BenchmarkId::new(*format, POINTS), |b| {
            b.iter(|| io::read(file).unwrap());
        });
    }
    group.finish();
    let labels = Labels {
        code: (0..POINTS).map(|i| (i % 7) as i32).collect(),
        confidence: vec![0.9; POINTS],
        classes: (0..7).map(|code| (code, format!("class {code}"))).collect(),
    };
    let mut group = c.benchmark_group("write");
    group.throughput(Throughput::Elements(POINTS as u64));
    for (format, file) in &files {
        let scan = io::read(file).unwrap();
        let output = folder
            .path()
            .join("labelled")
            .with_extension(file.extension().unwrap());
        group.bench_function(BenchmarkId::new(*format, POINTS), |b| {
            b.iter(|| io::write(&output, &scan, &labels).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    targets = formats
}
criterion_main!(benches);
