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

/// Words of scratch for the partial results of [`Gradient::encoding`].
pub(super) fn encoding_words(pairs: usize, groups: usize) -> usize {
    let mix = weight_gradient_words(pairs, Shape::new(groups, groups));
    ColumnChunks::new(pairs).words(groups).max(mix)
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
        self.gpu.launch(&KERNELS, "aggregate_softmax", grid, args)
    }
}

impl Gradient<'_, '_> {
    /// From the gradient of the weights back through the softmax, B, the ReLU and the norm.
    pub fn encoding(&self) -> Result<()> {
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
        let blocks = [chunks.count, groups.div_ceil(GROUPS)];
        let grid = Grid::plane(blocks, THREADS);
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
