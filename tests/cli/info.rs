use crate::fixtures::{cairn, fails, json, path, repository, room, succeeds, text, write};
use cairn::cloud::Column;
use std::process::Stdio;

const SCAN: &str = "tests/data/las/simple.las";

#[test]
fn a_scan_is_described() {
    let scan = repository(SCAN);
    let info = json(&["info", path(&scan)]);
    assert_eq!(info["points"], 1065);
    assert_eq!(info["format"], "LAS");
    assert_eq!(info["labels"]["count"]["1"], 789);
    assert_eq!(info["labels"]["count"]["2"], 276);
    let names: Vec<&str> = info["attributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"intensity") && names.contains(&"red"),
        "{names:?}"
    );
    let text = succeeds(&["info", path(&scan)]);
    for part in ["1 065", "1.2, point format 3", "classification", "789"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn files_that_are_no_scans_are_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let scan = std::fs::read(repository(SCAN)).unwrap();
    let cases = [
        (folder.path().join("missing.las"), "No such file"),
        (folder.path().to_path_buf(), "is a folder"),
        (file("empty.las", b""), "empty"),
        (file("noise.abc", &[7; 600]), "known are"),
        (file("noise.las", &[7; 600]), "not a LAS file"),
        (file("cut.las", &scan[..scan.len() - 100]), "cut.las"),
        (file("header.las", &scan[..100]), "header.las"),
    ];
    for (file, part) in cases {
        let fault = fails(&["info", path(&file)], 2);
        assert!(fault.contains(part), "{part} is not in: {fault}");
    }
}

#[test]
fn extreme_numbers_fit_into_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let scan = folder.path().join("scan.ply");
    let mut cloud = room(10);
    let mut odd = vec![5e-324; 10];
    odd[3] = 1.7e308;
    cloud.set_attribute("odd", Column::F64(odd)).unwrap();
    write(&scan, &cloud);
    let text = succeeds(&["info", path(&scan)]);
    assert!(
        text.contains("5e-324") && text.contains("1.7e308"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() < 100), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = std::process::Command::new(cairn().get_program())
        .args(["info", path(&repository(SCAN))])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
}

#[test]
fn devices_are_described_without_a_file() {
    let devices = json(&["info", "--devices", "--threads", "2"]);
    assert_eq!(devices["cpu"]["threads"], 2);
    let missing = devices["missing"].as_object().unwrap();
    for name in ["cuda", "nvrtc", "emulator"] {
        assert_eq!(
            devices[name].is_null(),
            missing.contains_key(name),
            "{name}"
        );
    }
    let text = succeeds(&["info", "--devices"]);
    for line in ["cpu ", "cuda", "nvrtc", "emulator"] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line}: {text}");
    }
    cairn()
        .args(["info", path(&repository(SCAN)), "--devices"])
        .assert()
        .code(2);
}
