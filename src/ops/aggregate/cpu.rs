//! Tiles of points: forward, and what forward shares with the fused inference form.

mod gradient;

pub(super) use gradient::{Layout, backward};

use super::super::pairs::{
    CHUNK, PairRows, Projection, Sizes, columns_to_rows, dropout_factor, for_each_rows_of_two,
    gather_values, hidden_rows, load_deltas, pack_planes, pack_projection, project,
    rows_to_columns, softmax, weight_sums,
};
use super::{Aggregate, has_bias};
use crate::device::gemm::{Store, View, ViewMut, tile_product};
use crate::device::random::Random;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::geometry::{MISSING, Neighbors};
use crate::graph::Forward;
use std::ops::Range;

/// Second weight-encoding layer and the values.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Attention<'a> {
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
pub(in super::super) struct ValueBias<'a> {
    /// P as planes, [4, padded C]
    pub planes: &'a [f32],
    /// W2 from [`pack_projection`]
    pub projection: &'a [f32],
    /// b2, [C]
    pub constant: &'a [f32],
}

/// Words of a packed position bias.
pub(in super::super) fn packed_words(sizes: Sizes) -> usize {
    let projection = sizes.groups * sizes.padded_channels() * sizes.padded_width();
    padded(4 * sizes.padded_channels()) + padded(projection)
}

