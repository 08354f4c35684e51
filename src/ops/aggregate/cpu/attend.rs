//! What forward shares with the fused inference form: weights from the relation, and what they attend to.

use super::super::super::pairs::{
    CHUNK, PairRows, Projection, Sizes, gather_values, hidden_rows, pack_planes, pack_projection,
    prefetch_rows, project, softmax, weight_sums,
};
use crate::device::gemm::{Store, View, ViewMut, block_product};
use crate::device::simd::Simd;
use crate::device::workspace::{carve, padded};
use crate::geometry::{MISSING, Neighbors};
use std::ops::Range;

/// Second weight-encoding layer and the values.
#[derive(Debug, Clone, Copy)]
pub(in super::super::super) struct Attention<'a> {
    pub neighbors: &'a Neighbors,
    pub sizes: Sizes,
    /// B, [G, G]
    pub weight: &'a [f32],
    /// b, [G]
    pub constant: &'a [f32],
    /// v, [N, C]
    pub values: &'a [f32],
    pub bias: Option<ValueBias<'a>>,
}

/// What positions add to the values, packed.
#[derive(Debug, Clone, Copy)]
pub(in super::super::super) struct ValueBias<'a> {
    /// P as planes, [4, padded C]
    pub planes: &'a [f32],
    /// W2 from [`pack_projection`]
    pub projection: &'a [f32],
    /// b2, [C]
    pub constant: &'a [f32],
}

/// Words of a packed position bias.
pub(in super::super::super) fn packed_words(sizes: Sizes) -> usize {
    let projection = sizes.groups * sizes.padded_channels() * sizes.padded_width();
    padded(4 * sizes.padded_channels()) + padded(projection)
}

/// Packs P, W2 and b2 into `scratch`.
pub(in super::super::super) fn pack_bias<'a>(
    sizes: Sizes,
    [position, w2, constant]: [&'a [f32]; 3],
    mut scratch: &'a mut [f32],
) -> ValueBias<'a> {
    let planes = carve(&mut scratch, 4 * sizes.padded_channels());
    pack_planes(position, sizes.padded_channels(), planes);
    let projection = sizes.groups * sizes.padded_channels() * sizes.padded_width();
    let projection_words = carve(&mut scratch, projection);
    pack_projection(w2, sizes, projection_words);
    ValueBias {
        planes,
        projection: projection_words,
        constant,
    }
}

/// Buffers of [`attend`].
pub(in super::super::super) struct AttendBuffers<'a> {
    hidden: &'a mut [f32],
    u: &'a mut [f32],
    pub sums: &'a mut [f32],
}

impl<'a> AttendBuffers<'a> {
    /// Words that [`AttendBuffers::carve`] takes.
    pub fn words(sizes: Sizes) -> usize {
        let tile = sizes.tile();
        padded(sizes.k * CHUNK) + padded(tile * sizes.groups * CHUNK) + padded(tile * sizes.groups)
    }

    /// Takes the buffers off `rest`.
    pub fn carve(rest: &mut &'a mut [f32], sizes: Sizes) -> Self {
        let tile = sizes.tile();
        AttendBuffers {
            hidden: carve(rest, sizes.k * CHUNK),
            u: carve(rest, tile * sizes.groups * CHUNK),
            sums: carve(rest, tile * sizes.groups),
        }
    }
}

/// Softmax weights, `w` ([G, stride]), from the rectified relation `r` ([G, stride]).
#[inline(always)]
pub(in super::super::super) fn attention_weights<S: Simd>(
    s: S,
    attention: &Attention<'_>,
    points: usize,
    r: &[f32],
    w: &mut [f32],
) {
    let Sizes { k, groups, .. } = attention.sizes;
    let stride = r.len() / groups;
    let end = (points * k).next_multiple_of(16);
    for (row, constant) in w.chunks_exact_mut(stride).zip(attention.constant) {
        row.fill(*constant);
    }
    block_product::<S, 6, 4>(
        s,
        ViewMut::strided(w, [groups, end], stride),
        View::new(attention.weight, groups, groups),
        View::strided(r, [groups, end], [stride, 1]),
        Store::Add,
    );
    for row in w.chunks_exact_mut(stride) {
        softmax(s, &mut row[..points * k], k);
        row[points * k..].fill(0.0);
    }
}

/// Zeroes the weights of neighbours that do not exist. `index` names those of the tile, `w` is [G, stride].
#[inline(always)]
pub(in super::super::super) fn mask_missing(index: &[u32], w: &mut [f32], stride: usize) {
    for (pair, _) in index.iter().enumerate().filter(|(_, row)| **row == MISSING) {
        for row in w.chunks_exact_mut(stride) {
            row[pair] = 0.0;
        }
    }
}

