//! Random masks: dropout of single values, drop path of whole rows (timm's DropPath, per point).
//!
//! y = x · m / (1 − p), with m = 1 with probability 1 − p, else 0
//!
//! Masks come from the node's counter-based stream, by value or by row, so backward draws them again and every device
//! draws the same. Saves and reads nothing. Layers record these in training only.

use crate::device::random::Random;
use crate::device::{Device, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Rows of one parallel chunk.
const ROWS: usize = 256;

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

/// Writes or adds the masked rows of `x`.
fn mask(
    x: &[f32],
    y: &mut [f32],
    cols: usize,
    add: bool,
    factor: impl Fn(usize, usize) -> f32 + Sync,
) {
    parallel::for_each_rows(y, cols, ROWS, |first, y| {
        let x = &x[first * cols..];
        let rows = y.chunks_exact_mut(cols).zip(x.chunks_exact(cols));
        for (i, (y, x)) in rows.enumerate() {
            for (c, (y, x)) in y.iter_mut().zip(x).enumerate() {
                let kept = x * factor(first + i, c);
                *y = if add { *y + kept } else { kept };
            }
        }
    });
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
        let (cols, random, rate) = (io.shape(0).cols, io.random(), self.rate);
        match io.device() {
            Device::Cpu => mask(io.input(0), io.output(0), cols, false, |row, c| {
                keep(random, rate, (row * cols + c) as u64)
            }),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let (cols, random, rate) = (io.shape(0).cols, io.random(), self.rate);
        if let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) {
            match io.device() {
                Device::Cpu => mask(d_y, d_x, cols, true, |row, c| {
                    keep(random, rate, (row * cols + c) as u64)
                }),
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
        let factors = self.factors(io.random(), io.shape(0).rows);
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cpu => mask(io.input(0), io.output(0), cols, false, |row, _| {
                factors[row]
            }),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let factors = self.factors(io.random(), io.shape(0).rows);
        let cols = io.shape(0).cols;
        if let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) {
            match io.device() {
                Device::Cpu => mask(d_y, d_x, cols, true, |row, _| factors[row]),
            }
        }
        Ok(())
    }
}

impl DropPath {
    fn factors(&self, random: Random, rows: usize) -> Vec<f32> {
        (0..rows)
            .map(|row| keep(random, self.rate, row as u64))
            .collect()
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
        let factors = DropPath { rate: 0.3 }.factors(Random::new(1, 1), 10_000);
        let dropped = factors.iter().filter(|f| **f == 0.0).count();
        assert!((2_800..3_200).contains(&dropped), "{dropped}");
    }

    #[test]
    fn a_rate_of_one_is_refused() {
        assert!(DropPath { rate: 1.0 }.plan(&[Shape::new(1, 1)]).is_err());
    }
}
