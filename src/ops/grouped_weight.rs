//! The grouped linear of PTv2's mode 1 as a full matrix.
//!
//! A[g, c] = w[c] where channel c belongs to group g, else 0
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | w | [1, C] | one weight per channel |
//! | A | [G, C] | block-diagonal matrix; groups are contiguous runs of C/G channels |
//!
//! With it mode 1 is mode 2 with another A. Backward picks the entries of the blocks. Saves and reads nothing.

use crate::device::Device;
use crate::device::cuda::{Grid, args, kernels};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

kernels!("grouped_weight");

/// One weight per channel, spread over a block-diagonal matrix.
#[derive(Debug, Clone, Copy)]
pub struct GroupedWeight {
    /// Number of groups G, a divisor of the number of channels.
    pub groups: usize,
}

impl GroupedWeight {
    /// The matrix [G, C] of `weight` \[C\].
    pub fn expand(weight: &[f32], groups: usize) -> Vec<f32> {
        let channels = weight.len();
        let mut matrix = vec![0.0; groups * channels];
        for (c, w) in weight.iter().enumerate() {
            matrix[c * groups / channels * channels + c] = *w;
        }
        matrix
    }
}

impl Op for GroupedWeight {
    fn name(&self) -> &'static str {
        "grouped_weight"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let groups = self.groups;
        match inputs {
            [w] if w.rows == 1 && groups > 0 && w.cols.is_multiple_of(groups) => {
                Ok(Plan::of(Shape::new(groups, w.cols)))
            }
            [w] => Err(Error::shape(
                self.name(),
                format!("{groups} groups of a weight {w}"),
            )),
            _ => Err(Error::shape(self.name(), "needs one input")),
        }
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => {
                let channels = io.shape(0).cols;
                let n = self.groups * channels;
                let args = args![
                    io.input_on(0),
                    n,
                    channels as u32,
                    self.groups as u32,
                    io.output_on(0)
                ];
                gpu.launch(&KERNELS, "grouped_weight_forward", Grid::strided(n), args)?;
            }
            Device::Cpu => io
                .output(0)
                .copy_from_slice(&Self::expand(io.input(0), self.groups)),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let channels = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => {
                if let (Some(d_a), Some(d_w)) = (io.d_output_on(0), io.d_input_on(0)) {
                    let args = args![d_a, channels, self.groups as u32, d_w];
                    gpu.launch(
                        &KERNELS,
                        "grouped_weight_backward",
                        Grid::strided(channels),
                        args,
                    )?;
                }
            }
            Device::Cpu => {
                let (Some(d_a), Some(d_w)) = (io.d_output(0), io.d_input(0)) else {
                    return Ok(());
                };
                for (c, d) in d_w.iter_mut().enumerate() {
                    *d += d_a[c * self.groups / channels * channels + c];
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
        for (groups, channels) in [(1, 3), (6, 24), (5, 5)] {
            Check::new(GroupedWeight { groups })
                .input(1, channels)
                .run(|x| {
                    let width = channels / groups;
                    let entry = |e: usize| {
                        let (g, c) = (e / channels, e % channels);
                        if c / width == g { x[0][c] } else { 0.0 }
                    };
                    vec![(0..groups * channels).map(entry).collect()]
                });
        }
    }

    #[test]
    fn groups_that_do_not_divide_are_refused() {
        assert!(
            GroupedWeight { groups: 4 }
                .plan(&[Shape::new(1, 6)])
                .is_err()
        );
    }
}
