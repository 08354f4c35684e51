//! What the network promises, on small ones of every form: mode 2 with both ways up, mode 1, and positions as factors.

use cairn::cloud::batch::Batch;
use cairn::cloud::features::Feature;
use cairn::cloud::{Column, PointCloud};
use cairn::device::random::{Random, Sequence};
use cairn::device::{Array, Device};
use cairn::graph::{Graph, Mode, Shape};
use cairn::infer::{Options, Segmenter};
use cairn::models::Model;
use cairn::optim::{OptimizerConfig, Rate};
use cairn::train::config::LossConfig;
use cairn::train::loader::Prepared;
use cairn::train::recipe::{At, Learner, Outcome, Recipe, Supervised};
use cairn::weights::{ClassInfo, InputSpec, ModelMetadata, save_state};
use serde_json::{Value, json};

const CHANNELS: usize = 4;
const CLASSES: usize = 3;
/// Largest difference of logits, as a share of the largest logit: sums in another order, a dozen layers deep.
const TOLERANCE: f32 = 1e-5;

fn forms() -> Vec<Value> {
    let form = |kind: &str, unpooling: &str, multiplier: bool| {
        json!({
            "type": kind, "in_channels": CHANNELS, "num_classes": CLASSES,
            "patch_embed_depth": 1, "patch_embed_channels": 12, "patch_embed_groups": 3, "patch_embed_neighbours": 8,
            "enc_depths": [1, 1], "enc_channels": [24, 32], "enc_groups": [6, 8], "enc_neighbours": [8, 8],
            "dec_depths": [1, 1], "dec_channels": [12, 24], "dec_groups": [3, 6], "dec_neighbours": [8, 8],
            "grid_sizes": [0.3, 0.9], "unpool_backend": unpooling, "pe_multiplier": multiplier,
        })
    };
    vec![
        form("PT-v2m2", "map", false),
        form("PT-v2m2", "interp", false),
        form("PT-v2m1", "map", false),
        form("PT-v2m2", "interp", true),
    ]
}

/// Points with features and classes: floor, one box, another box.
#[derive(Clone)]
struct Cloud {
    coord: Vec<[f32; 3]>,
    feat: Vec<f32>,
    class: Vec<i32>,
}

impl Cloud {
    fn new(count: usize, seed: u64) -> Cloud {
        let mut s = Sequence::new(Random::new(seed, 0));
        let mut cloud = Cloud::of((0..count).map(|_| {
            let (x, y) = (3.0 * s.uniform(), 2.0 * s.uniform());
            let class = if x < 1.2 || y < 0.8 {
                0
            } else {
                1 + i32::from(x > 2.2)
            };
            let p = [x, y, 0.4 * f64::from(class) + 0.02 * s.uniform()];
            (p.map(|v| v as f32), class)
        }));
        for feat in cloud.feat.chunks_exact_mut(CHANNELS) {
            feat[3] = s.uniform() as f32;
        }
        cloud
    }

    fn of(points: impl Iterator<Item = ([f32; 3], i32)>) -> Cloud {
        let (coord, class): (Vec<[f32; 3]>, _) = points.unzip();
        Cloud {
            feat: coord.iter().flat_map(|p| [p[0], p[1], p[2], 0.5]).collect(),
            coord,
            class,
        }
    }

    fn select(&self, rows: &[usize]) -> Cloud {
        Cloud {
            coord: rows.iter().map(|r| self.coord[*r]).collect(),
            feat: rows
                .iter()
                .flat_map(|r| self.feat[CHANNELS * r..][..CHANNELS].to_vec())
                .collect(),
            class: rows.iter().map(|r| self.class[*r]).collect(),
        }
    }
}

fn batch(clouds: &[&Cloud]) -> Batch {
    let mut batch = Batch::new(CHANNELS);
    for cloud in clouds {
        batch.push(&cloud.coord, &cloud.feat, &cloud.class).unwrap();
    }
    batch
}

fn learner(network: &Value) -> Learner {
    let model = Model::new(network, Device::Cpu, 7).unwrap();
    let optimizer: OptimizerConfig =
        serde_json::from_value(json!({"kind": "adamw", "lr": 0.01})).unwrap();
    Learner::new(model, &optimizer, &[], None, Device::Cpu).unwrap()
}

