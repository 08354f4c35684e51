//! Search tree: the points of a batch in blocks of 16, under a tree of bounding boxes that is 16 wide.
//!
//! A k-d split by the median of the longest axis orders the points; 16 consecutive ones form a block, 16 blocks a
//! node, 16 nodes a node of the next level. Nothing depends on a cell size, so density may vary by any factor. A
//! block is one or two vector registers per axis, and a node tests all of its children at once.
//!
//! Coinciding points: more than [`MAX_NEIGHBORS`] points at one place are all *asked*, but only those with the lowest
//! row numbers can be *found*, so a search never walks through thousands of them.
//!
//! Bounds are exact in f32 without any slack: rounding is monotone, so the gap to a box, computed like a distance, is
//! never larger than the computed distance to a point inside.
//!
//! Build: O(N log N), parallel. Memory: 16 B per point for the blocks and 1.6 B for the boxes.

use super::knn::MAX_NEIGHBORS;
use super::ragged::check_offsets;
use crate::Result;
use rayon::prelude::*;

/// Points in a block and children of a node.
pub(super) const WIDTH: usize = 16;
/// Below this many points a subtree is arranged by one thread.
const SEQUENTIAL: usize = 4096;

/// Search trees over all elements of a batch.
#[derive(Debug)]
pub struct SearchTree {
    offsets: Vec<usize>,
    pub(super) elements: Vec<Element>,
}

/// The tree of one batch element.
#[derive(Debug)]
pub(super) struct Element {
    pub points: usize,
    /// Points in tree order; all blocks but the last are full.
    pub blocks: Vec<Block>,
    /// Boxes of the blocks, then boxes of 16 of the level below each, up to a single entry of 16 children.
    pub levels: Vec<Vec<Boxes>>,
}

/// Sixteen points. Unused lanes hold NaN coordinates, whose distance compares as not smaller than anything.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Block {
    pub coord: [[f32; WIDTH]; 3],
    pub row: [u32; WIDTH],
}

/// The bounding boxes of sixteen children. An empty one is inside out and infinitely far from everything.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Boxes {
    pub low: [[f32; WIDTH]; 3],
    pub high: [[f32; WIDTH]; 3],
}

/// A point while the tree is built.
#[derive(Clone, Copy)]
struct Item {
    coord: [f32; 3],
    row: u32,
}

impl SearchTree {
    /// Builds the trees of a batch. Errors when `offsets` do not describe `coord`.
    ///
    /// Coordinates should be finite; a point that is not is never found and finds nothing.
    pub fn new(coord: &[[f32; 3]], offsets: &[usize]) -> Result<SearchTree> {
        check_offsets(offsets, coord.len())?;
        let elements = offsets
            .par_windows(2)
            .map(|ends| Element::new(&coord[ends[0]..ends[1]], ends[0]))
            .collect();
        Ok(SearchTree {
            offsets: offsets.to_vec(),
            elements,
        })
    }

    /// Number of points in all elements.
    pub fn points(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// The batch: B+1 offsets.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Row numbers in tree order, in which points that are near each other are mostly near each other in the list.
    pub fn order(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.points());
        for element in &self.elements {
            let rows = element.blocks.iter().flat_map(|b| b.row.iter().copied());
            order.extend(rows.take(element.points));
        }
        order
    }
}

impl Element {
    fn new(coord: &[[f32; 3]], start: usize) -> Element {
        let mut items: Vec<Item> = coord
            .iter()
            .zip(start as u32..)
            .map(|(&coord, row)| Item { coord, row })
            .collect();
        let mut found = vec![true; items.len().div_ceil(WIDTH)];
        arrange(&mut items, &mut found);
        let blocks: Vec<Block> = items.chunks(WIDTH).map(Block::new).collect();
        Element {
            points: coord.len(),
            levels: Boxes::levels(&blocks, &found),
            blocks,
        }
    }
}

impl Block {
    fn new(items: &[Item]) -> Block {
        let mut block = Block {
            coord: [[f32::NAN; WIDTH]; 3],
            row: [super::MISSING; WIDTH],
        };
        for (lane, item) in items.iter().enumerate() {
            for axis in 0..3 {
                block.coord[axis][lane] = item.coord[axis];
            }
            block.row[lane] = item.row;
        }
        block
    }

    /// The point in `lane`.
    #[inline(always)]
    pub fn point(&self, lane: usize) -> [f32; 3] {
        std::array::from_fn(|axis| self.coord[axis][lane])
    }

