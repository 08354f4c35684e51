//! Backward on the host: every part of the windows works alone, scores are computed again.
//!
//! With D_i = dy_i·y_i: dp = dy_i·(v_j + Tv\[b\]), ds = p (dp − D_i), then dq_i += ds (k_j + Tq\[b\]),
//! dk_j += ds (q_i + Tk\[b\]), dv_j += p dy_i, and per axis dTq\[b\] += ds q_i, dTk\[b\] += ds k_j, dTv\[b\] += p dy_i.
//!
//! A part owns the rows of its windows; what it owes the sampled keys of others it keeps in slots of its own. Where there
//! are fewer parts than threads, as with one window of thousands of points, the heads of a tile are shared out too: each
//! adds to places of its own, so the order of all sums stays the same.

mod head;

use super::cpu::{BIN_WORDS, Inputs, carve_bins};
use super::tile::{AXES, CHUNK, KEYS, KeyTile, Keys, QUERIES, Row, channels, find_bins, is_ahead};
use super::{Sizes, WindowAttention, pack};
use crate::device::Rows;
use crate::device::parallel::PARTIALS;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, with_workspace};
use crate::geometry::windows::{Group, Part};
use crate::geometry::{MISSING, Windows};
use crate::graph::Backward;
use head::{HeadBuffers, OneTile};
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
    /// Of every head that is worked on at once.
    heads: Vec<HeadBuffers<'a>>,
    /// [H, chunks, QUERIES]
    d_queries: &'a mut [Row],
}

/// All groups of a part.
struct PartGradient<'a> {
    given: Given<'a>,
    part: &'a Part,
    gradients: Gradients<'a>,
    /// Heads that are worked on at once: all, where threads would be idle otherwise, or one after the other. The sums are
    /// the same, in the same order.
    at_once: usize,
}

impl Kernel for PartGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.gradients.d_tables.fill(0.0);
        self.gradients.d_sampled.fill(0.0);
        let Inputs { windows, sizes, .. } = self.given.inputs;
        let (chunks, at_once) = (sizes.chunks(), self.at_once);
        let rows = chunks * (at_once * (4 * KEYS + 2 * QUERIES) + sizes.heads * QUERIES);
        with_workspace(BIN_WORDS + rows * CHUNK, |mut rest| {
            let bins = carve_bins(&mut rest);
            let mut rows = |count: usize| {
                let words = carve(&mut rest, chunks * count * CHUNK);
                words.as_chunks_mut::<CHUNK>().0
            };
            let head = |_| HeadBuffers {
                keys: rows(KEYS),
                values: rows(KEYS),
                d_keys: rows(KEYS),
                d_values: rows(KEYS),
                queries: rows(QUERIES),
                d_y: rows(QUERIES),
            };
            let mut buffers = Buffers {
                bins,
                heads: (0..at_once).map(head).collect(),
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
            let rows = sizes.chunks() * QUERIES;
            let words = sizes.chunks() * sizes.chunk_words();
            let of = OneTile {
                given: part.given,
                queries: queries.clone(),
                tile: &tile,
                bins: buffers.bins,
            };
            let Gradients {
                d_qkv,
                d_tables,
                d_sampled,
            } = &mut part.gradients;
            let d_queries = buffers.d_queries.chunks_exact_mut(rows);
            let all = d_queries.zip(d_tables.chunks_exact_mut(words));
            if part.at_once == 1 {
                let buffers = &mut buffers.heads[0];
                for (head, (d_queries, d_tables)) in all.enumerate() {
                    s.call(of.head(head, buffers, d_queries, d_tables));
                    add_keys((d_qkv, d_sampled), sizes, head, &tile, buffers);
                }
                continue;
            }
            let tasks = all.zip(&mut buffers.heads).enumerate();
            let tasks = tasks.map(|(head, ((q, t), buffers))| of.head(head, buffers, q, t));
            let tasks: Vec<_> = tasks.collect();
            tasks.into_par_iter().for_each(|task| s.call(task));
            for (head, buffers) in buffers.heads.iter().enumerate() {
                add_keys((d_qkv, d_sampled), sizes, head, &tile, buffers);
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

/// Adds the gradients of the keys of a head to their rows, or slots.
#[inline(always)]
fn add_keys(
    (d_qkv, d_sampled): (&mut Rows<'_>, &mut [f32]),
    sizes: Sizes,
    head: usize,
    tile: &KeyTile,
    buffers: &HeadBuffers<'_>,
) {
    let width = sizes.channels;
    for chunk in 0..sizes.chunks() {
        let (first, count) = channels(sizes, head, chunk);
        for key in 0..tile.count {
            let row = match tile.slots[key] {
                MISSING => {
                    let row = d_qkv.row(tile.positions[key] as usize);
                    if row.is_empty() {
                        continue;
                    }
                    &mut row[width..]
                }
                slot => &mut d_sampled[slot as usize * 2 * width..][..2 * width],
            };
            let (d_key, d_value) = row.split_at_mut(width);
            let (from, own) = (chunk * KEYS + key, first..first + count);
            add(&mut d_key[own.clone()], &buffers.d_keys[from], 1.0);
            add(&mut d_value[own], &buffers.d_values[from], 1.0);
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
    // Few windows, all of them large.
    let at_once = match windows.parts().len() < rayon::current_num_threads() {
        true => sizes.heads,
        false => 1,
    };
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
                at_once,
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
