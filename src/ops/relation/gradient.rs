//! Gradients of the relation but for those of the keys: sums over pairs, in parts.

use super::super::offsets::add_offset_gradient;
use super::super::pairs::{
    BLOCK, CHUNK, PairRows, Partials, Sizes, hidden_rows, load_deltas, pack_planes, parts,
    position_gradient,
};
use super::PositionBias;
use crate::device::gemm::{Store, View, ViewMut, product, tile_product};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::geometry::Neighbors;
use std::ops::Range;

/// d_P and d_M of the position bias, from d_e of a run of points.
struct BiasGradient<'a> {
    neighbors: &'a Neighbors,
    sizes: Sizes,
    m: &'a [f32],
    planes: &'a [f32],
    d_e: &'a [f32],
    points: Range<usize>,
    d_planes: &'a mut [f32],
    d_m: &'a mut [f32],
}

impl Kernel for BiasGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { k, groups, .. } = self.sizes;
        let words = padded(3 * BLOCK) + 2 * padded(BLOCK * CHUNK);
        with_workspace(words, |mut rest| {
            let deltas = carve(&mut rest, 3 * BLOCK);
            let hidden = carve(&mut rest, BLOCK * CHUNK);
            let d_hidden = carve(&mut rest, BLOCK * CHUNK);
            let end = self.points.end * k;
            for first in (self.points.start * k..end).step_by(BLOCK) {
                let pairs = first..(first + BLOCK).min(end);
                load_deltas(self.neighbors, pairs.clone(), deltas);
                s.call(BiasGradientBlock {
                    sizes: self.sizes,
                    m: self.m,
                    planes: self.planes,
                    pairs: PairRows::new(deltas, 0..pairs.len()),
                    d_e: &self.d_e[pairs.start * groups..pairs.end * groups],
                    buffers: (hidden, d_hidden),
                    gradients: (self.d_planes, self.d_m),
                });
            }
        });
    }
}

struct BiasGradientBlock<'a> {
    sizes: Sizes,
    m: &'a [f32],
    planes: &'a [f32],
    pairs: PairRows<'a>,
    d_e: &'a [f32],
    buffers: (&'a mut [f32], &'a mut [f32]),
    gradients: (&'a mut [f32], &'a mut [f32]),
}

impl Kernel for BiasGradientBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes {
            groups, channels, ..
        } = self.sizes;
        let count = self.pairs.len();
        let (d_planes, d_m) = self.gradients;
        let stride = self.sizes.padded_channels();
        for chunk in self.sizes.chunks() {
            let width = chunk.len();
            let hidden = &mut self.buffers.0[..count * width];
            let d_hidden = &mut self.buffers.1[..count * width];
            hidden_rows(s, self.planes, chunk.clone(), self.pairs, hidden);
            tile_product(
                s,
                ViewMut::strided(&mut d_m[chunk.start..], [groups, width], stride),
                View::new(self.d_e, count, groups).transposed(),
                View::new(hidden, count, width),
                Store::Add,
            );
            let real = width.min(channels - chunk.start);
            if real < width {
                d_hidden.fill(0.0);
            }
            tile_product(
                s,
                ViewMut::strided(d_hidden, [count, real], width),
                View::new(self.d_e, count, groups),
                View::strided(&self.m[chunk.start..], [groups, real], [channels, 1]),
                Store::Replace,
            );
            position_gradient(s, hidden, d_hidden, self.pairs, chunk, d_planes);
        }
    }
}

/// Words of scratch that [`query_gradient`] and [`bias_gradient`] need.
pub(super) fn gradient_scratch(sizes: Sizes, points: usize) -> usize {
    let stride = sizes.padded_channels();
    let bias = 4 * stride + parts(points) * (4 + sizes.groups) * stride;
    bias.max(parts(points) * 2 * sizes.groups)
}

/// d_Aq ([N, G]) −= Σ_j d_e and d_c0 += Σ_ij d_e.
pub(super) fn query_gradient(
    sizes: Sizes,
    d_e: &[f32],
    [d_queries, d_constant]: [Option<&mut [f32]>; 2],
    scratch: &mut [f32],
) {
    if d_queries.is_none() && d_constant.is_none() {
        return;
    }
    let (groups, row) = (sizes.groups, sizes.k * sizes.groups);
    let points = d_e.len() / row;
    let mut partials = Partials::new(scratch, parts(points), 2 * groups);
    let out = d_queries.unwrap_or(&mut []);
    partials.for_each(points, 1, (out, groups), |range, partial, out| {
        let (total, sum) = partial.split_at_mut(groups);
        let rows = d_e[range.start * row..range.end * row].chunks_exact(row);
        for (point, pairs) in rows.enumerate() {
            sum.fill(0.0);
            for pair in pairs.chunks_exact(groups) {
                sum.iter_mut().zip(pair).for_each(|(y, x)| *y += x);
            }
            total.iter_mut().zip(&*sum).for_each(|(y, x)| *y += x);
            if let Some(out) = out.get_mut(point * groups..(point + 1) * groups) {
                out.iter_mut().zip(&*sum).for_each(|(y, x)| *y -= x);
            }
        }
    });
    if let Some(d_constant) = d_constant {
        partials.add_to(0, d_constant);
    }
}

/// d_P and d_M of what the position bias adds to a relation with gradient `d_e`.
pub(super) fn bias_gradient(
    neighbors: &Neighbors,
    sizes: Sizes,
    (bias, d_e): (PositionBias<'_>, &[f32]),
    [d_position, d_m]: [Option<&mut [f32]>; 2],
    scratch: &mut [f32],
) {
    if d_position.is_none() && d_m.is_none() {
        return;
    }
    let stride = sizes.padded_channels();
    let (planes, rest) = scratch.split_at_mut(4 * stride);
    pack_planes(bias.position, stride, planes);
    let planes = &*planes;
    let points = neighbors.queries;
    let mut partials = Partials::new(rest, parts(points), (4 + sizes.groups) * stride);
    partials.for_each(points, 1, (&mut [], 0), |points, partial, _| {
        let (d_planes, d_m) = partial.split_at_mut(4 * stride);
        dispatch(BiasGradient {
            neighbors,
            sizes,
            m: bias.m,
            planes,
            d_e,
            points,
            d_planes,
            d_m,
        });
    });
    if let Some(d_position) = d_position {
        partials.add_planes_to(0, stride, d_position, 4);
    }
    if let Some(d_m) = d_m {
        partials.add_rows_to(4 * stride, stride, d_m, sizes.channels);
    }
}

/// dΔ ([N·K, 3]) from d_e, by d_h = d_e M.
pub(super) fn offset_gradient(
    neighbors: &Neighbors,
    sizes: Sizes,
    (bias, d_e): (PositionBias<'_>, &[f32]),
    d_offsets: &mut [f32],
) {
    let Sizes {
        k,
        groups,
        channels,
    } = sizes;
    let row = k * groups;
    add_offset_gradient(neighbors, bias.position, d_offsets, |point, d_h| {
        product(
            ViewMut::new(d_h, k, channels),
            View::new(&d_e[point * row..][..row], k, groups),
            View::new(bias.m, groups, channels),
            Store::Replace,
        );
    });
}
