//! Batch norm over rows, per channel, with an optional ReLU (Ioffe and Szegedy 2015; PyTorch's BatchNorm1d).
//!
//! y = γ (x − μ) / √(σ² + ε) + β
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | features; for pairs, N·K rows |
//! | γ, β, running mean, running variance | [1, C] | parameters and buffers |
//! | y | [N, C] | normalised features |
//! | mean, variance | [1, C] | of the batch, the variance unbiased; with batch statistics only |
//!
//! Three modes: batch statistics, running statistics, and running statistics with a backward pass. Backward with batch
//! statistics flows through mean and variance. Saves: μ and 1/√(σ² + ε). Reads x, γ, β. Memory: O(C). Time: O(N·C).
//! Errors: batch statistics of a single row.

use super::statistics::{
    Coefficients, ColumnChunks, Statistics, check_inputs, coefficients, coefficients_on, moments,
};
use crate::Result;
use crate::device::cuda::{args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Device, Gpu, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};

/// Rows of one parallel chunk.
const ROWS: usize = 512;

kernels!("batch_norm");

/// Batch norm; inputs x, γ, β, running mean, running variance.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm {
    /// Which statistics normalise.
    pub statistics: Statistics,
    /// Whether a ReLU follows.
    pub relu: bool,
    /// Added to the variance.
    pub epsilon: f32,
}

/// y = scale·x + shift, rectified or not, over whole rows.
struct Apply<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    relu: bool,
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let cols = self.scale.len();
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        for (y, x) in self.y.chunks_exact_mut(cols).zip(self.x.chunks_exact(cols)) {
            let affine = self.scale.iter().zip(self.shift);
            for ((y, x), (s, t)) in y.iter_mut().zip(x).zip(affine) {
                let z = s * x + t;
                *y = if z < floor { floor } else { z }; // NaN stays NaN
            }
        }
    }
}

/// Per channel: Σ g and Σ g·(x − μ), where g is the gradient that passes the ReLU.
struct Sums<'a> {
    x: &'a [f32],
    d_y: &'a [f32],
    channel: Channel<'a>,
    sum: &'a mut [f32],
    product: &'a mut [f32],
}

/// What backward needs per channel.
#[derive(Clone, Copy)]
struct Channel<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
    mean: &'a [f32],
    relu: bool,
}

impl Channel<'_> {
    /// The same with slices of exactly `cols` values, which spares the loops their bounds checks.
    #[inline(always)]
    fn first(self, cols: usize) -> Self {
        Channel {
            scale: &self.scale[..cols],
            shift: &self.shift[..cols],
            mean: &self.mean[..cols],
            relu: self.relu,
        }
    }

    /// The gradient before the ReLU; the same arithmetic as forward decides.
    #[inline(always)]
    fn pass(&self, c: usize, x: f32, d_y: f32) -> f32 {
        if !self.relu || self.scale[c] * x + self.shift[c] > 0.0 {
            d_y
        } else {
            0.0
        }
    }
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let cols = self.sum.len();
        let (channel, product) = (self.channel.first(cols), &mut self.product[..cols]);
        let rows = self.x.chunks_exact(cols).zip(self.d_y.chunks_exact(cols));
        for (x, d_y) in rows {
            for c in 0..cols {
                let g = channel.pass(c, x[c], d_y[c]);
                self.sum[c] += g;
                product[c] += g * (x[c] - channel.mean[c]);
            }
        }
    }
}

