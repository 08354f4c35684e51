//! K nearest neighbours, exact, within each batch element.
//!
//! For every query the K points with the smallest (d², row), ascending, where d² = (dx·dx + dy·dy) + dz·dz in f32 from
//! direct differences. Equally distant points are taken in row order, so the answer depends on nothing but the
//! coordinates: not on threads, the search structure or the device.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | points, queries | [N, 3], [M, 3] | metres; often the same cloud, and then a point finds itself first |
//! | index | [M, K] | rows of `points`; [`MISSING`] where the element has fewer than K points |
//! | squared | [M, K] | squared distances, m²; 1e10 where missing |
//!
//! Points 1e5 m or farther away are never found (Point Transformer V2's reference code starts its heap with that
//! distance). K is at most [`MAX_NEIGHBORS`].
//!
//! Method: queries are taken 16 at a time, one block of their own [`SearchTree`]. The largest K-th distance of the
//! block before is the guess for this one; all blocks of points within it of the query block are collected once and
//! each query picks from them. A query that finds fewer than K within the guess, or whose surroundings are too dense
//! for it, walks the tree alone, nearest boxes first.

use super::MISSING;
use super::ragged::check_length;
use super::tree::{Element, SearchTree, WIDTH};
use crate::{Error, Result};
use rayon::prelude::*;

/// Largest number of neighbours that can be asked for.
pub const MAX_NEIGHBORS: usize = 128;
/// Squared distance of a neighbour that does not exist: (1e5 m)².
pub const MISSING_SQUARED: f32 = 1e10;
/// Query blocks that one task works on.
const TASK: usize = 64;
/// Most blocks of points that are collected for one block of queries before each query walks alone.
const CROWD: usize = 96;
/// How far beyond the last largest squared distance the next block looks.
const MARGIN: f32 = 1.1;
/// Up to this many keys are put in order by counting the smaller ones.
const COUNTED: usize = 64;

/// The K nearest points of each query.
#[derive(Debug, Clone, PartialEq)]
pub struct Knn {
    /// Neighbours per query.
    pub k: usize,
    /// [M, K] row-major: rows of the points, nearest first, [`MISSING`] at the end.
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
        if k == 0 || k > MAX_NEIGHBORS {
            return Err(Error::argument(
                "number of neighbours",
                format!("{k} is not in 1..={MAX_NEIGHBORS}"),
            ));
        }
        if self.elements.len() != queries.elements.len() {
            return Err(Error::argument(
                "batch offsets",
                format!(
                    "{} elements of points but {} of queries",
                    self.elements.len(),
                    queries.elements.len()
                ),
            ));
        }
        check_length(
            "queries times neighbours",
            queries.points().saturating_mul(k),
        )?;
        let mut keys = vec![0; queries.points() * k];
        let mut rest = &mut keys[..];
        let mut tasks = Vec::new();
        for (points, queries) in self.elements.iter().zip(&queries.elements) {
            for first in (0..queries.blocks.len()).step_by(TASK) {
                let rows = (queries.points - first * WIDTH).min(TASK * WIDTH);
                let (mine, others) = rest.split_at_mut(rows * k);
                rest = others;
                tasks.push((points, queries, first, mine));
            }
        }
        tasks
            .into_par_iter()
            .for_each(|(points, queries, first, out)| {
                Search::new(points, k).run(queries, first, out)
            });
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

/// Distance and row as one number, which orders by distance, then by row.
#[inline(always)]
fn key(squared: f32, row: u32) -> u64 {
    // The bits of floats that are not negative are ordered as the floats are.
    u64::from(squared.to_bits()) << 32 | u64::from(row)
}

/// Squared distance and row of a key.
#[inline(always)]
pub(super) fn parts(key: u64) -> (f32, u32) {
    (f32::from_bits((key >> 32) as u32), key as u32)
}

/// The largest squared distance that counts as found: the float just below [`MISSING_SQUARED`].
fn farthest() -> f32 {
    MISSING_SQUARED.next_down()
}

/// A search for neighbours among the points of one element, with its scratch memory.
struct Search<'a> {
    points: &'a Element,
    k: usize,
    /// Blocks of points near the query block at hand.
    near: Vec<u32>,
    /// Keys of points found for the query at hand.
    keys: Vec<u64>,
}

