//! The neighbour search itself, as one SIMD kernel: a task answers consecutive blocks of queries of one element.
//!
//! Blocks near the query block are collected once, each query packs the points within the limit side by side, and the
//! K smallest are put in order by counting, for each, how many are smaller. Queries for which that fails walk the tree.

use super::MISSING;
use super::knn::{MAX_NEIGHBORS, MISSING_SQUARED};
use super::tree::{Block, Boxes, Element, WIDTH};
use crate::device::simd::{Kernel, Simd};

/// Most blocks of points that are collected for one block of queries before each query walks alone.
const CROWD: usize = 96;
/// How far beyond the last largest squared distance the next block looks.
const MARGIN: f32 = 1.1;
/// The same for the first block of a task, of which only one query was asked before.
const FIRST_MARGIN: f32 = 1.5;
/// Up to this many candidates are put in order by counting; a multiple of [`WIDTH`].
const COUNTED: usize = 128;
/// Candidates beyond K that a walk gathers before it drops the farthest.
const SPARE: usize = WIDTH;
/// Most candidates of a walk.
const WALKED: usize = MAX_NEIGHBORS + SPARE + WIDTH;
/// Entries of the stack of a walk: at most 15 waiting children at each of the 7 levels that 2^32 points need, and 16.
const STACK: usize = 128;

/// Neighbours of consecutive queries of one element, among the points of one element.
pub(super) struct Task<'a> {
    pub points: &'a Element,
    pub queries: &'a Element,
    /// The first query block; there are as many as `out` has room for.
    pub first: usize,
    pub k: usize,
    /// [queries, K] keys, see [`key`].
    pub out: &'a mut [u64],
}

/// Distance and row as one number, which orders by distance, then by row.
#[inline(always)]
pub(super) fn key(squared: f32, row: u32) -> u64 {
    // The bits of floats that are not negative are ordered as the floats are.
    u64::from(squared.to_bits()) << 32 | u64::from(row)
}

/// Squared distance and row of a key.
#[inline(always)]
pub(super) fn parts(key: u64) -> (f32, u32) {
    (f32::from_bits((key >> 32) as u32), key as u32)
}

/// The largest squared distance that counts as found.
#[inline(always)]
fn farthest() -> f32 {
    MISSING_SQUARED.next_down()
}

/// Points found for the query at hand. Both lists have room for a whole block after the last entry.
struct Candidates {
    squared: Vec<f32>,
    row: Vec<u32>,
    count: usize,
    /// Keys on their way into order.
    slots: [u64; COUNTED],
}

/// A slot without a key; keys are of finite distances.
const OPEN: u64 = u64::MAX;

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (points, k) = (self.points, self.k);
        let mut near = Vec::with_capacity(CROWD + WIDTH);
        let mut found = Candidates {
            squared: vec![0.0; (CROWD + 2) * WIDTH],
            row: vec![0; (CROWD + 2) * WIDTH],
            count: 0,
            slots: [OPEN; COUNTED],
        };
        // A first look around the first query tells how dense the points are here.
        let first = self.queries.blocks[self.first].point(0);
        walk(s, points, first, k, &mut found);
        found.smallest(s, &mut self.out[..k]);
        let mut limit = (parts(self.out[k - 1]).0 * FIRST_MARGIN).min(farthest());
        for (number, rows) in (self.first..).zip(self.out.chunks_mut(WIDTH * k)) {
            let block = &self.queries.blocks[number];
            let collected = collect(s, points, block.bounds(), limit, &mut near);
            let mut reach = 0.0f32;
            for (lane, out) in rows.chunks_exact_mut(k).enumerate() {
                let query = block.point(lane);
                let mut settled = false;
                if collected {
                    found.count = 0;
                    for &number in &near {
                        take(s, &points.blocks[number as usize], query, limit, &mut found);
                    }
                    settled = found.count >= k || limit == farthest();
                }
                if !settled {
                    walk(s, points, query, k, &mut found);
                }
                found.smallest(s, out);
                reach = reach.max(parts(out[k - 1]).0);
            }
            limit = (reach * MARGIN).min(farthest());
        }
    }
}

