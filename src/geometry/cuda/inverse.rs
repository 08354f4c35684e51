//! Inverse lists on a GPU: a stable sort of the entries by row puts the places of each row side by side, ascending.

use super::sorted;
use crate::Result;
use crate::device::cuda::{Buffer, Grid, args, kernels, sort};
use crate::device::{Array, Gpu};
use crate::geometry::Ragged;

kernels!("inverse");

/// Turns `index` around, as [`Ragged::inverse`]. Its entries are below `rows` or `MISSING`; how many those are is counted
/// where the caller does not know it, and the host waits for the number.
pub fn inverse(
    gpu: Gpu,
    index: &Array<u32>,
    rows: usize,
    missing: Option<usize>,
) -> Result<Ragged> {
    let count = index.len();
    let sort = sort::Sort {
        count,
        key: sort::Key::Bits32,
        // Wide enough for `rows` itself, so that the low bits of MISSING, all set, still come after every row.
        bits: u32::BITS - (rows as u32).leading_zeros(),
    };
    let entries = sorted(gpu, index.on(gpu)?, sort)?;
    let offsets = Buffer::new::<u32>(gpu, rows + 1)?;
    let args = args![entries.keys.at(), count, rows as u32, offsets.at()];
    gpu.launch(&KERNELS, "inverse_offsets", Grid::strided(count + 1), args)?;
    let listed = match missing {
        Some(missing) => count - missing,
        None => offsets.read_word(rows)? as usize,
    };
    Ok(Ragged {
        offsets: Array::of_rows(offsets, rows + 1, listed + 1),
        index: Array::of_rows(entries.order, listed, count),
    })
}
