//! Max over each segment of rows: the feature half of partition pooling.
//!
//! y[s, c] = max over i in segment s of x[i, c]        (Wu et al. 2022, PTv2, partition-based pooling)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | point features |
//! | segments | S lists over N | from `geometry::partition`; no row in two of them |
//! | y | [S, C] | pooled features; an empty segment gives 0 |
//!
//! Backward: the gradient goes to the first row of the list that attains the maximum.
//! Saves: that row's number per (s, c), u32. Memory: O(S·C). Time: O(N·C).
//! Errors: a segment names a row that x does not have, or that another segment names.

use super::award::Award;
use super::statistics::ColumnChunks;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::dispatch;
use crate::device::{Array, Device, parallel};
use crate::geometry::{MISSING, Partition, Ragged};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Segments of one parallel chunk.
const SEGMENTS: usize = 64;
/// Rows of one parallel chunk.
const ROWS: usize = 256;

kernels!("segment_max");

/// y\[s\] = max over segment s.
#[derive(Debug, Clone)]
pub struct SegmentMax {
    segments: Ragged,
    /// Segment of every row, [`MISSING`] for rows in none; filled by the shape rule.
    cluster: OnceLock<Array<u32>>,
}

impl SegmentMax {
    /// Segments as lists of row numbers.
    pub fn new(segments: Ragged) -> Self {
        let cluster = OnceLock::new();
        SegmentMax { segments, cluster }
    }

    /// The members of cells. A GPU that made the cells knows both directions, and nothing is read back.
    pub fn of_cells(cells: &Partition) -> Self {
        let op = SegmentMax::new(cells.members.clone());
        if cells.cluster.known_rows() == Some(cells.len()) {
            op.cluster.get_or_init(|| cells.cluster.clone());
        }
        op
    }

    /// Segment of each of `rows` rows. The lists are checked already.
    fn find_cluster(&self, rows: usize) -> Result<Array<u32>> {
        let mut cluster = vec![MISSING; rows];
        for segment in 0..self.segments.len() {
            for &row in self.segments.list(segment) {
                let before = std::mem::replace(&mut cluster[row as usize], segment as u32);
                if before != MISSING {
                    let fault = format!("row {row} is in segments {before} and {segment}");
                    return Err(Error::shape("segment_max", fault));
                }
            }
        }
        Ok(cluster.into())
    }
}

