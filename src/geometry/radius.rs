//! Neighbours within a radius (ball query): the table that kernel point convolution reads.
//!
//! Per point at most K points of the same batch element with (dx² + dy²) + dz² ≤ r² in f32, itself among them. Where
//! there are more than K, a [`Choice`] says which stay; the table depends on nothing but the coordinates.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | [N, 3] | metres |
//! | index | [N, K] | rows of the neighbours, then [`MISSING`] |
//!
//! The reference code of Stratified Transformer keeps the first K in row order on the GPU ([`Choice::First`]) and K at
//! random on the CPU. Of more than [`MAX_NEIGHBORS`] points at one place only those with the lowest rows are looked at,
//! which is enough for either choice.
//!
//! Errors: K of 0 or above [`MAX_NEIGHBORS`], a radius that is not a positive number.

use super::knn::MAX_NEIGHBORS;
use super::search::{parts, within};
use super::tree::{Element, SearchTree, WIDTH};
use super::{MISSING, Neighbors, cuda};
use crate::device::simd::{self, Kernel, Simd};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Query blocks that one task works on.
const TASK: usize = 64;
/// Found rows beyond K at which those that cannot stay are dropped.
const SPARE: usize = 1024;

/// Which points stay when more than K are within the radius.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The first in row order, ascending.
    #[default]
    First,
    /// The nearest, ascending by (distance, row).
    Nearest,
}

/// The neighbours of every point of `coord` within `radius` metres, at most `k`. Errors as the module says, or when the
/// offsets do not fit.
///
/// ```
/// use cairn::geometry::{Choice, MISSING, radius_neighbors};
/// let coord = [[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.5, 0.0, 0.0]];
/// let table = radius_neighbors(&coord, &[0, 3], 0.6, 2, Choice::First)?;
/// assert_eq!(table.index[..], [0, 2, 1, 2, 0, 1]);
/// # Ok::<(), cairn::Error>(())
/// ```
pub fn radius_neighbors(
    coord: &[[f32; 3]],
    offsets: &[usize],
    radius: f32,
    k: usize,
    choice: Choice,
) -> Result<Neighbors> {
    radius_of_tree(coord, &SearchTree::new(coord, offsets)?, radius, k, choice)
}

/// As [`radius_neighbors`] with a tree already built over `coord`.
pub fn radius_of_tree(
    coord: &[[f32; 3]],
    tree: &SearchTree,
    radius: f32,
    k: usize,
    choice: Choice,
) -> Result<Neighbors> {
    let limit = squared_limit(radius, k)?;
    let index = match choice {
        Choice::Nearest => nearest(tree, limit, k)?,
        Choice::First => first(tree, limit, k),
    };
    Neighbors::from_index(k, &index, coord, coord)
}

/// As [`radius_of_tree`], on the GPU that holds the tree.
pub(super) fn radius_on_gpu(
    tree: &cuda::Tree,
    radius: f32,
    k: usize,
    choice: Choice,
) -> Result<Neighbors> {
    let table = cuda::radius(tree, squared_limit(radius, k)?, k, choice)?;
    Ok(Neighbors::of_table(k, table, [tree, tree], None))
}

/// The largest squared distance within `radius`, of a request that can be answered.
fn squared_limit(radius: f32, k: usize) -> Result<f32> {
    if k == 0 || k > MAX_NEIGHBORS {
        return Err(Error::argument(
            "number of neighbours",
            format!("{k} is not in 1..={MAX_NEIGHBORS}"),
        ));
    }
    let squared = radius * radius;
    if !(radius > 0.0 && squared.is_finite()) {
        let fault =
            format!("{radius} m is not a positive number whose square single precision holds");
        return Err(Error::argument("radius", fault));
    }
    Ok(squared)
}

