//! Weighted sum of losses.
//!
//! L = Σ_i w_i L_i; every L_i and L are [1, 1]. Backward: dL_i = w_i dL. Saves and reads nothing.
//! Errors: a loss that is not [1, 1]; a weight that is not finite.

use crate::device::Device;
use crate::device::cuda::{Grid, args, kernels};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

kernels!("weighted_sum");

/// L = Σ w L, one weight per input.
#[derive(Debug, Clone)]
pub struct WeightedSum {
    weights: Vec<f32>,
}

impl WeightedSum {
    /// One weight per loss, in the order of the inputs.
    pub fn new(weights: Vec<f32>) -> Self {
        WeightedSum { weights }
    }
}

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let fault = |fault: String| Err(Error::shape("weighted_sum", fault));
        if inputs.len() != self.weights.len() {
            return fault(format!(
                "{} losses but {} weights",
                inputs.len(),
                self.weights.len()
            ));
        }
        let scalar = Shape::new(1, 1);
        if let Some(i) = inputs.iter().position(|s| *s != scalar) {
            return fault(format!("loss {i} is {}, not {scalar}", inputs[i]));
        }
        if let Some(i) = self.weights.iter().position(|w| !w.is_finite()) {
            return fault(format!("weight {i} is {}", self.weights[i]));
        }
        Ok(Plan::of(scalar))
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => {
                for (i, weight) in self.weights.iter().enumerate() {
                    let args = args![io.input_on(i), *weight, i > 0, io.output_on(0)];
                    gpu.launch(&KERNELS, "weighted_term", Grid::new(1, 1), args)?;
                }
            }
            Device::Cpu => {
                let terms = self.weights.iter().enumerate();
                io.output(0)[0] = terms.map(|(i, w)| w * io.input(i)[0]).sum();
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => {
                for (i, weight) in self.weights.iter().enumerate() {
                    if let (Some(d_loss), Some(d)) = (io.d_output_on(0), io.d_input_on(i)) {
                        let args = args![d_loss, *weight, true, d];
                        gpu.launch(&KERNELS, "weighted_term", Grid::new(1, 1), args)?;
                    }
                }
            }
            Device::Cpu => {
                let Some(d_loss) = io.d_output(0) else {
                    return Ok(());
                };
                for (i, weight) in self.weights.iter().enumerate() {
                    if let Some(d) = io.d_input(i) {
                        d[0] += weight * d_loss[0];
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::Check;

    #[test]
    fn matches_naive() {
        Check::new(WeightedSum::new(vec![1.0, 0.5, -2.0]))
            .input(1, 1)
            .input(1, 1)
            .input(1, 1)
            .run(|x| vec![vec![x[0][0] + 0.5 * x[1][0] - 2.0 * x[2][0]]]);
    }

    #[test]
    fn losses_that_are_no_scalars_are_refused() {
        let op = WeightedSum::new(vec![1.0]);
        assert!(op.plan(&[Shape::new(1, 2)]).is_err());
        assert!(op.plan(&[Shape::new(1, 1); 2]).is_err());
    }
}
