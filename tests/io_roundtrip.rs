//! PLY, PCD and NPY: every sample reads or is refused for its reason, and comes back from a written file.

use std::path::{Path, PathBuf};

use cairn::cloud::{Column, PointCloud};
use cairn::io::{self, Labels, Scan};

fn samples(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Samples that hold no cloud, and what is said about them.
const NO_CLOUD: &[(&str, &str)] = &[
    ("pdal_no_vertex.ply", "no element `vertex`"),
    ("pdal_sized_dims.ply", "no property `z`"),
    ("pdal_unsized_dims.ply", "no property `z`"),
    (
        "ply-rs_all_atomic_types_ok_ascii.ply",
        "no element `vertex`",
    ),
    ("ply-rs_exponent_values_ok_ascii.ply", "no element `vertex`"),
    ("ply-rs_header_min_ok_ascii.ply", "no element `vertex`"),
    ("ply-rs_leading_spaces_ok_ascii.ply", "no element `vertex`"),
    (
        "ply-rs_single_elements_err_ascii.ply",
        "no element `vertex`",
    ),
    ("ply-rs_single_elements_ok_ascii.ply", "no element `vertex`"),
    ("pcd-rs_corrupt_compressed.pcd", "200 bytes are said"),
    ("pcd-rs_count_zero.pcd", "COUNT 0"),
    ("pcd-rs_dump_ascii_static.pcd", "WIDTH times HEIGHT is 300"),
    ("pcd-rs_dump_ascii_untyped.pcd", "WIDTH times HEIGHT is 300"),
    ("pcd-rs_header_only_ascii.pcd", "promises 100 points"),
    (
        "pcd-rs_header_only_compressed.pcd",
        "8 bytes promised, 0 there",
    ),
    ("pcd-rs_header_only_v05.pcd", "no field `y`"),
    ("pcd-rs_header_only_v06.pcd", "no field `y`"),
    ("pcd-rs_header_only_v07.pcd", "no field `y`"),
    ("pcd-rs_i64_u64_ascii.pcd", "no field `x`"),
    ("pcd-rs_multiple_padding.pcd", "no field `z`"),
    ("pcd-rs_padding_ascii.pcd", "no field `z`"),
    ("pcd-rs_padding_binary.pcd", "no field `z`"),
    ("pcd-rs_padding_metadata.pcd", "no field `y`"),
    ("pcd-rs_unsupported_v04.pcd", "versions 0.5 to 0.7"),
    (
        "pcd-rs_v05_binary_compressed.pcd",
        "8 bytes promised, 0 there",
    ),
    ("pcd-rs_v05_no_viewpoint.pcd", "no field `y`"),
    (
        "pcd-rs_v06_binary_compressed.pcd",
        "8 bytes promised, 0 there",
    ),
    ("pcd-rs_v06_mixed_types_binary.pcd", "no field `x`"),
    ("pdal_missingheader.pcd", "not a PCD file"),
    ("pdal_utm17_comma.pcd", "line 11"),
];

/// The samples that hold a cloud.
fn clouds() -> Vec<(PathBuf, Scan)> {
    let mut found = Vec::new();
    for path in ["ply", "pcd", "npy"].into_iter().flat_map(samples) {
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        match (io::read(&path), NO_CLOUD.iter().find(|(n, _)| *n == name)) {
            (Ok(scan), None) => found.push((path, scan)),
            (Err(e), Some((_, fault))) => assert!(e.to_string().contains(fault), "{e}"),
            (result, expected) => panic!("{name}: {:?}, expected {expected:?}", result.err()),
        }
    }
    found
}

fn labels(n: usize) -> Labels {
    Labels {
        code: (0..n).map(|i| (i % 7) as i32 - 1).collect(),
        confidence: (0..n).map(|i| (i % 100) as f32 / 100.0).collect(),
        classes: vec![(2, "bare ground".into()), (6, "building".into())],
    }
}

/// Equality in which NaN equals NaN.
fn same(a: &Column, b: &Column) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

fn bits(cloud: &PointCloud) -> Vec<[u64; 3]> {
    let bits = |x: f64| if x.is_nan() { u64::MAX } else { x.to_bits() };
    cloud.coord.iter().map(|p| p.map(bits)).collect()
}

/// Where an attribute of `source` is after labelling: its own labels get another name, unless they are of an earlier run.
fn kept_name<'a>(source: &PointCloud, name: &'a str) -> Option<&'a str> {
    let is_earlier = source.attribute("confidence").is_some();
    match name {
        "confidence" => None,
        "label" if is_earlier => None,
        "label" => Some("original_label"),
        other => Some(other),
    }
}

