//! Sum of two values.
//!
//! y = a + b; a, b, y [N, C]. Backward: da = dy, db = dy. Saves and reads nothing.

use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Device, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Values of one parallel chunk.
const CHUNK: usize = 1 << 14;

kernels!("add");

/// y = a + b.
#[derive(Debug, Clone, Copy)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        match inputs {
            [a, b] if a == b => Ok(Plan::of(*a)),
            [a, b] => Err(Error::shape("add", format!("{a} and {b} differ"))),
            _ => Err(Error::shape("add", "needs two inputs")),
        }
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => {
                let (a, b) = (io.input(0), io.input(1));
                parallel::for_each_rows(io.output(0), 1, CHUNK, |first, y| {
                    let sums = a[first..].iter().zip(&b[first..]);
                    y.iter_mut().zip(sums).for_each(|(y, (a, b))| *y = a + b);
                });
            }
            Device::Cuda(gpu) => {
                let n = io.shape(0).len();
                let args = args![io.input_on(0), io.input_on(1), n, io.output_on(0)];
                gpu.launch(&KERNELS, "add_forward", Grid::strided(n), args)?;
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => {
                let Some(d_y) = io.d_output(0) else {
                    return Ok(());
                };
                for input in 0..2 {
                    let Some(d) = io.d_input(input) else { continue };
                    parallel::for_each_rows(d, 1, CHUNK, |first, d| {
                        d.iter_mut().zip(&d_y[first..]).for_each(|(d, y)| *d += y);
                    });
                }
            }
            Device::Cuda(gpu) => {
                let n = io.shape(0).len();
                for input in 0..2 {
                    if let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(input)) {
                        let args = args![d_y, n, d_x];
                        gpu.launch(&KERNELS, "add_backward", Grid::strided(n), args)?;
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
        for rows in [0, 1, 33] {
            Check::new(Add)
                .input(rows, 5)
                .input(rows, 5)
                .run(|x| vec![x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect()]);
        }
    }
}