fn learn(learner: &mut Learner, batch: Batch, step: u64) -> Outcome {
    try_learn(learner, batch, step).unwrap()
}

/// One step of training on `batch`.
fn try_learn(learner: &mut Learner, batch: Batch, step: u64) -> cairn::Result<Outcome> {
    let geometry = learner
        .network
        .geometry(Device::Cpu, &batch.coord, &batch.offsets)
        .unwrap();
    let at = At {
        step,
        random: Random::new(5, step),
        rate: Rate {
            lr: 0.01,
            momentum: 0.9,
        },
    };
    let recipe = Supervised {
        loss: LossConfig::default(),
        clip: Some(5.0),
    };
    recipe.step(learner, Prepared::new(Device::Cpu, batch, geometry)?, at)
}

/// A network whose weights and statistics have left their first values.
fn trained(network: &Value) -> Learner {
    let mut learner = learner(network);
    for step in 0..5 {
        learn(
            &mut learner,
            batch(&[&Cloud::new(200, step), &Cloud::new(150, 90 + step)]),
            step,
        );
    }
    learner
}

/// Logits in inference form.
fn logits(learner: &mut Learner, batch: &Batch) -> Vec<f32> {
    let geometry = learner
        .network
        .geometry(Device::Cpu, &batch.coord, &batch.offsets)
        .unwrap();
    let mut graph = Graph::new(&learner.params, Mode::Inference, Random::new(0, 0));
    let feat = graph
        .input(
            Array::from(batch.feat.clone()),
            Shape::new(batch.len(), CHANNELS),
        )
        .unwrap();
    let output = learner
        .network
        .record(&mut graph, &geometry, feat.into())
        .unwrap();
    graph.keep(output);
    let run = learner.executor.run(&graph, None).unwrap();
    let logits = run.read(output).to_vec();
    assert_eq!(logits.len(), batch.len() * CLASSES);
    assert!(logits.iter().all(|x| x.is_finite()));
    logits
}

fn assert_near(found: &[f32], expected: &[f32], what: &Value) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(largest > 0.1, "logits of at most {largest} say nothing");
    assert!(
        worst <= TOLERANCE * largest,
        "{worst} of {largest} in {what}"
    );
}

#[test]
fn permuting_the_points_permutes_the_logits() {
    let cloud = Cloud::new(500, 1);
    let mut rows: Vec<usize> = (0..500).collect();
    Sequence::new(Random::new(3, 3)).shuffle(&mut rows);
    for form in forms() {
        let mut network = trained(&form);
        let straight = logits(&mut network, &batch(&[&cloud]));
        let permuted = logits(&mut network, &batch(&[&cloud.select(&rows)]));
        let expected: Vec<f32> = rows
            .iter()
            .flat_map(|r| straight[CLASSES * r..][..CLASSES].to_vec())
            .collect();
        assert_near(&permuted, &expected, &form);
    }
}

#[test]
fn clouds_of_a_batch_do_not_meet() {
    // They overlap in space, and one has fewer points than neighbours are asked for.
    let clouds = [Cloud::new(300, 1), Cloud::new(5, 2), Cloud::new(211, 3)];
    for form in forms() {
        let mut network = trained(&form);
        let together = logits(&mut network, &batch(&clouds.each_ref()));
        let mut alone = Vec::new();
        for cloud in &clouds {
            alone.extend(logits(&mut network, &batch(&[cloud])));
        }
        assert_near(&together, &alone, &form);
    }
}

#[test]
fn a_shift_of_the_coordinates_leaves_the_logits() {
    let cloud = Cloud::new(400, 1);
    let mut shifted = cloud.clone();
    for p in &mut shifted.coord {
        *p = [p[0] + 8.0, p[1] - 4.0, p[2] + 2.0];
    }
    // What the shift rounds away is rounded away before, so that both clouds are the same.
    let mut rounded = shifted.clone();
    for p in &mut rounded.coord {
        *p = [p[0] - 8.0, p[1] + 4.0, p[2] - 2.0];
    }
    for form in forms() {
        let mut network = trained(&form);
        let there = logits(&mut network, &batch(&[&shifted]));
        let here = logits(&mut network, &batch(&[&rounded]));
        assert_near(&there, &here, &form);
    }
}

