//! Linear layer, with an optional ReLU and residual in the same pass.
//!
//! y = x Wᵀ + b        y = max(x Wᵀ + b, 0)        y = max(x Wᵀ + b + r, 0)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, I] | features |
//! | W | [O, I] | weight, as PyTorch stores it |
//! | b | [1, O] | bias, if there is one |
//! | r | [N, O] | residual, if there is one |
//! | y | [N, O] | result |
//!
//! Backward: dx = dz W, dW = dzᵀ x, db = Σ dz, dr = dz, where dz is dy where y > 0 (all of it without ReLU). Reads x, W
//! and, with ReLU, y. Time: O(N·I·O). Sums over rows are cut into a fixed number of parts.

use super::statistics::{ColumnChunks, add_column_sums_on, add_parts_on};
use crate::device::cuda::{Grid, args, kernels};
use crate::device::gemm::{Store, View, ViewMut, product};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Device, Gpu, Pointer, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Most rows of a chunk: input and output stay in the second-level cache.
const ROWS: usize = 256;
/// Fewest rows that are worth a partial sum of their own.
const PART_ROWS: usize = 1024;

/// Rows of one parallel chunk: small enough for every thread to get some, large enough to pay for packing W.
fn chunk(rows: usize) -> usize {
    rows.div_ceil(16).next_multiple_of(16).clamp(32, ROWS)
}

kernels!("linear");

/// What follows the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Epilogue {
    Nothing,
    Relu,
    AddRelu,
}

/// y = epilogue(x Wᵀ + b).
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    bias: bool,
    epilogue: Epilogue,
}

impl Linear {
    /// Inputs x, W and, if `bias`, b.
    pub fn new(bias: bool) -> Self {
        let epilogue = Epilogue::Nothing;
        Linear { bias, epilogue }
    }

    /// Inputs x, W and, if `bias`, b; a ReLU follows.
    pub fn with_relu(bias: bool) -> Self {
        let epilogue = Epilogue::Relu;
        Linear { bias, epilogue }
    }

    /// Inputs x, W, if `bias` b, and the residual, which is added before a ReLU.
    pub fn with_add_relu(bias: bool) -> Self {
        let epilogue = Epilogue::AddRelu;
        Linear { bias, epilogue }
    }

    fn residual(&self) -> Option<usize> {
        (self.epilogue == Epilogue::AddRelu).then_some(2 + usize::from(self.bias))
    }

    /// Partial sums of the weight gradient. Short matrices have none: their threads share out the rows of W instead,
    /// since partial sums of wide weights would be larger than everything else.
    fn parts(rows: usize) -> usize {
        match rows.div_ceil(PART_ROWS) {
            0..4 => 0,
            parts => parts.min(parallel::PARTIALS),
        }
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        match self.epilogue {
            Epilogue::Nothing => "linear",
            Epilogue::Relu => "linear_relu",
            Epilogue::AddRelu => "linear_add_relu",
        }
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let fail = |fault: String| Err(Error::shape(self.name(), fault));
        let count = 2 + usize::from(self.bias) + usize::from(self.residual().is_some());
        if inputs.len() != count {
            return fail(format!("needs {count} inputs, got {}", inputs.len()));
        }
        let (x, w) = (inputs[0], inputs[1]);
        if x.cols != w.cols {
            return fail(format!(
                "x {x} and weight {w} differ in the number of inputs"
            ));
        }
        let y = Shape::new(x.rows, w.rows);
        if self.bias && inputs[2] != Shape::new(1, w.rows) {
            return fail(format!("bias {} does not fit weight {w}", inputs[2]));
        }
        if let Some(r) = self.residual().filter(|&r| inputs[r] != y) {
            return fail(format!("residual {} does not fit result {y}", inputs[r]));
        }
        let rectified = self.epilogue != Epilogue::Nothing;
        let chunks = ColumnChunks::new(x.rows);
        let masked = if rectified { y.len() } else { 0 };
        Ok(Plan {
            backward_scratch: masked + Self::parts(x.rows) * w.len() + parallel::PARTIALS * w.rows,
            backward_scratch_cuda: weight_gradient_words(x.rows, w).max(chunks.count * w.rows),
            reads_inputs: vec![0, 1],
            reads_outputs: if rectified { vec![0] } else { Vec::new() },
            ..Plan::of(y)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => self.cuda_forward(gpu, io)?,
            Device::Cpu => self.cpu_forward(io),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => self.cuda_backward(gpu, io)?,
            Device::Cpu => self.cpu_backward(io),
        }
        Ok(())
    }
}

/// Bias, residual and ReLU over a chunk of rows.
struct Finish<'a> {
    y: &'a mut [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    outputs: usize,
    relu: bool,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        if let Some(bias) = self.bias {
            for row in self.y.chunks_exact_mut(self.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        if let Some(residual) = self.residual {
            self.y.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
        }
        if self.relu {
            self.y
                .iter_mut()
                .for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y }); // NaN stays NaN
        }
    }
}

