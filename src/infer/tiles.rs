//! Cutting a scan into pieces that fit into memory, each with the surroundings that its points need.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | \[N\] × 3 | positions, metres |
//! | [`Tile::rows`] | ascending | the points of a tile: those in its box and in a margin around it |
//! | [`Tile::weight`] | 0 to 1 | how much its vote on a point counts |
//!
//! Every point is in exactly one box. Boxes are halved across their longest side until box and margin hold no more voxels
//! than allowed, so tiles follow the density of the scan. The margin of a small box is half its longest side at most, so
//! that halving always ends, however dense the scan is.
//! Time: O(N log(tiles)), plus a count of voxels per box up to the limit. Depends on the coordinates only.

use crate::cloud::voxel;
use crate::{Error, Result};

/// One piece of a scan.
#[derive(Debug, Clone, PartialEq)]
pub struct Tile {
    /// Points of the box and of the margin, ascending row numbers of the scan.
    pub rows: Vec<u32>,
    /// Points of the box that are to be decided.
    pub decided: usize,
    bounds: Bounds,
    /// Width of the margin, metres.
    margin: f64,
}

impl Tile {
    /// How much this tile's vote on a point counts: 1 deep inside, 0 at the end of the margin, in between as the distance
    /// from the face of the box. Along a line through two tiles the sum is 1.
    pub fn weight(&self, p: [f32; 3]) -> f32 {
        let Bounds { low, high, shared } = &self.bounds;
        let face = |inside: f64, is_shared: bool| match (is_shared, self.margin > 0.0) {
            (_, false) => f64::from(u8::from(inside >= 0.0)),
            (true, _) => 0.5 + inside / (2.0 * self.margin),
            (false, _) => 1.0 + inside / self.margin,
        };
        let weight = (0..3).fold(1.0, |weight, a| {
            let p = f64::from(p[a]);
            let faces = [
                face(p - f64::from(low[a]), shared[a][0]),
                face(f64::from(high[a]) - p, shared[a][1]),
            ];
            faces.iter().fold(weight, |w, f| w * f.clamp(0.0, 1.0))
        });
        weight as f32
    }
}

/// A box, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    low: [f32; 3],
    high: [f32; 3],
    /// For both faces of each axis: other tiles decide beyond.
    shared: [[bool; 2]; 3],
}

/// How to cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Edge of a voxel, metres.
    pub voxel_size: f64,
    /// Most voxels that a tile with its margin may hold.
    pub voxels: usize,
    /// Width of the margin, metres.
    pub margin: f64,
}

/// The points of a part of a scan, and which of them are decided there.
#[derive(Clone, Copy)]
struct Part<'a> {
    coord: &'a [[f32; 3]],
    core: Option<&'a [bool]>,
}

/// A box of the recursion, and the rows inside or at most a margin away.
struct Region {
    bounds: Bounds,
    near: Vec<u32>,
}

/// Cuts a scan; one that is small enough is a single tile, one without points is none.
///
/// # Errors
/// As [`voxel::cells`], and more points than row numbers.
pub fn cut(coord: &[[f32; 3]], how: Cut) -> Result<Vec<Tile>> {
    cut_part(coord, None, how)
}

/// Cuts a part of a scan that goes on at its sides: only points that `core` marks are in the boxes of tiles, the others are
/// surroundings.
///
/// # Errors
/// As [`cut`].
pub fn cut_part(coord: &[[f32; 3]], core: Option<&[bool]>, how: Cut) -> Result<Vec<Tile>> {
    let count = u32::try_from(coord.len()).map_err(|_| {
        Error::argument(
            "scan",
            format!("{} points at once are too many", coord.len()),
        )
    })?;
    let all: Vec<u32> = (0..count).collect();
    let scan = Part { coord, core };
    let inside = |row: &usize| core.is_none_or(|core| core[*row]);
    let bounds = Bounds::of(
        (0..coord.len()).filter(inside).map(|row| coord[row]),
        core.is_some(),
    );
    let whole = Region { bounds, near: all };
    if fits(coord, &whole.near, how)? {
        let tile = whole.tile(scan, how.margin);
        return Ok(Vec::from_iter((tile.decided > 0).then_some(tile)));
    }
    let mut tiles = Vec::new();
    let mut open = vec![whole];
    // Depth first, lower half first: tiles come out in the order of space.
    while let Some(region) = open.pop() {
        if !region.near.iter().any(|row| region.decides(scan, *row)) {
            continue;
        }
        // Half the longest side at most, so that small boxes do not drag in large surroundings.
        let margin = how.margin.min(region.bounds.longest() / 2.0);
        let near = region.bounds.within(coord, &region.near, margin);
        let halves = region.bounds.halves();
        let (false, Some(halves)) = (fits(coord, &near, how)?, halves) else {
            tiles.push(Region { near, ..region }.tile(scan, margin));
            continue;
        };
        for bounds in halves {
            let near = bounds.within(coord, &region.near, how.margin);
            open.push(Region { bounds, near });
        }
    }
    Ok(tiles)
}