fn check_labels(name: &str, cloud: &PointCloud, labels: &Labels) {
    let label = cloud
        .attribute("label")
        .unwrap_or_else(|| panic!("{name}: no label"));
    assert!(same(label, &Column::I32(labels.code.clone())), "{name}");
    let confidence = cloud.attribute("confidence").unwrap();
    assert!(
        same(confidence, &Column::F32(labels.confidence.clone())),
        "{name}"
    );
}

#[test]
fn every_sample_reads_or_is_refused_for_its_reason() {
    assert!(clouds().len() > 45, "{}", clouds().len());
}

#[test]
fn unlabelled_copies_are_equal_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (path, scan) in clouds() {
        let output = folder.path().join(path.file_name().unwrap());
        io::write_unlabelled(&output, &scan).unwrap();
        let (old, new) = (
            std::fs::read(&path).unwrap(),
            std::fs::read(&output).unwrap(),
        );
        let name = path.display();
        // Compressors differ, and text rows are written without the blanks around them.
        if scan.source.description() == "binary_compressed" {
            let back = io::read(&output).unwrap();
            assert_eq!(back.records, scan.records, "{name}");
            continue;
        }
        let trim = |bytes: &[u8]| -> Vec<Vec<u8>> {
            let lines = bytes
                .split(|&b| b == b'\n')
                .map(|l| l.trim_ascii().to_vec());
            lines.filter(|l| !l.is_empty()).collect()
        };
        if scan.source.description().starts_with("ascii") {
            assert!(trim(&old) == trim(&new), "{name}");
        } else if scan.source.format_name() == Some("NPY") {
            let body = |b: &[u8]| b[b.iter().position(|&c| c == b'\n').unwrap()..].to_vec();
            assert!(body(&old) == body(&new), "{name}");
        } else {
            assert!(old == new, "{name}");
        }
    }
}

#[test]
fn labelled_copies_keep_every_attribute_and_the_rest_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for (path, scan) in clouds() {
        let name = path.display().to_string();
        let output = folder.path().join(path.file_name().unwrap());
        let labels = labels(scan.cloud.len());
        io::write(&output, &scan, &labels).unwrap_or_else(|e| panic!("{e}"));
        let back = io::read(&output).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(bits(&back.cloud), bits(&scan.cloud), "{name}");
        for a in &scan.cloud.attributes {
            if let Some(kept) = kept_name(&scan.cloud, &a.name) {
                assert!(
                    same(&a.column, back.cloud.attribute(kept).unwrap()),
                    "{name} {}",
                    a.name
                );
            }
        }
        if scan.source.format_name() == Some("NPY")
            && !scan.source.description().starts_with("records")
        {
            let columns = scan.cloud.attributes.len() + 3;
            let code = back
                .cloud
                .labels_of(&format!("column_{columns}"))
                .unwrap()
                .code;
            assert!(
                code.iter()
                    .zip(&labels.code)
                    .all(|(a, b)| *a == i64::from(*b)),
                "{name}"
            );
        } else {
            check_labels(&name, &back.cloud, &labels);
        }
        // Labelling the labelled file again gives the same file.
        if scan.source.format_name() != Some("NPY") {
            let again = folder
                .path()
                .join("again")
                .with_extension(path.extension().unwrap());
            io::write(&again, &back, &labels).unwrap();
            assert!(
                std::fs::read(&again).unwrap() == std::fs::read(&output).unwrap(),
                "{name}"
            );
        }
    }
}

