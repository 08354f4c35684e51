//! Backward on the host: every part of the windows works alone, scores are computed again.
//!
//! With D_i = dy_i·y_i: dp = dy_i·(v_j + Tv\[b\]), ds = p (dp − D_i), then dq_i += ds (k_j + Tq\[b\]),
//! dk_j += ds (q_i + Tk\[b\]), dv_j += p dy_i, and per axis dTq\[b\] += ds q_i, dTk\[b\] += ds k_j, dTv\[b\] += p dy_i.
//!
//! A part owns the rows of its windows; what it owes the sampled keys of others it keeps in slots of its own.

mod head;

use super::cpu::{BIN_WORDS, Inputs, carve_bins, fours};
use super::tile::{
    AXES, CHUNK, KEYS, KeyTile, Keys, QUERIES, Row, channels, find_bins, is_ahead, load_rows,
};
use super::{Sizes, WindowAttention, pack};
use crate::device::Rows;
use crate::device::parallel::PARTIALS;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, with_workspace};
use crate::geometry::windows::{Group, Part};
use crate::geometry::{MISSING, Windows};
use crate::graph::Backward;
use head::HeadGradient;
use rayon::prelude::*;
use std::ops::Range;

/// Words of scratch that backward needs.
pub(super) fn scratch(windows: &Windows, sizes: Sizes) -> usize {
    let (parts, slots) = match windows.known_parts() {
        Some(parts) => (parts.len(), parts.iter().map(|p| p.slots).sum()),
        // A GPU made these windows and most likely works on them: enough for any parts, without asking it.
        None => (PARTIALS, PARTIALS * windows.sampled.index.len()),
    };
    (1 + parts) * sizes.table_words() + 2 * sizes.channels * slots
}

/// What backward reads besides the inputs.
#[derive(Debug, Clone, Copy)]
struct Given<'a> {
    inputs: Inputs<'a>,
    /// [N, C]
    d_y: &'a [f32],
    y: &'a [f32],
    /// [N, 2H]: maximum and 1 / Σ exp of every head
    saved: &'a [f32],
}

/// Gradients that a part adds to.
struct Gradients<'a> {
    /// [N, 3C], the rows of the part; empty rows when it is not wanted.
    d_qkv: Rows<'a>,
    /// packed
    d_tables: &'a mut [f32],
    /// [slots, 2C]
    d_sampled: &'a mut [f32],
}

/// Buffers of a tile of backward.
struct Buffers<'a> {
    /// [QUERIES]
    bins: &'a mut [[[u32; KEYS]; AXES]],
    /// [chunks, KEYS] of one head
    keys: &'a mut [Row],
    values: &'a mut [Row],
    d_keys: &'a mut [Row],
    d_values: &'a mut [Row],
    /// [chunks, QUERIES] of one head
    queries: &'a mut [Row],
    d_y: &'a mut [Row],
    /// [H, chunks, QUERIES]
    d_queries: &'a mut [Row],
}

/// All groups of a part.
struct PartGradient<'a> {
    given: Given<'a>,
    part: &'a Part,
    gradients: Gradients<'a>,
}

