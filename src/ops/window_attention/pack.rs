//! Position tables in the order in which the tiles read them, and their gradients back.
//!
//! Packed: [H, chunks of a head, 3 axes, T, ENTRY], where an entry is a chunk of the rows of Tq, Tk and Tv side by side,
//! zero behind the end of the head and where a table is left out.

use super::Sizes;
use super::tile::{AXES, CHUNK, ENTRY};
use crate::device::parallel;

/// Packs the tables ([T, H, d, 3] each).
pub(super) fn pack(sizes: Sizes, tables: [Option<&[f32]>; 3], packed: &mut [f32]) {
    let width = sizes.width();
    parallel::for_each_rows(packed, sizes.chunk_words(), 1, |first, packed| {
        let (head, chunk) = (first / sizes.chunks(), first % sizes.chunks());
        let channels = (width - chunk * CHUNK).min(CHUNK);
        packed.fill(0.0);
        for (t, table) in tables.iter().enumerate() {
            let Some(table) = table else { continue };
            for row in 0..sizes.rows {
                let from = ((row * sizes.heads + head) * width + chunk * CHUNK) * AXES;
                let values = &table[from..from + channels * AXES];
                for axis in 0..AXES {
                    let to = (axis * sizes.rows + row) * ENTRY + t * CHUNK;
                    let entry = &mut packed[to..to + channels];
                    let values = values[axis..].iter().step_by(AXES);
                    entry.iter_mut().zip(values).for_each(|(y, x)| *y = *x);
                }
            }
        }
    });
}

/// Adds the sum of `partials` (packed gradients, one after another, `stride` words apart) to the gradient of table `t`.
pub(super) fn add_unpacked(sizes: Sizes, t: usize, partials: &[&[f32]], d_table: &mut [f32]) {
    let width = sizes.width();
    let row_words = sizes.heads * width * AXES;
    parallel::for_each_rows(d_table, row_words, 4, |first, rows| {
        for (row, out) in rows.chunks_exact_mut(row_words).enumerate() {
            for (head, out) in out.chunks_exact_mut(width * AXES).enumerate() {
                for (chunk, out) in out.chunks_mut(CHUNK * AXES).enumerate() {
                    let start = (head * sizes.chunks() + chunk) * sizes.chunk_words();
                    for axis in 0..AXES {
                        let from = start + (axis * sizes.rows + first + row) * ENTRY + t * CHUNK;
                        let mut sum = [0.0; CHUNK];
                        for partial in partials {
                            let values = &partial[from..from + CHUNK];
                            sum.iter_mut().zip(values).for_each(|(y, x)| *y += x);
                        }
                        let out = out[axis..].iter_mut().step_by(AXES);
                        out.zip(sum).for_each(|(y, x)| *y += x);
                    }
                }
            }
        }
    });
}