/// Packs P, W2 and b2 into `scratch`.
pub(in super::super) fn pack_bias<'a>(
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
pub(in super::super) struct AttendBuffers<'a> {
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
pub(in super::super) fn attention_weights<S: Simd>(
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
    tile_product(
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
pub(in super::super) fn mask_missing(index: &[u32], w: &mut [f32], stride: usize) {
    for (pair, _) in index.iter().enumerate().filter(|(_, row)| **row == MISSING) {
        for row in w.chunks_exact_mut(stride) {
            row[pair] = 0.0;
        }
    }
}

/// Adds what is attended to y ([points, G, padded I]), without the constant of the positions. The weights `w`
/// ([G, stride]) are masked already.
#[inline(always)]
pub(in super::super) fn attend<S: Simd>(
    s: S,
    attention: &Attention<'_>,
    points: Range<usize>,
    deltas: &[f32],
    w: &[f32],
    buffers: &mut AttendBuffers<'_>,
    y: &mut [f32],
) {
    let sizes = attention.sizes;
    let Sizes { k, groups, .. } = sizes;
    let stride = w.len() / groups;
    let index = &attention.neighbors.index[points.start * k..points.end * k];
    gather_values(s, attention.values, index, w, sizes, y);
    let Some(bias) = attention.bias else { return };
    for chunk in sizes.chunks() {
        let width = chunk.len();
        let hidden = &mut buffers.hidden[..k * width];
        let u = &mut buffers.u[..points.len() * groups * width];
        for (point, u) in u.chunks_exact_mut(groups * width).enumerate() {
            let pairs = PairRows::new(deltas, point * k..(point + 1) * k);
            hidden_rows(s, bias.planes, chunk.clone(), pairs, hidden);
            tile_product(
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
pub(in super::super) fn add_constants<S: Simd>(
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

/// Copies y ([points, G, padded I]) to rows of C values.
#[inline(always)]
pub(in super::super) fn unpad(sizes: Sizes, y: &[f32], out: &mut [f32]) {
    let (short, width) = (sizes.padded_width(), sizes.width());
    for (y, out) in y.chunks_exact(short).zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&y[..width]);
    }
}

/// ReLU(scale · x + shift) of every column, in place.
#[inline(always)]
fn scaled_relu<S: Simd>(s: S, st: &[f32], groups: usize, columns: &mut [f32]) {
    let stride = columns.len() / groups;
    let (scale, shift) = st.split_at(groups);
    for ((column, scale), shift) in columns.chunks_exact_mut(stride).zip(scale).zip(shift) {
        let (scale, shift) = (s.splat(*scale), s.splat(*shift));
        for x in column.chunks_exact_mut(S::LANES) {
            let z = s.fma(s.load(x), scale, shift);
            s.store(x, s.max(s.zero(), z));
        }
    }
}

/// Dropout of the weights of a tile.
#[derive(Debug, Clone, Copy)]
struct Drop {
    random: Random,
    rate: f32,
}

impl Drop {
    /// Multiplies the weights ([G, stride]) of the pairs from `first` on.
    fn apply(self, first: usize, pairs: usize, w: &mut [f32], groups: usize) {
        if self.rate <= 0.0 {
            return;
        }
        let stride = w.len() / groups;
        for (g, row) in w.chunks_exact_mut(stride).enumerate() {
            for (pair, w) in row[..pairs].iter_mut().enumerate() {
                *w *= dropout_factor(self.random, self.rate, groups, first + pair, g);
            }
        }
    }
}

struct ForwardTiles<'a> {
    attention: Attention<'a>,
    e: &'a [f32],
    st: &'a [f32],
    drop: Drop,
    first: usize,
    y: &'a mut [f32],
    saved: Option<&'a mut [f32]>,
}

impl Kernel for ForwardTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sizes = self.attention.sizes;
        let (stride, tile) = (sizes.stride(), sizes.tile());
        let columns = sizes.groups * stride;
        let short = tile * sizes.groups * sizes.padded_width();
        let words =
            padded(3 * stride) + 2 * padded(columns) + padded(short) + AttendBuffers::words(sizes);
        with_workspace(words, |mut rest| {
            let deltas = carve(&mut rest, 3 * stride);
            let r = carve(&mut rest, columns);
            let w = carve(&mut rest, columns);
            let short = carve(&mut rest, short);
            let mut buffers = AttendBuffers::carve(&mut rest, sizes);
            let mut saved = self.saved.unwrap_or(&mut []);
            let mut first = self.first;
            for y in self.y.chunks_mut(tile * sizes.channels) {
                let points = first..first + y.len() / sizes.channels;
                let words = (points.len() * sizes.k * sizes.groups).min(saved.len());
                let (own, left) = std::mem::take(&mut saved).split_at_mut(words);
                saved = left;
                s.call(ForwardTile {
                    attention: &self.attention,
                    e: self.e,
                    st: self.st,
                    drop: self.drop,
                    points: points.clone(),
                    deltas,
                    r,
                    w,
                    short,
                    buffers: &mut buffers,
                    y,
                    saved: own,
                });
                first = points.end;
            }
        });
    }
}

struct ForwardTile<'a, 'b> {
    attention: &'a Attention<'a>,
    e: &'a [f32],
    st: &'a [f32],
    drop: Drop,
    points: Range<usize>,
    deltas: &'a mut [f32],
    r: &'a mut [f32],
    w: &'a mut [f32],
    short: &'a mut [f32],
    buffers: &'a mut AttendBuffers<'b>,
    y: &'a mut [f32],
    saved: &'a mut [f32],
}

impl Kernel for ForwardTile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sizes = self.attention.sizes;
        let Sizes { k, groups, .. } = sizes;
        let pairs = self.points.start * k..self.points.end * k;
        let neighbors = self.attention.neighbors;
        load_deltas(neighbors, pairs.clone(), self.deltas);
        let e = &self.e[pairs.start * groups..pairs.end * groups];
        rows_to_columns(s, e, groups, self.r);
        scaled_relu(s, self.st, groups, self.r);
        attention_weights(s, self.attention, self.points.len(), self.r, self.w);
        if !self.saved.is_empty() {
            columns_to_rows(s, self.w, groups, self.saved);
        }
        if !neighbors.is_complete() {
            mask_missing(&neighbors.index[pairs.clone()], self.w, sizes.stride());
        }
        self.drop.apply(pairs.start, pairs.len(), self.w, groups);
        let short = &mut self.short[..self.points.len() * groups * sizes.padded_width()];
        short.fill(0.0);
        if let Some(bias) = self.attention.bias {
            add_constants(s, sizes, bias.constant, self.w, self.buffers.sums, short);
        }
        attend(
            s,
            self.attention,
            self.points,
            self.deltas,
            self.w,
            self.buffers,
            short,
        );
        unpad(sizes, short, self.y);
    }
}

/// Runs forward on the host.
pub(super) fn forward(op: &Aggregate, io: &mut Forward<'_>) {
    let sizes = op.sizes(io.shape(4));
    let scratch = io.scratch();
    let bias = has_bias(io.inputs())
        .then(|| pack_bias(sizes, [io.input(5), io.input(6), io.input(7)], scratch));
    let attention = Attention {
        neighbors: &op.neighbors,
        sizes,
        weight: io.input(2),
        constant: io.input(3),
        values: io.input(4),
        bias,
    };
    let drop = Drop {
        random: io.random(),
        rate: op.rate,
    };
    let (e, st) = (io.input(0), io.input(1));
    let saved = if io.saves() { io.saved(0) } else { &mut [] };
    let chunk = 8 * sizes.tile();
    let row = sizes.k * sizes.groups;
    for_each_rows_of_two(
        (io.output(0), sizes.channels),
        (saved, row),
        chunk,
        |first, y, saved| {
            dispatch(ForwardTiles {
                attention,
                e,
                st,
                drop,
                first,
                y,
                saved: (!saved.is_empty()).then_some(saved),
            });
        },
    );
}
