//! Backward: one pass over points for everything but d_v, one pass over neighbours for d_v.

mod buffers;
mod values;

pub(in super::super) use buffers::Layout;

use super::super::super::pairs::{
    PairRows, Partials, SHORT, Sizes, columns_to_rows, hidden_columns, hidden_rows, load_deltas,
    pack_planes, parts, position_gradient, rows_to_columns, softmax_gradient, value_products,
    weight_sums,
};
use super::super::{Aggregate, has_bias};
use super::{Drop, mask_missing, scaled_relu};
use crate::device::gemm::{Store, View, ViewMut, block_product, tile_product};
use crate::device::parallel;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{padded, with_workspace};
use crate::geometry::Neighbors;
use crate::graph::Backward;
use buffers::Buffers;
use std::ops::Range;
use values::Values;

#[derive(Clone, Copy)]
struct Bias<'a> {
    position: &'a [f32],
    planes: &'a [f32],
    w2: &'a [f32],
    constant: &'a [f32],
}

/// What the pass over points reads.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    neighbors: &'a Neighbors,
    sizes: Sizes,
    e: &'a [f32],
    st: &'a [f32],
    weight: &'a [f32],
    values: &'a [f32],
    bias: Option<Bias<'a>>,
    /// Softmax weights of forward, [N·K, G], neither masked nor dropped.
    saved: &'a [f32],
    d_y: &'a [f32],
    drop: Drop,
}

struct Points<'a> {
    inputs: Inputs<'a>,
    points: Range<usize>,
    partial: &'a mut [f32],
    d_e: &'a mut [f32],
}

impl Kernel for Points<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sizes = self.inputs.sizes;
        let words = Buffers::sizes(sizes).into_iter().map(padded).sum();
        with_workspace(words, |mut rest| {
            let mut buffers = Buffers::carve(&mut rest, sizes);
            let mut d_e = self.d_e;
            for first in self.points.clone().step_by(sizes.tile()) {
                let points = first..(first + sizes.tile()).min(self.points.end);
                let words = (points.len() * sizes.k * sizes.groups).min(d_e.len());
                let (own, left) = d_e.split_at_mut(words);
                d_e = left;
                s.call(Tile {
                    inputs: &self.inputs,
                    layout: Layout::new(sizes),
                    points,
                    b: &mut buffers,
                    partial: self.partial,
                    d_e: own,
                });
            }
        });
    }
}

struct Tile<'a, 'b> {
    inputs: &'a Inputs<'a>,
    layout: Layout,
    points: Range<usize>,
    b: &'a mut Buffers<'b>,
    partial: &'a mut [f32],
    d_e: &'a mut [f32],
}

impl Kernel for Tile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Inputs {
            neighbors, sizes, ..
        } = *self.inputs;
        let Sizes {
            k,
            groups,
            channels,
        } = sizes;
        let stride = sizes.stride();
        let pairs = self.points.start * k..self.points.end * k;
        let index = &neighbors.index[pairs.clone()];
        let rows = pairs.start * groups..pairs.end * groups;
        let d_y = &self.inputs.d_y[self.points.start * channels..self.points.end * channels];
        let b = &mut *self.b;
        load_deltas(neighbors, pairs.clone(), b.deltas);
        rows_to_columns(s, &self.inputs.e[rows.clone()], groups, b.e);
        b.r.copy_from_slice(b.e);
        scaled_relu(s, self.inputs.st, groups, b.r);
        rows_to_columns(s, &self.inputs.saved[rows], groups, b.soft);
        b.w.copy_from_slice(b.soft);
        if !neighbors.is_complete() {
            mask_missing(index, b.w, stride);
        }
        self.inputs
            .drop
            .apply(pairs.start, pairs.len(), b.w, groups);
        value_products(s, self.inputs.values, index, d_y, sizes, b.d);
        if let Some(bias) = self.inputs.bias {
            self.value_bias(s, bias, d_y);
        }
        let b = &mut *self.b;
        if !neighbors.is_complete() {
            mask_missing(index, b.d, stride);
        }
        self.inputs
            .drop
            .apply(pairs.start, pairs.len(), b.d, groups);
        let count = pairs.len();
        for (d, w) in
            b.d.chunks_exact_mut(stride)
                .zip(b.soft.chunks_exact(stride))
        {
            softmax_gradient(s, &w[..count], &mut d[..count], k);
            d[count..].fill(0.0);
        }
        self.encoding(s, count);
    }
}

