//! Rows by index: neighbours, or the cell of every point.
//!
//! y[i] = x[index[i]], a zero row where the index is [`MISSING`]
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [S, C] | source rows |
//! | index | M | row numbers below S |
//! | y | [M, C] | gathered rows |
//!
//! Backward: dx[s] = Σ dy[i] over the i that use s, in ascending order, by the inverse list. Saves and reads nothing.
//! Errors: an index of S or more; inverse lists of other than S rows, or of places that the index does not have.

use super::statistics::ColumnChunks;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Array, Device, Gpu, Pointer, parallel};
use crate::geometry::{MISSING, Ragged};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

/// Rows of one parallel chunk.
const ROWS: usize = 256;

kernels!("gather");

/// y\[i\] = x[index\[i\]].
#[derive(Debug, Clone)]
pub struct Gather {
    index: Array<u32>,
    inverse: Ragged,
}

impl Gather {
    /// `inverse` lists, for every source row, the places in `index` that name it.
    pub fn new(index: Array<u32>, inverse: Ragged) -> Self {
        Gather { index, inverse }
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("gather", "needs one input"));
        };
        if self.inverse.len() != x.rows {
            let fault = format!("{x} but the index is made for {} rows", self.inverse.len());
            return Err(Error::shape("gather", fault));
        }
        let known = |row: u32| row == MISSING || (row as usize) < x.rows;
        // An index that kernels made is known to be right, and stays on the GPU.
        let is_made_for_x = self.index.known_rows().is_some_and(|rows| rows <= x.rows);
        if !is_made_for_x && let Some(at) = self.index.iter().position(|row| !known(*row)) {
            let fault = format!("{x} has no row {} (entry {at})", self.index[at]);
            return Err(Error::shape("gather", fault));
        }
        self.inverse
            .check(self.index.len())
            .map_err(|e| Error::shape("gather", e.to_string()))?;
        Ok(Plan::of(Shape::new(self.index.len(), x.cols)))
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => {
                let n = self.index.len() * cols;
                let args = args![
                    io.input_on(0),
                    self.index.on(gpu)?,
                    n,
                    cols as u32,
                    io.output_on(0)
                ];
                gpu.launch(&KERNELS, "gather_forward", Grid::strided(n), args)?;
            }
            Device::Cpu => {
                let x = io.input(0);
                parallel::for_each_rows(io.output(0), cols, ROWS, |first, y| {
                    let index = &self.index[first..];
                    for (y, &row) in y.chunks_exact_mut(cols).zip(index) {
                        match row {
                            MISSING => y.fill(0.0),
                            row => y.copy_from_slice(&x[row as usize * cols..][..cols]),
                        }
                    }
                });
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => {
                if let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) {
                    let rows = Listed {
                        lists: &self.inverse,
                        weight: None,
                        k: 1,
                    };
                    rows.add(gpu, d_y, io.shape(0).cols, d_x)?;
                }
            }
            Device::Cpu => {
                if let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) {
                    add_listed_rows(d_x, io.shape(0).cols, &self.inverse, d_y, |_, _| (1, 1.0));
                }
            }
        }
        Ok(())
    }
}

/// For every row s of `out`, adds the rows of `x` that list s names. An entry e stands for row e / k, times a weight,
/// where `(k, weight) = entry(e, s)`.
pub(super) fn add_listed_rows(
    out: &mut [f32],
    cols: usize,
    lists: &Ragged,
    x: &[f32],
    entry: impl Fn(usize, usize) -> (usize, f32) + Sync,
) {
    parallel::for_each_rows(out, cols, 64, |first, rows| {
        for (s, sum) in rows.chunks_exact_mut(cols).enumerate() {
            for &e in lists.list(first + s) {
                let (k, weight) = entry(e as usize, first + s);
                let row = &x[e as usize / k * cols..][..cols];
                dispatch(AddRow { sum, row, weight });
            }
        }
    });
}

/// Lists of entries, each of which stands for row e / k, times a weight.
pub(super) struct Listed<'a> {
    pub lists: &'a Ragged,
    pub weight: Option<Pointer>,
    pub k: usize,
}

impl Listed<'_> {
    /// As [`add_listed_rows`], on a GPU: `out` and `x` have `cols` columns.
    pub fn add(&self, gpu: Gpu, x: Pointer, cols: usize, out: Pointer) -> Result<()> {
        let lists = self.lists.len();
        let chunks = ColumnChunks::single(Shape::new(lists, cols));
        let (offsets, index) = (self.lists.offsets.on(gpu)?, self.lists.index.on(gpu)?);
        let args = args![
            x,
            offsets,
            index,
            self.weight,
            self.k as u32,
            lists,
            cols as u32,
            chunks.rows,
            out
        ];
        gpu.launch(&KERNELS, "add_listed_rows", chunks.grid(cols), args)
    }
}

/// sum += weight · row
pub(super) struct AddRow<'a> {
    pub sum: &'a mut [f32],
    pub row: &'a [f32],
    pub weight: f32,
}

impl Kernel for AddRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (sum, x) in self.sum.iter_mut().zip(self.row) {
            *sum += self.weight * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::golden::Golden;
    use crate::graph::check::{Check, assert_close};
    use crate::ops::reference::run;

    #[test]
    fn matches_naive_with_missing_rows() {
        for (rows, index) in [
            (4usize, vec![3, 0, MISSING, 3, 2, 0, 3]),
            (1, vec![]),
            (2, vec![MISSING; 3]),
        ] {
            let inverse = Ragged::inverse(&index, rows).unwrap();
            let op = Gather::new(Array::from(index.clone()), inverse);
            Check::new(op).input(rows, 5).run(|x| {
                let row = |i: &u32| match *i {
                    MISSING => vec![0.0; 5],
                    i => x[0][i as usize * 5..][..5].to_vec(),
                };
                vec![index.iter().flat_map(row).collect()]
            });
        }
    }

    #[test]
    fn agrees_with_the_reference() {
        let golden = Golden::open("op_grouping");
        let index: Vec<u32> = golden.i32("idx").iter().map(|i| *i as u32).collect(); // −1 is MISSING
        let inverse = Ragged::inverse(&index, 159).unwrap();
        let op = Gather::new(Array::from(index), inverse);
        // the stored gradient is that of both outputs; the second is a position followed by the feature
        let both = golden.f32("upstream");
        let second = golden.f32("upstream_xyz");
        let features = second.chunks(15).flat_map(|row| &row[3..]);
        let upstream = both.iter().zip(features).map(|(a, b)| a + b).collect();
        let feat = (Shape::new(159, 12), golden.f32("feat"));
        let (outputs, gradients) = run(op, &[feat], upstream);
        assert_eq!(outputs[0], golden.f32("out"));
        let d_x = gradients[0].as_ref().unwrap();
        assert_close(d_x, &golden.f32("grad_feat"), 1e-6, "gradient");
    }

    #[test]
    fn a_list_for_other_rows_is_refused() {
        let inverse = Ragged::inverse(&[0, 1], 2).unwrap();
        let op = Gather::new(Array::from(vec![0, 1]), inverse);
        assert!(op.plan(&[Shape::new(3, 1)]).is_err());
        let inverse = Ragged::inverse(&[0, 1], 2).unwrap();
        let op = Gather::new(Array::from(vec![0, 2]), inverse.clone());
        assert!(op.plan(&[Shape::new(2, 1)]).is_err());
        let op = Gather::new(Array::from(vec![0]), inverse);
        assert!(op.plan(&[Shape::new(2, 1)]).is_err());
    }
}
