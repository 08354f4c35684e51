//! Tiles of points: forward, and what forward shares with the fused inference form.

mod attend;
mod gradient;

pub(in super::super) use attend::{
    AttendBuffers, Attention, ValueBias, add_constants, attend, attention_weights, mask_missing,
    packed_words, start,
};
pub(super) use gradient::{Layout, backward};

use super::super::pairs::{
    Sizes, columns_to_rows, dropout_factor, for_each_rows_of_two, load_deltas, rows_to_columns,
};
use super::{Aggregate, has_bias};
use crate::device::random::Random;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::geometry::Neighbors;
use crate::graph::Forward;
use attend::{pack_bias, unpad};
use std::ops::Range;

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
    /// True when the weights of every point and group add up to 1: nothing is missing, nothing dropped.
    fn sums_to_one(self, neighbors: &Neighbors) -> bool {
        neighbors.is_complete() && self.rate <= 0.0
    }

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
        let words = padded(sizes.channels)
            + padded(3 * stride)
            + 2 * padded(columns)
            + padded(short)
            + AttendBuffers::words(sizes);
        with_workspace(words, |mut rest| {
            let start = carve(&mut rest, sizes.channels);
            match self.attention.bias {
                Some(bias) if self.drop.sums_to_one(self.attention.neighbors) => {
                    start.copy_from_slice(bias.constant);
                }
                _ => start.fill(0.0),
            }
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
                    start,
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
    /// What every point starts at, [C].
    start: &'a [f32],
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
        let index = &neighbors.index[pairs.clone()];
        let e = &self.e[pairs.start * groups..pairs.end * groups];
        rows_to_columns(s, e, groups, self.r);
        scaled_relu(s, self.st, groups, self.r);
        attention_weights(s, self.attention, self.points.len(), self.r, self.w);
        if !self.saved.is_empty() {
            columns_to_rows(s, self.w, groups, self.saved);
        }
        if !neighbors.is_complete() {
            mask_missing(index, self.w, sizes.stride());
        }
        self.drop.apply(pairs.start, pairs.len(), self.w, groups);
        let is_padded = sizes.padded_width() != sizes.width();
        let short = self.points.len() * groups * sizes.padded_width();
        let y = match is_padded {
            true => &mut self.short[..short],
            false => &mut *self.y,
        };
        start(sizes, self.start, y);
        if let Some(bias) = self.attention.bias
            && !self.drop.sums_to_one(neighbors)
        {
            add_constants(s, sizes, bias.constant, self.w, self.buffers.sums, y);
        }
        attend(
            s,
            self.attention,
            self.points.clone(),
            self.deltas,
            self.w,
            self.buffers,
            y,
        );
        if is_padded {
            unpad(sizes, &self.short[..short], self.y);
        }
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
