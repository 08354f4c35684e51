//! What goes wrong leaves the old output, nothing half-written, and one clear error.

use crate::fixtures::{cairn, fails, files, model, path, room, text, write};
use cairn::weights::safetensors;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Input, model and an older output, all in one folder.
struct Place {
    folder: TempDir,
    scan: PathBuf,
    weights: PathBuf,
    output: PathBuf,
}

const OLD: &[u8] = b"what was there before";

impl Place {
    fn new(points: usize, features: &[&str]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (scan, weights, output) = (file("in.npy"), file("m.safetensors"), file("out.npy"));
        write(&scan, &room(points));
        model(&weights, features);
        std::fs::write(&output, OLD).unwrap();
        Place {
            folder,
            scan,
            weights,
            output,
        }
    }

    fn arguments(&self) -> Vec<&str> {
        let [scan, output, weights] = [&self.scan, &self.output, &self.weights].map(|p| path(p));
        vec!["segment", scan, "-o", output, "--weights", weights]
    }

    fn is_untouched(&self) {
        assert_eq!(std::fs::read(&self.output).unwrap(), OLD);
        assert_eq!(
            files(self.folder.path()),
            ["in.npy", "m.safetensors", "out.npy"]
        );
    }
}

#[test]
fn a_missing_feature_is_named_with_the_mend() {
    let place = Place::new(100, &["coord", "color"]);
    let fault = fails(&place.arguments(), 2);
    for part in ["in.npy", "feature color", "echo"] {
        assert!(fault.contains(part), "{part} is not in: {fault}");
    }
    place.is_untouched();
}

#[test]
fn weights_that_do_not_fit_are_named_with_both_shapes() {
    let place = Place::new(100, &["coord"]);
    let mut tensors = safetensors::read(&place.weights).unwrap();
    let changed =
        tensors.metadata["cairn"].replace("\"enc_channels\":[24]", "\"enc_channels\":[48]");
    assert_ne!(changed, tensors.metadata["cairn"]);
    tensors.metadata.insert("cairn".into(), changed);
    safetensors::write(&place.weights, &tensors).unwrap();
    let fault = fails(&place.arguments(), 2);
    for part in ["weights do not fit", "48", "24", "hint:"] {
        assert!(fault.contains(part), "{part} is not in: {fault}");
    }
    place.is_untouched();
}

#[test]
fn damaged_and_foreign_weights_are_refused() {
    let place = Place::new(100, &["coord"]);
    let good = std::fs::read(&place.weights).unwrap();
    for bytes in [
        &good[..good.len() / 2],
        &good[..4],
        &[],
        b"not a checkpoint at all",
    ] {
        std::fs::write(&place.weights, bytes).unwrap();
        let fault = fails(&place.arguments(), 2);
        assert!(fault.contains("m.safetensors"), "{fault}");
        place.is_untouched();
    }
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_the_work() {
    let place = Place::new(100, &["coord"]);
    let run = |output: &Path| {
        let mut arguments = place.arguments();
        arguments[3] = path(output);
        fails(&arguments, 2)
    };
    let fault = run(&place.folder.path().join("out.docx"));
    assert!(fault.contains("known are"), "{fault}");
    run(&place.folder.path().join("no/such/folder/out.npy"));
    let mut permissions = std::fs::metadata(&place.output).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&place.output, permissions).unwrap();
    let fault = run(&place.output);
    assert!(fault.contains("read-only"), "{fault}");
    place.is_untouched();
}

fn shell(script: &str, arguments: &[&str]) -> Output {
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(cairn().get_program())
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_old_file() {
    let place = Place::new(20_000, &["coord"]);
    // Files may grow to 64 blocks, at most 64 KiB; the output needs several hundred.
    let out = shell("ulimit -f 64; exec \"$@\"", &place.arguments());
    let fault = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{fault}");
    assert!(
        fault.contains("writing the labelled scan") && fault.contains("hint:"),
        "{fault}"
    );
    place.is_untouched();
}

#[test]
#[cfg(unix)]
fn an_interrupt_leaves_the_old_file() {
    let place = Place::new(20_000, &["coord"]);
    let mut child = Command::new(cairn().get_program())
        .args(place.arguments())
        .args(["--tta=rotate", "--threads", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let out = child.wait_with_output().unwrap();
    let fault = text(&out.stderr);
    assert!(
        fault.contains("interrupted: nothing was written"),
        "{fault}"
    );
    place.is_untouched();
}
