//! Relative positions of neighbour pairs as a value, for gradients with respect to coordinates.
//!
//! Δ_ij = x_j − x_i, 0 where the neighbour is missing
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, 3] | coordinates that the neighbour table was made of, metres |
//! | neighbors | N·K pairs | of every point in its own cloud |
//! | Δ | [N·K, 3] | offsets, equal to those of the table |
//!
//! `position_norm`, `relation`, `relation_multiplier` and `aggregate` take Δ as an optional last input. They read the
//! offsets of the table all the same; the input is where the gradient of the offsets goes. Without it nothing is
//! computed and nothing is stored for it. Which points are neighbours is held fixed.
//!
//! Backward: dx_j += Σ dΔ_ij over the pairs that j is the neighbour of, dx_i −= Σ_j dΔ_ij. Saves nothing. Time: O(N·K).

mod gradient;

use super::pairs::expect_shape;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Device, parallel};
use crate::geometry::{MISSING, Neighbors};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
pub(super) use gradient::{HiddenOn, add_offset_gradient, add_offset_gradient_on, sums_on};
use std::sync::Arc;

kernels!("offsets");

/// Points of one parallel chunk.
const POINTS: usize = 256;
/// Points that a warp of the backward kernel takes.
const OWNERS: usize = 8;

/// Δ; input x.
#[derive(Debug, Clone)]
pub struct Offsets {
    /// The pairs.
    pub neighbors: Arc<Neighbors>,
}

/// Shape of Δ for `neighbors`.
pub(super) fn shape(neighbors: &Neighbors) -> Shape {
    Shape::new(neighbors.index.len(), 3)
}

impl Op for Offsets {
    fn name(&self) -> &'static str {
        "offsets"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let Neighbors {
            points, queries, ..
        } = *self.neighbors;
        let [x] = inputs else {
            return Err(Error::shape(self.name(), "needs one input"));
        };
        if points != queries {
            let fault = format!("{queries} points have neighbours among {points} others");
            return Err(Error::shape(self.name(), fault));
        }
        expect_shape(self.name(), "x", *x, Shape::new(points, 3))?;
        Ok(Plan::of(shape(&self.neighbors)))
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let k = self.neighbors.k;
        match io.device() {
            Device::Cuda(gpu) => {
                let n = 3 * self.neighbors.index.len();
                let index = self.neighbors.index.on(gpu)?;
                let args = args![io.input_on(0), index, n, k as u32, io.output_on(0)];
                gpu.launch(&KERNELS, "offsets_forward", Grid::strided(n), args)?;
            }
            Device::Cpu => {
                let x = io.input(0);
                let at = |row: usize, axis: usize| x[3 * row + axis];
                parallel::for_each_rows(io.output(0), 3 * k, POINTS, |first, out| {
                    for (pair, out) in out.chunks_exact_mut(3).enumerate() {
                        let pair = first * k + pair;
                        for (axis, out) in out.iter_mut().enumerate() {
                            *out = match self.neighbors.index[pair] {
                                MISSING => 0.0,
                                j => at(j as usize, axis) - at(pair / k, axis),
                            };
                        }
                    }
                });
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let k = self.neighbors.k;
        let lists = self.neighbors.try_transposed()?;
        match io.device() {
            Device::Cuda(gpu) => {
                let (Some(d), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) else {
                    return Ok(());
                };
                let (n, index) = (self.neighbors.queries, self.neighbors.index.on(gpu)?);
                let (starts, entries) = (lists.offsets.on(gpu)?, lists.index.on(gpu)?);
                let args = args![d, index, starts, entries, n, k as u32, d_x];
                let grid = Grid::warps(n.div_ceil(OWNERS));
                gpu.launch(&KERNELS, "offsets_backward", grid, args)?;
            }
            Device::Cpu => {
                let (Some(d), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
                    return Ok(());
                };
                parallel::for_each_rows(d_x, 3, POINTS, |first, d_x| {
                    for (point, d_x) in d_x.chunks_exact_mut(3).enumerate() {
                        let point = first + point;
                        let mut sum = [0.0; 3];
                        let mut add = |pair: usize, sign: f32| {
                            let own = &d[3 * pair..][..3];
                            sum.iter_mut().zip(own).for_each(|(y, x)| *y += sign * x);
                        };
                        lists.list(point).iter().for_each(|p| add(*p as usize, 1.0));
                        let own = (point * k..(point + 1) * k)
                            .filter(|p| self.neighbors.index[*p] != MISSING);
                        own.for_each(|pair| add(pair, -1.0));
                        d_x.iter_mut().zip(sum).for_each(|(y, x)| *y += x);
                    }
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pairs::fixtures::tables;
    use super::*;
    use crate::graph::check::Check;

    #[test]
    fn matches_naive() {
        for table in tables() {
            let n = table.points();
            Check::new(Offsets {
                neighbors: table.neighbors.clone(),
            })
            .input(n, 3)
            .run(|x| {
                let pair = |pair: usize| {
                    let (i, j) = (pair / table.neighbors.k, table.row(pair));
                    (0..3).map(move |a| j.map_or(0.0, |j| x[0][3 * j + a] - x[0][3 * i + a]))
                };
                vec![(0..table.pairs()).flat_map(pair).collect()]
            });
        }
    }

    #[test]
    fn tables_between_two_clouds_are_rejected() {
        let from = [[0.0; 3], [1.0; 3]];
        let neighbors = Neighbors::from_index(1, &[0], &from[..1], &from).unwrap();
        let op = Offsets {
            neighbors: neighbors.into(),
        };
        assert!(op.plan(&[Shape::new(2, 3)]).is_err());
    }
}
