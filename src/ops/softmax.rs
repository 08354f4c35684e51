//! Softmax over the values of each row: class probabilities from logits.
//!
//! p[n, c] = exp(x[n, c] − max_c x[n, c]) / Σ_c exp(x[n, c] − max_c x[n, c])
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | logits |
//! | p | [N, C] | probabilities; each row adds up to 1 |
//!
//! Backward: dx = p (dp − Σ_c p dp). Saves nothing, reads its own output. Time and memory: O(N·C).

use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Device, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Rows of one parallel chunk.
pub(super) const ROWS: usize = 256;

kernels!("softmax");

/// Probabilities of every row.
#[derive(Debug, Clone, Copy)]
pub struct Softmax;

/// Writes the softmax of one row and returns its largest value and the sum of the exponentials below it.
#[inline(always)]
pub(super) fn softmax_row<S: Simd>(s: S, x: &[f32], p: &mut [f32]) -> (f32, f32) {
    let mut largest = f32::NEG_INFINITY;
    for x in x {
        largest = if *x > largest { *x } else { largest };
    }
    for (p, x) in p.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let e = s.exp(s.sub(s.load_partial(x), s.splat(largest)));
        s.store_partial(p, e);
    }
    let mut sum = 0.0;
    for p in p.iter() {
        sum += *p;
    }
    let share = 1.0 / sum;
    for p in p.iter_mut() {
        *p *= share;
    }
    (largest, sum)
}

/// Softmax of a chunk of rows.
pub(super) struct Rows<'a> {
    pub x: &'a [f32],
    pub p: &'a mut [f32],
    pub cols: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact(self.cols);
        for (x, p) in rows.zip(self.p.chunks_exact_mut(self.cols)) {
            softmax_row(s, x, p);
        }
    }
}

/// dx += p (dp − Σ p dp) of a chunk of rows.
pub(super) struct Gradient<'a> {
    pub p: &'a [f32],
    pub d_p: &'a [f32],
    pub d_x: &'a mut [f32],
    pub cols: usize,
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let rows = self
            .p
            .chunks_exact(self.cols)
            .zip(self.d_p.chunks_exact(self.cols));
        for ((p, d_p), d_x) in rows.zip(self.d_x.chunks_exact_mut(self.cols)) {
            let mut mean = 0.0;
            for (p, d_p) in p.iter().zip(d_p) {
                mean += p * d_p;
            }
            for ((d_x, p), d_p) in d_x.iter_mut().zip(p).zip(d_p) {
                *d_x += p * (d_p - mean);
            }
        }
    }
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("softmax", "needs one input"));
        };
        Ok(Plan {
            reads_outputs: vec![0],
            ..Plan::of(*x)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => {
                let rows = io.shape(0).rows;
                let args = args![io.input_on(0), rows, cols as u32, io.output_on(0)];
                gpu.launch(&KERNELS, "softmax_forward", Grid::warps(rows), args)?;
            }
            Device::Cpu => {
                let x = io.input(0);
                parallel::for_each_rows(io.output(0), cols, ROWS, |first, p| {
                    let x = &x[first * cols..][..p.len()];
                    dispatch(Rows { x, p, cols });
                });
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => {
                if let (Some(d_p), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) {
                    let rows = io.shape(0).rows;
                    let args = args![io.output_on(0), d_p, rows, cols as u32, d_x];
                    gpu.launch(&KERNELS, "softmax_backward", Grid::warps(rows), args)?;
                }
            }
            Device::Cpu => {
                let (Some(d_p), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
                    return Ok(());
                };
                let p = io.output(0);
                parallel::for_each_rows(d_x, cols, ROWS, |first, d_x| {
                    let range = first * cols..first * cols + d_x.len();
                    dispatch(Gradient {
                        p: &p[range.clone()],
                        d_p: &d_p[range],
                        d_x,
                        cols,
                    });
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) fn naive_softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
    x.iter().map(|x| (x - largest).exp() / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::Check;

    #[test]
    fn matches_naive() {
        for (rows, cols) in [(0, 3), (1, 1), (1, 13), (300, 20), (17, 33)] {
            Check::new(Softmax)
                .input(rows, cols)
                .run(|x| vec![x[0].chunks(cols).flat_map(naive_softmax).collect()]);
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let mut p = [0.0; 3];
        let x = &[1e4, -1e4, 1e4];
        dispatch(Rows {
            x,
            p: &mut p,
            cols: 3,
        });
        assert_eq!(p, [0.5, p[1], 0.5]);
        assert!(p[1] < 1e-30);
    }
}