impl Tile<'_, '_> {
    /// Everything that flows through W2 h + b2: adds to the gradient of the weights, and to d_W2, d_b2, d_P.
    #[inline(always)]
    fn value_bias<S: Simd>(&mut self, s: S, bias: Bias<'_>, d_y: &[f32]) {
        let sizes = self.inputs.sizes;
        let Sizes {
            k,
            groups,
            channels,
        } = sizes;
        let (width, stride) = (sizes.width(), sizes.stride());
        let b = &mut *self.b;
        let sums = &mut b.sums[..self.points.len() * groups];
        weight_sums(s, b.w, sizes, sums);
        let d_b2 = &mut self.partial[self.layout.b2..][..channels];
        let short = s.narrow();
        for (point, d_y) in d_y.chunks_exact(channels).enumerate() {
            for g in 0..groups {
                let own = g * width..(g + 1) * width;
                let sum = short.splat(sums[point * groups + g]);
                let mut products = short.zero();
                let terms = d_y[own.clone()].chunks(SHORT);
                let constants = bias.constant[own.clone()].chunks(SHORT);
                for ((d_y, b2), d_b2) in terms.zip(constants).zip(d_b2[own].chunks_mut(SHORT)) {
                    let d_y = short.load_partial(d_y);
                    products = short.fma(d_y, short.load_partial(b2), products);
                    let total = short.fma(d_y, sum, short.load_partial(d_b2));
                    short.store_partial(d_b2, total);
                }
                let constant = s.splat(short.sum(products));
                let run = &mut b.d[g * stride + point * k..][..k];
                for part in run.chunks_mut(S::LANES) {
                    s.store_partial(part, s.add(s.load_partial(part), constant));
                }
            }
        }
        for chunk in sizes.chunks() {
            self.value_bias_chunk(s, bias, d_y, chunk);
        }
    }

    #[inline(always)]
    fn value_bias_chunk<S: Simd>(
        &mut self,
        s: S,
        bias: Bias<'_>,
        d_y: &[f32],
        chunk: Range<usize>,
    ) {
        let sizes = self.inputs.sizes;
        let Sizes {
            k,
            groups,
            channels,
        } = sizes;
        let (points, stride) = (self.points.len(), sizes.stride());
        let real = chunk.len().min(channels - chunk.start);
        self.inner_gradient(s, bias, d_y, chunk.clone());
        let b = &mut *self.b;
        let end = (points * k).next_multiple_of(16);
        let position = &bias.position[4 * chunk.start..][..4 * real];
        hidden_columns(
            s,
            position,
            PairRows::new(b.deltas, 0..end),
            &mut b.columns[..real * end],
        );
        let row = groups * chunk.len();
        let d_planes = self.layout.planes..self.layout.weight;
        for point in 0..points {
            let pairs = PairRows::new(b.deltas, point * k..(point + 1) * k);
            let d_u = View::new(&b.d_u[point * row..][..row], groups, chunk.len());
            let w = View::strided(&b.w[point * k..], [groups, k], [stride, 1]);
            let hidden = &mut b.hidden[..k * chunk.len()];
            let d_hidden = &mut b.d_hidden[..k * chunk.len()];
            hidden_rows(s, bias.planes, chunk.clone(), pairs, hidden);
            block_product::<S, 6, 3>(
                s,
                ViewMut::new(&mut b.u[point * row..], groups, chunk.len()),
                w,
                View::new(hidden, k, chunk.len()),
                Store::Replace,
            );
            wide_product(
                s,
                ViewMut::new(d_hidden, k, chunk.len()),
                w.transposed(),
                d_u,
                Store::Replace,
            );
            let d_planes = &mut self.partial[d_planes.clone()];
            position_gradient(s, hidden, d_hidden, pairs, chunk.clone(), d_planes);
            let d_u = &b.d_u[point * row..][..row];
            block_product::<S, 6, 1>(
                s,
                ViewMut::strided(&mut b.d[point * k..], [groups, k], stride),
                View::strided(d_u, [groups, real], [chunk.len(), 1]),
                View::strided(&b.columns[point * k..], [real, k], [end, 1]),
                Store::Add,
            );
        }
        self.outer_gradient(s, d_y, chunk);
    }

