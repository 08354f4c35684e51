//! Launches of the kernels in `kernels/linear.cu`.

use super::super::statistics::{add_column_sums_on, add_parts_on};
use super::{Epilogue, Linear};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Cores, Gpu, Pointer, Precision};
use crate::graph::{Backward, Forward, Shape};

kernels!("linear");

/// Rows and columns of a result that a block computes, and its threads; see `kernels/gemm.cuh`.
const TILE: usize = 64;
const GEMM_THREADS: u32 = 128;

/// One block per tile of a result of `shape`, for each of `parts`.
fn tiles(shape: Shape, parts: usize) -> Grid {
    let blocks = [shape.rows.div_ceil(TILE), shape.cols.div_ceil(TILE), parts];
    Grid::space(blocks, GEMM_THREADS)
}

/// How the rows are cut for the weight gradient on a GPU: enough parts to give every processor a tile, so few that
/// their sums cost little.
struct Parts {
    rows: usize,
    count: usize,
}

impl Parts {
    /// Fewest rows of a part.
    const ROWS: usize = 256;
    /// Blocks to aim at.
    const BLOCKS: usize = 512;

    fn new(rows: usize, weight: Shape) -> Self {
        let tiles = weight.rows.div_ceil(TILE) * weight.cols.div_ceil(TILE);
        let most = Self::BLOCKS.div_ceil(tiles.max(1));
        let part = rows.div_ceil(most).next_multiple_of(Self::ROWS);
        let count = rows.div_ceil(part.max(1));
        Parts { rows: part, count }
    }
}

/// Name of a kernel's variant: by tensor cores where the GPU has those that multiply in this precision, of which f32
/// needs TF32.
fn variant(cores: Cores, plain: &'static str, tensor: &'static str) -> Result<&'static str> {
    Ok(match cores.precision {
        Precision::F32 if cores.gpu.open()?.capability() < 80 => plain,
        _ => tensor,
    })
}

/// y [N, O] = x Wᵀ + b on a GPU, where x is [N, I] and W has the shape `weight`.
pub(in super::super) fn product_on(
    cores: Cores,
    (x, w, bias): (Pointer, Pointer, Option<Pointer>),
    (rows, weight): (usize, Shape),
    y: Pointer,
) -> Result<()> {
    finished_product_on(cores, (x, w, bias), (None, false), (rows, weight), y)
}

/// As [`product_on`], then plus a residual and rectified, as asked.
fn finished_product_on(
    cores: Cores,
    (x, w, bias): (Pointer, Pointer, Option<Pointer>),
    (residual, relu): (Option<Pointer>, bool),
    (rows, weight): (usize, Shape),
    y: Pointer,
) -> Result<()> {
    let Shape {
        rows: outputs,
        cols: inputs,
    } = weight;
    let args = args![x, w, bias, residual, rows, inputs, outputs, relu, y];
    let kernel = variant(cores, "linear_forward_plain", "linear_forward_tensor")?;
    cores.launch(&KERNELS, kernel, tiles(Shape::new(rows, outputs), 1), args)
}

/// d_x [N, I] += dz W on a GPU, where dz [N, O] is d_y, or d_y where y > 0.
pub(in super::super) fn add_input_gradient_on(
    cores: Cores,
    (w, y, d_y): (Pointer, Option<Pointer>, Pointer),
    (rows, weight): (usize, Shape),
    d_x: Pointer,
) -> Result<()> {
    let args = args![w, y, d_y, rows, weight.cols, weight.rows, d_x];
    let kernel = variant(cores, "linear_backward_x_plain", "linear_backward_x_tensor")?;
    let shape = Shape::new(rows, weight.cols);
    cores.launch(&KERNELS, kernel, tiles(shape, 1), args)
}

/// Words of scratch that [`add_weight_gradient_on`] needs.
pub(in super::super) fn weight_gradient_words(rows: usize, weight: Shape) -> usize {
    // One more to start at an even word, since two are written at a time.
    Parts::new(rows, weight).count * weight.len() + 1
}

/// dW [O, I] += dzᵀ x on a GPU, where dz [N, O] is d_y, or d_y where y > 0, and x is [N, I].
pub(in super::super) fn add_weight_gradient_on(
    cores: Cores,
    (x, y, d_y): (Pointer, Option<Pointer>, Pointer),
    (rows, weight): (usize, Shape),
    scratch: Pointer,
    d_w: Pointer,
) -> Result<()> {
    let parts = Parts::new(rows, weight);
    let scratch = scratch.offset((scratch.0 % 8 / 4) as usize);
    let args = args![
        x,
        y,
        d_y,
        rows,
        weight.cols,
        weight.rows,
        parts.rows,
        scratch
    ];
    let kernel = variant(cores, "linear_backward_w_plain", "linear_backward_w_tensor")?;
    cores.launch(&KERNELS, kernel, tiles(weight, parts.count), args)?;
    add_parts_on(cores.gpu, (scratch, parts.count), weight.len(), d_w)
}

impl Linear {
    pub(super) fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let bias = self.bias.then(|| io.input_on(2));
        let residual = self.residual().map(|r| io.input_on(r));
        let relu = self.epilogue != Epilogue::Nothing;
        let sizes = (io.shape(0).rows, io.shape(1));
        let product = (io.input_on(0), io.input_on(1), bias);
        finished_product_on(
            io.cores(gpu),
            product,
            (residual, relu),
            sizes,
            io.output_on(0),
        )
    }

    pub(super) fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let Some(d_y) = io.d_output_on(0) else {
            return Ok(());
        };
        let (rows, outputs) = (io.shape(0).rows, io.shape(1).rows);
        let y = (self.epilogue != Epilogue::Nothing).then(|| io.output_on(0));
        if let Some(d_r) = self.residual().and_then(|r| io.d_input_on(r)) {
            let n = rows * outputs;
            let args = args![y, d_y, n, d_r];
            gpu.launch(&KERNELS, "linear_backward_r", Grid::strided(n), args)?;
        }
        if let Some(d_x) = io.d_input_on(0) {
            let product = (io.input_on(1), y, d_y);
            add_input_gradient_on(io.cores(gpu), product, (rows, io.shape(1)), d_x)?;
        }
        let scratch = io.scratch_on();
        if let Some(d_w) = io.d_input_on(1) {
            let product = (io.input_on(0), y, d_y);
            add_weight_gradient_on(io.cores(gpu), product, (rows, io.shape(1)), scratch, d_w)?;
        }
        if let Some(d_b) = self.bias.then(|| io.d_input_on(2)).flatten() {
            let d_z = (d_y, y, Shape::new(rows, outputs));
            add_column_sums_on(gpu, d_z, scratch, d_b)?;
        }
        Ok(())
    }
}
