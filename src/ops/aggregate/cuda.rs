//! Weights and the weighted sum on a GPU: launches of `kernels/aggregate.cu`.

use super::super::linear::{add_weight_gradient_on, weight_gradient_words};
use super::super::pairs::{PairsOn, SHORT, Sizes};
use super::super::statistics::{ColumnChunks, add_column_sums_on, add_parts_on};
use super::{Aggregate, has_bias};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::random::Random;
use crate::device::{Gpu, Pointer};
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Shape};

kernels!("aggregate");

/// Threads of a block.
const THREADS: u32 = 256;
/// Most points of a tile, parts of 16 pairs of one, groups and slots of one; see the kernel file.
const POINTS: usize = 16;
const PARTS: usize = 16;
const GROUPS: usize = 16;
const SLOTS: usize = 16;
/// Channels of h at once.
const CHUNK: usize = 16;
/// Threads, pairs and groups of a block of the kernels around the softmax.
const SOFTMAX_THREADS: u32 = 128;
const SOFTMAX_PAIRS: usize = 128;
const SOFTMAX_GROUPS: usize = 48;
/// Blocks to aim at where partial results are added up afterwards.
const BLOCKS: usize = 512;

/// How points, groups and channels are cut into tiles.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    /// Parts of 16 pairs per point.
    parts: usize,
    /// Points of a tile.
    points: usize,
    /// Numbers of tiles of points, of groups, of slots.
    point_tiles: usize,
    group_tiles: usize,
    slot_tiles: usize,
}

impl Tiles {
    fn new(sizes: Sizes, points: usize) -> Tiles {
        let parts = sizes.k.div_ceil(16);
        let tile = (PARTS / parts).min(POINTS);
        let slots = sizes.groups * sizes.width().div_ceil(SHORT);
        Tiles {
            parts,
            points: tile,
            point_tiles: points.div_ceil(tile),
            group_tiles: sizes.groups.div_ceil(GROUPS),
            slot_tiles: slots.div_ceil(SLOTS),
        }
    }

    /// Tiles of points of a chunk, and number of chunks, where every chunk has `blocks` blocks.
    fn chunks(self, blocks: usize) -> (usize, usize) {
        let chunk = self.point_tiles.div_ceil(BLOCKS.div_ceil(blocks)).max(1);
        (chunk, self.point_tiles.div_ceil(chunk))
    }

    /// The chunks for d_W2 and d_b2.
    fn w2_chunks(self, sizes: Sizes) -> (usize, usize) {
        self.chunks(self.slot_tiles * sizes.channels.div_ceil(CHUNK))
    }
}

/// Dropout of the weights.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Drop {
    seed: u64,
    stream: u64,
    rate: f32,
}

impl Drop {
    /// Nothing is dropped.
    pub const NONE: Drop = Drop {
        seed: 0,
        stream: 0,
        rate: 0.0,
    };

    fn new(random: Random, rate: f32) -> Drop {
        let [seed, stream] = random.words();
        Drop { seed, stream, rate }
    }
}

/// Second layer of the position encoding: P, W2, b2, and how W2 lies in memory.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct ValueBiasOn {
    pub position: Pointer,
    pub w2: Pointer,
    /// Strides of the group, of the channel within it, and of the inner channel.
    pub strides: [usize; 3],
    pub constant: Pointer,
}

impl ValueBiasOn {
    /// With W2 [C, C] row by row.
    fn new([position, w2, constant]: [Pointer; 3], sizes: Sizes) -> ValueBiasOn {
        ValueBiasOn {
            position,
            w2,
            strides: [sizes.width() * sizes.channels, sizes.channels, 1],
            constant,
        }
    }
}

/// What the kernels share.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Launch {
    gpu: Gpu,
    sizes: Sizes,
    pairs: PairsOn,
    points: usize,
    tiles: Tiles,
}

impl Launch {
    /// Attention over `neighbors`.
    pub fn new(gpu: Gpu, neighbors: &Neighbors, sizes: Sizes) -> Result<Launch> {
        Ok(Launch {
            gpu,
            sizes,
            pairs: PairsOn::new(neighbors, gpu)?,
            points: neighbors.queries,
            tiles: Tiles::new(sizes, neighbors.queries),
        })
    }

    /// Softmax weights of all pairs, [N·K, G], from e, st (none: 1, 0), B and b.
    pub fn softmax(
        &self,
        (e, st): (Pointer, Option<Pointer>),
        [mix, constant]: [Pointer; 2],
        soft: Pointer,
    ) -> Result<()> {
        let Sizes { k, groups, .. } = self.sizes;
        let (n, tile) = (self.points, SOFTMAX_PAIRS / k);
        let (k, width) = (k as u32, groups as u32);
        let args = args![e, st, mix, constant, n, k, width, tile as u32, soft];
        let blocks = [n.div_ceil(tile), groups.div_ceil(SOFTMAX_GROUPS)];
        let grid = Grid::plane(blocks, SOFTMAX_THREADS);
        self.gpu.launch(&KERNELS, "aggregate_softmax", grid, args)
    }

