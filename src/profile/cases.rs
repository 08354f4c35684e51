//! At which sizes the kernels are looked at: what each op of the S3DIS network meets in its first and its last stage, with
//! fewer points. Costs grow in proportion to the points.
//!
//! A kernel that no case runs fails a test. An op gets a case by a line in [`CASES`] and a function that records it.

mod attention;
mod lists;
mod optim;

use crate::Result;
use crate::device::random::{Random, Sequence};
use crate::device::{Array, Cores, Device, Precision};
use crate::geometry::{Interpolation, Neighbors, Ragged};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Op, Params, Scope, Shape, Var};
use crate::measure::room;
use crate::ops::*;
use attention::{
    aggregate, aggregate_offsets, pair_offsets, position_norm, position_norm_offsets, relation,
    relation_multiplier,
};
pub(super) use attention::{vector_attention, window_attention, windows};
use std::sync::Arc;

/// The size of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// Points N.
    pub points: usize,
    /// Channels C.
    pub channels: usize,
    /// Attention groups G.
    pub groups: usize,
}

impl Stage {
    /// With `growth` times the points.
    pub fn grown(self, growth: usize) -> Stage {
        let points = self.points * growth;
        Stage { points, ..self }
    }

    /// What a case of this size is called.
    pub fn case(&self, name: &str) -> String {
        format!("{name}/{}x{}", self.points, self.channels)
    }
}

/// The first and the last stage of the S3DIS network, with as many points as the emulator runs in a moment.
pub const STAGES: [Stage; 2] = [
    Stage {
        points: 1024,
        channels: 48,
        groups: 6,
    },
    Stage {
        points: 128,
        channels: 384,
        groups: 48,
    },
];

/// Neighbours K of a point.
pub(super) const NEIGHBOURS: usize = 16;
/// Classes of S3DIS.
const CLASSES: usize = 13;

/// Runs an op, or what else launches kernels, at the size of a stage.
pub type Run = fn(Cores, Stage) -> Result<()>;

/// What is run, by name.
pub const CASES: &[(&str, Run)] = &[
    ("add", |cores, s| rows(cores, Add, s, 2)),
    ("adamw", |cores, s| {
        optim::optimizer(cores.gpu, s, optim::ADAMW)
    }),
    ("add_relu", |cores, s| rows(cores, AddRelu, s, 2)),
    ("aggregate", aggregate),
    ("aggregate_offsets", aggregate_offsets),
    ("average", |cores, s| optim::average(cores.gpu, s)),
    ("batch_norm", |cores, s| {
        norm(cores, s, |statistics| BatchNorm {
            statistics,
            relu: true,
            epsilon: 1e-5,
        })
    }),
    ("clip", |cores, s| optim::gradient_clip(cores.gpu, s)),
    ("cross_entropy", |cores, s| {
        loss(cores, s, CrossEntropy::new(labels(s), -1))
    }),
    ("drop_path", |cores, s| {
        rows(cores, DropPath { rate: 0.3 }, s, 1)
    }),
    ("dropout", |cores, s| {
        rows(cores, Dropout { rate: 0.3 }, s, 1)
    }),
    ("executor", executor),
    ("gather", gather),
    ("gelu", |cores, s| rows(cores, Gelu, s, 1)),
    ("grouped_weight", grouped_weight),
    ("interpolate", interpolate),
    ("kernel_point_conv", kernel_point_conv),
    ("layer_norm", layer_norm),
    ("leaky_relu", |cores, s| {
        rows(cores, LeakyRelu { slope: 0.2 }, s, 1)
    }),
    ("linear", linear),
    ("linear_add_relu", linear_add_relu),
    ("lists", |cores, s| lists::lists(cores.gpu, s)),
    ("lovasz", |cores, s| {
        loss(cores, s, LovaszSoftmax::new(labels(s), -1))
    }),
    ("matmul", matmul),
    ("neighbor_max", |cores, s| {
        rows(cores, NeighborMax::new(neighbors(s)?), s, 1)
    }),
    ("norm_coefficients", norm_coefficients),
    ("offsets", pair_offsets),
    ("position_norm", position_norm),
    ("position_norm_offsets", position_norm_offsets),
    ("relation", relation),
    ("relation_multiplier", relation_multiplier),
    ("relu", |cores, s| rows(cores, Relu, s, 1)),
    ("segment_max", |cores, s| {
        rows(cores, SegmentMax::new(segments(s)), s, 1)
    }),
    ("segment_mean", |cores, s| {
        rows(cores, SegmentMean::new(segments(s)), s, 1)
    }),
    ("sgd", |cores, s| optim::optimizer(cores.gpu, s, optim::SGD)),
    ("softmax", softmax),
    ("vector_attention", vector_attention),
    ("weighted_sum", weighted_sum),
    ("window_attention", |cores, s| {
        window_attention(cores, s, 16, 4)
    }),
    ("window_attention_wide", |cores, s| {
        window_attention(cores, s, 24, 4)
    }),
    ("windows", |cores, s| lists::windows(cores.gpu, s)),
];

