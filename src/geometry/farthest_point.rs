//! Farthest point sampling, exact and in the order of the reference code (Qi et al. 2017, PointNet++, section 3.2).
//!
//! The first sample of an element is its first point; each next one is the point farthest from all samples so far, by
//! the squared distance (dx·dx + dy·dy) + dz·dz in f32, which starts at 1e10 m². Asked for more samples than there are
//! different places, it repeats the first point, as the reference does.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | [N, 3] | metres |
//! | counts | \[B\] | samples per element, see [`ratio_counts`] and [`stride_counts`] |
//! | rows | \[M\] | rows of the samples, element by element, in sampling order |
//!
//! Equal distances are decided as by the reference's kernel: thread t of T looks at the points whose number in the
//! element is t modulo T and keeps its first maximum, and of the threads the lowest wins. T is the largest power of two
//! that is not above the points of the longest element, at most 1024.
//!
//! Method: the points lie in the blocks of a [`SearchTree`], 16 to a block and 16 children to a node. A new sample goes
//! down only where its distance to a node's box is below the largest distance within, and carries the changed maxima
//! back up. After a few hundred samples that is a handful of nodes, so time is O(N log M + M log N) instead of O(N·M).
//! Memory: 84 B per point. Elements are sampled in parallel. On a GPU see `kernels/farthest_point.cu`.

use super::ragged::check_length;
use super::search::within;
use super::tree::{Block, Boxes, Element, SearchTree, WIDTH};
use crate::device::simd::{self, Kernel, Simd};
use crate::{Error, Result};
use rayon::prelude::*;

/// Squared distance of a point before any sample, m².
const UNSAMPLED: f32 = 1e10;
/// Most threads that the reference's kernel starts.
const THREADS: usize = 1024;

/// Rows of `coord` sampled from each element of the batch, `counts` of them, one list after another.
///
/// Errors when offsets do not fit, there is not one count per element, or samples are asked of an element without
/// points.
///
/// ```
/// use cairn::geometry::farthest_points;
/// let coord = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0], [3.0, 0.0, 0.0]];
/// assert_eq!(farthest_points(&coord, &[0, 4], &[3])?, [0, 2, 3]);
/// # Ok::<(), cairn::Error>(())
/// ```
pub fn farthest_points(
    coord: &[[f32; 3]],
    offsets: &[usize],
    counts: &[usize],
) -> Result<Vec<u32>> {
    farthest_of_tree(coord, &SearchTree::new(coord, offsets)?, counts)
}

/// As [`farthest_points`] with a tree already built over `coord`.
pub fn farthest_of_tree(
    coord: &[[f32; 3]],
    tree: &SearchTree,
    counts: &[usize],
) -> Result<Vec<u32>> {
    let offsets = tree.offsets();
    if coord.len() != tree.points() {
        return Err(Error::argument(
            "farthest point sampling",
            format!(
                "{} coordinates for a tree of {} points",
                coord.len(),
                tree.points()
            ),
        ));
    }
    let request = Request::new(offsets, counts)?;
    let threads = request.threads();
    let mut rows = vec![0; request.samples];
    let mut rest = &mut rows[..];
    let mut tasks = Vec::new();
    for (b, element) in tree.elements.iter().enumerate() {
        let (out, others) = rest.split_at_mut(counts[b]);
        rest = others;
        tasks.push((element, offsets[b], out));
    }
    tasks.into_par_iter().for_each(|(element, start, out)| {
        if !out.is_empty() {
            let sampler = Sampler::new(element, start, threads);
            simd::dispatch(Task {
                element,
                coord,
                start,
                sampler,
                out,
            });
        }
    });
    Ok(rows)
}

/// What is asked of a batch.
pub(super) struct Request {
    /// Samples of all elements.
    pub samples: usize,
    /// Points of the longest element.
    pub longest: usize,
}

impl Request {
    /// Errors unless there is one count per element, none asks for samples of an element without points, and samples can
    /// be numbered.
    pub fn new(offsets: &[usize], counts: &[usize]) -> Result<Request> {
        let fault = |fault: String| Err(Error::argument("farthest point sampling", fault));
        if counts.len() + 1 != offsets.len() {
            let elements = offsets.len() - 1;
            return fault(format!("{} counts for {elements} elements", counts.len()));
        }
        let is_empty = |b: &usize| counts[*b] > 0 && offsets[*b] == offsets[b + 1];
        if let Some(b) = (0..counts.len()).find(is_empty) {
            return fault(format!(
                "{} samples of element {b}, which has no points",
                counts[b]
            ));
        }
        let samples = counts
            .iter()
            .fold(0, |sum: usize, n| sum.saturating_add(*n));
        check_length("samples", samples)?;
        let lengths = offsets.windows(2).map(|w| w[1] - w[0]);
        let longest = lengths.max().unwrap_or(0);
        Ok(Request { samples, longest })
    }

