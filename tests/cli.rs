//! The program as a user meets it: arguments, outputs, exit codes, faults.

#[path = "cli/fixtures.rs"]
mod fixtures;

#[path = "cli/bench.rs"]
mod bench;
#[cfg(target_os = "linux")]
#[path = "cli/disk.rs"]
mod disk;
#[path = "cli/faults.rs"]
mod faults;
#[path = "cli/forward.rs"]
mod forward;
#[path = "cli/info.rs"]
mod info;
#[path = "cli/kernels.rs"]
mod kernels;
#[path = "cli/many.rs"]
mod many;
#[path = "cli/memory.rs"]
mod memory;
#[cfg(unix)]
#[path = "cli/paths.rs"]
mod paths;
#[path = "cli/precision.rs"]
mod precision;
#[path = "cli/segment.rs"]
mod segment;
#[path = "cli/stream.rs"]
mod stream;
#[path = "cli/train.rs"]
mod train;
#[path = "cli/verify.rs"]
mod verify;

use fixtures::{cairn, fails, text};

#[test]
fn help_teaches_and_names_every_command() {
    let out = cairn().arg("--help").output().unwrap();
    assert!(out.status.success());
    let help = text(&out.stdout);
    for word in [
        "segment",
        "info",
        "forward",
        "--device",
        "--threads",
        "Models:",
        "cairn convert",
    ] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    assert!(help.matches("  cairn ").count() >= 3, "{help}");
}

#[test]
fn unknown_commands_options_and_devices_are_bad_input() {
    for args in [
        &[][..],
        &["dance"],
        &["info"],
        &["info", "x", "--frobnicate"],
        &["info", "x", "--device", "cuda"],
        &["info", "x", "--threads", "0"],
        &["segment"],
        &["segment", "x", "-o", "y.las", "--map", "ground"],
        &["segment", "x", "-o", "y.las", "--tta=sideways"],
        &[
            "segment",
            "x",
            "-o",
            "y.las",
            "--weights",
            "w",
            "--model",
            "m",
        ],
    ] {
        let out = cairn().args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(!out.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn device_faults_say_what_to_do() {
    let fault = fails(&["info", "x", "--device", "cuda:99"], 2);
    assert!(fault.contains("--device cpu"), "{fault}");
}
