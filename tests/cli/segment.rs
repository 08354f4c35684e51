use crate::fixtures::{cairn, fails, files, json, model, path, room, succeeds, text, write};
use cairn::cloud::PointCloud;
use cairn::io;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder with a scan and a model for it.
fn workplace(name: &str, cloud: &PointCloud) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (scan, weights) = (
        folder.path().join(name),
        folder.path().join("m.safetensors"),
    );
    write(&scan, cloud);
    model(&weights, &["coord", "echo"]);
    (folder, scan, weights)
}

#[test]
fn every_point_keeps_its_attributes_and_gets_a_class() {
    let cloud = room(3000);
    for name in ["in.npy", "in.las", "in.laz"] {
        let (folder, scan, weights) = workplace(name, &cloud);
        let output = folder.path().join(name.replace("in", "out"));
        let report = json(&[
            "segment",
            path(&scan),
            "-o",
            path(&output),
            "--weights",
            path(&weights),
        ]);
        assert_eq!(report["points"], 3000);
        let before = io::read(&scan).unwrap().cloud;
        let after = io::read(&output).unwrap().cloud;
        assert_eq!(after.coord, before.coord, "{name}");
        assert_eq!(after.attribute("echo"), before.attribute("echo"), "{name}");
        let confidence = after.attribute("confidence").unwrap();
        assert!((0..3000).all(|i| (0.5..=1.0).contains(&confidence.get(i))));
        // LAS has a field of its own for classes; the extra dimension `label` is the input's and stays.
        let field = if name == "in.npy" {
            "label"
        } else {
            "classification"
        };
        let codes = after.labels_of(field).unwrap().code;
        for (code, class) in report["classes"].as_array().unwrap().iter().enumerate() {
            let count = codes.iter().filter(|c| **c == code as i64).count();
            assert_eq!(class["points"], count, "{name}");
        }
    }
}

#[test]
fn labels_of_the_input_are_compared() {
    let (folder, scan, weights) = workplace("in.npy", &room(2000));
    let output = folder.path().join("out.npy");
    let args = [
        "segment",
        path(&scan),
        "-o",
        path(&output),
        "--weights",
        path(&weights),
    ];
    let report = json(&args);
    let comparison = &report["comparison"];
    assert_eq!(comparison["labelled_points"], 2000);
    let predicted = io::read(&output).unwrap().cloud.labels().unwrap().code;
    let truth = room(2000).labels().unwrap().code;
    let right = predicted.iter().zip(&truth).filter(|(a, b)| a == b).count();
    assert!((comparison["accuracy"].as_f64().unwrap() - right as f64 / 2000.0).abs() < 1e-9);
    let shown = succeeds(&args);
    assert!(shown.contains("IoU") && shown.contains("mIoU"), "{shown}");
}

#[test]
fn tiles_views_and_threads_give_every_point_a_class() {
    let (folder, scan, weights) = workplace("in.npy", &room(4000));
    let mut outputs = Vec::new();
    for (number, extra) in [
        &["--threads", "1"][..],
        &["--threads", "3"],
        &["--tile-voxels", "1000"],
        &["--tta"],
        &["--tta=rotate"],
    ]
    .iter()
    .enumerate()
    {
        let output = folder.path().join(format!("out{number}.npy"));
        let mut args = vec![
            "segment",
            path(&scan),
            "-o",
            path(&output),
            "--weights",
            path(&weights),
        ];
        args.extend(*extra);
        let report = json(&args);
        assert_eq!(report["without_class"], 0);
        let passes = report["passes"].as_u64().unwrap();
        match number {
            0 | 1 => assert_eq!((&report["tiles"], passes), (&1.into(), 1)),
            2 => assert!(report["tiles"].as_u64().unwrap() > 2, "{report}"),
            3 => assert!(passes >= 10, "{report}"),
            _ => assert!(passes >= 13, "{report}"),
        }
        outputs.push(std::fs::read(&output).unwrap());
    }
    assert_eq!(
        outputs[0], outputs[1],
        "the number of threads changes nothing"
    );
    assert_ne!(outputs[0], outputs[3], "views change confidences");
}

#[test]
fn tiny_and_degenerate_scans_work() {
    let one = room(1);
    let mut equal = room(500);
    equal.coord.fill([1e6, 6e6, 50.0]);
    let mut holes = room(300);
    for row in [0, 17, 299] {
        holes.coord[row] = [f64::NAN; 3];
    }
    holes.coord[17] = [f64::INFINITY, f64::NEG_INFINITY, 0.0];
    for (cloud, missing) in [(one, 0), (equal, 0), (holes, 3)] {
        let (folder, scan, weights) = workplace("in.npy", &cloud);
        let output = folder.path().join("out.npy");
        let args = [
            "segment",
            path(&scan),
            "-o",
            path(&output),
            "--weights",
            path(&weights),
        ];
        let out = cairn().args(args).arg("--json").output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["without_class"], missing);
        let warning = format!("warning: {}: ", path(&scan));
        assert_eq!(text(&out.stderr).contains(&warning), missing > 0);
        let after = io::read(&output).unwrap().cloud;
        assert_eq!(after.len(), cloud.len());
        let codes = after.labels().unwrap().code;
        let confidence = after.attribute("confidence").unwrap();
        for (row, p) in cloud.coord.iter().enumerate() {
            let has_class = p[0].is_finite();
            assert_eq!(codes[row] >= 0, has_class);
            assert_eq!(confidence.get(row) > 0.0, has_class);
        }
    }
}

#[test]
fn several_scans_go_into_a_folder() {
    let (folder, scan, weights) = workplace("a.npy", &room(300));
    let second = folder.path().join("b.las");
    write(&second, &room(200));
    let out = folder.path().join("out");
    let shown = succeeds(&[
        "segment",
        path(&scan),
        path(&second),
        "-o",
        path(&out),
        "--weights",
        path(&weights),
        "--json",
    ]);
    let points: Vec<serde_json::Value> = shown
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["points"].clone())
        .collect();
    assert_eq!(points, [300, 200]);
    assert_eq!(files(&out), ["a.npy", "b.las"]);
    let twice = [
        "segment",
        path(&scan),
        path(&scan),
        "-o",
        path(&out),
        "--weights",
        path(&weights),
    ];
    assert!(fails(&twice, 2).contains("is named twice"));
}
