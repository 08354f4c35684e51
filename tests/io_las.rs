//! LAS and LAZ: every sample against las-rs, and writing with every bit kept.

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

#[test]
fn every_sample_reads_like_las_rs() {
    for path in samples("las").into_iter().chain(samples("laz")) {
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
    for path in samples("las").into_iter().chain(samples("laz")) {
        for extension in ["las", "laz"] {
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
