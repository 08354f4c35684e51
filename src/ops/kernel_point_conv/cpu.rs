//! The convolution on the host, forward and backward.
//!
//! Sums of a point are [channels, padded M]: kernel points in the lanes, so a pair costs one vector of influences and one
//! product per channel. Weights are packed to match: [channels, padded M, padded other channels].

use super::super::pairs::{Partials, parts};
use super::{KernelPointConv, Sizes};
use crate::device::gemm::{Store, View, ViewMut, tile_product};
use crate::device::parallel;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::geometry::{MISSING, Neighbors};
use crate::graph::{Backward, Forward};
use std::ops::Range;

/// Points of a tile.
const TILE: usize = 16;
/// Points of one parallel chunk.
const ROWS: usize = 8 * TILE;
/// Pairs whose influences are computed at once.
const PAIRS: usize = 64;
/// Channels that are summed up in registers at once.
const CHANNELS: usize = 8;
/// Where padding kernel points lie, metres: beyond the influence of any neighbour.
const FAR: f32 = 1e6;

/// The pairs of every point, with the row of the features that each brings.
#[derive(Debug, Clone, Copy)]
enum Side<'a> {
    /// Neighbours of queries bring their own features.
    Neighbors(&'a Neighbors),
    /// Queries that name a point as neighbour bring theirs.
    Queries(&'a Neighbors),
}

impl<'a> Side<'a> {
    fn neighbors(self) -> &'a Neighbors {
        match self {
            Side::Neighbors(n) | Side::Queries(n) => n,
        }
    }

    /// Number of pairs of `point`.
    #[inline(always)]
    fn count(self, point: usize) -> usize {
        match self {
            Side::Neighbors(n) => n.k,
            Side::Queries(n) => n.transposed().list(point).len(),
        }
    }

    /// Number and feature row of pair `at` of `point`; the row is [`MISSING`] where there is none.
    #[inline(always)]
    fn pair(self, point: usize, at: usize) -> (usize, u32) {
        match self {
            Side::Neighbors(n) => {
                let pair = point * n.k + at;
                (pair, n.index[pair])
            }
            Side::Queries(n) => {
                let pair = n.transposed().list(point)[at] as usize;
                (pair, (pair / n.k) as u32)
            }
        }
    }
}

/// What the sums of a point are computed from.
#[derive(Debug, Clone, Copy)]
struct Sums<'a> {
    side: Side<'a>,
    /// planes [3, padded M]
    points: &'a [f32],
    influence: f32,
    /// [rows, channels]
    features: &'a [f32],
    channels: usize,
}

impl Sums<'_> {
    /// padded M
    #[inline(always)]
    fn kernel(&self) -> usize {
        self.points.len() / 3
    }

    /// Words of the sums of a point.
    #[inline(always)]
    fn words(&self) -> usize {
        self.channels * self.kernel()
    }

    /// Words of the influences of a block of pairs.
    #[inline(always)]
    fn block_words(&self) -> usize {
        PAIRS * self.kernel()
    }

    /// The sums of `points`, one after another.
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, points: Range<usize>, influences: &mut [f32], out: &mut [f32]) {
        let mut rows = [0; PAIRS];
        for (point, out) in points.zip(out.chunks_exact_mut(self.words())) {
            out.fill(0.0);
            let mut at = 0;
            let pairs = self.side.count(point);
            while at < pairs {
                let mut count = 0;
                while at < pairs && count < PAIRS {
                    let (pair, row) = self.side.pair(point, at);
                    at += 1;
                    if row == MISSING {
                        continue;
                    }
                    rows[count] = row;
                    let kernel = self.kernel();
                    self.influences(s, pair, &mut influences[count * kernel..][..kernel]);
                    count += 1;
                }
                self.add(s, &rows[..count], influences, out);
            }
        }
    }

    /// h of one pair.
    #[inline(always)]
    fn influences<S: Simd>(&self, s: S, pair: usize, out: &mut [f32]) {
        let kernel = self.kernel();
        let [x, y, z] = &self.side.neighbors().delta;
        let (x, y, z) = (s.splat(x[pair]), s.splat(y[pair]), s.splat(z[pair]));
        let (one, inverse) = (s.splat(1.0), s.splat(-1.0 / self.influence));
        for first in (0..kernel).step_by(S::LANES) {
            let x = s.sub(x, s.load(&self.points[first..]));
            let y = s.sub(y, s.load(&self.points[kernel + first..]));
            let z = s.sub(z, s.load(&self.points[2 * kernel + first..]));
            let square = s.fma(z, z, s.fma(y, y, s.mul(x, x)));
            let h = s.fma(s.sqrt(square), inverse, one);
            s.store(&mut out[first..], s.max(h, s.zero()));
        }
    }

    /// out[c, m] += Σ h[pair, m] · features[row of the pair, c]
    #[inline(always)]
    fn add<S: Simd>(&self, s: S, rows: &[u32], influences: &[f32], out: &mut [f32]) {
        let mut channel = 0;
        while channel < self.channels {
            let count = CHANNELS.min(self.channels - channel);
            match count {
                8 => self.add_some::<S, 8>(s, channel, rows, influences, out),
                7 => self.add_some::<S, 7>(s, channel, rows, influences, out),
                6 => self.add_some::<S, 6>(s, channel, rows, influences, out),
                5 => self.add_some::<S, 5>(s, channel, rows, influences, out),
                4 => self.add_some::<S, 4>(s, channel, rows, influences, out),
                3 => self.add_some::<S, 3>(s, channel, rows, influences, out),
                2 => self.add_some::<S, 2>(s, channel, rows, influences, out),
                _ => self.add_some::<S, 1>(s, channel, rows, influences, out),
            }
            channel += count;
        }
    }

    /// As [`Sums::add`] for `COUNT` channels from `channel` on, whose sums stay in registers.
    #[inline(always)]
    fn add_some<S: Simd, const COUNT: usize>(
        &self,
        s: S,
        channel: usize,
        rows: &[u32],
        influences: &[f32],
        out: &mut [f32],
    ) {
        let kernel = self.kernel();
        let out = &mut out[channel * kernel..(channel + COUNT) * kernel];
        for first in (0..kernel).step_by(S::LANES) {
            let mut sums = [s.zero(); COUNT];
            for c in 0..COUNT {
                sums[c] = s.load(&out[c * kernel + first..]);
            }
            for (row, h) in rows.iter().zip(influences.chunks_exact(kernel)) {
                let h = s.load(&h[first..]);
                let x = &self.features[*row as usize * self.channels + channel..][..COUNT];
                for c in 0..COUNT {
                    sums[c] = s.fma(s.splat(x[c]), h, sums[c]);
                }
            }
            for c in 0..COUNT {
                s.store(&mut out[c * kernel + first..], sums[c]);
            }
        }
    }
}

