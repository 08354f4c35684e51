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
//! | Δ | [N·K, 3] | optional: from `offsets`, for the gradient only |
//! | P | [C, 4] | the affine map |
//! | mean, variance | [1, C] | of the batch, the variance unbiased; with batch statistics only |
//!
//! Backward: analytic from dP. With batch statistics b1 cancels and gets no gradient. Saves nothing. Time: O(C), f64.

mod cuda;

use super::Statistics;
use super::offsets::shape as offsets_shape;
use super::pairs::expect_shape;
use crate::device::Device;
use crate::geometry::{Moments, Neighbors};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::Arc;

/// The position map; inputs W1, b1, γ, β, running mean, running variance and perhaps Δ.
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
        let mut d_moments = MomentGradient::default();
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
            d_moments.add(&channel, a * shift, d_variance);
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
        let d_offsets = offsets_input(io.inputs()).and_then(|i| io.d_input(i));
        if let (Statistics::Batch, Some(d_offsets)) = (self.statistics, d_offsets) {
            d_moments.spread(&self.neighbors, moments, d_offsets);
        }
    }
}

/// What flows into the moments of the offsets.
#[derive(Default)]
struct MomentGradient {
    mean: [f64; 3],
    covariance: [[f64; 3]; 3],
}

impl MomentGradient {
    /// Of one channel with batch statistics, from a · d_shift and dσ².
    fn add(&mut self, channel: &Channel, shift: f64, d_variance: f64) {
        for i in 0..3 {
            self.mean[i] -= shift * channel.w[i];
            for j in 0..3 {
                self.covariance[i][j] += d_variance * channel.w[i] * channel.w[j];
            }
        }
    }

    /// Adds dμ / n + 2/n dΣ (Δ − μ) to dΔ ([N·K, 3]) of all pairs.
    fn spread(&self, neighbors: &Neighbors, moments: &Moments, d_offsets: &mut [f32]) {
        let share = 1.0 / moments.count.max(1) as f64;
        for (pair, d) in d_offsets.chunks_exact_mut(3).enumerate() {
            let delta = |axis: usize| f64::from(neighbors.delta[axis][pair]) - moments.mean[axis];
            let delta = [delta(0), delta(1), delta(2)];
            for (axis, d) in d.iter_mut().enumerate() {
                let slope = self.mean[axis] + 2.0 * dot(self.covariance[axis], delta);
                *d += (share * slope) as f32;
            }
        }
    }
}

/// Which input Δ is, if it is given.
fn offsets_input(inputs: usize) -> Option<usize> {
    (inputs == 7).then_some(6)
}

impl Op for PositionNorm {
    fn name(&self) -> &'static str {
        "position_norm"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let (&[w, ..], 6 | 7) = (inputs, inputs.len()) else {
            return Err(Error::shape(self.name(), "needs six or seven inputs"));
        };
        let (vectors, offsets) = inputs[1..].split_at(5);
        expect_shape(self.name(), "the weight", w, Shape::new(w.rows, 3))?;
        for found in offsets {
            expect_shape(self.name(), "Δ", *found, offsets_shape(&self.neighbors))?;
        }
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
            backward_scratch_cuda: cuda::MOMENT_WORDS * offsets.len(),
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
mod tests;
