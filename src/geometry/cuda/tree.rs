//! Search tree on a GPU.
//!
//! The points of each element lie along a Morton curve in blocks of 32; 32 blocks, and 32 nodes of a level, share a box.
//! Density may vary by any factor as long as few points share one of the 2^16 cells along the longest side of an element:
//! those stay in the order of their rows, and every query near them looks at all of them. Points that coincide are no
//! such case, since boxes know their lowest row.

use super::cloud::starts_of;
use super::{Cloud, sorted};
use crate::Result;
use crate::device::cuda::{Buffer, Grid, args, kernels, sort};
use crate::device::{Array, Gpu, Pointer};
use std::sync::Arc;

kernels!("tree");

/// Points of a block and children of a node.
const WIDTH: usize = 32;
/// Bits of a place on the curve.
const CURVE: u32 = 48;

/// A search tree over the points of a batch.
#[derive(Debug)]
pub struct Tree {
    pub cloud: Arc<Cloud>,
    /// [M, 32] x, y, z and row.
    pub points: Buffer,
    /// Boxes of all levels, the blocks' first.
    pub boxes: Buffer,
    /// M: number of blocks.
    pub blocks: usize,
    /// Number of levels; at least one.
    pub levels: usize,
    first_blocks: Array<u32>,
}

impl Tree {
    /// Builds the tree of a cloud.
    pub fn new(cloud: Arc<Cloud>) -> Result<Tree> {
        let (gpu, n) = (cloud.gpu, cloud.coord.len());
        let (coord, starts) = (cloud.coord.on(gpu)?, cloud.starts()?);
        let keys = Buffer::new::<u64>(gpu, n)?;
        let args = args![coord, starts, cloud.bounds(), keys.at()];
        gpu.launch(&KERNELS, "tree_keys", cloud.grid(), args)?;
        let sort = sort::Sort {
            count: n,
            key: sort::Key::Bits64,
            bits: CURVE + cloud.elements().next_power_of_two().trailing_zeros(),
        };
        let order = sorted(gpu, keys.at(), sort)?.order;
        let mut first_blocks = vec![0];
        for ends in cloud.offsets.windows(2) {
            let before = first_blocks[first_blocks.len() - 1];
            first_blocks.push(before + Tree::blocks_of(ends[1] - ends[0]));
        }
        let blocks = first_blocks[cloud.elements()];
        let counts = level_counts(blocks);
        let tree = Tree {
            points: Buffer::new::<[f32; 4]>(gpu, WIDTH * blocks)?,
            boxes: Buffer::new::<[f32; 7]>(gpu, counts.iter().sum())?,
            blocks,
            levels: counts.len(),
            first_blocks: starts_of(&first_blocks),
            cloud,
        };
        let args = args![
            coord,
            order.at(),
            starts,
            tree.first_blocks()?,
            tree.cloud.elements() as u32,
            blocks as u32,
            tree.points.at(),
            tree.boxes.at()
        ];
        gpu.launch(&KERNELS, "tree_blocks", Grid::warps(blocks), args)?;
        let mut below = tree.boxes.at();
        for counts in counts.windows(2) {
            let above = below.offset(7 * counts[0]);
            let args = args![below, counts[0] as u32, counts[1] as u32, above];
            gpu.launch(&KERNELS, "tree_level", Grid::warps(counts[1]), args)?;
            below = above;
        }
        Ok(tree)
    }

    /// The tree of points that a caller holds. Errors also when `offsets` do not describe `coord`.
    pub fn of(gpu: Gpu, coord: &[[f32; 3]], offsets: &[usize]) -> Result<Tree> {
        Tree::new(Arc::new(Cloud::of(gpu, coord, offsets)?))
    }

    /// [B + 1] where the elements start among the blocks.
    pub fn first_blocks(&self) -> Result<Pointer> {
        self.first_blocks.on(self.cloud.gpu)
    }

    /// Blocks of an element of `points` points.
    pub fn blocks_of(points: usize) -> usize {
        points.div_ceil(WIDTH)
    }

    /// Number of points that the blocks have room for.
    pub fn places(&self) -> usize {
        WIDTH * self.blocks
    }
}

/// Boxes of each level, down to one node of 32.
fn level_counts(blocks: usize) -> Vec<usize> {
    let mut counts = vec![blocks];
    while counts[counts.len() - 1] > WIDTH {
        counts.push(counts[counts.len() - 1].div_ceil(WIDTH));
    }
    counts
}
