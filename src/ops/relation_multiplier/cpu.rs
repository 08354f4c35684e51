//! The multiplier on the host, in tiles of pairs.

use super::super::offsets::add_offset_gradient;
use super::super::pairs::{MAX_NEIGHBORS, parts};
use super::{RelationMultiplier, offsets_input};
use crate::device::gemm::{Store, View, ViewMut, product};
use crate::device::parallel;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::geometry::{MISSING, Neighbors};
use crate::graph::{Backward, Forward};
use std::ops::Range;

/// Pairs of one tile; all of a point fit.
const TILE: usize = MAX_NEIGHBORS;

/// What every tile reads.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    neighbors: &'a Neighbors,
    keys: &'a [f32],
    queries: &'a [f32],
    position: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    encode: &'a [f32],
    channels: usize,
    groups: usize,
}

/// Values of the pairs of one tile, each [pairs, C].
struct Tile<'w> {
    hidden: &'w mut [f32],
    factor: &'w mut [f32],
    difference: &'w mut [f32],
}

/// h = ReLU(P · (Δ, 1)) for a list of pairs.
struct Hidden<'a> {
    inputs: Inputs<'a>,
    pairs: &'a [u32],
    out: &'a mut [f32],
}

impl Kernel for Hidden<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let [x, y, z] = &self.inputs.neighbors.delta;
        let rows = self.out.chunks_exact_mut(self.inputs.channels);
        for (row, &pair) in rows.zip(self.pairs) {
            let (x, y, z) = (x[pair as usize], y[pair as usize], z[pair as usize]);
            for (h, p) in row.iter_mut().zip(self.inputs.position.chunks_exact(4)) {
                let value = p[0] * x + p[1] * y + p[2] * z + p[3];
                *h = if value > 0.0 { value } else { 0.0 };
            }
        }
    }
}

impl<'a> Inputs<'a> {
    fn new(
        op: &'a RelationMultiplier,
        (channels, groups): (usize, usize),
        input: impl Fn(usize) -> &'a [f32],
    ) -> Self {
        Inputs {
            neighbors: &op.neighbors,
            keys: input(0),
            queries: input(1),
            position: input(2),
            weight: input(3),
            bias: input(4),
            encode: input(5),
            channels,
            groups,
        }
    }

    /// Computes hidden layer, factor and difference of `pairs`.
    fn fill(self, pairs: &[u32], tile: &mut Tile<'_>) {
        let c = self.channels;
        let count = pairs.len();
        dispatch(Hidden {
            inputs: self,
            pairs,
            out: &mut tile.hidden[..count * c],
        });
        for row in tile.factor[..count * c].chunks_exact_mut(c) {
            row.copy_from_slice(self.bias);
        }
        product(
            ViewMut::new(tile.factor, count, c),
            View::new(tile.hidden, count, c),
            View::new(self.weight, c, c).transposed(),
            Store::Add,
        );
        let k = self.neighbors.k;
        for (row, &pair) in tile.difference.chunks_exact_mut(c).zip(pairs) {
            let query = &self.queries[pair as usize / k * c..][..c];
            match self.neighbors.index[pair as usize] {
                MISSING => row.iter_mut().zip(query).for_each(|(d, q)| *d = -q),
                j => {
                    let key = &self.keys[j as usize * c..][..c];
                    let both = key.iter().zip(query);
                    row.iter_mut().zip(both).for_each(|(d, (k, q))| *d = k - q);
                }
            }
        }
    }

    /// e of consecutive pairs from `first` on.
    fn forward(self, first: usize, e: &mut [f32]) {
        let (c, g) = (self.channels, self.groups);
        with_workspace(3 * padded(TILE * c), |mut rest| {
            let mut tile = Tile::carve(&mut rest, c);
            for (t, e) in e.chunks_mut(TILE * g).enumerate() {
                let count = e.len() / g;
                let start = (first + t * TILE) as u32;
                let pairs: [u32; TILE] = std::array::from_fn(|i| start + i as u32);
                self.fill(&pairs[..count], &mut tile);
                let used = count * c;
                let factors = tile.factor[..used].iter();
                let relation = tile.difference[..used].iter_mut().zip(factors);
                relation.for_each(|(d, f)| *d *= f);
                product(
                    ViewMut::new(e, count, g),
                    View::new(tile.difference, count, c),
                    View::new(self.encode, g, c).transposed(),
                    Store::Replace,
                );
            }
        });
    }

    /// dΔ, by d_h = (d_r ⊙ (k − q)) W.
    fn offset_gradient(self, d_e: &[f32], d_offsets: &mut [f32]) {
        let (c, g, k) = (self.channels, self.groups, self.neighbors.k);
        add_offset_gradient(self.neighbors, self.position, d_offsets, |point, d_h| {
            let pairs: Vec<u32> = (point * k..(point + 1) * k).map(|p| p as u32).collect();
            with_workspace(4 * padded(TILE * c) + padded(TILE * g), |mut rest| {
                let mut tile = Tile::carve(&mut rest, c);
                let d_r = carve(&mut rest, TILE * c);
                let d_rows = carve(&mut rest, TILE * g);
                self.fill(&pairs, &mut tile);
                self.relation_gradient(&pairs, d_e, d_rows, d_r);
                let difference = tile.difference[..k * c].iter();
                d_r.iter_mut().zip(difference).for_each(|(d, x)| *d *= x);
                product(
                    ViewMut::new(d_h, k, c),
                    View::new(d_r, k, c),
                    View::new(self.weight, c, c),
                    Store::Replace,
                );
            });
        });
    }