impl Op for SegmentMax {
    fn name(&self) -> &'static str {
        "segment_max"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            return Err(Error::shape("segment_max", "needs one input"));
        };
        self.segments
            .check(x.rows)
            .map_err(|e| Error::shape("segment_max", e.to_string()))?;
        if let Some(cluster) = self.cluster.get() {
            if cluster.len() != x.rows {
                let fault = format!("{x} but the cells are made of {} rows", cluster.len());
                return Err(Error::shape("segment_max", fault));
            }
        } else {
            // a second thread that gets here finds the same lists
            let _ = self.cluster.set(self.find_cluster(x.rows)?);
        }
        let y = Shape::new(self.segments.len(), x.cols);
        Ok(Plan {
            saved: vec![y.len()],
            ..Plan::of(y)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        match io.device() {
            Device::Cuda(gpu) => {
                let (offsets, index) =
                    (self.segments.offsets.on(gpu)?, self.segments.index.on(gpu)?);
                let n = self.segments.len() * cols;
                let (y, winners) = (io.output_on(0), io.saved_on(0));
                let args = args![io.input_on(0), offsets, index, n, cols as u32, y, winners];
                gpu.launch(&KERNELS, "segment_max_forward", Grid::strided(n), args)?;
            }
            Device::Cpu => {
                let (x, y) = (io.input(0), io.output(0));
                if io.saves() {
                    let winners: &mut [u32] = bytemuck::cast_slice_mut(io.saved(0));
                    y.par_chunks_mut(SEGMENTS * cols.max(1))
                        .zip(winners.par_chunks_mut(SEGMENTS * cols.max(1)))
                        .enumerate()
                        .for_each(|(i, pair)| self.winners(i * SEGMENTS, x, pair, cols));
                } else {
                    parallel::for_each_rows(y, cols, SEGMENTS, |first, y| {
                        self.maxima(first, x, y, cols);
                    });
                }
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let cols = io.shape(0).cols;
        let cluster = self.cluster.get().expect("the shape rule ran before");
        match io.device() {
            Device::Cuda(gpu) => {
                if let (Some(d_y), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) {
                    let Shape { rows, cols } = io.shape(0);
                    let chunks = ColumnChunks::short(io.shape(0));
                    let args = args![
                        cluster.on(gpu)?,
                        io.saved_on(0),
                        d_y,
                        rows,
                        cols as u32,
                        chunks.rows,
                        d_x
                    ];
                    gpu.launch(&KERNELS, "segment_max_backward", chunks.grid(cols), args)?;
                }
            }
            Device::Cpu => {
                let (Some(d_y), Some(d_x)) = (io.d_output(0), io.d_input(0)) else {
                    return Ok(());
                };
                let winners: &[u32] = bytemuck::cast_slice(io.saved(0));
                parallel::for_each_rows(d_x, cols, ROWS, |first, d_x| {
                    let segments = cluster.iter().enumerate().skip(first);
                    for (d_x, (row, &segment)) in d_x.chunks_exact_mut(cols).zip(segments) {
                        if segment == MISSING {
                            continue;
                        }
                        let pooled = segment as usize * cols..(segment as usize + 1) * cols;
                        dispatch(Award {
                            name: row as u32,
                            winners: &winners[pooled.clone()],
                            d_y: &d_y[pooled],
                            d_x,
                        });
                    }
                });
            }
        }
        Ok(())
    }
}

impl SegmentMax {
    fn maxima(&self, first: usize, x: &[f32], y: &mut [f32], cols: usize) {
        for (s, y) in y.chunks_exact_mut(cols).enumerate() {
            let (head, tail) = match self.segments.list(first + s) {
                [] => {
                    y.fill(0.0);
                    continue;
                }
                [head, tail @ ..] => (*head, tail),
            };
            y.copy_from_slice(&x[head as usize * cols..][..cols]);
            for &row in tail {
                let row = &x[row as usize * cols..][..cols];
                y.iter_mut()
                    .zip(row)
                    .for_each(|(y, x)| *y = if *x > *y { *x } else { *y });
            }
        }
    }

    fn winners(
        &self,
        first: usize,
        x: &[f32],
        (y, winners): (&mut [f32], &mut [u32]),
        cols: usize,
    ) {
        let pairs = y.chunks_exact_mut(cols).zip(winners.chunks_exact_mut(cols));
        for (s, (y, winners)) in pairs.enumerate() {
            y.fill(0.0);
            winners.fill(u32::MAX);
            for (place, &row) in self.segments.list(first + s).iter().enumerate() {
                let x = &x[row as usize * cols..][..cols];
                for ((y, winner), x) in y.iter_mut().zip(winners.iter_mut()).zip(x) {
                    if place == 0 || *x > *y {
                        *y = *x;
                        *winner = row;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::partition;
    use crate::graph::check::{Check, devices};

    #[test]
    fn matches_naive_with_empty_segments() {
        let segments = Ragged {
            offsets: Array::from(vec![0, 2, 2, 5, 6]),
            index: Array::from(vec![4, 1, 0, 5, 3, 2]),
        };
        for cols in [1, 7] {
            Check::new(SegmentMax::new(segments.clone()))
                .input(6, cols)
                .run(|x| {
                    let value = |s: usize, c: usize| {
                        let rows = segments
                            .list(s)
                            .iter()
                            .map(|&r| x[0][r as usize * cols + c]);
                        rows.reduce(f64::max).unwrap_or(0.0)
                    };
                    vec![(0..4 * cols).map(|e| value(e / cols, e % cols)).collect()]
                });
        }
    }

    #[test]
    fn cells_of_a_device_stay_there() {
        let coord: Vec<[f32; 3]> = (0..200).map(|i| [(i * 7 % 31) as f32, 0.0, 0.0]).collect();
        for device in devices() {
            let cells = partition::grid_on(device, &coord, &[0, 200], 3.0).unwrap();
            let op = SegmentMax::of_cells(&cells);
            let y = op.plan(&[Shape::new(200, 4)]).unwrap();
            assert_eq!(y.outputs, [Shape::new(cells.len(), 4)]);
            assert_eq!(cells.members.index.is_on_host(), device == Device::Cpu);
            assert_eq!(op.cluster.get().unwrap()[..], cells.cluster[..]);
            assert!(op.plan(&[Shape::new(201, 4)]).is_err());
        }
    }

    #[test]
    fn rows_that_do_not_exist_or_come_twice_are_refused() {
        let segments = Ragged {
            offsets: Array::from(vec![0, 1]),
            index: Array::from(vec![9]),
        };
        assert!(SegmentMax::new(segments).plan(&[Shape::new(3, 2)]).is_err());
        let twice = Ragged {
            offsets: Array::from(vec![0, 1, 2]),
            index: Array::from(vec![1, 1]),
        };
        assert!(SegmentMax::new(twice).plan(&[Shape::new(3, 2)]).is_err());
    }
}
