//! What recipes of one's own stand on: several heads on the same features, and gradients with respect to what goes in.

use cairn::device::random::{Random, Sequence};
use cairn::device::{Array, Device};
use cairn::graph::{Executor, Gradients, Graph, Mode, Params, Shape};
use cairn::models::{Input, Model};
use cairn::ops;
use serde_json::{Value, json};

const CHANNELS: usize = 4;
const CLASSES: usize = 3;

fn point_transformer(kind: &str, multiplier: bool) -> Value {
    json!({
        "type": kind, "in_channels": CHANNELS, "num_classes": CLASSES,
        "patch_embed_depth": 1, "patch_embed_channels": 12, "patch_embed_groups": 3, "patch_embed_neighbours": 8,
        "enc_depths": [1], "enc_channels": [24], "enc_groups": [6], "enc_neighbours": [8],
        "dec_depths": [1], "dec_channels": [12], "dec_groups": [3], "dec_neighbours": [8],
        "grid_sizes": [0.3], "pe_multiplier": multiplier,
    })
}

fn stratified_transformer() -> Value {
    json!({
        "type": "Stratified", "in_channels": CHANNELS, "num_classes": CLASSES, "stem_transformer": true,
        "depths": [1, 1], "channels": [16, 32], "num_heads": [1, 2],
        "grid_size": 0.1, "window_size": 4, "quant_size": 0.05, "k": 8,
    })
}

/// Clouds with fewer points than neighbours are asked for, so that no neighbour changes when points move a little. But
/// for a corner, every point lies well inside its cell of 0.3 m, so that no cell changes either.
struct Clouds {
    coord: Vec<[f32; 3]>,
    feat: Vec<f32>,
    offsets: Vec<usize>,
}

impl Clouds {
    fn new() -> Clouds {
        let mut s = Sequence::new(Random::new(8, 0));
        let mut coord = Vec::new();
        let mut offsets = vec![0];
        for size in [7, 8, 5] {
            coord.push([0.0; 3]);
            coord.extend((1..size).map(|_| {
                std::array::from_fn::<f32, 3, _>(|_| {
                    let cell = (3.0 * s.uniform()).floor();
                    (0.3 * cell + s.between(0.08, 0.2)) as f32
                })
            }));
            offsets.push(coord.len());
        }
        let feat = (0..coord.len() * CHANNELS)
            .map(|_| s.between(-1.0, 1.0) as f32)
            .collect();
        Clouds {
            coord,
            feat,
            offsets,
        }
    }

    /// Moved along `direction` (features, then coordinates) by `step`.
    fn moved(&self, direction: &[f32], step: f32) -> Clouds {
        let (feat, coord) = direction.split_at(self.feat.len());
        let add = |x: &f32, d: &f32| x + step * d;
        let moves = coord.chunks_exact(3);
        Clouds {
            coord: (self.coord.iter().zip(moves))
                .map(|(x, d)| std::array::from_fn(|a| add(&x[a], &d[a])))
                .collect(),
            feat: self.feat.iter().zip(feat).map(|(x, d)| add(x, d)).collect(),
            offsets: self.offsets.clone(),
        }
    }
}