/// Lists the blocks whose gap to the box `low..high` is at most `limit`; false when they are more than [`CROWD`], or the
/// box is not finite.
#[inline(always)]
fn collect<S: Simd>(
    s: S,
    points: &Element,
    (low, high): ([f32; 3], [f32; 3]),
    limit: f32,
    near: &mut Vec<u32>,
) -> bool {
    near.clear();
    if !(is_finite(low) && is_finite(high)) {
        return false;
    }
    let mut gaps = [0.0; WIDTH];
    let mut stack = [(0, 0); STACK];
    let mut waiting = push_root(points, &mut stack, (points.levels.len() - 1, 0));
    while waiting > 0 {
        waiting -= 1;
        let (level, node) = stack[waiting];
        let mut hits = within(s, &points.levels[level][node], low, high, limit, &mut gaps);
        while hits != 0 {
            let child = node * WIDTH + hits.trailing_zeros() as usize;
            hits &= hits - 1;
            if level == 0 {
                near.push(child as u32);
            } else {
                stack[waiting] = (level - 1, child);
                waiting += 1;
            }
        }
        if near.len() > CROWD {
            return false;
        }
    }
    true
}

/// Finds the neighbours of one query from the root of the tree, nearest boxes first.
#[inline(always)]
fn walk<S: Simd>(s: S, points: &Element, query: [f32; 3], k: usize, found: &mut Candidates) {
    found.count = 0;
    if !is_finite(query) {
        return;
    }
    // Squared distance of the K-th nearest so far: nothing beyond can matter.
    let mut limit = farthest();
    let mut full = k;
    let mut gaps = [0.0; WIDTH];
    let mut stack = [(0, 0, 0.0); STACK];
    let mut waiting = push_root(points, &mut stack, (points.levels.len() - 1, 0, 0.0));
    while waiting > 0 {
        waiting -= 1;
        let (level, node, gap) = stack[waiting];
        if gap > limit {
            continue;
        }
        if level == BLOCK {
            take(s, &points.blocks[node], query, limit, found);
            if found.count >= full {
                limit = found.shrink(k);
                full = k + SPARE;
            }
            continue;
        }
        let below = if level == 0 { BLOCK } else { level - 1 };
        let mut hits = within(
            s,
            &points.levels[level][node],
            query,
            query,
            limit,
            &mut gaps,
        );
        let bottom = waiting;
        while hits != 0 {
            let lane = hits.trailing_zeros() as usize % WIDTH;
            hits &= hits - 1;
            // Farthest at the bottom, so that the nearest is taken first.
            let mut at = waiting;
            while at > bottom && stack[at - 1].2 < gaps[lane] {
                stack[at] = stack[at - 1];
                at -= 1;
            }
            stack[at] = (below, node * WIDTH + lane, gaps[lane]);
            waiting += 1;
        }
    }
}

/// Level of a block of points, below level 0 of the boxes.
const BLOCK: usize = usize::MAX;

/// Puts the root on the stack unless the element has no points; gives the number of entries.
#[inline(always)]
fn push_root<T>(points: &Element, stack: &mut [T; STACK], root: T) -> usize {
    stack[0] = root;
    usize::from(!points.blocks.is_empty())
}

#[inline(always)]
fn is_finite(p: [f32; 3]) -> bool {
    p[0].is_finite() && p[1].is_finite() && p[2].is_finite()
}

/// Writes the squared gaps between the children and the box `low..high`; gives one bit per child within `limit`.
#[inline(always)]
pub(super) fn within<S: Simd>(
    s: S,
    boxes: &Boxes,
    low: [f32; 3],
    high: [f32; 3],
    limit: f32,
    gaps: &mut [f32; WIDTH],
) -> u32 {
    let mut hits = 0;
    for lane in (0..WIDTH).step_by(S::LANES) {
        let mut squares = [s.zero(); 3];
        for axis in 0..3 {
            let below = s.sub(s.splat(low[axis]), s.load(&boxes.high[axis][lane..]));
            let above = s.sub(s.load(&boxes.low[axis][lane..]), s.splat(high[axis]));
            let gap = s.max(s.max(below, above), s.zero());
            squares[axis] = s.mul(gap, gap);
        }
        let gap = s.add(s.add(squares[0], squares[1]), squares[2]);
        s.store(&mut gaps[lane..], gap);
        hits |= s.at_most(gap, s.splat(limit)) << lane;
    }
    hits
}