/// The sums of a tile in a function of its own: what runs inside a closure is compiled for any processor.
struct SumsTile<'a> {
    sums: Sums<'a>,
    points: Range<usize>,
    influences: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for SumsTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.sums.tile(s, self.points, self.influences, self.out);
    }
}

/// y = sums · weight, replaced or added, for a run of points.
struct Convolve<'a> {
    sums: Sums<'a>,
    /// [channels · padded M, padded width]
    weight: &'a [f32],
    width: usize,
    store: Store,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (sums, words, wide) = (self.sums, self.sums.words(), padded(self.width));
        let buffers = padded(TILE * words) + TILE * wide + sums.block_words();
        with_workspace(buffers, |mut rest| {
            let tile = carve(&mut rest, TILE * words);
            let result = carve(&mut rest, TILE * wide);
            let influences = carve(&mut rest, sums.block_words());
            let mut first = self.first;
            for y in self.y.chunks_mut(TILE * self.width) {
                let count = y.len() / self.width;
                s.call(SumsTile {
                    sums,
                    points: first..first + count,
                    influences,
                    out: tile,
                });
                tile_product(
                    s,
                    ViewMut::new(result, count, wide),
                    View::new(tile, count, words),
                    View::new(self.weight, words, wide),
                    Store::Replace,
                );
                let rows = y.chunks_exact_mut(self.width);
                for (y, x) in rows.zip(result.chunks_exact(wide)) {
                    match self.store {
                        Store::Replace => y.copy_from_slice(&x[..self.width]),
                        Store::Add => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
                    }
                }
                first += count;
            }
        });
    }
}

/// d_W += sumsᵀ · d_y of a run of points, packed.
struct WeightGradient<'a> {
    sums: Sums<'a>,
    points: Range<usize>,
    /// [N, width]
    d_y: &'a [f32],
    width: usize,
    /// [channels · padded M, padded width]
    d_weight: &'a mut [f32],
}

impl Kernel for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (sums, words, wide) = (self.sums, self.sums.words(), padded(self.width));
        let buffers = padded(TILE * words) + TILE * wide + sums.block_words();
        with_workspace(buffers, |mut rest| {
            let tile = carve(&mut rest, TILE * words);
            let upstream = carve(&mut rest, TILE * wide);
            let influences = carve(&mut rest, sums.block_words());
            upstream.fill(0.0);
            for first in self.points.clone().step_by(TILE) {
                let count = TILE.min(self.points.end - first);
                s.call(SumsTile {
                    sums,
                    points: first..first + count,
                    influences,
                    out: tile,
                });
                let d_y = self.d_y[first * self.width..].chunks_exact(self.width);
                for (x, d_y) in upstream.chunks_exact_mut(wide).zip(d_y).take(count) {
                    x[..self.width].copy_from_slice(d_y);
                }
                tile_product(
                    s,
                    ViewMut::new(self.d_weight, words, wide),
                    View::new(tile, count, words).transposed(),
                    View::new(upstream, count, wide),
                    Store::Add,
                );
            }
        });
    }
}

