//! Parallel loops whose results do not depend on the number of threads.
//!
//! Work is cut into chunks whose borders depend on the amount of work only. Reductions add up one partial result per
//! chunk in chunk order. Threads decide who runs a chunk, never what a chunk is.

use rayon::prelude::*;
use std::ops::Range;

/// Most partial results that a reduction over rows keeps; bounds both its scratch memory and its parallelism.
pub const PARTIALS: usize = 16;

/// The `part`-th of `parts` nearly equal ranges of `0..rows`, with borders at multiples of `align`.
pub fn part(rows: usize, parts: usize, align: usize, part: usize) -> Range<usize> {
    let step = rows.div_ceil(parts.max(1)).next_multiple_of(align.max(1));
    (part * step).min(rows)..((part + 1) * step).min(rows)
}

/// Calls `run` for consecutive ranges of `chunk` rows covering `0..rows`, in parallel.
pub fn for_each_chunk(rows: usize, chunk: usize, run: impl Fn(Range<usize>) + Send + Sync) {
    let chunk = chunk.max(1);
    (0..rows.div_ceil(chunk))
        .into_par_iter()
        .for_each(|i| run(i * chunk..((i + 1) * chunk).min(rows)));
}

/// Splits `out` (rows of `width` values) into chunks of `chunk` rows and calls `run(first row, chunk)` for each, in
/// parallel.
pub fn for_each_rows<T: Send>(
    out: &mut [T],
    width: usize,
    chunk: usize,
    run: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    if out.is_empty() || width == 0 {
        return;
    }
    let chunk = chunk.max(1);
    out.par_chunks_mut(chunk * width)
        .enumerate()
        .for_each(|(i, rows)| run(i * chunk, rows));
}

/// Calls `run` for each of `parts` ranges of `0..rows`, each with its own slice of `partials` (`size` values, zeroed
/// here first), in parallel. The caller adds the slices up in order, for instance with [`add_partials`].
pub fn for_each_partial(
    rows: usize,
    align: usize,
    partials: &mut [f32],
    size: usize,
    run: impl Fn(Range<usize>, &mut [f32]) + Send + Sync,
) {
    if size == 0 {
        return;
    }
    let parts = partials.len() / size;
    partials[..parts * size]
        .par_chunks_mut(size)
        .enumerate()
        .for_each(|(i, slot)| {
            slot.fill(0.0);
            run(part(rows, parts, align, i), slot);
        });
}

/// Adds all slices of `size` values in `partials` to `out`, in order.
pub fn add_partials(partials: &[f32], size: usize, out: &mut [f32]) {
    for slot in partials.chunks_exact(size.max(1)) {
        for (y, x) in out.iter_mut().zip(slot) {
            *y += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_row_once() {
        for rows in [0, 1, 15, 16, 17, 1000] {
            let mut seen = vec![0; rows];
            for p in 0..PARTIALS {
                for row in part(rows, PARTIALS, 8, p) {
                    seen[row] += 1;
                }
            }
            assert!(seen.iter().all(|n| *n == 1), "{rows} rows");
        }
    }
}
