//! K nearest neighbours, exact, within each batch element.
//!
//! For every query the K points with the smallest (d², row), ascending, where d² = (dx·dx + dy·dy) + dz·dz in f32 from
//! direct differences. Equally distant points are taken in row order, so the answer depends on nothing but the
//! coordinates: not on threads, the search structure or the device.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | points, queries | [N, 3], [M, 3] | metres; often the same cloud, and then a point finds itself first |
//! | index | [M, K] | rows of `points`; `MISSING` where the element has fewer than K points |
//! | squared | [M, K] | squared distances, m²; 1e10 where missing |
//!
//! Points 1e5 m or farther away are never found (Point Transformer V2's reference code starts its heap with that
//! distance). K is at most [`MAX_NEIGHBORS`].
//!
//! Method: queries are taken 16 at a time, one block of their own [`SearchTree`]. The largest K-th distance of the
//! block before is the guess for this one; all blocks of points within it of the query block are collected once and
//! each query picks from them. A query that finds fewer than K within the guess, or whose surroundings are too dense
//! for it, walks the tree alone, nearest boxes first.

use super::cuda;
use super::ragged::check_length;
use super::search::{Task, parts};
use super::tree::{SearchTree, WIDTH};
use crate::device::{Device, simd};
use crate::{Error, Result};
use rayon::prelude::*;

/// Largest number of neighbours that can be asked for.
pub const MAX_NEIGHBORS: usize = 128;
/// Squared distance of a neighbour that does not exist: (1e5 m)².
pub const MISSING_SQUARED: f32 = 1e10;
/// Query blocks that one task works on.
const TASK: usize = 64;

/// The K nearest points of each query.
#[derive(Debug, Clone, PartialEq)]
pub struct Knn {
    /// Neighbours per query.
    pub k: usize,
    /// [M, K] row-major: rows of the points, nearest first, `MISSING` at the end.
    pub index: Vec<u32>,
    /// [M, K] row-major: squared distances, m²; [`MISSING_SQUARED`] where missing.
    pub squared: Vec<f32>,
}

impl Knn {
    /// Distances, metres: 1e5 where missing.
    pub fn distances(&self) -> Vec<f32> {
        self.squared.iter().map(|d2| d2.sqrt()).collect()
    }
}

/// Nearest neighbours of `queries` among `points`, both batches with the same number of elements.
///
/// Builds both trees; a caller that asks more than once keeps them and calls [`SearchTree::nearest`]. Errors when
/// offsets do not fit, the numbers of elements differ, or K is 0 or larger than [`MAX_NEIGHBORS`].
///
/// ```
/// use cairn::geometry::{MISSING, knn};
/// let points = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 3.0, 0.0]];
/// let found = knn(&points, &[0, 3], &[[0.9, 0.0, 0.0]], &[0, 1], 4)?;
/// assert_eq!(found.index, [1, 0, 2, MISSING]);
/// # Ok::<(), cairn::Error>(())
/// ```
pub fn knn(
    points: &[[f32; 3]],
    offsets: &[usize],
    queries: &[[f32; 3]],
    query_offsets: &[usize],
    k: usize,
) -> Result<Knn> {
    let points = SearchTree::new(points, offsets)?;
    points.nearest(&SearchTree::new(queries, query_offsets)?, k)
}

/// As [`knn`](fn@knn) of two batches, points with their offsets, on `device`.
pub fn knn_on(
    device: Device,
    points: (&[[f32; 3]], &[usize]),
    queries: (&[[f32; 3]], &[usize]),
    k: usize,
) -> Result<Knn> {
    let Device::Cuda(gpu) = device else {
        return knn(points.0, points.1, queries.0, queries.1, k);
    };
    let (points, queries) = (
        cuda::Tree::of(gpu, points.0, points.1)?,
        cuda::Tree::of(gpu, queries.0, queries.1)?,
    );
    let (index, squared) = cuda::nearest(&points, &queries, k)?;
    let slots = queries.cloud.coord.len() * k;
    Ok(Knn {
        k,
        index: index.read(slots)?,
        squared: squared.read(slots)?,
    })
}

impl SearchTree {
    /// The `k` nearest points of this tree for every point of `queries`, in the row order of `queries`; the tree itself
    /// may be asked about its own points. Errors as [`knn`](fn@knn).
    pub fn nearest(&self, queries: &SearchTree, k: usize) -> Result<Knn> {
        let sorted = self.nearest_keys(queries, k)?;
        let position = queries.positions();
        let (mut index, mut squared) = (vec![0; sorted.len()], vec![0.0; sorted.len()]);
        index
            .par_chunks_mut(k)
            .zip(squared.par_chunks_mut(k))
            .zip(position.par_iter())
            .with_min_len(1024)
            .for_each(|((index, squared), &position)| {
                let keys = &sorted[position as usize * k..][..k];
                for ((index, squared), &key) in index.iter_mut().zip(squared).zip(keys) {
                    (*squared, *index) = parts(key);
                }
            });
        Ok(Knn { k, index, squared })
    }

    /// As [`SearchTree::nearest`], but in the tree order of `queries` and as keys, see [`key`].
    pub(super) fn nearest_keys(&self, queries: &SearchTree, k: usize) -> Result<Vec<u64>> {
        let elements = [self.elements.len(), queries.elements.len()];
        check_request(k, elements, queries.points())?;
        let mut keys = vec![0; queries.points() * k];
        let mut rest = &mut keys[..];
        let mut tasks = Vec::new();
        for (points, queries) in self.elements.iter().zip(&queries.elements) {
            for first in (0..queries.blocks.len()).step_by(TASK) {
                let rows = (queries.points - first * WIDTH).min(TASK * WIDTH);
                let (mine, others) = rest.split_at_mut(rows * k);
                rest = others;
                tasks.push(Task {
                    points,
                    queries,
                    first,
                    k,
                    out: mine,
                });
            }
        }
        tasks.into_par_iter().for_each(simd::dispatch);
        Ok(keys)
    }

    /// For every row its position in tree order.
    pub(super) fn positions(&self) -> Vec<u32> {
        let mut positions = vec![0; self.points()];
        for (position, row) in self.order().into_iter().enumerate() {
            positions[row as usize] = position as u32;
        }
        positions
    }
}

/// Errors unless K is in range, points and queries have as many elements, and all slots can be numbered.
pub(super) fn check_request(k: usize, elements: [usize; 2], queries: usize) -> Result<()> {
    if k == 0 || k > MAX_NEIGHBORS {
        return Err(Error::argument(
            "number of neighbours",
            format!("{k} is not in 1..={MAX_NEIGHBORS}"),
        ));
    }
    if elements[0] != elements[1] {
        return Err(Error::argument(
            "batch offsets",
            format!(
                "{} elements of points but {} of queries",
                elements[0], elements[1]
            ),
        ));
    }
    check_length("queries times neighbours", queries.saturating_mul(k))
}

#[cfg(test)]
#[path = "knn_tests.rs"]
mod tests;