    /// d_u_ig = Σ_{c of g} W2[c, chunk] d_y_ic, as [points, G, chunk].
    #[inline(always)]
    fn inner_gradient<S: Simd>(&mut self, s: S, bias: Bias<'_>, d_y: &[f32], chunk: Range<usize>) {
        let sizes = self.inputs.sizes;
        let Sizes {
            groups, channels, ..
        } = sizes;
        let (points, width) = (self.points.len(), sizes.width());
        let real = chunk.len().min(channels - chunk.start);
        let row = groups * chunk.len();
        let d_u = &mut self.b.d_u[..points * row];
        if real < chunk.len() {
            d_u.fill(0.0);
        }
        for g in 0..groups {
            let w2 = &bias.w2[g * width * channels + chunk.start..];
            wide_product(
                s,
                ViewMut::strided(&mut d_u[g * chunk.len()..], [points, real], row),
                View::strided(&d_y[g * width..], [points, width], [channels, 1]),
                View::strided(w2, [width, real], [channels, 1]),
                Store::Replace,
            );
        }
    }

    /// d_W2[c, chunk] += Σ_i d_y_ic u_ig.
    #[inline(always)]
    fn outer_gradient<S: Simd>(&mut self, s: S, d_y: &[f32], chunk: Range<usize>) {
        let sizes = self.inputs.sizes;
        let Sizes {
            groups, channels, ..
        } = sizes;
        let (points, width) = (self.points.len(), sizes.width());
        let real = chunk.len().min(channels - chunk.start);
        let row = groups * chunk.len();
        for g in 0..groups {
            let d_w2 = &mut self.partial[self.layout.w2..self.layout.b2];
            wide_product(
                s,
                ViewMut::strided(
                    &mut d_w2[g * width * channels + chunk.start..],
                    [width, real],
                    channels,
                ),
                View::strided(&d_y[g * width..], [points, width], [channels, 1]).transposed(),
                View::strided(&self.b.u[g * chunk.len()..], [points, real], [row, 1]),
                Store::Add,
            );
        }
    }

