//! A neighbour table while kernels fill it, and what all searches in a tree are given.

use super::Tree;
use crate::device::cuda::{Arg, Buffer, args};
use crate::device::{Array, Pointer};
use crate::geometry::knn::check_request;
use crate::{Error, Result};

/// The neighbours of N queries and how they lie, [N, K] each.
#[derive(Debug)]
pub struct Table {
    /// Rows of the points, `MISSING` at the end.
    pub index: Array<u32>,
    /// x, y and z planes of point − query, metres; 0 where missing.
    pub delta: [Array<f32>; 3],
}

/// Room for a table.
pub(super) struct Place {
    index: Buffer,
    delta: [Buffer; 3],
    slots: usize,
    rows: usize,
}

impl Table {
    /// Room for `k` neighbours among `points` for every point of `queries`. Errors as
    /// [`knn`](fn@crate::geometry::knn).
    pub(super) fn place(points: &Tree, queries: &Tree, k: usize) -> Result<Place> {
        let gpu = points.cloud.gpu;
        let slots = slots(points, queries, k)?;
        let plane = || Buffer::new::<f32>(gpu, slots);
        Ok(Place {
            index: Buffer::new::<u32>(gpu, slots)?,
            delta: [plane()?, plane()?, plane()?],
            slots,
            rows: points.cloud.coord.len(),
        })
    }
}

impl Place {
    pub fn index(&self) -> Pointer {
        self.index.at()
    }

    pub fn delta(&self) -> [Pointer; 3] {
        [0, 1, 2].map(|axis: usize| self.delta[axis].at())
    }

    /// The table, once the kernel that fills it is queued.
    pub fn table(self) -> Table {
        Table {
            index: Array::of_rows(self.index, self.slots, self.rows),
            delta: self.delta.map(|plane| Array::of_buffer(plane, self.slots)),
        }
    }
}

/// N·K, for a request that can be answered.
pub(super) fn slots(points: &Tree, queries: &Tree, k: usize) -> Result<usize> {
    let elements = [points, queries].map(|tree| tree.cloud.elements());
    check_request(k, elements, queries.cloud.coord.len())?;
    if u32::try_from(queries.places()).is_err() {
        return Err(Error::argument("queries", "too many; use smaller batches"));
    }
    Ok(queries.cloud.coord.len() * k)
}

/// What every search kernel takes first: both trees and K.
pub(super) fn search_args(points: &Tree, queries: &Tree, k: usize) -> Result<Vec<Arg>> {
    let args = args![
        points.cloud.coord.on(points.cloud.gpu)?,
        points.points.at(),
        points.boxes.at(),
        points.first_blocks()?,
        points.blocks as u32,
        points.levels as u32,
        queries.points.at(),
        queries.first_blocks()?,
        queries.cloud.elements() as u32,
        queries.places() as u32,
        k as u32,
    ];
    Ok(args.to_vec())
}
