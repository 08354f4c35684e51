//! Cross entropy of logits and labels: the loss of semantic segmentation.
//!
//! L = Σ_n w_n (−log softmax(x_n)[t_n]) / Σ_n w_n,  w_n = class weight of t_n × weight of row n
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | logits |
//! | target | N | labels in 0..C, or the ignore label, whose rows have weight 0 |
//! | class weights, row weights | C, N | optional, finite and not negative; 1 by default |
//! | L | [1, 1] | weighted mean, as PyTorch computes it; 0 when all weights are 0, where PyTorch gives NaN |
//!
//! Backward: dx = w/Σw (softmax(x) − onehot(t)) dL; a row of weight 0 gets nothing, whatever its logits are.
//! Saves: the probabilities and w/Σw, O(N·C). Time: O(N·C).
//! Errors: a label outside 0..C that is not the ignore label; a weight that is negative or not finite.

use super::softmax::{ROWS, softmax_row};
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Array, Device, Gpu, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use rayon::prelude::*;

kernels!("cross_entropy");

/// Rows of a block of the backward kernel.
const ROWS_OF_BLOCK: usize = 64;

/// Weighted mean of −log softmax(x)\[target\].
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    target: Array<i32>,
    ignore: i32,
    class_weights: Option<Array<f32>>,
    row_weights: Option<Array<f32>>,
}

impl CrossEntropy {
    /// One label per row; rows with the label `ignore` do not count.
    pub fn new(target: Array<i32>, ignore: i32) -> Self {
        CrossEntropy {
            target,
            ignore,
            class_weights: None,
            row_weights: None,
        }
    }

    /// A weight per class, by which its rows count.
    pub fn with_class_weights(mut self, weights: Array<f32>) -> Self {
        self.class_weights = Some(weights);
        self
    }

    /// A weight per row.
    pub fn with_row_weights(mut self, weights: Array<f32>) -> Self {
        self.row_weights = Some(weights);
        self
    }

    /// Weight of a row.
    fn weight(&self, row: usize) -> f32 {
        let label = self.target[row];
        if label == self.ignore {
            return 0.0;
        }
        let class = self
            .class_weights
            .as_ref()
            .map_or(1.0, |w| w[label as usize]);
        class * self.row_weights.as_ref().map_or(1.0, |w| w[row])
    }
}

/// Refuses labels that are neither a class nor `ignore`, and a number of labels that is not that of the rows.
pub(super) fn check_labels(op: &str, x: Shape, target: &[i32], ignore: i32) -> Result<()> {
    if target.len() != x.rows {
        let fault = format!("{} labels for logits {x}", target.len());
        return Err(Error::shape(op, fault));
    }
    let known = |t: i32| t == ignore || (t >= 0 && (t as usize) < x.cols);
    match target.iter().position(|t| !known(*t)) {
        Some(row) => Err(Error::shape(
            op,
            format!(
                "label {} of row {row} is neither one of the {} classes nor {ignore} (ignored)",
                target[row], x.cols
            ),
        )),
        None => Ok(()),
    }
}

fn check_weights(what: &str, weights: Option<&Array<f32>>, count: usize) -> Result<()> {
    let Some(weights) = weights else {
        return Ok(());
    };
    let fault = |fault: String| Err(Error::shape("cross_entropy", format!("{what} {fault}")));
    if weights.len() != count {
        return fault(format!(
            "weights: {} where {count} are needed",
            weights.len()
        ));
    }
    match weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        Some(i) => fault(format!("weight {i} is {}", weights[i])),
        None => Ok(()),
    }
}

/// Probabilities and weighted losses of a chunk of rows.
struct Losses<'a> {
    x: &'a [f32],
    target: &'a [i32],
    weights: &'a [f32],
    p: &'a mut [f32],
    losses: &'a mut [f32],
    cols: usize,
}

