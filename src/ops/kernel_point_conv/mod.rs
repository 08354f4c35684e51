//! Kernel point convolution: weights that sit on points around every point (Thomas et al. 2019, KPConv, rigid, with
//! linear influence and sum aggregation).
//!
//! y_i = Σ_m (Σ_j h_ijm x_j) W_m,   h_ijm = max(0, 1 − ‖Δ_ij − p_m‖ / σ),   Δ_ij the offset from i to its neighbour j
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [S, I] | features of the points |
//! | p | [M, 3] | kernel points, metres; from the checkpoint |
//! | W | [M, I·O] | one I × O matrix per kernel point |
//! | neighbors | N × K rows of x | missing ones count nothing |
//! | y | [N, O] | features |
//!
//! Nothing per pair is kept: a tile of points collects its sums Σ_j h x ([I, M] each) and multiplies them with W.
//!
//! Backward: dW from the same sums, computed again. dx_j = Σ_m (Σ_i h_ijm dy_i) W_mᵀ is the same convolution of dy over
//! the transposed neighbour list. The kernel points carry no gradient. Saves: nothing, reads x, p and W.
//! Memory: O(I·M·O) scratch, times at most 16 in backward; on a GPU the sums of a few thousand points besides. Time: O(N·K·I·M + N·I·M·O), in backward with O for I too.
//! Errors: other points than the neighbours name; an influence that is not a positive number.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::pairs::{expect_shape, parts};
use crate::device::Device;
use crate::device::simd::MAX_LANES;
use crate::device::workspace::padded;
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::Arc;

/// Kernel point convolution; inputs x, p, W.
#[derive(Debug, Clone)]
pub struct KernelPointConv {
    /// Who is near whom.
    pub neighbors: Arc<Neighbors>,
    /// σ: distance at which the influence of a kernel point ends, metres.
    pub influence: f32,
    /// O: channels of the result.
    pub outputs: usize,
}

/// Sizes of the op at hand.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// M
    kernel: usize,
    /// I
    inputs: usize,
    /// O
    outputs: usize,
}

impl Sizes {
    /// M rounded up to whole vectors.
    fn padded_kernel(self) -> usize {
        self.kernel.next_multiple_of(MAX_LANES)
    }

    /// Words of W as [I, padded M, padded O].
    fn weight_words(self) -> usize {
        self.padded_kernel() * self.inputs * padded(self.outputs)
    }

    /// Words of W as [O, padded M, padded I].
    fn transposed_words(self) -> usize {
        self.padded_kernel() * self.outputs * padded(self.inputs)
    }

    /// Words of the padded planes of the kernel points.
    fn point_words(self) -> usize {
        3 * self.padded_kernel()
    }
}

impl KernelPointConv {
    fn sizes(&self, x: Shape, points: Shape) -> Sizes {
        Sizes {
            kernel: points.rows,
            inputs: x.cols,
            outputs: self.outputs,
        }
    }
}

impl Op for KernelPointConv {
    fn name(&self) -> &'static str {
        "kernel_point_conv"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x, points, weight] = inputs else {
            return Err(Error::shape(
                self.name(),
                "needs x, kernel points and weight",
            ));
        };
        if !(self.influence > 0.0 && self.influence.is_finite()) {
            let fault = format!("influence {} m is not a positive number", self.influence);
            return Err(Error::shape(self.name(), fault));
        }
        let count = points.rows;
        if count == 0 || x.cols == 0 || self.outputs == 0 {
            let fault = format!("{x} and {count} kernel points to {} channels", self.outputs);
            return Err(Error::shape(self.name(), fault));
        }
        let sizes = self.sizes(*x, *points);
        let matrices = Shape::new(count, sizes.inputs * sizes.outputs);
        let rows = Shape::new(self.neighbors.points, x.cols);
        expect_shape(self.name(), "x", *x, rows)?;
        expect_shape(
            self.name(),
            "the kernel points",
            *points,
            Shape::new(count, 3),
        )?;
        expect_shape(self.name(), "the weight", *weight, matrices)?;
        let (queries, points) = (self.neighbors.queries, self.neighbors.points);
        let backward_scratch_cuda = cuda::backward_scratch(sizes, queries, points);
        let (points, words) = (sizes.point_words(), sizes.weight_words());
        let partials = parts(queries) * words;
        Ok(Plan {
            forward_scratch: points + words,
            backward_scratch: points + partials + words.max(sizes.transposed_words()),
            forward_scratch_cuda: cuda::forward_scratch(sizes, queries),
            backward_scratch_cuda,
            reads_inputs: vec![0, 1, 2],
            ..Plan::of(Shape::new(queries, self.outputs))
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
