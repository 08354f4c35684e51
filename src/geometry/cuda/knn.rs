//! K nearest neighbours on a GPU.

use super::{Table, Tree};
use crate::Result;
use crate::device::cuda::{Arg, Buffer, Grid, args, kernels};
use crate::geometry::knn::MISSING_SQUARED;

kernels!("knn");

/// Neighbours of a warp that holds one each.
pub(super) const NARROW: usize = 32;

/// The `k` nearest of `points` for every point of `queries`. Errors as [`knn`](fn@crate::geometry::knn).
pub fn neighbors(points: &Tree, queries: &Tree, k: usize) -> Result<Table> {
    within(points, queries, k, MISSING_SQUARED.to_bits())
}

/// As [`neighbors`], of points whose squared distances have bits below `bound`, which is not above that of
/// [`MISSING_SQUARED`].
pub(super) fn within(points: &Tree, queries: &Tree, k: usize, bound: u32) -> Result<Table> {
    let found = Table::place(points, queries, k)?;
    let [x, y, z] = found.delta();
    let rest = args![u64::from(bound) << 32, found.index(), None, x, y, z];
    launch(points, queries, k, rest)?;
    Ok(found.table())
}

/// Rows [N, K] and squared distances [N, K] of the `k` nearest of `points` for every point of `queries`.
pub fn nearest(points: &Tree, queries: &Tree, k: usize) -> Result<(Buffer, Buffer)> {
    let gpu = points.cloud.gpu;
    let slots = super::table::slots(points, queries, k)?;
    let (index, squared) = (
        Buffer::new::<u32>(gpu, slots)?,
        Buffer::new::<f32>(gpu, slots)?,
    );
    let none = u64::from(MISSING_SQUARED.to_bits()) << 32;
    let rest = args![none, index.at(), squared.at(), None, None, None];
    launch(points, queries, k, rest)?;
    Ok((index, squared))
}

fn launch(points: &Tree, queries: &Tree, k: usize, rest: &[Arg]) -> Result<()> {
    let args = [&super::table::search_args(points, queries, k)?, rest].concat();
    let kernel = if k <= NARROW {
        "knn_narrow"
    } else {
        "knn_wide"
    };
    let grid = Grid::warps(queries.places());
    points.cloud.gpu.launch(&KERNELS, kernel, grid, &args)
}
