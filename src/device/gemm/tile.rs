//! Product of matrices that lie in cache already: no packing, no allocation, a block of the result in registers.

use super::{Store, View, ViewMut, check};
use crate::device::simd::{Kernel, Simd};

/// c = a · b, or c += a · b, for matrices of a tile. Rows of `b` must hold neighbouring values; `a` may have any
/// strides. Panics when the shapes do not fit together.
///
/// Every value of the result is one chain of fused products in order of the inner index, so it does not depend on how
/// rows are grouped.
#[inline(always)]
pub fn tile_product<S: Simd>(s: S, c: ViewMut<'_>, a: View<'_>, b: View<'_>, store: Store) {
    s.call(TileProduct { c, a, b, store });
}

struct TileProduct<'a> {
    c: ViewMut<'a>,
    a: View<'a>,
    b: View<'a>,
    store: Store,
}

/// Addresses of one register block: what the body of the kernel walks over.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub a: *const f32,
    pub a_row: usize,
    pub a_col: usize,
    pub b: *const f32,
    pub b_row: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub inner: usize,
    pub add: bool,
}

impl Block {
    /// The whole product. Panics when the shapes do not fit together or rows of `b` are not contiguous.
    #[inline(always)]
    fn new(c: &mut ViewMut<'_>, a: &View<'_>, b: &View<'_>, store: Store) -> Self {
        check(c, a, b);
        assert!(b.col_stride == 1 || b.cols <= 1, "rows of b are contiguous");
        Block {
            a: a.values.as_ptr(),
            a_row: a.row_stride,
            a_col: a.col_stride,
            b: b.values.as_ptr(),
            b_row: b.row_stride,
            c: c.values.as_mut_ptr(),
            c_row: c.row_stride,
            inner: a.cols,
            add: store == Store::Add,
        }
    }

    /// The same from another row and column of the result on.
    #[inline(always)]
    fn at(self, row: usize, col: usize) -> Self {
        Block {
            a: self.a.wrapping_add(row * self.a_row),
            b: self.b.wrapping_add(col),
            c: self.c.wrapping_add(row * self.c_row + col),
            ..self
        }
    }
}

/// [`tile_product`] inlined into its caller, in blocks of `MR` rows and `NV` vectors (of 2 where there are few
/// registers): for products so small that a call and a choice of blocks would show. The sums are the same.
#[inline(always)]
pub fn block_product<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    mut c: ViewMut<'_>,
    a: View<'_>,
    b: View<'_>,
    store: Store,
) {
    let block = Block::new(&mut c, &a, &b, store);
    let mut col = 0;
    while col < c.cols {
        let vectors = (c.cols - col) / S::LANES;
        let at = block.at(0, col);
        // SAFETY: the views hold every value of `rows` × `inner`, `inner` × `cols` and `rows` × `cols` (checked when
        // they were made); each call stays within `cols` by the number of vectors, or by its mask.
        col += unsafe {
            if NV > 2 && S::REGISTERS >= 32 && vectors >= NV {
                block_rows::<S, MR, NV>(s, at, c.rows)
            } else if NV > 1 && vectors >= 2 {
                block_rows::<S, MR, 2>(s, at, c.rows)
            } else if vectors >= 1 {
                block_rows::<S, MR, 1>(s, at, c.rows)
            } else {
                last_columns(s, at, c.rows, c.cols - col);
                c.cols - col
            }
        };
    }
}

/// All rows of `NV` vectors of columns in blocks of `MR`, the last ones in smaller blocks. Returns the columns.
///
/// SAFETY: as [`columns`].
#[inline(always)]
unsafe fn block_rows<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    block: Block,
    rows: usize,
) -> usize {
    let mut row = 0;
    while row < rows {
        let (at, left) = (block.at(row, 0), rows - row);
        // SAFETY: `row` plus the rows of the block is at most `rows`.
        row += unsafe {
            match left {
                _ if left >= MR => registers::<S, MR, NV>(s, at),
                8.. if MR > 8 => registers::<S, 8, NV>(s, at),
                4.. if MR > 4 => registers::<S, 4, NV>(s, at),
                2.. => registers::<S, 2, NV>(s, at),
                _ => registers::<S, 1, NV>(s, at),
            }
        };
    }
    NV * S::LANES
}

