//! Checkpoints that PyTorch wrote become model files that give PyTorch's logits.
//!
//! The fixtures come from `python-bench/make_pth.py`: tiny networks of both modes, with the logits that PyTorch
//! computed for two clouds, one of them smaller than the number of neighbours.

use std::fs;
use std::path::{Path, PathBuf};

use cairn::device::{Array, Device, random::Random};
use cairn::graph::{Executor, Graph, Mode, Shape};
use cairn::models::Model;
use cairn::weights::{
    Conventions, ConvertOptions, Converted, ModelMetadata, Preset, Tensor, Tensors, convert, info,
    load_state, safetensors,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/pth")
        .join(name)
}

fn given(name: &str) -> ConvertOptions {
    ConvertOptions {
        config: Some(fixture(name)),
        ..ConvertOptions::default()
    }
}

/// Relative L2 distance between the logits of the model file `weights` and those that `reference` holds.
fn distance(weights: &Path, reference: &Path) -> f64 {
    let file = safetensors::read(weights).unwrap();
    let description = ModelMetadata::from_tensors(&file, weights).unwrap();
    let mut model = Model::new(&description.network, Device::Cpu, 0).unwrap();
    load_state(&mut model.params, &file).unwrap();
    let reference = safetensors::read(reference).unwrap();
    let coord: Vec<[f32; 3]> = reference
        .get_f32("coord")
        .unwrap()
        .chunks_exact(3)
        .map(|p| [p[0], p[1], p[2]])
        .collect();
    let ends = reference.get_i64("offset").unwrap();
    let offsets: Vec<usize> = [0].into_iter().chain(ends).map(|e| e as usize).collect();
    let geometry = model
        .network
        .geometry(Device::Cpu, &coord, &offsets)
        .unwrap();
    let mut graph = Graph::new(&model.params, Mode::Inference, Random::new(0, 0));
    let shape = Shape::new(coord.len(), model.network.input_channels());
    let feat = graph
        .input(Array::from(reference.get_f32("feat").unwrap()), shape)
        .unwrap();
    let logits = model
        .network
        .record(&mut graph, &geometry, feat.into())
        .unwrap();
    graph.keep(logits);
    let mut executor = Executor::new(Device::Cpu);
    let run = executor.run(&graph, None).unwrap();
    let wanted = reference.get_f64("logits").unwrap();
    let found = run.read(logits);
    assert_eq!(found.len(), wanted.len());
    let difference: f64 = found
        .iter()
        .zip(&wanted)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum();
    (difference / wanted.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn converted(name: &str, options: &ConvertOptions) -> (tempfile::TempDir, PathBuf, Converted) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.safetensors");
    let done = convert(&fixture(name), &output, options).unwrap();
    (folder, output, done)
}

#[test]
fn fixtures_give_the_logits_of_pytorch() {
    for (name, mode, prefix, skipped) in [
        ("zip_m2_module_backbone.pth", "m2", "module.backbone.", true),
        ("plain_m1_backbone.pth", "m1", "backbone.", true),
        ("plain_m2_bare.pth", "m2", "", false),
    ] {
        let (_folder, output, done) = converted(name, &given(&format!("{mode}.toml")));
        let error = distance(&output, &fixture(&format!("{mode}.safetensors")));
        assert!(error < 1e-5, "{name}: {error}");
        assert_eq!(done.prefix, prefix, "{name}");
        assert_eq!(done.model.network["type"], format!("PT-v2{mode}"), "{name}");
        assert_eq!(
            done.skipped.contains(&"optimizer".to_string()),
            skipped,
            "{name}"
        );
        let pointcept = prefix.ends_with("backbone.");
        assert_eq!(
            done.conventions == Conventions::Pointcept,
            pointcept,
            "{name}"
        );
        assert_eq!(
            done.model.ignore_label,
            if pointcept { -1 } else { 255 },
            "{name}"
        );
        assert_eq!(done.model.class_codes(), [2, 1, 2, 3], "{name}");
    }
}

#[test]
fn distance_notices_a_changed_weight() {
    let (_folder, output, _) = converted("plain_m2_bare.pth", &given("m2.toml"));
    let file = safetensors::read(&output).unwrap();
    let mut spoilt = Tensors::new();
    spoilt.metadata = file.metadata.clone();
    for (name, tensor) in file.iter() {
        let mut tensor = tensor.clone();
        if name == "enc_stages.0.blocks.blocks.0.attn.linear_p_bias.3.bias" {
            let values: Vec<f32> = tensor.to_f32().iter().map(|v| v + 0.01).collect();
            tensor = Tensor::from_f32(tensor.dims(), &values).unwrap();
        }
        spoilt.insert(name, tensor).unwrap();
    }
    safetensors::write(&output, &spoilt).unwrap();
    assert!(distance(&output, &fixture("m2.safetensors")) > 1e-5);
}

#[test]
fn converting_a_model_file_again_changes_nothing() {
    let (_folder, first, _) = converted("plain_m2_bare.pth", &given("m2.toml"));
    let second = first.with_file_name("again.safetensors");
    convert(&first, &second, &given("m2.toml")).unwrap();
    let (a, b) = (
        safetensors::read(&first).unwrap(),
        safetensors::read(&second).unwrap(),
    );
    for (name, tensor) in a.iter() {
        assert_eq!(b.get(name), Some(tensor), "{name}");
    }
    assert_eq!(a.len(), b.len());
}

#[test]
fn what_nothing_tells_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.safetensors");
    let input = fixture("plain_m2_bare.pth");
    let fault = convert(&input, &output, &ConvertOptions::default())
        .unwrap_err()
        .to_string();
    for word in [
        "grid_sizes",
        "unpool_backend",
        "dec_neighbours",
        "--config",
        "s3dis",
    ] {
        assert!(fault.contains(word), "{fault}");
    }
    let text = fs::read_to_string(fixture("m2.toml")).unwrap();
    let config = folder.path().join("c.toml");
    for (from, to, message) in [
        (
            "[network]",
            "[network]\nenc_channels = [16]",
            "network.enc_channels",
        ),
        ("[network]", "[network]\ntype = \"PT-v2m1\"", "network.type"),
        ("[network]", "[network]\ngrid_size = 1", "grid_size"),
        (
            "grid_sizes = [0.15]",
            "grid_sizes = [0.15, 0.3]",
            "grid_sizes",
        ),
        ("\"coord\", ", "", "in_channels"),
        ("[[classes]]\nname = \"table\"", "", "num_classes"),
        ("[input]", "[inputs]", "inputs"),
        ("[input]", "[input", "line 23"),
    ] {
        fs::write(&config, text.replace(from, to)).unwrap();
        let options = ConvertOptions {
            config: Some(config.clone()),
            ..ConvertOptions::default()
        };
        let fault = convert(&input, &output, &options).unwrap_err();
        assert!(fault.to_string().contains(message), "{message}: {fault}");
        assert_eq!(fault.exit_code(), 2);
    }
    assert!(!output.exists());
}

