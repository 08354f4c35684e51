//! The relation on a GPU: launches of `kernels/relation.cu`.

use super::super::gather::Listed;
use super::super::offsets::{HiddenOn, add_offset_gradient_on};
use super::super::pairs::{PairsOn, Sizes};
use super::super::statistics::{ColumnChunks, add_column_sums_on, add_parts_on};
use super::{Relation, has_bias, offsets_input};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Cores, Gpu, Pointer};
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Shape};

kernels!("relation");

/// Threads of a block; pairs of one in forward, channels of one in backward, and groups of one.
const THREADS: u32 = 128;
const PAIRS: usize = 128;
const CHANNELS: usize = 64;
const GROUPS: usize = 48;

/// What a relation on a GPU is computed from.
pub(in super::super) struct RelationOn {
    /// [N, G]
    pub keys: Pointer,
    /// [N, G]
    pub queries: Pointer,
    /// [1, G]
    pub constant: Pointer,
    /// P [C, 4] and M [G, C]
    pub bias: Option<[Pointer; 2]>,
}

/// e of all pairs.
pub(in super::super) fn relation_on(
    cores: Cores,
    neighbors: &Neighbors,
    sizes: Sizes,
    inputs: RelationOn,
    e: Pointer,
) -> Result<()> {
    let PairsOn {
        index,
        delta,
        count,
    } = PairsOn::new(neighbors, cores.gpu)?;
    let [x, y, z] = delta;
    let channels = inputs.bias.map_or(0, |_| sizes.channels);
    let args = args![
        inputs.keys,
        inputs.queries,
        inputs.bias.map(|b| b[0]),
        inputs.bias.map(|b| b[1]),
        inputs.constant,
        index,
        x,
        y,
        z,
        count,
        sizes.k as u32,
        sizes.groups as u32,
        channels as u32,
        e
    ];
    let blocks = [count.div_ceil(PAIRS), sizes.groups.div_ceil(GROUPS)];
    cores.launch(
        &KERNELS,
        "relation_forward",
        Grid::plane(blocks, THREADS),
        args,
    )
}

/// How the pairs are cut for the gradients of P and M: enough chunks to keep every processor busy, so few that adding
/// up their partial results costs little.
struct Chunks {
    pairs: usize,
    count: usize,
    tiles: usize,
}

impl Chunks {
    /// Fewest pairs of a chunk.
    const PAIRS: usize = 256;
    /// Blocks to aim at.
    const BLOCKS: usize = 512;

    fn new(pairs: usize, sizes: Sizes) -> Chunks {
        let tiles = sizes.groups.div_ceil(GROUPS);
        let blocks = sizes.channels.div_ceil(CHANNELS) * tiles;
        let chunk = pairs.div_ceil(Self::BLOCKS.div_ceil(blocks));
        let chunk = chunk.next_multiple_of(Self::PAIRS).max(Self::PAIRS);
        Chunks {
            pairs: chunk,
            count: pairs.div_ceil(chunk),
            tiles,
        }
    }

    /// Words of the partial gradients of P, and of those of M.
    fn words(&self, sizes: Sizes) -> [usize; 2] {
        let rows = self.count * sizes.channels;
        [4 * rows * self.tiles, rows * sizes.groups]
    }
}

/// Words of scratch that [`backward`] needs.
pub(super) fn backward_scratch(sizes: Sizes, pairs: usize) -> usize {
    let [position, m] = Chunks::new(pairs, sizes).words(sizes);
    ColumnChunks::new(Shape::new(pairs, sizes.groups))
        .words(sizes.groups)
        .max(position + m)
}

pub(super) fn forward(op: &Relation, gpu: Gpu, io: &Forward<'_>, sizes: Sizes) -> Result<()> {
    let has_bias = has_bias(io.inputs());
    let inputs = RelationOn {
        keys: io.input_on(0),
        queries: io.input_on(1),
        constant: io.input_on(if has_bias { 4 } else { 2 }),
        bias: has_bias.then(|| [io.input_on(2), io.input_on(3)]),
    };
    relation_on(io.cores(gpu), &op.neighbors, sizes, inputs, io.output_on(0))
}

