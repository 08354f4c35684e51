//! Scans and models to run the program on.

use assert_cmd::Command;
use cairn::cloud::features::Feature;
use cairn::cloud::{Attribute, Column, PointCloud};
use cairn::device::Device;
use cairn::device::random::{Random, Sequence};
use cairn::models::Model;
use cairn::weights::{ClassInfo, InputSpec, ModelMetadata, safetensors, save_state};
use std::path::{Path, PathBuf};

/// The program under test, without colours or a terminal.
pub fn cairn() -> Command {
    Command::cargo_bin("cairn").unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the program, expects it to fail with `code` and one error on standard error, and returns that.
pub fn fails(args: &[&str], code: i32) -> String {
    let out = cairn().args(args).output().unwrap();
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(out.stdout.is_empty(), "{}", text(&out.stdout));
    stderr
}

/// Runs the program and expects success; returns standard output.
pub fn succeeds(args: &[&str]) -> String {
    let out = cairn().args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

/// Runs the program with `--json` and parses what it prints.
pub fn json(args: &[&str]) -> serde_json::Value {
    let all: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let out = succeeds(&all);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e} in {out}"))
}

pub fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

/// A file that the repository holds.
pub fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Names of the files in a folder.
pub fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A ground plane with boxes on it: coordinates in metres, `echo` from 0 to 1 and `label` 0 below half a metre, else 1.
pub fn room(count: usize) -> PointCloud {
    let mut s = Sequence::new(Random::new(1, 1));
    let coord: Vec<[f64; 3]> = (0..count)
        .map(|_| {
            let (x, y) = (8.0 * s.uniform(), 6.0 * s.uniform());
            let high = (x as usize + y as usize).is_multiple_of(3);
            [x, y, if high { 1.0 } else { 0.0 } + 0.01 * s.uniform()]
        })
        .collect();
    let attribute = |name: &str, column| Attribute {
        name: name.into(),
        column,
    };
    let label = coord.iter().map(|p| u8::from(p[2] > 0.5)).collect();
    let echo = coord.iter().map(|_| s.uniform() as f32).collect();
    PointCloud {
        attributes: vec![
            attribute("echo", Column::F32(echo)),
            attribute("label", Column::U8(label)),
        ],
        coord,
    }
}

/// Writes a cloud in the format of the name.
pub fn write(file: &Path, cloud: &PointCloud) {
    cairn::io::write_unlabelled(file, &cloud.clone().into()).unwrap();
}

/// Writes an untrained model that reads `features` and knows the classes 0 floor and 1 box.
pub fn model(file: &Path, features: &[&str]) {
    let features: Vec<Feature> = features.iter().map(|f| Feature::new(f)).collect();
    let network = serde_json::json!({
        "type": "PT-v2m2",
        "in_channels": cairn::cloud::features::channels(&features),
        "num_classes": 2,
        "patch_embed_depth": 1, "patch_embed_channels": 12, "patch_embed_groups": 3, "patch_embed_neighbours": 8,
        "enc_depths": [1], "enc_channels": [24], "enc_groups": [6], "enc_neighbours": [8],
        "dec_depths": [1], "dec_channels": [12], "dec_groups": [3], "dec_neighbours": [8],
        "grid_sizes": [0.3],
    });
    let built = Model::new(&network, Device::Cpu, 3).unwrap();
    let class = |name: &str| ClassInfo {
        name: name.into(),
        code: None,
        aliases: Vec::new(),
    };
    let input = InputSpec {
        voxel_size: 0.1,
        features,
        crop_points: None,
        frame: Default::default(),
    };
    let mut tensors = save_state(&built.params).unwrap();
    ModelMetadata::new(network, vec![class("floor"), class("box")], input).store(&mut tensors);
    safetensors::write(file, &tensors).unwrap();
}
