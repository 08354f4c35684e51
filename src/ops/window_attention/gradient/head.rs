//! One head of a tile: its rows, weights and their gradients again, and what every pair adds.

use super::super::Sizes;
use super::super::cpu::fours;
use super::super::tile::{
    AXES, CHUNK, ENTRY, Entry, KEYS, KeyTile, QUERIES, Row, channels, entries, load_rows, scores,
};
use super::Given;
use crate::device::simd::{Kernel, Simd};
use std::ops::Range;

/// Buffers of a head of a tile of backward.
pub(super) struct HeadBuffers<'a> {
    /// [chunks, KEYS]
    pub keys: &'a mut [Row],
    pub values: &'a mut [Row],
    pub d_keys: &'a mut [Row],
    pub d_values: &'a mut [Row],
    /// [chunks, QUERIES]
    pub queries: &'a mut [Row],
    pub d_y: &'a mut [Row],
}

/// A tile of queries and keys that is loaded head by head.
pub(super) struct OneTile<'a> {
    pub given: Given<'a>,
    pub queries: Range<usize>,
    pub tile: &'a KeyTile,
    pub bins: &'a [[[u32; KEYS]; AXES]],
}

impl OneTile<'_> {
    /// One head of it, with room for the gradients of its queries and tables.
    pub fn head<'a, 'b>(
        &'a self,
        head: usize,
        buffers: &'a mut HeadBuffers<'b>,
        d_queries: &'a mut [Row],
        d_tables: &'a mut [f32],
    ) -> OneHead<'a, 'b> {
        OneHead {
            of: self,
            head,
            buffers,
            d_queries,
            d_tables,
        }
    }
}

/// What one head of a tile adds, from loading its rows on.
pub(super) struct OneHead<'a, 'b> {
    of: &'a OneTile<'a>,
    head: usize,
    buffers: &'a mut HeadBuffers<'b>,
    d_queries: &'a mut [Row],
    d_tables: &'a mut [f32],
}

impl Kernel for OneHead<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (of, buffers) = (self.of, self.buffers);
        of.given.load(self.head, &of.queries, of.tile, buffers);
        let gradient = HeadGradient {
            given: of.given,
            head: self.head,
            first: of.queries.start,
            count: (of.queries.len(), of.tile.count),
            bins: of.bins,
            keys: buffers.keys,
            values: buffers.values,
            queries: buffers.queries,
            d_y: buffers.d_y,
            d_keys: buffers.d_keys,
            d_values: buffers.d_values,
            d_queries: self.d_queries,
            d_tables: self.d_tables,
        };
        gradient.run(s);
    }
}

impl Given<'_> {
    /// Loads the rows of a head of a tile and clears the gradients of its keys.
    #[inline(always)]
    fn load(
        &self,
        head: usize,
        queries: &Range<usize>,
        tile: &KeyTile,
        buffers: &mut HeadBuffers<'_>,
    ) {
        let Given { inputs, d_y, .. } = self;
        let sizes = inputs.sizes;
        for chunk in 0..sizes.chunks() {
            let own = chunk * KEYS..(chunk + 1) * KEYS;
            inputs.load_keys(head, chunk, 1, tile, &mut buffers.keys[own.clone()]);
            inputs.load_keys(head, chunk, 2, tile, &mut buffers.values[own.clone()]);
            let count = fours(tile.count);
            buffers.d_keys[own.clone()][..count].fill([0.0; CHUNK]);
            buffers.d_values[own][..count].fill([0.0; CHUNK]);
            let own = chunk * QUERIES..chunk * QUERIES + queries.len();
            inputs.load_queries(
                head,
                chunk,
                queries.clone(),
                &mut buffers.queries[own.clone()],
            );
            let order = &inputs.windows.order;
            load_rows(
                (d_y, sizes.channels),
                channels(sizes, head, chunk),
                1.0,
                order,
                queries.clone(),
                &mut buffers.d_y[own],
            );
        }
    }
}

