use crate::fixtures::{cairn, fails, files, json, path, room, succeeds, text, write};
use cairn::cloud::{Column, PointCloud};
use cairn::weights::safetensors;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CONFIGURATION: &str = include_str!("train.toml");

/// A folder with four labelled scans and a configuration.
struct Place {
    folder: TempDir,
    configuration: PathBuf,
}

impl Place {
    /// `edits` are texts of the configuration and what takes their place.
    fn new(edits: &[(&str, &str)]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        for (i, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            write(
                &folder.path().join(name).with_extension("npy"),
                &room(600 + 50 * i),
            );
        }
        let configuration = folder.path().join("train.toml");
        let place = Place {
            folder,
            configuration,
        };
        place.edit(edits);
        place
    }

    fn edit(&self, edits: &[(&str, &str)]) {
        let mut text = CONFIGURATION.to_string();
        for (old, new) in edits {
            assert!(text.contains(old), "{old}");
            text = text.replacen(old, new, 1);
        }
        std::fs::write(&self.configuration, text).unwrap();
    }

    fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments<'a>(&'a self, output: &'a Path, extra: &[&'a str]) -> Vec<&'a str> {
        let fixed = ["train", path(&self.configuration), "-o", path(output)];
        fixed.into_iter().chain(extra.iter().copied()).collect()
    }

    /// Trains to the end in the folder `name`.
    fn train(&self, name: &str, extra: &[&str]) -> PathBuf {
        let output = self.output(name);
        succeeds(&self.arguments(&output, extra));
        output
    }

    /// Starts training and lets it go on until it has logged `records` lines.
    fn start(&self, output: &Path, records: usize) -> Child {
        let mut child = Command::new(cairn().get_program())
            .args(self.arguments(output, &["--threads", "1"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = output.join("log.jsonl");
        let begin = Instant::now();
        while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < records {
            assert!(child.try_wait().unwrap().is_none(), "the run ended early");
            assert!(
                begin.elapsed() < Duration::from_secs(120),
                "the run does not advance"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([name, &id])
            .status()
            .unwrap()
            .success()
    );
}

/// The log without the times that steps took.
fn log(output: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(output.join("log.jsonl")).unwrap();
    let record = |line: &str| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("seconds");
        record
    };
    text.lines().map(record).collect()
}

const WRITTEN: [&str; 3] = [
    "checkpoint.safetensors",
    "last.safetensors",
    "best.safetensors",
];

fn assert_equal_runs(a: &Path, b: &Path) {
    for name in WRITTEN {
        let [a, b] = [a, b].map(|folder| std::fs::read(folder.join(name)).unwrap());
        assert!(a == b, "{name} differs");
    }
    assert_eq!(log(a), log(b));
}

fn finished_steps(output: &Path) -> u64 {
    let checkpoint = safetensors::read(output.join("checkpoint.safetensors")).unwrap();
    let progress: serde_json::Value =
        serde_json::from_str(&checkpoint.metadata["progress"]).unwrap();
    progress["steps"].as_u64().unwrap()
}

#[test]
fn a_seed_gives_the_same_files_on_any_number_of_threads() {
    let place = Place::new(&[]);
    let one = place.train("one", &["--threads", "1"]);
    assert_equal_runs(&one, &place.train("again", &["--threads", "1"]));
    assert_equal_runs(&one, &place.train("three", &["--threads", "3"]));
    let other = place.train("other", &["--threads", "3", "--seed", "5"]);
    assert_ne!(log(&one)[0], log(&other)[0], "another seed is another run");

    // The scores in the log are those that the kept model reaches.
    let best = one.join("best.safetensors");
    let scores = json(&["eval", path(&place.configuration), "--weights", path(&best)]);
    let records = log(&one);
    let logged = records
        .iter()
        .filter_map(|r| r["miou"].as_f64())
        .reduce(f64::max)
        .unwrap();
    assert_eq!(scores["points"]["miou"].as_f64(), Some(logged), "{scores}");
    assert_eq!(records.iter().filter(|r| r["loss"].is_number()).count(), 40);
    for name in ["curve.svg", "log.jsonl"].iter().chain(&WRITTEN) {
        assert!(files(&one).contains(&name.to_string()), "{name}");
    }
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_goes_on_bit_for_bit() {
    let place = Place::new(&[("steps = 40", "steps = 120"), ("checkpoint_every = 5", "")]);
    let whole = place.train("whole", &["--threads", "2"]);
    let parts = place.output("parts");
    let child = place.start(&parts, 7);
    signal(&child, "-INT");
    let out = child.wait_with_output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(
        said.contains("of 120 is in") && said.contains("--resume"),
        "{said}"
    );
    let steps = finished_steps(&parts);
    assert!((7..120).contains(&steps), "{steps}");
    assert!(!parts.join("last.safetensors").exists());
    place.train("parts", &["--resume"]);
    assert_equal_runs(&whole, &parts);
}

#[test]
#[cfg(unix)]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let place = Place::new(&[("steps = 40", "steps = 120")]);
    let whole = place.train("whole", &["--threads", "2"]);
    let parts = place.output("parts");
    // 30 steps and a validation: past the checkpoints of step 5 to 25.
    let mut child = place.start(&parts, 31);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let steps = finished_steps(&parts);
    assert!(
        (25..120).contains(&steps) && steps.is_multiple_of(5),
        "{steps}"
    );
    place.train("parts", &["--resume", "--threads", "3"]);
    assert_equal_runs(&whole, &parts);
}

#[test]
fn runs_that_cannot_go_on_are_refused() {
    let place = Place::new(&[("steps = 40", "steps = 4"), ("checkpoint_every = 5", "")]);
    let output = place.output("run");
    let resume = place.arguments(&output, &["--resume"]);
    assert!(fails(&resume, 2).contains("checkpoint.safetensors"));
    assert!(!output.exists());
    place.train("run", &[]);
    let checkpoint = output.join("checkpoint.safetensors");
    let good = std::fs::read(&checkpoint).unwrap();

    place.edit(&[("steps = 40", "steps = 8"), ("checkpoint_every = 5", "")]);
    assert!(fails(&resume, 2).contains("another configuration"));
    place.edit(&[("steps = 40", "steps = 4"), ("checkpoint_every = 5", "")]);
    let seed = place.arguments(&output, &["--resume", "--seed", "3"]);
    assert!(fails(&seed, 2).contains("seed"));
    assert!(std::fs::read(&checkpoint).unwrap() == good);

    for bytes in [&good[..good.len() / 2], &good[..20], &[]] {
        std::fs::write(&checkpoint, bytes).unwrap();
        assert!(fails(&resume, 2).contains("checkpoint.safetensors"));
    }
    std::fs::copy(output.join("last.safetensors"), &checkpoint).unwrap();
    assert!(fails(&resume, 2).contains("no training checkpoint"));
}

#[test]
fn an_earlier_run_is_replaced_only_on_request() {
    let place = Place::new(&[("steps = 40", "steps = 2")]);
    let output = place.train("run", &[]);
    let best = std::fs::read(output.join("best.safetensors")).unwrap();
    let fault = fails(&place.arguments(&output, &["--seed", "5"]), 2);
    assert!(
        fault.contains("--resume") && fault.contains("--again"),
        "{fault}"
    );
    assert_eq!(
        std::fs::read(output.join("best.safetensors")).unwrap(),
        best
    );
    place.train("run", &["--seed", "5", "--again"]);
    assert_ne!(
        std::fs::read(output.join("best.safetensors")).unwrap(),
        best
    );
}

#[test]
fn faults_of_the_data_are_named_and_leave_nothing() {
    let place = Place::new(&[]);
    let output = place.output("run");
    let scan = |name: &str| place.folder.path().join(name);
    let mut strange = room(300);
    let mut codes = vec![0u8; 300];
    (codes[3], codes[4], codes[9]) = (7, 7, 5);
    strange.set_attribute("label", Column::U8(codes)).unwrap();
    write(&scan("strange.npy"), &strange);
    let mut unlabelled = room(300);
    unlabelled.attributes.retain(|a| a.name != "label");
    write(&scan("unlabelled.npy"), &unlabelled);
    let mut nowhere = room(300);
    nowhere.coord.fill([f64::NAN; 3]);
    write(&scan("nowhere.npy"), &nowhere);
    let whole = std::fs::read(scan("a.npy")).unwrap();
    std::fs::write(scan("cut.npy"), &whole[..whole.len() - 50]).unwrap();
    std::fs::write(scan("empty.npy"), []).unwrap();
    let cases = [
        (
            "\"a.npy\"",
            "\"strange.npy\"",
            &["strange.npy", "5 (1 points), 7 (2 points)", "data.ignore"][..],
        ),
        (
            "\"d.npy\"",
            "\"strange.npy\"",
            &["strange.npy", "5 (1 points)"],
        ),
        (
            "\"a.npy\"",
            "\"unlabelled.npy\"",
            &["unlabelled.npy", "no integer attribute", "echo"],
        ),
        (
            "\"a.npy\"",
            "\"nowhere.npy\"",
            &["nowhere.npy", "usable coordinates"],
        ),
        ("\"a.npy\"", "\"cut.npy\"", &["cut.npy", "promised"]),
        ("\"a.npy\"", "\"empty.npy\"", &["empty.npy", "empty"]),
        (
            "\"a.npy\"",
            "\"missing.npy\"",
            &["missing.npy", "No such file"],
        ),
        ("\"a.npy\"", "\"x*.npy\"", &["x*.npy", "names no scan"]),
        (
            "\"echo\"",
            "\"color\"",
            &["feature color", "red, green, blue", "echo"],
        ),
        (
            "enc_groups = [6]",
            "enc_groups = [5]",
            &["enc_groups", "24"],
        ),
        ("steps = 40", "step = 40", &["step = 40", "line"]),
    ];
    for (old, new, parts) in cases {
        place.edit(&[(old, new)]);
        let fault = fails(&place.arguments(&output, &[]), 2);
        for part in parts {
            assert!(fault.contains(part), "{part} is not in: {fault}");
        }
        assert!(!output.exists(), "{new}");
    }
}

#[test]
fn degenerate_scans_can_be_trained_on() {
    let mut equal = room(400);
    equal.coord.fill([1e6, 6e6, 50.0]);
    let mut holes = room(400);
    (holes.coord[0], holes.coord[7][1], holes.coord[399][2]) =
        ([f64::NAN; 3], f64::INFINITY, f64::NEG_INFINITY);
    let mut far = room(400);
    for p in &mut far.coord {
        *p = [p[0] + 4e6, p[1] - 5e6, p[2]];
    }
    let clouds: [PointCloud; 5] = [room(1), room(5), equal, holes, far];
    for cloud in &clouds {
        // Merged, clouds of one point would be one row, which has no variance.
        let place = Place::new(&[("steps = 40", "steps = 3"), ("mix_probability = 0.5", "")]);
        for name in ["a.npy", "b.npy", "c.npy", "d.npy"] {
            write(&place.folder.path().join(name), cloud);
        }
        let output = place.train("run", &["--again"]);
        let records = log(&output);
        assert_eq!(records.len(), 4);
        assert!(
            records
                .iter()
                .take(3)
                .all(|r| r["loss"].as_f64().unwrap().is_finite())
        );
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_old_models() {
    let place = Place::new(&[("steps = 40", "steps = 2")]);
    let output = place.output("run");
    std::fs::create_dir(&output).unwrap();
    for name in WRITTEN {
        std::fs::write(output.join(name), name).unwrap();
    }
    // Files may grow to 16 KiB at most where blocks are of 1 KiB; a model has more.
    let out = Command::new("sh")
        .args(["-c", "ulimit -f 16; exec \"$@\"", "sh"])
        .arg(cairn().get_program())
        .args(place.arguments(&output, &["--again"]))
        .output()
        .unwrap();
    let fault = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{fault}");
    assert!(
        fault.contains("best.safetensors") && fault.contains("hint:"),
        "{fault}"
    );
    for name in WRITTEN {
        assert_eq!(std::fs::read(output.join(name)).unwrap(), name.as_bytes());
    }
    assert!(files(&output).iter().all(|name| !name.ends_with(".part")));
}

#[test]
fn a_read_only_model_is_not_replaced() {
    let place = Place::new(&[("steps = 40", "steps = 2")]);
    let output = place.output("run");
    std::fs::create_dir(&output).unwrap();
    let best = output.join("best.safetensors");
    std::fs::write(&best, "kept").unwrap();
    let mut permissions = std::fs::metadata(&best).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&best, permissions).unwrap();
    let fault = fails(&place.arguments(&output, &["--again"]), 2);
    assert!(
        fault.contains("best.safetensors") && fault.contains("read-only"),
        "{fault}"
    );
    assert_eq!(std::fs::read(&best).unwrap(), b"kept");
    assert!(files(&output).iter().all(|name| !name.ends_with(".part")));
}
