//! Interpolation stencils on a GPU.

use super::{Tree, nearest};
use crate::Result;
use crate::device::Array;
use crate::device::cuda::{Grid, args, kernels};
use crate::geometry::interpolation::{Padding, STENCIL};

kernels!("interpolation");

/// Rows and weights, both [N, 3], of the stencil from `coarse` to `fine`. There is a row to read for every fine point.
pub fn stencil(fine: &Tree, coarse: &Tree, padding: Padding) -> Result<(Array<u32>, Array<f32>)> {
    let gpu = fine.cloud.gpu;
    let (n, rows) = (fine.cloud.coord.len(), coarse.cloud.coord.len());
    let (index, weight) = nearest(coarse, fine, STENCIL)?;
    let last = match padding {
        Padding::LastRow => rows.wrapping_sub(1) as u32,
        Padding::FirstOfElement => crate::geometry::MISSING,
    };
    let args = args![
        n,
        fine.cloud.starts()?,
        coarse.cloud.starts()?,
        fine.cloud.elements() as u32,
        last,
        index.at(),
        weight.at()
    ];
    gpu.launch(&KERNELS, "interpolation_weights", Grid::strided(n), args)?;
    let slots = n * STENCIL;
    Ok((
        Array::of_rows(index, slots, rows),
        Array::of_buffer(weight, slots),
    ))
}
