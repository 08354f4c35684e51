use crate::fixtures::{fails, json, path, succeeds};
use std::path::PathBuf;

/// A training configuration with a network so small that timing it takes no time.
fn config(folder: &std::path::Path) -> PathBuf {
    let file = folder.join("small.toml");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/train/example.toml");
    std::fs::copy(source, &file).unwrap();
    file
}

#[test]
fn both_jobs_are_timed_at_every_size() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let command = ["bench", "--network", path(&config), "--points", "300,500"];
    for (job, extra) in [
        ("inference", &[][..]),
        ("training step", &["--training"][..]),
    ] {
        let args = [&command[..], &["--repeats", "2"], extra].concat();
        let rows = json(&args);
        let sizes: Vec<_> = rows.as_array().unwrap().iter().collect();
        assert_eq!(sizes.len(), 2);
        for (row, points) in sizes.iter().zip([300, 500]) {
            assert_eq!(row["job"], job);
            assert_eq!(row["points"], points);
            let number = |key: &str| row[key].as_f64().unwrap();
            assert!(number("seconds") > 0.0 && number("fastest") <= number("seconds"));
            assert!(number("seconds") <= number("slowest"));
            assert!(number("arena_bytes") > 0.0);
            let backward = row["ops"].as_array().unwrap().iter();
            let backward = backward.filter(|s| s["phase"] == "backward").count();
            assert_eq!(backward > 0, job == "training step");
        }
    }
    let text = succeeds(&command);
    assert!(text.contains("500 points") && text.contains("%"), "{text}");
}

#[test]
fn index_steps_are_timed_at_every_size() {
    let command = ["bench", "--steps", "--points", "400,900", "--repeats", "2"];
    let rows = json(&command);
    for (row, points) in rows.as_array().unwrap().iter().zip([400, 900]) {
        assert_eq!(row["points"], points);
        let steps = row["steps"].as_array().unwrap();
        let names: Vec<_> = steps.iter().map(|s| s["step"].as_str().unwrap()).collect();
        assert!(names.contains(&"farthest points") && names.contains(&"nearest neighbours"));
        assert!(steps.iter().all(|s| s["seconds"].as_f64().unwrap() > 0.0));
    }
    let text = succeeds(&command);
    assert!(
        text.contains("900 points") && text.contains("points/s"),
        "{text}"
    );
    fails(&["bench", "--steps", "--training"], 2);
    fails(&["bench", "--steps", "--points", "1"], 2);
}

#[test]
fn what_cannot_be_timed_is_said() {
    let missing = fails(&["bench", "--network", "nowhere.toml"], 2);
    assert!(missing.contains("nowhere.toml"), "{missing}");
    fails(&["bench", "--repeats", "0"], 2);
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let input = ["--input", path(&config)];
    let error = fails(&[&["bench"], &input[..]].concat(), 2);
    assert!(error.contains("small.toml"), "{error}");
}