/// Adds what is attended to y ([points, G, padded I]), without the constant of the positions. The weights `w`
/// ([G, stride]) are masked already.
#[inline(always)]
pub(in super::super::super) fn attend<S: Simd>(
    s: S,
    attention: &Attention<'_>,
    points: Range<usize>,
    deltas: &[f32],
    w: &[f32],
    buffers: &mut AttendBuffers<'_>,
    y: &mut [f32],
) {
    let sizes = attention.sizes;
    let k = sizes.k;
    let index = &attention.neighbors.index[points.start * k..points.end * k];
    if let Some(bias) = attention.bias {
        attend_positions(s, attention, &bias, (index, deltas, w), buffers, y);
    }
    gather_values(s, attention.values, index, w, sizes, y);
}

/// Adds W2 · Σ_j w h to y ([points, G, padded I]). Meanwhile the values of the neighbours, which are read next, come into
/// the cache.
#[inline(always)]
fn attend_positions<S: Simd>(
    s: S,
    attention: &Attention<'_>,
    bias: &ValueBias<'_>,
    (index, deltas, w): (&[u32], &[f32], &[f32]),
    buffers: &mut AttendBuffers<'_>,
    y: &mut [f32],
) {
    let sizes = attention.sizes;
    let Sizes { k, groups, .. } = sizes;
    let (stride, points) = (w.len() / groups, index.len() / k);
    for chunk in sizes.chunks() {
        let width = chunk.len();
        let hidden = &mut buffers.hidden[..k * width];
        let u = &mut buffers.u[..points * groups * width];
        for (point, u) in u.chunks_exact_mut(groups * width).enumerate() {
            if chunk.start == 0 {
                let index = &index[point * k..(point + 1) * k];
                prefetch_rows(s, attention.values, index, sizes.channels);
            }
            let pairs = PairRows::new(deltas, point * k..(point + 1) * k);
            hidden_rows(s, bias.planes, chunk.clone(), pairs, hidden);
            block_product::<S, 6, 3>(
                s,
                ViewMut::new(u, groups, width),
                View::strided(&w[point * k..], [groups, k], [stride, 1]),
                View::new(hidden, k, width),
                Store::Replace,
            );
        }
        let projection = Projection {
            packed: bias.projection,
            first: chunk.start,
            width,
        };
        project(s, projection, u, sizes, y);
    }
}

/// Adds Σ_j w b2 to y ([points, G, padded I]). The weights `w` ([G, stride]) are masked already.
#[inline(always)]
pub(in super::super::super) fn add_constants<S: Simd>(
    s: S,
    sizes: Sizes,
    constants: &[f32],
    w: &[f32],
    sums: &mut [f32],
    y: &mut [f32],
) {
    let short = sizes.padded_width();
    let sums = &mut sums[..y.len() / short];
    weight_sums(s, w, sizes, sums);
    let points = y.chunks_exact_mut(sizes.groups * short);
    for (y, sums) in points.zip(sums.chunks_exact(sizes.groups)) {
        let constants = constants.chunks_exact(sizes.width());
        for ((y, sum), constants) in y.chunks_exact_mut(short).zip(sums).zip(constants) {
            for (y, constant) in y.iter_mut().zip(constants) {
                *y += *sum * constant;
            }
        }
    }
}

/// Every point of y ([points, G, padded I]) becomes `row` ([C]), zero in the padding.
#[inline(always)]
pub(in super::super::super) fn start(sizes: Sizes, row: &[f32], y: &mut [f32]) {
    let short = sizes.padded_width();
    if short == sizes.width() {
        for point in y.chunks_exact_mut(sizes.channels) {
            point.copy_from_slice(row);
        }
        return;
    }
    y.fill(0.0);
    for point in y.chunks_exact_mut(sizes.groups * short) {
        let groups = row.chunks_exact(sizes.width());
        for (y, row) in point.chunks_exact_mut(short).zip(groups) {
            y[..row.len()].copy_from_slice(row);
        }
    }
}

/// Copies y ([points, G, padded I]) to rows of C values.
#[inline(always)]
pub(in super::super::super) fn unpad(sizes: Sizes, y: &[f32], out: &mut [f32]) {
    let (short, width) = (sizes.padded_width(), sizes.width());
    for (y, out) in y.chunks_exact(short).zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&y[..width]);
    }
}