#[test]
fn other_elements_and_comments_of_ply_survive_labelling() {
    let folder = tempfile::tempdir().unwrap();
    let text = "ply\r\nformat ascii 1.0\r\ncomment made by hand\r\nelement camera 1\r\nproperty list uchar float f\r\n\
                element vertex 2\r\nproperty list uchar int around\r\nproperty uchar label\r\nproperty float x\r\n\
                property float y\r\ncomment between\r\nproperty float z\r\nelement face 1\r\n\
                property list uchar int vertex_indices\r\nend_header\r\n2 0.5 1.5\r\n1 7 9 1 2 3\r\n0 8 4 5 6\r\n\
                3 0 1 0\r\n";
    let path = folder.path().join("in.ply");
    std::fs::write(&path, text).unwrap();
    let scan = io::read(&path).unwrap();
    let labels = Labels {
        code: vec![1, 2],
        confidence: vec![0.5, 0.25],
        classes: vec![(1, "floor".into())],
    };
    io::write(&path, &scan, &labels).unwrap();
    let want = text
        .replace("ascii 1.0\r\n", "ascii 1.0\r\ncomment class 1 floor\r\n")
        .replace("uchar label\r\n", "uchar original_label\r\n")
        .replace(
            "float z\r\n",
            "float z\r\nproperty int label\r\nproperty float confidence\r\n",
        )
        .replace("1 7 9 1 2 3", "1 7 9 1 2 3 1 0.5")
        .replace("0 8 4 5 6", "0 8 4 5 6 2 0.25");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
    let warnings = io::write(folder.path().join("out.pcd"), &scan, &labels).unwrap();
    let text = warnings[0].to_string();
    for part in ["`around`", "1 camera", "1 face", "PLY"] {
        assert!(text.contains(part), "{text}");
    }

    // Labels of an earlier run give way to those of the next.
    let scan = io::read(&path).unwrap();
    let labels = Labels {
        code: vec![2, 2],
        ..labels
    };
    io::write(&path, &scan, &labels).unwrap();
    let want = want.replace("1 2 3 1 0.5", "1 2 3 2 0.5");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
}

#[test]
fn organised_clouds_stay_organised() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed/pcd_organised_nan_ok.pcd");
    let scan = io::read(path).unwrap();
    let output = folder.path().join("out.pcd");
    io::write(&output, &scan, &labels(40)).unwrap();
    let text = std::fs::read_to_string(output).unwrap();
    assert!(text.contains("WIDTH 10\nHEIGHT 4\n"), "{text}");
    assert!(
        text.contains(
            "# class 2 bare ground\n# class 6 building\nFIELDS x y z rgb label confidence\n"
        ),
        "{text}"
    );
    assert!(text.contains("nan nan nan 0 -1 0\n"), "{text}");
}

/// Attributes that a target gives another name or type, and whether the values are the same.
fn carried(from: &Column, to: &PointCloud, name: &str) -> bool {
    let equal = |c: &Column| {
        (0..from.len()).all(|i| {
            let (a, b) = (from.get(i), c.get(i));
            a == b || a.is_nan() && b.is_nan()
        })
    };
    let widened = |c: &Column| (0..from.len()).all(|i| from.get(i) * 257.0 == c.get(i));
    let names = [name.to_string(), format!("{name}_2")];
    names
        .iter()
        .filter_map(|n| to.attribute(n))
        .any(|c| equal(c) || widened(c))
}

