//! Neighbour pairs in tiles: what the attention ops share.
//!
//! A tile is a run of query points with all their pairs. Pair values come in two orders: *rows*, [pairs, G] as they
//! lie in the graph, and *columns*, [G, stride] with the pairs in the lanes of a vector, zero behind the last pair.
//! The hidden layer of the position encoding, h = ReLU(P · (Δ, 1)), is never kept: it is computed again wherever it
//! is used, a chunk of channels at a time, into a buffer that stays in cache.

#[cfg(test)]
pub mod fixtures;
mod hidden;
mod on;
mod order;
mod softmax;
mod value;

pub use hidden::{PairRows, hidden_columns, hidden_rows, pack_planes, position_gradient};
pub use on::PairsOn;
pub use order::{columns_to_rows, gather_columns, rows_to_columns};
pub use softmax::{dropout_factor, softmax, softmax_gradient};
pub use value::{
    Projection, gather_values, pack_projection, prefetch_rows, project, value_products, weight_sums,
};

use crate::device::parallel;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::geometry::{Neighbors, Ragged};
use crate::graph::Shape;
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// Channels that the hidden layer is computed for at once.
pub const CHUNK: usize = 48;
/// Pairs that the hidden layer is computed for at once where pairs lie in the lanes.
pub const BLOCK: usize = 64;
/// Lanes of the short vectors that channels of one group are held in.
pub const SHORT: usize = 8;
/// Most neighbours per point.
pub const MAX_NEIGHBORS: usize = 128;

/// Sizes of an attention op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// K, neighbours per point.
    pub k: usize,
    /// G, groups of channels that share their weights.
    pub groups: usize,
    /// C, channels.
    pub channels: usize,
}

impl Sizes {
    /// Checks that the sizes go together; `op` is named in the error.
    pub fn new(op: &str, neighbors: &Neighbors, groups: usize, channels: usize) -> Result<Sizes> {
        let k = neighbors.k;
        if k == 0 || k > MAX_NEIGHBORS {
            let fault = format!("{k} neighbours per point, but 1 to {MAX_NEIGHBORS} are possible");
            return Err(Error::shape(op, fault));
        }
        if groups == 0 || channels == 0 || !channels.is_multiple_of(groups) {
            let fault = format!("{channels} channels cannot be cut into {groups} groups");
            return Err(Error::shape(op, fault));
        }
        Ok(Sizes {
            k,
            groups,
            channels,
        })
    }

    /// I = C / G, channels of a group.
    pub fn width(self) -> usize {
        self.channels / self.groups
    }

    /// I rounded up to whole short vectors.
    pub fn padded_width(self) -> usize {
        self.width().next_multiple_of(SHORT)
    }

    /// C rounded up to whole vectors.
    pub fn padded_channels(self) -> usize {
        self.channels.next_multiple_of(16)
    }

    /// G rounded up to whole short vectors.
    pub fn padded_groups(self) -> usize {
        self.groups.next_multiple_of(SHORT)
    }

    /// Query points of a tile: enough to reuse weights in registers, few enough for the tile to stay in cache.
    pub fn tile(self) -> usize {
        match self.k * self.groups {
            0..=400 => 16,
            401..=1600 => 8,
            _ => 4,
        }
    }

    /// Words between the columns of a tile.
    pub fn stride(self) -> usize {
        (self.tile() * self.k).next_multiple_of(16)
    }

    /// Chunks of channels, the last one padded to whole vectors.
    pub fn chunks(self) -> impl Iterator<Item = Range<usize>> {
        let end = self.padded_channels();
        (0..end)
            .step_by(CHUNK)
            .map(move |first| first..(first + CHUNK).min(end))
    }
}

/// Fails with the op and both shapes unless `found` is `wanted`.
pub fn expect_shape(op: &str, what: &str, found: Shape, wanted: Shape) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!("{what} is {found}, but {wanted} is needed"),
    ))
}

/// Copies the offsets of `pairs` into `out` ([3, stride], zero behind the last pair).
#[inline(always)]
pub fn load_deltas(neighbors: &Neighbors, pairs: Range<usize>, out: &mut [f32]) {
    let stride = out.len() / 3;
    for (plane, out) in neighbors.delta.iter().zip(out.chunks_exact_mut(stride)) {
        let (head, tail) = out.split_at_mut(pairs.len());
        head.copy_from_slice(&plane[pairs.clone()]);
        tail.fill(0.0);
    }
}

/// Number of parts that a reduction over `rows` points is cut into: depends on the amount of work only.
pub fn parts(rows: usize) -> usize {
    (rows / 64).clamp(1, parallel::PARTIALS)
}

/// One partial result after another: `size` words each, of which a gradient takes a range.
#[derive(Debug)]
pub struct Partials<'a> {
    values: &'a mut [f32],
    size: usize,
}

