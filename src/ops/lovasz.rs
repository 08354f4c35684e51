//! Lovász softmax: a differentiable stand-in for the mean IoU (Berman, Rannen Triki and Blaschko 2018, section 3).
//!
//! p = softmax(x);  e_c = |[t = c] − p_c| over the counted rows, in descending order;  L_c = Σ_k e_c,k (J_k − J_k−1)
//!
//! with J_k = 1 − (T − F_k) / (T + k − F_k), T the rows of class c and F_k how many of them are among the first k.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | logits |
//! | target | N | labels in 0..C, or the ignore label, whose rows do not count |
//! | L | [1, 1] | mean of L_c over the classes that occur in the labels; 0 when none does |
//!
//! Backward: dp_c = ±(J_k − J_k−1) / number of classes present, then through the softmax. Equal errors keep the order
//! of their rows. Saves: dL/dx, O(N·C). Scratch: O(N·C). Time: O(C·N), by a radix sort per class.
//! Errors: a label outside 0..C that is not the ignore label.

mod cuda;

use super::cross_entropy::check_labels;
use super::softmax::{ROWS, Rows};
use crate::device::simd::dispatch;
use crate::device::{Array, Device, parallel};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use rayon::prelude::*;

/// Mean over present classes of the Lovász extension of the Jaccard loss.
#[derive(Debug, Clone)]
pub struct LovaszSoftmax {
    target: Array<i32>,
    ignore: i32,
}

impl LovaszSoftmax {
    /// One label per row; rows with the label `ignore` do not count.
    pub fn new(target: Array<i32>, ignore: i32) -> Self {
        LovaszSoftmax { target, ignore }
    }
}

/// Words of scratch per row and class: sort keys with row numbers, twice, and dL/dp.
const CLASS_WORDS: usize = 5;

impl Op for LovaszSoftmax {
    fn name(&self) -> &'static str {
        "lovasz_softmax"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("lovasz_softmax", "needs one input"));
        };
        check_labels("lovasz_softmax", *x, &self.target, self.ignore)?;
        Ok(Plan {
            saved: vec![x.len()],
            forward_scratch: (1 + CLASS_WORDS) * x.len(),
            forward_scratch_cuda: cuda::forward_scratch(*x),
            ..Plan::of(Shape::new(1, 1))
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::forward(self, gpu, io)?,
            Device::Cpu => self.cpu_forward(io),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::backward(gpu, io)?,
            Device::Cpu => {
                let (Some(d_loss), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
                    return Ok(());
                };
                let unit = io.saved(0);
                parallel::for_each_rows(d_x, 1, 1 << 14, |first, d_x| {
                    let pairs = d_x.iter_mut().zip(&unit[first..]);
                    pairs.for_each(|(d, u)| *d += d_loss[0] * u);
                });
            }
        }
        Ok(())
    }
}

impl LovaszSoftmax {
    fn cpu_forward(&self, io: &mut Forward<'_>) {
        let (x, Shape { rows, cols }) = (io.input(0), io.shape(0));
        let (p, classes) = io.scratch().split_at_mut(rows * cols);
        parallel::for_each_rows(p, cols, ROWS, |first, p| {
            let x = &x[first * cols..][..p.len()];
            dispatch(Rows { x, p, cols });
        });
        let p = &*p;
        let losses: Vec<Option<f64>> = classes
            .par_chunks_mut((CLASS_WORDS * rows).max(1))
            .enumerate()
            .map(|(class, slot)| self.class_loss(class, p, cols, slot))
            .collect();
        let present = losses.iter().flatten().count();
        let share = 1.0 / present.max(1) as f64;
        io.output(0)[0] = (losses.iter().flatten().sum::<f64>() * share) as f32;
        if io.saves() {
            let d_p = |class: usize, row: usize| classes[(CLASS_WORDS * class + 4) * rows + row];
            parallel::for_each_rows(io.saved(0), cols, ROWS, |first, d_x| {
                for (n, d_x) in d_x.chunks_exact_mut(cols).enumerate() {
                    let row = first + n;
                    let p = &p[row * cols..][..cols];
                    let mean: f32 = (0..cols).map(|c| p[c] * d_p(c, row)).sum();
                    for (c, d_x) in d_x.iter_mut().enumerate() {
                        *d_x = share as f32 * p[c] * (d_p(c, row) - mean);
                    }
                }
            });
        }
    }

