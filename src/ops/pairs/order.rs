//! From rows to columns of pairs and back.

use crate::device::simd::{MAX_LANES, Simd};
use crate::geometry::MISSING;

/// Columns that [`Simd::load_columns`] moves at once.
const FOUR: usize = 4;

/// Where the four columns that cover `col` start: the last four overlap their predecessors.
#[inline(always)]
fn four_from(col: usize, groups: usize) -> usize {
    col.min(groups - FOUR)
}

/// `out` ([groups, stride]) from `rows` ([pairs, groups]), zero behind the last pair.
#[inline(always)]
pub fn rows_to_columns<S: Simd>(s: S, rows: &[f32], groups: usize, out: &mut [f32]) {
    let stride = out.len() / groups;
    let pairs = rows.len() / groups;
    let whole = if groups >= FOUR {
        pairs - pairs % S::LANES
    } else {
        0
    };
    for first in (0..whole).step_by(S::LANES) {
        let mut starts = [0; MAX_LANES];
        for (lane, start) in starts.iter_mut().enumerate() {
            *start = lane * groups;
        }
        let block = &rows[first * groups..][..S::LANES * groups];
        for col in (0..groups).step_by(FOUR) {
            let col = four_from(col, groups);
            let columns = s.load_columns(&block[col..], &starts);
            for (c, v) in columns.iter().enumerate() {
                s.store(&mut out[(col + c) * stride + first..], *v);
            }
        }
    }
    for (g, column) in out.chunks_exact_mut(stride).enumerate() {
        for (p, y) in column.iter_mut().enumerate().skip(whole) {
            *y = if p < pairs { rows[p * groups + g] } else { 0.0 };
        }
    }
}

/// `rows` ([pairs, groups]) from `columns` ([groups, stride]).
#[inline(always)]
pub fn columns_to_rows<S: Simd>(s: S, columns: &[f32], groups: usize, rows: &mut [f32]) {
    let stride = columns.len() / groups;
    let pairs = rows.len() / groups;
    let whole = if groups >= FOUR {
        pairs - pairs % S::LANES
    } else {
        0
    };
    for first in (0..whole).step_by(S::LANES) {
        let mut starts = [0; MAX_LANES];
        for (lane, start) in starts.iter_mut().enumerate() {
            *start = lane * groups;
        }
        let block = &mut rows[first * groups..][..S::LANES * groups];
        for col in (0..groups).step_by(FOUR) {
            let col = four_from(col, groups);
            let mut four = [s.zero(); FOUR];
            for (c, v) in four.iter_mut().enumerate() {
                *v = s.load(&columns[(col + c) * stride + first..]);
            }
            s.store_columns(&mut block[col..], &starts, four);
        }
    }
    for (p, row) in rows.chunks_exact_mut(groups).enumerate().skip(whole) {
        for (g, y) in row.iter_mut().enumerate() {
            *y = columns[g * stride + p];
        }
    }
}

/// `out` ([groups, stride]) from the rows of `table` ([points, groups]) that `index` names, zero where missing and
/// behind the last pair.
#[inline(always)]
pub fn gather_columns<S: Simd>(s: S, table: &[f32], index: &[u32], groups: usize, out: &mut [f32]) {
    let stride = out.len() / groups;
    let pairs = index.len();
    let whole = if groups >= FOUR {
        pairs - pairs % S::LANES
    } else {
        0
    };
    let mut is_complete = true;
    for first in (0..whole).step_by(S::LANES) {
        let mut starts = [0; MAX_LANES];
        for (start, row) in starts.iter_mut().zip(&index[first..first + S::LANES]) {
            is_complete &= *row != MISSING;
            *start = if *row == MISSING {
                0
            } else {
                *row as usize * groups
            };
        }
        for col in (0..groups).step_by(FOUR) {
            let col = four_from(col, groups);
            let columns = s.load_columns(&table[col..], &starts);
            for (c, v) in columns.iter().enumerate() {
                s.store(&mut out[(col + c) * stride + first..], *v);
            }
        }
    }
    for (g, column) in out.chunks_exact_mut(stride).enumerate() {
        for (p, y) in column.iter_mut().enumerate().skip(whole) {
            *y = match index.get(p) {
                Some(&row) if row != MISSING => table[row as usize * groups + g],
                _ => 0.0,
            };
        }
    }
    if !is_complete {
        for (p, _) in index.iter().enumerate().filter(|(_, row)| **row == MISSING) {
            for column in out.chunks_exact_mut(stride) {
                column[p] = 0.0;
            }
        }
    }
}
