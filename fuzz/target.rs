//! A libFuzzer target; which one of `targets.rs`, the name of the program says.

#![no_main]

#[allow(
    dead_code,
    reason = "seeds and bounds are for the test on the stable toolchain"
)]
mod targets;

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Where files go that a reader wants.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("cairn-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("temporary files can be made");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    targets::find(env!("CARGO_BIN_NAME")).takes(bytes, &FOLDER);
});
