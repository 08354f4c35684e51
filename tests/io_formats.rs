//! What every format keeps of a scan, and how fast: the table in `src/io/formats.md` is what this test measures.
//!
//! A survey of made-up points with all kinds of attributes goes through a file of each format: it is read, labelled,
//! written and read again. What came back decides what the table may claim. Sizes and speeds are measured anew, and the table
//! written, by
//!
//!     CAIRN_FORMATS_POINTS=10000000 cargo test --release --test io_formats
//!
//! which needs some 10 GB in the folder for temporary files, one file at a time.

#[path = "io_formats/files.rs"]
mod files;
#[path = "io_formats/survey.rs"]
mod survey;
#[path = "io_formats/table.rs"]
mod table;

use cairn::cloud::PointCloud;
use cairn::io::{self, Labels, Output, bag};
use files::{Form, Kind};
use std::path::Path;
use std::time::Instant;
use survey::{Keeps, Survey};
use table::Row;

/// Points without a request for more: some chunks of the readers, and a part.
const POINTS: u64 = 70_000;

const CLASSES: [(i32, &str); 3] = [(2, "ground"), (5, "vegetation"), (6, "building")];

fn labels(first: u64, count: usize) -> Labels {
    let number = |i: usize| first + i as u64;
    Labels {
        code: (0..count)
            .map(|i| CLASSES[(number(i) % 3) as usize].0)
            .collect(),
        confidence: (0..count)
            .map(|i| (number(i) % 128) as f32 / 128.0)
            .collect(),
        classes: CLASSES
            .map(|(code, name)| (code, name.to_string()))
            .to_vec(),
    }
}

fn rate(points: u64, seconds: f64) -> f64 {
    points as f64 / seconds
}

/// Reads a file; tells what it holds of the survey, and points per second.
fn read(path: &Path, survey: &Survey) -> (Keeps, io::Source, f64) {
    let start = Instant::now();
    let mut reader = io::open(path).unwrap();
    let (mut done, mut checking) = (0, 0.0);
    let mut keeps = Keeps::default();
    while let Some(chunk) = reader.next_chunk(io::CHUNK).unwrap() {
        let started = Instant::now();
        keeps.compare(survey, done, &chunk.cloud);
        done += chunk.cloud.len() as u64;
        checking += started.elapsed().as_secs_f64();
    }
    let (source, warnings) = reader.finish().unwrap();
    assert!(warnings.is_empty(), "{}: {warnings:?}", path.display());
    let seconds = start.elapsed().as_secs_f64() - checking;
    assert_eq!(done, survey.points, "{}", path.display());
    (keeps, source, rate(done, seconds))
}

/// Writes the points of a file with labels; points per second of the writer alone.
fn label(path: &Path, output: &Path, source: &io::Source, survey: &Survey) -> f64 {
    let mut reader = io::open(path).unwrap();
    let classes = labels(0, 0).classes;
    let schema = reader.schema().clone();
    let plan = Output {
        schema: &schema,
        source,
        count: survey.points,
        extent: Some(survey.extent()),
        classes: Some(&classes),
    };
    let start = Instant::now();
    let mut writer = io::create(output, &plan).unwrap();
    let (mut done, mut seconds) = (0, start.elapsed().as_secs_f64());
    while let Some(chunk) = reader.next_chunk(io::CHUNK).unwrap() {
        let labels = labels(done, chunk.cloud.len());
        done += chunk.cloud.len() as u64;
        let start = Instant::now();
        (writer.write(&chunk.cloud, &chunk.records, Some(&labels))).unwrap();
        seconds += start.elapsed().as_secs_f64();
    }
    let start = Instant::now();
    writer.finish().unwrap();
    rate(done, seconds + start.elapsed().as_secs_f64())
}

