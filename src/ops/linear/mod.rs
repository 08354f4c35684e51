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

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

pub(super) use cpu::{
    ADD, add_bias_gradient, add_column_sums, add_few_rows_gradient, add_weight_gradient,
};
pub(super) use cuda::{
    add_input_gradient_on, add_weight_gradient_on, product_on, weight_gradient_words,
};

use super::statistics::ColumnChunks;
use crate::device::gemm::Panels;
use crate::device::{Device, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Fewest rows that are worth a partial sum of their own.
const PART_ROWS: usize = 1024;

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
    pub(super) fn parts(rows: usize) -> usize {
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
        let chunks = ColumnChunks::new(y);
        let masked = if rectified { y.len() } else { 0 };
        Ok(Plan {
            forward_scratch: Panels::words(w.cols, w.rows),
            backward_scratch: Panels::words(w.rows, w.cols)
                + masked
                + Self::parts(x.rows) * w.len()
                + parallel::PARTIALS * w.rows,
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
