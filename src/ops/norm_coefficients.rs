//! Batch norm reduced to its scale and shift, for norms that are applied inside another op.
//!
//! s = γ / √(σ² + ε),  t = β − μ s
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [M, G] | what is normalised; for the norm over pairs M = N·K, missing slots included |
//! | γ, β, running mean, running variance | [1, G] | parameters and buffers |
//! | st | [2, G] | scale, then shift |
//! | mean, variance | [1, G] | of the batch, the variance unbiased; with batch statistics only |
//!
//! Backward with batch statistics adds to dx the share of every row in μ and σ²: with r = 1/√(σ² + ε),
//! dσ² = −½ γ r³ (ds − μ dt), dμ = −s dt, dx = (dμ + 2 dσ² (x − μ)) / M. One pass each way. Saves: μ and r.

use super::statistics::{
    Coefficients, ColumnChunks, Statistics, check_inputs, coefficients, coefficients_on, fold,
    moments,
};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Device, Gpu, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};

/// Wide rows of one parallel chunk.
const ROWS: usize = 128;

kernels!("norm_coefficients");

/// Scale and shift of a norm; inputs x, γ, β, running mean, running variance.
#[derive(Debug, Clone, Copy)]
pub struct NormCoefficients {
    /// Which statistics normalise.
    pub statistics: Statistics,
    /// Added to the variance.
    pub epsilon: f32,
}

/// dx += a·x + b per column; the last row may be a part of one.
struct Spread<'a> {
    x: &'a [f32],
    d_x: &'a mut [f32],
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let cols = self.a.len();
        for (d_x, x) in self.d_x.chunks_mut(cols).zip(self.x.chunks(cols)) {
            let affine = self.a.iter().zip(self.b);
            for ((d, x), (a, b)) in d_x.iter_mut().zip(x).zip(affine) {
                *d += a * x + b;
            }
        }
    }
}