#[test]
fn presets_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.safetensors");
    let options = ConvertOptions {
        preset: Some(Preset::Scannet),
        ..given("m2.toml")
    };
    // The configuration file goes first, so the preset has nothing left to say.
    convert(&fixture("plain_m2_bare.pth"), &output, &options).unwrap();
    let options = ConvertOptions {
        preset: Some(Preset::Scannet),
        ..ConvertOptions::default()
    };
    let fault = convert(&fixture("plain_m2_bare.pth"), &output, &options).unwrap_err();
    assert!(fault.to_string().contains("network."), "{fault}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("in.safetensors"),
        folder.path().join("out.safetensors"),
    );
    let (_folder, model, _) = converted("plain_m2_bare.pth", &given("m2.toml"));
    let file = safetensors::read(model).unwrap();
    let odd = "dec_stages.0.up.proj.0.bias";
    for (change, message) in [
        ("missing", odd),
        ("shape", odd),
        ("extra", "seg_head.9"),
        ("nan", odd),
    ] {
        let mut spoilt = Tensors::new();
        for (name, tensor) in file.iter() {
            match (name == odd, change) {
                (true, "missing") => continue,
                (true, "shape") => spoilt.insert(name, Tensor::from_f32(&[7], &[0.0; 7]).unwrap()),
                (true, "nan") => {
                    spoilt.insert(name, Tensor::from_f32(&[8], &[f32::NAN; 8]).unwrap())
                }
                _ => spoilt.insert(name, tensor.clone()),
            }
            .unwrap();
        }
        if change == "extra" {
            spoilt
                .insert("seg_head.9", Tensor::from_f32(&[1], &[0.0]).unwrap())
                .unwrap();
        }
        safetensors::write(&input, &spoilt).unwrap();
        let fault = convert(&input, &output, &given("m2.toml"))
            .unwrap_err()
            .to_string();
        assert!(fault.contains(message), "{change}: {fault}");
        assert!(!output.exists());
    }
}

#[test]
fn info_tells_what_a_checkpoint_holds() {
    let found = info(fixture("zip_m2_module_backbone.pth")).unwrap();
    assert_eq!(found.container, "PyTorch zip");
    assert_eq!(
        (found.tensors.len(), found.prefix.as_str()),
        (188, "module.backbone.")
    );
    assert_eq!(found.beside["best_metric_value"], "0.7261");
    assert_eq!(found.skipped, ["optimizer", "scheduler", "scaler"]);
    assert_eq!(
        found.architecture.unwrap()["enc_channels"],
        serde_json::json!([12])
    );
    let (_folder, output, done) = converted("plain_m1_backbone.pth", &given("m1.toml"));
    let model = info(output).unwrap();
    assert_eq!(model.model.as_ref(), Some(&done.model));
    assert_eq!(model.parameters, done.parameters);
    assert_eq!(model.tensors.len(), done.tensors);
    let other = info(fixture("odd.safetensors")).unwrap();
    assert!(other.model.is_none() && other.architecture.is_none());
    serde_json::to_string(&other).unwrap();
}