/// A weighted sum of the logits, and its gradient by the features and by the coordinates.
fn loss(model: &Model, clouds: &Clouds, mode: Mode) -> (f64, Vec<f32>) {
    let n = clouds.coord.len();
    let geometry = model
        .network
        .geometry(Device::Cpu, &clouds.coord, &clouds.offsets)
        .unwrap();
    let mut graph = Graph::new(&model.params, mode, Random::new(4, 0));
    let feat = Array::from(clouds.feat.clone());
    let feat = graph.input(feat, Shape::new(n, CHANNELS)).unwrap();
    let coord: Vec<f32> = clouds.coord.iter().flatten().copied().collect();
    let coord = graph.input(coord.into(), Shape::new(n, 3)).unwrap();
    graph.keep_gradient(feat);
    graph.keep_gradient(coord);
    let input = Input {
        feat,
        coord: Some(coord),
    };
    let logits = model.network.record(&mut graph, &geometry, input).unwrap();
    let mut s = Sequence::new(Random::new(5, 0));
    let weights: Vec<f32> = (0..n * CLASSES)
        .map(|_| s.between(-1.0, 1.0) as f32)
        .collect();
    graph.keep(logits);
    graph.seed(logits, Array::from(weights.clone())).unwrap();
    let mut gradients = Gradients::new(model.params.layout().clone(), Device::Cpu).unwrap();
    let mut executor = Executor::new(Device::Cpu);
    let run = executor.run(&graph, Some(&mut gradients)).unwrap();
    let terms = run.read(logits).iter().zip(&weights);
    let sum = terms.map(|(y, w)| f64::from(*y) * f64::from(*w)).sum();
    let parts = [feat, coord].map(|v| run.gradient(v).unwrap().to_vec());
    (sum, parts.concat())
}

/// The model after a run with batch statistics, so that running statistics are not what they start with.
fn settled(config: &Value, clouds: &Clouds) -> Model {
    let mut model = Model::new(config, Device::Cpu, 3).unwrap();
    let geometry = model
        .network
        .geometry(Device::Cpu, &clouds.coord, &clouds.offsets)
        .unwrap();
    let mut params = std::mem::replace(&mut model.params, empty());
    let mut graph = Graph::new(&params, Mode::Training, Random::new(0, 0));
    let shape = Shape::new(clouds.coord.len(), CHANNELS);
    let feat = graph
        .input(Array::from(clouds.feat.clone()), shape)
        .unwrap();
    model
        .network
        .record(&mut graph, &geometry, feat.into())
        .unwrap();
    let mut executor = Executor::new(Device::Cpu);
    let run = executor.run(&graph, None).unwrap();
    drop(graph);
    run.commit(&mut params).unwrap();
    model.params = params;
    model
}

fn empty() -> Params {
    Params::initial(Default::default(), Device::Cpu, 0).unwrap()
}

#[test]
fn gradients_of_features_and_coordinates_are_those_of_finite_differences() {
    // Batch statistics of twenty points bend fast.
    const STEP: f32 = 2e-4;
    let clouds = Clouds::new();
    for config in [
        point_transformer("PT-v2m2", false),
        point_transformer("PT-v2m1", false),
        point_transformer("PT-v2m2", true),
    ] {
        let model = settled(&config, &clouds);
        for mode in [Mode::Training, Mode::Frozen] {
            let (_, gradient) = loss(&model, &clouds, mode);
            let split = clouds.feat.len();
            for part in [0..split, split..gradient.len()] {
                let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let size = norm(&gradient[part.clone()]);
                assert!(size > 0.01, "{mode:?} {part:?} {size}");
                for seed in 0..4 {
                    // Half along the gradient, half anywhere.
                    let mut s = Sequence::new(Random::new(seed, 1));
                    let mut direction = vec![0.0; gradient.len()];
                    for i in part.clone() {
                        let own = f64::from(gradient[i]) / size;
                        let share = 1.0 / (part.len() as f64).sqrt();
                        direction[i] = (own + share * s.between(-2.0, 2.0)) as f32;
                    }
                    let at = |step| loss(&model, &clouds.moved(&direction, step), mode).0;
                    let found = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
                    let terms = gradient.iter().zip(&direction);
                    let want: f64 = terms.map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
                    let error = (found - want).abs() / (size * norm(&direction));
                    assert!(
                        error < 0.01,
                        "{found} {want}: {error} {mode:?} {part:?} {config}"
                    );
                }
            }
        }
    }
}

