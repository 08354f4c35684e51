//! Layer norm: every row is normalised on its own (Ba, Kiros, Hinton 2016; PyTorch's LayerNorm over the last axis).
//!
//! y = γ (x − μ) / √(σ² + ε) + β, with the mean μ and the biased variance σ² of the row
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | features |
//! | γ, β | [1, C] | scale and shift |
//! | y | [N, C] | normalised features |
//!
//! Backward, with x̂ = (x − μ) / √(σ² + ε) and g = γ dy: dx = (g − mean(g) − x̂ mean(g x̂)) / √(σ² + ε), dγ = Σ dy x̂,
//! dβ = Σ dy. Saves: nothing; reads x and γ and computes μ and σ again. Memory: O(C). Time: O(N·C).
//! Errors: γ or β of another width than x; rows without a value.

use super::pairs::{Partials, expect_shape, parts};
use super::statistics::{ColumnChunks, add_parts_on};
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Device, Gpu, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Rows of one parallel chunk.
const ROWS: usize = 256;

kernels!("layer_norm");

/// Warps of a block, and rows that it takes.
const NORM_WARPS: usize = 8;
const NORM_ROWS: usize = 16;

/// Channels that the kernels keep in shared memory, `planes` numbers of each, and the blocks of their launch.
fn norm_grid(rows: usize, cols: usize, planes: usize) -> (u32, Grid) {
    // As much as every block may ask for.
    let held = cols.min((48 << 10) / 4 / planes);
    let grid = Grid::new(rows.div_ceil(NORM_ROWS), 32 * NORM_WARPS as u32);
    (held as u32, grid.shared(4 * held * planes))
}

/// Layer norm; inputs x, γ, β.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f32,
}

/// Mean of a row, and 1 / √(σ² + ε).
#[inline(always)]
fn moments<S: Simd>(s: S, x: &[f32], epsilon: f32) -> (f32, f32) {
    let whole = x.len() - x.len() % S::LANES;
    let (body, tail) = x.split_at(whole);
    let share = 1.0 / x.len() as f32;
    let mut total = s.zero();
    for part in body.chunks_exact(S::LANES) {
        total = s.add(total, s.load(part));
    }
    let mut sum = s.sum(total);
    for x in tail {
        sum += x;
    }
    let mean = sum * share;
    let center = s.splat(mean);
    let mut total = s.zero();
    for part in body.chunks_exact(S::LANES) {
        let x = s.sub(s.load(part), center);
        total = s.fma(x, x, total);
    }
    let mut square = s.sum(total);
    for x in tail {
        square += (x - mean) * (x - mean);
    }
    (mean, 1.0 / (square * share + epsilon).sqrt())
}

/// y of whole rows.
struct Normalise<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

impl Kernel for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.gamma.len();
        for (x, y) in self.x.chunks_exact(cols).zip(self.y.chunks_exact_mut(cols)) {
            let (mean, inverse) = moments(s, x, self.epsilon);
            let (mean, inverse) = (s.splat(mean), s.splat(inverse));
            let affine = self.gamma.chunks(S::LANES).zip(self.beta.chunks(S::LANES));
            let parts = x.chunks(S::LANES).zip(y.chunks_mut(S::LANES));
            for ((x, y), (gamma, beta)) in parts.zip(affine) {
                let hat = s.mul(s.sub(s.load_partial(x), mean), inverse);
                s.store_partial(y, s.fma(hat, s.load_partial(gamma), s.load_partial(beta)));
            }
        }
    }
}