    /// Threads that the reference's kernel starts, a power of two.
    pub fn threads(&self) -> usize {
        1 << self.longest.clamp(1, THREADS).ilog2()
    }
}

/// Where the samples of each element start: B+1 entries.
pub(super) fn ends_of(counts: &[usize]) -> Vec<usize> {
    let mut ends = vec![0];
    for count in counts {
        ends.push(ends[ends.len() - 1] + count);
    }
    ends
}

/// Samples per element when a share `ratio` of the points is kept, plus one (Stratified Transformer's TransitionDown).
///
/// As in the reference, only the first element's count is rounded down on its own: later elements carry the fraction
/// that was cut off before. Elements without points get none.
pub fn ratio_counts(offsets: &[usize], ratio: f64) -> Vec<usize> {
    let mut total: Option<f64> = None;
    let mut taken = 0;
    let count = |ends: &[usize]| {
        let points = ends[1] - ends[0];
        if points == 0 {
            return 0;
        }
        let share = points as f64 * ratio;
        let sum = match total {
            None => share.trunc() + 1.0,
            Some(before) => before + share + 1.0,
        };
        total = Some(sum);
        let count = sum as usize - taken;
        taken = sum as usize;
        count
    };
    offsets.windows(2).map(count).collect()
}

/// Samples per element when one in `stride` points is kept, plus one (Stratified Transformer's sparse keys). Elements
/// without points get none.
pub fn stride_counts(offsets: &[usize], stride: usize) -> Vec<usize> {
    let points = offsets.windows(2).map(|w| w[1] - w[0]);
    points
        .map(|n| if n == 0 { 0 } else { n / stride.max(1) + 1 })
        .collect()
}

/// The farthest point under each of sixteen children: its squared distance and its place in the order of ties.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Farthest {
    squared: [f32; WIDTH],
    tie: [u32; WIDTH],
}

impl Farthest {
    /// Of unused children: below every distance.
    const NONE: Farthest = Farthest {
        squared: [-1.0; WIDTH],
        tie: [u32::MAX; WIDTH],
    };
}

/// What sampling keeps of one element, beside its search tree.
struct Sampler {
    /// Boxes of the blocks and of the nodes above, as those of the tree but with no point left out.
    boxes: Vec<Vec<Boxes>>,
    /// Per point in tree order, by block.
    points: Vec<Farthest>,
    /// Per child of every node of every level.
    levels: Vec<Vec<Farthest>>,
    ties: Ties,
}

/// The order of ties as a number: what the reference's thread would have met first.
#[derive(Clone, Copy)]
struct Ties {
    threads: u32,
    /// Points per thread, rounded up.
    each: u32,
}

impl Ties {
    fn of(self, number: u32) -> u32 {
        number % self.threads * self.each + number / self.threads
    }

    fn number(self, tie: u32) -> u32 {
        tie % self.each * self.threads + tie / self.each
    }
}

impl Sampler {
    fn new(element: &Element, start: usize, threads: usize) -> Sampler {
        let ties = Ties {
            threads: threads as u32,
            each: element.points.div_ceil(threads) as u32,
        };
        let points: Vec<Farthest> = element
            .blocks
            .iter()
            .enumerate()
            .map(|(number, block)| {
                let mut farthest = Farthest::NONE;
                for lane in 0..WIDTH.min(element.points - number * WIDTH) {
                    farthest.squared[lane] = UNSAMPLED;
                    farthest.tie[lane] = ties.of(block.row[lane] - start as u32);
                }
                farthest
            })
            .collect();
        let mut levels: Vec<Vec<Farthest>> = Vec::new();
        let mut below = &points;
        loop {
            let mut level = vec![Farthest::NONE; below.len().div_ceil(WIDTH)];
            for (child, farthest) in below.iter().enumerate() {
                level[child / WIDTH].put(child % WIDTH, farthest);
            }
            levels.push(level);
            below = &levels[levels.len() - 1];
            if below.len() <= 1 {
                break;
            }
        }
        Sampler {
            boxes: Boxes::levels(&element.blocks, &vec![true; element.blocks.len()]),
            points,
            levels,
            ties,
        }
    }
}

