//! Multi-head attention in windows with contextual relative positions (Lai et al. 2022, Stratified Transformer,
//! section 3.3; the 3D Swin baseline with other windows).
//!
//! For every head, query i and key j of its group, with q scaled by d^-1/2 and b the bins of the offset x_i − x_j:
//!
//! T\[b\] = T\[bx, x\] + T\[by, y\] + T\[bz, z\]        (a vector of d values, from each of the three tables)
//! s_ij = q_i·k_j + q_i·Tq\[b\] + k_j·Tk\[b\],   p_ij = softmax_j(s_ij),   y_i = Σ_j p_ij (v_j + Tv\[b\])
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | qkv | [N, 3C] | q, k and v side by side, heads of d = C / H channels side by side in each; q not scaled yet |
//! | Tq, Tk, Tv | [T, 3C] | row b: head, channel, axis, the axis fastest; each may be left out, which is all zero |
//! | windows | groups of queries with their keys | from `geometry::Windows` |
//! | y | [N, C] | heads side by side |
//!
//! Nothing of the size of the pairs is kept. A tile is up to 16 queries of a group and 64 of their keys: bins are found
//! once for all heads, then each head adds up its keys with a running maximum. Where few dozen keys share a table of
//! 64 rows, reading three rows a pair costs less than any product with the whole table, so that is what is done:
//! all channels of a pair in the lanes.
//!
//! On a GPU a block keeps the tables of a head in shared memory and walks over tiles of 16 queries, 32 keys at a time;
//! see `kernels/window_attention.cu`. Heads of any width work, 16 and 32 channels fastest; tables that do not fit into
//! shared memory are read from where they lie.
//!
//! Backward: computes scores again; parts of whole windows add up the gradients of tables and of sampled keys on their
//! own, which are then summed in order. Saves: maximum and 1 / Σ exp per query and head. Reads qkv, tables, y.
//! Memory: O(N·H) saved, O(T·C) scratch, times at most 16 in backward, times the blocks on a GPU. Time: O(pairs · C).
//! Errors: channels that do not fit the heads; tables of different sizes, or with fewer rows than there are bins.

mod cpu;
mod cuda;
mod gradient;
mod pack;
#[cfg(test)]
mod tests;
mod tile;

use super::pairs::expect_shape;
use crate::device::Device;
use crate::geometry::Windows;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::sync::{Arc, OnceLock};
use tile::{AXES, CHUNK, ENTRY};

/// Runs of queries that forward is cut into, about.
const RUNS: usize = 64;

/// Which position tables follow qkv among the inputs, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionTables {
    /// Tq
    pub query: bool,
    /// Tk
    pub key: bool,
    /// Tv
    pub value: bool,
}

impl PositionTables {
    /// All three.
    pub const ALL: PositionTables = PositionTables {
        query: true,
        key: true,
        value: true,
    };

    /// The input that holds each table.
    fn inputs(self) -> [Option<usize>; 3] {
        let mut next = 1;
        [self.query, self.key, self.value].map(|given| {
            let input = given.then_some(next);
            next += usize::from(given);
            input
        })
    }

    fn count(self) -> usize {
        self.inputs().into_iter().flatten().count()
    }
}

/// Window attention; inputs qkv and the tables.
#[derive(Debug, Clone)]
pub struct WindowAttention {
    windows: Arc<Windows>,
    heads: usize,
    tables: PositionTables,
    /// Positions at which forward on the host is cut into runs of about equal work.
    bounds: OnceLock<Vec<usize>>,
}

/// Sizes of the op at hand.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// C
    channels: usize,
    /// H
    heads: usize,
    /// T, 1 without any table
    rows: usize,
}

impl Sizes {
    /// d = C / H
    fn width(self) -> usize {
        self.channels / self.heads
    }

    /// Chunks that a head is cut into.
    fn chunks(self) -> usize {
        self.width().div_ceil(CHUNK)
    }

    /// What q is multiplied by.
    fn scale(self) -> f32 {
        1.0 / (self.width() as f32).sqrt()
    }

