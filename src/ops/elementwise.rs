//! What ops on single values share: a shape rule, and how their kernels run over all values on each device.

use crate::Result;
use crate::device::cuda::{Arg, Grid, Kernels};
use crate::device::{Device, parallel};
use crate::graph::{Backward, Forward, Op, Shape};

/// Values of one parallel chunk.
const CHUNK: usize = 1 << 13;

/// The shape of the only input of `op`.
pub(super) fn only_input(op: &impl Op, inputs: &[Shape]) -> Result<Shape> {
    match inputs {
        [x] => Ok(*x),
        _ => Err(crate::Error::shape(op.name(), "needs one input")),
    }
}

/// Computes y from x: `run(x, y)` in parallel on the CPU; `kernel` with x, the count, `options` and y on a GPU.
pub(super) fn forward(
    io: &mut Forward<'_>,
    (kernels, kernel): (&'static Kernels, &str),
    options: &[Arg],
    run: impl Fn(&[f32], &mut [f32]) + Send + Sync,
) -> Result<()> {
    match io.device() {
        Device::Cuda(gpu) => {
            let n = io.shape(0).len();
            let (x, y) = (io.input_on(0), io.output_on(0));
            let args = [&[x.into(), n.into()], options, &[y.into()]].concat();
            gpu.launch(kernels, kernel, Grid::strided(n), &args)
        }
        Device::Cpu => {
            let x = io.input(0);
            parallel::for_each_rows(io.output(0), 1, CHUNK, |first, y| {
                run(&x[first..first + y.len()], y);
            });
            Ok(())
        }
    }
}

/// What backward looks at besides the gradient.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given {
    /// x
    Input,
    /// y
    Output,
}

/// Adds to d_x: `run(given, d_y, d_x)` in parallel on the CPU; `kernel` with what is given, d_y, the count, `options` and
/// d_x on a GPU.
pub(super) fn backward(
    io: &mut Backward<'_>,
    given: Given,
    (kernels, kernel): (&'static Kernels, &str),
    options: &[Arg],
    run: impl Fn(&[f32], &[f32], &mut [f32]) + Send + Sync,
) -> Result<()> {
    match io.device() {
        Device::Cuda(gpu) => {
            let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) else {
                return Ok(());
            };
            let n = io.shape(0).len();
            let given = match given {
                Given::Input => io.input_on(0),
                Given::Output => io.output_on(0),
            };
            let args = [
                &[given.into(), d_y.into(), n.into()],
                options,
                &[d_x.into()],
            ]
            .concat();
            gpu.launch(kernels, kernel, Grid::strided(n), &args)
        }
        Device::Cpu => {
            let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
                return Ok(());
            };
            let given = match given {
                Given::Input => io.input(0),
                Given::Output => io.output(0),
            };
            parallel::for_each_rows(d_x, 1, CHUNK, |first, d_x| {
                let range = first..first + d_x.len();
                run(&given[range.clone()], &d_y[range], d_x);
            });
            Ok(())
        }
    }
}
