//! Folders, patterns, bags and label maps.

use crate::fixtures::{cairn, fails, files, json, model, path, room, succeeds, text, write};
use cairn::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder with three good scans, a bad one and a model beside it.
fn workplace() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let scans = folder.path().join("scans");
    std::fs::create_dir(&scans).unwrap();
    for name in ["a.npy", "b.las", "c.xyz"] {
        write(&scans.join(name), &room(200));
    }
    std::fs::write(scans.join("bad.ply"), "no scan").unwrap();
    std::fs::write(scans.join("notes.md"), "no scan either").unwrap();
    let weights = folder.path().join("m.safetensors");
    model(&weights, &["coord"]);
    (folder, scans, weights)
}

fn changed(file: &Path) -> std::time::SystemTime {
    std::fs::metadata(file).unwrap().modified().unwrap()
}

#[test]
fn a_bad_scan_stops_no_other_and_a_second_run_does_the_rest() {
    let (folder, scans, weights) = workplace();
    let out = folder.path().join("out");
    let args = [
        "segment",
        path(&scans),
        "-o",
        path(&out),
        "--weights",
        path(&weights),
    ];
    let first = cairn().args(args).output().unwrap();
    let log = text(&first.stderr);
    assert_eq!(first.status.code(), Some(1), "{log}");
    assert!(log.contains("labelled 3 of 4 scans, 1 failed:\n"), "{log}");
    assert!(
        log.contains("bad.ply: reading the scan: ") && log.contains("not a PLY file"),
        "{log}"
    );
    assert_eq!(files(&out), ["a.npy", "b.las", "c.xyz"]);
    assert_eq!(text(&first.stdout).matches("200 points in").count(), 3);

    let times: Vec<_> = files(&out).iter().map(|f| changed(&out.join(f))).collect();
    write(&scans.join("bad.ply"), &room(100));
    let second = cairn().args(args).arg("--json").output().unwrap();
    let log = text(&second.stderr);
    assert!(second.status.success(), "{log}");
    assert!(
        log.contains("labelled 1 of 4 scans, 3 were done already"),
        "{log}"
    );
    assert_eq!(text(&second.stdout).lines().count(), 1);
    let again: Vec<_> = ["a.npy", "b.las", "c.xyz"]
        .map(|f| changed(&out.join(f)))
        .into();
    assert_eq!(times, again);
    let third = cairn().args(args).arg("--again").output().unwrap();
    assert!(text(&third.stderr).contains("labelled 4 of 4 scans"));
}

#[test]
fn failures_are_json_too_and_outputs_lie_beside_their_inputs() {
    let (_folder, scans, weights) = workplace();
    let pattern = scans.join("*");
    let args = [
        "segment",
        path(&pattern),
        "--weights",
        path(&weights),
        "--to",
        "ply",
        "--json",
    ];
    let out = cairn().args(args).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let lines: Vec<serde_json::Value> = (text(&out.stdout).lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines.iter().filter(|l| l["error"].is_string()).count(), 2);
    let labelled = files(&scans)
        .into_iter()
        .filter(|f| f.contains("_labelled"));
    let want = ["a_labelled.ply", "b_labelled.ply", "c_labelled.ply"];
    assert_eq!(labelled.collect::<Vec<_>>(), want);
    let cloud = io::read(scans.join("b_labelled.ply")).unwrap().cloud;
    assert_eq!(cloud.labels().unwrap().name, "label");
}

#[test]
fn classes_get_the_codes_of_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let [scan, output, weights] =
        ["in.npy", "out.npy", "m.safetensors"].map(|n| folder.path().join(n));
    write(&scan, &room(300));
    model(&weights, &["coord"]);
    let run = |map: &str, more: &[&str]| {
        let args = [
            "segment",
            path(&scan),
            "-o",
            path(&output),
            "--weights",
            path(&weights),
        ];
        json(&[&args[..], &["--map", map], more].concat())
    };
    let report = run("floor=2,box=6,none=1", &[]);
    let codes = io::read(&output).unwrap().cloud.labels().unwrap().code;
    for class in report["classes"].as_array().unwrap() {
        let code = class["code"].as_i64().unwrap();
        assert!(code == 2 || code == 6);
        assert_eq!(
            class["points"],
            codes.iter().filter(|c| **c == code).count()
        );
    }
    // The labels of the input are the model's own codes still.
    assert_eq!(report["comparison"]["labelled_points"], 300);
    let file = folder.path().join("map.toml");
    std::fs::write(&file, "ignore = [0]\n[codes]\nbox = 6\n").unwrap();
    let report = run(path(&file), &[]);
    assert!(report["comparison"]["labelled_points"].as_u64().unwrap() < 300);
    assert!(report["unknown_codes"].is_null(), "{report}");
    let args = [
        "segment",
        path(&scan),
        "-o",
        path(&output),
        "--weights",
        path(&weights),
    ];
    let fault = fails(&[&args[..], &["--map", "sky=1"]].concat(), 2);
    assert!(fault.contains("the model has floor, box"), "{fault}");
    let las = folder.path().join("out.las");
    let args = [
        "segment",
        path(&scan),
        "-o",
        path(&las),
        "--weights",
        path(&weights),
    ];
    let fault = fails(&[&args[..], &["--map", "box=300"]].concat(), 2);
    assert!(
        fault.contains("300") && fault.contains("preparing the output"),
        "{fault}"
    );
}

