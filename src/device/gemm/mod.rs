//! Matrix products on the host: tall ones with a matrix packed once, tiles in cache through a register kernel, all
//! others through the crate `gemm`.
//!
//! All are sequential; callers cut the rows of the result into chunks and run those in parallel.

mod panels;
mod tile;

pub use panels::{Finish, Panels};
pub use tile::{block_product, tile_product};

/// A matrix of `f32` in a slice, with any strides.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A matrix of `f32` to be written, with rows of neighbouring values.
#[derive(Debug)]
pub struct ViewMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

/// What happens to the values that the result held before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// They are replaced, and not read.
    Replace,
    /// The product is added to them.
    Add,
}

/// Words from the first to the last value.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    (rows - 1) * row_stride + (cols - 1) * col_stride + 1
}

impl<'a> View<'a> {
    /// `rows` rows of `cols` values, one after another. Panics when there are fewer values.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(values, [rows, cols], [cols, 1])
    }

    /// `shape[0]` rows of `shape[1]` values with `strides` words between rows and between columns. Panics when the
    /// slice is too short.
    pub fn strided(values: &'a [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        let ([rows, cols], [row_stride, col_stride]) = (shape, strides);
        assert!(
            extent(rows, cols, row_stride, col_stride) <= values.len(),
            "a matrix of {rows} by {cols} does not fit its {} values",
            values.len()
        );
        View {
            values,
            rows,
            cols,
            row_stride,
            col_stride,
        }
    }

    /// Numbers of rows and of columns.
    pub fn shape(self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Rows become columns.
    pub fn transposed(self) -> Self {
        View {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> ViewMut<'a> {
    /// `rows` rows of `cols` values, one after another. Panics when there are fewer values.
    pub fn new(values: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(values, [rows, cols], cols)
    }

    /// `shape[0]` rows of `shape[1]` values, `row_stride` words apart. Panics when rows overlap or the slice is too
    /// short.
    pub fn strided(values: &'a mut [f32], shape: [usize; 2], row_stride: usize) -> Self {
        let [rows, cols] = shape;
        assert!(row_stride >= cols || rows <= 1, "rows overlap");
        assert!(
            extent(rows, cols, row_stride, 1) <= values.len(),
            "a matrix of {rows} by {cols} does not fit its {} values",
            values.len()
        );
        ViewMut {
            values,
            rows,
            cols,
            row_stride,
        }
    }
}

fn check(c: &ViewMut<'_>, a: &View<'_>, b: &View<'_>) {
    assert!(
        c.rows == a.rows && c.cols == b.cols && a.cols == b.rows,
        "a {}×{} result of {}×{} times {}×{}",
        c.rows,
        c.cols,
        a.rows,
        a.cols,
        b.rows,
        b.cols
    );
}

/// c = a · b, or c += a · b. Panics when the shapes do not fit together.
pub fn product(c: ViewMut<'_>, a: View<'_>, b: View<'_>, store: Store) {
    check(&c, &a, &b);
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let stride = |s: usize| s as isize;
    // SAFETY: the views hold every value that is addressed (checked when they were made), `c` is borrowed mutably and
    // its rows do not overlap; with nothing to sum over, `a` and `b` are not read.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.values.as_mut_ptr(),
            1,
            stride(c.row_stride),
            store == Store::Add,
            a.values.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.values.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simd::{Kernel, Level, Simd, dispatch_at};
    use crate::graph::Shape;
    use crate::graph::check::{assert_close, spread};

    struct Tile<'a>(ViewMut<'a>, View<'a>, View<'a>, Store);

    impl Kernel for Tile<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            tile_product(s, self.0, self.1, self.2, self.3);
        }
    }

    /// A product in blocks of `MR` rows and `NV` vectors.
    struct Blocks<'a, const MR: usize, const NV: usize>(Tile<'a>);

    impl<const MR: usize, const NV: usize> Kernel for Blocks<'_, MR, NV> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Tile(c, a, b, store) = self.0;
            block_product::<S, MR, NV>(s, c, a, b, store);
        }
    }

    fn naive(a: &View<'_>, b: &View<'_>, i: usize, j: usize) -> f32 {
        let at = |v: &View<'_>, r: usize, c: usize| {
            f64::from(v.values[r * v.row_stride + c * v.col_stride])
        };
        (0..a.cols).map(|k| at(a, i, k) * at(b, k, j)).sum::<f64>() as f32
    }

    fn compare(
        sizes: [usize; 3],
        transpose: bool,
        run: impl Fn(ViewMut<'_>, View<'_>, View<'_>, Store),
    ) {
        let [m, n, k] = sizes;
        let a = spread(Shape::new(m, k + 1), 1);
        let b = spread(Shape::new(k, n + 3), 2);
        let mut a_view = View::strided(&a, [m, k], [k + 1, 1]);
        if transpose {
            a_view = View::strided(&a, [k, m], [m, 1]).transposed();
        }
        let b_view = View::strided(&b, [k, n], [n + 3, 1]);
        for store in [Store::Replace, Store::Add] {
            let before = if store == Store::Add { 0.5 } else { f32::NAN };
            let stride = n + 2;
            let mut c = vec![before; m * stride];
            run(
                ViewMut::strided(&mut c, [m, n], stride),
                a_view,
                b_view,
                store,
            );
            for i in 0..m {
                let base = if store == Store::Add { 0.5 } else { 0.0 };
                let want: Vec<f32> = (0..n)
                    .map(|j| naive(&a_view, &b_view, i, j) + base)
                    .collect();
                assert_close(
                    &c[i * stride..][..n],
                    &want,
                    2e-6,
                    &format!("{sizes:?} row {i}"),
                );
                let margin = &c[i * stride + n..(i + 1) * stride];
                assert!(
                    margin.iter().all(|x| x.to_bits() == before.to_bits()),
                    "margin of {sizes:?}"
                );
            }
        }
    }

    const SIZES: [[usize; 3]; 12] = [
        [1, 1, 1],
        [6, 48, 16],
        [7, 5, 3],
        [8, 16, 0],
        [13, 33, 20],
        [16, 8, 48],
        [24, 50, 7],
        [3, 64, 9],
        [0, 5, 4],
        [5, 0, 4],
        [31, 17, 24],
        [48, 128, 48],
    ];

    #[test]
    fn product_matches_naive() {
        for sizes in SIZES {
            for transpose in [false, true] {
                compare(sizes, transpose, product);
            }
        }
    }

    #[test]
    fn tile_product_matches_naive_at_every_level() {
        for level in Level::ALL.into_iter().filter(|l| l.is_available()) {
            for sizes in SIZES {
                for transpose in [false, true] {
                    compare(sizes, transpose, |c, a, b, store| {
                        dispatch_at(level, Tile(c, a, b, store));
                    });
                }
            }
        }
    }

    #[test]
    fn block_product_matches_naive_at_every_level() {
        for level in Level::ALL.into_iter().filter(|l| l.is_available()) {
            for sizes in SIZES {
                for transpose in [false, true] {
                    compare(sizes, transpose, |c, a, b, store| {
                        dispatch_at(level, Blocks::<6, 4>(Tile(c, a, b, store)));
                    });
                    compare(sizes, transpose, |c, a, b, store| {
                        dispatch_at(level, Blocks::<16, 1>(Tile(c, a, b, store)));
                    });
                    compare(sizes, transpose, |c, a, b, store| {
                        dispatch_at(level, Blocks::<8, 3>(Tile(c, a, b, store)));
                    });
                }
            }
        }
    }

    #[test]
    fn product_with_panels_matches_naive() {
        for [m, n, k] in SIZES {
            let (x, w) = (spread(Shape::new(m, k), 1), spread(Shape::new(n, k), 2));
            let (bias, residual) = (spread(Shape::new(1, n), 3), spread(Shape::new(m, n), 4));
            let x = View::new(&x, m, k);
            for w in [View::new(&w, n, k).transposed(), View::new(&w, k, n)] {
                let mut packed = vec![f32::NAN; Panels::words(k, n)];
                let panels = Panels::pack(w, &mut packed);
                let finish = Finish {
                    bias: Some(&bias),
                    residual: Some(&residual),
                    relu: true,
                    add: false,
                };
                let added = Finish {
                    add: true,
                    ..Finish::default()
                };
                let all = [
                    (Finish::default(), "plain"),
                    (finish, "finished"),
                    (added, "added"),
                ];
                for (finish, what) in all {
                    let mut y = vec![if finish.add { 0.25 } else { f32::NAN }; m * n];
                    panels.product(ViewMut::new(&mut y, m, n), x, finish);
                    let want: Vec<f32> = (0..m * n)
                        .map(|at| match (naive(&x, &w, at / n, at % n), what) {
                            (y, "plain") => y,
                            (y, "added") => y + 0.25,
                            (y, _) => (y + bias[at % n] + residual[at]).max(0.0),
                        })
                        .collect();
                    assert_close(&y, &want, 2e-6, &format!("{what} {m}×{n}×{k}"));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_short_slice_is_refused() {
        View::new(&[0.0; 5], 2, 3);
    }

    #[test]
    #[should_panic(expected = "result of")]
    fn shapes_that_do_not_fit_are_refused() {
        let mut c = [0.0; 4];
        product(
            ViewMut::new(&mut c, 2, 2),
            View::new(&[0.0; 6], 2, 3),
            View::new(&[0.0; 4], 2, 2),
            Store::Replace,
        );
    }
}