impl Farthest {
    /// Enters the farthest of `below` as child `lane`: the largest distance, of equal ones the first in order of ties.
    #[inline(always)]
    fn put(&mut self, lane: usize, below: &Farthest) {
        let mut largest = below.squared[0];
        for &squared in &below.squared[1..] {
            largest = if squared > largest { squared } else { largest };
        }
        let mut tie = u32::MAX;
        for (&squared, &place) in below.squared.iter().zip(&below.tie) {
            tie = tie.min(if squared == largest { place } else { u32::MAX });
        }
        (self.squared[lane], self.tie[lane]) = (largest, tie);
    }
}

/// Sampling of one element.
struct Task<'a> {
    element: &'a Element,
    coord: &'a [[f32; 3]],
    start: usize,
    sampler: Sampler,
    out: &'a mut [u32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let top = self.sampler.levels.len() - 1;
        // Nodes of every level that the sample at hand reaches.
        let mut reached: Vec<Vec<u32>> = vec![Vec::new(); top + 1];
        let mut number = 0;
        for slot in 0..self.out.len() {
            let row = self.start + number as usize;
            self.out[slot] = row as u32;
            self.sampler
                .add(s, &self.element.blocks, self.coord[row], &mut reached);
            let mut farthest = Farthest::NONE;
            farthest.put(0, &self.sampler.levels[top][0]);
            number = self.sampler.ties.number(farthest.tie[0]);
        }
    }
}

impl Sampler {
    /// Takes `sample` into account: distances of the points that it comes closer to, and all maxima above them.
    #[inline(always)]
    fn add<S: Simd>(&mut self, s: S, blocks: &[Block], sample: [f32; 3], reached: &mut [Vec<u32>]) {
        let top = reached.len() - 1;
        reached[top].clear();
        reached[top].push(0);
        let mut gaps = [0.0; WIDTH];
        for level in (0..=top).rev() {
            let (lower, upper) = reached.split_at_mut(level);
            if let Some(next) = lower.last_mut() {
                next.clear();
            }
            for &node in &upper[0] {
                let node = node as usize;
                let boxes = &self.boxes[level][node];
                let far = &self.levels[level][node].squared;
                within(s, boxes, sample, sample, f32::MAX, &mut gaps);
                let mut hits = 0;
                for lane in (0..WIDTH).step_by(S::LANES) {
                    let outside = s.at_most(s.load(&far[lane..]), s.load(&gaps[lane..]));
                    hits |= outside << lane;
                }
                hits = !hits & ((1 << WIDTH) - 1);
                while hits != 0 {
                    let lane = hits.trailing_zeros() as usize % WIDTH;
                    hits &= hits - 1;
                    let child = node * WIDTH + lane;
                    match lower.last_mut() {
                        Some(next) => next.push(child as u32),
                        None => {
                            approach(s, &blocks[child], sample, &mut self.points[child]);
                            self.levels[0][node].put(lane, &self.points[child]);
                        }
                    }
                }
            }
        }
        for level in 1..=top {
            let (lower, upper) = self.levels.split_at_mut(level);
            for &child in &reached[level - 1] {
                let child = child as usize;
                upper[0][child / WIDTH].put(child % WIDTH, &lower[level - 1][child]);
            }
        }
    }
}

/// Lowers the distances of a block's points to those from `sample`, where it is closer.
#[inline(always)]
fn approach<S: Simd>(s: S, block: &Block, sample: [f32; 3], points: &mut Farthest) {
    for lane in (0..WIDTH).step_by(S::LANES) {
        let dx = s.sub(s.load(&block.coord[0][lane..]), s.splat(sample[0]));
        let dy = s.sub(s.load(&block.coord[1][lane..]), s.splat(sample[1]));
        let dz = s.sub(s.load(&block.coord[2][lane..]), s.splat(sample[2]));
        let squared = s.add(s.add(s.mul(dx, dx), s.mul(dy, dy)), s.mul(dz, dz));
        // Unused lanes are NaN and keep what they have.
        let kept = s.min(squared, s.load(&points.squared[lane..]));
        s.store(&mut points.squared[lane..], kept);
    }
}

#[cfg(test)]
#[path = "farthest_point_tests.rs"]
mod tests;
