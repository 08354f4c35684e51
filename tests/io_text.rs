//! Text and KITTI samples: what they hold, and that what is written keeps it.

use std::path::{Path, PathBuf};

use cairn::cloud::Column;
use cairn::io::{self, Labels};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// Points and attributes of each sample, or a part of the reason why it is none.
type Expected = Result<(usize, &'static [&'static str]), &'static str>;

#[rustfmt::skip]
const FILES: &[(&str, Expected)] = &[
    ("text/1.2-with-color.ptx", Ok((1065, &["intensity", "red", "green", "blue"]))),
    ("text/autzen-point-format-3.txt", Ok((106, &["Red", "Green", "Blue"]))),
    ("text/autzen.pts", Ok((10, &["intensity", "red", "green", "blue"]))),
    ("text/badheader.txt", Err("line 1: two columns are called `X`")),
    ("text/covered_xyz_label.xyz", Ok((2000, &["column_3"]))),
    ("text/crlf_test.txt", Ok((10, &["Intensity"]))),
    ("text/crlf_test2.txt", Ok((10, &["Intensity"]))),
    ("text/data.xyz", Ok((400, &[]))),
    ("text/ign_xyzrgbc.csv", Ok((2000, &["red", "green", "blue", "classification"]))),
    ("text/missingheader.txt", Ok((5, &["column_3"]))),
    ("text/no-color.ptx", Ok((15, &["intensity"]))),
    ("text/numeric_dim.txt", Ok((5, &["Eigenvalue0"]))),
    ("text/quoted.txt", Ok((9, &[]))),
    ("text/test.pts", Ok((19, &["intensity", "red", "green", "blue"]))),
    ("text/utm17_1.txt", Ok((10, &[]))),
    ("text/utm17_2.txt", Ok((10, &[]))),
    ("text/utm17_3.txt", Err("line 1: 3 names, but the rows below have 4 values")),
    ("s3dis/Area_1/robotcell_1/robotcell_1.txt", Ok((15893, &["red", "green", "blue", "label"]))),
    ("bin/velodyne/000000.bin", Ok((15893, &["intensity", "label", "instance"]))),
    ("bin/labels/000000.label", Err("name the .bin file")),
];

#[test]
fn samples_hold_what_is_known_of_them() {
    for (name, expected) in FILES {
        match (io::read(sample(name)), expected) {
            (Ok(scan), Ok((points, attributes))) => {
                assert_eq!(scan.cloud.len(), *points, "{name}");
                let names = scan.cloud.attributes.iter().map(|a| a.name.as_str());
                assert_eq!(names.collect::<Vec<_>>(), *attributes, "{name}");
                assert!(scan.warnings.is_empty(), "{name}: {:?}", scan.warnings);
            }
            (Err(e), Err(fault)) => assert!(e.to_string().contains(fault), "{e}"),
            (found, _) => panic!("{name}: {:?}", found.map(|s| s.cloud.len())),
        }
    }
    let listed = FILES.iter().filter(|(n, _)| n.starts_with("text/")).count();
    let there = std::fs::read_dir(sample("text")).unwrap().count();
    // Two more are looked at below.
    assert_eq!(listed + 2, there);
    let short = io::read(sample("text/bunny_8.pts")).unwrap();
    assert_eq!(short.cloud.len(), 8);
    assert!(
        short.warnings[0].text.contains("1 rows follow"),
        "{:?}",
        short.warnings
    );
    let wide = io::read(sample("text/autzen-bmx-cc.txt")).unwrap().cloud;
    assert_eq!((wide.len(), wide.attributes.len()), (103, 25));
    assert_eq!(wide.coord[0], [194506.860, 259235.010, 426.540]);
}