impl Op for NormCoefficients {
    fn name(&self) -> &'static str {
        "norm_coefficients"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let x = check_inputs(self.name(), self.statistics, inputs)?;
        let vector = Shape::new(1, x.cols);
        let mut outputs = vec![Shape::new(2, x.cols)];
        if self.statistics == Statistics::Batch {
            outputs.extend([vector, vector]);
        }
        Ok(Plan {
            outputs,
            saved: vec![2 * x.cols],
            backward_scratch: 2 * fold(x.cols) * x.cols,
            forward_scratch_cuda: ColumnChunks::new(x).words(x.cols),
            backward_scratch_cuda: 2 * x.cols,
            reads_inputs: match self.statistics {
                Statistics::Batch => vec![0, 1],
                Statistics::Running => vec![1],
            },
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

impl NormCoefficients {
    fn cpu_forward(&self, io: &mut Forward<'_>) {
        let Shape { rows, cols } = io.shape(0);
        let (mean, variance) = (io.input(3), io.input(4));
        let moments = moments(self.statistics, io.input(0), cols, mean, variance);
        if self.statistics == Statistics::Batch {
            moments.store(rows, io.output(1), io.output(2));
        }
        let (scale, shift) = io.output(0).split_at_mut(cols);
        coefficients(
            &moments,
            io.input(1),
            io.input(2),
            self.epsilon,
            [scale, shift],
        );
        if io.saves() {
            let (mean, inverse) = io.saved(0).split_at_mut(cols);
            for c in 0..cols {
                let variance = moments.variance[c] + f64::from(self.epsilon);
                mean[c] = moments.mean[c] as f32;
                inverse[c] = (1.0 / variance.sqrt()) as f32;
            }
        }
    }

    fn cpu_backward(&self, io: &mut Backward<'_>) {
        let Some(d_st) = io.d_output(0) else { return };
        let Shape { rows, cols } = io.shape(0);
        let (d_s, d_t) = d_st.split_at(cols);
        let (mean, inverse) = io.saved(0).split_at(cols);
        if let Some(d_gamma) = io.d_input(1) {
            for c in 0..cols {
                d_gamma[c] += inverse[c] * (d_s[c] - mean[c] * d_t[c]);
            }
        }
        if let Some(d_beta) = io.d_input(2) {
            d_beta.iter_mut().zip(d_t).for_each(|(d, t)| *d += t);
        }
        if self.statistics == Statistics::Running {
            return;
        }
        let Some(d_x) = io.d_input(0) else { return };
        let (x, gamma) = (io.input(0), io.input(1));
        // several rows side by side, as for the moments: rows of six values would waste the vector units
        let wide = fold(cols) * cols;
        let (a, b) = io.scratch().split_at_mut(wide);
        let share = 1.0 / rows.max(1) as f32;
        for c in 0..cols {
            let scale = gamma[c] * inverse[c];
            let d_variance = -0.5 * scale * inverse[c] * inverse[c] * (d_s[c] - mean[c] * d_t[c]);
            a[c] = 2.0 * d_variance * share;
            b[c] = -scale * d_t[c] * share - a[c] * mean[c];
        }
        for c in cols..wide {
            a[c] = a[c - cols];
            b[c] = b[c - cols];
        }
        let (a, b) = (&*a, &*b);
        parallel::for_each_rows(d_x, wide, ROWS, |first, d_x| {
            let x = &x[first * wide..first * wide + d_x.len()];
            dispatch(Spread { x, d_x, a, b });
        });
    }
}

impl NormCoefficients {
    fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let (shape, st) = (io.shape(0), io.output_on(0));
        let kept = io.saved_on(0);
        let batch = self.statistics == Statistics::Batch;
        coefficients_on(
            gpu,
            (self.statistics, self.epsilon),
            ([0, 1, 2, 3, 4].map(|i| io.input_on(i)), shape),
            io.scratch_on(),
            Coefficients {
                scale: st,
                shift: st.offset(shape.cols),
                mean: kept,
                inverse: kept.map(|kept| kept.offset(shape.cols)),
                batch: batch.then(|| [io.output_on(1), io.output_on(2)]),
            },
        )
    }

    fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let Some(d_st) = io.d_output_on(0) else {
            return Ok(());
        };
        let Shape { rows, cols } = io.shape(0);
        let share = match self.statistics {
            Statistics::Batch => 1.0 / rows.max(1) as f32,
            Statistics::Running => 0.0,
        };
        let affine = io.scratch_on();
        let (d_gamma, d_beta) = (io.d_input_on(1), io.d_input_on(2));
        let args = args![
            io.input_on(1),
            io.saved_on(0),
            d_st,
            cols,
            share,
            d_gamma,
            d_beta,
            affine
        ];
        let name = "norm_coefficients_backward_columns";
        gpu.launch(&KERNELS, name, Grid::strided(cols), args)?;
        match (self.statistics, io.d_input_on(0)) {
            (Statistics::Batch, Some(d_x)) => {
                let chunks = ColumnChunks::short(io.shape(0));
                let args = args![io.input_on(0), affine, rows, cols as u32, chunks.rows, d_x];
                let name = "norm_coefficients_backward";
                gpu.launch(&KERNELS, name, chunks.grid(cols), args)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::{Check, spread};

    fn naive(x: &[Vec<f64>], cols: usize, batch: bool) -> Vec<Vec<f64>> {
        let n = (x[0].len() / cols) as f64;
        let (mut mean, mut variance) = (x[3].clone(), x[4].clone());
        let mut st = vec![0.0; 2 * cols];
        for c in 0..cols {
            let column = || x[0].iter().skip(c).step_by(cols);
            if batch && n > 0.0 {
                mean[c] = column().sum::<f64>() / n;
                variance[c] = column().map(|v| (v - mean[c]).powi(2)).sum::<f64>() / n;
            }
            st[c] = x[1][c] / (variance[c] + 1e-5).sqrt();
            st[cols + c] = x[2][c] - mean[c] * st[c];
            if n > 0.0 {
                variance[c] *= n / (n - 1.0);
            }
        }
        if batch {
            vec![st, mean, variance]
        } else {
            vec![st]
        }
    }

    #[test]
    fn both_statistics_match_naive() {
        for statistics in [Statistics::Batch, Statistics::Running] {
            for (rows, cols) in [(0, 3), (2, 3), (90, 6), (5000, 3), (300, 100)] {
                let op = NormCoefficients {
                    statistics,
                    epsilon: 1e-5,
                };
                let vector = Shape::new(1, cols);
                let positive = spread(vector, 8).iter().map(|x| x.abs() + 0.5).collect();
                let batch = statistics == Statistics::Batch;
                Check::new(op)
                    .input(rows, cols)
                    .input(1, cols)
                    .input(1, cols)
                    .constant(vector, spread(vector, 9))
                    .constant(vector, positive)
                    .silent_output(1)
                    .silent_output(2)
                    .run(|x| naive(x, cols, batch));
            }
        }
    }
}
