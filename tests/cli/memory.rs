//! Scans that do not fit into the memory they are given.

use crate::fixtures::{cairn, fails, files, json, model, path, room, succeeds, text, write};
use cairn::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// So little that a scan of some ten thousand points goes through the disk.
const LITTLE: &str = "64MiB";

struct Place {
    folder: TempDir,
    scan: PathBuf,
    weights: PathBuf,
    output: PathBuf,
}

impl Place {
    fn new(extension: &str, points: usize) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (scan, output) = (
            file(&format!("in.{extension}")),
            file(&format!("out.{extension}")),
        );
        let weights = file("m.safetensors");
        write(&scan, &room(points));
        // The same in every tile, unlike coordinates: an untrained network looks at nothing else.
        model(&weights, &["height"]);
        Place {
            folder,
            scan,
            weights,
            output,
        }
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let [scan, output, weights] = [&self.scan, &self.output, &self.weights].map(|p| path(p));
        let mut all = vec!["segment", scan, "-o", output, "--weights", weights];
        all.extend(more);
        all
    }

    /// Names of the files that were not there before.
    fn new_files(&self) -> Vec<String> {
        let mut found = files(self.folder.path());
        let old = [&self.scan, &self.weights].map(|p| p.file_name().unwrap().to_str().unwrap());
        found.retain(|name| !old.contains(&name.as_str()));
        found
    }
}

/// Class codes of a labelled file.
fn labels(file: &Path) -> Vec<i64> {
    let cloud = io::read(file).unwrap().cloud;
    let name = match file.extension().unwrap().to_str().unwrap() {
        "las" | "laz" => "classification",
        _ => "label",
    };
    cloud.labels_of(name).unwrap().code
}

#[test]
fn every_format_goes_through_the_disk_and_keeps_its_points() {
    for extension in ["las", "laz", "npy", "ply", "pcd", "xyz", "bin", "e57"] {
        if extension == "laz" && !cfg!(feature = "laz") {
            continue;
        }
        let place = Place::new(extension, 20_000);
        let whole = json(&place.arguments(&["--memory", "8GiB"]));
        assert!(whole["bounded"].is_null());
        let expected = labels(&place.output);
        let before = io::read(&place.output).unwrap().cloud;
        std::fs::remove_file(&place.output).unwrap();
        let little = json(&place.arguments(&["--memory", LITTLE]));
        let bounded = &little["bounded"];
        assert!(
            bounded["temporary"].as_u64().unwrap() >= 20_000 * 32,
            "{little}"
        );
        assert!(bounded["blocks"].as_u64().unwrap() > 0);
        let after = io::read(&place.output).unwrap().cloud;
        assert_eq!(after.coord, before.coord, "{extension}");
        for (a, b) in after.attributes.iter().zip(&before.attributes) {
            assert_eq!(a.name, b.name, "{extension}");
            let is_new = ["label", "confidence", "classification"].contains(&a.name.as_str());
            assert!(is_new || a.column == b.column, "{extension}: {}", a.name);
        }
        let found = labels(&place.output);
        let same = found.iter().zip(&expected).filter(|(a, b)| a == b).count();
        assert!(same > 15_000, "{extension}: {same} labels are as in memory");
        for key in ["points", "without_class"] {
            assert_eq!(little[key], whole[key], "{extension} {key}");
        }
        let counts = |report: &serde_json::Value| {
            let classes = report["classes"].as_array().unwrap().iter();
            classes.map(|c| c["points"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(counts(&little), 20_000);
    }
}

#[test]
fn labels_of_the_input_and_points_without_coordinates_count_as_in_memory() {
    let place = Place::new("npy", 0);
    let mut cloud = room(20_000);
    cloud.coord[7] = [f64::NAN; 3];
    cloud.coord[19_999][2] = f64::INFINITY;
    write(&place.scan, &cloud);
    for more in [&["--memory", LITTLE][..], &["--memory", LITTLE, "--tta"]] {
        let report = json(&place.arguments(more));
        assert_eq!(report["without_class"], 2);
        assert_eq!(report["comparison"]["labelled_points"], 19_998);
        let found = labels(&place.output);
        let missing = [7, 19_999].map(|i| found[i]);
        assert_eq!(missing, [-1, -1]);
        let truth = room(20_000).labels().unwrap().code;
        let right = (0..20_000).filter(|i| found[*i] == truth[*i]).count();
        let accuracy = report["comparison"]["accuracy"].as_f64().unwrap();
        assert!(
            (accuracy - right as f64 / 19_998.0).abs() < 1e-9,
            "{report}"
        );
    }
    let out = cairn()
        .args(place.arguments(&["--memory", LITTLE]))
        .output()
        .unwrap();
    let shown = text(&out.stdout);
    assert!(shown.contains("blocks within 64 MiB of memory"), "{shown}");
    assert!(text(&out.stderr).contains("2 of 20000 points have no coordinates"));
    // LAS holds no such points, which shows before the work.
    let las = place.folder.path().join("out.las");
    let mut arguments = place.arguments(&["--memory", LITTLE]);
    arguments[3] = path(&las);
    let fault = fails(&arguments, 2);
    assert!(
        fault.contains("preparing the output") && fault.contains("2 points"),
        "{fault}"
    );
}

#[test]
fn amounts_that_are_none_or_too_little_are_refused() {
    let place = Place::new("las", 20_000);
    let out = cairn()
        .args(place.arguments(&["--memory", "2"]))
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(
        text(&out.stderr).contains("such as 512MiB, 2GiB"),
        "{}",
        text(&out.stderr)
    );
    let fault = fails(&place.arguments(&["--memory", "20MiB"]), 2);
    let (_, least) = fault.split_once("the least is ").expect(&fault);
    assert!(place.new_files().is_empty());
    let least = least.lines().next().unwrap();
    succeeds(&place.arguments(&["--memory", least]));
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_named_and_leaves_nothing() {
    let place = Place::new("npy", 20_000);
    let out = Command::new("sh")
        .args(["-c", "ulimit -f 64; exec \"$@\"", "sh"])
        .arg(cairn().get_program())
        .args(place.arguments(&["--memory", LITTLE]))
        .output()
        .unwrap();
    let fault = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{fault}");
    assert!(
        fault.contains("temporary points") && fault.contains("hint:"),
        "{fault}"
    );
    assert!(place.new_files().is_empty());
}

#[test]
#[cfg(unix)]
fn interrupted_and_killed_runs_leave_nothing() {
    let place = Place::new("las", 200_000);
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let mut child = Command::new(cairn().get_program())
            .args(place.arguments(&["--memory", LITTLE, "--tta", "--threads", "1"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), code);
        assert!(place.new_files().is_empty(), "{:?}", place.new_files());
    }
}