impl Kernel for TileProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TileProduct { mut c, a, b, store } = self;
        let block = Block::new(&mut c, &a, &b, store);
        let wide = if S::REGISTERS >= 32 { 3 } else { 2 };
        let mut col = 0;
        while col < c.cols {
            let vectors = (c.cols - col) / S::LANES;
            // SAFETY: the views hold every value of `rows` × `inner`, `inner` × `cols` and `rows` × `cols` (checked
            // when they were made); each call below stays within `cols` by the number of vectors, or by its mask.
            unsafe {
                let at = block.at(0, col);
                if vectors >= 3 && wide == 3 {
                    columns::<S, 3>(s, at, c.rows);
                    col += 3 * S::LANES;
                } else if vectors >= 2 {
                    columns::<S, 2>(s, at, c.rows);
                    col += 2 * S::LANES;
                } else if vectors == 1 {
                    columns::<S, 1>(s, at, c.rows);
                    col += S::LANES;
                } else {
                    last_columns(s, at, c.rows, c.cols - col);
                    col = c.cols;
                }
            }
        }
    }
}

/// All rows of `NV` vectors of columns, in blocks of as many rows as the registers hold.
///
/// SAFETY: `rows` rows of a and c, `inner` rows of b, each with `NV` vectors from the given addresses.
#[inline(always)]
unsafe fn columns<S: Simd, const NV: usize>(s: S, block: Block, rows: usize) {
    let mut row = 0;
    while row < rows {
        let at = block.at(row, 0);
        // SAFETY: `row` plus the rows of the block is at most `rows`.
        unsafe {
            row += match (rows - row, S::REGISTERS >= 32, NV) {
                (16.., true, 1) => registers::<S, 16, NV>(s, at),
                (12.., true, 1 | 2) => registers::<S, 12, NV>(s, at),
                (12.., false, 1) => registers::<S, 12, NV>(s, at),
                (8.., true, _) | (8.., false, 1) => registers::<S, 8, NV>(s, at),
                (6.., _, _) => registers::<S, 6, NV>(s, at),
                (5, true, _) => registers::<S, 5, NV>(s, at),
                (4.., _, _) => registers::<S, 4, NV>(s, at),
                (3, true, _) => registers::<S, 3, NV>(s, at),
                (2.., _, _) => registers::<S, 2, NV>(s, at),
                _ => registers::<S, 1, NV>(s, at),
            };
        }
    }
}

/// `MR` rows of `NV` vectors. Returns `MR`.
///
/// SAFETY: as [`columns`] for `MR` rows.
#[inline(always)]
unsafe fn registers<S: Simd, const MR: usize, const NV: usize>(s: S, block: Block) -> usize {
    let c_row = block.c_row;
    let mut sums = [[s.zero(); NV]; MR];
    // SAFETY: MR rows of c with NV vectors, and what `accumulate` needs: within the views, by the caller's promise.
    unsafe {
        if block.add {
            for (r, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = s.load_at(block.c.add(r * c_row + v * S::LANES));
                }
            }
        }
        accumulate(s, block, &mut sums);
        for (r, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                s.store_at(block.c.add(r * c_row + v * S::LANES), *sum);
            }
        }
    }
    MR
}

/// Adds the products of `MR` rows of a with `NV` vectors of columns of b to `sums`.
///
/// SAFETY: `inner` rows of b with NV vectors and MR values of a in each of `inner` columns are readable.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    block: Block,
    sums: &mut [[S::V; NV]; MR],
) {
    let (mut a, mut b) = (block.a, block.b);
    for _ in 0..block.inner {
        // SAFETY: within the views, by the caller's promise.
        unsafe {
            let mut vectors = [s.zero(); NV];
            for (v, x) in vectors.iter_mut().enumerate() {
                *x = s.load_at(b.add(v * S::LANES));
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let x = s.splat(*a.add(r * block.a_row));
                for v in 0..NV {
                    row[v] = s.fma(x, vectors[v], row[v]);
                }
            }
        }
        a = a.wrapping_add(block.a_col);
        b = b.wrapping_add(block.b_row);
    }
}

/// Fewer columns than a vector has lanes.
///
/// SAFETY: as [`columns`] for `count` columns.
#[inline(always)]
unsafe fn last_columns<S: Simd>(s: S, block: Block, rows: usize, count: usize) {
    for row in 0..rows {
        // SAFETY: `count` values of each row of b and c, by the caller's promise.
        unsafe {
            let c = std::slice::from_raw_parts_mut(block.c.add(row * block.c_row), count);
            let mut sum = if block.add {
                s.load_partial(c)
            } else {
                s.zero()
            };
            for k in 0..block.inner {
                let b = std::slice::from_raw_parts(block.b.add(k * block.b_row), count);
                let x = *block.a.add(row * block.a_row + k * block.a_col);
                sum = s.fma(s.splat(x), s.load_partial(b), sum);
            }
            s.store_partial(c, sum);
        }
    }
}
