//! The convolution on a GPU: a few thousand points at a time, their sums [points, M·C] go to scratch, where a matrix
//! product finds them.

use super::super::linear::{add_input_gradient_on, add_weight_gradient_on, weight_gradient_words};
use super::{KernelPointConv, Sizes};
use crate::Result;
use crate::device::cuda::{Arg, Grid, args, kernels};
use crate::device::{Cores, Gpu, Pointer};
use crate::geometry::Ragged;
use crate::graph::{Backward, Forward, Shape};
use std::ops::Range;

kernels!("kernel_point_conv");

/// Points of a block, one per warp, as in the `.cu` file.
const WARPS: usize = 4;
/// Edge of a tile of W that a block turns around.
const TURN: usize = 32;
/// Words that the sums of a run of points take, about.
const SUMS: usize = 1 << 22;

/// Points of a run whose sums have `words` words each.
fn run_points(words: usize, points: usize) -> usize {
    (SUMS / words).next_multiple_of(64).min(points)
}

/// Runs of points whose sums have `words` words each.
fn runs(words: usize, points: usize) -> impl Iterator<Item = Range<usize>> {
    let step = run_points(words, points).max(1);
    (0..points)
        .step_by(step)
        .map(move |first| first..(first + step).min(points))
}

/// Words of scratch that forward needs.
pub(super) fn forward_scratch(sizes: Sizes, queries: usize) -> usize {
    let words = sizes.kernel * sizes.inputs;
    run_points(words, queries) * words
}

/// Words of scratch that backward needs: W turned around, sums, and partial results of dW.
pub(super) fn backward_scratch(sizes: Sizes, queries: usize, points: usize) -> usize {
    let (ahead, back) = (sizes.kernel * sizes.inputs, sizes.kernel * sizes.outputs);
    let sums = (run_points(ahead, queries) * ahead).max(run_points(back, points) * back);
    let weight = Shape::new(ahead, sizes.outputs);
    let partials = runs(ahead, queries).map(|run| weight_gradient_words(run.len(), weight));
    weight.len() + sums + partials.max().unwrap_or(0)
}

/// The pairs of every point, as [`super::cpu`] has them, and what the sums are computed from.
struct Sums<'a> {
    op: &'a KernelPointConv,
    gpu: Gpu,
    /// The transposed lists where the queries bring the features.
    lists: Option<&'a Ragged>,
    features: Pointer,
    points: Pointer,
    kernel: usize,
    channels: usize,
}

impl Sums<'_> {
    /// Queues the sums of a run of points.
    fn queue(&self, run: Range<usize>, out: Pointer) -> Result<()> {
        let (gpu, neighbors) = (self.gpu, &self.op.neighbors);
        let index = match self.lists {
            None => Some(neighbors.index.on(gpu)?),
            Some(_) => None,
        };
        let lists = self
            .lists
            .map(|l| Ok((l.offsets.on(gpu)?, l.index.on(gpu)?)));
        let (offsets, pairs) = lists.transpose()?.unzip();
        let [x, y, z] = &neighbors.delta;
        let args: &[Arg] = args![
            self.features,
            self.points,
            x.on(gpu)?,
            y.on(gpu)?,
            z.on(gpu)?,
            index,
            offsets,
            pairs,
            run.start,
            run.len(),
            neighbors.k as u32,
            self.kernel as u32,
            self.channels as u32,
            self.op.influence,
            out
        ];
        let shared = 4 * WARPS * 32 * (self.kernel + 2);
        let grid = Grid::new(run.len().div_ceil(WARPS), 32 * WARPS as u32).shared(shared);
        gpu.launch(&KERNELS, "kernel_point_conv_sums", grid, args)
    }
}

/// y [N, O] += sums [N, M·C] · weight [M·C, O].
fn add_product_on(
    cores: Cores,
    (sums, weight): (Pointer, Pointer),
    (rows, shape): (usize, Shape),
    y: Pointer,
) -> Result<()> {
    // the product that a linear layer's input gradient is
    add_input_gradient_on(cores, (weight, None, sums), (rows, shape), y)
}

/// Runs forward on a GPU.
pub(super) fn forward(op: &KernelPointConv, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let sizes = op.sizes(io.shape(0), io.shape(1));
    let sums = Sums {
        op,
        gpu,
        lists: None,
        features: io.input_on(0),
        points: io.input_on(1),
        kernel: sizes.kernel,
        channels: sizes.inputs,
    };
    let weight = Shape::new(sizes.kernel * sizes.inputs, sizes.outputs);
    let y = io.output_on(0);
    gpu.open()?.zero(y, op.neighbors.queries * sizes.outputs)?;
    for run in runs(weight.rows, op.neighbors.queries) {
        sums.queue(run.clone(), io.scratch_on())?;
        let y = y.offset(run.start * sizes.outputs);
        add_product_on(
            io.cores(gpu),
            (io.scratch_on(), io.input_on(2)),
            (run.len(), weight),
            y,
        )?;
    }
    Ok(())
}

/// Runs backward on a GPU.
pub(super) fn backward(op: &KernelPointConv, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let Some(d_y) = io.d_output_on(0) else {
        return Ok(());
    };
    let sizes = op.sizes(io.shape(0), io.shape(1));
    let weight = Shape::new(sizes.kernel * sizes.inputs, sizes.outputs);
    let turned = io.scratch_on();
    let scratch = turned.offset(weight.len());
    if let Some(d_x) = io.d_input_on(0) {
        let back = Shape::new(sizes.kernel * sizes.outputs, sizes.inputs);
        let (inputs, outputs) = (sizes.inputs as u32, sizes.outputs as u32);
        let args = args![io.input_on(2), inputs, outputs, turned];
        let tiles = [sizes.outputs, sizes.inputs].map(|count| count.div_ceil(TURN));
        let grid = Grid::space([sizes.kernel, tiles[0], tiles[1]], 256);
        gpu.launch(&KERNELS, "kernel_point_conv_turn", grid, args)?;
        let sums = Sums {
            op,
            gpu,
            lists: Some(op.neighbors.try_transposed()?),
            features: d_y,
            points: io.input_on(1),
            kernel: sizes.kernel,
            channels: sizes.outputs,
        };
        for run in runs(back.rows, op.neighbors.points) {
            sums.queue(run.clone(), scratch)?;
            let d_x = d_x.offset(run.start * sizes.inputs);
            add_product_on(io.cores(gpu), (scratch, turned), (run.len(), back), d_x)?;
        }
    }
    let Some(d_weight) = io.d_input_on(2) else {
        return Ok(());
    };
    let sums = Sums {
        op,
        gpu,
        lists: None,
        features: io.input_on(0),
        points: io.input_on(1),
        kernel: sizes.kernel,
        channels: sizes.inputs,
    };
    let queries = op.neighbors.queries;
    let partials = scratch.offset(run_points(weight.rows, queries) * weight.rows);
    for run in runs(weight.rows, queries) {
        sums.queue(run.clone(), scratch)?;
        let d_y = d_y.offset(run.start * sizes.outputs);
        let product = (d_y, None, scratch);
        add_weight_gradient_on(
            io.cores(gpu),
            product,
            (run.len(), weight),
            partials,
            d_weight,
        )?;
    }
    Ok(())
}
