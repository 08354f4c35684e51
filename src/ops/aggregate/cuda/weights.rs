//! From the relation to softmax weights and back: launches of `kernels/aggregate_weights.cu`.

use super::super::super::linear::{add_weight_gradient_on, weight_gradient_words};
use super::super::super::pairs::Sizes;
use super::super::super::statistics::{ColumnChunks, add_column_sums_on, add_parts_on};
use super::backward::Gradient;
use super::{Drop, Launch};
use crate::Result;
use crate::device::Pointer;
use crate::device::cuda::{Grid, args, kernels};
use crate::graph::Shape;

kernels!("aggregate_weights");

/// Threads, pairs and groups of a block.
const THREADS: u32 = 128;
const PAIRS: usize = 128;
const GROUPS: usize = 48;

/// Fewest pairs of a block of the norm's backward: two rounds of its warps.
const NORM_PAIRS: usize = 128;

/// Most groups of a block of the softmax's backward.
const SOFTMAX_GROUPS: usize = 32;

/// Words of scratch for the partial results of [`Gradient::encoding`].
pub(super) fn encoding_words(pairs: usize, groups: usize) -> usize {
    let shape = Shape::new(pairs, groups);
    let mix = weight_gradient_words(pairs, Shape::new(groups, groups));
    let sums = ColumnChunks::new(shape).words(groups);
    norm_chunks(pairs).words(groups).max(mix).max(sums)
}

/// How the pairs are cut for the sums of the norm's backward.
fn norm_chunks(pairs: usize) -> ColumnChunks {
    ColumnChunks::of_at_least(NORM_PAIRS, pairs)
}

impl Launch {
    /// Softmax weights of all pairs, [N·K, G], from e, st (none: 1, 0), B and b.
    pub fn softmax(
        &self,
        (e, st): (Pointer, Option<Pointer>),
        [mix, constant]: [Pointer; 2],
        soft: Pointer,
    ) -> Result<()> {
        let Sizes { k, groups, .. } = self.sizes;
        let (n, tile) = (self.points, PAIRS / k);
        let (k, width) = (k as u32, groups as u32);
        let args = args![e, st, mix, constant, n, k, width, tile as u32, soft];
        let blocks = [n.div_ceil(tile), groups.div_ceil(GROUPS)];
        let grid = Grid::plane(blocks, THREADS);
        self.cores.launch(&KERNELS, "aggregate_softmax", grid, args)
    }
}

impl Gradient<'_, '_> {
    /// From the gradient of the weights back through the softmax, B, the ReLU and the norm.
    pub fn encoding(&self) -> Result<()> {
        let Launch {
            cores,
            sizes,
            pairs,
            ..
        } = self.launch;
        let gpu = cores.gpu;
        let (count, groups) = (pairs.count, sizes.groups);
        let (k, width) = (sizes.k as u32, groups as u32);
        let points = self.launch.points;
        let Drop { seed, stream, rate } = self.drop;
        let (soft, d) = (self.soft, self.d);
        // A block holds two numbers of each of its pairs and groups, and of one row more per point: 16 KiB of them, or those
        // of one point, at most 33.
        let tile_groups = groups.min(SOFTMAX_GROUPS);
        let point = 2 * 4 * (sizes.k + 1) * tile_groups;
        let tile = ((16 << 10) / point).max(1);
        let args = args![
            soft,
            pairs.index,
            points,
            tile as u32,
            k,
            width,
            tile_groups as u32,
            seed,
            stream,
            rate,
            d
        ];
        let blocks = [points.div_ceil(tile), groups.div_ceil(tile_groups)];
        let grid = Grid::plane(blocks, 256).shared(tile * point);
        gpu.launch(&KERNELS, "aggregate_backward_softmax", grid, args)?;
        let chunks = norm_chunks(count);
        let [e, st, mix] = [0, 1, 2].map(|i| self.io.input_on(i));
        let (d_e, partials) = (self.io.d_input_on(0), self.partials);
        let (rows, r) = (chunks.rows, self.r);
        let args = args![e, st, mix, d, count, width, rows, d_e, r, partials];
        let blocks = [chunks.count, groups.div_ceil(GROUPS)];
        let grid = Grid::plane(blocks, THREADS);
        cores.launch(&KERNELS, "aggregate_backward_norm", grid, args)?;
        if let Some(d_st) = self.io.d_input_on(1) {
            add_parts_on(gpu, (partials, chunks.count), 2 * groups, d_st)?;
        }
        if let Some(d_mix) = self.io.d_input_on(2) {
            let shape = Shape::new(groups, groups);
            add_weight_gradient_on(cores, (r, None, d), (count, shape), partials, d_mix)?;
        }
        if let Some(d_constant) = self.io.d_input_on(3) {
            let rows = (d, None, Shape::new(count, groups));
            add_column_sums_on(gpu, rows, partials, d_constant)?;
        }
        Ok(())
    }
}
