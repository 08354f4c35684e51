//! The multiplier on a GPU: matrix products of `linear` and launches of `kernels/relation_multiplier.cu`, chunk by chunk.

use super::super::linear::{
    add_input_gradient_on, add_weight_gradient_on, product_on, weight_gradient_words,
};
use super::super::offsets::{HiddenOn, add_offset_gradient_on};
use super::super::pairs::{self, PairsOn};
use super::super::statistics::{ColumnChunks, add_column_sums_on, add_parts_on};
use super::{RelationMultiplier, offsets_input};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Cores, Gpu, Pointer};
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Shape};
use std::ops::Range;

kernels!("relation_multiplier");

/// Words of a value of one chunk: a few of them fit the second-level cache, and all of them are little memory.
const CHUNK_WORDS: usize = 1 << 22;

/// Fewest rows of a part whose gradient of P is summed up by a block: it leaves four numbers of every channel.
const PART_ROWS: usize = 64;

/// Sizes of the op and of its chunks.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    k: usize,
    channels: usize,
    groups: usize,
    /// Pairs, and most pairs of a chunk, which holds whole points.
    pairs: usize,
    chunk: usize,
}

impl Sizes {
    fn new(neighbors: &Neighbors, channels: usize, groups: usize) -> Sizes {
        let (k, pairs) = (neighbors.k, neighbors.index.len());
        let points = (CHUNK_WORDS / (k * channels).max(1)).max(1);
        Sizes {
            k,
            channels,
            groups,
            pairs,
            chunk: (points * k).min(pairs),
        }
    }

    fn weight(self) -> Shape {
        Shape::new(self.channels, self.channels)
    }

    fn encode(self) -> Shape {
        Shape::new(self.groups, self.channels)
    }

    /// Chunks of `count` pairs or list entries.
    fn chunks(self, count: usize) -> impl Iterator<Item = Range<usize>> {
        let step = self.chunk.max(1);
        (0..count)
            .step_by(step)
            .map(move |first| first..(first + step).min(count))
    }
}

/// What every chunk reads, and its scratch.
struct Chunked<'a> {
    cores: Cores,
    sizes: Sizes,
    neighbors: &'a Neighbors,
    on: PairsOn,
    keys: Pointer,
    queries: Pointer,
    position: Pointer,
    weight: Pointer,
    bias: Pointer,
    encode: Pointer,
    /// Scratch: h and f, each [chunk, C], then what backward needs.
    h: Pointer,
    f: Pointer,
    rest: Pointer,
}

/// Words of scratch that [`forward`] needs.
pub(super) fn forward_scratch(neighbors: &Neighbors, [channels, groups]: [usize; 2]) -> usize {
    2 * Sizes::new(neighbors, channels, groups).chunk * channels
}

/// Words of scratch that [`backward`] needs.
pub(super) fn backward_scratch(neighbors: &Neighbors, [channels, groups]: [usize; 2]) -> usize {
    let sizes = Sizes::new(neighbors, channels, groups);
    let products = weight_gradient_words(sizes.chunk, sizes.weight())
        .max(weight_gradient_words(sizes.chunk, sizes.encode()));
    let rows = sizes.chunk;
    let sums = ColumnChunks::new(Shape::new(rows, channels)).words(channels);
    let columns = (2 * ColumnChunks::of_at_least(PART_ROWS, rows).words(channels)).max(sums);
    rows * (4 * channels + groups) + products.max(columns)
}