/// Cases that run in half precision, too, for the kernels that multiply matrices.
pub const HALF: [&str; 4] = ["aggregate", "linear", "relation", "vector_attention"];

/// All cases with their names in reports, in every precision that they run in.
pub fn all() -> impl Iterator<Item = (String, Precision, &'static str, Run)> {
    CASES.iter().flat_map(|&(name, run)| {
        let half = HALF.contains(&name).then_some(Precision::Bf16);
        let precisions = [Some(Precision::F32), half];
        precisions.into_iter().flatten().map(move |precision| {
            let shown = match precision {
                Precision::F32 => name.to_string(),
                half => format!("{name}_{half}"),
            };
            (shown, precision, name, run)
        })
    })
}

/// Cases so dear that they run on this fraction of the points.
const FEWER: [(&str, usize); 4] = [
    ("aggregate_offsets", 8),
    ("relation_multiplier", 4),
    ("window_attention", 8),
    ("window_attention_wide", 8),
];

/// The size at which a case runs.
pub fn size(name: &str, stage: Stage) -> Stage {
    let fewer = FEWER.iter().find(|(case, _)| *case == name);
    Stage {
        points: stage.points / fewer.map_or(1, |(_, fraction)| *fraction),
        ..stage
    }
}

/// Values between 0.1 and 2.
fn values(len: usize, seed: u64) -> Array<f32> {
    let mut random = Sequence::new(Random::new(seed, 0));
    let values: Vec<f32> = (0..len).map(|_| random.between(0.1, 2.0) as f32).collect();
    Array::from(values)
}

/// Points of a room, one per voxel of 4 cm.
fn cloud(count: usize) -> Vec<[f32; 3]> {
    room(count, 1).0
}

/// The lists of a pooling that keeps every fourth point: neighbouring rows, as partitions of sorted points give them.
fn segments(s: Stage) -> Ragged {
    let offsets = (0..=s.points / 4).map(|segment| 4 * segment as u32);
    Ragged {
        offsets: offsets.collect::<Vec<_>>().into(),
        index: (0..s.points as u32).collect::<Vec<_>>().into(),
    }
}

/// Records on a graph in training and runs it, forward, backward and the moving of running statistics.
fn train(
    cores: Cores,
    layout: Layout,
    record: impl FnOnce(&mut Graph<'_>) -> Result<()>,
) -> Result<()> {
    let device = Device::Cuda(cores.gpu);
    let mut params = Params::initial(layout.into(), device, 0)?;
    let mut gradients = Gradients::new(params.layout().clone(), device)?;
    let mut graph = Graph::new(&params, Mode::Training, Random::new(5, 0));
    record(&mut graph)?;
    let mut executor = Executor::new(device).in_precision(cores.precision)?;
    let run = executor.run(&graph, Some(&mut gradients))?;
    drop(graph);
    run.commit(&mut params)
}

/// Runs one op on inputs of these shapes, of which the first `differentiable` want gradients.
pub(super) fn op(
    cores: Cores,
    op: impl Op + 'static,
    shapes: &[Shape],
    differentiable: usize,
) -> Result<()> {
    train(cores, Layout::default(), |graph| {
        let mut inputs: Vec<Var> = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            let x = graph.input(values(shape.len(), i as u64), *shape)?;
            if i < differentiable {
                graph.keep_gradient(x);
            }
            inputs.push(x);
        }
        let y = graph.push_many(op, &inputs)?[0];
        graph.keep(y);
        if differentiable > 0 {
            graph.seed(y, values(graph.shape(y).len(), 99))?;
        }
        Ok(())
    })
}

/// An op on `count` inputs [N, C].
fn rows(cores: Cores, of: impl Op + 'static, s: Stage, count: usize) -> Result<()> {
    let x = Shape::new(s.points, s.channels);
    op(cores, of, &vec![x; count], count)
}

fn norm<O: Op + 'static>(cores: Cores, s: Stage, make: fn(Statistics) -> O) -> Result<()> {
    let vector = Shape::new(1, s.channels);
    let shapes = [
        Shape::new(s.points, s.channels),
        vector,
        vector,
        vector,
        vector,
    ];
    op(cores, make(Statistics::Batch), &shapes, 3)
}