pub(super) fn backward(op: &Relation, gpu: Gpu, io: &Backward<'_>, sizes: Sizes) -> Result<()> {
    let Some(d_e) = io.d_output_on(0) else {
        return Ok(());
    };
    let (has_bias, groups) = (has_bias(io.inputs()), sizes.groups);
    if let Some(d_keys) = io.d_input_on(0) {
        let lists = op.neighbors.try_transposed()?;
        let rows = Listed {
            lists,
            weight: None,
            k: 1,
        };
        rows.add(gpu, d_e, groups, d_keys)?;
    }
    if let Some(d_queries) = io.d_input_on(1) {
        let queries = op.neighbors.queries;
        // Points whose numbers fill 16 KiB; a single one may take 48.
        let points = ((16 << 10) / (4 * sizes.k * groups)).clamp(1, 256);
        let bytes = 4 * points * (sizes.k + 1) * groups;
        let is_shared = bytes <= 48 << 10;
        let args = args![
            d_e,
            queries,
            points as u32,
            sizes.k as u32,
            groups as u32,
            is_shared,
            d_queries
        ];
        let grid = Grid::new(queries.div_ceil(points), 256);
        let grid = grid.shared(if is_shared { bytes } else { 0 });
        gpu.launch(&KERNELS, "relation_backward_queries", grid, args)?;
    }
    if let Some(d_constant) = io.d_input_on(if has_bias { 4 } else { 2 }) {
        let rows = Shape::new(op.neighbors.index.len(), groups);
        add_column_sums_on(gpu, (d_e, None, rows), io.scratch_on(), d_constant)?;
    }
    if has_bias {
        bias_gradient(op, gpu, io, (d_e, sizes))?;
    }
    let Some(d_offsets) = offsets_input(io.inputs()).and_then(|i| io.d_input_on(i)) else {
        return Ok(());
    };
    let pairs = PairsOn::new(&op.neighbors, gpu)?;
    let hidden = HiddenOn {
        a: d_e,
        drop: None,
        b: io.input_on(3),
        is_per_point: false,
        position: io.input_on(2),
    };
    add_offset_gradient_on(gpu, (pairs, sizes), hidden, (0, pairs.count), d_offsets)
}

/// Adds to d_P and d_M.
fn bias_gradient(
    op: &Relation,
    gpu: Gpu,
    io: &Backward<'_>,
    (d_e, sizes): (Pointer, Sizes),
) -> Result<()> {
    let (d_position, d_m) = (io.d_input_on(2), io.d_input_on(3));
    if d_position.is_none() && d_m.is_none() {
        return Ok(());
    }
    let PairsOn { delta, count, .. } = PairsOn::new(&op.neighbors, gpu)?;
    let [x, y, z] = delta;
    let Sizes {
        groups, channels, ..
    } = sizes;
    let chunks = Chunks::new(count, sizes);
    let position = io.scratch_on();
    let m = position.offset(chunks.words(sizes)[0]);
    let args = args![
        io.input_on(2),
        io.input_on(3),
        x,
        y,
        z,
        d_e,
        count,
        groups as u32,
        channels as u32,
        chunks.pairs,
        position,
        m
    ];
    let blocks = [chunks.count, channels.div_ceil(CHANNELS), chunks.tiles];
    let grid = Grid::space(blocks, THREADS);
    io.cores(gpu)
        .launch(&KERNELS, "relation_backward_bias", grid, args)?;
    if let Some(d_position) = d_position {
        let parts = (position, chunks.count * chunks.tiles);
        add_parts_on(gpu, parts, 4 * channels, d_position)?;
    }
    if let Some(d_m) = d_m {
        add_parts_on(gpu, (m, chunks.count), groups * channels, d_m)?;
    }
    Ok(())
}
