//! First layer of the position encoding and its batch norm in one affine map, without a pass over pairs.
//!
//! BN(W1 Δ + b1) is an affine image of Δ, so its statistics follow from the mean μ and the covariance Σ of Δ:
//!
//! mean_c = W1_c μ + b1_c,  σ²_c = W1_c Σ W1_cᵀ,  a_c = γ_c / √(σ²_c + ε)
//! P_c = (a_c W1_c, a_c (b1_c − mean_c) + β_c), and h_ij = ReLU(P · (Δ_ij, 1))      (Wu et al. 2022, PTv2, eq. 7)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | W1 | [C, 3] | weight of the first layer |
//! | b1, γ, β, running mean, running variance | [1, C] | its bias, parameters and buffers of the norm |
//! | neighbors | N·K offsets | missing slots are zero offsets and take part in μ and Σ, as in the official code |
//! | P | [C, 4] | the affine map |
//! | mean, variance | [1, C] | of the batch, the variance unbiased; with batch statistics only |
//!
//! Backward: analytic from dP. With batch statistics b1 cancels and gets no gradient. Saves nothing. Time: O(C), f64.

use super::Statistics;
use super::pairs::expect_shape;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Device, Gpu};
use crate::geometry::{Moments, Neighbors};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::Arc;

kernels!("position_norm");

/// The position map; inputs W1, b1, γ, β, running mean, running variance.
#[derive(Debug, Clone)]
pub struct PositionNorm {
    /// The pairs whose offsets are normalised.
    pub neighbors: Arc<Neighbors>,
    /// Which statistics normalise.
    pub statistics: Statistics,
    /// Added to the variance.
    pub epsilon: f32,
}

/// One channel: its inputs, and what follows from them.
struct Channel {
    w: [f64; 3],
    b: f64,
    gamma: f64,
    mean: f64,
    variance: f64,
    /// 1 / √(σ² + ε)
    r: f64,
    /// Σ wᵀ
    covariance_w: [f64; 3],
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

impl PositionNorm {
    fn channel(&self, moments: &Moments, inputs: &[&[f32]], c: usize) -> Channel {
        let at = |i: usize, j: usize| f64::from(inputs[i][j]);
        let w = [at(0, 3 * c), at(0, 3 * c + 1), at(0, 3 * c + 2)];
        let b = at(1, c);
        let covariance_w = moments.covariance.map(|row| dot(row, w));
        let (mean, variance) = match self.statistics {
            Statistics::Batch => (dot(w, moments.mean) + b, dot(w, covariance_w).max(0.0)),
            Statistics::Running => (at(4, c), at(5, c)),
        };
        Channel {
            w,
            b,
            gamma: at(2, c),
            mean,
            variance,
            r: 1.0 / (variance + f64::from(self.epsilon)).sqrt(),
            covariance_w,
        }
    }

    fn cpu_forward(&self, io: &mut Forward<'_>) {
        let channels = io.shape(0).rows;
        let moments = self.neighbors.moments();
        let inputs: Vec<&[f32]> = (0..6).map(|i| io.input(i)).collect();
        let position = io.output(0);
        let mut batch = match self.statistics {
            Statistics::Batch => Some((io.output(1), io.output(2))),
            Statistics::Running => None,
        };
        let n = moments.count as f64;
        for c in 0..channels {
            let channel = self.channel(moments, &inputs, c);
            let a = channel.gamma * channel.r;
            let shift = a * (channel.b - channel.mean) + f64::from(inputs[3][c]);
            let row = channel.w.map(|w| (a * w) as f32);
            position[4 * c..4 * c + 3].copy_from_slice(&row);
            position[4 * c + 3] = shift as f32;
            if let Some((mean, variance)) = &mut batch {
                mean[c] = channel.mean as f32;
                variance[c] = (channel.variance * n / (n - 1.0).max(1.0)) as f32;
            }
        }
    }

    fn cpu_backward(&self, io: &mut Backward<'_>) {
        let Some(d_position) = io.d_output(0) else {
            return;
        };
        let channels = io.shape(0).rows;
        let moments = self.neighbors.moments();
        let inputs: Vec<&[f32]> = (0..6).map(|i| io.input(i)).collect();
        let mut d = [0, 1, 2, 3].map(|i| io.d_input(i));
        for c in 0..channels {
            let channel = self.channel(moments, &inputs, c);
            let [gx, gy, gz, shift]: [f64; 4] =
                std::array::from_fn(|i| f64::from(d_position[4 * c + i]));
            let slope = [gx, gy, gz];
            let a = channel.gamma * channel.r;
            let d_a = dot(slope, channel.w) + shift * (channel.b - channel.mean);
            let d_variance = match self.statistics {
                Statistics::Batch => -0.5 * d_a * channel.gamma * channel.r.powi(3),
                Statistics::Running => 0.0,
            };
            // With batch statistics b − mean = −w μ: the shift depends on w, and not on b.
            let (d_mean_w, d_b) = match self.statistics {
                Statistics::Batch => (-a * shift, 0.0),
                Statistics::Running => (0.0, a * shift),
            };
            if let Some(d_w) = &mut d[0] {
                for axis in 0..3 {
                    let d = a * slope[axis]
                        + d_mean_w * moments.mean[axis]
                        + 2.0 * d_variance * channel.covariance_w[axis];
                    d_w[3 * c + axis] += d as f32;
                }
            }
            for (d, value) in d[1..].iter_mut().zip([d_b, d_a * channel.r, shift]) {
                if let Some(d) = d {
                    d[c] += value as f32;
                }
            }
        }
    }
}

impl PositionNorm {
    fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let channels = io.shape(0).rows;
        let moments = self.neighbors.moments_on(gpu)?;
        let pairs = self.neighbors.index.len();
        let [w, b, gamma, beta, mean, variance] = [0, 1, 2, 3, 4, 5].map(|i| io.input_on(i));
        let batch = self.statistics == Statistics::Batch;
        let out = |i: usize| batch.then(|| io.output_on(i));
        let args = args![
            w,
            b,
            gamma,
            beta,
            mean,
            variance,
            moments,
            channels,
            pairs,
            batch,
            self.epsilon,
            io.output_on(0),
            out(1),
            out(2)
        ];
        gpu.launch(
            &KERNELS,
            "position_norm_forward",
            Grid::strided(channels),
            args,
        )
    }

    fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let Some(d_position) = io.d_output_on(0) else {
            return Ok(());
        };
        let channels = io.shape(0).rows;
        let moments = self.neighbors.moments_on(gpu)?;
        let [w, b, gamma, mean, variance] = [0, 1, 2, 4, 5].map(|i| io.input_on(i));
        let [d_w, d_b, d_gamma, d_beta] = [0, 1, 2, 3].map(|i| io.d_input_on(i));
        let batch = self.statistics == Statistics::Batch;
        let args = args![
            w,
            b,
            gamma,
            mean,
            variance,
            moments,
            d_position,
            channels,
            batch,
            self.epsilon,
            d_w,
            d_b,
            d_gamma,
            d_beta
        ];
        gpu.launch(
            &KERNELS,
            "position_norm_backward",
            Grid::strided(channels),
            args,
        )
    }
}

impl Op for PositionNorm {
    fn name(&self) -> &'static str {
        "position_norm"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [w, vectors @ ..] = inputs else {
            return Err(Error::shape(self.name(), "needs six inputs"));
        };
        if vectors.len() != 5 {
            return Err(Error::shape(self.name(), "needs six inputs"));
        }
        expect_shape(self.name(), "the weight", *w, Shape::new(w.rows, 3))?;
        let vector = Shape::new(1, w.rows);
        let names = ["bias", "gamma", "beta", "running mean", "running variance"];
        for (shape, name) in vectors.iter().zip(names) {
            expect_shape(self.name(), name, *shape, vector)?;
        }
        let mut outputs = vec![Shape::new(w.rows, 4)];
        if self.statistics == Statistics::Batch {
            outputs.extend([vector, vector]);
        }
        Ok(Plan {
            outputs,
            reads_inputs: (0..6).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::{Check, spread};
    use crate::ops::pairs::fixtures::{Table, tables};

    const EPSILON: f32 = 1e-3;

    fn naive(table: &Table, x: &[Vec<f64>], statistics: Statistics) -> Vec<Vec<f64>> {
        let channels = x[1].len();
        let n = table.neighbors.index.len();
        let mut out = vec![
            vec![0.0; 4 * channels],
            vec![0.0; channels],
            vec![0.0; channels],
        ];
        for c in 0..channels {
            let z: Vec<f64> = (0..n)
                .map(|p| {
                    x[1][c]
                        + (0..3)
                            .map(|a| x[0][3 * c + a] * table.delta(p, a))
                            .sum::<f64>()
                })
                .collect();
            let mut mean = z.iter().sum::<f64>() / n.max(1) as f64;
            if n == 0 {
                mean = x[1][c];
            }
            let square: f64 = z.iter().map(|z| (z - mean).powi(2)).sum();
            let mut variance = square / n.max(1) as f64;
            out[1][c] = mean;
            out[2][c] = square / n.saturating_sub(1).max(1) as f64;
            if statistics == Statistics::Running {
                (mean, variance) = (x[4][c], x[5][c]);
            }
            let a = x[2][c] / (variance + f64::from(EPSILON)).sqrt();
            for axis in 0..3 {
                out[0][4 * c + axis] = a * x[0][3 * c + axis];
            }
            out[0][4 * c + 3] = a * (x[1][c] - mean) + x[3][c];
        }
        if statistics == Statistics::Running {
            out.truncate(1);
        }
        out
    }

    #[test]
    fn matches_naive_statistics_over_all_pairs() {
        for table in tables() {
            for statistics in [Statistics::Batch, Statistics::Running] {
                let vector = Shape::new(1, 7);
                let positive = spread(vector, 9).iter().map(|x| x.abs() + 0.5).collect();
                let check = Check::new(PositionNorm {
                    neighbors: table.neighbors.clone(),
                    statistics,
                    epsilon: EPSILON,
                })
                .input(7, 3);
                // With batch statistics the bias cancels: its gradient is exactly zero.
                let check = match statistics {
                    Statistics::Batch => check.constant(vector, spread(vector, 7)),
                    Statistics::Running => check.input(1, 7),
                };
                let check = check
                    .input(1, 7)
                    .input(1, 7)
                    .constant(vector, spread(vector, 8))
                    .constant(vector, positive);
                let check = match statistics {
                    Statistics::Batch => check.silent_output(1).silent_output(2),
                    Statistics::Running => check,
                };
                check.run(|x| naive(&table, x, statistics));
            }
        }
    }

    #[test]
    fn shapes_that_differ_are_rejected() {
        let op = PositionNorm {
            neighbors: tables().remove(0).neighbors,
            statistics: Statistics::Batch,
            epsilon: EPSILON,
        };
        let vector = Shape::new(1, 4);
        let weight = Shape::new(4, 3);
        assert!(
            op.plan(&[weight, vector, vector, vector, vector, vector])
                .is_ok()
        );
        let narrow = Shape::new(4, 2);
        assert!(
            op.plan(&[narrow, vector, vector, vector, vector, vector])
                .is_err()
        );
        assert!(op.plan(&[weight, vector, vector]).is_err());
        assert!(op.plan(&[]).is_err());
    }
}