#[test]
fn coordinates_have_no_gradient_where_positions_are_looked_up() {
    let clouds = Clouds::new();
    let model = Model::new(&stratified_transformer(), Device::Cpu, 0).unwrap();
    let geometry = model
        .network
        .geometry(Device::Cpu, &clouds.coord, &clouds.offsets)
        .unwrap();
    let mut graph = Graph::new(&model.params, Mode::Frozen, Random::new(0, 0));
    let n = clouds.coord.len();
    let feat = graph
        .input(vec![0.0; n * CHANNELS].into(), Shape::new(n, CHANNELS))
        .unwrap();
    let coord = graph
        .input(vec![0.0; n * 3].into(), Shape::new(n, 3))
        .unwrap();
    let input = Input {
        feat,
        coord: Some(coord),
    };
    let error = model
        .network
        .record(&mut graph, &geometry, input)
        .unwrap_err();
    assert!(error.to_string().contains("coordinates"), "{error}");
}

#[test]
fn further_heads_learn_on_the_same_features() {
    const MATERIALS: usize = 2;
    let clouds = Clouds::new();
    let n = clouds.coord.len();
    for config in [
        point_transformer("PT-v2m2", false),
        stratified_transformer(),
    ] {
        let plain = Model::new(&config, Device::Cpu, 3).unwrap();
        let mut both = config.clone();
        both["heads"] = json!({ "material": MATERIALS });
        let model = Model::new(&both, Device::Cpu, 3).unwrap();
        let run = |model: &Model, with_material: bool| {
            let geometry = model
                .network
                .geometry(Device::Cpu, &clouds.coord, &clouds.offsets)
                .unwrap();
            let mut graph = Graph::new(&model.params, Mode::Training, Random::new(1, 0));
            let feat = Array::from(clouds.feat.clone());
            let feat = graph.input(feat, Shape::new(n, CHANNELS)).unwrap();
            let logits = model
                .network
                .record(&mut graph, &geometry, feat.into())
                .unwrap();
            let class: Vec<i32> = (0..n).map(|i| (i % CLASSES) as i32).collect();
            let loss = ops::CrossEntropy::new(class.into(), -1);
            let mut losses = vec![graph.push(loss, &[logits]).unwrap()];
            if with_material {
                let logits = graph.tapped("heads.material").unwrap();
                assert_eq!(graph.shape(logits), Shape::new(n, MATERIALS));
                let material: Vec<i32> = (0..n).map(|i| (i % MATERIALS) as i32).collect();
                let loss = ops::CrossEntropy::new(material.into(), -1);
                losses.push(graph.push(loss, &[logits]).unwrap());
            }
            for loss in losses {
                graph.seed(loss, vec![1.0].into()).unwrap();
            }
            graph.keep(logits);
            let layout = model.params.layout();
            let mut gradients = Gradients::new(layout.clone(), Device::Cpu).unwrap();
            let mut executor = Executor::new(Device::Cpu);
            let run = executor.run(&graph, Some(&mut gradients)).unwrap();
            let moves = |name: &str| {
                let id = layout.find(name).unwrap();
                gradients.get(id).iter().any(|g| *g != 0.0)
            };
            let shared = match config["type"].as_str() {
                Some("Stratified") => "upsamples.0.linear1.1.weight",
                _ => "dec_stages.0.blocks.blocks.0.fc1.weight",
            };
            let head = layout.find("heads.material.3.weight").is_some();
            let head = head && moves("heads.material.3.weight");
            (run.read(logits).to_vec(), [moves(shared), head])
        };
        let (alone, _) = run(&plain, false);
        assert_eq!(run(&model, false), (alone.clone(), [true, false]));
        assert_eq!(run(&model, true), (alone, [true, true]));
    }
}

#[test]
fn heads_without_a_name_or_without_classes_are_refused() {
    for heads in [json!({ "a.b": 2 }), json!({ "": 2 }), json!({ "a": 0 })] {
        for mut config in [
            point_transformer("PT-v2m2", false),
            stratified_transformer(),
        ] {
            config["heads"] = heads.clone();
            let error = Model::new(&config, Device::Cpu, 0).unwrap_err();
            assert!(error.to_string().contains("network.heads"), "{error}");
        }
    }
}
