use crate::fixtures::{fails, path, repository, succeeds};
use cairn::cloud::features::Feature;
use cairn::weights::{ClassInfo, InputSpec, ModelMetadata, Tensor, Tensors, safetensors};
use std::path::{Path, PathBuf};

/// The golden network as a model file, and its input; returns the expected logits as well.
pub fn golden(folder: &Path) -> (PathBuf, PathBuf, Vec<f64>) {
    let golden = safetensors::read(repository("data/golden/ptv2/net_a.safetensors")).unwrap();
    let network: serde_json::Value = serde_json::from_str(&golden.metadata["config"]).unwrap();
    let class = |i: usize| ClassInfo {
        name: format!("class {i}"),
        code: None,
        aliases: Vec::new(),
    };
    let input = InputSpec {
        voxel_size: 0.04,
        features: vec![Feature::new("coord"), Feature::new("color")],
        crop_points: None,
        frame: Default::default(),
    };
    let mut weights = golden.with_prefix("state.");
    ModelMetadata::new(network, (0..13).map(class).collect(), input).store(&mut weights);
    let (model, batch) = (
        folder.join("net.safetensors"),
        folder.join("batch.safetensors"),
    );
    safetensors::write(&model, &weights).unwrap();
    safetensors::write(&batch, &golden.with_prefix("input.")).unwrap();
    (model, batch, golden.get_f64("eval_logits_f64").unwrap())
}

pub fn command<'a>(model: &'a Path, batch: &'a Path, output: &'a Path) -> [&'a str; 7] {
    let [model, batch, output] = [model, batch, output].map(path);
    [
        "forward",
        "--weights",
        model,
        "--input",
        batch,
        "-o",
        output,
    ]
}

#[test]
fn logits_are_those_of_the_official_code() {
    let folder = tempfile::tempdir().unwrap();
    let (model, batch, expected) = golden(folder.path());
    let output = folder.path().join("logits.safetensors");
    succeeds(&command(&model, &batch, &output));
    let output = safetensors::read(&output).unwrap();
    assert_eq!(output.dims("logits"), Some(&[1500, 13][..]));
    let found = output.get_f64("logits").unwrap();
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    assert!(error / size < 1e-5, "relative error {}", error / size);
}

#[test]
fn inputs_that_contradict_themselves_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (model, batch, _) = golden(folder.path());
    let good = safetensors::read(&batch).unwrap();
    let output = folder.path().join("logits.safetensors");
    let replaced = |name: &str, tensor: Option<Tensor>| {
        let mut changed = Tensors::new();
        for (n, t) in good.iter().filter(|(n, _)| *n != name) {
            changed.insert(n, t.clone()).unwrap();
        }
        if let Some(tensor) = tensor {
            changed.insert(name, tensor).unwrap();
        }
        changed
    };
    let coord = good.get_f32("coord").unwrap();
    let mut holes = coord.clone();
    holes[4] = f32::NAN;
    let cases = [
        (replaced("offset", None), "tensor offset: is missing"),
        (
            replaced(
                "offset",
                Some(Tensor::from_i64(&[2], &[900, 1400]).unwrap()),
            ),
            "1500 rows",
        ),
        (
            replaced(
                "offset",
                Some(Tensor::from_i64(&[2], &[1600, 1500]).unwrap()),
            ),
            "less than",
        ),
        (
            replaced("offset", Some(Tensor::from_f32(&[1], &[1500.0]).unwrap())),
            "integers",
        ),
        (
            replaced("coord", Some(Tensor::from_f32(&[1500, 3], &holes).unwrap())),
            "NaN in row 1",
        ),
        (
            replaced(
                "coord",
                Some(Tensor::from_f32(&[1499, 3], &coord[..4497]).unwrap()),
            ),
            "1499",
        ),
        (
            replaced(
                "feat",
                Some(Tensor::from_f32(&[1500, 3], &vec![0.0; 4500]).unwrap()),
            ),
            "3 columns",
        ),
        (
            replaced(
                "feat",
                Some(Tensor::from_f32(&[9000], &vec![0.0; 9000]).unwrap()),
            ),
            "two dimensions",
        ),
    ];
    for (number, (tensors, part)) in cases.into_iter().enumerate() {
        let bad = folder.path().join(format!("bad{number}.safetensors"));
        safetensors::write(&bad, &tensors).unwrap();
        let fault = fails(&command(&model, &bad, &output), 2);
        assert!(fault.contains(part), "{part} is not in: {fault}");
        assert!(!output.exists());
    }
}
