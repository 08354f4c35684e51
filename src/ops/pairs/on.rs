//! Pairs on a GPU.

use crate::Result;
use crate::device::{Gpu, Pointer};
use crate::geometry::Neighbors;

/// Where the pairs of a neighbour table lie on a GPU.
#[derive(Debug, Clone, Copy)]
pub struct PairsOn {
    /// [N·K] rows of the neighbours
    pub index: Pointer,
    /// x, y and z of the offsets, each [N·K]
    pub delta: [Pointer; 3],
    /// N·K
    pub count: usize,
}

impl PairsOn {
    /// The copies on `gpu`, made at first use.
    pub fn new(neighbors: &Neighbors, gpu: Gpu) -> Result<PairsOn> {
        let [x, y, z] = &neighbors.delta;
        Ok(PairsOn {
            index: neighbors.index.on(gpu)?,
            delta: [x.on(gpu)?, y.on(gpu)?, z.on(gpu)?],
            count: neighbors.index.len(),
        })
    }
}
