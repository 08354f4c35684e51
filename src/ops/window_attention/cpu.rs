//! Forward on the host.

use super::tile::{
    AXES, CHUNK, Entry, KEYS, KeyTile, Keys, QUERIES, Row, channels, entries, find_bins, is_ahead,
    load_rows, scores,
};
use super::{Sizes, WindowAttention, pack};
use crate::device::Rows;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::geometry::Windows;
use crate::geometry::windows::Group;
use crate::graph::Forward;
use rayon::prelude::*;
use std::ops::Range;

/// Score of a key that does not exist.
pub(super) const NEVER: f32 = -1e30;

/// What attention is computed from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub windows: &'a Windows,
    pub sizes: Sizes,
    /// [N, 3C]
    pub qkv: &'a [f32],
    /// packed
    pub tables: &'a [f32],
}

impl Inputs<'_> {
    /// Asks for the rows of the small window of `group`: they lie anywhere, and the group before gives them time.
    #[inline(always)]
    pub fn prefetch<S: Simd>(&self, s: S, group: &Group) {
        let width = 3 * self.sizes.channels;
        for row in &self.windows.order[group.dense.clone()] {
            s.prefetch(&self.qkv[*row as usize * width..][..width]);
        }
    }

    /// Loads a chunk of the queries at `positions`, scaled.
    #[inline(always)]
    pub fn load_queries(
        &self,
        head: usize,
        chunk: usize,
        positions: Range<usize>,
        out: &mut [Row],
    ) {
        let sizes = self.sizes;
        let source = (self.qkv, 3 * sizes.channels);
        let own = channels(sizes, head, chunk);
        let order = &self.windows.order;
        load_rows(source, own, sizes.scale(), order, positions, out);
    }

    /// Loads a chunk of the keys (`part` 1) or values (2) of a tile; rows up to a whole four are zero.
    #[inline(always)]
    pub fn load_keys(
        &self,
        head: usize,
        chunk: usize,
        part: usize,
        tile: &KeyTile,
        out: &mut [Row],
    ) {
        let sizes = self.sizes;
        let (first, count) = channels(sizes, head, chunk);
        let own = (first + part * sizes.channels, count);
        let source = (self.qkv, 3 * sizes.channels);
        let positions = tile.positions[..tile.count].iter().map(|p| *p as usize);
        load_rows(source, own, 1.0, &self.windows.order, positions, out);
        out[tile.count..fours(tile.count)].fill([0.0; CHUNK]);
    }
}

/// `count` rounded up to whole fours.
#[inline(always)]
pub(super) fn fours(count: usize) -> usize {
    count.next_multiple_of(4)
}

/// Words that [`carve_bins`] takes.
pub(super) const BIN_WORDS: usize = QUERIES * AXES * KEYS;

/// Cuts the bins of a tile, [QUERIES], off `rest`.
#[inline(always)]
pub(super) fn carve_bins<'a>(rest: &mut &'a mut [f32]) -> &'a mut [[[u32; KEYS]; AXES]] {
    let words: &mut [u32] = bytemuck::cast_slice_mut(carve(rest, BIN_WORDS));
    let rows = words.as_chunks_mut::<KEYS>().0;
    rows.as_chunks_mut::<AXES>().0
}

/// Buffers of a tile of forward.
struct Buffers<'a> {
    /// [QUERIES]
    bins: &'a mut [[[u32; KEYS]; AXES]],
    /// [chunks, KEYS]
    keys: &'a mut [Row],
    values: &'a mut [Row],
    /// [chunks, QUERIES] of one head
    queries: &'a mut [Row],
    /// [H, chunks, QUERIES]
    sums: &'a mut [Row],
    /// [H, QUERIES]
    largest: &'a mut [f32],
    total: &'a mut [f32],
}

/// All queries of a run of positions.
struct Run<'a> {
    inputs: Inputs<'a>,
    y: Rows<'a>,
    saved: Option<Rows<'a>>,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Sizes { heads, .. } = self.inputs.sizes;
        let chunks = self.inputs.sizes.chunks();
        let rows = chunks * (2 * KEYS + QUERIES + heads * QUERIES);
        let words = BIN_WORDS + rows * CHUNK + 2 * padded(heads * QUERIES);
        with_workspace(words, |mut rest| {
            let bins = carve_bins(&mut rest);
            let mut rows = |count: usize| {
                let words = carve(&mut rest, count * CHUNK);
                words.as_chunks_mut::<CHUNK>().0
            };
            let (keys, values) = (rows(chunks * KEYS), rows(chunks * KEYS));
            let (queries, sums) = (rows(chunks * QUERIES), rows(heads * chunks * QUERIES));
            let mut buffers = Buffers {
                bins,
                keys,
                values,
                queries,
                sums,
                largest: carve(&mut rest, heads * QUERIES),
                total: carve(&mut rest, heads * QUERIES),
            };
            let positions = self.y.positions();
            let groups = self.inputs.windows.groups();
            let first = groups.partition_point(|g| g.queries.end <= positions.start);
            for (at, group) in groups.iter().enumerate().skip(first) {
                let end = group.queries.end.min(positions.end);
                let mut start = group.queries.start.max(positions.start);
                if start >= end {
                    break;
                }
                if let Some(next) = groups.get(at + 1).filter(|next| is_ahead(group, next)) {
                    self.inputs.prefetch(s, next);
                }
                while start < end {
                    let queries = start..(start + QUERIES).min(end);
                    start = queries.end;
                    let (run, buffers) = (&mut self, &mut buffers);
                    s.call(Tile {
                        run,
                        group,
                        queries,
                        buffers,
                    });
                }
            }
        });
    }
}

