//! A step means the same on every device, and what it moves stays where it is.

use super::*;
use crate::graph::check::devices;
use crate::measure::scene;
use serde_json::{Value, json};

const CHANNELS: usize = 6;
const CLASSES: usize = 4;
/// Largest distance between the moves of two devices, as a share of the move: sums in another order, two steps deep.
const TOLERANCE: f64 = 1e-4;

/// A small network of each family, with everything that training has: drop path, running statistics, tables.
fn networks() -> [Value; 2] {
    [
        json!({
            "type": "PT-v2m2", "in_channels": CHANNELS, "num_classes": CLASSES,
            "patch_embed_depth": 1, "patch_embed_channels": 12, "patch_embed_groups": 3, "patch_embed_neighbours": 8,
            "enc_depths": [1], "enc_channels": [24], "enc_groups": [6], "enc_neighbours": [8],
            "dec_depths": [1], "dec_channels": [12], "dec_groups": [3], "dec_neighbours": [8],
            "grid_sizes": [0.2], "unpool_backend": "interp", "drop_path_rate": 0.3,
        }),
        json!({
            "type": "Stratified", "in_channels": CHANNELS, "num_classes": CLASSES, "stem_transformer": true,
            "depths": [1, 2], "channels": [16, 32], "num_heads": [1, 2], "grid_size": 0.04, "window_size": 4.0,
            "quant_size": 0.02, "drop_path_rate": 0.3, "max_num_neighbors": 12,
        }),
    ]
}

/// Both rules. The addend of AdamW is so large that a gradient of mere rounding moves next to nothing.
fn rules() -> [OptimizerConfig; 2] {
    let rule = |value| serde_json::from_value(value).unwrap();
    [
        rule(json!({"kind": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3})),
        rule(json!({"kind": "adamw", "lr": 0.01, "eps": 1e-2, "weight_decay": 0.05})),
    ]
}

/// Where batches are prepared.
#[derive(Clone, Copy, PartialEq)]
enum Prepare {
    /// Between the steps.
    Here,
    /// By another thread, as early as it can.
    Ahead,
}

/// Two steps on one room; the outcomes, the values and the averages.
fn learn(
    network: &Value,
    rule: &OptimizerConfig,
    device: Device,
    how: Prepare,
) -> (Vec<Outcome>, [Vec<f32>; 2]) {
    let model = Model::new(network, device, 7).unwrap();
    let mut learner = Learner::new(model, rule, &[], Some(0.9), device).unwrap();
    let recipe = Supervised {
        loss: LossConfig {
            lovasz: 1.0,
            ..LossConfig::default()
        },
        clip: Some(0.1),
    };
    let network = learner.network.clone();
    let prepare = |_| {
        let batch = scene(180, CHANNELS, CLASSES).unwrap();
        let geometry = network.geometry(device, &batch.coord, &batch.offsets);
        Prepared::new(device, batch, geometry.unwrap()).unwrap()
    };
    let step = |(step, prepared)| {
        let at = At {
            step,
            random: Random::new(3, step),
            rate: rule.base(),
        };
        recipe.step(&mut learner, prepared, at).unwrap()
    };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| match how {
        Prepare::Here => (0..2).zip((0..2).map(prepare)).map(step).collect(),
        Prepare::Ahead => {
            let (sender, batches) = std::sync::mpsc::sync_channel(2);
            scope.spawn(move || {
                let _ahead = device.ahead().unwrap();
                (0..2).for_each(|n| sender.send(prepare(n)).unwrap());
            });
            (0..2).zip(batches).map(step).collect()
        }
    });
    if let Device::Cuda(_) = device {
        assert!(
            !learner.gradients.memory().has_mirror(),
            "gradients came to the host"
        );
        assert!(
            !learner.params.memory().is_on_host(),
            "parameters came to the host"
        );
    }
    let average = learner.average.unwrap();
    let lists = [learner.params.values(), average.values().unwrap()];
    (outcomes, lists.map(<[f32]>::to_vec))
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    a.iter().zip(b).map(square).sum::<f64>().sqrt()
}

#[test]
fn steps_give_every_device_the_parameters_of_the_cpu() {
    for network in networks() {
        let start = Model::new(&network, Device::Cpu, 7).unwrap();
        let start = start.params.values();
        for rule in rules() {
            let (expected, lists) = learn(&network, &rule, Device::Cpu, Prepare::Here);
            for device in devices().into_iter().filter(|d| *d != Device::Cpu) {
                let (found, moved) = learn(&network, &rule, device, Prepare::Here);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        (found.loss / expected.loss - 1.0).abs() < 1e-5,
                        "{found:?} {expected:?}"
                    );
                    assert!(
                        (found.grad_norm / expected.grad_norm - 1.0).abs() < TOLERANCE,
                        "{found:?} {expected:?}"
                    );
                    assert!(expected.grad_norm > 0.1, "the gradient has to be clipped");
                    assert!(found.correct.abs_diff(expected.correct) <= 1);
                }
                for (found, expected) in moved.iter().zip(&lists) {
                    let share = distance(found, expected) / distance(expected, start);
                    assert!(share < TOLERANCE, "{share} of the move, {rule:?} {network}");
                }
                if let OptimizerConfig::AdamW { .. } = rule {
                    let again = learn(&network, &rule, device, Prepare::Ahead);
                    assert_eq!(again, (found, moved), "the same bits beside the steps");
                }
            }
        }
    }
}

/// Steps on one room; the loss of each and the values. The executor is a new one for every step, or the same.
fn repeated(network: &Value, device: Device, renews: bool) -> (Vec<f64>, Vec<f32>) {
    let model = Model::new(network, device, 7).unwrap();
    let rule = &rules()[1];
    let mut learner = Learner::new(model, rule, &[], None, device).unwrap();
    let recipe = Supervised {
        loss: LossConfig::default(),
        clip: Some(0.1),
    };
    let losses = (0..3).map(|step| {
        if renews {
            learner.executor = Executor::new(device);
        }
        let batch = scene(90, CHANNELS, CLASSES).unwrap();
        let geometry = learner
            .network
            .geometry(device, &batch.coord, &batch.offsets);
        let prepared = Prepared::new(device, batch, geometry.unwrap()).unwrap();
        let at = At {
            step,
            random: Random::new(3, step),
            rate: rule.base(),
        };
        recipe.step(&mut learner, prepared, at).unwrap().loss
    });
    (losses.collect(), learner.params.values().to_vec())
}

// From the second step on, the network is replayed as a graph with other lists and another random stream.
#[test]
fn steps_of_equal_shapes_have_the_same_bits_replayed_or_not() {
    for network in networks() {
        for device in devices() {
            let expected = repeated(&network, device, true);
            assert_eq!(repeated(&network, device, false), expected);
        }
    }
}
