//! Which parts of a scan are in memory together.
//!
//! A block is a horizontal rectangle of voxel columns whose points are decided, and the surroundings that these need.
//! Rectangles are halved across their longer side until block and surroundings are small enough, so blocks follow the density
//! of the scan. Every column is in exactly one block. Sizes are those of all packets that touch a rectangle: never too small.
//! Blocks are no narrower than the surroundings, which would only be read more often: one that is too dense even so is for
//! [`super::block`] to deal with.
//! Time: O(packets · log(blocks)).

use super::spool::{Rect, Span};

/// What is known about the size of a part, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    pub points: u64,
    pub voxels: u64,
}

/// One part of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Columns whose points are decided.
    pub core: Rect,
    /// The core and its surroundings.
    pub near: Rect,
    /// Size of `near`.
    pub size: Size,
}

/// A rectangle on the way to a block, with the packets that may lie near it.
struct Region {
    core: Rect,
    packets: Vec<u32>,
}

/// Cuts a scan into blocks that fit, in the order of space; `margin` is the width of the surroundings in columns. A rectangle
/// that is not wider than that is a block even if it does not fit.
pub fn blocks(spans: &[Span], margin: i32, fits: impl Fn(Size) -> bool) -> Vec<Block> {
    let all = spans.iter().fold(Rect::NONE, |all, s| all.with(&s.rect));
    let mut blocks = Vec::new();
    let mut open = vec![Region {
        core: all,
        packets: (0..spans.len() as u32).collect(),
    }];
    while let Some(mut region) = open.pop() {
        let rects = region.packets.iter().map(|i| spans[*i as usize].rect);
        let inside = rects.filter(|rect| rect.touches(&region.core));
        // Without the empty space around its points.
        let used = inside.fold(Rect::NONE, |used, rect| used.with(&rect));
        region.core = used.cut(&region.core);
        if (0..2).any(|a| region.core.low[a] > region.core.high[a]) {
            continue;
        }
        let near = region.core.grown(margin);
        (region.packets).retain(|i| spans[*i as usize].rect.touches(&near));
        let mut size = Size::default();
        for i in &region.packets {
            size.points += u64::from(spans[*i as usize].points);
            size.voxels += u64::from(spans[*i as usize].voxels);
        }
        match halves(region.core, margin) {
            Some(halves) if !fits(size) => {
                for core in halves {
                    let packets = region.packets.clone();
                    open.push(Region { core, packets });
                }
            }
            _ => blocks.push(Block {
                core: region.core,
                near,
                size,
            }),
        }
    }
    blocks
}

/// The halves of a rectangle, upper one first; `None` for one that is narrow enough.
fn halves(rect: Rect, narrow: i32) -> Option<[Rect; 2]> {
    let side = |a: usize| i64::from(rect.high[a]) - i64::from(rect.low[a]);
    let axis = usize::from(side(1) > side(0));
    if side(axis) <= i64::from(narrow) {
        return None;
    }
    let middle = (i64::from(rect.low[axis]) + side(axis) / 2) as i32;
    let (mut lower, mut upper) = (rect, rect);
    lower.high[axis] = middle;
    upper.low[axis] = middle + 1;
    Some([upper, lower])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Random, Sequence};

    /// Packets of 4 × 4 columns, dense in one corner, far apart in another.
    fn spans() -> Vec<Span> {
        let mut s = Sequence::new(Random::new(8, 1));
        let mut spans = Vec::new();
        for i in 0..4000 {
            let reach = if i % 2 == 0 { 40.0 } else { 3000.0 };
            let low = [0, 1].map(|_| (reach * s.uniform()) as i32 - 20);
            let rect = Rect {
                low,
                high: low.map(|x| x + 3),
            };
            spans.push(Span {
                rect,
                points: 100,
                voxels: 10,
            });
        }
        spans
    }

    #[test]
    fn every_packet_is_covered_once_and_blocks_fit() {
        let spans = spans();
        let found = blocks(&spans, 5, |size| size.points <= 60_000);
        assert!(found.len() > 20, "{}", found.len());
        for span in &spans {
            let area: i64 = (found.iter())
                .map(|b| b.core.cut(&span.rect))
                .map(|r| {
                    let side = |a: usize| i64::from(r.high[a] - r.low[a] + 1).max(0);
                    side(0) * side(1)
                })
                .sum();
            assert_eq!(area, 16, "every column of {span:?} is in one block");
        }
        for block in &found {
            assert_eq!(block.near, block.core.grown(5));
            let near = spans.iter().filter(|s| s.rect.touches(&block.near));
            assert_eq!(block.size.voxels, 10 * near.count() as u64);
        }
        let dense = found.iter().filter(|b| b.size.points > 60_000);
        assert_eq!(dense.count(), 0);
    }

    #[test]
    fn crowds_scans_without_points_and_infinite_ones_end() {
        assert!(blocks(&[], 5, |_| false).is_empty());
        let whole = Span {
            rect: Rect {
                low: [i32::MIN; 2],
                high: [i32::MAX; 2],
            },
            points: 5,
            voxels: 5,
        };
        assert_eq!(blocks(&[whole], 5, |size| size.points <= 5).len(), 1);
        let crowd = Span {
            rect: Rect {
                low: [7, 7],
                high: [7, 8],
            },
            points: 1000,
            voxels: 1,
        };
        assert_eq!(blocks(&[crowd; 9], 0, |_| false).len(), 2);
        assert_eq!(blocks(&[crowd; 9], 5, |_| false).len(), 1);
    }
}
