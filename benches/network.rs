//! Whole-network benches: PTv2 in the S3DIS configuration on a synthetic room, inference and training step.
//!
//! `cargo bench --bench network` prints seconds and points per second; the names are `ptv2/<what>/<points>`.

use cairn::device::random::{Random, Sequence};
use cairn::device::{Array, Device};
use cairn::graph::{Executor, Gradients, Graph, Mode, Shape};
use cairn::models::Model;
use cairn::ops::CrossEntropy;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// The S3DIS configuration of the official code.
const S3DIS: &str = r#"{"type": "PT-v2m2", "in_channels": 6, "num_classes": 13,
    "patch_embed_depth": 2, "patch_embed_channels": 48, "patch_embed_groups": 6, "patch_embed_neighbours": 16,
    "enc_depths": [2, 6, 2], "enc_channels": [96, 192, 384], "enc_groups": [12, 24, 48], "enc_neighbours": [16, 16, 16],
    "dec_depths": [1, 1, 1], "dec_channels": [48, 96, 192], "dec_groups": [6, 12, 24], "dec_neighbours": [16, 16, 16],
    "grid_sizes": [0.1, 0.2, 0.4], "pe_bias": true, "drop_path_rate": 0.3, "unpool_backend": "interp"}"#;

/// A furnished room of about `count` occupied 4 cm voxels: floor, walls and boxes, one jittered point each.
fn room(count: usize) -> Vec<[f32; 3]> {
    let mut random = Sequence::new(Random::new(1, 0));
    let side = (count as f64 / 10.2).sqrt() as i64;
    let mut cells = std::collections::BTreeSet::new();
    for a in 0..side {
        for b in 0..side {
            cells.insert([a, b, 0]);
            for wall in [[a, 0, b], [a, side - 1, b], [0, a, b], [side - 1, a, b]] {
                if wall[2] < side / 2 {
                    cells.insert(wall);
                }
            }
        }
    }
    // Boxes until the room is full; it never is for the sizes below, yet a bound costs nothing.
    for _ in 0..100_000 {
        if cells.len() >= count {
            break;
        }
        let low: [i64; 3] = [0, 1, 2].map(|axis| {
            let room = if axis == 2 { side / 4 } else { side - side / 8 };
            random.below(room.max(1) as u64) as i64
        });
        let size: [i64; 3] = [0, 1, 2].map(|_| 2 + random.below((side / 8).max(1) as u64) as i64);
        for x in 0..=size[0] {
            for y in 0..=size[1] {
                for z in 0..=size[2] {
                    let inside =
                        x > 0 && x < size[0] && y > 0 && y < size[1] && z > 0 && z < size[2];
                    if !inside {
                        cells.insert([low[0] + x, low[1] + y, low[2] + z]);
                    }
                }
            }
        }
    }
    let mut points: Vec<[f32; 3]> = cells
        .into_iter()
        .map(|cell| cell.map(|c| (0.04 * (c as f64 + 0.25 + 0.5 * random.uniform())) as f32))
        .collect();
    random.shuffle(&mut points);
    points.truncate(count);
    points
}

struct Case {
    model: Model,
    coord: Vec<[f32; 3]>,
    feat: Array<f32>,
    target: Array<i32>,
}

impl Case {
    fn new(points: usize) -> Self {
        let config = serde_json::from_str(S3DIS).expect("the configuration is JSON");
        let model = Model::new(&config, Device::Cpu, 1).expect("the configuration is valid");
        let coord = room(points);
        let color = coord
            .iter()
            .map(|p| [p[0].sin().abs(), p[1].cos().abs(), 0.5]);
        let rows = coord.iter().zip(color);
        let feat: Vec<f32> = rows.flat_map(|(p, c)| p.iter().copied().chain(c)).collect();
        let target: Vec<i32> = (0..coord.len() as i32).map(|i| i % 13).collect();
        Case {
            model,
            coord,
            feat: Array::from(feat),
            target: Array::from(target),
        }
    }

    /// Geometry and features of one cloud.
    fn infer(&self, executor: &mut Executor) -> f32 {
        let offsets = [0, self.coord.len()];
        let network = &self.model.network;
        let geometry = network
            .geometry(self.model.params.device(), &self.coord, &offsets)
            .expect("the room is valid");
        let mut graph = Graph::new(&self.model.params, Mode::Inference, Random::new(0, 0));
        let shape = Shape::new(self.coord.len(), network.input_channels());
        let feat = graph.input(self.feat.clone(), shape).expect("features fit");
        let logits = network
            .record(&mut graph, &geometry, feat)
            .expect("shapes fit");
        graph.keep(logits);
        executor.run(&graph, None).expect("it runs").read(logits)[0]
    }

    /// Geometry, forward, backward and running statistics of one batch.
    fn train(&mut self, executor: &mut Executor, gradients: &mut Gradients) -> f32 {
        let offsets = [0, self.coord.len()];
        let network = &self.model.network;
        let geometry = network
            .geometry(self.model.params.device(), &self.coord, &offsets)
            .expect("the room is valid");
        let mut graph = Graph::new(&self.model.params, Mode::Training, Random::new(0, 0));
        let shape = Shape::new(self.coord.len(), network.input_channels());
        let feat = graph.input(self.feat.clone(), shape).expect("features fit");
        let logits = network
            .record(&mut graph, &geometry, feat)
            .expect("shapes fit");
        let op = CrossEntropy::new(self.target.clone(), -1);
        let loss = graph.push(op, &[logits]).expect("targets fit");
        graph.keep(loss);
        graph.seed(loss, Array::from(vec![1.0])).expect("a scalar");
        gradients.clear();
        let run = executor.run(&graph, Some(gradients)).expect("it runs");
        drop(graph);
        run.commit(&mut self.model.params).expect("statistics move");
        run.read(loss)[0]
    }
}

/// Time per op, to see where it goes.
fn report(what: &str, executor: &Executor) {
    let mut rows: Vec<_> = executor.timings().iter().collect();
    rows.sort_by_key(|(_, t)| std::cmp::Reverse(t.time));
    let total: f64 = rows.iter().map(|(_, t)| t.time.as_secs_f64()).sum();
    eprintln!("{what}: arena {} MiB", executor.arena_bytes() >> 20);
    for ((name, phase), timing) in rows.iter().take(16) {
        let share = 100.0 * timing.time.as_secs_f64() / total;
        eprintln!("  {share:5.1} %  {name} {phase:?}  {} steps", timing.steps);
    }
}

fn network(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ptv2");
    group.sample_size(10);
    let smoke = std::env::args().any(|a| a == "--test");
    let sizes: &[usize] = if smoke {
        &[2_000]
    } else {
        &[10_000, 40_000, 80_000]
    };
    for &points in sizes {
        let mut case = Case::new(points);
        group.throughput(Throughput::Elements(points as u64));
        let mut executor = Executor::new(Device::Cpu);
        group.bench_function(format!("inference/{points}"), |b| {
            b.iter(|| black_box(case.infer(&mut executor)));
        });
        report("inference", &executor);
        let mut executor = Executor::new(Device::Cpu);
        let layout = case.model.params.layout().clone();
        let mut gradients = Gradients::new(layout, Device::Cpu).expect("memory for gradients");
        group.bench_function(format!("training step/{points}"), |b| {
            b.iter(|| black_box(case.train(&mut executor, &mut gradients)));
        });
        report("training step", &executor);
    }
}

criterion_group!(benches, network);
criterion_main!(benches);
