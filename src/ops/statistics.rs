//! Mean and variance of the columns of a matrix: what all batch norms stand on.

use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Gpu, Pointer, parallel};
use crate::graph::Shape;
use crate::{Error, Result};

kernels!("statistics");

/// Which statistics a norm uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// Those of the batch; backward flows through them.
    Batch,
    /// The running ones; constants.
    Running,
}

/// Rows of one block: few enough to stay in the first-level cache and for `f32` sums to be exact to rounding.
const BLOCK: usize = 64;
/// Rows of one parallel chunk.
const CHUNK: usize = 1024;
/// Columns that keep the vector units busy; narrower matrices are read as several rows side by side.
const WIDTH: usize = 96;

/// How many rows of `cols` values are read as one.
pub(super) fn fold(cols: usize) -> usize {
    (WIDTH / cols.max(1)).max(1)
}

/// Mean and biased variance per column, in `f64`.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub mean: Vec<f64>,
    pub variance: Vec<f64>,
}

/// Sums of one block around a value near its mean, so that large offsets cost no digits.
struct Block<'a> {
    rows: &'a [f32],
    shift: &'a mut [f32],
    sum: &'a mut [f32],
    square: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let cols = self.shift.len();
        self.shift.fill(0.0);
        self.sum.fill(0.0);
        self.square.fill(0.0);
        for row in self.rows.chunks_exact(cols) {
            self.shift.iter_mut().zip(row).for_each(|(m, x)| *m += x);
        }
        let share = cols as f32 / self.rows.len() as f32;
        self.shift.iter_mut().for_each(|m| *m *= share);
        for row in self.rows.chunks_exact(cols) {
            let sums = self.sum.iter_mut().zip(self.square.iter_mut());
            for ((sum, square), (m, x)) in sums.zip(self.shift.iter().zip(row)) {
                let delta = x - m;
                *sum += delta;
                *square += delta * delta;
            }
        }
    }
}

/// Count, mean and sum of squares of a growing set (Chan, Golub and LeVeque 1979).
#[derive(Clone)]
struct Growing {
    count: f64,
    mean: Vec<f64>,
    square: Vec<f64>,
}

impl Growing {
    fn new(cols: usize) -> Self {
        Growing {
            count: 0.0,
            mean: vec![0.0; cols],
            square: vec![0.0; cols],
        }
    }

    fn add(&mut self, count: f64, column: impl Fn(usize) -> (f64, f64)) {
        let total = self.count + count;
        if count == 0.0 {
            return;
        }
        for c in 0..self.mean.len() {
            let (mean, square) = column(c);
            let delta = mean - self.mean[c];
            self.mean[c] += delta * count / total;
            self.square[c] += square + delta * delta * self.count * count / total;
        }
        self.count = total;
    }
}

/// Count, mean and sum of squares of the columns of `x`, in parallel chunks added up in order.
fn grow(x: &[f32], cols: usize) -> Growing {
    let rows = x.len() / cols.max(1);
    let chunks = rows.div_ceil(CHUNK);
    let mut parts = vec![Growing::new(cols); chunks];
    parallel::for_each_rows(&mut parts, 1, 1, |chunk, part| {
        let mut sums = vec![0.0f32; 3 * cols];
        let (shift, rest) = sums.split_at_mut(cols);
        let (sum, square) = rest.split_at_mut(cols);
        let end = ((chunk + 1) * CHUNK).min(rows);
        for block in x[chunk * CHUNK * cols..end * cols].chunks(BLOCK * cols) {
            dispatch(Block {
                rows: block,
                shift,
                sum,
                square,
            });
            let count = (block.len() / cols) as f64;
            part[0].add(count, |c| {
                let sum = f64::from(sum[c]);
                let mean = f64::from(shift[c]) + sum / count;
                (mean, f64::from(square[c]) - sum * sum / count)
            });
        }
    });
    let mut all = Growing::new(cols);
    for part in &parts {
        all.add(part.count, |c| (part.mean[c], part.square[c]));
    }
    all
}

impl Moments {
    /// Moments of `x` [N, C]; zero rows give mean 0 and variance 0.
    pub fn of(x: &[f32], cols: usize) -> Self {
        let fold = fold(cols);
        let wide = fold * cols;
        let (whole, rest) = x.split_at(x.len() - x.len() % wide.max(1));
        let (whole, rest) = (grow(whole, wide), grow(rest, cols));
        let mut all = Growing::new(cols);
        for first in (0..wide).step_by(cols.max(1)) {
            all.add(whole.count, |c| {
                (whole.mean[first + c], whole.square[first + c])
            });
        }
        all.add(rest.count, |c| (rest.mean[c], rest.square[c]));
        let count = all.count.max(1.0);
        Moments {
            mean: all.mean,
            variance: all.square.iter().map(|s| s / count).collect(),
        }
    }