/// All keys and heads of up to [`QUERIES`] queries.
struct Tile<'a, 'b, 'c> {
    run: &'a mut Run<'b>,
    group: &'a Group,
    queries: Range<usize>,
    buffers: &'a mut Buffers<'c>,
}

impl Kernel for Tile<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tile {
            run,
            group,
            queries,
            buffers,
        } = self;
        let inputs = run.inputs;
        let Inputs { windows, sizes, .. } = inputs;
        buffers.largest.fill(NEVER);
        buffers.total.fill(0.0);
        buffers.sums.fill([0.0; CHUNK]);
        let mut keys = Keys::new(windows, group);
        loop {
            let tile = keys.next();
            if tile.count == 0 {
                break;
            }
            for (bins, position) in buffers.bins.iter_mut().zip(queries.clone()) {
                let place = windows.place.each_ref().map(|plane| plane[position]);
                find_bins(s, windows.quantization, sizes.rows, place, &tile, bins);
            }
            let count = queries.len();
            for head in 0..sizes.heads {
                for chunk in 0..sizes.chunks() {
                    let own = chunk * KEYS..(chunk + 1) * KEYS;
                    inputs.load_keys(head, chunk, 1, &tile, &mut buffers.keys[own.clone()]);
                    inputs.load_keys(head, chunk, 2, &tile, &mut buffers.values[own]);
                    let own = &mut buffers.queries[chunk * QUERIES..][..count];
                    inputs.load_queries(head, chunk, queries.clone(), own);
                }
                let own = head * QUERIES..head * QUERIES + count;
                let rows = sizes.chunks() * QUERIES;
                s.call(HeadTile {
                    inputs,
                    head,
                    count: tile.count,
                    bins: buffers.bins,
                    keys: buffers.keys,
                    values: buffers.values,
                    queries: buffers.queries,
                    sums: &mut buffers.sums[head * rows..][..rows],
                    largest: &mut buffers.largest[own.clone()],
                    total: &mut buffers.total[own],
                });
            }
        }
        run.finish(queries, buffers);
    }
}

impl Run<'_> {
    /// Writes y and what is saved of a tile's queries.
    #[inline(always)]
    fn finish(&mut self, queries: Range<usize>, buffers: &Buffers<'_>) {
        let sizes = self.inputs.sizes;
        for (query, position) in queries.enumerate() {
            let y = self.y.row(position);
            for head in 0..sizes.heads {
                let inverse = 1.0 / buffers.total[head * QUERIES + query];
                for chunk in 0..sizes.chunks() {
                    let (first, count) = channels(sizes, head, chunk);
                    let sums = &buffers.sums[(head * sizes.chunks() + chunk) * QUERIES + query];
                    let y = &mut y[first..first + count];
                    y.iter_mut().zip(sums).for_each(|(y, x)| *y = inverse * x);
                }
            }
            let Some(saved) = &mut self.saved else {
                continue;
            };
            let (largest, inverse) = saved.row(position).split_at_mut(sizes.heads);
            for head in 0..sizes.heads {
                largest[head] = buffers.largest[head * QUERIES + query];
                inverse[head] = 1.0 / buffers.total[head * QUERIES + query];
            }
        }
    }
}

/// One head of a tile: moves the running maxima and sums of its queries on.
struct HeadTile<'a> {
    inputs: Inputs<'a>,
    head: usize,
    /// Number of keys.
    count: usize,
    bins: &'a [[[u32; KEYS]; AXES]],
    keys: &'a [Row],
    values: &'a [Row],
    queries: &'a [Row],
    sums: &'a mut [Row],
    largest: &'a mut [f32],
    total: &'a mut [f32],
}

