//! Tests of Stratified Transformer: what inference promises, and clouds that are hard to swallow.

use super::*;
use crate::device::Device;
use crate::device::random::{Random, Sequence};
use crate::graph::check::devices;
use crate::graph::{Executor, Mode};
use crate::infer::predict;
use crate::models::Model;
use serde_json::json;

fn config(kind: &str, stem_transformer: bool) -> Value {
    json!({
        "type": kind, "in_channels": 3, "num_classes": 4, "stem_transformer": stem_transformer,
        "depths": [2, 3, 1], "channels": [16, 32, 24], "num_heads": [1, 2, 2],
        "grid_size": 0.1, "window_size": 4, "quant_size": 0.05, "k": 8, "drop_path_rate": 0.2,
    })
}

fn cloud(count: usize, extent: f64, seed: u64) -> Vec<[f32; 3]> {
    let mut s = Sequence::new(Random::new(seed, 0));
    (0..count)
        .map(|_| std::array::from_fn(|_| s.between(0.0, extent) as f32))
        .collect()
}

fn logits(model: &Model, coord: &[[f32; 3]], offsets: &[usize]) -> Vec<f32> {
    let feat = coord.iter().flatten().copied().collect();
    predict::logits(model, &mut Executor::new(Device::Cpu), coord, offsets, feat).unwrap()
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn every_form_runs_on_ragged_batches_and_tiny_clouds() {
    let sizes = [1, 700, 2, 0, 40];
    let mut coord = Vec::new();
    let mut offsets = vec![0];
    for (i, size) in sizes.into_iter().enumerate() {
        coord.extend(cloud(size, 1.0, i as u64));
        offsets.push(coord.len());
    }
    for kind in ["Stratified", "Swin3D"] {
        for stem in [true, false] {
            let model = Model::new(&config(kind, stem), Device::Cpu, 3).unwrap();
            let found = logits(&model, &coord, &offsets);
            assert_eq!(found.len(), 4 * coord.len(), "{kind} {stem}");
            assert!(found.iter().any(|x| *x != 0.0));
        }
    }
    let model = Model::new(&config("Stratified", true), Device::Cpu, 3).unwrap();
    assert!(logits(&model, &[], &[0]).is_empty());
    assert_eq!(logits(&model, &[[5.0; 3]], &[0, 1]).len(), 4);
}

#[test]
fn clouds_of_a_batch_do_not_meet() {
    // Windows start at the minimum of the whole batch: with equal corners at every level a batch gives what its clouds
    // give alone. The first point of a cloud is on every level, so it holds the corner.
    let mut clouds = [cloud(400, 1.0, 1), cloud(300, 1.0, 2), cloud(500, 1.0, 3)];
    for cloud in &mut clouds {
        cloud[0] = [0.0; 3];
    }
    let counts: Vec<usize> = clouds.iter().map(Vec::len).collect();
    let offsets = [0, counts[0], counts[0] + counts[1], 1200];
    // Shares of the points without a fraction, so that none is carried from cloud to cloud.
    for stem in [true, false] {
        let mut config = config("Stratified", stem);
        config["ratio"] = json!(0.25);
        config["channels"] = json!([16, 32]);
        config["depths"] = json!([2, 2]);
        config["num_heads"] = json!([1, 2]);
        let model = Model::new(&config, Device::Cpu, 4).unwrap();
        let together = logits(&model, &clouds.concat(), &offsets);
        for (i, cloud) in clouds.iter().enumerate() {
            let alone = logits(&model, cloud, &[0, cloud.len()]);
            let part = &together[4 * offsets[i]..4 * offsets[i + 1]];
            assert!(far(part, &alone) < 1e-5, "cloud {i}");
        }
    }
}

#[test]
fn windows_of_thousands_of_points_work() {
    // The reference stops at 1024 keys: here 3 000 points lie in one small window, half of them in one place.
    let mut coord = cloud(1500, 0.35, 5);
    coord.extend(vec![[0.2; 3]; 1500]);
    let model = Model::new(&config("Stratified", true), Device::Cpu, 5).unwrap();
    let found = logits(&model, &coord, &[0, 3000]);
    let same = found[4 * 1500..].chunks_exact(4);
    assert!(same.clone().all(|row| row.iter().all(|x| x.is_finite())));
}

#[test]
fn a_shift_of_the_whole_batch_changes_nothing() {
    // Shifts by powers of two of a coarse lattice are exact in f32.
    let coord: Vec<[f32; 3]> = cloud(600, 1.5, 6)
        .iter()
        .map(|p| p.map(|x| (x * 1024.0).round() / 1024.0))
        .collect();
    let model = Model::new(&config("Stratified", true), Device::Cpu, 6).unwrap();
    let feat: Vec<f32> = coord.iter().flatten().copied().collect();
    let moved: Vec<[f32; 3]> = coord
        .iter()
        .map(|p| [p[0] + 4.0, p[1] - 2.0, p[2] + 1.0])
        .collect();
    let mut executor = Executor::new(Device::Cpu);
    let mut run = |coord: &[[f32; 3]]| {
        predict::logits(&model, &mut executor, coord, &[0, 600], feat.clone()).unwrap()
    };
    let (here, there) = (run(&coord), run(&moved));
    assert!(far(&here, &there) < 1e-5);
}

#[test]
fn forms_of_inference_and_of_training_agree() {
    let coord = cloud(500, 1.0, 7);
    for stem in [true, false] {
        let model = Model::new(&config("Swin3D", stem), Device::Cpu, 7).unwrap();
        let geometry = model
            .network
            .geometry(Device::Cpu, &coord, &[0, 500])
            .unwrap();
        let logits = |mode| {
            let mut graph = Graph::new(&model.params, mode, Random::new(0, 0));
            let feat: Vec<f32> = coord.iter().flatten().copied().collect();
            let shape = crate::graph::Shape::new(500, 3);
            let feat = graph.input(feat.into(), shape).unwrap();
            let y = model
                .network
                .record(&mut graph, &geometry, feat.into())
                .unwrap();
            graph.keep(y);
            let mut executor = Executor::new(Device::Cpu);
            executor.run(&graph, None).unwrap().read(y).to_vec()
        };
        use crate::graph::Mode::{Frozen, Inference};
        assert!(far(&logits(Frozen), &logits(Inference)) < 1e-5);
    }
}

#[test]
fn coordinates_and_lists_stay_on_the_device_that_made_them() {
    let coord = cloud(260, 1.0, 9);
    for device in devices() {
        if device == Device::Cpu {
            continue;
        }
        for kind in ["Stratified", "Swin3D"] {
            let logits = |device| {
                let model = Model::new(&config(kind, true), device, 7).unwrap();
                let geometry = model.network.geometry(device, &coord, &[0, 260]).unwrap();
                let mut graph = Graph::new(&model.params, Mode::Inference, Random::new(0, 0));
                let shape = crate::graph::Shape::new(260, 3);
                let feat: Vec<f32> = coord.iter().flatten().copied().collect();
                let feat = graph.input(feat.into(), shape).unwrap();
                let y = model
                    .network
                    .record(&mut graph, &geometry, feat.into())
                    .unwrap();
                graph.keep(y);
                let mut executor = Executor::new(device);
                let logits = executor.run(&graph, None).unwrap().read(y).to_vec();
                (logits, model.network.levels(&geometry))
            };
            let ((found, levels), (expected, _)) = (logits(device), logits(Device::Cpu));
            assert!(far(&found, &expected) < 1e-4, "{kind}");
            assert_eq!(levels.len(), 3);
            assert!(levels[1..].iter().all(|level| !level.coord.is_on_host()));
        }
    }
}

#[test]
fn every_fault_of_a_configuration_names_its_key() {
    for (key, value) in [
        ("depths", json!([1, 2])),
        ("num_heads", json!([1, 2, 5])),
        ("channels", json!([18, 32, 24])),
        ("grid_size", json!(0.0)),
        ("window_size", json!(-4)),
        ("quant_size", json!(3.0)),
        ("downsample_scale", json!(0)),
        ("ratio", json!(1.5)),
        ("k", json!(500)),
        ("max_num_neighbors", json!(0)),
        ("drop_path_rate", json!(1.0)),
        ("ball_choice", json!("any")),
        ("windows", json!(1)),
    ] {
        let mut faulty = config("Stratified", false);
        faulty[key] = value;
        let error = Model::new(&faulty, Device::Cpu, 0).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(key) || key == "ball_choice" && text.contains("any"),
            "{key}: {text}"
        );
    }
}