#[test]
fn rooms_and_frames_have_their_class_counts() {
    for (name, counts) in [
        (
            "s3dis/Area_1/robotcell_1/robotcell_1.txt",
            [(1, 5144), (2, 6788), (12, 3961)].as_slice(),
        ),
        (
            "bin/velodyne/000000.bin",
            &[(1, 5144), (2, 6788), (3, 1992), (4, 1426), (5, 543)],
        ),
    ] {
        let codes = io::read(sample(name)).unwrap().cloud.labels().unwrap().code;
        for (code, count) in counts {
            assert_eq!(
                codes.iter().filter(|c| *c == code).count(),
                *count,
                "{name} {code}"
            );
        }
    }
}

#[test]
fn copies_are_equal_and_labels_come_behind_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in FILES.iter().filter(|(_, expected)| expected.is_ok()) {
        let path = sample(name);
        let scan = io::read(&path).unwrap();
        let output = folder.path().join(path.file_name().unwrap());
        io::write_unlabelled(&output, &scan).unwrap();
        let old = std::fs::read(&path).unwrap();
        let new = std::fs::read(&output).unwrap();
        let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
            bytes
                .split(|b| *b == b'\n')
                .map(|l| l.trim_ascii().to_vec())
                .collect()
        };
        let is_text = !name.ends_with(".bin");
        match is_text {
            // Blanks around rows and a missing last line end are not kept.
            true => assert_eq!(
                lines(old.trim_ascii_end()),
                lines(new.trim_ascii_end()),
                "{name}"
            ),
            false => assert_eq!(old, new, "{name}"),
        }
        let count = scan.cloud.len();
        let labels = Labels {
            code: (0..count).map(|i| (i % 5) as i32).collect(),
            confidence: vec![0.25; count],
            classes: Vec::new(),
        };
        io::write(&output, &scan, &labels).unwrap();
        let back = io::read(&output).unwrap().cloud;
        assert_eq!(
            format!("{:?}", back.coord),
            format!("{:?}", scan.cloud.coord),
            "{name}"
        );
        let last = match is_text {
            true => &back.attributes[back.attributes.len() - 2],
            false => back.attributes.iter().find(|a| a.name == "label").unwrap(),
        };
        assert!(
            (0..count).all(|i| last.column.get(i) == (i % 5) as f64),
            "{name}"
        );
        if is_text {
            let (old, new) = (
                lines(old.trim_ascii_end()),
                lines(&std::fs::read(&output).unwrap()),
            );
            assert!(
                old.iter().zip(&new).all(|(old, new)| new.starts_with(old)),
                "{name}"
            );
        }
    }
}

#[test]
fn text_from_other_formats_keeps_every_attribute() {
    let folder = tempfile::tempdir().unwrap();
    for source in [
        "las/extrabytes.las",
        "pcd/derived_ign_rgb_label_binary.pcd",
        "npy/1.2-with-color.npy",
    ] {
        let scan = io::read(sample(source)).unwrap();
        for target in ["out.csv", "out.xyz", "out.e57"] {
            let output = folder.path().join(target);
            io::write_unlabelled(&output, &scan).unwrap();
            let back = io::read(&output).unwrap().cloud;
            assert_eq!(back.coord, scan.cloud.coord, "{source} {target}");
            assert_eq!(
                back.attributes.len(),
                scan.cloud.attributes.len(),
                "{source} {target}"
            );
            for (a, b) in scan.cloud.attributes.iter().zip(&back.attributes) {
                let same = (0..back.len()).all(|i| {
                    let (x, y) = (a.column.get(i), b.column.get(i));
                    // Text has as many digits as the number needs in its own type.
                    x == y || x as f32 == y as f32 || x.is_nan() && y.is_nan()
                });
                assert!(same, "{source} {target} {}", a.name);
            }
        }
    }
}

/// A column of any type is shown as its own numbers, not as those of a wider type.
#[test]
fn floats_are_written_as_short_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let mut cloud = cairn::cloud::PointCloud {
        coord: vec![[0.1, 1e20, -2.5]],
        attributes: Vec::new(),
    };
    cloud.set_attribute("a", Column::F32(vec![0.1])).unwrap();
    io::write_unlabelled(&path, &cloud.into()).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, "x,y,z,a\n0.1,100000000000000000000,-2.5,0.1\n");
}
