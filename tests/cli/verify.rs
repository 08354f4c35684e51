use crate::fixtures::{cairn, fails, json, path, repository, succeeds, text};
use cairn::weights::{Tensor, Tensors, safetensors};
use std::path::{Path, PathBuf};

const GOLDEN: &str = "data/golden/ptv2/op_gridpool.safetensors";

/// A copy of a reference file in which one value of `name` is another.
fn corrupted(folder: &Path, name: &str) -> PathBuf {
    let golden = safetensors::read(repository(GOLDEN)).unwrap();
    let mut copy = Tensors::new();
    copy.metadata = golden.metadata.clone();
    for (found, tensor) in golden.iter() {
        if found != name {
            copy.insert(found, tensor.clone()).unwrap();
            continue;
        }
        let mut values = tensor.to_f32();
        let middle = values.len() / 2;
        values[middle] += 0.25;
        let tensor = Tensor::from_f32(tensor.dims(), &values).unwrap();
        copy.insert(found, tensor).unwrap();
    }
    let file = folder.join("corrupted.safetensors");
    safetensors::write(&file, &copy).unwrap();
    file
}

#[test]
fn one_wrong_value_fails_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = repository(GOLDEN);
    for name in ["eval.out.feat", "eval.grad.param.fc.weight"] {
        let bad = corrupted(folder.path(), name);
        let run = |files: &[&Path], extra: &[&str]| {
            let files = files.iter().map(|f| path(f));
            cairn()
                .arg("verify")
                .args(files)
                .args(extra)
                .output()
                .unwrap()
        };
        let out = run(&[&good, &bad], &[]);
        let said = text(&out.stdout);
        assert_eq!(out.status.code(), Some(1), "{said}");
        let failed: Vec<&str> = said.lines().filter(|l| l.contains("  FAILED  ")).collect();
        assert_eq!(failed.len(), 1, "{said}");
        assert!(failed[0].contains(name), "{name}: {said}");
        assert!(
            said.contains("corrupted.safetensors") && said.contains("— FAILED"),
            "{said}"
        );

        let report: serde_json::Value =
            serde_json::from_slice(&run(&[&good, &bad], &["--json"]).stdout).unwrap();
        assert_eq!(
            (&report[0]["passed"], &report[1]["passed"]),
            (&true.into(), &false.into())
        );
        assert_eq!(run(&[&good], &[]).status.code(), Some(0));
    }
}

#[test]
fn damaged_and_foreign_references_are_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(repository(GOLDEN)).unwrap();
    let file = folder.path().join("reference.safetensors");
    for bytes in [
        &good[..good.len() - 1],
        &good[..good.len() / 2],
        &good[..100],
        &good[..5],
        &[],
        &[0xff; 64],
    ] {
        std::fs::write(&file, bytes).unwrap();
        let fault = fails(&["verify", path(&file)], 2);
        assert!(fault.contains("reference.safetensors"), "{fault}");
    }
    let mut other = Tensors::new();
    other
        .insert("something", Tensor::from_f32(&[1], &[0.0]).unwrap())
        .unwrap();
    safetensors::write(&file, &other).unwrap();
    let fault = fails(&["verify", path(&file)], 2);
    assert!(fault.contains("reference.safetensors"), "{fault}");
}

#[test]
fn a_tensor_of_another_shape_is_bad_input_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let golden = safetensors::read(repository(GOLDEN)).unwrap();
    let mut copy = Tensors::new();
    copy.metadata = golden.metadata.clone();
    for (name, tensor) in golden.iter() {
        let tensor = match name {
            "state.fc.weight" => Tensor::from_f32(&[tensor.len()], &tensor.to_f32()).unwrap(),
            _ => tensor.clone(),
        };
        copy.insert(name, tensor).unwrap();
    }
    let file = folder.path().join("flat.safetensors");
    safetensors::write(&file, &copy).unwrap();
    let fault = fails(&["verify", path(&file)], 2);
    for part in [
        "flat.safetensors",
        "state.fc.weight",
        "[96]",
        "2 dimensions",
    ] {
        assert!(fault.contains(part), "{part}: {fault}");
    }
}

#[test]
fn kernels_agree_with_the_reference_on_the_emulator() {
    let devices = json(&["info", "--devices"]);
    if devices["emulator"].is_null() || devices["nvrtc"].is_null() {
        let required = std::env::var_os("CAIRN_REQUIRE_EMULATOR").is_some();
        assert!(!required, "{devices}");
        eprintln!("kernels are not tested: {devices}");
        return;
    }
    for name in ["op_batchnorm_2d", "op_block_m2"] {
        let file = repository(&format!("data/golden/ptv2/{name}.safetensors"));
        succeeds(&["verify", path(&file), "--device", "emulator"]);
    }
}