impl Kernel for HeadTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Inputs { sizes, tables, .. } = self.inputs;
        let padded = fours(self.count);
        let mut p = [0.0; KEYS];
        let states = self.largest.iter_mut().zip(self.total);
        for (query, (largest, total)) in states.enumerate() {
            let bins = &self.bins[query];
            for chunk in 0..sizes.chunks() {
                let keys = &self.keys[chunk * KEYS..][..padded];
                let q = &self.queries[chunk * QUERIES + query];
                let tables = entries(sizes, tables, self.head, chunk);
                scores(s, q, keys, bins, tables, chunk > 0, &mut p);
            }
            let factor = weights(s, &mut p, self.count, largest, total);
            for chunk in 0..sizes.chunks() {
                let values = &self.values[chunk * KEYS..][..padded];
                let tables = entries(sizes, tables, self.head, chunk);
                let sum = &mut self.sums[chunk * QUERIES + query];
                add_values(s, &p, values, bins, tables, factor, sum);
            }
        }
    }
}

/// Turns scores into exp(score − maximum), and moves maximum and total on. Returns what earlier sums are multiplied by.
#[inline(always)]
fn weights<S: Simd>(
    s: S,
    p: &mut [f32; KEYS],
    count: usize,
    largest: &mut f32,
    total: &mut f32,
) -> f32 {
    let end = count.next_multiple_of(S::LANES);
    p[count..end].fill(NEVER);
    let mut most = s.splat(*largest);
    for first in (0..end).step_by(S::LANES) {
        most = s.max(most, s.load(&p[first..]));
    }
    let before = *largest;
    *largest = s.largest(most);
    let shift = s.splat(*largest);
    let mut sum = s.zero();
    for first in (0..end).step_by(S::LANES) {
        let x = s.exp(s.sub(s.load(&p[first..]), shift));
        sum = s.add(sum, x);
        s.store(&mut p[first..], x);
    }
    p[count..end].fill(0.0);
    let factor = if *total > 0.0 {
        (before - *largest).exp()
    } else {
        0.0
    };
    *total = factor * *total + s.sum(sum);
    factor
}

/// sum = factor · sum + Σ p (v + Tv\[b\]) for a chunk.
#[inline(always)]
fn add_values<S: Simd>(
    s: S,
    p: &[f32; KEYS],
    values: &[Row],
    bins: &[[u32; KEYS]; AXES],
    tables: [&[Entry]; AXES],
    factor: f32,
    sum: &mut Row,
) {
    let [x, y, z] = bins.each_ref().map(|b| b.as_chunks::<4>().0);
    let mut sums = [[s.zero(); 4]; 2];
    let bins = x.iter().zip(y).zip(z);
    let given = values.as_chunks::<4>().0.iter().zip(p.as_chunks::<4>().0);
    for ((values, p), ((x, y), z)) in given.zip(bins) {
        for n in 0..4 {
            let (x, y, z) = (
                &tables[0][x[n] as usize],
                &tables[1][y[n] as usize],
                &tables[2][z[n] as usize],
            );
            let p = s.splat(p[n]);
            for (part, c) in (0..CHUNK).step_by(S::LANES).enumerate() {
                let xy = s.add(s.load(&x[2 * CHUNK + c..]), s.load(&y[2 * CHUNK + c..]));
                let zv = s.add(s.load(&z[2 * CHUNK + c..]), s.load(&values[n][c..]));
                sums[part][n] = s.fma(p, s.add(xy, zv), sums[part][n]);
            }
        }
    }
    let factor = s.splat(factor);
    for (part, c) in (0..CHUNK).step_by(S::LANES).enumerate() {
        let [a, b, d, e] = sums[part];
        let new = s.add(s.add(a, b), s.add(d, e));
        let sum = &mut sum[c..];
        s.store(sum, s.fma(factor, s.load(sum), new));
    }
}

/// Runs forward on the host.
pub(super) fn forward(op: &WindowAttention, io: &mut Forward<'_>) {
    let sizes = op.sizes(|i| io.shape(i));
    let tables = op.tables.inputs().map(|input| input.map(|i| io.input(i)));
    let packed = io.scratch();
    pack::pack(sizes, tables, packed);
    let inputs = Inputs {
        windows: &op.windows,
        sizes,
        qkv: io.input(0),
        tables: packed,
    };
    let order = &op.windows.order;
    let outputs = order.split(io.output(0), sizes.channels, op.bounds());
    if io.saves() {
        let saved = order.split(io.saved(0), 2 * sizes.heads, op.bounds());
        let runs = outputs.into_par_iter().zip(saved);
        runs.for_each(|(y, saved)| {
            let saved = Some(saved);
            dispatch(Run { inputs, y, saved });
        });
    } else {
        let saved = || None;
        let runs = outputs.into_par_iter();
        runs.for_each(|y| {
            dispatch(Run {
                inputs,
                y,
                saved: saved(),
            })
        });
    }
}