    /// Loss of one class, `None` when no row has it. Leaves dL_c/dp in the last fifth of `slot`.
    fn class_loss(&self, class: usize, p: &[f32], cols: usize, slot: &mut [f32]) -> Option<f64> {
        let rows = self.target.len();
        let (pairs, d_p) = slot.split_at_mut(4 * rows);
        d_p.fill(0.0);
        let (pairs, _) = bytemuck::cast_slice_mut::<f32, u32>(pairs).as_chunks_mut::<2>();
        let (pairs, spare) = pairs.split_at_mut(rows);
        let is_class = |row: usize| self.target[row] == class as i32;
        let counted = || (0..rows).filter(|row| self.target[*row] != self.ignore);
        let size = counted().filter(|row| is_class(*row)).count();
        if size == 0 {
            return None;
        }
        let (mut count, mut is_finite) = (0, true);
        for row in counted() {
            let p = p[row * cols + class];
            let error = if is_class(row) { 1.0 - p } else { p };
            is_finite &= error.is_finite();
            pairs[count] = [ONE.saturating_sub(error.to_bits()), row as u32];
            count += 1;
        }
        if !is_finite {
            return Some(f64::NAN);
        }
        let (mut loss, mut before, mut hits) = (0.0, 0.0, 0);
        for (k, &[key, row]) in sort(&mut pairs[..count], spare).iter().enumerate() {
            let (error, hit) = (f32::from_bits(ONE - key), is_class(row as usize));
            hits += usize::from(hit);
            let union = size + (k + 1 - hits);
            let jaccard = 1.0 - (size - hits) as f64 / union as f64;
            let step = jaccard - before;
            before = jaccard;
            loss += f64::from(error) * step;
            // at an error of 0 the absolute value has a kink; PyTorch takes 0 there
            if error > 0.0 {
                d_p[row as usize] = if hit { -step as f32 } else { step as f32 };
            }
        }
        Some(loss)
    }
}

/// Bits of 1.0: the largest error. `ONE - bits` sorts errors in descending order and has 30 bits.
const ONE: u32 = 0x3F80_0000;

/// Digits of a sort key, in bits: three of them make 30.
const DIGIT: u32 = 10;

/// Sorts (key, row) by key, stable, in three passes over digits. The result lies in `spare`.
fn sort<'a>(pairs: &mut [[u32; 2]], spare: &'a mut [[u32; 2]]) -> &'a [[u32; 2]] {
    let spare = &mut spare[..pairs.len()];
    sort_digit(pairs, spare, 0);
    sort_digit(spare, pairs, DIGIT);
    sort_digit(pairs, spare, 2 * DIGIT);
    spare
}

