//! Product of many rows with one small matrix, which is packed once and read by all threads.
//!
//! Panels of 48 columns lie one after another, each [inner, width], the last one padded with zeros to whole vectors:
//! the register kernel walks over contiguous memory, whatever the strides of the matrix were. Bias, residual and ReLU
//! are applied to the block of the result in registers.

use super::tile::{Block, accumulate};
use super::{View, ViewMut};
use crate::device::parallel;
use crate::device::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Columns of a panel: three of the widest vectors.
const WIDTH: usize = 3 * MAX_LANES;
/// Columns that [`Simd::load_columns`] moves at once.
const FOUR: usize = 4;

/// A packed matrix.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    values: &'a [f32],
    inner: usize,
    cols: usize,
}

/// What follows a product, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Finish<'a> {
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Added to the result: as many rows of as many values.
    pub residual: Option<&'a [f32]>,
    /// Whether negative values become zero; NaN stays NaN.
    pub relu: bool,
    /// Whether the result is added to what is there.
    pub add: bool,
}

impl<'a> Panels<'a> {
    /// Words of a packed matrix of `inner` rows and `cols` columns.
    pub fn words(inner: usize, cols: usize) -> usize {
        inner * cols.next_multiple_of(MAX_LANES)
    }

    /// Packs `b` into the front of `out`, in parallel. Panics when it does not fit.
    pub fn pack(b: View<'_>, out: &'a mut [f32]) -> Self {
        let (inner, cols) = (b.rows, b.cols);
        let values = &mut out[..Self::words(inner, cols)];
        parallel::for_each_rows(values, inner, WIDTH, |first, panel| {
            dispatch(Pack { b, first, panel });
        });
        Panels {
            values,
            inner,
            cols,
        }
    }

    /// c = a · b, then `finish`. Every value is one chain of fused products in order of the inner index,
    /// so it does not depend on how rows are grouped. Panics when the shapes do not fit together.
    pub fn product(self, c: ViewMut<'_>, a: View<'_>, finish: Finish<'_>) {
        assert!(
            c.rows == a.rows && c.cols == self.cols && a.cols == self.inner,
            "a {}×{} result of {}×{} times {}×{}",
            c.rows,
            c.cols,
            a.rows,
            a.cols,
            self.inner,
            self.cols
        );
        assert!(finish.bias.is_none_or(|bias| bias.len() == self.cols));
        assert!(
            finish
                .residual
                .is_none_or(|r| r.len() >= c.rows * self.cols)
        );
        if c.rows > 0 {
            dispatch(Product {
                c,
                a,
                b: self,
                finish,
            });
        }
    }
}

/// Fills one panel, whose first column is `first`.
struct Pack<'a> {
    b: View<'a>,
    first: usize,
    panel: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pack { b, first, panel } = self;
        let width = panel.len() / b.rows;
        let real = width.min(b.cols - first);
        let (lanes, fours) = match b.row_stride {
            1 => (real - real % S::LANES, b.rows - b.rows % FOUR),
            _ => (0, 0),
        };
        for lane in (0..lanes).step_by(S::LANES) {
            let mut starts = [0; MAX_LANES];
            for (l, start) in starts.iter_mut().enumerate() {
                *start = (first + lane + l) * b.col_stride;
            }
            for k in (0..fours).step_by(FOUR) {
                let columns = s.load_columns(&b.values[k..], &starts);
                for (c, v) in columns.iter().enumerate() {
                    s.store(&mut panel[(k + c) * width + lane..], *v);
                }
            }
        }
        for (k, row) in panel.chunks_exact_mut(width).enumerate() {
            if b.col_stride == 1 {
                row[..real].copy_from_slice(&b.values[k * b.row_stride + first..][..real]);
                row[real..].fill(0.0);
                continue;
            }
            let from = if k < fours { lanes } else { 0 };
            for (col, y) in row.iter_mut().enumerate().skip(from) {
                *y = if col < real {
                    b.values[k * b.row_stride + (first + col) * b.col_stride]
                } else {
                    0.0
                };
            }
        }
    }
}

