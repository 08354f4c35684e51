//! Max over the neighbours of every query: the pooling of Stratified Transformer's TransitionDown, and of PointNet++.
//!
//! y[i, c] = max over j < K of x[index[i, j], c]        (Lai et al. 2022, section 3.5; reference code `TransitionDown`)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [S, C] | features of the points |
//! | neighbors | M × K rows of x | from `geometry::Neighbors`; a row may come twice |
//! | y | [M, C] | pooled features; 0 for a query without any neighbour |
//!
//! Backward: the gradient goes to the first neighbour that attains the maximum, over the transposed list.
//! Saves: that neighbour's place in the row, u32 per (i, c). Memory: O(M·C). Time: O(M·K·C).

use super::award::Award;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Device, Gpu, parallel};
use crate::geometry::{MISSING, Neighbors};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::ops::pairs::for_each_rows_of_two;
use crate::{Error, Result};
use std::sync::Arc;

/// Queries of one parallel chunk.
const QUERIES: usize = 64;
/// Points of one parallel chunk.
const POINTS: usize = 128;

kernels!("neighbor_max");

/// y\[i\] = max over the neighbours of i.
#[derive(Debug, Clone)]
pub struct NeighborMax {
    neighbors: Arc<Neighbors>,
}

impl NeighborMax {
    /// Pools over `neighbors`.
    pub fn new(neighbors: Arc<Neighbors>) -> Self {
        NeighborMax { neighbors }
    }
}

/// The first neighbour's row: y = x.
struct First<'a> {
    x: &'a [f32],
    place: u32,
    y: &'a mut [f32],
    winners: &'a mut [u32],
}

impl Kernel for First<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.y.copy_from_slice(self.x);
        self.winners.fill(self.place);
    }
}

/// A further neighbour's row: y = max(y, x), and who it was.
struct Further<'a>(First<'a>);

impl Kernel for Further<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let First {
            x,
            place,
            y,
            winners,
        } = self.0;
        if winners.is_empty() {
            for (y, x) in y.iter_mut().zip(x) {
                *y = if *x > *y { *x } else { *y };
            }
            return;
        }
        for ((y, x), winner) in y.iter_mut().zip(x).zip(winners) {
            *winner = if *x > *y { place } else { *winner };
            *y = if *x > *y { *x } else { *y };
        }
    }
}