impl<'a> Chunked<'a> {
    fn new(
        op: &'a RelationMultiplier,
        cores: Cores,
        [channels, groups]: [usize; 2],
        inputs: [Pointer; 6],
        scratch: Pointer,
    ) -> Result<Chunked<'a>> {
        let sizes = Sizes::new(&op.neighbors, channels, groups);
        let [keys, queries, position, weight, bias, encode] = inputs;
        let words = sizes.chunk * channels;
        Ok(Chunked {
            cores,
            sizes,
            neighbors: &op.neighbors,
            on: PairsOn::new(&op.neighbors, cores.gpu)?,
            keys,
            queries,
            position,
            weight,
            bias,
            encode,
            h: scratch,
            f: scratch.offset(words),
            rest: scratch.offset(2 * words),
        })
    }

    /// Hidden layer and factor, f = W h + b, of a chunk of pairs or of entries of `list`.
    fn factor(&self, chunk: &Range<usize>, list: Option<Pointer>) -> Result<()> {
        let [x, y, z] = self.on.delta;
        let channels = self.sizes.channels;
        let n = chunk.len() * channels;
        let width = channels as u32;
        let args = args![self.position, x, y, z, list, chunk.start, n, width, self.h];
        let kernel = "relation_multiplier_hidden";
        self.cores
            .gpu
            .launch(&KERNELS, kernel, Grid::strided(n), args)?;
        let product = (self.h, self.weight, Some(self.bias));
        product_on(
            self.cores,
            product,
            (chunk.len(), self.sizes.weight()),
            self.f,
        )
    }

    /// d_r = d_e A of `rows` rows of d_e.
    fn relation_gradient(&self, d_e: Pointer, rows: usize, d_r: Pointer) -> Result<()> {
        self.cores
            .gpu
            .open()?
            .zero(d_r, rows * self.sizes.channels)?;
        let product = (self.encode, None, d_e);
        add_input_gradient_on(self.cores, product, (rows, self.sizes.encode()), d_r)
    }
}

pub(super) fn forward(op: &RelationMultiplier, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let sizes = [io.shape(0).cols, io.shape(5).rows];
    let inputs = [0, 1, 2, 3, 4, 5].map(|i| io.input_on(i));
    let c = Chunked::new(op, io.cores(gpu), sizes, inputs, io.scratch_on())?;
    let Sizes {
        k,
        channels,
        groups,
        pairs,
        ..
    } = c.sizes;
    for chunk in c.sizes.chunks(pairs) {
        c.factor(&chunk, None)?;
        let parts = ColumnChunks::short(Shape::new(chunk.len(), channels));
        let args = args![
            c.keys,
            c.queries,
            c.on.index,
            chunk.start,
            chunk.len(),
            k as u32,
            channels as u32,
            parts.rows,
            c.f
        ];
        let kernel = "relation_multiplier_forward";
        gpu.launch(&KERNELS, kernel, parts.grid(channels), args)?;
        let e = io.output_on(0).offset(chunk.start * groups);
        product_on(
            c.cores,
            (c.f, c.encode, None),
            (chunk.len(), c.sizes.encode()),
            e,
        )?;
    }
    Ok(())
}

pub(super) fn backward(op: &RelationMultiplier, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let Some(d_e) = io.d_output_on(0) else {
        return Ok(());
    };
    let sizes = [io.shape(0).cols, io.shape(5).rows];
    let inputs = [0, 1, 2, 3, 4, 5].map(|i| io.input_on(i));
    let c = Chunked::new(op, io.cores(gpu), sizes, inputs, io.scratch_on())?;
    if let Some(d_keys) = io.d_input_on(0) {
        c.key_gradient(d_e, d_keys)?;
    }
    for chunk in c.sizes.chunks(c.sizes.pairs) {
        c.pair_gradient(io, d_e, &chunk)?;
    }
    Ok(())
}

