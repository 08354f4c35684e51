//! A network of your own, trained on a real scan: what a point is, plus the strongest signals of its surroundings.
//!
//!     feat ─ linear ─┬─────────────────────────────── + ─ linear ─ logits
//!                    └ max over cells ─ linear ─ gather ┘
//!
//! A model says which parameters it has, which index lists it needs (geometry phase), and which ops it records (feature
//! phase). Nothing here knows the device, plans memory or writes a backward pass.
//!
//!     cargo run --release --example custom_model

use cairn::cloud::features::{self, Feature, Sample};
use cairn::cloud::voxel::Voxels;
use cairn::device::{Array, Device, random::Random};
use cairn::geometry::{Hierarchy, Partition};
use cairn::graph::{Executor, Gradients, Graph, Layout, Mode, Params, Scope, Shape, Var};
use cairn::models::{Architecture, Input, LevelView, Network};
use cairn::nn::Linear;
use cairn::ops::{Add, CrossEntropy, Gather, Relu, SegmentMax};
use cairn::optim::{AdamW, Optimizer, Rate};
use cairn::{Result, io};
use std::sync::Arc;

const INPUTS: usize = 3;
const CHANNELS: usize = 32;
const CLASSES: usize = 3;

#[derive(Debug)]
struct CellNet {
    point: Linear,
    cell: Linear,
    head: Linear,
}

impl CellNet {
    /// Registers the parameters; the names are those of the checkpoint: `point.weight`, `point.bias`, …
    fn new(root: &mut Scope<'_>) -> CellNet {
        CellNet {
            point: Linear::new(&mut root.child("point"), INPUTS, CHANNELS, true),
            cell: Linear::new(&mut root.child("cell"), CHANNELS, CHANNELS, true),
            head: Linear::new(&mut root.child("head"), CHANNELS, CLASSES, true),
        }
    }
}

impl Architecture for CellNet {
    type Geometry = Arc<Partition>;

    fn input_channels(&self) -> usize {
        INPUTS
    }

    fn classes(&self) -> usize {
        CLASSES
    }

    fn geometry(&self, points: &mut Hierarchy) -> Result<Arc<Partition>> {
        Ok(points.pool(0, 4.0)?.1) // cells of 4 m
    }

    fn levels(&self, _: &Arc<Partition>) -> Vec<LevelView> {
        Vec::new() // for reports about networks with several levels
    }

    fn record(&self, graph: &mut Graph<'_>, cells: &Arc<Partition>, input: Input) -> Result<Var> {
        let x = self.point.record(graph, input.features()?)?;
        let x = graph.push(Relu, &[x])?; // [N, 32]
        let c = graph.push(SegmentMax::new(cells.members.clone()), &[x])?; // [S, 32]
        let c = self.cell.record(graph, c)?; // [S, 32]
        let gather = Gather::new(cells.cluster.clone(), cells.members.clone());
        let c = graph.push(gather, &[c])?; // [N, 32]
        let x = graph.push(Add, &[x, c])?; // [N, 32]
        self.head.record(graph, x) // [N, 3]
    }
}

/// Public, so that a test can run the example.
pub fn main() -> Result<()> {
    // One point per half metre of a town; classes by LAS code.
    let cloud = io::read("data/scans/ign_urban/test_data_77055_627755_LA93_IGN69.laz")?.cloud;
    let mut inputs = ["height", "intensity", "return_ratio"].map(Feature::new);
    (inputs[0].divisor, inputs[1].divisor) = (10.0, 1000.0); // about 0 to 1
    let sample = Sample::new(&cloud, &inputs)?;
    let rows = Voxels::new(&sample.coord, 0.5)?.fragment(0);
    let points = sample.select(&rows);
    let feat = Array::from(features::matrix(&points, &inputs));
    let codes = cloud.labels().expect("the tile is classified").code;
    let class = |row: &u32| match codes[*row as usize] {
        2 => 0,     // ground
        3..=5 => 1, // vegetation
        6 => 2,     // building
        _ => -1,    // ignored
    };
    let target = Array::from(rows.iter().map(class).collect::<Vec<i32>>());

    let mut layout = Layout::default();
    let network = CellNet::new(&mut Scope::root(&mut layout));
    let mut params = Params::initial(layout.into(), Device::Cpu, 1)?;
    let mut gradients = Gradients::new(params.layout().clone(), Device::Cpu)?;
    let trained = params.layout().trained().into();
    let mut optimizer = AdamW::new(
        Device::Cpu,
        params.values().len(),
        trained,
        0.999,
        1e-8,
        0.01,
    )?;
    let mut executor = Executor::new(Device::Cpu);
    // No index depends on a feature, so one geometry serves all steps.
    let offsets = [0, points.len()];
    let geometry = Network::geometry(&network, Device::Cpu, &points.coord, &offsets)?;

    for step in 0..=200u64 {
        let mut graph = Graph::new(&params, Mode::Training, Random::new(7, step));
        let x = graph.input(feat.clone(), Shape::new(points.len(), INPUTS))?;
        let logits = Network::record(&network, &mut graph, &geometry, x.into())?;
        let loss = graph.push(CrossEntropy::new(target.clone(), -1), &[logits])?;
        graph.seed(loss, Array::from(vec![1.0]))?;
        graph.keep(loss);
        graph.keep(logits);
        gradients.clear()?;
        let run = executor.run(&graph, Some(&mut gradients))?;
        if step % 50 == 0 {
            let (right, known) = score(run.read(logits), &target);
            println!(
                "step {step:>3}: loss {:.3}, {right} of {known} right",
                run.read(loss)[0]
            );
        }
        drop(graph);
        let (lr, momentum) = (0.01, 0.9);
        optimizer.step(
            params.memory_mut(),
            gradients.memory(),
            Rate { lr, momentum },
        )?;
    }
    Ok(())
}

/// Points whose largest logit is that of their class, and points with a class.
fn score(logits: &[f32], target: &[i32]) -> (usize, usize) {
    let rows = logits.chunks_exact(CLASSES).zip(target);
    rows.filter(|(_, t)| **t >= 0)
        .fold((0, 0), |(right, known), (row, t)| {
            let is_right = row.iter().all(|x| *x <= row[*t as usize]);
            (right + usize::from(is_right), known + 1)
        })
}
