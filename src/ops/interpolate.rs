//! Inverse-distance interpolation from the three nearest coarse points (PTv2 and PointNet++ feature propagation).
//!
//! y[i] = Σ_k w[i, k] x[index[i, k]]
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [S, C] | coarse features |
//! | stencil | N × 3 | rows and weights from `geometry::Interpolation` |
//! | y | [N, C] | fine features |
//!
//! Backward: dx[s] = Σ w dy[i] over the stencils that use s, in ascending order. Saves and reads nothing.

use super::gather::{AddRow, Listed, add_listed_rows};
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::dispatch;
use crate::device::{Device, parallel};
use crate::geometry::Interpolation;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::Arc;

/// Rows of one parallel chunk.
const ROWS: usize = 256;

kernels!("interpolate");

/// Weighted sum of the rows of a stencil.
#[derive(Debug, Clone)]
pub struct Interpolate {
    stencil: Arc<Interpolation>,
}

impl Interpolate {
    /// Interpolates with `stencil`.
    pub fn new(stencil: Arc<Interpolation>) -> Self {
        Interpolate { stencil }
    }
}

impl Op for Interpolate {
    fn name(&self) -> &'static str {
        "interpolate"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("interpolate", "needs one input"));
        };
        if self.stencil.points != x.rows {
            let fault = format!(
                "{x} but the stencil is made for {} rows",
                self.stencil.points
            );
            return Err(Error::shape("interpolate", fault));
        }
        Ok(Plan::of(Shape::new(self.stencil.len(), x.cols)))
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let (cols, k) = (io.shape(0).cols, self.stencil.k);
        match io.device() {
            Device::Cuda(gpu) => {
                let (index, weight) = (self.stencil.index.on(gpu)?, self.stencil.weight.on(gpu)?);
                let n = self.stencil.len() * cols;
                let args = args![
                    io.input_on(0),
                    index,
                    weight,
                    k as u32,
                    n,
                    cols as u32,
                    io.output_on(0)
                ];
                gpu.launch(&KERNELS, "interpolate_forward", Grid::strided(n), args)?;
            }
            Device::Cpu => {
                let x = io.input(0);
                parallel::for_each_rows(io.output(0), cols, ROWS, |first, y| {
                    for (i, y) in y.chunks_exact_mut(cols).enumerate() {
                        y.fill(0.0);
                        for slot in (first + i) * k..(first + i + 1) * k {
                            let weight = self.stencil.weight[slot];
                            let row = &x[self.stencil.index[slot] as usize * cols..][..cols];
                            dispatch(AddRow {
                                sum: y,
                                row,
                                weight,
                            });
                        }
                    }
                });
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let stencil = &self.stencil;
        match io.device() {
            Device::Cuda(gpu) => {
                if let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) {
                    let rows = Listed {
                        lists: stencil.try_transposed()?,
                        weight: Some(stencil.weight.on(gpu)?),
                        k: stencil.k,
                    };
                    rows.add(gpu, d_y, io.shape(0).cols, d_x)?;
                }
            }
            Device::Cpu => {
                let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
                    return Ok(());
                };
                add_listed_rows(d_x, io.shape(0).cols, stencil.transposed(), d_y, |e, _| {
                    (stencil.k, stencil.weight[e])
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::golden::Golden;
    use crate::graph::check::{Check, assert_close, spread};
    use crate::ops::reference::run;

    #[test]
    fn agrees_with_the_reference() {
        let golden = Golden::open("op_interpolation");
        for scale in ["room", "wide"] {
            let stencil = Interpolation::new(
                &golden.points(&format!("{scale}.new_coord")),
                &golden.offsets("new_offset"),
                &golden.points(&format!("{scale}.coord")),
                &golden.offsets("offset"),
            );
            let op = Interpolate::new(Arc::new(stencil.unwrap()));
            let feat = (Shape::new(42, 10), golden.f32("feat"));
            let (outputs, gradients) = run(op, &[feat], golden.f32("upstream"));
            let want = golden.f32(&format!("{scale}.out"));
            assert_close(&outputs[0], &want, 2e-6, scale);
            let want = golden.f32(&format!("{scale}.grad_feat"));
            assert_close(gradients[0].as_ref().unwrap(), &want, 2e-6, scale);
        }
    }

    #[test]
    fn matches_naive() {
        let points = |n: usize, seed| -> Vec<[f32; 3]> {
            let values = spread(Shape::new(n, 3), seed);
            values.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect()
        };
        for (fine, coarse) in [(40, 9), (5, 2), (0, 4)] {
            let (f, c) = (points(fine, 3), points(coarse, 4));
            let stencil = Interpolation::new(&f, &[0, fine], &c, &[0, coarse]).unwrap();
            let stencil = Arc::new(stencil);
            Check::new(Interpolate::new(stencil.clone()))
                .input(coarse, 6)
                .run(|x| {
                    let value = |i: usize, c: usize| -> f64 {
                        let slots = i * 3..i * 3 + 3;
                        let term = |s: usize| {
                            f64::from(stencil.weight[s]) * x[0][stencil.index[s] as usize * 6 + c]
                        };
                        slots.map(term).sum()
                    };
                    vec![(0..fine * 6).map(|e| value(e / 6, e % 6)).collect()]
                });
        }
    }
}