impl Kernel for PartGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.gradients.d_tables.fill(0.0);
        self.gradients.d_sampled.fill(0.0);
        let Inputs { windows, sizes, .. } = self.given.inputs;
        let chunks = sizes.chunks();
        let rows = chunks * (4 * KEYS + 2 * QUERIES + sizes.heads * QUERIES);
        with_workspace(BIN_WORDS + rows * CHUNK, |mut rest| {
            let bins = carve_bins(&mut rest);
            let mut rows = |count: usize| {
                let words = carve(&mut rest, chunks * count * CHUNK);
                words.as_chunks_mut::<CHUNK>().0
            };
            let mut buffers = Buffers {
                bins,
                keys: rows(KEYS),
                values: rows(KEYS),
                d_keys: rows(KEYS),
                d_values: rows(KEYS),
                queries: rows(QUERIES),
                d_y: rows(QUERIES),
                d_queries: rows(sizes.heads * QUERIES),
            };
            for at in self.part.groups.clone() {
                let group = &windows.groups()[at];
                let next = (at + 1 < self.part.groups.end).then(|| &windows.groups()[at + 1]);
                if let Some(next) = next.filter(|next| is_ahead(group, next)) {
                    self.prefetch(s, next);
                }
                for start in group.queries.clone().step_by(QUERIES) {
                    let queries = start..(start + QUERIES).min(group.queries.end);
                    let (part, buffers) = (&mut self, &mut buffers);
                    s.call(Tile {
                        part,
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
    part: &'a mut PartGradient<'b>,
    group: &'a Group,
    queries: Range<usize>,
    buffers: &'a mut Buffers<'c>,
}

impl Kernel for Tile<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tile {
            part,
            group,
            queries,
            buffers,
        } = self;
        let Inputs { windows, sizes, .. } = part.given.inputs;
        buffers.d_queries.fill([0.0; CHUNK]);
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
            for head in 0..sizes.heads {
                part.load(head, queries.clone(), &tile, buffers);
                let rows = sizes.chunks() * QUERIES;
                let words = sizes.chunks() * sizes.chunk_words();
                s.call(HeadGradient {
                    given: part.given,
                    head,
                    first: queries.start,
                    count: (queries.len(), tile.count),
                    bins: buffers.bins,
                    keys: buffers.keys,
                    values: buffers.values,
                    queries: buffers.queries,
                    d_y: buffers.d_y,
                    d_keys: buffers.d_keys,
                    d_values: buffers.d_values,
                    d_queries: &mut buffers.d_queries[head * rows..][..rows],
                    d_tables: &mut part.gradients.d_tables[head * words..][..words],
                });
                part.add_keys(head, &tile, buffers);
            }
        }
        part.add_queries(queries, buffers);
    }
}

impl PartGradient<'_> {
    /// Asks for the rows of the small window of `group`.
    #[inline(always)]
    fn prefetch<S: Simd>(&mut self, s: S, group: &Group) {
        let Given { inputs, d_y, y, .. } = self.given;
        inputs.prefetch(s, group);
        let width = inputs.sizes.channels;
        for position in group.dense.clone() {
            let row = inputs.windows.order[position] as usize;
            s.prefetch(&d_y[row * width..][..width]);
            s.prefetch(&y[row * width..][..width]);
            s.prefetch(self.gradients.d_qkv.row(position));
        }
    }

    /// Loads the rows of a head of a tile and clears the gradients of its keys.
    #[inline(always)]
    fn load(&self, head: usize, queries: Range<usize>, tile: &KeyTile, buffers: &mut Buffers<'_>) {
        let Given { inputs, d_y, .. } = self.given;
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

    /// Adds the gradients of the keys of a head to their rows, or slots.
    #[inline(always)]
    fn add_keys(&mut self, head: usize, tile: &KeyTile, buffers: &Buffers<'_>) {
        let sizes = self.given.inputs.sizes;
        let width = sizes.channels;
        for chunk in 0..sizes.chunks() {
            let (first, count) = channels(sizes, head, chunk);
            for key in 0..tile.count {
                let row = match tile.slots[key] {
                    MISSING => {
                        let row = self.gradients.d_qkv.row(tile.positions[key] as usize);
                        if row.is_empty() {
                            continue;
                        }
                        &mut row[width..]
                    }
                    slot => &mut self.gradients.d_sampled[slot as usize * 2 * width..][..2 * width],
                };
                let (d_key, d_value) = row.split_at_mut(width);
                add(
                    &mut d_key[first..first + count],
                    &buffers.d_keys[chunk * KEYS + key],
                    1.0,
                );
                let d_value = &mut d_value[first..first + count];
                add(d_value, &buffers.d_values[chunk * KEYS + key], 1.0);
            }
        }
    }

    /// Adds the gradients of the queries of a tile to their rows.
    #[inline(always)]
    fn add_queries(&mut self, queries: Range<usize>, buffers: &Buffers<'_>) {
        let sizes = self.given.inputs.sizes;
        for (query, position) in queries.enumerate() {
            let row = self.gradients.d_qkv.row(position);
            if row.is_empty() {
                return;
            }
            for head in 0..sizes.heads {
                for chunk in 0..sizes.chunks() {
                    let (first, count) = channels(sizes, head, chunk);
                    let from = (head * sizes.chunks() + chunk) * QUERIES + query;
                    let d_query = &mut row[first..first + count];
                    add(d_query, &buffers.d_queries[from], sizes.scale());
                }
            }
        }
    }
}

/// y += factor · x
#[inline(always)]
fn add(y: &mut [f32], x: &Row, factor: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

/// Runs backward on the host.
pub(super) fn backward(op: &WindowAttention, io: &mut Backward<'_>) {
    let Some(d_y) = io.d_output(0) else { return };
    let sizes = op.sizes(|i| io.shape(i));
    let windows = &*op.windows;
    let inputs = op.tables.inputs();
    let tables = inputs.map(|input| input.map(|i| io.input(i)));
    let (packed, rest) = io.scratch().split_at_mut(sizes.table_words());
    pack::pack(sizes, tables, packed);
    let given = Given {
        inputs: Inputs {
            windows,
            sizes,
            qkv: io.input(0),
            tables: packed,
        },
        d_y,
        y: io.output(0),
        saved: io.saved(0),
    };
    let (all_tables, mut rest) = rest.split_at_mut(windows.parts().len() * sizes.table_words());
    let mut all_sampled = Vec::with_capacity(windows.parts().len());
    for part in windows.parts() {
        let (own, left) = rest.split_at_mut(part.slots * 2 * sizes.channels);
        all_sampled.push(own);
        rest = left;
    }
    let mut d_qkv = io.d_input(0);
    let starts = windows
        .parts()
        .iter()
        .map(|p| windows.groups()[p.groups.start].queries.start);
    let bounds: Vec<usize> = starts.chain([windows.points()]).collect();
    let width = if d_qkv.is_some() {
        3 * sizes.channels
    } else {
        0
    };
    let own = windows
        .order
        .split(d_qkv.as_deref_mut().unwrap_or(&mut []), width, &bounds);
    let partials = all_tables.chunks_exact_mut(sizes.table_words());
    let tasks: Vec<_> = own
        .into_iter()
        .zip(partials)
        .zip(&mut all_sampled)
        .zip(windows.parts())
        .collect();
    tasks
        .into_par_iter()
        .for_each(|(((d_qkv, d_tables), d_sampled), part)| {
            let gradients = Gradients {
                d_qkv,
                d_tables,
                d_sampled,
            };
            dispatch(PartGradient {
                given,
                part,
                gradients,
            });
        });
    if let Some(d_qkv) = d_qkv {
        add_sampled(windows, sizes.channels, &all_sampled, d_qkv);
    }
    let partials: Vec<&[f32]> = all_tables.chunks_exact(sizes.table_words()).collect();
    for (t, input) in inputs.into_iter().enumerate() {
        if let Some(d_table) = input.and_then(|i| io.d_input(i)) {
            pack::add_unpacked(sizes, t, &partials, d_table);
        }
    }
}

/// Adds the slots of all parts, in order, to the keys and values that they stand for.
fn add_sampled(windows: &Windows, channels: usize, slots: &[&mut [f32]], d_qkv: &mut [f32]) {
    for (part, slots) in windows.parts().iter().zip(slots) {
        let positions = part
            .touched
            .iter()
            .flat_map(|(list, _)| windows.sampled.list(*list));
        for (slot, position) in slots.chunks_exact(2 * channels).zip(positions) {
            let row = windows.order[*position as usize] as usize;
            let row = &mut d_qkv[row * 3 * channels + channels..][..2 * channels];
            row.iter_mut().zip(slot).for_each(|(y, x)| *y += x);
        }
    }
}