impl Chunked<'_> {
    /// dk_j = Σ_i (d_e A) ⊙ (W h + b), over the transposed neighbour list.
    fn key_gradient(&self, d_e: Pointer, d_keys: Pointer) -> Result<()> {
        let (gpu, channels, groups) = (self.cores.gpu, self.sizes.channels, self.sizes.groups);
        let lists = self.neighbors.try_transposed()?;
        let (offsets, list) = (lists.offsets.on(gpu)?, lists.index.on(gpu)?);
        let d_r = self.rest;
        let rows = d_r.offset(self.sizes.chunk * channels);
        for chunk in self.sizes.chunks(lists.index.len()) {
            self.factor(&chunk, Some(list))?;
            let n = chunk.len() * groups;
            let args = args![d_e, list, chunk.start, n, groups as u32, rows];
            let kernel = "relation_multiplier_gather";
            gpu.launch(&KERNELS, kernel, Grid::strided(n), args)?;
            self.relation_gradient(rows, chunk.len(), d_r)?;
            // Points whose lists reach into the chunk.
            let ends = &lists.offsets[1..];
            let first = ends.partition_point(|end| *end as usize <= chunk.start);
            let end = lists.offsets[..lists.len()].partition_point(|s| (*s as usize) < chunk.end);
            let n = (end - first) * channels;
            let args = args![
                self.f,
                d_r,
                offsets,
                first,
                chunk.start,
                chunk.end,
                n,
                channels as u32,
                d_keys
            ];
            let kernel = "relation_multiplier_backward_keys";
            gpu.launch(&KERNELS, kernel, Grid::strided(n), args)?;
        }
        Ok(())
    }

    /// Everything but dk, of one chunk of pairs.
    fn pair_gradient(&self, io: &Backward<'_>, d_e: Pointer, chunk: &Range<usize>) -> Result<()> {
        let gpu = self.cores.gpu;
        let Sizes {
            k,
            channels,
            groups,
            ..
        } = self.sizes;
        let (rows, width) = (chunk.len(), channels as u32);
        let d_r = self.rest;
        let d_h = d_r.offset(self.sizes.chunk * channels);
        let partials = d_h.offset(self.sizes.chunk * (channels + groups));
        let d_e = d_e.offset(chunk.start * groups);
        self.factor(chunk, None)?;
        self.relation_gradient(d_e, rows, d_r)?;
        if let Some(d_queries) = io.d_input_on(1) {
            let n = rows / k * channels;
            let d_queries = d_queries.offset(chunk.start / k * channels);
            let args = args![self.f, d_r, n, k as u32, width, d_queries];
            let kernel = "relation_multiplier_backward_queries";
            gpu.launch(&KERNELS, kernel, Grid::strided(n), args)?;
        }
        let walk = ColumnChunks::short(Shape::new(rows, channels));
        let args = args![
            self.keys,
            self.queries,
            self.on.index,
            chunk.start,
            rows,
            k as u32,
            width,
            walk.rows,
            self.f,
            d_r
        ];
        let kernel = "relation_multiplier_backward";
        gpu.launch(&KERNELS, kernel, walk.grid(channels), args)?;
        let (r, d_f) = (self.f, d_r);
        if let Some(d_encode) = io.d_input_on(5) {
            let sizes = (rows, self.sizes.encode());
            add_weight_gradient_on(self.cores, (r, None, d_e), sizes, partials, d_encode)?;
        }
        let weight = (rows, self.sizes.weight());
        if let Some(d_weight) = io.d_input_on(3) {
            add_weight_gradient_on(self.cores, (self.h, None, d_f), weight, partials, d_weight)?;
        }
        if let Some(d_bias) = io.d_input_on(4) {
            let values = (d_f, None, Shape::new(rows, channels));
            add_column_sums_on(gpu, values, partials, d_bias)?;
        }
        if let Some(d_offsets) = offsets_input(io.inputs()).and_then(|i| io.d_input_on(i)) {
            // d_h = d_f W: as a relation with as many groups as channels.
            let sizes = pairs::Sizes {
                k,
                groups: channels,
                channels,
            };
            let hidden = HiddenOn {
                a: d_f,
                drop: None,
                b: self.weight,
                is_per_point: false,
                position: self.position,
            };
            let range = (chunk.start, rows);
            add_offset_gradient_on(gpu, (self.on, sizes), hidden, range, d_offsets)?;
        }
        let Some(d_position) = io.d_input_on(2) else {
            return Ok(());
        };
        gpu.open()?.zero(d_h, rows * channels)?;
        add_input_gradient_on(self.cores, (self.weight, None, d_f), weight, d_h)?;
        let [x, y, z] = self.on.delta;
        let parts = ColumnChunks::of_at_least(PART_ROWS, rows);
        let args = args![
            self.h,
            d_h,
            x,
            y,
            z,
            chunk.start,
            rows,
            width,
            parts.rows,
            partials
        ];
        let kernel = "relation_multiplier_backward_position";
        gpu.launch(&KERNELS, kernel, parts.grid(channels), args)?;
        add_parts_on(gpu, (partials, parts.count), 4 * channels, d_position)
    }
}
