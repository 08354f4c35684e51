//! Weights and the weighted sum on a GPU: launches of `kernels/aggregate.cu`, what the launches of the other
//! `kernels/aggregate_*.cu` share with it, and where each of those is.

mod backward;
mod weights;

pub(super) use backward::{backward, backward_scratch};

use super::super::pairs::{PairsOn, SHORT, Sizes};
use super::{Aggregate, has_bias};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::random::Random;
use crate::device::{Cores, Gpu, Pointer};
use crate::geometry::Neighbors;
use crate::graph::Forward;

kernels!("aggregate");

/// Threads of a block.
const THREADS: u32 = 256;
/// Most points of a tile, parts of 16 pairs of one, groups and slots of one; see `kernels/aggregate.cuh`.
const POINTS: usize = 16;
const PARTS: usize = 16;
const GROUPS: usize = 16;
const SLOTS: usize = 16;
/// Channels of h at once.
const CHUNK: usize = 16;
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
    cores: Cores,
    sizes: Sizes,
    pairs: PairsOn,
    points: usize,
    tiles: Tiles,
}

impl Launch {
    /// Attention over `neighbors`.
    pub fn new(cores: Cores, neighbors: &Neighbors, sizes: Sizes) -> Result<Launch> {
        Ok(Launch {
            cores,
            sizes,
            pairs: PairsOn::new(neighbors, cores.gpu)?,
            points: neighbors.queries,
            tiles: Tiles::new(sizes, neighbors.queries),
        })
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
        self.cores.launch(&KERNELS, "aggregate_forward", grid, args)
    }
}

/// Words of scratch that [`forward`] needs where nothing is saved.
pub(super) fn forward_scratch(pairs: usize, sizes: Sizes) -> usize {
    pairs * sizes.groups
}

pub(super) fn forward(op: &Aggregate, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let sizes = op.sizes(io.shape(4));
    let launch = Launch::new(io.cores(gpu), &op.neighbors, sizes)?;
    let soft = io.saved_on(0).unwrap_or(io.scratch_on());
    let [e, st, mix, constant] = [0, 1, 2, 3].map(|i| io.input_on(i));
    launch.softmax((e, Some(st)), [mix, constant], soft)?;
    let bias = || ValueBiasOn::new([5, 6, 7].map(|i| io.input_on(i)), sizes);
    let bias = has_bias(io.inputs()).then(bias);
    let drop = Drop::new(io.random(), op.rate);
    let values = io.input_on(4);
    launch.attend((soft, drop), (values, bias), None, io.output_on(0))
}