    /// d_r = d_e A for a list of pairs.
    fn relation_gradient(self, pairs: &[u32], d_e: &[f32], d_rows: &mut [f32], d_r: &mut [f32]) {
        let (c, g) = (self.channels, self.groups);
        for (row, &pair) in d_rows.chunks_exact_mut(g).zip(pairs) {
            row.copy_from_slice(&d_e[pair as usize * g..][..g]);
        }
        product(
            ViewMut::new(d_r, pairs.len(), c),
            View::new(d_rows, pairs.len(), g),
            View::new(self.encode, g, c),
            Store::Replace,
        );
    }

    /// dk_j = Σ_i (d_e A) ⊙ (W h + b), over the transposed neighbour list.
    fn key_gradient(self, d_e: &[f32], d_keys: &mut [f32]) {
        let (c, g) = (self.channels, self.groups);
        let lists = self.neighbors.transposed();
        parallel::for_each_rows(d_keys, c, 32, |first, d_keys| {
            let rows = d_keys.len() / c;
            let start = lists.offsets[first] as usize;
            let end = lists.offsets[first + rows] as usize;
            let words = 4 * padded(TILE * c) + padded(TILE * g);
            with_workspace(words, |mut rest| {
                let mut tile = Tile::carve(&mut rest, c);
                let d_r = carve(&mut rest, TILE * c);
                let d_rows = carve(&mut rest, TILE * g);
                for list in lists.index[start..end].chunks(TILE) {
                    self.fill(list, &mut tile);
                    self.relation_gradient(list, d_e, d_rows, d_r);
                    let values = d_r.chunks_exact(c).zip(tile.factor.chunks_exact(c));
                    for ((d_r, factor), &pair) in values.zip(list) {
                        let row = self.neighbors.index[pair as usize] as usize - first;
                        let d_k = d_keys[row * c..][..c].iter_mut();
                        let terms = d_r.iter().zip(factor);
                        d_k.zip(terms).for_each(|(d, (r, f))| *d += r * f);
                    }
                }
            });
        });
    }
}

impl<'w> Tile<'w> {
    fn carve(rest: &mut &'w mut [f32], channels: usize) -> Self {
        Tile {
            hidden: carve(rest, TILE * channels),
            factor: carve(rest, TILE * channels),
            difference: carve(rest, TILE * channels),
        }
    }
}

/// One part's sums, in this order in its slot: dA [G, C], dW [C, C], db [C], dP [C, 4].
struct Sums<'a> {
    encode: &'a mut [f32],
    weight: &'a mut [f32],
    bias: &'a mut [f32],
    position: &'a mut [f32],
}

impl<'a> Sums<'a> {
    fn size(channels: usize, groups: usize) -> usize {
        channels * (groups + channels + 1 + 4)
    }

    fn split(slot: &'a mut [f32], channels: usize, groups: usize) -> Self {
        let (encode, rest) = slot.split_at_mut(groups * channels);
        let (weight, rest) = rest.split_at_mut(channels * channels);
        let (bias, position) = rest.split_at_mut(channels);
        Sums {
            encode,
            weight,
            bias,
            position,
        }
    }
}

/// What backward of one run of points works on.
struct PointGradient<'a> {
    inputs: Inputs<'a>,
    d_e: &'a [f32],
}