struct Product<'a> {
    c: ViewMut<'a>,
    a: View<'a>,
    b: Panels<'a>,
    finish: Finish<'a>,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let padded = self.b.cols.next_multiple_of(MAX_LANES);
        for first in (0..padded).step_by(WIDTH) {
            let width = WIDTH.min(padded - first);
            let panel = &self.b.values[first * self.b.inner..];
            let mut col = first;
            while col < (first + width).min(self.b.cols) {
                let vectors = (first + width - col) / S::LANES;
                let b = (&panel[col - first..], width);
                col += S::LANES
                    * match (vectors, S::REGISTERS >= 32) {
                        (3.., true) => self.columns::<S, 3>(s, b, col),
                        (2.., _) => self.columns::<S, 2>(s, b, col),
                        _ => self.columns::<S, 1>(s, b, col),
                    };
            }
        }
    }
}

impl Product<'_> {
    /// All rows of `NV` vectors of columns from `col` on, in blocks of as many rows as the registers hold; `b` starts
    /// at that column and has `b.1` words per row. Returns `NV`.
    #[inline(always)]
    fn columns<S: Simd, const NV: usize>(&mut self, s: S, b: (&[f32], usize), col: usize) -> usize {
        let mut row = 0;
        while row < self.c.rows {
            row += match (self.c.rows - row, S::REGISTERS >= 32, NV) {
                (16.., true, 1) => self.block::<S, 16, NV>(s, b, row, col),
                (12.., true, 1 | 2) => self.block::<S, 12, NV>(s, b, row, col),
                (12.., false, 1) => self.block::<S, 12, NV>(s, b, row, col),
                (8.., true, _) | (8.., false, 1) => self.block::<S, 8, NV>(s, b, row, col),
                (6.., _, _) => self.block::<S, 6, NV>(s, b, row, col),
                (4.., _, _) => self.block::<S, 4, NV>(s, b, row, col),
                (2.., _, _) => self.block::<S, 2, NV>(s, b, row, col),
                _ => self.block::<S, 1, NV>(s, b, row, col),
            };
        }
        NV
    }

    /// `MR` rows of `NV` vectors of the result. Returns `MR`.
    #[inline(always)]
    fn block<S: Simd, const MR: usize, const NV: usize>(
        &mut self,
        s: S,
        (b, width): (&[f32], usize),
        row: usize,
        col: usize,
    ) -> usize {
        let Product { a, finish, .. } = *self;
        let inner = self.b.inner;
        let c_row = self.c.row_stride;
        let mut sums = [[s.zero(); NV]; MR];
        let real = self.b.cols - col; // columns that exist, at least one
        assert!(inner == 0 || b.len() >= (inner - 1) * width + NV * S::LANES);
        // SAFETY: a has MR rows from `row` on with `inner` columns (its view was checked), b as many rows of NV vectors
        // (just checked).
        unsafe {
            let block = Block {
                a: a.values.as_ptr().wrapping_add(row * a.row_stride),
                a_row: a.row_stride,
                a_col: a.col_stride,
                b: b.as_ptr(),
                b_row: width,
                c: std::ptr::null_mut(),
                c_row: 0,
                inner,
                add: false,
            };
            accumulate(s, block, &mut sums);
        }
        for (r, sums) in sums.iter().enumerate() {
            let (at, within) = ((row + r) * c_row + col, (row + r) * self.b.cols + col);
            for (v, sum) in sums.iter().enumerate() {
                let skip = v * S::LANES;
                if skip >= real {
                    break;
                }
                let lanes = S::LANES.min(real - skip);
                let out = &mut self.c.values[at + skip..][..lanes];
                let mut y = *sum;
                if let Some(bias) = finish.bias {
                    y = s.add(y, load(s, &bias[col + skip..][..lanes]));
                }
                if let Some(residual) = finish.residual {
                    y = s.add(y, load(s, &residual[within + skip..][..lanes]));
                }
                if finish.relu {
                    y = s.max(s.zero(), y);
                }
                if finish.add {
                    y = s.add(load(s, out), y);
                }
                match lanes == S::LANES {
                    true => s.store(out, y),
                    false => s.store_partial(out, y),
                }
            }
        }
        MR
    }
}

/// A vector, or the rest of one: whole ones are spared the mask.
#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
    match x.len() >= S::LANES {
        true => s.load(x),
        false => s.load_partial(x),
    }
}