/// Adds the sum over rows to `sums`.
struct ColumnSums<'a> {
    rows: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for row in self.rows.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
    }
}

impl Linear {
    fn cpu_forward(&self, io: &mut Forward<'_>) {
        let (inputs, outputs) = (io.shape(0).cols, io.shape(1).rows);
        let (x, w) = (io.input(0), io.input(1));
        let bias = self.bias.then(|| io.input(2));
        let residual = self.residual().map(|r| io.input(r));
        let relu = self.epilogue != Epilogue::Nothing;
        parallel::for_each_rows(
            io.output(0),
            outputs,
            chunk(io.shape(0).rows),
            |first, y| {
                let rows = y.len() / outputs;
                let x = View::new(&x[first * inputs..], rows, inputs);
                let w = View::new(w, outputs, inputs).transposed();
                product(ViewMut::new(y, rows, outputs), x, w, Store::Replace);
                let residual = residual.map(|r| &r[first * outputs..]);
                dispatch(Finish {
                    y,
                    bias,
                    residual,
                    outputs,
                    relu,
                });
            },
        );
    }

    fn cpu_backward(&self, io: &mut Backward<'_>) {
        let Some(d_y) = io.d_output(0) else { return };
        let (n, inputs, outputs) = (io.shape(0).rows, io.shape(0).cols, io.shape(1).rows);
        let scratch = io.scratch();
        let (masked, partials) = match self.epilogue {
            Epilogue::Nothing => scratch.split_at_mut(0),
            _ => scratch.split_at_mut(n * outputs),
        };
        if self.epilogue != Epilogue::Nothing {
            let y = io.output(0);
            parallel::for_each_rows(masked, 1, 1 << 14, |first, part| {
                let pairs = y[first..].iter().zip(&d_y[first..]);
                for (d, (y, d_y)) in part.iter_mut().zip(pairs) {
                    *d = if *y > 0.0 { *d_y } else { 0.0 };
                }
            });
        }
        let d_z: &[f32] = if masked.is_empty() { d_y } else { masked };
        if let Some(d_r) = self.residual().and_then(|r| io.d_input(r)) {
            parallel::for_each_rows(d_r, 1, 1 << 14, |first, part| {
                part.iter_mut()
                    .zip(&d_z[first..])
                    .for_each(|(d, z)| *d += z);
            });
        }
        if let Some(d_x) = io.d_input(0) {
            let w = io.input(1);
            parallel::for_each_rows(d_x, inputs, chunk(n), |first, d_x| {
                let rows = d_x.len() / inputs;
                let d_z = View::new(&d_z[first * outputs..], rows, outputs);
                let w = View::new(w, outputs, inputs);
                product(ViewMut::new(d_x, rows, inputs), d_z, w, Store::Add);
            });
        }
        self.cpu_backward_weights(io, d_z, partials);
    }

    /// dW and db: sums over rows.
    fn cpu_backward_weights(&self, io: &mut Backward<'_>, d_z: &[f32], partials: &mut [f32]) {
        let (n, inputs, outputs) = (io.shape(0).rows, io.shape(0).cols, io.shape(1).rows);
        let (bias_parts, weight_parts) = partials.split_at_mut(parallel::PARTIALS * outputs);
        if let Some(d_b) = self.bias.then(|| io.d_input(2)).flatten() {
            parallel::for_each_partial(n, 1, bias_parts, outputs, |range, sums| {
                let rows = &d_z[range.start * outputs..range.end * outputs];
                dispatch(ColumnSums { rows, sums });
            });
            parallel::add_partials(bias_parts, outputs, d_b);
        }
        let Some(d_w) = io.d_input(1) else { return };
        let x = io.input(0);
        if weight_parts.is_empty() {
            let tile = outputs.div_ceil(8).next_multiple_of(16);
            parallel::for_each_rows(d_w, inputs, tile, |first, d_w| {
                let rows = d_w.len() / inputs;
                let d_z = d_z.get(first..).unwrap_or_default();
                let d_z = View::strided(d_z, [n, rows], [outputs, 1]).transposed();
                let x = View::new(x, n, inputs);
                product(ViewMut::new(d_w, rows, inputs), d_z, x, Store::Add);
            });
            return;
        }
        let size = outputs * inputs;
        parallel::for_each_partial(n, 1, weight_parts, size, |range, w| {
            let rows = range.len();
            let x = View::new(&x[range.start * inputs..], rows, inputs);
            let d_z = View::new(&d_z[range.start * outputs..], rows, outputs).transposed();
            product(ViewMut::new(w, outputs, inputs), d_z, x, Store::Add);
        });
        parallel::for_each_rows(d_w, 1, 1 << 12, |first, d_w| {
            for part in weight_parts.chunks_exact(size) {
                let pairs = d_w.iter_mut().zip(&part[first..]);
                pairs.for_each(|(d, p)| *d += p);
            }
        });
    }
}

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

