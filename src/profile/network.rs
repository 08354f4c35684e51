//! What a whole network takes at least on a GPU: the sum of the bounds of its kernels, beside the same sum for the
//! operators of the official code.
//!
//! Nothing runs at full size. The emulator runs the network once on a small room and counts every step; recording the
//! same network for the full room gives every step its true shapes. The two lists of steps have the same ops in the same
//! order, and what a step did grows with those of its values that depend on the points, while weights are moved once
//! either way. Index lists grow with the points.
//!
//! A bound knows nothing of latency, of launches, or of GPUs that a small level does not fill. It is the same floor for
//! both sides, no prediction of a stopwatch.

use super::gpus::{CARDS, Work};
use super::{Counts, official};
use crate::cloud::batch::Batch;
use crate::device::random::Random;
use crate::device::{Array, Device, Gpu, Precision};
use crate::graph::{Executor, Graph, Mode, Shape};
use crate::measure::scene;
use crate::models::Model;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Points of the small room.
const SMALL: usize = 2048;
/// Edges of its cells, metres: levels that lose fewer points, so that every level has enough of them to fill tiles.
const SMALL_CELLS: [f64; 3] = [0.06, 0.09, 0.13];
/// Input channels and classes of S3DIS.
const CHANNELS: usize = 6;
const CLASSES: usize = 13;

/// Work and bounds, summed over steps.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// All work.
    pub work: Work,
    /// Microseconds on each of [`CARDS`], step after step.
    pub times: [f64; CARDS.len()],
}

impl Sum {
    fn add(&mut self, work: Work) {
        self.work += work;
        for (time, card) in self.times.iter_mut().zip(CARDS) {
            *time += card.bound(work).time;
        }
    }
}

/// What a network takes.
#[derive(Debug)]
pub struct Forecast {
    /// Points of every level.
    pub levels: Vec<usize>,
    /// Kernels of the index lists.
    pub lists: BTreeMap<String, Sum>,
    /// Kernels of the features.
    pub features: BTreeMap<String, Sum>,
    /// The official search for neighbours.
    pub official_lists: Sum,
    /// All other official operators.
    pub official_features: Sum,
}

/// The official S3DIS configuration of PTv2 with cells of these edges.
fn config(cells: [f64; 3]) -> Value {
    json!({
        "type": "PT-v2m2", "in_channels": CHANNELS, "num_classes": CLASSES,
        "patch_embed_depth": 2, "patch_embed_channels": 48, "patch_embed_groups": 6, "patch_embed_neighbours": 16,
        "enc_depths": [2, 6, 2], "enc_channels": [96, 192, 384], "enc_groups": [12, 24, 48],
        "enc_neighbours": [16, 16, 16],
        "dec_depths": [1, 1, 1], "dec_channels": [48, 96, 192], "dec_groups": [6, 12, 24],
        "dec_neighbours": [16, 16, 16],
        "grid_sizes": cells, "unpool_backend": "interp", "drop_path_rate": 0.3,
    })
}