    /// The box around the points of the block.
    #[inline(always)]
    pub fn bounds(&self) -> ([f32; 3], [f32; 3]) {
        let fold = |start: f32, pick: fn(f32, f32) -> f32| {
            std::array::from_fn(|axis| self.coord[axis].iter().fold(start, |a, &b| pick(a, b)))
        };
        (
            fold(f32::INFINITY, f32::min),
            fold(f32::NEG_INFINITY, f32::max),
        )
    }
}

impl Boxes {
    /// Finite, so that the gap to an infinite query is infinite and not the difference of two infinities.
    const EMPTY: Boxes = Boxes {
        low: [[f32::MAX; WIDTH]; 3],
        high: [[f32::MIN; WIDTH]; 3],
    };

    /// Boxes of the blocks that can be found, and of the levels above them up to a single entry.
    pub fn levels(blocks: &[Block], found: &[bool]) -> Vec<Vec<Boxes>> {
        let mut levels = vec![Boxes::of_blocks(blocks, found)];
        while levels[levels.len() - 1].len() > 1 {
            levels.push(Boxes::above(&levels[levels.len() - 1]));
        }
        levels
    }

    fn of_blocks(blocks: &[Block], found: &[bool]) -> Vec<Boxes> {
        let mut boxes = vec![Boxes::EMPTY; blocks.len().div_ceil(WIDTH)];
        for (number, (block, found)) in blocks.iter().zip(found).enumerate() {
            if *found {
                boxes[number / WIDTH].set(number % WIDTH, block.bounds());
            }
        }
        boxes
    }

    fn above(below: &[Boxes]) -> Vec<Boxes> {
        let mut boxes = vec![Boxes::EMPTY; below.len().div_ceil(WIDTH)];
        for (number, children) in below.iter().enumerate() {
            boxes[number / WIDTH].set(number % WIDTH, children.bounds());
        }
        boxes
    }

    fn set(&mut self, lane: usize, (low, high): ([f32; 3], [f32; 3])) {
        for axis in 0..3 {
            self.low[axis][lane] = low[axis];
            self.high[axis][lane] = high[axis];
        }
    }

    fn bounds(&self) -> ([f32; 3], [f32; 3]) {
        (
            self.low
                .map(|lanes| lanes.into_iter().fold(f32::INFINITY, f32::min)),
            self.high
                .map(|lanes| lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)),
        )
    }
}

/// Orders `items` so that every aligned run of 16, 256, … is compact; `found` has one flag per block.
fn arrange(items: &mut [Item], found: &mut [bool]) {
    if items.len() <= WIDTH {
        return;
    }
    let (axis, extent) = longest_axis(items);
    // Not `extent <= 0`: coordinates that are not finite end up here instead of in an endless split.
    let separable = extent > 0.0;
    if !separable {
        if items.len() > MAX_NEIGHBORS {
            items.select_nth_unstable_by_key(MAX_NEIGHBORS - 1, |item| item.row);
            found[MAX_NEIGHBORS / WIDTH..].fill(false);
        }
        return;
    }
    // The left side takes a power of two of full blocks, so that runs stay aligned with the nodes above them.
    let left = found.len().next_power_of_two() / 2;
    items.select_nth_unstable_by(left * WIDTH, |a, b| a.coord[axis].total_cmp(&b.coord[axis]));
    let parallel = items.len() > SEQUENTIAL;
    let (low, high) = items.split_at_mut(left * WIDTH);
    let (found_low, found_high) = found.split_at_mut(left);
    if parallel {
        rayon::join(|| arrange(low, found_low), || arrange(high, found_high));
    } else {
        arrange(low, found_low);
        arrange(high, found_high);
    }
}

/// The axis along which `items` spread most, and how far.
fn longest_axis(items: &[Item]) -> (usize, f32) {
    let (mut low, mut high) = ([f32::INFINITY; 3], [f32::NEG_INFINITY; 3]);
    for item in items {
        for axis in 0..3 {
            low[axis] = low[axis].min(item.coord[axis]);
            high[axis] = high[axis].max(item.coord[axis]);
        }
    }
    (0..3)
        .map(|axis| (axis, high[axis] - low[axis]))
        .fold((0, f32::NEG_INFINITY), |best, next| {
            if next.1 > best.1 { next } else { best }
        })
}