/// The `k` nearest, without those beyond the limit.
fn nearest(tree: &SearchTree, limit: f32, k: usize) -> Result<Vec<u32>> {
    let keys = tree.nearest_keys(tree, k)?;
    let position = tree.positions();
    let mut index = vec![MISSING; keys.len()];
    for (row, out) in index.chunks_exact_mut(k).enumerate() {
        let keys = &keys[position[row] as usize * k..][..k];
        for (slot, &key) in out.iter_mut().zip(keys) {
            let (squared, found) = parts(key);
            if squared <= limit {
                *slot = found;
            }
        }
    }
    Ok(index)
}

/// The first `k` in row order.
fn first(tree: &SearchTree, limit: f32, k: usize) -> Vec<u32> {
    let mut sorted = vec![MISSING; tree.points() * k];
    let mut rest = &mut sorted[..];
    let mut tasks = Vec::new();
    for element in &tree.elements {
        for block in (0..element.blocks.len()).step_by(TASK) {
            let rows = (element.points - block * WIDTH).min(TASK * WIDTH);
            let (out, others) = rest.split_at_mut(rows * k);
            rest = others;
            tasks.push(Task {
                element,
                block,
                limit,
                k,
                out,
            });
        }
    }
    tasks.into_par_iter().for_each(simd::dispatch);
    let mut index = vec![MISSING; sorted.len()];
    for (row, found) in tree.order().into_iter().zip(sorted.chunks_exact(k)) {
        index[row as usize * k..][..k].copy_from_slice(found);
    }
    index
}

/// Neighbours of consecutive query blocks of one element.
struct Task<'a> {
    element: &'a Element,
    /// The first query block; there are as many as `out` has room for.
    block: usize,
    limit: f32,
    k: usize,
    /// [queries, K], all missing.
    out: &'a mut [u32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut near, mut found) = (Vec::new(), Vec::new());
        for (number, rows) in (self.block..).zip(self.out.chunks_mut(WIDTH * self.k)) {
            let block = &self.element.blocks[number];
            collect(s, self.element, block.bounds(), self.limit, &mut near);
            for (lane, out) in rows.chunks_exact_mut(self.k).enumerate() {
                found.clear();
                for &number in &near {
                    take(
                        s,
                        self.element,
                        number,
                        block.point(lane),
                        self.limit,
                        &mut found,
                    );
                    if found.len() >= self.k + SPARE {
                        found.select_nth_unstable(self.k);
                        found.truncate(self.k);
                    }
                }
                if found.len() > self.k {
                    found.select_nth_unstable(self.k);
                    found.truncate(self.k);
                }
                found.sort_unstable();
                out[..found.len()].copy_from_slice(&found);
            }
        }
    }
}

/// Lists the blocks whose gap to the box `low..high` is at most `limit`.
#[inline(always)]
fn collect<S: Simd>(
    s: S,
    element: &Element,
    (low, high): ([f32; 3], [f32; 3]),
    limit: f32,
    near: &mut Vec<u32>,
) {
    near.clear();
    let mut gaps = [0.0; WIDTH];
    let mut waiting = vec![(element.levels.len() - 1, 0)];
    while let Some((level, node)) = waiting.pop() {
        let mut hits = within(s, &element.levels[level][node], low, high, limit, &mut gaps);
        while hits != 0 {
            let child = node * WIDTH + hits.trailing_zeros() as usize;
            hits &= hits - 1;
            match level {
                0 => near.push(child as u32),
                _ => waiting.push((level - 1, child)),
            }
        }
    }
}