impl Op for NeighborMax {
    fn name(&self) -> &'static str {
        "neighbor_max"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("neighbor_max", "needs one input"));
        };
        if x.rows != self.neighbors.points {
            let points = self.neighbors.points;
            let fault = format!("{x} but the neighbours are made for {points} rows");
            return Err(Error::shape("neighbor_max", fault));
        }
        let y = Shape::new(self.neighbors.queries, x.cols);
        Ok(Plan {
            saved: vec![y.len()],
            ..Plan::of(y)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => self.cuda_forward(gpu, io)?,
            Device::Cpu => {
                let x = io.input(0);
                let winners = if io.saves() { io.saved(0) } else { &mut [] };
                let (y, winners) = ((io.output(0), cols), (winners, cols));
                for_each_rows_of_two(y, winners, QUERIES, |first, y, winners| {
                    let winners: &mut [u32] = bytemuck::cast_slice_mut(winners);
                    for (i, y) in y.chunks_exact_mut(cols).enumerate() {
                        let own = i * cols..(i + 1) * cols;
                        let winners = winners.get_mut(own).unwrap_or(&mut []);
                        self.pool(first + i, x, y, winners);
                    }
                });
            }
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

impl NeighborMax {
    /// y of one query; `winners` is empty when nobody asks for them.
    fn pool(&self, query: usize, x: &[f32], y: &mut [f32], winners: &mut [u32]) {
        let (cols, k) = (y.len(), self.neighbors.k);
        let mut found = false;
        for (place, &row) in self.neighbors.index[query * k..][..k].iter().enumerate() {
            if row == MISSING {
                continue;
            }
            let first = First {
                x: &x[row as usize * cols..][..cols],
                place: place as u32,
                y,
                winners,
            };
            if std::mem::replace(&mut found, true) {
                dispatch(Further(first));
            } else {
                dispatch(first);
            }
        }
        if !found {
            y.fill(0.0);
            winners.fill(MISSING);
        }
    }

    fn cpu_backward(&self, io: &mut Backward<'_>) {
        let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
            return;
        };
        let (cols, k) = (io.shape(0).cols, self.neighbors.k);
        let winners: &[u32] = bytemuck::cast_slice(io.saved(0));
        let lists = self.neighbors.transposed();
        parallel::for_each_rows(d_x, cols, POINTS, |first, d_x| {
            for (point, d_x) in d_x.chunks_exact_mut(cols).enumerate() {
                for &pair in lists.list(first + point) {
                    let (query, place) = (pair as usize / k, pair as usize % k);
                    dispatch(Award {
                        name: place as u32,
                        winners: &winners[query * cols..][..cols],
                        d_y: &d_y[query * cols..][..cols],
                        d_x,
                    });
                }
            }
        });
    }

    fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let (cols, k) = (io.shape(0).cols, self.neighbors.k);
        let n = self.neighbors.queries * cols;
        let args = args![
            io.input_on(0),
            self.neighbors.index.on(gpu)?,
            n,
            k as u32,
            cols as u32,
            io.output_on(0),
            io.saved_on(0)
        ];
        gpu.launch(&KERNELS, "neighbor_max_forward", Grid::strided(n), args)
    }

    fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) else {
            return Ok(());
        };
        let (lists, n) = (self.neighbors.try_transposed()?, io.shape(0).len());
        let args = args![
            lists.offsets.on(gpu)?,
            lists.index.on(gpu)?,
            io.saved_on(0),
            d_y,
            n,
            self.neighbors.k as u32,
            io.shape(0).cols as u32,
            d_x
        ];
        gpu.launch(&KERNELS, "neighbor_max_backward", Grid::strided(n), args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::Check;
    use crate::ops::reference::run;

    fn table(k: usize, index: &[u32], points: usize) -> Arc<Neighbors> {
        let queries = vec![[0.0; 3]; index.len() / k];
        let points = vec![[0.0; 3]; points];
        Arc::new(Neighbors::from_index(k, index, &queries, &points).unwrap())
    }

    #[test]
    fn matches_naive_with_missing_and_repeated_neighbours() {
        const M: u32 = MISSING;
        let index = [4, 1, 0, M, M, M, 5, 5, 2, M, 2, M, 0, 4, 5];
        for (k, index, points) in [
            (3, &index[..], 6),
            (5, &index, 6),
            (2, &[], 3),
            (2, &[M; 4], 0),
        ] {
            for cols in [1, 20] {
                Check::new(NeighborMax::new(table(k, index, points)))
                    .input(points, cols)
                    .run(|x| {
                        let value = |row: &[u32], c: usize| {
                            let known = row.iter().filter(|r| **r != M);
                            let values = known.map(|r| x[0][*r as usize * cols + c]);
                            values.reduce(f64::max).unwrap_or(0.0)
                        };
                        let row = |row| (0..cols).map(move |c| value(row, c));
                        vec![index.chunks(k).flat_map(row).collect()]
                    });
            }
        }
    }

    #[test]
    fn among_equals_the_first_neighbour_gets_the_gradient() {
        let op = NeighborMax::new(table(3, &[2, 0, 1], 3));
        let (_, gradients) = run(op, &[(Shape::new(3, 1), vec![7.0; 3])], vec![1.0]);
        assert_eq!(gradients[0].as_ref().unwrap(), &[0.0, 0.0, 1.0]);
    }

    #[test]
    fn other_points_than_the_table_names_are_refused() {
        let op = NeighborMax::new(table(2, &[0, 1], 2));
        assert!(op.plan(&[Shape::new(3, 4)]).is_err());
        assert!(op.plan(&[Shape::new(2, 4)]).is_ok());
    }
}