    /// From the gradient of the logits back through B, ReLU, scale and shift.
    #[inline(always)]
    fn encoding<S: Simd>(&mut self, s: S, count: usize) {
        let Inputs {
            sizes, weight, st, ..
        } = *self.inputs;
        let (groups, stride, short) = (sizes.groups, sizes.stride(), sizes.padded_groups());
        let b = &mut *self.b;
        let end = count.next_multiple_of(16);
        let r_rows = &mut b.r_rows[..count * short];
        columns_to_rows(s, b.r, groups, &mut b.rows[..count * groups]);
        r_rows.fill(0.0);
        let rows = b.rows[..count * groups].chunks_exact(groups);
        for (padded, row) in r_rows.chunks_exact_mut(short).zip(rows) {
            padded[..groups].copy_from_slice(row);
        }
        let logits = View::strided(b.d, [groups, end], [stride, 1]);
        tile_product(
            s.narrow(),
            ViewMut::new(&mut self.partial[self.layout.weight..], groups, short),
            View::strided(b.d, [groups, count], [stride, 1]),
            View::new(r_rows, count, short),
            Store::Add,
        );
        tile_product(
            s,
            ViewMut::strided(b.d_r, [groups, end], stride),
            View::new(weight, groups, groups).transposed(),
            logits,
            Store::Replace,
        );
        for g in 0..groups {
            let own = g * stride..g * stride + end;
            let scale = s.splat(st[g]);
            let (mut constant, mut d_scale, mut d_shift) = (s.zero(), s.zero(), s.zero());
            let d_r = b.d_r[own.clone()].chunks_exact_mut(S::LANES);
            let d = b.d[own.clone()].chunks_exact(S::LANES);
            let r = b.r[own.clone()].chunks_exact(S::LANES);
            let e = b.e[own].chunks_exact(S::LANES);
            for (((d_r, d), r), e) in d_r.zip(d).zip(r).zip(e) {
                constant = s.add(constant, s.load(d));
                let open = s.where_positive(s.load(r), s.load(d_r));
                d_shift = s.add(d_shift, open);
                d_scale = s.fma(open, s.load(e), d_scale);
                s.store(d_r, s.mul(open, scale));
            }
            self.partial[self.layout.constant + g] += s.sum(constant);
            self.partial[self.layout.st + g] += s.sum(d_scale);
            self.partial[self.layout.st + groups + g] += s.sum(d_shift);
        }
        if !self.d_e.is_empty() {
            let rows = &mut b.rows[..count * groups];
            columns_to_rows(s, b.d_r, groups, rows);
            self.d_e.iter_mut().zip(rows).for_each(|(y, x)| *y += *x);
        }
    }
}

/// A small product with as many values of the result in registers as there is room for.
#[inline(always)]
fn wide_product<S: Simd>(s: S, c: ViewMut<'_>, a: View<'_>, b: View<'_>, store: Store) {
    if S::REGISTERS >= 32 {
        block_product::<S, 8, 3>(s, c, a, b, store);
    } else {
        block_product::<S, 6, 2>(s, c, a, b, store);
    }
}

/// Runs backward on the host.
pub(in super::super) fn backward(op: &Aggregate, io: &mut Backward<'_>) {
    let Some(d_y) = io.d_output(0) else { return };
    let sizes = op.sizes(io.shape(4));
    let stride = sizes.padded_channels();
    let (planes, rest) = io.scratch().split_at_mut(4 * stride);
    let bias = has_bias(io.inputs()).then(|| {
        pack_planes(io.input(5), stride, planes);
        Bias {
            position: io.input(5),
            planes,
            w2: io.input(6),
            constant: io.input(7),
        }
    });
    let inputs = Inputs {
        neighbors: &op.neighbors,
        sizes,
        e: io.input(0),
        st: io.input(1),
        weight: io.input(2),
        values: io.input(4),
        bias,
        saved: io.saved(0),
        d_y,
        drop: Drop {
            random: io.random(),
            rate: op.rate,
        },
    };
    if let Some(d_v) = io.d_input(4) {
        parallel::for_each_rows(d_v, sizes.channels, 256, |first, d_v| {
            dispatch(Values { inputs, first, d_v });
        });
    }
    let layout = Layout::new(sizes);
    let points = op.neighbors.queries;
    let mut partials = Partials::new(rest, parts(points), layout.size);
    let d_e = io.d_input(0).unwrap_or(&mut []);
    let row = sizes.k * sizes.groups;
    partials.for_each(points, sizes.tile(), (d_e, row), |points, partial, d_e| {
        dispatch(Points {
            inputs,
            points,
            partial,
            d_e,
        });
    });
    let flat = [
        (1, layout.st),
        (3, layout.constant),
        (6, layout.w2),
        (7, layout.b2),
    ];
    let wanted = if bias.is_some() { 4 } else { 2 };
    for (input, first) in &flat[..wanted] {
        if let Some(d) = io.d_input(*input) {
            partials.add_to(*first, d);
        }
    }
    if let Some(d) = io.d_input(2) {
        partials.add_rows_to(layout.weight, sizes.padded_groups(), d, sizes.groups);
    }
    if bias.is_some()
        && let Some(d) = io.d_input(5)
    {
        partials.add_planes_to(layout.planes, stride, d, 4);
    }
}