fn norm_coefficients(cores: Cores, s: Stage) -> Result<()> {
    let pairs = Stage {
        points: s.points * NEIGHBOURS,
        channels: s.groups,
        ..s
    };
    norm(cores, pairs, |statistics| NormCoefficients {
        statistics,
        epsilon: 1e-5,
    })
}

fn neighbors(s: Stage) -> Result<Arc<Neighbors>> {
    Neighbors::self_query(&cloud(s.points), &[0, s.points], NEIGHBOURS).map(Arc::new)
}

fn layer_norm(cores: Cores, s: Stage) -> Result<()> {
    let vector = Shape::new(1, s.channels);
    let shapes = [Shape::new(s.points, s.channels), vector, vector];
    op(cores, LayerNorm { epsilon: 1e-5 }, &shapes, 3)
}

/// The stem of Stratified Transformer: 6 features to 48 channels over 15 kernel points.
fn kernel_point_conv(cores: Cores, s: Stage) -> Result<()> {
    let (inputs, outputs) = (6, 48);
    let convolution = KernelPointConv {
        neighbors: neighbors(s)?,
        influence: 0.3,
        outputs,
    };
    let shapes = [[s.points, inputs], [15, 3], [15, inputs * outputs]];
    op(
        cores,
        convolution,
        &shapes.map(|[r, c]| Shape::new(r, c)),
        3,
    )
}

fn linear(cores: Cores, s: Stage) -> Result<()> {
    let shapes = [
        Shape::new(s.points, s.channels),
        Shape::new(s.channels, s.channels),
        Shape::new(1, s.channels),
    ];
    op(cores, Linear::new(true), &shapes, 3)
}

/// The end of a residual block in inference.
fn linear_add_relu(cores: Cores, s: Stage) -> Result<()> {
    let (x, bias) = (Shape::new(s.points, s.channels), Shape::new(1, s.channels));
    let shapes = [x, Shape::new(s.channels, s.channels), bias, x];
    op(cores, Linear::with_add_relu(true), &shapes, 4)
}

/// A W2 of the attention, once per block.
fn matmul(cores: Cores, s: Stage) -> Result<()> {
    let shapes = [
        Shape::new(s.groups, s.channels),
        Shape::new(s.channels, s.channels),
    ];
    op(cores, Matmul, &shapes, 2)
}

fn grouped_weight(cores: Cores, s: Stage) -> Result<()> {
    let weight = GroupedWeight { groups: s.groups };
    op(cores, weight, &[Shape::new(1, s.channels)], 1)
}

fn gather(cores: Cores, s: Stage) -> Result<()> {
    let cluster: Vec<u32> = (0..s.points as u32).map(|row| row / 4).collect();
    let coarse = Shape::new(s.points / 4, s.channels);
    op(
        cores,
        Gather::new(cluster.into(), segments(s)),
        &[coarse],
        1,
    )
}

fn interpolate(cores: Cores, s: Stage) -> Result<()> {
    let (n, m) = (s.points, s.points / 4);
    let stencil = Interpolation::new(&cloud(n), &[0, n], &cloud(m), &[0, m])?;
    let coarse = Shape::new(m, s.channels);
    op(cores, Interpolate::new(Arc::new(stencil)), &[coarse], 1)
}

fn softmax(cores: Cores, s: Stage) -> Result<()> {
    op(cores, Softmax, &[Shape::new(s.points, CLASSES)], 1)
}

fn labels(s: Stage) -> Array<i32> {
    let labels = (0..s.points).map(|i| (i * 5 % (CLASSES + 1)) as i32 - 1);
    labels.collect::<Vec<_>>().into()
}

fn loss(cores: Cores, s: Stage, loss: impl Op + 'static) -> Result<()> {
    op(cores, loss, &[Shape::new(s.points, CLASSES)], 1)
}

fn weighted_sum(cores: Cores, _: Stage) -> Result<()> {
    let scalar = Shape::new(1, 1);
    op(cores, WeightedSum::new(vec![1.0, 0.5]), &[scalar; 2], 2)
}

/// What the executor does itself: a gradient that comes from outside, a running statistic.
fn executor(cores: Cores, s: Stage) -> Result<()> {
    let mut layout = Layout::default();
    let running = Scope::root(&mut layout).running("mean", &[s.channels], 0.0);
    train(cores, layout, |graph| {
        let shape = Shape::new(1, s.channels);
        let batch = graph.input(values(s.channels, 1), shape)?;
        let mean = graph.push(Relu, &[batch])?;
        graph.update_running(running, mean, 0.1);
        let shape = Shape::new(s.points, s.channels);
        let x = graph.input(values(shape.len(), 2), shape)?;
        graph.keep_gradient(x);
        graph.seed(x, values(shape.len(), 3))
    })
}