/// A recorded op: its name and the shapes of its values.
type Node = (&'static str, Vec<Shape>);

/// Records `model` on `batch`, hands the graph to `then`, and gives its ops and the points of its levels.
fn record(
    model: &Model,
    batch: &Batch,
    then: impl FnOnce(&Graph<'_>) -> Result<()>,
) -> Result<(Vec<Node>, Vec<usize>)> {
    let (network, device) = (&model.network, model.params.device());
    let geometry = network.geometry(device, &batch.coord, &batch.offsets)?;
    let mut graph = Graph::new(&model.params, Mode::Inference, Random::new(0, 0));
    let shape = Shape::new(batch.len(), batch.channels);
    let feat = graph.input(Array::from(batch.feat.clone()), shape)?;
    let logits = network.record(&mut graph, &geometry, feat.into())?;
    graph.keep(logits);
    then(&graph)?;
    let levels = network.levels(&geometry);
    Ok((
        graph.nodes().collect(),
        levels.iter().map(|l| l.coord.len()).collect(),
    ))
}

/// What the emulator counts for `batch`: kernels of the index lists, kernels of every node, and the nodes.
fn count(model: &Model, batch: &Batch) -> Result<(Counts, Vec<Counts>, Vec<Node>)> {
    let gpu = Gpu::Emulator;
    Counts::take()?;
    let (mut lists, mut steps) = (None, Vec::new());
    let (nodes, _) = record(model, batch, |graph| {
        lists = Some(Counts::take()?);
        let mut executor = Executor::new(Device::Cuda(gpu));
        let mut watch = |_, _| {
            steps.push(Counts::take()?);
            Ok(())
        };
        executor.run_watched(graph, None, &mut watch).map(|_| ())
    })?;
    let lists = lists.ok_or_else(|| gpu.error("nothing was counted"))?;
    Ok((lists, steps, nodes))
}

/// How the work of a node grows from one list of shapes to another: bytes that stay, and the factor on all else.
fn growth(small: &[Shape], full: &[Shape]) -> (u64, f64) {
    let (mut fixed, mut before, mut after) = (0, 0, 0);
    for (s, f) in small.iter().zip(full) {
        if s == f {
            fixed += 4 * s.len() as u64;
        } else {
            before += s.len();
            after += f.len();
        }
    }
    match before {
        0 => (fixed, 1.0),
        _ => (fixed, after as f64 / before as f64),
    }
}

/// PTv2 in its S3DIS configuration, inference of one room of `points` points.
///
/// # Errors
/// What is missing (NVRTC, the emulator), or what a kernel does wrong.
pub fn s3dis(points: usize) -> Result<Forecast> {
    forecast(SMALL, points)
}

/// As [`s3dis`], with a room of `counted` points for the emulator to count. It counts all that the process launches
/// meanwhile.
///
/// # Errors
/// As there.
pub fn forecast(counted: usize, points: usize) -> Result<Forecast> {
    let gpu = Device::Cuda(Gpu::Emulator);
    let small = Model::new(&config(SMALL_CELLS), gpu, 1)?;
    let (lists, steps, nodes) = count(&small, &scene(counted, CHANNELS, CLASSES)?)?;
    let full = Model::new(&config([0.1, 0.2, 0.4]), Device::Cpu, 1)?;
    let (full, levels) = record(&full, &scene(points, CHANNELS, CLASSES)?, |_| Ok(()))?;
    let same = nodes.iter().map(|n| n.0).eq(full.iter().map(|n| n.0));
    assert!(same, "a network records the same ops for any batch");

    let mut forecast = Forecast {
        lists: BTreeMap::new(),
        features: BTreeMap::new(),
        official_lists: Sum::default(),
        official_features: Sum::default(),
        levels,
    };
    let ratio = points as f64 / counted as f64;
    for (kernel, cost) in lists.kernels {
        let sum = forecast.lists.entry(kernel).or_default();
        sum.add(cost.work(Precision::F32).scaled(0, ratio));
    }
    for ((step, small), full) in steps.into_iter().zip(&nodes).zip(&full) {
        let (fixed, ratio) = growth(&small.1, &full.1);
        for (kernel, cost) in step.kernels {
            let sum = forecast.features.entry(kernel).or_default();
            sum.add(cost.work(Precision::F32).scaled(fixed, ratio));
        }
    }
    let sizes: Option<[u64; 4]> = forecast
        .levels
        .iter()
        .map(|n| *n as u64)
        .collect::<Vec<_>>()
        .try_into()
        .ok();
    let sizes = sizes.ok_or_else(|| Error::argument("levels", "the S3DIS network has four"))?;
    for operator in official::s3dis(sizes).0 {
        match operator.name {
            "neighbour search" => forecast.official_lists.add(operator.work()),
            _ => forecast.official_features.add(operator.work()),
        }
    }
    Ok(forecast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_grows_with_the_points_and_weights_count_once() {
        let [x, w, y] = [[100, 8], [4, 8], [100, 4]].map(|[r, c]| Shape::new(r, c));
        let [wide, narrow] = [[700, 8], [700, 4]].map(|[r, c]| Shape::new(r, c));
        assert_eq!(growth(&[x, w, y], &[wide, w, narrow]), (128, 7.0));
        assert_eq!(growth(&[x, w, y], &[x, w, y]), (4 * (800 + 32 + 400), 1.0));
        assert_eq!(growth(&[], &[]), (0, 1.0));
        let work = Work {
            bytes: 1128,
            instructions: 10,
            wavefronts: 20,
            tensor: 30,
        };
        let grown = work.scaled(128, 7.0);
        assert_eq!(grown.bytes, 128 + 7000);
        assert_eq!(
            [grown.instructions, grown.wavefronts, grown.tensor],
            [70, 140, 210]
        );
        assert_eq!(work.scaled(5000, 7.0).bytes, 1128);
    }
}