#[test]
fn map_coordinates_of_a_scan_change_nothing() {
    let features = vec![Feature::new("coord"), Feature::new("echo")];
    let class = |name: &str| ClassInfo {
        name: name.into(),
        code: None,
        aliases: Vec::new(),
    };
    let input = InputSpec {
        voxel_size: 0.05,
        features,
        crop_points: None,
        frame: Default::default(),
    };
    let points = Cloud::new(3000, 1);
    // Whole 1024ths of a metre: exact in f64 wherever on earth the scan lies.
    let scan = |origin: [f64; 3]| {
        let whole = |x: f32| (f64::from(x) * 1024.0).round() / 1024.0;
        let coord = points
            .coord
            .iter()
            .map(|p| std::array::from_fn(|a| whole(p[a]) + origin[a]))
            .collect();
        let mut cloud = PointCloud {
            coord,
            ..PointCloud::default()
        };
        let echo = points.feat.chunks_exact(CHANNELS).map(|f| f[3]).collect();
        cloud.set_attribute("echo", Column::F32(echo)).unwrap();
        cloud
    };
    for form in forms() {
        let mut tensors = save_state(&trained(&form).params).unwrap();
        let classes = ["floor", "low", "high"].map(class).to_vec();
        ModelMetadata::new(form, classes, input.clone()).store(&mut tensors);
        let mut segmenter = Segmenter::new(&tensors, "test", Device::Cpu).unwrap();
        let mut segment = |origin| {
            segmenter
                .segment(&scan(origin), &Options::default(), &mut |_, _| Ok(()))
                .unwrap()
        };
        let here = segment([0.0; 3]);
        assert_eq!(segment([1_000_000.0, 6_000_000.0, 2_000.0]), here);
        assert_eq!(segment([-43_210.0, 0.5, -400.0]), here);
        let sure = here
            .confidence
            .iter()
            .filter(|c| **c == here.confidence[0])
            .count();
        assert!(
            sure < 1000,
            "equal answers everywhere would hide a difference"
        );
    }
}

#[test]
fn a_tiny_cloud_is_learnt_by_heart() {
    let cloud = Cloud::new(300, 1);
    for form in forms() {
        let mut learner = learner(&form);
        let best = (0..150)
            .map(|step| learn(&mut learner, batch(&[&cloud]), step).correct)
            .max();
        assert!(best.unwrap() > 297, "{best:?} of 300 right: {form}");
    }
}

#[test]
fn degenerate_clouds_can_be_learnt_and_labelled() {
    let one = Cloud::of([([1.0, 2.0, 3.0], 1)].into_iter());
    let equal = Cloud::of((0..60).map(|i| ([1.0, 2.0, 3.0], i % 3)));
    let few = Cloud::new(5, 4);
    let none = Cloud::new(0, 4);
    for form in forms() {
        let mut network = trained(&form);
        for clouds in [
            &[&few][..],
            &[&one, &one],
            &[&few, &none, &one],
            &[&none, &equal, &few],
        ] {
            let batch = batch(clouds);
            let before = logits(&mut network, &batch);
            let outcome = learn(&mut network, batch.clone(), 9);
            assert_eq!(outcome.labelled, batch.len());
            assert!(outcome.loss.is_finite() && outcome.grad_norm.is_finite());
            let after = logits(&mut network, &batch);
            assert_ne!(after, before, "a step changes the network");
        }
        // One row has no variance, so nothing is learnt from it; it can be labelled all the same.
        for clouds in [&[&one][..], &[&equal], &[&none, &equal, &none]] {
            let batch = batch(clouds);
            let before = logits(&mut network, &batch);
            let fault = try_learn(&mut network, batch.clone(), 9).unwrap_err();
            let fault = fault.to_string();
            assert!(fault.contains("need more than one row"), "{fault}");
            assert_eq!(logits(&mut network, &batch), before);
        }
        // Points in one place with the same features cannot differ.
        let same = logits(&mut network, &batch(&[&equal]));
        assert!(
            same.chunks_exact(CLASSES)
                .all(|row| row == &same[..CLASSES])
        );
    }
}
