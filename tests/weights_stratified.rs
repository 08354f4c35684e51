//! Stratified checkpoints that PyTorch wrote become model files that give the official logits.
//!
//! `python-bench/make_pth.py stratified` made the fixtures from the states in `data/golden/stratified`; what the official
//! code computed with them stands there.

use std::path::{Path, PathBuf};

use cairn::device::Device;
use cairn::graph::Executor;
use cairn::infer::predict;
use cairn::models::Model;
use cairn::weights::{
    Conventions, ConvertOptions, ModelMetadata, convert, info, load_state, safetensors,
};

fn path(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(name)
}

fn fixture(name: &str) -> PathBuf {
    path("tests/fixtures/stratified", name)
}

#[test]
fn fixtures_give_the_official_logits() {
    for (name, tensors, parameters) in [
        ("net_stem_transformer", 154, 156_746),
        ("net_stem_kpconv", 173, 147_510),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("model.safetensors");
        let options = ConvertOptions {
            config: Some(fixture(&format!("{name}.toml"))),
            ..ConvertOptions::default()
        };
        let done = convert(&fixture(&format!("{name}.pth")), &output, &options).unwrap();
        assert_eq!(done.conventions, Conventions::Stratified);
        assert_eq!(done.prefix, "module.");
        assert_eq!(done.parameters, parameters, "{name}");
        assert_eq!(done.tensors, tensors, "{name}");
        assert_eq!(done.model.notes["best_iou"], "0.7123");

        let file = safetensors::read(&output).unwrap();
        let description = ModelMetadata::from_tensors(&file, &output).unwrap();
        let mut model = Model::new(&description.network, Device::Cpu, 0).unwrap();
        load_state(&mut model.params, &file).unwrap();
        let golden = path("data/golden/stratified", &format!("{name}.safetensors"));
        let golden = safetensors::read(golden).unwrap();
        let coord = golden.get_f32("in.coord").unwrap();
        let coord: Vec<[f32; 3]> = coord.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
        let ends = golden.get_i64("in.offset").unwrap();
        let offsets: Vec<usize> = [0].into_iter().chain(ends).map(|e| e as usize).collect();
        let feat = golden.get_f32("in.feat").unwrap();
        let mut executor = Executor::new(Device::Cpu);
        let found = predict::logits(&model, &mut executor, &coord, &offsets, feat).unwrap();
        let wanted = golden.get_f32("out.eval_logits").unwrap();
        assert_eq!(found.len(), wanted.len());
        let far = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
        let far = far.fold(0.0, f32::max);
        assert!(far < 1e-4, "{name}: {far}");
    }
}

#[test]
fn what_the_tensors_do_not_tell_is_asked_for() {
    let output = tempfile::tempdir().unwrap();
    let output = output.path().join("model.safetensors");
    let pth = fixture("net_stem_transformer.pth");
    let error = convert(&pth, &output, &ConvertOptions::default()).unwrap_err();
    let text = error.to_string();
    for key in ["grid_size", "window_size", "quant_size", "downsample_scale"] {
        assert!(text.contains(key), "{text}");
    }
    let options = ConvertOptions {
        config: Some(fixture("net_stem_transformer.toml")),
        conventions: Some(Conventions::Pointcept),
        ..ConvertOptions::default()
    };
    let error = convert(&pth, &output, &options).unwrap_err().to_string();
    assert!(error.contains("pointcept"), "{error}");
    assert!(!output.exists());
}

#[test]
fn info_recognises_the_network() {
    let found = info(fixture("net_stem_kpconv.pth")).unwrap();
    let network = found.architecture.unwrap();
    assert_eq!(network["type"], "Stratified");
    assert_eq!(network["stem_transformer"], false);
    assert_eq!(network["channels"], serde_json::json!([16, 16, 32, 32]));
}
