use super::*;
use tempfile::TempDir;

/// A folder with these files.
fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "x").unwrap();
    }
    folder
}

/// Inputs and outputs, or the reason, with names from `folder`; words of the command: inputs, `-o` and `--to`.
fn jobs(folder: &TempDir, command: &str, again: bool) -> Result<(Vec<String>, bool), String> {
    let (mut inputs, mut output, mut to) = (Vec::new(), None, None);
    let mut words = command.split(' ');
    while let Some(word) = words.next() {
        match word {
            "-o" => output = words.next().map(|o| folder.path().join(o)),
            "--to" => to = words.next(),
            // `.` is the folder itself.
            name => inputs.push(match name {
                "." => folder.path().to_path_buf(),
                name => folder.path().join(name),
            }),
        }
    }
    let base = folder.path().display().to_string() + "/";
    let name = |p: &Path| p.display().to_string().replace(&base, "");
    match Jobs::new(&inputs, output.as_deref(), to, again) {
        Ok(jobs) => {
            let pair = |j: &Job| format!("{} {}", name(&j.input), name(&j.output));
            Ok((jobs.list.iter().map(pair).collect(), jobs.many))
        }
        Err(fault) => {
            assert_eq!(fault.exit_code(), 2);
            Err(fault.to_string().replace(&base, ""))
        }
    }
}

#[test]
fn outputs_lie_beside_their_inputs_or_in_a_folder() {
    let place = folder(&["a.las", "b.mcap", "n.md", "made/a.las"]);
    for (command, want, is_many) in [
        (
            ".",
            &["a.las a_labelled.las", "b.mcap b_labelled.mcap"][..],
            true,
        ),
        ("a.las", &["a.las a_labelled.las"], false),
        ("a.las -o c.las", &["a.las c.las"], false),
        ("*.las -o out --to .ply", &["a.las out/a.ply"], true),
        // As a shell writes a pattern that one file matches.
        ("a.las -o new/", &["a.las new/a.las"], true),
        ("a.las -o made --to ply", &["a.las made/a.ply"], true),
    ] {
        let want: Vec<String> = want.iter().map(|w| w.to_string()).collect();
        assert_eq!(
            jobs(&place, command, false),
            Ok((want, is_many)),
            "{command}"
        );
    }
    assert!(place.path().join("out").is_dir() && place.path().join("new").is_dir());
    for (command, part) in [
        (". -o n.md", "n.md: is a file; several inputs need a folder"),
        (
            "a.las -o new2",
            "no ending that says the format; a new folder ends with /",
        ),
        ("a.las -o c.las --to ply", "leave one of the two out"),
    ] {
        let fault = jobs(&place, command, false).unwrap_err();
        assert!(fault.contains(part), "{command}: {fault}");
    }
}

#[test]
fn results_are_no_scans_whoever_finds_them() {
    let place = folder(&["a.las", "a_labelled.las", "b.las", "truth_labelled.ply"]);
    let want: Vec<String> = [
        "a.las a_labelled.las",
        "b.las b_labelled.las",
        "truth_labelled.ply truth_labelled_labelled.ply",
    ]
    .map(String::from)
    .into();
    for command in [".", "*", "a.las a_labelled.las b.las truth_labelled.ply"] {
        let found = jobs(&place, command, false).unwrap().0;
        assert_eq!(found, want, "{command}");
    }
    // Where results go elsewhere, a file that is named is a scan.
    for (command, count) in [(". -o x", 3), ("a.las a_labelled.las b.las -o x", 3)] {
        assert_eq!(
            jobs(&place, command, false).unwrap().0.len(),
            count,
            "{command}"
        );
    }
    assert_eq!(jobs(&place, "a_labelled.las", false).unwrap().0.len(), 1);
    // Without their originals they are scans.
    let alone = folder(&["a_labelled.las", "b_labelled.las"]);
    for command in [".", "*_labelled.las"] {
        assert_eq!(jobs(&alone, command, false).unwrap().0.len(), 2);
    }
}