    /// y from the weights and the values, then max(y + shift, 0) if there is a shift.
    pub fn attend(
        &self,
        (soft, drop): (Pointer, Drop),
        (values, bias): (Pointer, Option<ValueBiasOn>),
        shift: Option<Pointer>,
        y: Pointer,
    ) -> Result<()> {
        let [dx, dy, dz] = self.pairs.delta;
        let sizes = self.sizes;
        let [group, within, inner] = bias.map_or([0; 3], |b| b.strides.map(|s| s as u32));
        let args = args![
            soft,
            values,
            bias.map(|b| b.position),
            bias.map(|b| b.w2),
            group,
            within,
            inner,
            bias.map(|b| b.constant),
            shift,
            self.pairs.index,
            dx,
            dy,
            dz,
            drop.seed,
            drop.stream,
            drop.rate,
            self.points,
            sizes.k as u32,
            sizes.groups as u32,
            sizes.channels as u32,
            self.tiles.points as u32,
            self.tiles.parts as u32,
            y
        ];
        let blocks = [self.tiles.point_tiles, self.tiles.slot_tiles];
        let grid = Grid::plane(blocks, THREADS);
        self.gpu.launch(&KERNELS, "aggregate_forward", grid, args)
    }
}

/// Words of scratch that [`forward`] needs where nothing is saved.
pub(super) fn forward_scratch(pairs: usize, sizes: Sizes) -> usize {
    pairs * sizes.groups
}

/// Words of scratch that [`backward`] needs.
pub(super) fn backward_scratch(points: usize, sizes: Sizes) -> usize {
    let Sizes {
        k,
        groups,
        channels,
    } = sizes;
    let (pairs, tiles) = (points * k, Tiles::new(sizes, points));
    let position = 4 * channels * tiles.group_tiles * tiles.chunks(tiles.group_tiles).1;
    let w2 = (channels + 1) * channels * tiles.w2_chunks(sizes).1;
    let mix = weight_gradient_words(pairs, Shape::new(groups, groups));
    let columns = ColumnChunks::new(pairs).words(groups);
    2 * pairs * groups + position.max(w2).max(mix).max(columns)
}

pub(super) fn forward(op: &Aggregate, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let sizes = op.sizes(io.shape(4));
    let launch = Launch::new(gpu, &op.neighbors, sizes)?;
    let soft = io.saved_on(0).unwrap_or(io.scratch_on());
    let [e, st, mix, constant] = [0, 1, 2, 3].map(|i| io.input_on(i));
    launch.softmax((e, Some(st)), [mix, constant], soft)?;
    let bias = || ValueBiasOn::new([5, 6, 7].map(|i| io.input_on(i)), sizes);
    let bias = has_bias(io.inputs()).then(bias);
    let drop = Drop::new(io.random(), op.rate);
    let values = io.input_on(4);
    launch.attend((soft, drop), (values, bias), None, io.output_on(0))
}

/// What backward works on.
struct Gradient<'a, 'b> {
    launch: Launch,
    io: &'a Backward<'b>,
    soft: Pointer,
    drop: Drop,
    d_y: Pointer,
    /// Scratch, each [N·K, G]: gradient of the weights, what B is multiplied with.
    d: Pointer,
    r: Pointer,
    /// Scratch for partial results.
    partials: Pointer,
}

pub(super) fn backward(op: &Aggregate, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let Some(d_y) = io.d_output_on(0) else {
        return Ok(());
    };
    let sizes = op.sizes(io.shape(4));
    let launch = Launch::new(gpu, &op.neighbors, sizes)?;
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
        let Launch { gpu, sizes, .. } = self.launch;
        let lists = neighbors.transposed();
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
            gpu,
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
        gpu.launch(&KERNELS, "aggregate_backward_weights", grid, args)?;
        if let Some(d_position) = bias.and_then(|_| self.io.d_input_on(5)) {
            let parts = (self.partials, chunks * tiles.group_tiles);
            add_parts_on(gpu, parts, 4 * sizes.channels, d_position)?;
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
            gpu,
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
        gpu.launch(&KERNELS, "aggregate_backward_w2", grid, args)?;
        if let Some(d_w2) = d_w2 {
            add_parts_on(gpu, (self.partials, chunks), square, d_w2)?;
        }
        if let Some(d_b2) = d_b2 {
            add_parts_on(gpu, (constants, chunks), channels, d_b2)?;
        }
        Ok(())
    }

    /// From the gradient of the weights back through the softmax, B, the ReLU and the norm.
    fn encoding(&self) -> Result<()> {
        let Launch {
            gpu, sizes, pairs, ..
        } = self.launch;
        let (count, groups) = (pairs.count, sizes.groups);
        let (k, width) = (sizes.k as u32, groups as u32);
        let n = self.launch.points * groups;
        let Drop { seed, stream, rate } = self.drop;
        let (soft, d) = (self.soft, self.d);
        let args = args![soft, pairs.index, n, k, width, seed, stream, rate, d];
        let kernel = "aggregate_backward_softmax";
        gpu.launch(&KERNELS, kernel, Grid::strided(n), args)?;
        let chunks = ColumnChunks::new(count);
        let [e, st, mix] = [0, 1, 2].map(|i| self.io.input_on(i));
        let (d_e, partials) = (self.io.d_input_on(0), self.partials);
        let (rows, r) = (chunks.rows, self.r);
        let args = args![e, st, mix, d, count, width, rows, d_e, r, partials];
        let blocks = [chunks.count, groups.div_ceil(SOFTMAX_GROUPS)];
        let grid = Grid::plane(blocks, SOFTMAX_THREADS);
        gpu.launch(&KERNELS, "aggregate_backward_norm", grid, args)?;
        if let Some(d_st) = self.io.d_input_on(1) {
            add_parts_on(gpu, (partials, chunks.count), 2 * groups, d_st)?;
        }
        if let Some(d_mix) = self.io.d_input_on(2) {
            let shape = Shape::new(groups, groups);
            add_weight_gradient_on(gpu, (r, None, d), (count, shape), partials, d_mix)?;
        }
        if let Some(d_constant) = self.io.d_input_on(3) {
            let rows = (d, None, Shape::new(count, groups));
            add_column_sums_on(gpu, rows, partials, d_constant)?;
        }
        Ok(())
    }
}
