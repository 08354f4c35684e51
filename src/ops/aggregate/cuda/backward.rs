//! Backward of the weighted sum: launches of `kernels/aggregate_backward.cu`.

use super::super::super::pairs::Sizes;
use super::super::super::statistics::add_parts_on;
use super::super::{Aggregate, has_bias};
use super::weights::encoding_words;
use super::{CHUNK, Drop, Launch, THREADS, Tiles};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Gpu, Pointer};
use crate::geometry::Neighbors;
use crate::graph::Backward;

kernels!("aggregate_backward");

/// Words of scratch that [`backward`] needs.
pub(in super::super) fn backward_scratch(points: usize, sizes: Sizes) -> usize {
    let Sizes {
        k,
        groups,
        channels,
    } = sizes;
    let (pairs, tiles) = (points * k, Tiles::new(sizes, points));
    let position = 4 * channels * tiles.group_tiles * tiles.chunks(tiles.group_tiles).1;
    let w2 = (channels + 1) * channels * tiles.w2_chunks(sizes).1;
    2 * pairs * groups + position.max(w2).max(encoding_words(pairs, groups))
}

/// What backward works on.
pub(super) struct Gradient<'a, 'b> {
    pub launch: Launch,
    pub io: &'a Backward<'b>,
    pub soft: Pointer,
    pub drop: Drop,
    d_y: Pointer,
    /// Scratch, each [N·K, G]: gradient of the weights, what B is multiplied with.
    pub d: Pointer,
    pub r: Pointer,
    /// Scratch for partial results.
    pub partials: Pointer,
}

pub(in super::super) fn backward(op: &Aggregate, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let Some(d_y) = io.d_output_on(0) else {
        return Ok(());
    };
    let sizes = op.sizes(io.shape(4));
    let launch = Launch::new(io.cores(gpu), &op.neighbors, sizes)?;
    let words = launch.pairs.count * sizes.groups;
    let d = io.scratch_on();
    let gradient = Gradient {
        launch,
        io,
        soft: io.saved_on(0),
        drop: Drop::new(io.random(), op.rate),
        d_y,
        d,
        r: d.offset(words),
        partials: d.offset(2 * words),
    };
    if let Some(d_values) = io.d_input_on(4) {
        gradient.values(&op.neighbors, d_values)?;
    }
    gradient.weights()?;
    if has_bias(io.inputs()) {
        gradient.w2()?;
    }
    gradient.encoding()
}

impl Gradient<'_, '_> {
    /// d_v, over the transposed neighbour lists.
    fn values(&self, neighbors: &Neighbors, d_values: Pointer) -> Result<()> {
        let Launch { cores, sizes, .. } = self.launch;
        let gpu = cores.gpu;
        let lists = neighbors.try_transposed()?;
        let n = neighbors.points * sizes.channels;
        let args = args![
            self.soft,
            lists.offsets.on(gpu)?,
            lists.index.on(gpu)?,
            self.d_y,
            self.drop.seed,
            self.drop.stream,
            self.drop.rate,
            n,
            sizes.k as u32,
            sizes.groups as u32,
            sizes.channels as u32,
            d_values
        ];
        let kernel = "aggregate_backward_values";
        gpu.launch(&KERNELS, kernel, Grid::strided(n), args)
    }

    /// The gradient of the weights, and d_P.
    fn weights(&self) -> Result<()> {
        let Launch {
            cores,
            sizes,
            pairs,
            tiles,
            points,
        } = self.launch;
        let [dx, dy, dz] = pairs.delta;
        let bias = has_bias(self.io.inputs());
        let bias = bias.then(|| [5, 6, 7].map(|i| self.io.input_on(i)));
        let (chunk, chunks) = tiles.chunks(tiles.group_tiles);
        let args = args![
            self.soft,
            self.io.input_on(4),
            bias.map(|b| b[0]),
            bias.map(|b| b[1]),
            bias.map(|b| b[2]),
            pairs.index,
            dx,
            dy,
            dz,
            self.d_y,
            self.drop.seed,
            self.drop.stream,
            self.drop.rate,
            points,
            sizes.k as u32,
            sizes.groups as u32,
            sizes.channels as u32,
            tiles.points as u32,
            tiles.parts as u32,
            chunk,
            self.d,
            self.partials
        ];
        let grid = Grid::plane([chunks, tiles.group_tiles], THREADS);
        cores.launch(&KERNELS, "aggregate_backward_weights", grid, args)?;
        if let Some(d_position) = bias.and_then(|_| self.io.d_input_on(5)) {
            let parts = (self.partials, chunks * tiles.group_tiles);
            add_parts_on(cores.gpu, parts, 4 * sizes.channels, d_position)?;
        }
        Ok(())
    }

    /// d_W2 and d_b2.
    fn w2(&self) -> Result<()> {
        let (d_w2, d_b2) = (self.io.d_input_on(6), self.io.d_input_on(7));
        if d_w2.is_none() && d_b2.is_none() {
            return Ok(());
        }
        let Launch {
            cores,
            sizes,
            pairs,
            tiles,
            points,
        } = self.launch;
        let [dx, dy, dz] = pairs.delta;
        let channels = sizes.channels;
        let (chunk, chunks) = tiles.w2_chunks(sizes);
        let square = channels * channels;
        let constants = self.partials.offset(chunks * square);
        let args = args![
            self.soft,
            self.io.input_on(5),
            pairs.index,
            dx,
            dy,
            dz,
            self.d_y,
            self.drop.seed,
            self.drop.stream,
            self.drop.rate,
            points,
            sizes.k as u32,
            sizes.groups as u32,
            channels as u32,
            tiles.points as u32,
            tiles.parts as u32,
            chunk,
            self.partials,
            constants
        ];
        let blocks = [chunks, tiles.slot_tiles, channels.div_ceil(CHUNK)];
        let grid = Grid::space(blocks, THREADS);
        cores.launch(&KERNELS, "aggregate_backward_w2", grid, args)?;
        if let Some(d_w2) = d_w2 {
            add_parts_on(cores.gpu, (self.partials, chunks), square, d_w2)?;
        }
        if let Some(d_b2) = d_b2 {
            add_parts_on(cores.gpu, (constants, chunks), channels, d_b2)?;
        }
        Ok(())
    }
}