/// d_x, d_γ and d_β of whole rows; `d_x` is empty when it is not wanted.
struct Gradient<'a> {
    x: &'a [f32],
    d_y: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    d_gamma: &'a mut [f32],
    d_beta: &'a mut [f32],
    d_x: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.gamma.len();
        let share = 1.0 / cols as f32;
        let rows = self.x.chunks_exact(cols).zip(self.d_y.chunks_exact(cols));
        for (row, (x, d_y)) in rows.enumerate() {
            let (mean, inverse) = moments(s, x, self.epsilon);
            let (center, scale) = (s.splat(mean), s.splat(inverse));
            let (mut sum, mut product) = (s.zero(), s.zero());
            // Behind the end of a row d_y and γ are loaded as 0, which leaves the sums alone.
            for first in (0..cols).step_by(S::LANES) {
                let end = (first + S::LANES).min(cols);
                let hat = s.mul(s.sub(s.load_partial(&x[first..end]), center), scale);
                let d_y = s.load_partial(&d_y[first..end]);
                let g = s.mul(d_y, s.load_partial(&self.gamma[first..end]));
                sum = s.add(sum, g);
                product = s.fma(g, hat, product);
                let d_gamma = &mut self.d_gamma[first..end];
                s.store_partial(d_gamma, s.fma(d_y, hat, s.load_partial(d_gamma)));
                let d_beta = &mut self.d_beta[first..end];
                s.store_partial(d_beta, s.add(d_y, s.load_partial(d_beta)));
            }
            let Some(d_x) = self.d_x.get_mut(row * cols..(row + 1) * cols) else {
                continue;
            };
            let (sum, product) = (s.splat(s.sum(sum) * share), s.splat(s.sum(product) * share));
            for first in (0..cols).step_by(S::LANES) {
                let end = (first + S::LANES).min(cols);
                let hat = s.mul(s.sub(s.load_partial(&x[first..end]), center), scale);
                let d_y = s.load_partial(&d_y[first..end]);
                let g = s.mul(d_y, s.load_partial(&self.gamma[first..end]));
                let centred = s.sub(s.sub(g, sum), s.mul(hat, product));
                let d_x = &mut d_x[first..end];
                s.store_partial(d_x, s.fma(centred, scale, s.load_partial(d_x)));
            }
        }
    }
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x, gamma, beta] = inputs else {
            return Err(Error::shape(self.name(), "needs x, gamma and beta"));
        };
        if x.cols == 0 {
            return Err(Error::shape(self.name(), format!("{x} has empty rows")));
        }
        let vector = Shape::new(1, x.cols);
        expect_shape(self.name(), "gamma", *gamma, vector)?;
        expect_shape(self.name(), "beta", *beta, vector)?;
        Ok(Plan {
            reads_inputs: vec![0, 1],
            backward_scratch: parts(x.rows) * 2 * x.cols,
            backward_scratch_cuda: 2 * x.rows + ColumnChunks::new(*x).words(x.cols),
            ..Plan::of(*x)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => self.cuda_forward(gpu, io)?,
            Device::Cpu => {
                let (x, gamma, beta) = (io.input(0), io.input(1), io.input(2));
                parallel::for_each_rows(io.output(0), cols, ROWS, |first, y| {
                    dispatch(Normalise {
                        x: &x[first * cols..][..y.len()],
                        gamma,
                        beta,
                        epsilon: self.epsilon,
                        y,
                    });
                });
            }
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

impl LayerNorm {
    fn cpu_backward(&self, io: &mut Backward<'_>) {
        let Some(d_y) = io.d_output(0) else { return };
        let Shape { rows, cols } = io.shape(0);
        let (x, gamma) = (io.input(0), io.input(1));
        let mut partials = Partials::new(io.scratch(), parts(rows), 2 * cols);
        let d_x = io.d_input(0).unwrap_or(&mut []);
        partials.for_each(rows, 1, (d_x, cols), |range, partial, d_x| {
            let (d_gamma, d_beta) = partial.split_at_mut(cols);
            dispatch(Gradient {
                x: &x[range.start * cols..range.end * cols],
                d_y: &d_y[range.start * cols..range.end * cols],
                gamma,
                epsilon: self.epsilon,
                d_gamma,
                d_beta,
                d_x,
            });
        });
        if let Some(d_gamma) = io.d_input(1) {
            partials.add_to(0, d_gamma);
        }
        if let Some(d_beta) = io.d_input(2) {
            partials.add_to(cols, d_beta);
        }
    }

    fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let Shape { rows, cols } = io.shape(0);
        let (held, grid) = norm_grid(rows, cols, 2 + NORM_WARPS);
        let args = args![
            io.input_on(0),
            io.input_on(1),
            io.input_on(2),
            rows,
            cols as u32,
            held,
            self.epsilon,
            io.output_on(0)
        ];
        gpu.launch(&KERNELS, "layer_norm_forward", grid, args)
    }

    fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let Some(d_y) = io.d_output_on(0) else {
            return Ok(());
        };
        let Shape { rows, cols } = io.shape(0);
        let (x, width, moments) = (io.input_on(0), cols as u32, io.scratch_on());
        let (gamma, d_x) = (io.input_on(1), io.d_input_on(0));
        let (held, grid) = norm_grid(rows, cols, 1 + 2 * NORM_WARPS);
        let args = args![x, gamma, d_y, rows, width, held, self.epsilon, moments, d_x];
        gpu.launch(&KERNELS, "layer_norm_backward_x", grid, args)?;
        let chunks = ColumnChunks::new(io.shape(0));
        let partials = moments.offset(2 * rows);
        let args = args![
            x,
            moments,
            d_y,
            rows,
            width,
            chunks.rows,
            chunks.count,
            partials
        ];
        let grid = chunks.grid(cols);
        gpu.launch(&KERNELS, "layer_norm_backward_sums", grid, args)?;
        for (i, input) in [1, 2].into_iter().enumerate() {
            if let Some(out) = io.d_input_on(input) {
                let partials = partials.offset(i * chunks.count * cols);
                add_parts_on(gpu, (partials, chunks.count), cols, out)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::Check;

    fn naive(x: &[Vec<f64>], cols: usize) -> Vec<Vec<f64>> {
        let row = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().sum::<f64>() / cols as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / cols as f64;
            let hat = |c: usize| (row[c] - mean) / (variance + 1e-5).sqrt();
            (0..cols).map(|c| x[1][c] * hat(c) + x[2][c]).collect()
        };
        vec![x[0].chunks(cols).flat_map(row).collect()]
    }

    #[test]
    fn matches_naive() {
        for (rows, cols) in [(0, 5), (1, 48), (3, 7), (40, 16), (300, 12), (9, 100)] {
            Check::new(LayerNorm { epsilon: 1e-5 })
                .input(rows, cols)
                .input(1, cols)
                .input(1, cols)
                .run(|x| naive(x, cols));
        }
    }

    #[test]
    fn far_from_zero_it_keeps_its_digits() {
        let x: Vec<f32> = (0..96).map(|i| 1000.0 + (i * 37 % 96) as f32).collect();
        Check::new(LayerNorm { epsilon: 1e-5 })
            .constant(Shape::new(2, 48), x)
            .input(1, 48)
            .input(1, 48)
            .run(|x| naive(x, 48));
    }

    #[test]
    fn widths_that_differ_are_refused() {
        let plan = |shapes: &[Shape]| LayerNorm { epsilon: 1e-5 }.plan(shapes);
        let vector = Shape::new(1, 4);
        assert!(plan(&[Shape::new(3, 4), vector, vector]).is_ok());
        assert!(plan(&[Shape::new(3, 4), vector, Shape::new(1, 5)]).is_err());
        assert!(plan(&[Shape::new(3, 4), Shape::new(4, 1), vector]).is_err());
        assert!(plan(&[Shape::new(3, 0), Shape::new(1, 0), Shape::new(1, 0)]).is_err());
        assert!(plan(&[Shape::new(3, 4), vector]).is_err());
    }
}
