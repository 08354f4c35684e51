//! Rectified linear unit, alone or over a sum.
//!
//! y = max(x, 0)        y = max(a + b, 0), the end of a residual block
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x, a, b | [N, C] | features |
//! | y | [N, C] | rectified features |
//!
//! Backward: the gradient passes where y > 0. Saves: nothing, reads its own output. Time and memory: O(N·C).

use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Device, Gpu, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Values per parallel chunk.
const CHUNK: usize = 1 << 14;

kernels!("relu");

/// y = max(x, 0).
#[derive(Debug, Clone, Copy)]
pub struct Relu;

/// y = max(a + b, 0).
#[derive(Debug, Clone, Copy)]
pub struct AddRelu;

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("relu", "needs one input"));
        };
        Ok(Plan {
            reads_outputs: vec![0],
            ..Plan::of(*x)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => {
                let x = io.input(0);
                parallel::for_each_rows(io.output(0), 1, CHUNK, |first, y| {
                    y.iter_mut()
                        .zip(&x[first..])
                        .for_each(|(y, x)| *y = rectify(*x));
                });
            }
            Device::Cuda(gpu) => {
                let n = io.shape(0).len();
                let args = args![io.input_on(0), n, io.output_on(0)];
                gpu.launch(&KERNELS, "relu_forward", Grid::strided(n), args)?;
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => cpu_backward(io, 0),
            Device::Cuda(gpu) => cuda_backward(gpu, io, 0)?,
        }
        Ok(())
    }
}

impl Op for AddRelu {
    fn name(&self) -> &'static str {
        "add_relu"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        match inputs {
            [a, b] if a == b => Ok(Plan {
                reads_outputs: vec![0],
                ..Plan::of(*a)
            }),
            [a, b] => Err(Error::shape("add_relu", format!("{a} and {b} differ"))),
            _ => Err(Error::shape("add_relu", "needs two inputs")),
        }
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => {
                let (a, b) = (io.input(0), io.input(1));
                parallel::for_each_rows(io.output(0), 1, CHUNK, |first, y| {
                    let sums = a[first..].iter().zip(&b[first..]);
                    y.iter_mut()
                        .zip(sums)
                        .for_each(|(y, (a, b))| *y = rectify(a + b));
                });
            }
            Device::Cuda(gpu) => {
                let n = io.shape(0).len();
                let args = args![io.input_on(0), io.input_on(1), n, io.output_on(0)];
                gpu.launch(&KERNELS, "add_relu_forward", Grid::strided(n), args)?;
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => {
                cpu_backward(io, 0);
                cpu_backward(io, 1);
            }
            Device::Cuda(gpu) => {
                cuda_backward(gpu, io, 0)?;
                cuda_backward(gpu, io, 1)?;
            }
        }
        Ok(())
    }
}

/// max(x, 0); NaN stays NaN.
#[inline]
pub(super) fn rectify(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn cpu_backward(io: &mut Backward<'_>, input: usize) {
    let (Some(d_x), Some(d_y)) = (io.d_input(input), io.d_output(0)) else {
        return;
    };
    let y = io.output(0);
    parallel::for_each_rows(d_x, 1, CHUNK, |first, d_x| {
        let (y, d_y) = (&y[first..], &d_y[first..]);
        dispatch(Pass { y, d_y, d_x });
    });
}

/// d_x += d_y where y > 0.
struct Pass<'a> {
    y: &'a [f32],
    d_y: &'a [f32],
    d_x: &'a mut [f32],
}

impl Kernel for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for ((d_x, y), d_y) in self.d_x.iter_mut().zip(self.y).zip(self.d_y) {
            let d_y = *d_y; // read whatever y is: a choice, not a branch
            *d_x += if *y > 0.0 { d_y } else { 0.0 };
        }
    }
}

fn cuda_backward(gpu: Gpu, io: &Backward<'_>, input: usize) -> Result<()> {
    let (Some(d_x), Some(d_y)) = (io.d_input_on(input), io.d_output_on(0)) else {
        return Ok(());
    };
    let n = io.shape(input).len();
    let args = args![io.output_on(0), d_y, n, d_x];
    gpu.launch(&KERNELS, "relu_backward", Grid::strided(n), args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::Check;

    #[test]
    fn relu_matches_naive() {
        for rows in [0, 1, 37, 2000] {
            Check::new(Relu)
                .input(rows, 5)
                .run(|x| vec![x[0].iter().map(|x| x.max(0.0)).collect()]);
        }
    }

    #[test]
    fn add_relu_matches_naive() {
        Check::new(AddRelu).input(23, 7).input(23, 7).run(|x| {
            let sums = x[0].iter().zip(&x[1]);
            vec![sums.map(|(a, b)| (a + b).max(0.0)).collect()]
        });
    }

    #[test]
    fn shapes_that_differ_are_rejected() {
        assert!(AddRelu.plan(&[Shape::new(2, 3), Shape::new(3, 2)]).is_err());
    }
}
