//! LAS and LAZ: every sample against las-rs, and writing with every bit kept.

#[path = "io_las/written.rs"]
mod written;

use std::path::{Path, PathBuf};

use cairn::io;

fn samples(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// LAS samples, and LAZ ones where the build reads them.
fn all_samples() -> Vec<PathBuf> {
    let mut files = samples("las");
    if cfg!(feature = "laz") {
        files.extend(samples("laz"));
    }
    files
}

fn extensions() -> &'static [&'static str] {
    if cfg!(feature = "laz") {
        &["las", "laz"]
    } else {
        &["las"]
    }
}

#[test]
fn every_sample_reads_like_las_rs() {
    for path in all_samples() {
        let name = path.display().to_string();
        let scan = io::read(&path).unwrap_or_else(|e| panic!("{e}"));
        let mut twin = las::Reader::from_path(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = twin.read_all().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(data.len(), scan.cloud.len(), "{name}");
        let stored = data.raw_bytes().chunks_exact(data.record_len());
        for (i, record) in stored.enumerate() {
            assert_eq!(record, scan.records.row(i), "{name} point {i}");
        }
        let points: Vec<las::Point> = data.points().map(Result::unwrap).collect();
        for (i, p) in points.iter().enumerate() {
            let [x, y, z] = scan.cloud.coord[i];
            assert_eq!((p.x, p.y, p.z), (x, y, z), "{name} point {i}");
            let get = |a: &str| scan.cloud.attribute(a).map(|c| c.get(i));
            assert_eq!(get("intensity"), Some(f64::from(p.intensity)), "{name} {i}");
            assert_eq!(
                get("return_number"),
                Some(f64::from(p.return_number)),
                "{name} {i}"
            );
            assert_eq!(
                get("number_of_returns"),
                Some(f64::from(p.number_of_returns)),
                "{name} {i}"
            );
            assert_eq!(
                get("point_source_id"),
                Some(f64::from(p.point_source_id)),
                "{name} {i}"
            );
            assert_eq!(get("user_data"), Some(f64::from(p.user_data)), "{name} {i}");
            if let Some(time) = p.gps_time {
                assert_eq!(
                    get("gps_time").map(f64::to_bits),
                    Some(time.to_bits()),
                    "{name} {i}"
                );
            }
            assert_eq!(get("red"), p.color.map(|c| f64::from(c.red)), "{name} {i}");
            assert_eq!(
                get("blue"),
                p.color.map(|c| f64::from(c.blue)),
                "{name} {i}"
            );
            // las-rs gives no near infrared for format 10, which has it.
            if let Some(nir) = p.nir {
                assert_eq!(get("nir"), Some(f64::from(nir)), "{name} {i}");
            }
            let class = u8::from(p.classification);
            // las-rs turns class 12 of the old formats into a flag.
            if !p.is_overlap {
                assert_eq!(get("classification"), Some(f64::from(class)), "{name} {i}");
            }
        }
    }
}

fn labels(n: usize) -> io::Labels {
    io::Labels {
        code: (0..n).map(|i| (i % 7) as i32).collect(),
        confidence: (0..n).map(|i| (i % 100) as f32 / 100.0).collect(),
        classes: vec![(2, "ground".into()), (6, "building".into())],
    }
}

/// The record without what labelling changes: the class and the four bytes of the confidence.
fn stripped(record: &[u8], format_has_class_byte: bool, len: usize) -> Vec<u8> {
    let mut record = record[..len.min(record.len())].to_vec();
    if format_has_class_byte {
        record[16] = 0;
    } else {
        record[15] &= 0xe0;
    }
    record
}

#[test]
fn labelling_changes_the_class_and_adds_the_confidence_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for path in all_samples() {
        for extension in extensions() {
            let name = format!("{} to {extension}", path.display());
            let scan = io::read(&path).unwrap();
            let output = folder.path().join("out").with_extension(extension);
            let labels = labels(scan.cloud.len());
            io::write(&output, &scan, &labels).unwrap_or_else(|e| panic!("{name}: {e}"));
            let back = io::read(&output).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(back.cloud.coord, scan.cloud.coord, "{name}");
            let long = scan.cloud.attribute("overlap").is_some();
            for i in 0..scan.cloud.len() {
                let old = scan.records.row(i);
                let new = back.records.row(i);
                let len = old.len();
                assert_eq!(
                    stripped(old, long, len),
                    stripped(new, long, len),
                    "{name} point {i}"
                );
            }
            for a in &scan.cloud.attributes {
                if a.name != "classification" {
                    let column = back.cloud.attribute(&a.name);
                    // NaN is a time that occurs.
                    assert_eq!(
                        format!("{:?}", Some(&a.column)),
                        format!("{column:?}"),
                        "{name} {}",
                        a.name
                    );
                }
            }
            // Some samples have a confidence of their own in another type; it stays.
            let taken = scan.cloud.attribute("confidence").is_some();
            let confidence = if taken {
                "label_confidence"
            } else {
                "confidence"
            };
            let class = back.cloud.labels().unwrap();
            let want: Vec<i64> = labels.code.iter().map(|&c| c.into()).collect();
            assert_eq!(class.code, want, "{name}");
            assert_eq!(
                back.cloud.attribute(confidence),
                Some(&cairn::cloud::Column::F32(labels.confidence)),
                "{name}"
            );
            // Another program reads it too.
            let mut twin =
                las::Reader::from_path(&output).unwrap_or_else(|e| panic!("{name}: {e}"));
            let data = twin.read_all().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(data.len(), scan.cloud.len(), "{name}");
            for (i, record) in data.raw_bytes().chunks_exact(data.record_len()).enumerate() {
                assert_eq!(record, back.records.row(i), "{name} point {i}");
            }
        }
    }
}

