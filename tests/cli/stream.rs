//! Clouds on standard input, labels on standard output.

use crate::fixtures::{cairn, fails, model, path, repository, room, text, write};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the program answers to `input`: status, answers, standard error.
fn serve(weights: &Path, input: &[u8]) -> (Option<i32>, Vec<Vec<u8>>, String) {
    serve_with(&["--weights", path(weights)], input)
}

fn serve_with(arguments: &[&str], input: &[u8]) -> (Option<i32>, Vec<Vec<u8>>, String) {
    let mut child = Command::new(cairn().get_program())
        .args(["segment", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    let mut answers = Vec::new();
    let mut rest = &out.stdout[..];
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (answer, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        answers.push(answer.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty());
    (out.status.code(), answers, text(&out.stderr))
}

fn request(cloud: &[u8]) -> Vec<u8> {
    [&(cloud.len() as u32).to_le_bytes()[..], cloud].concat()
}

#[test]
fn every_cloud_gets_its_labels_and_a_refused_one_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("m.safetensors");
    model(&weights, &["coord"]);
    let file = |name: &str, points| {
        let scan = folder.path().join(name);
        write(&scan, &room(points));
        std::fs::read(scan).unwrap()
    };
    let (npy, ply) = (file("a.npy", 500), file("b.ply", 300));
    let requests = [&npy[..], &ply, b"no scan at all", b"", &ply];
    let input: Vec<u8> = requests.iter().flat_map(|r| request(r)).collect();
    let (status, answers, log) = serve(&weights, &input);
    assert_eq!((status, answers.len()), (Some(0), 5), "{log}");
    let sizes: Vec<usize> = answers.iter().map(Vec::len).collect();
    assert_eq!(
        [sizes[0], sizes[1], sizes[4]],
        [1 + 500 * 8, 1 + 300 * 8, 1 + 300 * 8]
    );
    assert_eq!(answers[1], answers[4]);
    for refused in &answers[2..4] {
        assert_eq!(refused[0], 1);
        assert!(
            text(&refused[1..]).starts_with("cloud "),
            "{}",
            text(&refused[1..])
        );
    }
    for line in ["cloud 0: 500 points in ", "cloud 2: refused in "] {
        assert!(log.contains(line), "{log}");
    }
    // As the same scan labelled from a file.
    let output = folder.path().join("out.npy");
    let scan = folder.path().join("a.npy");
    crate::fixtures::succeeds(&[
        "segment",
        path(&scan),
        "-o",
        path(&output),
        "--weights",
        path(&weights),
    ]);
    let cloud = cairn::io::read(&output).unwrap().cloud;
    let codes = cloud.labels().unwrap().code;
    for (found, code) in answers[0][1..].chunks_exact(4).zip(codes) {
        assert_eq!(
            i64::from(i32::from_le_bytes(found.try_into().unwrap())),
            code
        );
    }
    let confidence = cloud.attribute("confidence").unwrap();
    let stored = &answers[0][1 + 4 * 500..][..4];
    assert_eq!(
        f64::from(f32::from_le_bytes(stored.try_into().unwrap())),
        confidence.get(0)
    );
}

#[test]
fn cut_requests_and_absurd_lengths_end_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("m.safetensors");
    model(&weights, &["coord"]);
    for (input, part) in [
        (&[1, 0][..], "inside the length"),
        (&[9, 0, 0, 0, 1], "inside a cloud of 9 bytes"),
        (&[0xff; 8], "little-endian"),
    ] {
        let (status, answers, log) = serve(&weights, input);
        assert_eq!((status, answers.len()), (Some(2), 0), "{log}");
        assert!(
            log.contains(part) && log.matches("error:").count() == 1,
            "{log}"
        );
    }
    let (status, answers, _) = serve(&weights, &[]);
    assert_eq!((status, answers.len()), (Some(0), 0));
    let fault = fails(
        &["segment", "-", "-o", "x.las", "--weights", path(&weights)],
        2,
    );
    assert!(fault.contains("standard output"), "{fault}");
}

/// While it waits there is nothing to finish: one signal is enough, before a request and inside one.
#[cfg(unix)]
#[test]
fn a_signal_ends_a_program_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, scan) = (
        folder.path().join("m.safetensors"),
        folder.path().join("a.npy"),
    );
    model(&weights, &["coord"]);
    write(&scan, &room(100));
    let cloud = request(&std::fs::read(scan).unwrap());
    for (signal, more) in [("-TERM", &[][..]), ("-INT", &cloud[..9])] {
        let mut child = Command::new(cairn().get_program())
            .args(["segment", "-", "--weights", path(&weights)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&cloud).unwrap();
        let mut answer = [0; 4 + 1 + 100 * 8];
        let output = child.stdout.as_mut().unwrap();
        output.read_exact(&mut answer).unwrap();
        input.write_all(more).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
        let begin = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if begin.elapsed() > Duration::from_secs(20) => {
                    child.kill().unwrap();
                    panic!("{signal} was ignored");
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert_eq!(status.code(), Some(130), "{signal}");
    }
}

/// A compressed cloud may be far larger than its request.
#[cfg(feature = "laz")]
#[test]
fn a_cloud_that_needs_more_than_the_memory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("m.safetensors");
    model(&weights, &["coord"]);
    let large = folder.path().join("large.laz");
    write(
        &large,
        &cairn::cloud::PointCloud {
            coord: vec![[1.0; 3]; 1_000_000],
            ..Default::default()
        },
    );
    let small = folder.path().join("small.npy");
    write(&small, &room(300));
    let [large, small] = [large, small].map(|file| std::fs::read(file).unwrap());
    assert!(large.len() < 20_000, "{} bytes", large.len());
    let input = [&large, &small, &large]
        .map(|cloud| request(cloud))
        .concat();
    let arguments = ["--weights", path(&weights), "--memory", "100MiB"];
    let (status, answers, log) = serve_with(&arguments, &input);
    assert_eq!((status, answers.len()), (Some(0), 3), "{log}");
    assert_eq!(answers[1].len(), 1 + 300 * 8);
    for answer in [&answers[0], &answers[2]] {
        let refused = "1000000 points need more than 100 MiB";
        assert!(
            text(&answer[1..]).contains(refused),
            "{}",
            text(&answer[1..])
        );
    }
    let (_, answers, log) = serve_with(&["--weights", path(&weights)], &request(&small));
    assert_eq!(answers[0][0], 0, "{log}");
}

/// The client of the documentation runs as it stands.
#[test]
fn the_client_in_python_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("m.safetensors");
    model(&weights, &["coord"]);
    let client = repository("examples/segment_stream.py");
    let code = std::fs::read_to_string(&client).unwrap();
    assert!(code.lines().count() <= 30, "{} lines", code.lines().count());
    let out = Command::new("python3")
        .arg(client)
        .arg(cairn().get_program())
        .args(["--weights", path(&weights)])
        .output()
        .expect("python3 is there, as for the other clients in Python");
    let shown = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(shown.contains("frame 2 points 1680 classes"), "{shown}");
}