/// dx += scale·g + a·(x − μ) + b, with a and b from the sums over the batch (0 with running statistics).
struct Spread<'a> {
    x: &'a [f32],
    d_y: &'a [f32],
    d_x: &'a mut [f32],
    channel: Channel<'a>,
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let cols = self.a.len();
        let (channel, b) = (self.channel.first(cols), &self.b[..cols]);
        let rows = self.x.chunks_exact(cols).zip(self.d_y.chunks_exact(cols));
        for ((x, d_y), d_x) in rows.zip(self.d_x.chunks_exact_mut(cols)) {
            for c in 0..cols {
                let g = channel.pass(c, x[c], d_y[c]);
                let centred = x[c] - channel.mean[c];
                d_x[c] += channel.scale[c] * g + self.a[c] * centred + b[c];
            }
        }
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let x = check_inputs(self.name(), self.statistics, inputs)?;
        let vector = Shape::new(1, x.cols);
        let mut outputs = vec![x];
        if self.statistics == Statistics::Batch {
            outputs.extend([vector, vector]);
        }
        let partials = ColumnChunks::new(x).words(x.cols);
        Ok(Plan {
            outputs,
            saved: vec![4 * x.cols],
            forward_scratch: 4 * x.cols,
            backward_scratch: (2 * parallel::PARTIALS + 4) * x.cols,
            forward_scratch_cuda: 4 * x.cols + partials,
            backward_scratch_cuda: 2 * x.cols + partials,
            reads_inputs: vec![0, 1],
            ..Plan::default()
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

impl BatchNorm {
    fn cpu_forward(&self, io: &mut Forward<'_>) {
        let Shape { rows, cols } = io.shape(0);
        let x = io.input(0);
        let moments = moments(self.statistics, x, cols, io.input(3), io.input(4));
        if self.statistics == Statistics::Batch {
            moments.store(rows, io.output(1), io.output(2));
        }
        let kept = if io.saves() {
            io.saved(0)
        } else {
            io.scratch()
        };
        let (affine, rest) = kept.split_at_mut(2 * cols);
        let (scale, shift) = affine.split_at_mut(cols);
        coefficients(
            &moments,
            io.input(1),
            io.input(2),
            self.epsilon,
            [&mut *scale, &mut *shift],
        );
        for c in 0..cols {
            rest[c] = moments.mean[c] as f32;
            rest[cols + c] = (1.0 / (moments.variance[c] + f64::from(self.epsilon)).sqrt()) as f32;
        }
        parallel::for_each_rows(io.output(0), cols, ROWS, |first, y| {
            dispatch(Apply {
                x: &x[first * cols..first * cols + y.len()],
                y,
                scale,
                shift,
                relu: self.relu,
            });
        });
    }

    fn cpu_backward(&self, io: &mut Backward<'_>) {
        let Some(d_y) = io.d_output(0) else { return };
        let Shape { rows, cols } = io.shape(0);
        let (x, gamma, kept) = (io.input(0), io.input(1), io.saved(0));
        let inverse = &kept[3 * cols..];
        let channel = Channel {
            scale: &kept[..cols],
            shift: &kept[cols..2 * cols],
            mean: &kept[2 * cols..3 * cols],
            relu: self.relu,
        };
        let (partials, rest) = io.scratch().split_at_mut(2 * parallel::PARTIALS * cols);
        parallel::for_each_partial(rows, 1, partials, 2 * cols, |range, slot| {
            let (sum, product) = slot.split_at_mut(cols);
            dispatch(Sums {
                x: &x[range.start * cols..range.end * cols],
                d_y: &d_y[range.start * cols..range.end * cols],
                channel,
                sum,
                product,
            });
        });
        let (sums, affine) = rest.split_at_mut(2 * cols);
        sums.fill(0.0);
        parallel::add_partials(partials, 2 * cols, sums);
        let (sum, product) = sums.split_at(cols);
        if let Some(d_gamma) = io.d_input(1) {
            for c in 0..cols {
                d_gamma[c] += product[c] * inverse[c];
            }
        }
        if let Some(d_beta) = io.d_input(2) {
            d_beta.iter_mut().zip(sum).for_each(|(d, s)| *d += s);
        }
        let (a, b) = affine.split_at_mut(cols);
        let batch = self.statistics == Statistics::Batch;
        let share = if batch { 1.0 / rows.max(1) as f32 } else { 0.0 };
        for c in 0..cols {
            let scale = gamma[c] * inverse[c];
            a[c] = -scale * inverse[c] * inverse[c] * product[c] * share;
            b[c] = -scale * sum[c] * share;
        }
        let (a, b) = (&*a, &*b);
        if let Some(d_x) = io.d_input(0) {
            parallel::for_each_rows(d_x, cols, ROWS, |first, d_x| {
                let range = first * cols..first * cols + d_x.len();
                dispatch(Spread {
                    x: &x[range.clone()],
                    d_y: &d_y[range],
                    d_x,
                    channel,
                    a,
                    b,
                });
            });
        }
    }
}

impl BatchNorm {
    fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let shape = io.shape(0);
        let cols = shape.cols;
        let kept = io.saved_on(0).unwrap_or(io.scratch_on());
        let batch = self.statistics == Statistics::Batch;
        coefficients_on(
            gpu,
            (self.statistics, self.epsilon),
            ([0, 1, 2, 3, 4].map(|i| io.input_on(i)), shape),
            io.scratch_on().offset(4 * cols),
            Coefficients {
                scale: kept,
                shift: kept.offset(cols),
                mean: Some(kept.offset(2 * cols)),
                inverse: Some(kept.offset(3 * cols)),
                batch: batch.then(|| [io.output_on(1), io.output_on(2)]),
            },
        )?;
        let chunks = ColumnChunks::short(shape);
        let args = args![
            io.input_on(0),
            kept,
            shape.rows,
            cols as u32,
            chunks.rows,
            self.relu,
            io.output_on(0)
        ];
        gpu.launch(&KERNELS, "batch_norm_forward", chunks.grid(cols), args)
    }

    fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let Some(d_y) = io.d_output_on(0) else {
            return Ok(());
        };
        let Shape { rows, cols } = io.shape(0);
        let (x, kept, width) = (io.input_on(0), io.saved_on(0), cols as u32);
        let chunks = ColumnChunks::new(io.shape(0));
        let affine = io.scratch_on();
        let partials = affine.offset(2 * cols);
        let args = args![x, kept, d_y, rows, width, chunks.rows, self.relu, partials];
        gpu.launch(
            &KERNELS,
            "batch_norm_backward_sums",
            chunks.grid(cols),
            args,
        )?;
        let share = match self.statistics {
            Statistics::Batch => 1.0 / rows.max(1) as f32,
            Statistics::Running => 0.0,
        };
        let (d_gamma, d_beta) = (io.d_input_on(1), io.d_input_on(2));
        let args = args![
            partials,
            chunks.count,
            io.input_on(1),
            kept,
            width,
            share,
            d_gamma,
            d_beta,
            affine
        ];
        gpu.launch(
            &KERNELS,
            "batch_norm_backward_columns",
            ColumnChunks::finish_grid(cols),
            args,
        )?;
        let Some(d_x) = io.d_input_on(0) else {
            return Ok(());
        };
        let chunks = ColumnChunks::short(io.shape(0));
        let args = args![
            x,
            kept,
            affine,
            d_y,
            rows,
            width,
            chunks.rows,
            self.relu,
            d_x
        ];
        gpu.launch(&KERNELS, "batch_norm_backward", chunks.grid(cols), args)
    }
}

#[cfg(test)]
#[path = "batch_norm_tests.rs"]
mod tests;