#[test]
fn what_the_user_has_is_not_written_over() {
    let place = folder(&[
        "t.las",
        "t_labelled.las",
        "x/t.las",
        "velodyne/0.bin",
        "labels/0.label",
    ]);
    for (command, again, parts) in [
        (". -o .", false, ["t.las: ", "written over itself"]),
        ("t.las t.las", false, ["t.las: ", "is named twice"]),
        (
            "t.las x/t.las -o y",
            false,
            ["x/t.las: ", "y/t.las, and so would t.las"],
        ),
        ("x/t.las t.las -o .", false, ["t.las: ", ""]),
        (
            "t.las t_labelled.las",
            true,
            ["t.las: ", "t_labelled.las, which is an input"],
        ),
        (
            "velodyne -o labels --to label",
            false,
            [
                "velodyne/0.bin: ",
                "labels/0.label, the labels of velodyne/0.bin",
            ],
        ),
        (
            "velodyne/0.bin -o labels/0.label",
            false,
            ["velodyne/0.bin: ", "the labels of"],
        ),
        (
            "velodyne/0.bin -o velodyne/0.bin",
            false,
            ["velodyne/0.bin: ", "the labels of"],
        ),
    ] {
        let fault = jobs(&place, command, again).unwrap_err();
        for part in parts {
            assert!(fault.contains(part), "{command}: {fault}");
        }
    }
    assert!(!place.path().join("y").exists(), "nothing was made");
    // The result is newer than its scan, and nothing is written.
    assert!(jobs(&place, "t.las t_labelled.las", false).is_ok());
    let scan = std::fs::File::options()
        .append(true)
        .open(place.path().join("t.las"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    scan.unwrap().set_modified(later).unwrap();
    let fault = jobs(&place, "t.las t_labelled.las", false).unwrap_err();
    assert!(fault.contains("which is an input, too"), "{fault}");
    // Of one scan the user gave both names, and where no labels are, none are lost.
    assert!(jobs(&place, "t.las -o t.las", false).is_ok());
    std::fs::remove_file(place.path().join("labels/0.label")).unwrap();
    assert!(jobs(&place, "velodyne -o labels --to label", false).is_ok());
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_keep_their_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let place = folder(&[]);
    let file = |name: &[u8]| place.path().join(OsStr::from_bytes(name));
    let scans = [file(b"a\xfe.las"), file(b"a\xff.las")];
    scans
        .iter()
        .for_each(|scan| std::fs::write(scan, "x").unwrap());
    let outputs =
        |jobs: Jobs| -> Vec<PathBuf> { jobs.list.into_iter().map(|j| j.output).collect() };
    let want = [file(b"a\xfe_labelled.las"), file(b"a\xff_labelled.las")];
    for inputs in [&scans[..], &[file(b"*.las")], &[place.path().into()]] {
        let jobs = Jobs::new(inputs, None, None, false).unwrap();
        assert_eq!(outputs(jobs), want);
    }
    let jobs = Jobs::new(&[file(b"?\xff.las")], Some(&file(b"out")), None, false).unwrap();
    assert_eq!(outputs(jobs), [file(b"out/a\xff.las")]);
    want.iter()
        .for_each(|result| std::fs::write(result, "x").unwrap());
    let jobs = Jobs::new(&[file(b"*.las")], None, None, false).unwrap();
    assert_eq!((jobs.list.len(), jobs.results), (2, 2));
}

#[test]
fn finished_scans_are_those_not_older_than_their_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job {
        input: folder.path().join("a"),
        output: folder.path().join("b"),
    };
    std::fs::write(&job.input, "x").unwrap();
    assert!(!job.is_done());
    std::fs::write(&job.output, "x").unwrap();
    assert!(job.is_done());
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let input = std::fs::File::options()
        .append(true)
        .open(&job.input)
        .unwrap();
    input.set_modified(later).unwrap();
    assert!(!job.is_done());
}