/// True when the points occupy few enough voxels.
fn fits(coord: &[[f32; 3]], rows: &[u32], how: Cut) -> Result<bool> {
    if rows.len() <= how.voxels {
        return Ok(true);
    }
    let points = rows.iter().map(|r| coord[*r as usize]);
    voxel::occupy_at_most(points, how.voxel_size, how.voxels)
}

impl Bounds {
    /// The smallest box. At the sides of a part, other parts decide.
    fn of(points: impl Iterator<Item = [f32; 3]>, is_part: bool) -> Bounds {
        let sides = [is_part; 2];
        let nothing = Bounds {
            low: [f32::INFINITY; 3],
            high: [f32::NEG_INFINITY; 3],
            shared: [sides, sides, [false; 2]],
        };
        points.fold(nothing, |b, p| Bounds {
            low: std::array::from_fn(|a| b.low[a].min(p[a])),
            high: std::array::from_fn(|a| b.high[a].max(p[a])),
            ..b
        })
    }

    fn holds(&self, p: [f32; 3]) -> bool {
        (0..3).all(|a| self.low[a] <= p[a] && p[a] <= self.high[a])
    }

    /// Those of `rows` that are at most a margin away.
    fn within(&self, coord: &[[f32; 3]], rows: &[u32], margin: f64) -> Vec<u32> {
        let near = |row: &&u32| {
            let p = coord[**row as usize];
            (0..3).all(|a| {
                f64::from(p[a]) >= f64::from(self.low[a]) - margin
                    && f64::from(p[a]) <= f64::from(self.high[a]) + margin
            })
        };
        rows.iter().filter(near).copied().collect()
    }

    fn side(&self, a: usize) -> f64 {
        f64::from(self.high[a]) - f64::from(self.low[a])
    }

    fn longest(&self) -> f64 {
        (0..3).fold(0.0, |longest, a| self.side(a).max(longest))
    }

    /// The two halves across the longest side, upper one first, sharing no number; `None` when there is no number between
    /// the ends.
    fn halves(&self) -> Option<[Bounds; 2]> {
        let longer = |best: usize, a: usize| {
            if self.side(a) > self.side(best) {
                a
            } else {
                best
            }
        };
        let axis = (1..3).fold(0, longer);
        let middle = self.low[axis] + (self.high[axis] - self.low[axis]) / 2.0;
        let above = middle.next_up();
        if !(self.low[axis] <= middle && above <= self.high[axis]) {
            return None;
        }
        let (mut lower, mut upper) = (*self, *self);
        (lower.high[axis], upper.low[axis]) = (middle, above);
        (lower.shared[axis][1], upper.shared[axis][0]) = (true, true);
        Some([upper, lower])
    }
}

impl Region {
    /// True for a row that a tile of this box has to decide.
    fn decides(&self, scan: Part<'_>, row: u32) -> bool {
        let row = row as usize;
        self.bounds.holds(scan.coord[row]) && scan.core.is_none_or(|core| core[row])
    }