fn sort_digit(from: &[[u32; 2]], to: &mut [[u32; 2]], shift: u32) {
    let digit = |key: u32| (key >> shift) as usize & ((1 << DIGIT) - 1);
    let mut starts = [0u32; 1 << DIGIT];
    for [key, _] in from {
        starts[digit(*key)] += 1;
    }
    let mut total = 0;
    for start in &mut starts {
        total += std::mem::replace(start, total);
    }
    for pair in from {
        let place = &mut starts[digit(pair[0])];
        to[*place as usize] = *pair;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::softmax::naive_softmax;
    use super::*;
    use crate::device::random::{Random, Sequence};
    use crate::geometry::golden::Golden;
    use crate::graph::check::{Check, assert_close};
    use crate::ops::reference::loss_and_gradient;

    fn naive(op: &LovaszSoftmax, x: &[f64], cols: usize) -> Vec<Vec<f64>> {
        let p: Vec<Vec<f64>> = x.chunks(cols).map(naive_softmax).collect();
        let counted: Vec<usize> = (0..p.len())
            .filter(|n| op.target[*n] != op.ignore)
            .collect();
        let (mut sum, mut present) = (0.0, 0);
        for (class, label) in (0..cols).zip(0i32..) {
            let hit = |n: &usize| op.target[*n] == label;
            let size = counted.iter().filter(|n| hit(n)).count() as f64;
            if size == 0.0 {
                continue;
            }
            let error = |n: &usize| (f64::from(u8::from(hit(n))) - p[*n][class]).abs();
            let mut order = counted.clone();
            order.sort_by(|a, b| error(b).total_cmp(&error(a)));
            let (mut hits, mut before) = (0.0, 0.0);
            for (k, n) in order.iter().enumerate() {
                hits += f64::from(u8::from(hit(n)));
                let jaccard = 1.0 - (size - hits) / (size + (k as f64 + 1.0 - hits));
                sum += error(n) * (jaccard - before);
                before = jaccard;
            }
            present += 1;
        }
        vec![vec![sum / f64::from(present.max(1))]]
    }

    #[test]
    fn matches_naive() {
        for (rows, cols) in [(0, 3), (1, 4), (40, 5), (601, 3)] {
            // the last class is absent
            let label = |n: usize| {
                if n % 5 == 3 {
                    -1
                } else {
                    (n * 7 % (cols - 1)) as i32
                }
            };
            let target = Array::from((0..rows).map(label).collect::<Vec<_>>());
            let op = LovaszSoftmax::new(target, -1);
            Check::new(op.clone())
                .input(rows, cols)
                .run(|x| naive(&op, &x[0], cols));
        }
    }

    #[test]
    fn sorting_keeps_the_order_of_equal_keys() {
        let mut random = Sequence::new(Random::new(3, 0));
        let mut pairs: Vec<[u32; 2]> = (0..3000)
            .map(|row| [random.below(1 << 30) as u32 >> (row % 30), row])
            .collect();
        let mut want = pairs.clone();
        want.sort_by_key(|p| p[0]);
        let mut spare = vec![[0; 2]; 3000];
        assert_eq!(sort(&mut pairs, &mut spare), want);
    }

    #[test]
    fn nothing_to_count_costs_nothing() {
        let op = LovaszSoftmax::new(Array::from(vec![9, 9]), 9);
        assert_eq!(loss_and_gradient(op, vec![1.0; 4], 2), (0.0, vec![0.0; 4]));
    }

    #[test]
    fn labels_outside_the_classes_are_refused() {
        let op = LovaszSoftmax::new(Array::from(vec![3]), -1);
        assert!(op.plan(&[Shape::new(1, 3)]).is_err());
    }

    #[test]
    fn a_logit_that_is_not_finite_shows_in_the_loss() {
        let op = LovaszSoftmax::new(Array::from(vec![0, 1]), -1);
        let (loss, _) = loss_and_gradient(op, vec![f32::NAN, 0.0, 0.0, 0.0], 2);
        assert!(loss.is_nan());
    }

    #[test]
    fn agrees_with_the_reference() {
        let golden = Golden::open("op_loss");
        let target: Vec<i32> = golden.i64("target").iter().map(|t| *t as i32).collect();
        let op = LovaszSoftmax::new(Array::from(target), -1);
        let (loss, d_x) = loss_and_gradient(op, golden.f32("logits"), 13);
        assert_close(&[loss], &golden.f32("lovasz"), 2e-6, "loss");
        assert_close(&d_x, &golden.f32("lovasz_grad"), 2e-6, "gradient");
    }
}
