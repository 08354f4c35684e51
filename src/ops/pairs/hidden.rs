//! The hidden layer of the position encoding, h = ReLU(P[:, 0..3] · Δ + P[:, 3]), in both orders, and its gradient.

use super::CHUNK;
use crate::device::simd::Simd;
use std::ops::Range;

/// Offsets of a run of pairs: x, y and z.
#[derive(Debug, Clone, Copy)]
pub struct PairRows<'a> {
    /// x, y and z of every pair, of equal lengths.
    pub delta: [&'a [f32]; 3],
}

impl<'a> PairRows<'a> {
    /// Offsets from planes of equal length ([3, stride]).
    #[inline(always)]
    pub fn new(planes: &'a [f32], pairs: Range<usize>) -> Self {
        let stride = planes.len() / 3;
        let (x, rest) = planes.split_at(stride);
        let (y, z) = rest.split_at(stride);
        PairRows {
            delta: [&x[pairs.clone()], &y[pairs.clone()], &z[pairs]],
        }
    }

    /// Number of pairs.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.delta[0].len()
    }
}

/// P ([C, 4]) as four planes of `padded` channels, zero behind the last.
pub fn pack_planes(position: &[f32], padded: usize, out: &mut [f32]) {
    out[..4 * padded].fill(0.0);
    for (channel, row) in position.chunks_exact(4).enumerate() {
        for (plane, value) in row.iter().enumerate() {
            out[plane * padded + channel] = *value;
        }
    }
}

/// h with the pairs in the lanes: `out` is [channels, pairs] for the channels of `position` ([channels, 4]). The
/// number of pairs must be a multiple of 16.
#[inline(always)]
pub fn hidden_columns<S: Simd>(s: S, position: &[f32], pairs: PairRows<'_>, out: &mut [f32]) {
    let mut first = 0;
    while first < pairs.len() {
        let vectors = (pairs.len() - first) / S::LANES;
        if vectors >= 4 && S::REGISTERS >= 32 {
            column_vectors::<S, 4>(s, position, pairs, first, out);
            first += 4 * S::LANES;
        } else if vectors >= 2 {
            column_vectors::<S, 2>(s, position, pairs, first, out);
            first += 2 * S::LANES;
        } else {
            column_vectors::<S, 1>(s, position, pairs, first, out);
            first += S::LANES;
        }
    }
}

#[inline(always)]
fn column_vectors<S: Simd, const NV: usize>(
    s: S,
    position: &[f32],
    pairs: PairRows<'_>,
    first: usize,
    out: &mut [f32],
) {
    let mut delta = [[s.zero(); NV]; 3];
    for (delta, plane) in delta.iter_mut().zip(pairs.delta) {
        for (v, delta) in delta.iter_mut().enumerate() {
            *delta = s.load(&plane[first + v * S::LANES..]);
        }
    }
    let rows = out.chunks_exact_mut(pairs.len());
    for (row, p) in rows.zip(position.chunks_exact(4)) {
        let p = [s.splat(p[0]), s.splat(p[1]), s.splat(p[2]), s.splat(p[3])];
        let row = &mut row[first..][..NV * S::LANES];
        for (v, out) in row.chunks_exact_mut(S::LANES).enumerate() {
            let z = s.fma(p[0], delta[0][v], p[3]);
            let z = s.fma(p[1], delta[1][v], z);
            let z = s.fma(p[2], delta[2][v], z);
            s.store(out, s.max(s.zero(), z));
        }
    }
}

/// h with the channels in the lanes: `out` is [pairs, channels] for a chunk of channels of `planes` (see
/// [`pack_planes`]).
#[inline(always)]
pub fn hidden_rows<S: Simd>(
    s: S,
    planes: &[f32],
    channels: Range<usize>,
    pairs: PairRows<'_>,
    out: &mut [f32],
) {
    let vectors = channels.len() / S::LANES;
    let mut v = 0;
    while v < vectors {
        let at = v * S::LANES;
        if S::REGISTERS >= 32 && vectors - v >= 3 {
            row_vectors::<S, 3>(s, planes, channels.clone(), pairs, at, out);
            v += 3;
        } else if vectors - v >= 2 {
            row_vectors::<S, 2>(s, planes, channels.clone(), pairs, at, out);
            v += 2;
        } else {
            row_vectors::<S, 1>(s, planes, channels.clone(), pairs, at, out);
            v += 1;
        }
    }
}

#[inline(always)]
fn row_vectors<S: Simd, const NV: usize>(
    s: S,
    planes: &[f32],
    channels: Range<usize>,
    pairs: PairRows<'_>,
    at: usize,
    out: &mut [f32],
) {
    let padded = planes.len() / 4;
    let mut p = [[s.zero(); NV]; 4];
    for (plane, p) in p.iter_mut().enumerate() {
        let plane = &planes[plane * padded + channels.start + at..];
        for (v, p) in p.iter_mut().enumerate() {
            *p = s.load(&plane[v * S::LANES..]);
        }
    }
    let [x, y, z] = pairs.delta;
    let rows = out.chunks_exact_mut(channels.len());
    for (((row, x), y), z) in rows.zip(x).zip(y).zip(z) {
        let (x, y, z) = (s.splat(*x), s.splat(*y), s.splat(*z));
        let row = &mut row[at..][..NV * S::LANES];
        for (v, out) in row.chunks_exact_mut(S::LANES).enumerate() {
            let h = s.fma(x, p[0][v], p[3][v]);
            let h = s.fma(y, p[1][v], h);
            let h = s.fma(z, p[2][v], h);
            s.store(out, s.max(s.zero(), h));
        }
    }
}

/// Adds to d_P what flows into h: with dz = d_h where h > 0, d_P[:, 0..3] += Σ dz Δᵀ and d_P[:, 3] += Σ dz. `h` and
/// `d_h` are [pairs, channels]; `d_planes` has the form of [`pack_planes`].
#[inline(always)]
pub fn position_gradient<S: Simd>(
    s: S,
    h: &[f32],
    d_h: &[f32],
    pairs: PairRows<'_>,
    channels: Range<usize>,
    d_planes: &mut [f32],
) {
    debug_assert!(channels.len() <= CHUNK);
    let width = channels.len();
    let padded = d_planes.len() / 4;
    let [x, y, z] = pairs.delta;
    for at in (0..width).step_by(S::LANES) {
        let mut sums = [s.zero(); 4];
        for (plane, sum) in sums.iter_mut().enumerate() {
            *sum = s.load(&d_planes[plane * padded + channels.start + at..]);
        }
        let rows = h.chunks_exact(width).zip(d_h.chunks_exact(width));
        for ((((h, d_h), x), y), z) in rows.zip(x).zip(y).zip(z) {
            let d_z = s.where_positive(s.load(&h[at..]), s.load(&d_h[at..]));
            sums[0] = s.fma(d_z, s.splat(*x), sums[0]);
            sums[1] = s.fma(d_z, s.splat(*y), sums[1]);
            sums[2] = s.fma(d_z, s.splat(*z), sums[2]);
            sums[3] = s.add(d_z, sums[3]);
        }
        for (plane, sum) in sums.iter().enumerate() {
            s.store(&mut d_planes[plane * padded + channels.start + at..], *sum);
        }
    }
}