    fn tile(self, scan: Part<'_>, margin: f64) -> Tile {
        let decided = self.near.iter().filter(|row| self.decides(scan, **row));
        Tile {
            decided: decided.count(),
            bounds: self.bounds,
            margin,
            rows: self.near,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Random, Sequence};

    fn scatter(count: usize, size: [f64; 3]) -> Vec<[f32; 3]> {
        let mut s = Sequence::new(Random::new(3, 1));
        (0..count)
            .map(|_| std::array::from_fn(|a| (s.uniform() * size[a]) as f32))
            .collect()
    }

    /// Every point that is to be decided lies in one box, and somebody votes on it.
    fn check(coord: &[[f32; 3]], core: Option<&[bool]>, tiles: &[Tile]) {
        let (mut boxes, mut weights) = (vec![0; coord.len()], vec![0.0; coord.len()]);
        for tile in tiles {
            assert!(tile.rows.windows(2).all(|w| w[0] < w[1]));
            let mut decided = 0;
            for row in tile.rows.iter().map(|row| *row as usize) {
                let weight = tile.weight(coord[row]);
                assert!((0.0..=1.0).contains(&weight), "{weight}");
                weights[row] += weight;
                if tile.bounds.holds(coord[row]) && core.is_none_or(|core| core[row]) {
                    boxes[row] += 1;
                    decided += 1;
                }
            }
            assert_eq!(decided, tile.decided);
        }
        for row in 0..coord.len() {
            let is_core = core.is_none_or(|core| core[row]);
            assert_eq!(boxes[row], i32::from(is_core));
            assert!(!is_core || weights[row] >= 0.125, "{}", weights[row]);
        }
    }

    #[test]
    fn small_scans_are_one_tile() {
        let coord = scatter(100, [5.0; 3]);
        let how = Cut {
            voxel_size: 0.1,
            voxels: 100,
            margin: 1.0,
        };
        let tiles = cut(&coord, how).unwrap();
        assert_eq!(tiles.len(), 1);
        check(&coord, None, &tiles);
        assert!(coord.iter().all(|p| tiles[0].weight(*p) == 1.0));
        assert!(cut(&[], how).unwrap().is_empty());
    }

    #[test]
    fn points_in_a_box_see_its_margin_and_their_weights_add_up_to_one() {
        let coord = scatter(20_000, [40.0, 25.0, 3.0]);
        let how = Cut {
            voxel_size: 0.05,
            voxels: 6000,
            margin: 2.0,
        };
        let tiles = cut(&coord, how).unwrap();
        assert!(tiles.len() > 3, "{}", tiles.len());
        check(&coord, None, &tiles);
        let mut sums = vec![0.0; coord.len()];
        for tile in &tiles {
            assert!(tile.rows.len() <= 6000);
            for row in &tile.rows {
                sums[*row as usize] += tile.weight(coord[*row as usize]);
            }
            let inside = |row: &&u32| tile.bounds.holds(coord[**row as usize]);
            for row in tile.rows.iter().filter(inside).step_by(97) {
                let p = coord[*row as usize];
                let close = (0..coord.len() as u32).filter(|other| {
                    let q = coord[*other as usize];
                    (0..3).all(|a| (p[a] - q[a]).abs() <= 2.0)
                });
                for other in close {
                    assert!(tile.rows.binary_search(&other).is_ok());
                }
            }
        }
        // No more: boxes of different lengths meet here, where the faces of one end at the face of another.
        let near_one = sums.iter().filter(|sum| (**sum - 1.0).abs() < 1e-5);
        let share = near_one.count() as f64 / sums.len() as f64;
        assert!(share > 0.8, "{share}");
    }

    #[test]
    fn of_a_part_only_the_marked_points_are_decided() {
        let coord = scatter(20_000, [40.0, 25.0, 3.0]);
        let core: Vec<bool> = coord.iter().map(|p| p[0] > 12.0 && p[1] < 20.0).collect();
        let how = |voxels| Cut {
            voxel_size: 0.05,
            voxels,
            margin: 2.0,
        };
        for voxels in [6000, 50_000] {
            let tiles = cut_part(&coord, Some(&core), how(voxels)).unwrap();
            check(&coord, Some(&core), &tiles);
        }
        let nothing = vec![false; coord.len()];
        for voxels in [1000, 50_000] {
            assert!(
                cut_part(&coord, Some(&nothing), how(voxels))
                    .unwrap()
                    .is_empty()
            );
        }
    }

    #[test]
    fn crowds_and_equal_points_end() {
        let mut coord = vec![[1.0; 3]; 5000];
        let how = Cut {
            voxel_size: 0.1,
            voxels: 10,
            margin: 5.0,
        };
        check(&coord, None, &cut(&coord, how).unwrap());
        coord.extend(scatter(3000, [0.5, 0.5, 0.5]));
        coord.extend(scatter(10, [1e6, 1e6, 100.0]));
        check(&coord, None, &cut(&coord, how).unwrap());
    }
}