/// Name of a kernel's variant for a GPU: by tensor cores where it has those that multiply TF32.
fn variant(gpu: Gpu, plain: &'static str, tensor: &'static str) -> Result<&'static str> {
    Ok(match gpu.open()?.capability() >= 80 {
        true => tensor,
        false => plain,
    })
}

/// y [N, O] = x Wᵀ + b on a GPU, where x is [N, I] and W has the shape `weight`.
pub(super) fn product_on(
    gpu: Gpu,
    (x, w, bias): (Pointer, Pointer, Option<Pointer>),
    (rows, weight): (usize, Shape),
    y: Pointer,
) -> Result<()> {
    finished_product_on(gpu, (x, w, bias), (None, false), (rows, weight), y)
}

/// As [`product_on`], then plus a residual and rectified, as asked.
fn finished_product_on(
    gpu: Gpu,
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
    let kernel = variant(gpu, "linear_forward_plain", "linear_forward_tensor")?;
    gpu.launch(&KERNELS, kernel, tiles(Shape::new(rows, outputs), 1), args)
}

/// d_x [N, I] += dz W on a GPU, where dz [N, O] is d_y, or d_y where y > 0.
pub(super) fn add_input_gradient_on(
    gpu: Gpu,
    (w, y, d_y): (Pointer, Option<Pointer>, Pointer),
    (rows, weight): (usize, Shape),
    d_x: Pointer,
) -> Result<()> {
    let args = args![w, y, d_y, rows, weight.cols, weight.rows, d_x];
    let kernel = variant(gpu, "linear_backward_x_plain", "linear_backward_x_tensor")?;
    let shape = Shape::new(rows, weight.cols);
    gpu.launch(&KERNELS, kernel, tiles(shape, 1), args)
}

/// Words of scratch that [`add_weight_gradient_on`] needs.
pub(super) fn weight_gradient_words(rows: usize, weight: Shape) -> usize {
    Parts::new(rows, weight).count * weight.len()
}

/// dW [O, I] += dzᵀ x on a GPU, where dz [N, O] is d_y, or d_y where y > 0, and x is [N, I].
pub(super) fn add_weight_gradient_on(
    gpu: Gpu,
    (x, y, d_y): (Pointer, Option<Pointer>, Pointer),
    (rows, weight): (usize, Shape),
    scratch: Pointer,
    d_w: Pointer,
) -> Result<()> {
    let parts = Parts::new(rows, weight);
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
    let kernel = variant(gpu, "linear_backward_w_plain", "linear_backward_w_tensor")?;
    gpu.launch(&KERNELS, kernel, tiles(weight, parts.count), args)?;
    add_parts_on(gpu, (scratch, parts.count), weight.len(), d_w)
}

impl Linear {
    fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let bias = self.bias.then(|| io.input_on(2));
        let residual = self.residual().map(|r| io.input_on(r));
        let relu = self.epilogue != Epilogue::Nothing;
        let sizes = (io.shape(0).rows, io.shape(1));
        let product = (io.input_on(0), io.input_on(1), bias);
        finished_product_on(gpu, product, (residual, relu), sizes, io.output_on(0))
    }

    fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
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
            add_input_gradient_on(gpu, product, (rows, io.shape(1)), d_x)?;
        }
        let scratch = io.scratch_on();
        if let Some(d_w) = io.d_input_on(1) {
            let product = (io.input_on(0), y, d_y);
            add_weight_gradient_on(gpu, product, (rows, io.shape(1)), scratch, d_w)?;
        }
        if let Some(d_b) = self.bias.then(|| io.d_input_on(2)).flatten() {
            let d_z = (d_y, y, Shape::new(rows, outputs));
            add_column_sums_on(gpu, d_z, scratch, d_b)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
