//! Random masks: dropout of single values, drop path of whole rows (timm's DropPath, per point).
//!
//! y = x · m / (1 − p), with m = 1 with probability 1 − p, else 0
//!
//! Masks come from the node's counter-based stream, by value or by row, so backward draws them again and every device
//! draws the same. Saves and reads nothing. Layers record these in training only.

use crate::device::cuda::{Grid, args, kernels};
use crate::device::random::Random;
use crate::device::{Device, Gpu, Pointer, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Rows of one parallel chunk.
const ROWS: usize = 256;
/// Values of one parallel chunk.
const VALUES: usize = 1 << 12;

kernels!("drop");

/// Drops single values with probability `rate`.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability of a value to become 0, in [0, 1).
    pub rate: f32,
}

/// Drops whole rows with probability `rate`.
#[derive(Debug, Clone, Copy)]
pub struct DropPath {
    /// Probability of a row to become 0, in [0, 1).
    pub rate: f32,
}

fn plan(op: &str, rate: f32, inputs: &[Shape]) -> Result<Plan> {
    match inputs {
        [x] if (0.0..1.0).contains(&rate) => Ok(Plan::of(*x)),
        [_] => Err(Error::shape(op, format!("rate {rate} is not in [0, 1)"))),
        _ => Err(Error::shape(op, "needs one input")),
    }
}

/// Writes or adds `x`, every value or every row times its factor.
struct Mask {
    random: Random,
    rate: f32,
    add: bool,
}

impl Mask {
    fn factor(&self, index: usize) -> f32 {
        keep(self.random, self.rate, index as u64)
    }

    fn put(&self, y: &mut f32, x: f32) {
        *y = if self.add { *y + x } else { x };
    }

    fn values(&self, x: &[f32], y: &mut [f32]) {
        parallel::for_each_rows(y, 1, VALUES, |first, y| {
            for (i, (y, x)) in y.iter_mut().zip(&x[first..]).enumerate() {
                self.put(y, x * self.factor(first + i));
            }
        });
    }

    fn rows(&self, x: &[f32], y: &mut [f32], cols: usize) {
        parallel::for_each_rows(y, cols, ROWS, |first, y| {
            let rows = y
                .chunks_exact_mut(cols)
                .zip(x[first * cols..].chunks_exact(cols));
            for (i, (y, x)) in rows.enumerate() {
                let factor = self.factor(first + i);
                y.iter_mut()
                    .zip(x)
                    .for_each(|(y, x)| self.put(y, x * factor));
            }
        });
    }
}

impl Mask {
    /// As `rows`, on a GPU.
    fn rows_on(&self, gpu: Gpu, x: Pointer, shape: Shape, y: Pointer) -> Result<()> {
        let [seed, stream] = self.random.words();
        let n = shape.len();
        let args = args![x, n, shape.cols, seed, stream, self.rate, self.add, y];
        gpu.launch(&KERNELS, "drop", Grid::strided(n), args)
    }
}

fn mask(random: Random, rate: f32, add: bool) -> Mask {
    Mask { random, rate, add }
}

fn keep(random: Random, rate: f32, index: u64) -> f32 {
    if random.uniform_f32(index) < rate {
        0.0
    } else {
        1.0 / (1.0 - rate)
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        plan(self.name(), self.rate, inputs)
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let mask = mask(io.random(), self.rate, false);
        match io.device() {
            Device::Cpu => mask.values(io.input(0), io.output(0)),
            Device::Cuda(gpu) => {
                let shape = Shape::new(io.shape(0).len(), 1);
                mask.rows_on(gpu, io.input_on(0), shape, io.output_on(0))?;
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let mask = mask(io.random(), self.rate, true);
        match io.device() {
            Device::Cpu => {
                if let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) {
                    mask.values(d_y, d_x);
                }
            }
            Device::Cuda(gpu) => {
                if let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) {
                    mask.rows_on(gpu, d_y, Shape::new(io.shape(0).len(), 1), d_x)?;
                }
            }
        }
        Ok(())
    }
}

impl Op for DropPath {
    fn name(&self) -> &'static str {
        "drop_path"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        plan(self.name(), self.rate, inputs)
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let (shape, mask) = (io.shape(0), mask(io.random(), self.rate, false));
        match io.device() {
            Device::Cpu => mask.rows(io.input(0), io.output(0), shape.cols),
            Device::Cuda(gpu) => mask.rows_on(gpu, io.input_on(0), shape, io.output_on(0))?,
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let (shape, mask) = (io.shape(0), mask(io.random(), self.rate, true));
        match io.device() {
            Device::Cpu => {
                if let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) {
                    mask.rows(d_y, d_x, shape.cols);
                }
            }
            Device::Cuda(gpu) => {
                if let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) {
                    mask.rows_on(gpu, d_y, shape, d_x)?;
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
    fn masks_match_naive() {
        let random = Random::new(5, 0); // the stream of the test driver
        Check::new(Dropout { rate: 0.3 }).input(50, 7).run(|x| {
            let kept = x[0].iter().enumerate();
            vec![
                kept.map(|(i, x)| x * f64::from(keep(random, 0.3, i as u64)))
                    .collect(),
            ]
        });
        Check::new(DropPath { rate: 0.3 }).input(50, 7).run(|x| {
            let kept = x[0].iter().enumerate();
            vec![
                kept.map(|(i, x)| x * f64::from(keep(random, 0.3, i as u64 / 7)))
                    .collect(),
            ]
        });
    }

    #[test]
    fn the_share_of_dropped_rows_is_the_rate() {
        let mask = mask(Random::new(1, 1), 0.3, false);
        let dropped = (0..10_000).filter(|row| mask.factor(*row) == 0.0).count();
        assert!((2_800..3_200).contains(&dropped), "{dropped}");
    }

    #[test]
    fn a_rate_of_one_is_refused() {
        assert!(DropPath { rate: 1.0 }.plan(&[Shape::new(1, 1)]).is_err());
    }
}
