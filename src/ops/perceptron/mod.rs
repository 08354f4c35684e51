//! Perceptron with one hidden layer: the second half of a transformer block.
//!
//! y = GELU(x W1ᵀ + b1) W2ᵀ + b2
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, I] | features |
//! | W1, b1 | [H, I], [1, H] | hidden layer, as PyTorch stores it |
//! | W2, b2 | [O, H], [1, O] | output layer |
//! | y | [N, O] | result |
//!
//! The hidden layer is several times wider than x and y. On the host a chunk of rows goes through both layers while its
//! hidden values are in cache, and nothing of size [N, H] is written to memory.
//!
//! Backward, with z = x W1ᵀ + b1 and h = GELU(z) computed again: dh = dy W2, dz = dh GELU'(z), dx = dz W1, dW2 = dyᵀ h,
//! db2 = Σ dy, dW1 = dzᵀ x, db1 = Σ dz. Saves: nothing; reads x, W1, b1, W2. Memory: O(H·(I + O)) on the host, O(N·H)
//! for few rows and on a GPU, as scratch. Time: O(N·H·(I + O)).
//! Errors: shapes that do not fit each other.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::linear::Linear;
use super::pairs::expect_shape;
use crate::device::gemm::Panels;
use crate::device::{Device, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// y = GELU(x W1ᵀ + b1) W2ᵀ + b2; inputs x, W1, b1, W2, b2.
#[derive(Debug, Clone, Copy)]
pub struct Perceptron;

/// Sizes of the op at hand.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// N
    rows: usize,
    /// I
    inputs: usize,
    /// H
    hidden: usize,
    /// O
    outputs: usize,
}

impl Sizes {
    fn new(shape: impl Fn(usize) -> Shape) -> Self {
        Sizes {
            rows: shape(0).rows,
            inputs: shape(0).cols,
            hidden: shape(1).rows,
            outputs: shape(3).rows,
        }
    }

    /// Words of W1ᵀ and W2ᵀ, packed.
    fn forward_panels(self) -> [usize; 2] {
        [(self.inputs, self.hidden), (self.hidden, self.outputs)].map(|(i, o)| Panels::words(i, o))
    }

    /// Words of W1ᵀ, W2 and W1, packed.
    fn backward_panels(self) -> [usize; 3] {
        let (i, h, o) = (self.inputs, self.hidden, self.outputs);
        [(i, h), (o, h), (h, i)].map(|(rows, cols)| Panels::words(rows, cols))
    }

    /// Words of the gradients of W1, W2, b1 and b2.
    fn gradients(self) -> [usize; 4] {
        let (i, h, o) = (self.inputs, self.hidden, self.outputs);
        [h * i, o * h, h, o]
    }

    fn backward_scratch(self) -> usize {
        let panels: usize = self.backward_panels().iter().sum();
        let sums = match Linear::parts(self.rows) {
            0 => 2 * self.rows * self.hidden + parallel::PARTIALS * self.hidden.max(self.outputs),
            parts => parts * self.gradients().iter().sum::<usize>(),
        };
        panels + sums
    }
}

impl Op for Perceptron {
    fn name(&self) -> &'static str {
        "perceptron"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x, w1, b1, w2, b2] = inputs else {
            let fault = format!("needs 5 inputs, got {}", inputs.len());
            return Err(Error::shape(self.name(), fault));
        };
        let name = self.name();
        expect_shape(name, "W1", *w1, Shape::new(w1.rows, x.cols))?;
        expect_shape(name, "b1", *b1, Shape::new(1, w1.rows))?;
        expect_shape(name, "W2", *w2, Shape::new(w2.rows, w1.rows))?;
        expect_shape(name, "b2", *b2, Shape::new(1, w2.rows))?;
        let sizes = Sizes::new(|i| inputs[i]);
        Ok(Plan {
            forward_scratch: sizes.forward_panels().iter().sum(),
            backward_scratch: sizes.backward_scratch(),
            forward_scratch_cuda: cuda::forward_scratch(sizes),
            backward_scratch_cuda: cuda::backward_scratch(sizes),
            reads_inputs: vec![0, 1, 2, 3],
            ..Plan::of(Shape::new(x.rows, w2.rows))
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::forward(gpu, io)?,
            Device::Cpu => cpu::forward(io),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::backward(gpu, io)?,
            Device::Cpu => cpu::backward(io),
        }
        Ok(())
    }
}