/// Appends the rows of a block's points within `limit` of `query`.
#[inline(always)]
fn take<S: Simd>(
    s: S,
    element: &Element,
    number: u32,
    query: [f32; 3],
    limit: f32,
    found: &mut Vec<u32>,
) {
    let block = &element.blocks[number as usize];
    for lane in (0..WIDTH).step_by(S::LANES) {
        let dx = s.sub(s.load(&block.coord[0][lane..]), s.splat(query[0]));
        let dy = s.sub(s.load(&block.coord[1][lane..]), s.splat(query[1]));
        let dz = s.sub(s.load(&block.coord[2][lane..]), s.splat(query[2]));
        let squared = s.add(s.add(s.mul(dx, dx), s.mul(dy, dy)), s.mul(dz, dz));
        let mut hits = s.at_most(squared, s.splat(limit));
        while hits != 0 {
            found.push(block.row[lane + hits.trailing_zeros() as usize]);
            hits &= hits - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::golden::Golden;
    use crate::geometry::shapes;

    fn naive(
        coord: &[[f32; 3]],
        offsets: &[usize],
        radius: f32,
        k: usize,
        choice: Choice,
    ) -> Vec<u32> {
        let mut index = Vec::new();
        for ends in offsets.windows(2) {
            for query in ends[0]..ends[1] {
                let squared = |row: usize| {
                    let [x, y, z]: [f32; 3] =
                        std::array::from_fn(|a| coord[row][a] - coord[query][a]);
                    x * x + y * y + z * z
                };
                let mut rows: Vec<usize> = (ends[0]..ends[1])
                    .filter(|&row| squared(row) <= radius * radius)
                    .collect();
                if choice == Choice::Nearest {
                    rows.sort_by(|&a, &b| squared(a).total_cmp(&squared(b)).then(a.cmp(&b)));
                }
                let found = rows.into_iter().map(|row| row as u32);
                index.extend(found.chain(std::iter::repeat(MISSING)).take(k));
            }
        }
        index
    }

    #[test]
    fn tables_match_the_naive_ones() {
        let clouds = [
            shapes::uniform(1500, 1),
            shapes::room(800, 2),
            Vec::new(),
            shapes::lidar(600, 3),
            shapes::duplicated(900, 300, 4),
            shapes::lattice(6),
        ];
        let (coord, offsets) = shapes::batch(&clouds);
        for (radius, k) in [(0.1, 34), (0.3, 34), (1.0, 128), (1e-6, 3), (2.0, 1)] {
            for choice in [Choice::First, Choice::Nearest] {
                let table = radius_neighbors(&coord, &offsets, radius, k, choice).unwrap();
                let expected = naive(&coord, &offsets, radius, k, choice);
                assert_eq!(table.index[..], expected, "{radius} m, {k} {choice:?}");
            }
        }
    }

    #[test]
    fn the_nearest_are_those_of_the_reference_files() {
        for (file, part, radius) in [
            ("net_stem_transformer", "in.", 0.1),
            ("net_stem_kpconv", "in.", 0.1),
            ("curve_a", "batch0.", 1.5),
            ("curve_a", "batch2.", 1.5),
        ] {
            let golden = Golden::of("stratified", file);
            let (coord, offsets) = (
                golden.points(&format!("{part}coord")),
                golden.offsets(&format!("{part}offset")),
            );
            let table = radius_neighbors(&coord, &offsets, radius, 34, Choice::Nearest).unwrap();
            let expected = golden.i32(&format!("{part}neighbor_idx"));
            for (found, expected) in table.index.chunks(34).zip(expected.chunks(34)) {
                let mut found: Vec<i32> = found.iter().map(|&row| row as i32).collect();
                let mut expected = expected.to_vec();
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected, "{file} {part}");
            }
        }
    }

    #[test]
    fn bad_requests_are_errors() {
        let coord = [[0.0; 3]; 2];
        for (radius, k) in [
            (0.0, 3),
            (-1.0, 3),
            (f32::NAN, 3),
            (f32::INFINITY, 3),
            (1.0, 0),
            (1.0, 129),
        ] {
            assert!(radius_neighbors(&coord, &[0, 2], radius, k, Choice::First).is_err());
        }
        assert!(radius_neighbors(&coord, &[0, 3], 1.0, 3, Choice::First).is_err());
        let none = radius_neighbors(&[], &[0, 0], 1.0, 3, Choice::First).unwrap();
        assert!(none.index.is_empty());
    }
}
