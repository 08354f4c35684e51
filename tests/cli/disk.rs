//! Full disks, places where nothing can be written, and processes that die while they write.

use crate::fixtures::{cairn, fails, files, model, path, repository, room, succeeds, text, write};
use cairn::device::random::{Random, Sequence};
use cairn::io;
use cairn::weights::{Tensor, Tensors, safetensors};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const OLD: &[u8] = b"what was there before";

fn workplace(points: usize) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (scan, weights) = (
        folder.path().join("in.las"),
        folder.path().join("m.safetensors"),
    );
    write(&scan, &room(points));
    model(&weights, &["coord"]);
    (folder, scan, weights)
}

fn segment<'a>(scan: &'a Path, weights: &'a Path, output: &'a Path) -> [&'a str; 6] {
    [
        "segment",
        path(scan),
        "-o",
        path(output),
        "--weights",
        path(weights),
    ]
}

#[test]
fn a_result_that_cannot_be_printed_is_an_error() {
    let (folder, scan, weights) = workplace(200);
    let output = folder.path().join("out.las");
    let golden = repository("data/golden/ptv2/op_gridpool.safetensors");
    let commands = [
        vec!["info", path(&scan)],
        vec!["info", path(&weights), "--json"],
        vec!["verify", path(&golden)],
        segment(&scan, &weights, &output).to_vec(),
    ];
    for arguments in commands {
        let out = Command::new(cairn().get_program())
            .args(&arguments)
            .stdout(File::create("/dev/full").unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let fault = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {fault}");
        assert!(
            fault.contains("standard output") && fault.contains("No space left"),
            "{fault}"
        );
        assert!(!fault.contains("panicked"), "{fault}");
    }
    // The scan was complete before the report failed.
    assert_eq!(io::read(&output).unwrap().cloud.len(), 200);
}

/// A full disk and a reader that went away.
#[test]
fn messages_that_cannot_be_printed_change_no_exit_code() {
    let (folder, scan, weights) = workplace(200);
    let output = folder.path().join("out.las");
    let (bad, missing) = (folder.path().join("bad.ply"), folder.path().join("no.las"));
    std::fs::write(&bad, "no scan").unwrap();
    let many = [
        "segment",
        path(&scan),
        path(&bad),
        "--weights",
        path(&weights),
    ];
    for (arguments, code) in [
        (&segment(&scan, &weights, &output)[..], 0),
        (&many, 1),
        (&["info", path(&missing)], 2),
        (&["info", "--frobnicate"], 2),
    ] {
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        let full = File::create("/dev/full").unwrap();
        for stderr in [Stdio::from(full), Stdio::from(closed)] {
            let mut command = Command::new(cairn().get_program());
            command.args(arguments).stdout(Stdio::null()).stderr(stderr);
            let status = command.status().unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
    assert_eq!(io::read(&output).unwrap().cloud.len(), 200);
}

#[test]
fn devices_and_system_folders_are_refused_as_outputs() {
    let (folder, scan, weights) = workplace(200);
    let device = folder.path().join("out.las");
    std::os::unix::fs::symlink("/dev/full", &device).unwrap();
    let fault = fails(&segment(&scan, &weights, &device), 2);
    assert!(fault.contains("not a regular file"), "{fault}");
    // Not even the system's owner can make a file there.
    for output in ["/proc/out.las", "/proc/self/out.laz"] {
        let fault = fails(&segment(&scan, &weights, Path::new(output)), 2);
        assert!(fault.contains(output), "{fault}");
    }
    let input = folder.path().join("input.safetensors");
    let mut tensors = Tensors::new();
    for name in ["coord", "feat"] {
        let rows = Tensor::from_f32(&[4, 3], &[0.5; 12]).unwrap();
        tensors.insert(name, rows).unwrap();
    }
    let ends = Tensor::from_i64(&[1], &[4]).unwrap();
    tensors.insert("offset", ends).unwrap();
    safetensors::write(&input, &tensors).unwrap();
    for output in ["/dev/full", "/proc/logits.safetensors"] {
        let fault = fails(
            &[
                "forward",
                "--weights",
                path(&weights),
                "--input",
                path(&input),
                "-o",
                output,
            ],
            2,
        );
        assert!(
            fault.contains(output) && fault.contains("writing the logits"),
            "{fault}"
        );
    }
}

/// Starts a segmentation and waits until its output is being written.
fn start_writing(folder: &Path, arguments: &[&str]) -> Child {
    let mut child = Command::new(cairn().get_program())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let is_written = |name: &String| {
        let size = std::fs::metadata(folder.join(name)).map_or(0, |m| m.len());
        name.ends_with(".part") && size > 0
    };
    while !files(folder).iter().any(is_written) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        assert!(
            begin.elapsed() < Duration::from_secs(120),
            "nothing is written"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn a_process_killed_while_writing_leaves_the_old_file_and_the_next_one_cleans_up() {
    let (folder, scan, weights) = workplace(300_000);
    let output = folder.path().join("out.las");
    let parts = || {
        files(folder.path())
            .into_iter()
            .filter(|n| n.ends_with(".part"))
            .count()
    };
    let arguments = segment(&scan, &weights, &output);
    std::fs::write(&output, OLD).unwrap();
    let mut child = start_writing(folder.path(), &arguments);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read(&output).unwrap(), OLD);
    assert_eq!(parts(), 1, "nobody could remove it");
    succeeds(&arguments);
    assert_eq!(parts(), 0);
    assert_eq!(io::read(&output).unwrap().cloud.len(), 300_000);
}

/// Twenty moments from the start of a run to its end, half of them in runs that keep their points in a temporary file.
#[test]
fn kills_at_any_moment_leave_the_old_file_or_none_and_the_next_run_nothing_else() {
    let mut random = Sequence::new(Random::new(20, 9));
    for memory in ["8GiB", "64MiB"] {
        let (folder, scan, weights) = workplace(20_000);
        let output = folder.path().join("out.las");
        let arguments = [
            &segment(&scan, &weights, &output)[..],
            &["--memory", memory],
        ]
        .concat();
        let begin = Instant::now();
        succeeds(&arguments);
        let whole = begin.elapsed();
        for i in 0..10 {
            let before = (i % 2 == 0).then_some(OLD);
            match before {
                Some(bytes) => std::fs::write(&output, bytes).unwrap(),
                None => std::fs::remove_file(&output).unwrap(),
            }
            let mut child = Command::new(cairn().get_program())
                .args(&arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(whole.mul_f64(random.uniform()));
            child.kill().unwrap();
            child.wait().unwrap();
            let after = std::fs::read(&output).ok();
            if after.as_deref() != before {
                // The run was over, or all but.
                assert_eq!(io::read(&output).unwrap().cloud.len(), 20_000, "{i}");
            } else if before.is_none() {
                std::fs::write(&output, OLD).unwrap();
            }
            let mut left = files(folder.path());
            left.retain(|name| !["in.las", "m.safetensors", "out.las"].contains(&name.as_str()));
            let is_part = |n: &String| n.starts_with(".cairn-out.las-") && n.ends_with(".part");
            assert!(left.len() < 2 && left.iter().all(is_part), "{i}: {left:?}");
        }
        succeeds(&arguments);
        assert_eq!(files(folder.path()), ["in.las", "m.safetensors", "out.las"]);
        assert_eq!(io::read(&output).unwrap().cloud.len(), 20_000);
    }
}

/// A limit on file size stands for a full disk: the system refuses to write on.
#[test]
fn a_disk_that_fills_up_leaves_the_old_file_and_says_so() {
    let (folder, scan, weights) = workplace(20_000);
    let output = folder.path().join("out.las");
    std::fs::write(&output, OLD).unwrap();
    // 512 bytes each: the output has a megabyte, the temporary file of points, too.
    for (memory, part) in [("8GiB", "out.las"), ("64MiB", "temporary points")] {
        let out = Command::new("sh")
            .args(["-c", "ulimit -f 400; exec \"$@\"", "sh"])
            .arg(cairn().get_program())
            .args(segment(&scan, &weights, &output))
            .args(["--memory", memory])
            .output()
            .unwrap();
        let fault = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{fault}");
        assert!(
            fault.contains(part) && fault.matches("error:").count() == 1,
            "{fault}"
        );
        assert!(
            !fault.contains(".part"),
            "the temporary name says nothing: {fault}"
        );
        assert_eq!(std::fs::read(&output).unwrap(), OLD);
        assert_eq!(files(folder.path()), ["in.las", "m.safetensors", "out.las"]);
    }
}

#[test]
fn an_interrupt_while_writing_leaves_the_old_file() {
    let (folder, scan, weights) = workplace(300_000);
    // Text takes long to write.
    let output = folder.path().join("out.csv");
    std::fs::write(&output, OLD).unwrap();
    let mut child = start_writing(folder.path(), &segment(&scan, &weights, &output));
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert_eq!(std::fs::read(&output).unwrap(), OLD);
    assert!(
        files(folder.path())
            .iter()
            .all(|name| !name.ends_with(".part"))
    );
}