/// The labels in a file are those that were written.
fn check_labels(path: &Path, kind: Kind) {
    let mut reader = io::open(path).unwrap();
    let mut done = 0;
    while let Some(chunk) = reader.next_chunk(io::CHUNK).unwrap() {
        let PointCloud { coord, attributes } = &chunk.cloud;
        let want = labels(done, coord.len());
        let (codes, confidence) = match kind {
            // Columns without names: the last two.
            Kind::Nameless => {
                let [.., code, confidence] = &attributes[..] else {
                    panic!("{} has no labels", path.display());
                };
                (chunk.cloud.labels_of(&code.name), Some(&confidence.column))
            }
            _ => (chunk.cloud.labels(), chunk.cloud.attribute("confidence")),
        };
        let codes = codes.unwrap_or_else(|| panic!("{} has no labels", path.display()));
        let mut pairs = codes.code.iter().zip(&want.code);
        assert!(
            pairs.all(|(a, b)| *a == i64::from(*b)),
            "{}",
            path.display()
        );
        match (kind, confidence) {
            (Kind::Frame, None) => {}
            (_, Some(found)) => {
                let found = (0..coord.len()).map(|i| found.get(i) as f32);
                assert!(found.eq(want.confidence), "{}", path.display());
            }
            (_, None) => panic!("{} has no confidence", path.display()),
        }
        done += coord.len() as u64;
    }
}

/// Labels every cloud of a bag.
fn through_bag(path: &Path, output: &Path, survey: &Survey) -> Row {
    let (mut keeps, mut first) = (Keeps::default(), 0);
    let mut checking = 0.0;
    let start = Instant::now();
    bag::label(path, output, "/points", &mut |frame| {
        let started = Instant::now();
        keeps.compare(survey, first, &frame.cloud);
        let labels = labels(first, frame.cloud.len());
        first += frame.cloud.len() as u64;
        checking += started.elapsed().as_secs_f64();
        Ok(labels)
    })
    .unwrap();
    let seconds = start.elapsed().as_secs_f64() - checking;
    assert_eq!(first, survey.points);
    let mut again = 0;
    bag::label(output, path, "/points", &mut |frame| {
        let want = labels(again, frame.cloud.len());
        again += frame.cloud.len() as u64;
        let found = frame.cloud.attribute("label").unwrap();
        assert!((0..want.code.len()).all(|i| found.get(i) == f64::from(want.code[i])));
        Ok(want)
    })
    .unwrap();
    Row {
        keeps,
        read: None,
        write: rate(first, seconds),
        points: first,
    }
}

fn through_file(form: &Form, path: &Path, output: &Path, survey: &Survey) -> Row {
    let (keeps, source, read_rate) = read(path, survey);
    let write_rate = label(path, output, &source, survey);
    check_labels(output, form.kind);
    let (after, ..) = read(output, survey);
    assert!(
        after.without_class().eq(keeps.without_class()),
        "{}",
        form.name
    );
    assert_eq!(after.deviation, keeps.deviation, "{}", form.name);
    Row {
        keeps,
        read: Some(read_rate),
        write: write_rate,
        points: survey.points,
    }
}

#[test]
fn the_table_of_formats_is_what_is_measured() {
    let wanted = std::env::var("CAIRN_FORMATS_POINTS").ok();
    let points = wanted
        .as_ref()
        .map(|n| n.parse().expect("a number of points"));
    let mut rows = Vec::new();
    for form in files::FORMS {
        let survey = Survey {
            points: points.unwrap_or(POINTS),
            origin: match form.is_local {
                true => [0.0; 3],
                false => [651_000.0, 6_861_000.0, 0.0],
            },
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(form.file);
        (form.make)(&path, &survey);
        let output = folder.path().join("labelled").join(form.file);
        std::fs::create_dir_all(output.parent().unwrap()).unwrap();
        let row = match form.kind {
            Kind::Bag => through_bag(&path, &output, &survey),
            _ => through_file(form, &path, &output, &survey),
        };
        rows.push((form.name, row));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/io/formats.md");
    if wanted.is_some() {
        std::fs::write(&file, table::render(&rows)).unwrap();
    }
    table::check(&std::fs::read_to_string(&file).unwrap(), &rows);
}
