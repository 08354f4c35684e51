//! Grouped vector attention after the relation: weights over the neighbours, and the weighted sum of values.
//!
//! s_ij = B ReLU(scale ∘ e_ij + shift) + b                    per pair and group
//! w_ij = m_ij · dropout(softmax_j(s_ij))                      m_ij = 0 where the neighbour is missing, else 1
//! u_ig = Σ_j w_ijg h_ij,  h_ij = ReLU(P · (Δ_ij, 1))
//! y_ic = Σ_j w_ij,g(c) (v_jc + b2_c) + W2[c, :] · u_i,g(c)     g(c) = c / (C / G)
//!
//! This equals Σ_j w_ij,g(c) (v_j + W2 h_ij + b2)_c by linearity (Wu et al. 2022, PTv2, section 3.2), yet nothing of
//! size N·K·C or N·G·C is kept. A missing slot takes part in the softmax and is zeroed afterwards without
//! renormalising, as in the official code.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | e | [N·K, G] | relation |
//! | st | [2, G] | scale and shift of its norm, from `norm_coefficients` |
//! | B, b | [G, G], [1, G] | second weight-encoding layer |
//! | v | [N, C] | values |
//! | P, W2, b2 | [C, 4], [C, C], [1, C] | position bias; left out together when there is none |
//! | Δ | [N·K, 3] | optional, behind P, W2 and b2: from `offsets`, for the gradient only |
//! | y | [N, C] | attended features |
//!
//! Backward: h and u are computed again; d_v over the transposed neighbour list. Saves: softmax weights, [N·K, G].
//! Time: O(N·(K·G·C + C²)).

pub(super) mod cpu;
pub(super) mod cuda;
mod offsets;
#[cfg(test)]
mod tests;

use super::offsets::shape as offsets_shape;
use super::pairs::{Sizes, expect_shape, parts};
use crate::device::Device;
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::Arc;

/// Attention weights and the weighted sum; inputs e, st, B, b, v and, with a position bias, P, W2, b2 and perhaps Δ.
#[derive(Debug, Clone)]
pub struct Aggregate {
    /// The pairs.
    pub neighbors: Arc<Neighbors>,
    /// G, which divides C.
    pub groups: usize,
    /// Probability that a weight is dropped; 0 drops none.
    pub rate: f32,
}

/// True when positions take part.
fn has_bias(inputs: usize) -> bool {
    inputs >= 8
}

/// Which input Δ is, if it is given.
fn offsets_input(inputs: usize) -> Option<usize> {
    (inputs == 9).then_some(8)
}

impl Aggregate {
    fn check(&self, inputs: &[Shape]) -> Result<Sizes> {
        let name = self.name();
        if ![5, 8, 9].contains(&inputs.len()) {
            let fault =
                "needs e, st, B, b, v and P, W2, b2 and perhaps Δ if there is a position bias";
            return Err(Error::shape(name, fault));
        }
        if !(0.0..1.0).contains(&self.rate) {
            let fault = format!("dropout rate {} is outside 0 to 1", self.rate);
            return Err(Error::shape(name, fault));
        }
        let channels = inputs[4].cols;
        let sizes = Sizes::new(name, &self.neighbors, self.groups, channels)?;
        let groups = |rows| Shape::new(rows, self.groups);
        expect_shape(name, "e", inputs[0], groups(self.neighbors.index.len()))?;
        expect_shape(name, "st", inputs[1], groups(2))?;
        expect_shape(name, "B", inputs[2], groups(self.groups))?;
        expect_shape(name, "b", inputs[3], groups(1))?;
        let rows = Shape::new(self.neighbors.points, channels);
        expect_shape(name, "v", inputs[4], rows)?;
        if has_bias(inputs.len()) {
            expect_shape(name, "P", inputs[5], Shape::new(channels, 4))?;
            expect_shape(name, "W2", inputs[6], Shape::new(channels, channels))?;
            expect_shape(name, "b2", inputs[7], Shape::new(1, channels))?;
        }
        if let Some(i) = offsets_input(inputs.len()) {
            expect_shape(name, "Δ", inputs[i], offsets_shape(&self.neighbors))?;
        }
        Ok(sizes)
    }

    /// The sizes, from shapes that were checked.
    fn sizes(&self, values: Shape) -> Sizes {
        Sizes {
            k: self.neighbors.k,
            groups: self.groups,
            channels: values.cols,
        }
    }
}

impl Op for Aggregate {
    fn name(&self) -> &'static str {
        "aggregate"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let sizes = self.check(inputs)?;
        let points = self.neighbors.queries;
        let partials = parts(points) * cpu::Layout::new(sizes).size;
        let mut reads_inputs = vec![0, 1, 2, 4];
        if has_bias(inputs.len()) {
            reads_inputs.extend([5, 6, 7]);
        }
        let offsets = match offsets_input(inputs.len()) {
            Some(_) => offsets::scratch_on(points, sizes),
            None => 0,
        };
        Ok(Plan {
            saved: vec![inputs[0].len()],
            forward_scratch: cpu::packed_words(sizes),
            backward_scratch: 4 * sizes.padded_channels() + partials,
            forward_scratch_cuda: cuda::forward_scratch(inputs[0].rows, sizes),
            backward_scratch_cuda: cuda::backward_scratch(points, sizes).max(offsets),
            reads_inputs,
            ..Plan::of(Shape::new(points, sizes.channels))
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::forward(self, gpu, io)?,
            Device::Cpu => cpu::forward(self, io),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => {
                cuda::backward(self, gpu, io)?;
                offsets::backward_on(self, gpu, io)?;
            }
            Device::Cpu => {
                cpu::backward(self, io);
                offsets::backward(self, io);
            }
        }
        Ok(())
    }
}