impl<'a> Partials<'a> {
    /// `parts` partial results of `size` words, all zero, at the front of `scratch`.
    pub fn new(scratch: &'a mut [f32], parts: usize, size: usize) -> Self {
        let values = &mut scratch[..parts * size];
        parallel::for_each_rows(values, 1, 1 << 16, |_, part| part.fill(0.0));
        Partials { values, size }
    }

    /// Calls `run(rows, partial, out)` for every part of `rows` rows, in parallel; `out` is the part's share of `out`,
    /// which has `width` words per row.
    pub fn for_each(
        &mut self,
        rows: usize,
        align: usize,
        (out, width): (&mut [f32], usize),
        run: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Send + Sync,
    ) {
        if rows == 0 || self.size == 0 {
            return;
        }
        let parts = self.values.len() / self.size;
        let rows_of = |part| parallel::part(rows, parts, align, part);
        let mut rest = out;
        let mut tasks: Vec<(Range<usize>, &mut [f32], &mut [f32])> = Vec::with_capacity(parts);
        for (part, partial) in self.values.chunks_exact_mut(self.size).enumerate() {
            let range = rows_of(part);
            let words = (range.len() * width).min(rest.len());
            let (own, left) = std::mem::take(&mut rest).split_at_mut(words);
            rest = left;
            tasks.push((range, partial, own));
        }
        tasks
            .into_par_iter()
            .for_each(|(range, partial, own)| run(range, partial, own));
    }

    /// Adds the words from `first` on of all partial results to `out`, in order.
    pub fn add_to(&self, first: usize, out: &mut [f32]) {
        parallel::for_each_rows(out, 1, 1 << 12, |start, out| {
            for partial in self.values.chunks_exact(self.size) {
                let own = &partial[first + start..][..out.len()];
                out.iter_mut().zip(own).for_each(|(y, x)| *y += x);
            }
        });
    }

    /// Adds planes of `stride` words (one per column) from `first` on to `out`, which has `cols` words per row.
    pub fn add_planes_to(&self, first: usize, stride: usize, out: &mut [f32], cols: usize) {
        for partial in self.values.chunks_exact(self.size) {
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                for (col, y) in out.iter_mut().enumerate() {
                    *y += partial[first + col * stride + row];
                }
            }
        }
    }

    /// Adds rows of `stride` words, of which the first `cols` count, from `first` on to `out` ([rows, cols]).
    pub fn add_rows_to(&self, first: usize, stride: usize, out: &mut [f32], cols: usize) {
        for partial in self.values.chunks_exact(self.size) {
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                let own = &partial[first + row * stride..][..cols];
                out.iter_mut().zip(own).for_each(|(y, x)| *y += x);
            }
        }
    }
}

/// Adds to every row of `out` ([points, width]) the rows of `values` ([pairs, width]) of all pairs that the point is
/// the neighbour of.
pub fn add_by_neighbor(neighbors: &Neighbors, values: &[f32], width: usize, out: &mut [f32]) {
    let lists = neighbors.transposed();
    parallel::for_each_rows(out, width, 256, |first, out| {
        dispatch(AddByNeighbor {
            lists,
            values,
            width,
            first,
            out,
        });
    });
}

/// [`add_by_neighbor`] for the points from `first` on.
struct AddByNeighbor<'a> {
    lists: &'a Ragged,
    values: &'a [f32],
    width: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for AddByNeighbor<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let s = s.narrow();
        let width = self.width;
        let last = self.first + self.out.len() / width;
        for (point, out) in (self.first..).zip(self.out.chunks_exact_mut(width)) {
            if point + 1 < last {
                prefetch_rows(s, self.values, self.lists.list(point + 1), width);
            }
            for (part, out) in out.chunks_mut(SHORT).enumerate() {
                let mut sum = s.load_partial(out);
                for pair in self.lists.list(point) {
                    let row = *pair as usize * width + part * SHORT;
                    sum = s.add(sum, s.load_partial(&self.values[row..][..out.len()]));
                }
                s.store_partial(out, sum);
            }
        }
    }
}

/// Splits `a` and `b` (each with its words per row; `b` may be empty) into the same chunks of rows and calls
/// `run(first row, chunk of a, chunk of b)` for each, in parallel.
pub fn for_each_rows_of_two(
    (a, a_width): (&mut [f32], usize),
    (b, b_width): (&mut [f32], usize),
    chunk: usize,
    run: impl Fn(usize, &mut [f32], &mut [f32]) + Send + Sync,
) {
    if b.is_empty() {
        return parallel::for_each_rows(a, a_width, chunk, |first, a| run(first, a, &mut []));
    }
    a.par_chunks_mut(chunk * a_width)
        .zip(b.par_chunks_mut(chunk * b_width))
        .enumerate()
        .for_each(|(i, (a, b))| run(i * chunk, a, b));
}
