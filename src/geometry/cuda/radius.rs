//! Neighbours within a radius on a GPU.

use super::{Table, Tree, knn};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::geometry::Choice;
use crate::geometry::knn::MISSING_SQUARED;

kernels!("radius");

/// At most `k` points of `tree` within the squared distance `limit` of every one of them. `k` is in range.
pub fn radius(tree: &Tree, limit: f32, k: usize, choice: Choice) -> Result<Table> {
    if choice == Choice::Nearest {
        // The bits of floats that are not negative are ordered as the floats are.
        let beyond = limit.to_bits() + 1;
        return knn::within(tree, tree, k, beyond.min(MISSING_SQUARED.to_bits()));
    }
    let found = Table::place(tree, tree, k)?;
    let [x, y, z] = found.delta();
    let mut all = super::table::search_args(tree, tree, k)?;
    all.extend(args![limit, found.index(), x, y, z]);
    let kernel = match k {
        ..=knn::NARROW => "radius_narrow",
        _ => "radius_wide",
    };
    let grid = Grid::warps(tree.places());
    tree.cloud.gpu.launch(&KERNELS, kernel, grid, &all)?;
    Ok(found.table())
}