/// Planes of the kernel points, padded.
fn pack_points(points: &[f32], planes: &mut [f32]) {
    let kernel = planes.len() / 3;
    planes.fill(FAR);
    for (m, point) in points.chunks_exact(3).enumerate() {
        for (axis, value) in point.iter().enumerate() {
            planes[axis * kernel + m] = *value;
        }
    }
}

/// W as [I, padded M, padded O].
fn pack_weight(sizes: Sizes, weight: &[f32], packed: &mut [f32]) {
    packed.fill(0.0);
    for (row, values) in weight.chunks_exact(sizes.outputs).enumerate() {
        let (m, i) = (row / sizes.inputs, row % sizes.inputs);
        let to = (i * sizes.padded_kernel() + m) * padded(sizes.outputs);
        packed[to..to + sizes.outputs].copy_from_slice(values);
    }
}

/// W as [O, padded M, padded I].
fn pack_transposed(sizes: Sizes, weight: &[f32], packed: &mut [f32]) {
    packed.fill(0.0);
    for (row, values) in weight.chunks_exact(sizes.outputs).enumerate() {
        let (m, i) = (row / sizes.inputs, row % sizes.inputs);
        for (o, value) in values.iter().enumerate() {
            packed[(o * sizes.padded_kernel() + m) * padded(sizes.inputs) + i] = *value;
        }
    }
}

/// Runs forward on the host.
pub(super) fn forward(op: &KernelPointConv, io: &mut Forward<'_>) {
    let sizes = op.sizes(io.shape(0), io.shape(1));
    let (points, rest) = io.scratch().split_at_mut(sizes.point_words());
    let weight = &mut rest[..sizes.weight_words()];
    pack_points(io.input(1), points);
    pack_weight(sizes, io.input(2), weight);
    let sums = Sums {
        side: Side::Neighbors(&op.neighbors),
        points,
        influence: op.influence,
        features: io.input(0),
        channels: sizes.inputs,
    };
    let (weight, width) = (&*weight, sizes.outputs);
    parallel::for_each_rows(io.output(0), width, ROWS, |first, y| {
        dispatch(Convolve {
            sums,
            weight,
            width,
            store: Store::Replace,
            first,
            y,
        });
    });
}

/// Runs backward on the host.
pub(super) fn backward(op: &KernelPointConv, io: &mut Backward<'_>) {
    let Some(d_y) = io.d_output(0) else { return };
    let sizes = op.sizes(io.shape(0), io.shape(1));
    let queries = op.neighbors.queries;
    let (points, rest) = io.scratch().split_at_mut(sizes.point_words());
    let (partials, rest) = rest.split_at_mut(parts(queries) * sizes.weight_words());
    pack_points(io.input(1), points);
    let points = &*points;
    if let Some(d_x) = io.d_input(0) {
        let weight = &mut rest[..sizes.transposed_words()];
        pack_transposed(sizes, io.input(2), weight);
        // built before the threads ask for it
        op.neighbors.transposed();
        let sums = Sums {
            side: Side::Queries(&op.neighbors),
            points,
            influence: op.influence,
            features: d_y,
            channels: sizes.outputs,
        };
        let (weight, width) = (&*weight, sizes.inputs);
        parallel::for_each_rows(d_x, width, ROWS, |first, y| {
            dispatch(Convolve {
                sums,
                weight,
                width,
                store: Store::Add,
                first,
                y,
            });
        });
    }
    let Some(d_weight) = io.d_input(2) else {
        return;
    };
    let sums = Sums {
        side: Side::Neighbors(&op.neighbors),
        points,
        influence: op.influence,
        features: io.input(0),
        channels: sizes.inputs,
    };
    let words = sizes.weight_words();
    let mut partials = Partials::new(partials, parts(queries), words);
    partials.for_each(queries, TILE, (&mut [], 0), |points, d_weight, _| {
        dispatch(WeightGradient {
            sums,
            points,
            d_y,
            width: sizes.outputs,
            d_weight,
        });
    });
    let sum = &mut rest[..words];
    sum.fill(0.0);
    partials.add_to(0, sum);
    for (row, values) in d_weight.chunks_exact_mut(sizes.outputs).enumerate() {
        let (m, i) = (row / sizes.inputs, row % sizes.inputs);
        let from = (i * sizes.padded_kernel() + m) * padded(sizes.outputs);
        let sum = &sum[from..from + sizes.outputs];
        values.iter_mut().zip(sum).for_each(|(y, x)| *y += x);
    }
}