    /// Words of one chunk of the packed tables: [3 axes, T, ENTRY].
    fn chunk_words(self) -> usize {
        AXES * self.rows * ENTRY
    }

    /// Words of the packed tables.
    fn table_words(self) -> usize {
        self.heads * self.chunks() * self.chunk_words()
    }
}

impl WindowAttention {
    /// Attention of `heads` heads in `windows`, with the tables that follow qkv.
    pub fn new(windows: Arc<Windows>, heads: usize, tables: PositionTables) -> Self {
        WindowAttention {
            windows,
            heads,
            tables,
            bounds: OnceLock::new(),
        }
    }

    fn bounds(&self) -> &[usize] {
        self.bounds.get_or_init(|| bounds(&self.windows))
    }

    fn sizes(&self, shape: impl Fn(usize) -> Shape) -> Sizes {
        Sizes {
            channels: shape(0).cols / 3,
            heads: self.heads,
            rows: if self.tables.count() > 0 {
                shape(1).rows
            } else {
                1
            },
        }
    }

    fn check(&self, inputs: &[Shape]) -> Result<Sizes> {
        let fault = |fault: String| Err(Error::shape(self.name(), fault));
        if inputs.len() != 1 + self.tables.count() {
            let count = self.tables.count();
            return fault(format!("needs qkv and {count} tables"));
        }
        let qkv = inputs[0];
        if self.heads == 0 || qkv.cols == 0 || !qkv.cols.is_multiple_of(3 * self.heads) {
            let heads = self.heads;
            return fault(format!("qkv is {qkv}, which is not 3 times {heads} heads"));
        }
        if qkv.rows != self.windows.points() {
            let points = self.windows.points();
            return fault(format!(
                "qkv is {qkv}, but the windows hold {points} points"
            ));
        }
        let sizes = self.sizes(|i| inputs[i]);
        for table in &inputs[1..] {
            let wanted = Shape::new(sizes.rows, qkv.cols);
            expect_shape(self.name(), "a position table", *table, wanted)?;
        }
        let bins = self.windows.quantization.bins();
        if self.tables.count() > 0 && sizes.rows < bins {
            let rows = sizes.rows;
            return fault(format!(
                "tables of {rows} rows, but offsets fall into {bins} bins"
            ));
        }
        Ok(sizes)
    }
}

/// Cuts the positions into runs of about equal work, and large groups at whole tiles.
fn bounds(windows: &Windows) -> Vec<usize> {
    let share = windows.pairs().div_ceil(RUNS).max(1);
    let mut bounds = vec![0];
    let mut work = 0;
    for group in windows.groups() {
        let mut first = group.queries.start;
        while first < group.queries.end {
            let room = (share - work).div_ceil(group.keys());
            let count = room.next_multiple_of(tile::QUERIES);
            let end = (first + count).min(group.queries.end);
            work += (end - first) * group.keys();
            first = end;
            if work >= share {
                bounds.push(end);
                work = 0;
            }
        }
    }
    if bounds.last() != Some(&windows.points()) {
        bounds.push(windows.points());
    }
    bounds
}

impl Op for WindowAttention {
    fn name(&self) -> &'static str {
        "window_attention"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let sizes = self.check(inputs)?;
        let rows = inputs[0].rows;
        Ok(Plan {
            saved: vec![2 * rows * sizes.heads],
            forward_scratch: sizes.table_words(),
            backward_scratch: gradient::scratch(&self.windows, sizes),
            forward_scratch_cuda: cuda::forward_scratch(sizes),
            backward_scratch_cuda: cuda::backward_scratch(&self.windows, sizes),
            reads_inputs: (0..inputs.len()).collect(),
            reads_outputs: vec![0],
            ..Plan::of(Shape::new(rows, sizes.channels))
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::forward(self, gpu, io)?,
            Device::Cpu => cpu::forward(self, io),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::backward(self, gpu, io)?,
            Device::Cpu => gradient::backward(self, io),
        }
        Ok(())
    }
}