/// One head of a tile whose rows are loaded.
struct HeadGradient<'a> {
    given: Given<'a>,
    head: usize,
    /// Position of the first query.
    first: usize,
    /// Numbers of queries and of keys.
    count: (usize, usize),
    bins: &'a [[[u32; KEYS]; AXES]],
    keys: &'a [Row],
    values: &'a [Row],
    queries: &'a [Row],
    d_y: &'a [Row],
    d_keys: &'a mut [Row],
    d_values: &'a mut [Row],
    d_queries: &'a mut [Row],
    /// Packed, of this head.
    d_tables: &'a mut [f32],
}

impl Kernel for HeadGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Given { inputs, y, .. } = self.given;
        let sizes = inputs.sizes;
        let padded = fours(self.count.1);
        let (mut p, mut ds) = ([0.0; KEYS], [0.0; KEYS]);
        for query in 0..self.count.0 {
            let bins = &self.bins[query];
            let row = inputs.windows.order[self.first + query] as usize;
            let mut flow = s.zero();
            for chunk in 0..sizes.chunks() {
                let tables = entries(sizes, inputs.tables, self.head, chunk);
                let q = &self.queries[chunk * QUERIES + query];
                let keys = &self.keys[chunk * KEYS..][..padded];
                scores(s, q, keys, bins, tables, chunk > 0, &mut p);
                let d_y = &self.d_y[chunk * QUERIES + query];
                let values = &self.values[chunk * KEYS..][..padded];
                products(s, d_y, values, bins, tables, chunk > 0, &mut ds);
                let (first, count) = channels(sizes, self.head, chunk);
                let y = &y[row * sizes.channels + first..][..count];
                for (y, d_y) in y.chunks(S::LANES).zip(d_y.chunks_exact(S::LANES)) {
                    flow = s.fma(s.load_partial(y), s.load(d_y), flow);
                }
            }
            let saved = &self.given.saved[row * 2 * sizes.heads..][..2 * sizes.heads];
            let softmax = (saved[self.head], saved[sizes.heads + self.head]);
            weights(s, softmax, s.sum(flow), self.count.1, &mut p, &mut ds);
            for chunk in 0..sizes.chunks() {
                let own = chunk * KEYS..chunk * KEYS + self.count.1;
                let words = sizes.chunk_words();
                let d_tables = &mut self.d_tables[chunk * words..(chunk + 1) * words];
                PairGradient {
                    pairs: (&p, &ds),
                    bins,
                    q: &self.queries[chunk * QUERIES + query],
                    d_y: &self.d_y[chunk * QUERIES + query],
                    keys: &self.keys[own.clone()],
                    tables: entries(sizes, inputs.tables, self.head, chunk),
                    d_q: &mut self.d_queries[chunk * QUERIES + query],
                    d_keys: &mut self.d_keys[own.clone()],
                    d_values: &mut self.d_values[own],
                    d_tables: entries_mut(sizes, d_tables),
                }
                .add(s);
            }
        }
    }
}

/// The tables of one chunk of a head, by axis.
#[inline(always)]
fn entries_mut(sizes: Sizes, words: &mut [f32]) -> [&mut [Entry]; AXES] {
    let all = words.as_chunks_mut::<ENTRY>().0;
    let (x, rest) = all.split_at_mut(sizes.rows);
    let (y, z) = rest.split_at_mut(sizes.rows);
    [x, y, z]
}

/// The part of a chunk in dy·(v + Tv\[b\]) of one query with all keys, for whole fours of keys.
#[inline(always)]
fn products<S: Simd>(
    s: S,
    d_y: &Row,
    values: &[Row],
    bins: &[[u32; KEYS]; AXES],
    tables: [&[Entry]; AXES],
    add: bool,
    products: &mut [f32; KEYS],
) {
    let [x, y, z] = bins.each_ref().map(|b| b.as_chunks::<4>().0);
    let fours = values.as_chunks::<4>().0.iter().zip(x.iter().zip(y).zip(z));
    for ((values, ((x, y), z)), out) in fours.zip(products.as_chunks_mut::<4>().0) {
        let mut sums = [s.zero(); 4];
        for n in 0..4 {
            let (x, y, z) = (
                &tables[0][x[n] as usize],
                &tables[1][y[n] as usize],
                &tables[2][z[n] as usize],
            );
            for c in (0..CHUNK).step_by(S::LANES) {
                let d_y = s.load(&d_y[c..]);
                let mut sum = s.fma(d_y, s.load(&values[n][c..]), sums[n]);
                sum = s.fma(d_y, s.load(&x[2 * CHUNK + c..]), sum);
                sum = s.fma(d_y, s.load(&y[2 * CHUNK + c..]), sum);
                sums[n] = s.fma(d_y, s.load(&z[2 * CHUNK + c..]), sum);
            }
        }
        let mut four = [0.0; 4];
        s.sums_of_four(sums, &mut four);
        if add {
            out.iter_mut().zip(four).for_each(|(y, x)| *y += x);
        } else {
            *out = four;
        }
    }
}