    /// Writes mean and unbiased variance (n/(n−1)) for the running statistics.
    pub fn store(&self, rows: usize, mean: &mut [f32], variance: &mut [f32]) {
        let unbias = match rows {
            0 => 1.0,
            rows => rows as f64 / (rows as f64 - 1.0).max(1.0),
        };
        for c in 0..mean.len() {
            mean[c] = self.mean[c] as f32;
            variance[c] = (self.variance[c] * unbias) as f32;
        }
    }
}

/// The shape rule that all norms share: x, γ, β, running mean, running variance.
pub(super) fn check_inputs(op: &str, statistics: Statistics, inputs: &[Shape]) -> Result<Shape> {
    let [x, rest @ ..] = inputs else {
        return Err(Error::shape(op, "needs five inputs"));
    };
    if rest.len() != 4 || rest.iter().any(|s| *s != Shape::new(1, x.cols)) {
        let fault = format!(
            "γ, β, mean and variance must be [1, {}], got {rest:?}",
            x.cols
        );
        return Err(Error::shape(op, fault));
    }
    if statistics == Statistics::Batch && x.rows == 1 {
        return Err(Error::shape(
            op,
            format!("{x}: statistics of a batch need more than one row; use larger or more clouds"),
        ));
    }
    Ok(*x)
}

/// Scale γ/√(σ² + ε) and shift β − μ·scale of every channel.
pub(super) fn coefficients(
    moments: &Moments,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    [scale, shift]: [&mut [f32]; 2],
) {
    for c in 0..gamma.len() {
        let s = f64::from(gamma[c]) / (moments.variance[c] + f64::from(epsilon)).sqrt();
        scale[c] = s as f32;
        shift[c] = (f64::from(beta[c]) - moments.mean[c] * s) as f32;
    }
}

/// The moments that normalise: of `x`, or the running ones. A batch without rows keeps the running ones too, so that
/// following it moves nothing.
pub(super) fn moments(
    statistics: Statistics,
    x: &[f32],
    cols: usize,
    mean: &[f32],
    variance: &[f32],
) -> Moments {
    match statistics {
        Statistics::Batch if !x.is_empty() => Moments::of(x, cols),
        _ => running(mean, variance),
    }
}

/// Running statistics as moments.
fn running(mean: &[f32], variance: &[f32]) -> Moments {
    let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect();
    Moments {
        mean: wide(mean),
        variance: wide(variance),
    }
}

/// How the rows of a matrix are cut for sums per column on a GPU; see `kernels/columns.cuh`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnChunks {
    /// Rows of a chunk.
    pub rows: usize,
    /// Number of chunks.
    pub count: usize,
}

impl ColumnChunks {
    /// Threads of a block, and most columns of a tile.
    const THREADS: u32 = 256;
    /// Most chunks whose results are added up.
    const COUNT: usize = 1024;
    /// Columns and threads of a block that adds up the results of chunks.
    const FINISH_COLUMNS: usize = 8;
    const FINISH_THREADS: u32 = 512;
    /// Rows that a thread adds up, unless there would be too many chunks.
    const SUM_WALK: usize = 16;
    /// Rows that a thread meets in a short chunk.
    const WALK: usize = 8;

    /// Chunks for sums per column: short, since a thread waits for memory as often as it meets a row, and long enough for
    /// the partial results to be few bytes beside the matrix.
    pub fn new(shape: Shape) -> Self {
        Self::of_at_least(Self::SUM_WALK * Self::side_by_side(shape.cols), shape.rows)
    }

    /// Chunks of `least` rows, or more so that they are not too many.
    pub fn of_at_least(least: usize, rows: usize) -> Self {
        let chunk = rows.div_ceil(Self::COUNT).next_multiple_of(least);
        let chunk = chunk.max(least);
        ColumnChunks {
            rows: chunk,
            count: rows.div_ceil(chunk),
        }
    }

    /// Short chunks for a kernel that keeps numbers of its column while it walks over rows: a thread meets as many rows as
    /// make those numbers cheap, and there are blocks enough.
    pub fn short(shape: Shape) -> Self {
        Self::walks(shape, Self::WALK)
    }

    /// Chunks of as many rows as a block has side by side: every thread meets one.
    pub fn single(shape: Shape) -> Self {
        Self::walks(shape, 1)
    }

    fn walks(shape: Shape, walk: usize) -> Self {
        let rows = walk * Self::side_by_side(shape.cols);
        ColumnChunks {
            rows,
            count: shape.rows.div_ceil(rows),
        }
    }

    /// Rows that a block has side by side.
    fn side_by_side(cols: usize) -> usize {
        Self::THREADS as usize / cols.clamp(1, Self::THREADS as usize)
    }

    /// One block per chunk and tile of columns.
    pub fn grid(self, cols: usize) -> Grid {
        Grid::plane(
            [self.count, cols.div_ceil(Self::THREADS as usize)],
            Self::THREADS,
        )
    }

