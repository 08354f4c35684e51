//! Training in half precision on a GPU: it learns as f32 does, skips what overflows, and goes on with the same bits.

use super::checkpoint::{self, Progress};
use super::config::{Config, LossConfig};
use super::loader::Prepared;
use super::recipe::{At, Learner, Outcome, Recipe, Supervised};
use super::scaling::LossScale;
use crate::device::random::Random;
use crate::device::{Device, Precision};
use crate::graph::check::devices;
use crate::measure::scene;
use crate::models::Model;
use crate::optim::{OptimizerConfig, Rate};
use serde_json::json;
use std::path::Path;

const CHANNELS: usize = 6;
const CLASSES: usize = 4;

/// The GPUs to test on.
fn gpus() -> impl Iterator<Item = Device> {
    devices()
        .into_iter()
        .filter(|device| *device != Device::Cpu)
}

fn learner(device: Device, precision: Precision) -> Learner {
    let network = json!({
        "type": "PT-v2m2", "in_channels": CHANNELS, "num_classes": CLASSES,
        "patch_embed_depth": 1, "patch_embed_channels": 12, "patch_embed_groups": 3, "patch_embed_neighbours": 8,
        "enc_depths": [1], "enc_channels": [24], "enc_groups": [6], "enc_neighbours": [8],
        "dec_depths": [1], "dec_channels": [12], "dec_groups": [3], "dec_neighbours": [8],
        "grid_sizes": [0.2], "unpool_backend": "interp",
    });
    let rule = json!({"kind": "adamw", "lr": 0.01, "weight_decay": 0.01});
    let rule: OptimizerConfig = serde_json::from_value(rule).unwrap();
    let model = Model::new(&network, device, 7).unwrap();
    let learner = Learner::new(model, &rule, &[], Some(0.9), device).unwrap();
    learner.in_precision(precision).unwrap()
}

fn learn(learner: &mut Learner, step: u64) -> Outcome {
    let batch = scene(180, CHANNELS, CLASSES).unwrap();
    let device = learner.params.device();
    let geometry = learner
        .network
        .geometry(device, &batch.coord, &batch.offsets);
    let geometry = geometry.unwrap();
    let recipe = Supervised {
        loss: LossConfig::default(),
        clip: Some(1.0),
    };
    let at = At {
        step,
        random: Random::new(3, step),
        rate: Rate {
            lr: 0.01,
            momentum: 0.9,
        },
    };
    let prepared = Prepared::new(device, batch, geometry).unwrap();
    recipe.step(learner, prepared, at).unwrap()
}

/// Everything that a step may change, as bits.
fn state(learner: &Learner) -> Vec<u32> {
    let mut lists = vec![
        learner.params.values(),
        learner.average.as_ref().unwrap().values().unwrap(),
    ];
    lists.extend(
        learner
            .optimizer
            .state()
            .unwrap()
            .into_iter()
            .map(|(_, list)| list),
    );
    lists.concat().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn loss_falls_in_half_precision_as_it_does_in_f32() {
    for device in gpus() {
        let curve = |precision| -> Vec<f64> {
            let mut learner = learner(device, precision);
            (0..10).map(|step| learn(&mut learner, step).loss).collect()
        };
        let exact = curve(Precision::F32);
        assert!(exact[9] < 0.6 * exact[0], "{exact:?}");
        // A rounded operand is off by 2⁻⁹ in bf16, by 2⁻¹² in f16, and steps add up.
        for (precision, limit) in [(Precision::Bf16, 0.05), (Precision::F16, 0.01)] {
            let half = curve(precision);
            assert_ne!(half, exact, "{precision} is another precision");
            for (half, exact) in half.iter().zip(&exact) {
                let distance = (half - exact).abs() / exact;
                assert!(distance < limit, "{precision}: {half} instead of {exact}");
            }
        }
    }
}

#[test]
fn an_overflow_skips_the_step_and_halves_the_scale() {
    for device in gpus() {
        let mut learner = learner(device, Precision::F16);
        assert_eq!(learner.scale, Some(LossScale::new(65536.0)));
        let (before, large) = (state(&learner), 2f32.powi(60));
        learner.scale = Some(LossScale::new(large));
        let outcome = learn(&mut learner, 0);
        assert!(
            outcome.is_skipped && outcome.grad_norm == 0.0,
            "{outcome:?}"
        );
        assert_eq!(learner.scale, Some(LossScale::new(large / 2.0)));
        assert_eq!(learner.optimizer.steps(), 0);
        assert!(state(&learner) == before, "a skipped step changes nothing");

        // What was skipped leaves no trace.
        learner.scale = Some(LossScale::new(65536.0));
        let outcome = learn(&mut learner, 0);
        assert!(
            !outcome.is_skipped && outcome.grad_norm > 0.0,
            "{outcome:?}"
        );
        let mut fresh = self::learner(device, Precision::F16);
        assert_eq!(learn(&mut fresh, 0), outcome);
        assert!(state(&fresh) == state(&learner));
        assert_eq!(learner.scale, LossScale::new(65536.0).after(true));
    }
}

#[test]
fn the_scale_does_not_show_in_gradients() {
    for device in gpus() {
        let norm = |factor: f32| {
            let mut learner = learner(device, Precision::F16);
            learner.scale = Some(LossScale::new(factor));
            learn(&mut learner, 0).grad_norm
        };
        let (one, large) = (norm(1024.0), norm(65536.0));
        // Numbers too small for f16 are lost with the smaller scale.
        assert!((one / large - 1.0).abs() < 1e-3, "{one} {large}");
    }
}

#[test]
fn a_resumed_run_goes_on_with_the_same_bits() {
    let text = include_str!("example.toml").replacen("[train]", "[train]\nprecision = \"f16\"", 1);
    let config = Config::parse(&text, Path::new("train.toml")).unwrap();
    assert_eq!(config.train.precision, Precision::F16);
    for device in gpus() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut whole = learner(device, Precision::F16);
        whole.scale = Some(LossScale::new(2048.0));
        learn(&mut whole, 0);
        let progress = Progress {
            seed: config.train.seed,
            precision: Precision::F16,
            steps: 1,
            ..Progress::default()
        };
        checkpoint::write(&path, &whole, &progress, &text).unwrap();
        let mut resumed = learner(device, Precision::F16);
        let found = checkpoint::resume(&path, &mut resumed, &config).unwrap();
        assert_eq!(found.loss_scale, LossScale::new(2048.0).after(true));
        assert_eq!(learn(&mut resumed, 1), learn(&mut whole, 1));
        assert!(state(&resumed) == state(&whole));
        assert_eq!(resumed.scale, whole.scale);

        let mut other = config.clone();
        other.train.precision = Precision::Bf16;
        let error = checkpoint::resume(&path, &mut resumed, &other).unwrap_err();
        assert!(error.to_string().contains("precision"), "{error}");
    }
}