/// Turns scores into p and products into ds = p (dp − D).
#[inline(always)]
fn weights<S: Simd>(
    s: S,
    (largest, inverse): (f32, f32),
    flow: f32,
    count: usize,
    p: &mut [f32; KEYS],
    ds: &mut [f32; KEYS],
) {
    let (largest, inverse, flow) = (s.splat(largest), s.splat(inverse), s.splat(flow));
    for first in (0..count).step_by(S::LANES) {
        let x = s.exp(s.sub(s.load(&p[first..]), largest));
        let x = s.mul(x, inverse);
        s.store(&mut p[first..], x);
        let dp = s.sub(s.load(&ds[first..]), flow);
        s.store(&mut ds[first..], s.mul(x, dp));
    }
}

/// A chunk of one query with all its keys.
struct PairGradient<'a> {
    /// p and ds
    pairs: (&'a [f32; KEYS], &'a [f32; KEYS]),
    bins: &'a [[u32; KEYS]; AXES],
    q: &'a Row,
    d_y: &'a Row,
    keys: &'a [Row],
    tables: [&'a [Entry]; AXES],
    d_q: &'a mut Row,
    d_keys: &'a mut [Row],
    d_values: &'a mut [Row],
    d_tables: [&'a mut [Entry]; AXES],
}

impl PairGradient<'_> {
    #[inline(always)]
    fn add<S: Simd>(self, s: S) {
        let PairGradient { tables, .. } = self;
        let [d_x, d_y, d_z] = self.d_tables;
        let mut d_q = [s.zero(); 2];
        let [x, y, z] = self.bins;
        let bins = x.iter().zip(y).zip(z);
        let weights = self.pairs.0.iter().zip(self.pairs.1);
        let gradients = self.d_keys.iter_mut().zip(self.d_values);
        let keys = self.keys.iter().zip(gradients).zip(weights).zip(bins);
        for (((key, (d_key, d_value)), (p, ds)), ((x, y), z)) in keys {
            let (x, y, z) = (*x as usize, *y as usize, *z as usize);
            let (p, ds) = (s.splat(*p), s.splat(*ds));
            let entries = [&tables[0][x], &tables[1][y], &tables[2][z]];
            let (sum_x, sum_y, sum_z) = (&mut d_x[x], &mut d_y[y], &mut d_z[z]);
            for (part, c) in (0..CHUNK).step_by(S::LANES).enumerate() {
                let q = s.load(&self.q[c..]);
                let k = s.load(&key[c..]);
                let upstream = s.load(&self.d_y[c..]);
                let mut for_q = k;
                let mut for_k = q;
                for entry in entries {
                    for_q = s.add(for_q, s.load(&entry[c..]));
                    for_k = s.add(for_k, s.load(&entry[CHUNK + c..]));
                }
                d_q[part] = s.fma(ds, for_q, d_q[part]);
                let own = &mut d_key[c..];
                s.store(own, s.fma(ds, for_k, s.load(own)));
                let own = &mut d_value[c..];
                let by_value = s.mul(p, upstream);
                s.store(own, s.add(by_value, s.load(own)));
                let (by_query, by_key) = (s.mul(ds, q), s.mul(ds, k));
                for sum in [&mut *sum_x, &mut *sum_y, &mut *sum_z] {
                    for (t, value) in [by_query, by_key, by_value].into_iter().enumerate() {
                        let own = &mut sum[t * CHUNK + c..];
                        s.store(own, s.add(value, s.load(own)));
                    }
                }
            }
        }
        for (part, c) in (0..CHUNK).step_by(S::LANES).enumerate() {
            let own = &mut self.d_q[c..];
            s.store(own, s.add(d_q[part], s.load(own)));
        }
    }
}
