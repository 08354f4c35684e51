//! What is named on the command line: pipes in place of files, odd names, results beside their scans.

use crate::fixtures::{cairn, fails, files, model, path, room, text, write};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// A folder with a model.
fn workplace() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("m.safetensors");
    model(&weights, &["coord"]);
    let weights = path(&weights).to_string();
    (folder, weights)
}

/// Runs the program, for at most half a minute.
fn run(args: &[&OsStr]) -> Output {
    let limit = Duration::from_secs(30);
    cairn().args(args).timeout(limit).output().unwrap()
}

fn words<'a>(args: &[&'a str]) -> Vec<&'a OsStr> {
    args.iter().map(|word| OsStr::new(*word)).collect()
}

#[test]
fn pipes_are_refused_before_they_are_opened() {
    let (folder, weights) = workplace();
    let scan = folder.path().join("scan.npy");
    write(&scan, &room(100));
    let pipe = |name: &str| {
        let pipe = folder.path().join(name);
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        path(&pipe).to_string()
    };
    let (las, toml, safetensors) = (pipe("p.las"), pipe("p.toml"), pipe("p.safetensors"));
    for args in [
        &["info", &las][..],
        &["segment", &las, "--weights", &weights],
        &[
            "segment",
            path(&scan),
            "--weights",
            &weights,
            "--map",
            &toml,
        ],
        &["segment", path(&scan), "--weights", &safetensors],
        &["train", &toml],
        &["convert", &safetensors, "x.safetensors"],
    ] {
        let out = run(&words(args));
        let fault = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {fault}");
        assert!(fault.contains("is not a regular file"), "{args:?}: {fault}");
    }
}

#[test]
fn names_reach_the_terminal_as_one_line_of_text() {
    let (folder, weights) = workplace();
    let odd = folder.path().join("a\n\x1b[31mb.las");
    let bad = folder.path().join("bad\n\x1b[31m.ply");
    write(&odd, &room(100));
    std::fs::write(&bad, "no scan").unwrap();
    for (args, code) in [
        (vec!["info", path(&odd)], 0),
        (vec!["info", path(&bad)], 2),
        (
            vec!["segment", path(&odd), path(&bad), "--weights", &weights],
            1,
        ),
    ] {
        let out = run(&words(&args));
        let shown = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{shown}");
        assert!(!shown.contains('\x1b'), "{shown}");
        assert!(shown.contains("\\n\\u{1b}[31m"), "{shown}");
    }
}

#[test]
fn names_that_are_no_text_are_kept() {
    let (folder, weights) = workplace();
    let file = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let inputs = [file(b"a\xfe.npy"), file(b"a\xff.npy"), file(b"\xfd.ply")];
    inputs[..2].iter().for_each(|input| {
        write(&folder.path().join("scan.npy"), &room(100));
        std::fs::rename(folder.path().join("scan.npy"), input).unwrap();
    });
    std::fs::write(&inputs[2], "no scan").unwrap();
    let out = file(b"o\xff");
    let mut args = words(&["segment", "--json", "--weights", &weights, "-o"]);
    args.push(out.as_os_str());
    args.extend(inputs.iter().map(|input| input.as_os_str()));
    let done = run(&args);
    let log = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{log}");
    assert!(log.contains("labelled 2 of 3 scans, 1 failed"), "{log}");
    assert!(log.contains("\\xfd.ply: "), "{log}");
    assert_eq!(text(&done.stdout).lines().count(), 3);
    for name in [b"a\xfe.npy", b"a\xff.npy"] {
        assert!(out.join(OsStr::from_bytes(name)).is_file());
    }
}

#[test]
fn a_pattern_that_the_shell_expands_goes_on_like_one_in_quotes() {
    let (folder, weights) = workplace();
    let scans = folder.path().join("scans");
    std::fs::create_dir(&scans).unwrap();
    for name in ["a.npy", "b.npy"] {
        write(&scans.join(name), &room(100));
    }
    for summary in [
        "labelled 2 of 2 scans\n",
        "labelled 0 of 2 scans, 2 were done already (--again labels them anew), 2 results of such a run left out\n",
    ] {
        let found = files(&scans).into_iter().map(|name| scans.join(name));
        let found: Vec<_> = found.collect();
        let mut args = words(&["segment", "--weights", &weights]);
        args.extend(found.iter().map(|file| file.as_os_str()));
        let out = run(&args);
        let log = text(&out.stderr);
        assert!(out.status.success() && log.ends_with(summary), "{log}");
    }
    let want = ["a.npy", "a_labelled.npy", "b.npy", "b_labelled.npy"];
    assert_eq!(files(&scans), want);
}

#[test]
fn true_labels_of_an_input_are_not_written_over() {
    let (folder, weights) = workplace();
    let place = |name: &str| folder.path().join(name);
    for name in ["velodyne", "labels"] {
        std::fs::create_dir(place(name)).unwrap();
    }
    write(&place("velodyne/0.bin"), &room(100));
    let truth = [7, 0, 0, 0].repeat(100);
    std::fs::write(place("labels/0.label"), &truth).unwrap();
    let (frames, labels) = (place("velodyne"), place("labels"));
    let args = [
        "segment",
        path(&frames),
        "-o",
        path(&labels),
        "--to",
        "label",
    ];
    let fault = fails(&[&args[..], &["--weights", &weights]].concat(), 2);
    for part in [
        "velodyne/0.bin: its output",
        "labels/0.label, the labels of",
    ] {
        assert!(fault.contains(part), "{fault}");
    }
    assert_eq!(std::fs::read(place("labels/0.label")).unwrap(), truth);
}