#[test]
fn unlabelled_copies_of_las_are_equal_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.las");
    for path in samples("las") {
        let scan = io::read(&path).unwrap();
        io::write_unlabelled(&output, &scan).unwrap();
        if scan
            .warnings
            .iter()
            .any(|w| w.kind == io::WarningKind::BoundingBox)
        {
            // A wrong bounding box is mended.
            assert!(io::read(&output).unwrap().warnings.is_empty());
            continue;
        }
        assert!(
            std::fs::read(&path).unwrap() == std::fs::read(&output).unwrap(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn coordinate_systems_and_other_records_survive() {
    let folder = tempfile::tempdir().unwrap();
    for path in all_samples() {
        for extension in extensions() {
            let name = format!("{} to {extension}", path.display());
            let output = folder.path().join("out").with_extension(extension);
            let scan = io::read(&path).unwrap();
            io::write(&output, &scan, &labels(scan.cloud.len())).unwrap();
            let old = las::Reader::from_path(&path).unwrap();
            let new = las::Reader::from_path(&output).unwrap();
            let changes = |v: &las::Vlr| {
                matches!(v.user_id.as_str(), "laszip encoded" | "copc")
                    || v.user_id == "LASF_Spec" && matches!(v.record_id, 0 | 4 | 7)
            };
            let kept = |h: &las::Header| -> Vec<las::Vlr> {
                (h.vlrs().iter().filter(|v| !changes(v)).cloned()).collect()
            };
            assert_eq!(kept(old.header()), kept(new.header()), "{name}");
            let kept = |h: &las::Header| -> Vec<las::Vlr> {
                (h.evlrs().iter().filter(|v| !changes(v)).cloned()).collect()
            };
            assert_eq!(kept(old.header()), kept(new.header()), "{name}");
            assert_eq!(
                old.header().transforms(),
                new.header().transforms(),
                "{name}"
            );
            assert_eq!(old.header().guid(), new.header().guid(), "{name}");
            let lookup = new
                .header()
                .vlrs()
                .iter()
                .find(|v| v.user_id == "LASF_Spec" && v.record_id == 0);
            let data = &lookup
                .unwrap_or_else(|| panic!("{name}: no class names"))
                .data;
            assert_eq!(&data[2 * 16..2 * 16 + 7], b"\x02ground", "{name}");
        }
    }
}

#[test]
fn class_codes_that_the_point_format_cannot_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.las");
    std::fs::write(&output, "old").unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/las/simple.las");
    let scan = io::read(path).unwrap();
    let mut labels = labels(scan.cloud.len());
    labels.code[1000] = 32;
    let fault = io::write(&output, &scan, &labels).unwrap_err();
    assert!(
        fault
            .to_string()
            .contains("class code 32 does not fit point format 3"),
        "{fault}"
    );
    assert_eq!(fault.exit_code(), 2);
    assert_eq!(std::fs::read(&output).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // The same is known before any work is done.
    assert!(io::check_output(&output, &scan, &[2, 32]).is_err());
    assert!(io::check_output(&output, &scan, &[-1, 2, 31]).is_ok());
    assert!(io::check_output(&output, &scan, &[2, -5]).is_err());
    assert_eq!(std::fs::read(&output).unwrap(), b"old");
}

#[test]
fn points_without_a_prediction_are_never_classified() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.las");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/las/spec_3.las");
    let scan = io::read(path).unwrap();
    let mut labels = labels(scan.cloud.len());
    labels.code[0] = -1;
    io::write(&output, &scan, &labels).unwrap();
    assert_eq!(
        io::read(&output).unwrap().cloud.labels().unwrap().code[0],
        0
    );
}

#[cfg(feature = "laz")]
#[test]
fn the_copc_index_goes_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/laz/simple.copc.laz");
    let scan = io::read(path).unwrap();
    let output = folder.path().join("out.laz");
    let warnings = io::write(&output, &scan, &labels(scan.cloud.len())).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].text.contains("COPC"), "{}", warnings[0]);
    let twin = las::Reader::from_path(&output).unwrap();
    assert!(
        twin.header()
            .vlrs()
            .iter()
            .chain(twin.header().evlrs())
            .all(|v| v.user_id != "copc")
    );
}

#[test]
fn reading_in_small_pieces_gives_the_same_scan() {
    for path in all_samples() {
        let whole = io::read(&path).unwrap();
        let mut reader = io::open(&path).unwrap();
        let mut row = 0;
        while let Some(chunk) = reader.next_chunk(97).unwrap() {
            assert!((1..=97).contains(&chunk.cloud.len()));
            for i in 0..chunk.cloud.len() {
                assert_eq!(chunk.records.row(i), whole.records.row(row + i));
            }
            row += chunk.cloud.len();
        }
        assert_eq!(row, whole.cloud.len(), "{}", path.display());
    }
}

#[test]
fn the_output_may_replace_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.las");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/las/extrabytes.las");
    std::fs::copy(sample, &path).unwrap();
    let scan = io::read(&path).unwrap();
    let n = scan.cloud.len();
    io::write(&path, &scan, &labels(n)).unwrap();
    let once = std::fs::read(&path).unwrap();
    io::write(&path, &io::read(&path).unwrap(), &labels(n)).unwrap();
    assert!(
        once == std::fs::read(&path).unwrap(),
        "a second run adds nothing"
    );
}