impl Kernel for Losses<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact(self.cols);
        for (n, (x, p)) in rows.zip(self.p.chunks_exact_mut(self.cols)).enumerate() {
            let (largest, sum) = softmax_row(s, x, p);
            self.losses[n] = if self.weights[n] == 0.0 {
                0.0
            } else {
                self.weights[n] * (sum.ln() - (x[self.target[n] as usize] - largest))
            };
        }
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("cross_entropy", "needs one input"));
        };
        check_labels("cross_entropy", *x, &self.target, self.ignore)?;
        check_weights("class", self.class_weights.as_ref(), x.cols)?;
        check_weights("row", self.row_weights.as_ref(), x.rows)?;
        Ok(Plan {
            saved: vec![x.len(), x.rows],
            forward_scratch: x.len() + 2 * x.rows,
            forward_scratch_cuda: 2 * x.rows,
            ..Plan::of(Shape::new(1, 1))
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

impl CrossEntropy {
    fn cpu_forward(&self, io: &mut Forward<'_>) {
        let (x, Shape { rows, cols }) = (io.input(0), io.shape(0));
        let (losses, scratch) = io.scratch().split_at_mut(rows);
        let (p, weights) = match io.saves() {
            true => (io.saved(0), io.saved(1)),
            false => scratch.split_at_mut(rows * cols),
        };
        let mut total = 0.0;
        for (row, weight) in weights.iter_mut().enumerate() {
            *weight = self.weight(row);
            total += f64::from(*weight);
        }
        if total > 0.0 {
            weights
                .iter_mut()
                .for_each(|w| *w = (f64::from(*w) / total) as f32);
        }
        let weights = &*weights;
        // without classes there is no valid label, and every weight is 0
        let width = cols.max(1);
        losses.fill(0.0);
        p.par_chunks_mut(ROWS * width)
            .zip(losses.par_chunks_mut(ROWS))
            .enumerate()
            .for_each(|(chunk, (p, losses))| {
                let first = chunk * ROWS;
                dispatch(Losses {
                    x: &x[first * cols..][..p.len()],
                    target: &self.target[first..],
                    weights: &weights[first..],
                    p,
                    losses,
                    cols: width,
                });
            });
        let loss: f64 = losses.iter().map(|l| f64::from(*l)).sum();
        io.output(0)[0] = loss as f32;
    }

    fn cpu_backward(&self, io: &mut Backward<'_>) {
        let (Some(d_loss), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
            return;
        };
        let (p, weights, cols) = (io.saved(0), io.saved(1), io.shape(0).cols);
        parallel::for_each_rows(d_x, cols, ROWS, |first, d_x| {
            for (n, d_x) in d_x.chunks_exact_mut(cols).enumerate() {
                let row = first + n;
                let weight = weights[row] * d_loss[0];
                if weights[row] == 0.0 {
                    continue;
                }
                let p = &p[row * cols..][..cols];
                d_x.iter_mut().zip(p).for_each(|(d, p)| *d += weight * p);
                d_x[self.target[row] as usize] -= weight;
            }
        });
    }
}

impl CrossEntropy {
    fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let (x, Shape { rows, cols }) = (io.input_on(0), io.shape(0));
        let target = self.target.on(gpu)?;
        let on = |weights: &Option<Array<f32>>| weights.as_ref().map(|w| w.on(gpu)).transpose();
        let (class_weights, row_weights) = (on(&self.class_weights)?, on(&self.row_weights)?);
        let losses = io.scratch_on();
        let weights = io.saved_on(1).unwrap_or(losses.offset(rows));
        let ignore = self.ignore as u32; // the same bits: kernels compare them only
        let args = args![target, class_weights, row_weights, rows, ignore, weights];
        gpu.launch(&KERNELS, "cross_entropy_weights", Grid::strided(rows), args)?;
        let one = Grid::new(1, 1024);
        gpu.launch(
            &KERNELS,
            "cross_entropy_normalise",
            one,
            args![rows, weights],
        )?;
        let args = args![
            x,
            target,
            weights,
            rows,
            cols as u32,
            io.saved_on(0),
            losses
        ];
        gpu.launch(&KERNELS, "cross_entropy_forward", Grid::warps(rows), args)?;
        let args = args![losses, rows, io.output_on(0)];
        gpu.launch(&KERNELS, "cross_entropy_total", one, args)
    }

    fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let (Some(d_loss), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) else {
            return Ok(());
        };
        let Shape { rows, cols } = io.shape(0);
        let (p, weights, target) = (io.saved_on(0), io.saved_on(1), self.target.on(gpu)?);
        let args = args![p, weights, target, d_loss, rows, cols as u32, d_x];
        let grid = Grid::new(rows.div_ceil(ROWS_OF_BLOCK), 256);
        gpu.launch(&KERNELS, "cross_entropy_backward", grid, args)
    }
}

