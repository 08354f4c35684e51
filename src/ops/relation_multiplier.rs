//! The part of the relation that a position multiplier makes: the one place where the factored form does not apply.
//!
//! e_ij = A ((k_j − q_i) ⊙ (W h_ij + b)),   h_ij = ReLU(P · (Δ_ij, 1))      (spec: GVA with pe_multiplier)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | k, q | [N, C] | keys and queries; a missing neighbour has k = 0 and Δ = 0, and takes part |
//! | P | [C, 4] | position map of the multiplier, from `position_norm` |
//! | W, b | [C, C], [1, C] | second layer of the multiplier |
//! | A | [G, C] | first layer of the weight encoding |
//! | Δ | [N·K, 3] | optional: from `offsets`, for the gradient only |
//! | e | [N·K, G] | relation, without the position bias |
//!
//! Computed in tiles of pairs that stay in cache, with small matrix products inside. Backward computes a tile again;
//! dk needs a second pass in the order of the neighbours, so that sums have a fixed order without [N·K, C] in memory.
//! On a GPU the tiles are chunks of pairs of bounded size.
//! Saves: nothing. Time: O(N·K·C²).

mod cpu;
mod cuda;

use super::offsets::shape as offsets_shape;
use super::pairs::expect_shape;
use crate::device::Device;
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::Arc;

/// Inputs k, q, P, W, b, A and perhaps Δ.
#[derive(Debug, Clone)]
pub struct RelationMultiplier {
    /// The pairs.
    pub neighbors: Arc<Neighbors>,
}

/// Which input Δ is, if it is given.
fn offsets_input(inputs: usize) -> Option<usize> {
    (inputs == 7).then_some(6)
}

impl RelationMultiplier {
    fn sizes(&self, inputs: &[Shape]) -> Result<[usize; 2]> {
        let name = self.name();
        let [keys, queries, position, weight, bias, encode, offsets @ ..] = inputs else {
            return Err(Error::shape(name, "needs k, q, P, W, b, A and perhaps Δ"));
        };
        let (c, g) = (keys.cols, encode.rows);
        expect_shape(name, "k", *keys, Shape::new(self.neighbors.points, c))?;
        expect_shape(name, "q", *queries, Shape::new(self.neighbors.queries, c))?;
        expect_shape(name, "P", *position, Shape::new(c, 4))?;
        expect_shape(name, "W", *weight, Shape::new(c, c))?;
        expect_shape(name, "b", *bias, Shape::new(1, c))?;
        expect_shape(name, "A", *encode, Shape::new(g, c))?;
        match offsets {
            [] => {}
            [found] => expect_shape(name, "Δ", *found, offsets_shape(&self.neighbors))?,
            _ => return Err(Error::shape(name, "takes at most seven inputs")),
        }
        Ok([c, g])
    }
}

impl Op for RelationMultiplier {
    fn name(&self) -> &'static str {
        "relation_multiplier"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [c, g] = self.sizes(inputs)?;
        Ok(Plan {
            backward_scratch: cpu::backward_scratch(self.neighbors.queries, [c, g]),
            forward_scratch_cuda: cuda::forward_scratch(&self.neighbors, [c, g]),
            backward_scratch_cuda: cuda::backward_scratch(&self.neighbors, [c, g]),
            reads_inputs: vec![0, 1, 2, 3, 4, 5],
            ..Plan::of(Shape::new(self.neighbors.index.len(), g))
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
            Device::Cuda(gpu) => cuda::backward(self, gpu, io)?,
            Device::Cpu => cpu::backward(self, io),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