#[test]
fn every_format_carries_the_attributes_of_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = vec![
        "las/extrabytes.las",
        "las/unregistered_extra_bytes.las",
        "ply/derived_scannet_style_label_faces_le.ply",
        "ply/derived_ign_double_utm_ascii.ply",
        "pcd/derived_ign_rgb_label_binary.pcd",
        "pcd/pcd-rs_demo_compressed.pcd",
        "npy/1.2-with-color.npy",
        "npy/xyz_label_f32_fortran_order.npy",
    ];
    let mut targets = vec!["las", "ply", "pcd", "npy"];
    if cfg!(feature = "laz") {
        sources.extend(["laz/crop_duplicate.laz", "laz/fullwave.laz"]);
        targets.push("laz");
    }
    for source in &sources {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(source);
        let scan = io::read(&path).unwrap();
        // As if the points came from nowhere: the same format is written afresh too.
        let scan = Scan::from(scan.cloud);
        for target in &targets {
            let name = format!("{source} to {target}");
            let output = folder.path().join("out").with_extension(target);
            let labels = labels(scan.cloud.len());
            io::check_output(&output, &scan, &labels.code).unwrap();
            io::write(&output, &scan, &labels).unwrap_or_else(|e| panic!("{name}: {e}"));
            let back = io::read(&output)
                .unwrap_or_else(|e| panic!("{name}: {e}"))
                .cloud;
            assert_eq!(back.len(), scan.cloud.len(), "{name}");
            let is_las = target.starts_with("la");
            for (a, b) in scan.cloud.coord.iter().zip(&back.coord) {
                let off = (0..3).map(|i| (a[i] - b[i]).abs()).fold(0.0, f64::max);
                assert!(
                    off <= if is_las { 0.0005001 } else { 0.0 },
                    "{name}: {a:?} {b:?}"
                );
            }
            for a in &scan.cloud.attributes {
                let packed = is_las && a.name == "rgb";
                let Some(kept) = kept_name(&scan.cloud, &a.name) else {
                    continue;
                };
                assert!(
                    packed || carried(&a.column, &back, kept),
                    "{name}: {}",
                    a.name
                );
            }
            assert_eq!(scan.cloud.colors(), back.colors(), "{name}");
            let codes = labels.code.iter().map(|&c| i64::from(c));
            let written = back
                .labels_of(if is_las { "classification" } else { "label" })
                .unwrap();
            let want: Vec<i64> = codes.map(|c| if is_las { c.max(0) } else { c }).collect();
            assert_eq!(written.code, want, "{name}");
        }
    }
}

#[test]
fn las_refuses_points_without_coordinates() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed/pcd_organised_nan_ok.pcd");
    let scan = io::read(path).unwrap();
    let output = folder.path().join("out.las");
    let early = io::check_output(&output, &scan, &[1])
        .unwrap_err()
        .to_string();
    assert!(
        early.contains("14 points have no usable coordinates"),
        "{early}"
    );
    let late = io::write(&output, &scan, &labels(40))
        .unwrap_err()
        .to_string();
    assert!(late.contains("point 0 has the coordinate NaN"), "{late}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn ply_reads_like_ply_rs_bw() {
    use ply_rs_bw::{parser::Parser, ply::DefaultElement, ply::Property};
    let number = |p: &Property| match *p {
        Property::Char(x) => f64::from(x),
        Property::UChar(x) => f64::from(x),
        Property::Short(x) => f64::from(x),
        Property::UShort(x) => f64::from(x),
        Property::Int(x) => f64::from(x),
        Property::UInt(x) => f64::from(x),
        Property::Float(x) => f64::from(x),
        Property::Double(x) => x,
        _ => panic!("a list"),
    };
    let mut compared = 0;
    for (path, scan) in clouds() {
        if scan.source.format_name() != Some("PLY") {
            continue;
        }
        let mut file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let Ok(twin) = Parser::<DefaultElement>::new().read_ply(&mut file) else {
            // The twin wants some headers more strictly.
            continue;
        };
        let rows = &twin.payload["vertex"];
        assert_eq!(rows.len(), scan.cloud.len(), "{}", path.display());
        for (i, row) in rows.iter().enumerate() {
            for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
                let (a, b) = (number(&row[name]), scan.cloud.coord[i][axis]);
                // Text keeps more digits than the twin's floats.
                assert!(
                    a == b || a == f64::from(b as f32),
                    "{} {i}: {a} {b}",
                    path.display()
                );
            }
            for a in &scan.cloud.attributes {
                assert_eq!(
                    number(&row[a.name.as_str()]),
                    a.column.get(i),
                    "{} {i}",
                    path.display()
                );
            }
        }
        compared += 1;
    }
    assert!(compared > 15, "{compared}");
}