#[test]
fn codes_that_are_no_class_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let [scan, output, weights] =
        ["in.npy", "out.npy", "m.safetensors"].map(|n| folder.path().join(n));
    let mut cloud = room(300);
    let mut labels = vec![0u8; 300];
    labels[..7].fill(77);
    labels[7..10].fill(1);
    cloud
        .set_attribute("label", cairn::cloud::Column::U8(labels))
        .unwrap();
    write(&scan, &cloud);
    model(&weights, &["coord"]);
    let args = [
        "segment",
        path(&scan),
        "-o",
        path(&output),
        "--weights",
        path(&weights),
    ];
    let shown = succeeds(&args);
    assert!(shown.contains("no class here: 77 (7 points)"), "{shown}");
    let shown = succeeds(&[&args[..], &["--ignore", "5,77"]].concat());
    assert!(!shown.contains("no class here"), "{shown}");
}

/// SIGKILL cannot be caught: whatever it hits, the output is the old file or the whole new one.
#[test]
#[cfg(unix)]
fn a_killed_run_leaves_the_old_file_or_the_whole_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let [scan, output, weights] =
        ["in.npy", "out.npy", "m.safetensors"].map(|n| folder.path().join(n));
    write(&scan, &room(3000));
    model(&weights, &["coord"]);
    let args = [
        "segment",
        path(&scan),
        "-o",
        path(&output),
        "--weights",
        path(&weights),
    ];
    let start = std::time::Instant::now();
    succeeds(&args);
    let whole_time = start.elapsed();
    let whole = std::fs::read(&output).unwrap();
    let mut old = 0;
    for moment in 0..20 {
        std::fs::write(&output, "old").unwrap();
        let mut child = std::process::Command::new(cairn().get_program())
            .args(args)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole_time * moment / 19);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = std::fs::read(&output).unwrap();
        old += usize::from(found == b"old");
        assert!(
            found == b"old" || found == whole,
            "{} bytes at moment {moment}",
            found.len()
        );
    }
    assert!(old > 0, "no run was killed in time");
}

#[test]
fn clouds_of_a_bag_are_labelled_in_a_new_bag() {
    let folder = tempfile::tempdir().unwrap();
    let [bag, output, weights] =
        ["in.mcap", "out.mcap", "m.safetensors"].map(|n| folder.path().join(n));
    model(&weights, &["coord"]);
    write_bag(&bag, &[600, 0, 400]);
    let args = [
        "segment",
        path(&bag),
        "-o",
        path(&output),
        "--weights",
        path(&weights),
    ];
    let report = json(&args);
    assert_eq!(
        (&report["clouds"], &report["points"]),
        (&3.into(), &1000.into())
    );
    assert_eq!(report["topic"], "/points");
    let mut sizes = Vec::new();
    let again = folder.path().join("again.mcap");
    io::bag::label(&output, &again, "/points", &mut |frame| {
        let labels = frame.cloud.labels().unwrap().code;
        assert!(labels.iter().all(|c| (0..2).contains(c)));
        sizes.push(labels.len());
        Ok(io::Labels {
            confidence: vec![0.0; labels.len()],
            code: vec![0; labels.len()],
            classes: Vec::new(),
        })
    })
    .unwrap();
    assert_eq!(sizes, [600, 0, 400]);
    let fault = fails(&[&args[..], &["--topic", "/camera"]].concat(), 2);
    assert!(fault.contains("only on: /points"), "{fault}");
    let fault = fails(&["info", path(&bag)], 2);
    assert!(fault.contains("a bag of many clouds"), "{fault}");
}

/// A bag with clouds of these sizes, as a ROS 2 driver writes them.
fn write_bag(file: &Path, sizes: &[usize]) {
    let mut writer = mcap::Writer::new(std::fs::File::create(file).unwrap()).unwrap();
    let schema = writer
        .add_schema("sensor_msgs/msg/PointCloud2", "ros2msg", b"")
        .unwrap();
    let channel = writer
        .add_channel(schema, "/points", "cdr", &Default::default())
        .unwrap();
    for (i, size) in sizes.iter().enumerate() {
        let mut data = vec![0, 1, 0, 0];
        let number = |data: &mut Vec<u8>, x: u32| {
            data.resize(data.len().next_multiple_of(4), 0);
            data.extend(x.to_le_bytes());
        };
        for x in [3, 4, 1] {
            number(&mut data, x);
        }
        data.push(0);
        for x in [1, *size as u32, 3] {
            number(&mut data, x);
        }
        for (axis, name) in [b"x\0", b"y\0", b"z\0"].iter().enumerate() {
            number(&mut data, 2);
            data.extend(*name);
            number(&mut data, 4 * axis as u32);
            data.push(7);
            number(&mut data, 1);
        }
        data.push(0);
        for x in [12, 12 * *size as u32, 12 * *size as u32] {
            number(&mut data, x);
        }
        for p in room(*size).coord {
            data.extend(p.iter().flat_map(|x| (*x as f32).to_le_bytes()));
        }
        data.push(1);
        let header = mcap::records::MessageHeader {
            channel_id: channel,
            sequence: i as u32,
            log_time: i as u64,
            publish_time: i as u64,
        };
        writer.write_to_known_channel(&header, &data).unwrap();
    }
    writer.finish().unwrap();
}