impl PointGradient<'_> {
    /// Adds to the sums and to dq of the points whose pairs are `pairs`.
    fn run(&self, pairs: Range<usize>, sums: &mut Sums<'_>, d_queries: &mut [f32]) {
        let (c, g) = (self.inputs.channels, self.inputs.groups);
        let words = 4 * padded(TILE * c) + padded(TILE * g);
        let first_point = pairs.start / self.inputs.neighbors.k;
        with_workspace(words, |mut rest| {
            let mut tile = Tile::carve(&mut rest, c);
            let d_r = carve(&mut rest, TILE * c);
            let d_rows = carve(&mut rest, TILE * g);
            for start in pairs.clone().step_by(TILE) {
                let count = TILE.min(pairs.end - start);
                let list: [u32; TILE] = std::array::from_fn(|i| (start + i) as u32);
                let list = &list[..count];
                self.inputs.fill(list, &mut tile);
                self.inputs.relation_gradient(list, self.d_e, d_rows, d_r);
                let rows = d_r.chunks_exact(c).zip(tile.factor.chunks_exact(c));
                for ((d_r, factor), &pair) in rows.zip(list).take(count) {
                    let point = pair as usize / self.inputs.neighbors.k - first_point;
                    if let Some(d_q) = d_queries.get_mut(point * c..(point + 1) * c) {
                        let terms = d_r.iter().zip(factor);
                        d_q.iter_mut()
                            .zip(terms)
                            .for_each(|(d, (r, f))| *d -= r * f);
                    }
                }
                self.add_tile(list, &mut tile, (d_r, d_rows), sums);
            }
        });
    }

    /// dA, then with d_m = d_r ⊙ (k − q): db, dW, and through the hidden layer dP. Overwrites the tile.
    fn add_tile(
        &self,
        pairs: &[u32],
        tile: &mut Tile<'_>,
        (d_r, d_rows): (&mut [f32], &[f32]),
        sums: &mut Sums<'_>,
    ) {
        let (c, g, count) = (self.inputs.channels, self.inputs.groups, pairs.len());
        let used = count * c;
        for i in 0..used {
            tile.factor[i] *= tile.difference[i];
            d_r[i] *= tile.difference[i];
        }
        product(
            ViewMut::new(sums.encode, g, c),
            View::new(d_rows, count, g).transposed(),
            View::new(tile.factor, count, c),
            Store::Add,
        );
        for row in d_r[..used].chunks_exact(c) {
            sums.bias.iter_mut().zip(row).for_each(|(b, d)| *b += d);
        }
        product(
            ViewMut::new(sums.weight, c, c),
            View::new(d_r, count, c).transposed(),
            View::new(tile.hidden, count, c),
            Store::Add,
        );
        let d_hidden = &mut *tile.difference;
        product(
            ViewMut::new(d_hidden, count, c),
            View::new(d_r, count, c),
            View::new(self.inputs.weight, c, c),
            Store::Replace,
        );
        let [x, y, z] = &self.inputs.neighbors.delta;
        for (row, &pair) in pairs.iter().enumerate() {
            let pair = pair as usize;
            let place = [x[pair], y[pair], z[pair], 1.0];
            let values = d_hidden[row * c..][..c]
                .iter()
                .zip(&tile.hidden[row * c..][..c]);
            for (d_p, (d, h)) in sums.position.chunks_exact_mut(4).zip(values) {
                if *h > 0.0 {
                    d_p.iter_mut().zip(place).for_each(|(d_p, p)| *d_p += d * p);
                }
            }
        }
    }
}

/// Words of scratch that [`backward`] needs.
pub(super) fn backward_scratch(points: usize, [channels, groups]: [usize; 2]) -> usize {
    parts(points) * Sums::size(channels, groups) + points * channels
}

/// e of all pairs.
pub(super) fn forward(op: &RelationMultiplier, io: &mut Forward<'_>) {
    let (c, g) = (io.shape(0).cols, io.shape(5).rows);
    let inputs = Inputs::new(op, (c, g), |i| io.input(i));
    parallel::for_each_rows(io.output(0), g, 4 * TILE, |first, e| {
        inputs.forward(first, e);
    });
}

/// All gradients.
pub(super) fn backward(op: &RelationMultiplier, io: &mut Backward<'_>) {
    let Some(d_e) = io.d_output(0) else { return };
    let (c, g) = (io.shape(0).cols, io.shape(5).rows);
    let inputs = Inputs::new(op, (c, g), |i| io.input(i));
    if let Some(d_keys) = io.d_input(0) {
        inputs.key_gradient(d_e, d_keys);
    }
    if let Some(d_offsets) = offsets_input(io.inputs()).and_then(|i| io.d_input(i)) {
        inputs.offset_gradient(d_e, d_offsets);
    }
    let (points, k) = (op.neighbors.queries, op.neighbors.k);
    let (size, parts) = (Sums::size(c, g), parts(op.neighbors.queries));
    let scratch = io.scratch();
    let (partials, rest) = scratch.split_at_mut(parts * size);
    let d_q = &mut rest[..points * c];
    d_q.fill(0.0);
    let gradient = PointGradient { inputs, d_e };
    let rows = |part| parallel::part(points, parts, 1, part);
    let mut rest = &mut *d_q;
    let mut tasks = Vec::with_capacity(parts);
    for (part, slot) in partials.chunks_exact_mut(size).enumerate() {
        let (own, left) = std::mem::take(&mut rest).split_at_mut(rows(part).len() * c);
        rest = left;
        tasks.push((rows(part), slot, own));
    }
    rayon::scope(|scope| {
        for (points, slot, own) in tasks {
            let gradient = &gradient;
            scope.spawn(move |_| {
                slot.fill(0.0);
                let mut sums = Sums::split(slot, c, g);
                gradient.run(points.start * k..points.end * k, &mut sums, own);
            });
        }
    });
    let add = |from: &[f32], to: Option<&mut [f32]>| {
        let pairs = to.into_iter().flatten().zip(from);
        pairs.for_each(|(d, x)| *d += x);
    };
    add(d_q, io.d_input(1));
    let targets = [io.d_input(5), io.d_input(3), io.d_input(4), io.d_input(2)];
    let mut first = 0;
    for (target, words) in targets.into_iter().zip([g * c, c * c, c, 4 * c]) {
        if let Some(target) = target {
            for slot in partials.chunks_exact(size) {
                add(&slot[first..first + words], Some(&mut *target));
            }
        }
        first += words;
    }
}
