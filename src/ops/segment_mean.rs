//! Mean over each segment of rows: the average of a cell or of a whole cloud.
//!
//! y[s, c] = Σ over i in segment s of x[i, c] / size of segment s
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | point features |
//! | segments | S lists over N | each row in at most one of them |
//! | y | [S, C] | means; an empty segment gives 0 |
//!
//! Backward: dx[i] += dy[s] / size of s for i in s, over the inverse lists. Saves and reads nothing. Time: O(N·C).
//! Errors: a segment names a row that x does not have.

use super::gather::add_listed_rows;
use super::statistics::ColumnChunks;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Device, parallel};
use crate::geometry::Ragged;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::OnceLock;

kernels!("segment_mean");

/// y\[s\] = mean over segment s.
#[derive(Debug, Clone)]
pub struct SegmentMean {
    segments: Ragged,
    /// For every row, the segments that name it; filled by the shape rule.
    inverse: OnceLock<Ragged>,
}

impl SegmentMean {
    /// Segments as lists of row numbers.
    pub fn new(segments: Ragged) -> Self {
        let inverse = OnceLock::new();
        SegmentMean { segments, inverse }
    }

    fn share(&self, segment: usize) -> f32 {
        1.0 / self.segments.list(segment).len().max(1) as f32
    }

    /// The segments of each of `rows` rows.
    fn invert(&self, rows: usize) -> Result<Ragged> {
        let mut lists = Ragged::inverse(&self.segments.index, rows)?;
        let mut owner = Vec::with_capacity(self.segments.index.len());
        for segment in 0..self.segments.len() {
            owner.resize(self.segments.offsets[segment + 1] as usize, segment as u32);
        }
        let segments = lists.index.iter().map(|place| owner[*place as usize]);
        lists.index = segments.collect::<Vec<_>>().into();
        Ok(lists)
    }
}

impl Op for SegmentMean {
    fn name(&self) -> &'static str {
        "segment_mean"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("segment_mean", "needs one input"));
        };
        let fault = |e: Error| Error::shape("segment_mean", e.to_string());
        self.segments.check(x.rows).map_err(fault)?;
        if self.inverse.get().is_none() {
            // a second thread that gets here finds the same lists
            let _ = self.inverse.set(self.invert(x.rows).map_err(fault)?);
        }
        Ok(Plan::of(Shape::new(self.segments.len(), x.cols)))
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => {
                let (offsets, index) =
                    (self.segments.offsets.on(gpu)?, self.segments.index.on(gpu)?);
                let n = self.segments.len() * cols;
                let args = args![
                    io.input_on(0),
                    offsets,
                    index,
                    n,
                    cols as u32,
                    io.output_on(0)
                ];
                gpu.launch(&KERNELS, "segment_mean_forward", Grid::strided(n), args)?;
            }
            Device::Cpu => {
                let (x, y) = (io.input(0), io.output(0));
                parallel::for_each_rows(y, 1, 1 << 14, |_, y| y.fill(0.0));
                add_listed_rows(y, cols, &self.segments, x, |_, s| (1, self.share(s)));
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let inverse = self.inverse.get().expect("the shape rule ran before");
        match io.device() {
            Device::Cuda(gpu) => {
                if let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) {
                    let Shape { rows, cols } = io.shape(0);
                    let offsets = self.segments.offsets.on(gpu)?;
                    let (rows_of, index) = (inverse.offsets.on(gpu)?, inverse.index.on(gpu)?);
                    let chunks = ColumnChunks::short(io.shape(0));
                    let width = cols as u32;
                    let args = args![offsets, rows_of, index, d_y, rows, width, chunks.rows, d_x];
                    let grid = chunks.grid(cols);
                    gpu.launch(&KERNELS, "segment_mean_backward", grid, args)?;
                }
            }
            Device::Cpu => {
                let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
                    return Ok(());
                };
                add_listed_rows(d_x, io.shape(0).cols, inverse, d_y, |s, _| {
                    (1, self.share(s))
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Array;
    use crate::graph::check::Check;

    #[test]
    fn matches_naive_with_empty_segments() {
        let segments = Ragged {
            offsets: Array::from(vec![0, 3, 3, 4, 6]),
            index: Array::from(vec![5, 0, 3, 1, 4, 2]),
        };
        for cols in [1, 7, 48] {
            Check::new(SegmentMean::new(segments.clone()))
                .input(7, cols)
                .run(|x| {
                    let mut y = vec![0.0; 4 * cols];
                    for s in 0..4 {
                        for &row in segments.list(s) {
                            for c in 0..cols {
                                let share = segments.list(s).len() as f64;
                                y[s * cols + c] += x[0][row as usize * cols + c] / share;
                            }
                        }
                    }
                    vec![y]
                });
        }
    }

    #[test]
    fn no_segments_and_no_rows_are_fine() {
        let segments = Ragged {
            offsets: Array::from(vec![0]),
            index: Array::default(),
        };
        Check::new(SegmentMean::new(segments))
            .input(0, 3)
            .run(|_| vec![Vec::new()]);
    }

    #[test]
    fn rows_that_do_not_exist_are_refused() {
        let segments = Ragged {
            offsets: Array::from(vec![0, 1]),
            index: Array::from(vec![9]),
        };
        let op = SegmentMean::new(segments);
        assert!(op.plan(&[Shape::new(3, 2)]).is_err());
    }
}