#[cfg(test)]
mod tests {
    use super::super::softmax::naive_softmax;
    use super::*;
    use crate::geometry::golden::Golden;
    use crate::graph::check::{Check, assert_close, spread};
    use crate::ops::reference::loss_and_gradient;

    fn labels(rows: usize, cols: usize) -> Array<i32> {
        let label = |n: usize| {
            if n % 5 == 3 {
                -1
            } else {
                (n * 7 % cols) as i32
            }
        };
        Array::from((0..rows).map(label).collect::<Vec<_>>())
    }

    fn naive(op: &CrossEntropy, x: &[f64], cols: usize) -> Vec<Vec<f64>> {
        let (mut sum, mut total) = (0.0, 0.0);
        for (n, row) in x.chunks(cols).enumerate() {
            if op.target[n] != op.ignore {
                let class = op.target[n] as usize;
                let weight = f64::from(op.weight(n));
                sum -= weight * naive_softmax(row)[class].ln();
                total += weight;
            }
        }
        vec![vec![if total > 0.0 { sum / total } else { 0.0 }]]
    }

    #[test]
    fn matches_naive() {
        for (rows, cols) in [(0, 3), (1, 4), (60, 13), (1000, 3)] {
            let op = CrossEntropy::new(labels(rows, cols), -1);
            let positive = |n: usize, seed| {
                let values = spread(Shape::new(1, n), seed);
                Array::from(values.iter().map(|w| w.abs()).collect::<Vec<_>>())
            };
            let weighted = op
                .clone()
                .with_class_weights(positive(cols, 5))
                .with_row_weights(positive(rows, 6));
            for op in [op, weighted] {
                Check::new(op.clone())
                    .input(rows, cols)
                    .run(|x| naive(&op, &x[0], cols));
            }
        }
    }

    #[test]
    fn labels_outside_the_classes_are_named() {
        let op = CrossEntropy::new(Array::from(vec![0, 2, 255]), 255);
        assert!(op.plan(&[Shape::new(3, 3)]).is_ok());
        let error = op.plan(&[Shape::new(3, 2)]).unwrap_err().to_string();
        assert!(error.contains("label 2 of row 1"), "{error}");
        assert!(op.plan(&[Shape::new(2, 3)]).is_err());
        let negative = CrossEntropy::new(Array::from(vec![-2]), -1);
        assert!(negative.plan(&[Shape::new(1, 3)]).is_err());
    }

    #[test]
    fn weights_that_make_no_sense_are_refused() {
        for weights in [vec![1.0], vec![1.0, -1.0], vec![1.0, f32::NAN]] {
            let op = CrossEntropy::new(Array::from(vec![0]), -1);
            let op = op.with_class_weights(Array::from(weights));
            assert!(op.plan(&[Shape::new(1, 2)]).is_err());
        }
    }

    #[test]
    fn rows_without_weight_cannot_spoil_the_loss() {
        let op = CrossEntropy::new(Array::from(vec![-1, 1]), -1);
        let logits = vec![f32::NAN, f32::INFINITY, 0.0, 0.0];
        let (loss, d_x) = loss_and_gradient(op, logits, 2);
        assert!((loss - 2f32.ln()).abs() < 1e-6);
        assert_eq!(d_x, [0.0, 0.0, 0.5, -0.5]);
        let op = CrossEntropy::new(Array::from(vec![-1, -1]), -1);
        assert_eq!(loss_and_gradient(op, vec![1.0; 4], 2), (0.0, vec![0.0; 4]));
    }

    #[test]
    fn agrees_with_the_reference() {
        let golden = Golden::open("op_loss");
        let target: Vec<i32> = golden.i64("target").iter().map(|t| *t as i32).collect();
        let op = CrossEntropy::new(Array::from(target), -1);
        let (loss, d_x) = loss_and_gradient(op, golden.f32("logits"), 13);
        assert_close(&[loss], &golden.f32("ce"), 2e-6, "loss");
        assert_close(&d_x, &golden.f32("ce_grad"), 2e-6, "gradient");
    }
}