impl<'a> Search<'a> {
    fn new(points: &'a Element, k: usize) -> Search<'a> {
        Search {
            points,
            k,
            near: Vec::with_capacity(CROWD + WIDTH),
            keys: Vec::with_capacity(CROWD * WIDTH),
        }
    }

    /// Answers consecutive blocks of queries from `first` on, as many as `out` has room for.
    fn run(&mut self, queries: &Element, first: usize, out: &mut [u64]) {
        let mut guess = None;
        for (number, rows) in (first..).zip(out.chunks_mut(WIDTH * self.k)) {
            let block = &queries.blocks[number];
            let mut reach = 0.0f32;
            let collected = match guess {
                Some(limit) => {
                    let (low, high) = block.bounds();
                    self.near.clear();
                    let top = self.points.levels.len() - 1;
                    collect(self.points, (top, 0), (low, high), limit, &mut self.near)
                        .then_some(limit)
                }
                None => None,
            };
            for (lane, out) in rows.chunks_exact_mut(self.k).enumerate() {
                let query = block.point(lane);
                let settled = collected.is_some_and(|limit| self.pick(query, limit, out));
                if !settled {
                    self.walk(query, out);
                }
                reach = reach.max(parts(out[self.k - 1]).0);
            }
            guess = Some((reach * MARGIN).min(farthest()));
        }
    }

    /// Takes the neighbours of `query` from the collected blocks; false when they may lie beyond `limit`.
    #[inline(always)]
    fn pick(&mut self, query: [f32; 3], limit: f32, out: &mut [u64]) -> bool {
        self.keys.clear();
        for &number in &self.near {
            push_within(self.points, number, query, limit, &mut self.keys);
        }
        if self.keys.len() < self.k && limit < farthest() {
            return false;
        }
        smallest(&mut self.keys, out);
        true
    }

    /// Finds the neighbours of `query` from the root of the tree.
    fn walk(&mut self, query: [f32; 3], out: &mut [u64]) {
        self.keys.clear();
        let mut walk = Walk {
            points: self.points,
            k: self.k,
            query,
            limit: farthest(),
            keys: &mut self.keys,
        };
        if query.iter().all(|x| x.is_finite()) {
            walk.node(self.points.levels.len() - 1, 0);
        }
        smallest(&mut self.keys, out);
    }
}

/// Lists the blocks under node `number` of `level` whose gap to the box `low..high` is at most `limit`; false as soon as
/// they are more than [`CROWD`].
fn collect(
    points: &Element,
    (level, number): (usize, usize),
    (low, high): ([f32; 3], [f32; 3]),
    limit: f32,
    near: &mut Vec<u32>,
) -> bool {
    let Some(boxes) = points.levels[level].get(number) else {
        return true; // an element without points has no node at all
    };
    let mut hits = mask(&boxes.gaps(low, high), limit);
    while hits != 0 {
        let child = number * WIDTH + hits.trailing_zeros() as usize;
        hits &= hits - 1;
        if level == 0 {
            near.push(child as u32);
        } else if !collect(points, (level - 1, child), (low, high), limit, near) {
            return false;
        }
    }
    near.len() <= CROWD
}

/// One bit per lane that is at most `limit`.
#[inline(always)]
fn mask(lanes: &[f32; WIDTH], limit: f32) -> u32 {
    let mut bits = 0;
    for (lane, value) in lanes.iter().enumerate() {
        bits |= u32::from(*value <= limit) << lane;
    }
    bits
}

/// Appends the keys of the points of block `number` that are within `limit` of `query`.
#[inline(always)]
fn push_within(points: &Element, number: u32, query: [f32; 3], limit: f32, keys: &mut Vec<u64>) {
    let block = &points.blocks[number as usize];
    let squared = block.squared(query);
    let mut hits = mask(&squared, limit);
    while hits != 0 {
        let lane = hits.trailing_zeros() as usize % WIDTH;
        keys.push(key(squared[lane], block.row[lane]));
        hits &= hits - 1;
    }
}

/// A search for the neighbours of a single query.
struct Walk<'a> {
    points: &'a Element,
    k: usize,
    query: [f32; 3],
    /// Squared distance of the K-th nearest so far: nothing beyond can matter.
    limit: f32,
    keys: &'a mut Vec<u64>,
}

impl Walk<'_> {
    fn node(&mut self, level: usize, number: usize) {
        let Some(boxes) = self.points.levels[level].get(number) else {
            return;
        };
        let gaps = boxes.gaps(self.query, self.query);
        let mut hits = mask(&gaps, self.limit);
        let (mut children, mut count) = ([(0.0, 0); WIDTH], 0);
        while hits != 0 {
            let lane = hits.trailing_zeros() as usize % WIDTH;
            hits &= hits - 1;
            let mut at = count;
            while at > 0 && children[at - 1].0 > gaps[lane] {
                children[at] = children[at - 1];
                at -= 1;
            }
            children[at] = (gaps[lane], number * WIDTH + lane);
            count += 1;
        }
        for &(gap, child) in &children[..count] {
            if gap > self.limit {
                break;
            }
            if level > 0 {
                self.node(level - 1, child);
            } else {
                self.block(child as u32);
            }
        }
    }

    fn block(&mut self, number: u32) {
        push_within(self.points, number, self.query, self.limit, self.keys);
        if self.keys.len() >= self.k {
            self.keys.select_nth_unstable(self.k - 1);
            self.keys.truncate(self.k);
            self.limit = parts(self.keys[self.k - 1]).0;
        }
    }
}

/// Writes the smallest keys to `out`, ascending, and fills what is left with missing neighbours.
#[inline(always)]
fn smallest(keys: &mut [u64], out: &mut [u64]) {
    let found = keys.len().min(out.len());
    if keys.len() <= COUNTED {
        let mut rank = [0u64; COUNTED];
        for &other in &*keys {
            for (rank, &key) in rank.iter_mut().zip(&*keys) {
                *rank += u64::from(other < key);
            }
        }
        for (&rank, &key) in rank.iter().zip(&*keys) {
            if let Some(slot) = out.get_mut(rank as usize) {
                *slot = key;
            }
        }
    } else {
        if found < keys.len() {
            keys.select_nth_unstable(found);
        }
        out[..found].copy_from_slice(&keys[..found]);
        out[..found].sort_unstable();
    }
    out[found..].fill(key(MISSING_SQUARED, MISSING));
}

#[cfg(test)]
#[path = "knn_tests.rs"]
mod tests;