/// Adds the points of `block` within `limit` of `query` to the candidates: (dx² + dy²) + dz² of direct differences.
#[inline(always)]
fn take<S: Simd>(s: S, block: &Block, query: [f32; 3], limit: f32, found: &mut Candidates) {
    for lane in (0..WIDTH).step_by(S::LANES) {
        let dx = s.sub(s.load(&block.coord[0][lane..]), s.splat(query[0]));
        let dy = s.sub(s.load(&block.coord[1][lane..]), s.splat(query[1]));
        let dz = s.sub(s.load(&block.coord[2][lane..]), s.splat(query[2]));
        let squared = s.add(s.add(s.mul(dx, dx), s.mul(dy, dy)), s.mul(dz, dz));
        let hits = s.at_most(squared, s.splat(limit));
        let at = found.count;
        let (out, rows) = (&mut found.squared[at..], &mut found.row[at..]);
        s.pack(hits, squared, &block.row[lane..], out, rows);
        found.count = at + hits.count_ones() as usize;
    }
}

impl Candidates {
    /// Drops all but the `k` smallest, in any order; the squared distance of the k-th.
    fn shrink(&mut self, k: usize) -> f32 {
        let mut keys = [0; WALKED];
        for (slot, key_) in keys[..self.count].iter_mut().enumerate() {
            *key_ = key(self.squared[slot], self.row[slot]);
        }
        let (_, &mut kth, _) = keys[..self.count].select_nth_unstable(k - 1);
        for (slot, &kept) in keys[..k].iter().enumerate() {
            (self.squared[slot], self.row[slot]) = parts(kept);
        }
        self.count = k;
        parts(kth).0
    }

    /// Writes the smallest to `out`, ascending, and fills what is left with missing neighbours.
    #[inline(always)]
    fn smallest<S: Simd>(&mut self, s: S, out: &mut [u64]) {
        let kept = self.count.min(out.len());
        if !(self.count <= COUNTED && self.count_nearer(s, out)) {
            self.sort(&mut out[..kept]);
        }
        out[kept..].fill(key(MISSING_SQUARED, MISSING));
    }

    /// Puts each candidate where the number of nearer ones says; false when equal distances leave the order open.
    #[inline(always)]
    fn count_nearer<S: Simd>(&mut self, s: S, out: &mut [u64]) -> bool {
        let count = self.count;
        self.slots[..count].fill(OPEN);
        // Infinitely far: not counted as nearer by any candidate.
        self.squared[count..count.next_multiple_of(WIDTH)].fill(f32::INFINITY);
        let mut rank = [0.0; WIDTH];
        for first in (0..count).step_by(S::LANES) {
            let mine = s.load(&self.squared[first..]);
            let mut nearer = s.zero();
            for &other in &self.squared[..count] {
                let ahead = s.sub(mine, s.splat(other));
                nearer = s.add(nearer, s.where_positive(ahead, s.splat(1.0)));
            }
            s.store(&mut rank, nearer);
            for lane in 0..S::LANES.min(count - first) {
                let key = key(self.squared[first + lane], self.row[first + lane]);
                self.slots[rank[lane] as u32 as usize % COUNTED] = key;
            }
        }
        // Two that tie take one slot and leave the next one open. One slot more than is asked for shows a tie across
        // the border.
        let settled = !self.slots[..count.min(out.len() + 1)].contains(&OPEN);
        let kept = count.min(out.len());
        out[..kept].copy_from_slice(&self.slots[..kept]);
        settled
    }

    /// Fills `out`, which is not longer than there are candidates, with the smallest, ascending.
    fn sort(&self, out: &mut [u64]) {
        let pairs = self.squared.iter().zip(&self.row).take(self.count);
        let mut keys: Vec<u64> = pairs.map(|(&squared, &row)| key(squared, row)).collect();
        if out.len() < keys.len() {
            keys.select_nth_unstable(out.len());
        }
        out.copy_from_slice(&keys[..out.len()]);
        out.sort_unstable();
    }
}