    /// Blocks and threads of a kernel that adds up the results of chunks, two of every column.
    pub fn finish_grid(cols: usize) -> Grid {
        Grid::new(cols.div_ceil(Self::FINISH_COLUMNS), Self::FINISH_THREADS)
    }

    /// Words of partial results: two per chunk and column.
    pub fn words(self, cols: usize) -> usize {
        2 * self.count * cols
    }
}

/// Adds to `out` \[C\] the sums per column of `x` [N, C], or of its values where `mask` is above 0, on a GPU.
pub(super) fn add_column_sums_on(
    gpu: Gpu,
    (x, mask, shape): (Pointer, Option<Pointer>, Shape),
    scratch: Pointer,
    out: Pointer,
) -> Result<()> {
    let Shape { rows, cols } = shape;
    let chunks = ColumnChunks::new(shape);
    let args = args![x, mask, rows, cols as u32, chunks.rows, scratch];
    gpu.launch(&KERNELS, "column_sums", chunks.grid(cols), args)?;
    add_parts_on(gpu, (scratch, chunks.count), cols, out)
}

/// Most warps of a block that share the parts of its values, and parts for each.
const PART_WARPS: usize = 32;
const PART_WALK: usize = 4;

/// Adds `count` partial results of `n` values each to `out`, in a fixed order, on a GPU.
pub(super) fn add_parts_on(
    gpu: Gpu,
    (parts, count): (Pointer, usize),
    n: usize,
    out: Pointer,
) -> Result<()> {
    let args = args![parts, count, n, out];
    let warps = count.div_ceil(PART_WALK).clamp(1, PART_WARPS);
    let grid = Grid::new(n.div_ceil(32), 32 * warps as u32);
    gpu.launch(&KERNELS, "add_parts", grid, args)
}

/// Where a norm on a GPU puts what it needs per column, each C values.
pub(super) struct Coefficients {
    pub scale: Pointer,
    pub shift: Pointer,
    pub mean: Option<Pointer>,
    pub inverse: Option<Pointer>,
    /// Batch mean and unbiased variance.
    pub batch: Option<[Pointer; 2]>,
}

/// Statistics and coefficients of a norm over `inputs` (x, γ, β, running mean, running variance) on a GPU, with scratch
/// for the partial results.
pub(super) fn coefficients_on(
    gpu: Gpu,
    (statistics, epsilon): (Statistics, f32),
    (inputs, shape): ([Pointer; 5], Shape),
    scratch: Pointer,
    out: Coefficients,
) -> Result<()> {
    let Shape { rows, cols } = shape;
    let [x, gamma, beta, mean, variance] = inputs;
    let chunks = ColumnChunks::new(match statistics {
        Statistics::Batch => shape,
        Statistics::Running => Shape::new(0, cols),
    });
    let moments = args![x, rows, cols as u32, chunks.rows, scratch];
    gpu.launch(&KERNELS, "column_moments", chunks.grid(cols), moments)?;
    let finish = args![
        scratch,
        rows,
        cols as u32,
        chunks.rows,
        chunks.count,
        gamma,
        beta,
        mean,
        variance,
        epsilon,
        out.scale,
        out.shift,
        out.mean,
        out.inverse,
        out.batch.map(|b| b[0]),
        out.batch.map(|b| b[1])
    ];
    gpu.launch(
        &KERNELS,
        "finish_moments",
        ColumnChunks::finish_grid(cols),
        finish,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Random, Sequence};
    use crate::graph::check::spread;

    #[test]
    fn narrow_and_wide_matrices_give_the_same_moments() {
        for cols in [1, 5, 6, 40, 200] {
            for rows in [0, 1, 2, 15, 16, 17, 3001] {
                let x = spread(Shape::new(rows, cols), 4);
                let got = Moments::of(&x, cols);
                for c in 0..cols {
                    let column = || x.iter().skip(c).step_by(cols).map(|x| f64::from(*x));
                    let n = rows.max(1) as f64;
                    let mean = column().sum::<f64>() / n;
                    let variance = column().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
                    assert!((got.mean[c] - mean).abs() < 1e-6);
                    assert!((got.variance[c] - variance).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn moments_are_exact_far_from_zero() {
        let mut random = Sequence::new(Random::new(2, 0));
        let x: Vec<f32> = (0..3 * 9000)
            .map(|_| (1000.0 + random.normal()) as f32)
            .collect();
        let got = Moments::of(&x, 3);
        for c in 0..3 {
            let column = || x.iter().skip(c).step_by(3).map(|x| f64::from(*x));
            let mean = column().sum::<f64>() / 9000.0;
            let variance = column().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 9000.0;
            assert!((got.mean[c] - mean).abs() < 1e-4, "{} {mean}", got.mean[c]);
            assert!((got.variance[c] / variance - 1.0).abs() < 1e-6);
        }
    }
}
