//! Cutting a scan into pieces that fit into memory, each with the surroundings that its points need.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | \[N\] × 3 | positions, metres |
//! | [`Tile::rows`] | ascending | the points of a tile: its core and a margin around it |
//! | [`Tile::core`] | ascending | positions in `rows` of the points that the tile decides on |
//!
//! Every point is in exactly one core. Boxes are halved across their longest side until box and margin hold no more voxels
//! than allowed, so tiles follow the density of the scan. The margin of a small box is half its longest side at most, so
//! that halving always ends, however dense the scan is.
//! Time: O(N log(tiles)), plus a count of voxels per box up to the limit. Depends on the coordinates only.

use crate::cloud::voxel;
use crate::{Error, Result};

/// One piece of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Points of the core and of the margin, ascending row numbers of the scan.
    pub rows: Vec<u32>,
    /// Positions in `rows` of the points of the core, ascending.
    pub core: Vec<u32>,
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

/// The points of a part of a scan, and which of them tiles decide on.
#[derive(Clone, Copy)]
struct Part<'a> {
    coord: &'a [[f32; 3]],
    core: Option<&'a [bool]>,
}

/// A box of the recursion: the rows inside, and the rows inside or at most a margin away.
struct Region {
    low: [f32; 3],
    high: [f32; 3],
    near: Vec<u32>,
}

/// Cuts a scan; one that is small enough is a single tile without margin.
///
/// # Errors
/// As [`voxel::cells`], and more points than row numbers.
pub fn cut(coord: &[[f32; 3]], how: Cut) -> Result<Vec<Tile>> {
    cut_part(coord, None, how)
}

/// Cuts a part of a scan: only points that `core` marks are in the cores of tiles, the others are surroundings.
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
    let inside = |row: &u32| core.is_none_or(|core| core[*row as usize]);
    let decided = || all.iter().copied().filter(inside);
    if fits(coord, &all, how)? {
        let core = decided().collect();
        return Ok(vec![Tile { rows: all, core }]);
    }
    let (low, high) = bounds(decided().map(|row| coord[row as usize]));
    let scan = Part { coord, core };
    let mut tiles = Vec::new();
    let mut open = vec![Region {
        low,
        high,
        near: all,
    }];
    // Depth first, lower half first: tiles come out in the order of space.
    while let Some(region) = open.pop() {
        if !region.near.iter().any(|row| region.decides(scan, *row)) {
            continue;
        }
        let Some((lower, upper)) = region.halves() else {
            tiles.push(region.tile(scan));
            continue;
        };
        let margin = region.margin(how.margin);
        let near = region.within(coord, &region.near, margin);
        if fits(coord, &near, how)? {
            tiles.push(Region { near, ..region }.tile(scan));
            continue;
        }
        for (low, high) in [upper, lower] {
            let half = Region {
                low,
                high,
                near: Vec::new(),
            };
            let near = half.within(coord, &region.near, how.margin);
            open.push(Region { near, ..half });
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

fn bounds(points: impl Iterator<Item = [f32; 3]>) -> ([f32; 3], [f32; 3]) {
    let start = ([f32::INFINITY; 3], [f32::NEG_INFINITY; 3]);
    points.fold(start, |(low, high), p| {
        (
            std::array::from_fn(|a| low[a].min(p[a])),
            std::array::from_fn(|a| high[a].max(p[a])),
        )
    })
}

impl Region {
    fn holds(&self, p: [f32; 3]) -> bool {
        (0..3).all(|a| self.low[a] <= p[a] && p[a] <= self.high[a])
    }

    /// True for a row that a tile of this box decides on.
    fn decides(&self, scan: Part<'_>, row: u32) -> bool {
        let row = row as usize;
        self.holds(scan.coord[row]) && scan.core.is_none_or(|core| core[row])
    }

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

    /// Half the longest side at most, so that small boxes do not drag in large surroundings.
    fn margin(&self, wanted: f64) -> f64 {
        let side = (0..3).fold(0.0f64, |m, a| {
            m.max(f64::from(self.high[a]) - f64::from(self.low[a]))
        });
        wanted.min(side / 2.0)
    }

    /// The two halves across the longest side, sharing no number; `None` when there is no number between the ends.
    #[allow(clippy::type_complexity, reason = "two boxes as corner pairs")]
    fn halves(&self) -> Option<(([f32; 3], [f32; 3]), ([f32; 3], [f32; 3]))> {
        let side = |a: usize| self.high[a] - self.low[a];
        let axis = (1..3).fold(0, |best, a| if side(a) > side(best) { a } else { best });
        let middle = self.low[axis] + side(axis) / 2.0;
        let above = middle.next_up();
        if !(self.low[axis] <= middle && above <= self.high[axis]) {
            return None;
        }
        let (mut lower, mut upper) = (self.high, self.low);
        lower[axis] = middle;
        upper[axis] = above;
        Some(((self.low, lower), (upper, self.high)))
    }

    fn tile(self, scan: Part<'_>) -> Tile {
        let inside = |i: &u32| self.decides(scan, self.near[*i as usize]);
        let core = (0..self.near.len() as u32).filter(inside).collect();
        Tile {
            rows: self.near,
            core,
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

    fn check(coord: &[[f32; 3]], tiles: &[Tile]) {
        let mut decided = vec![0; coord.len()];
        for tile in tiles {
            assert!(tile.rows.windows(2).all(|w| w[0] < w[1]));
            for i in &tile.core {
                decided[tile.rows[*i as usize] as usize] += 1;
            }
        }
        assert!(decided.iter().all(|n| *n == 1));
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
        check(&coord, &tiles);
        let none = cut(&[], how).unwrap();
        assert!(none[0].rows.is_empty());
    }

    #[test]
    fn every_point_is_decided_once_and_sees_its_margin() {
        let coord = scatter(20_000, [40.0, 25.0, 3.0]);
        let how = Cut {
            voxel_size: 0.05,
            voxels: 6000,
            margin: 2.0,
        };
        let tiles = cut(&coord, how).unwrap();
        assert!(tiles.len() > 3, "{}", tiles.len());
        check(&coord, &tiles);
        for tile in &tiles {
            assert!(tile.rows.len() <= 6000);
            let core: Vec<u32> = tile.core.iter().map(|i| tile.rows[*i as usize]).collect();
            for row in core.iter().step_by(97) {
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
    }

    #[test]
    fn of_a_part_only_the_marked_points_are_decided() {
        let coord = scatter(20_000, [40.0, 25.0, 3.0]);
        let core: Vec<bool> = coord.iter().map(|p| p[0] > 12.0 && p[1] < 20.0).collect();
        for voxels in [6000, 50_000] {
            let how = Cut {
                voxel_size: 0.05,
                voxels,
                margin: 2.0,
            };
            let mut decided = vec![0; coord.len()];
            for tile in cut_part(&coord, Some(&core), how).unwrap() {
                for i in &tile.core {
                    decided[tile.rows[*i as usize] as usize] += 1;
                }
            }
            let expected = core.iter().map(|c| i32::from(*c));
            assert!(decided.into_iter().eq(expected), "{voxels}");
        }
        let how = Cut {
            voxel_size: 0.05,
            voxels: 1000,
            margin: 2.0,
        };
        assert!(
            cut_part(&coord, Some(&vec![false; coord.len()]), how)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn crowds_and_equal_points_end() {
        let mut coord = vec![[1.0; 3]; 5000];
        let how = Cut {
            voxel_size: 0.1,
            voxels: 10,
            margin: 5.0,
        };
        check(&coord, &cut(&coord, how).unwrap());
        coord.extend(scatter(3000, [0.5, 0.5, 0.5]));
        coord.extend(scatter(10, [1e6, 1e6, 100.0]));
        check(&coord, &cut(&coord, how).unwrap());
    }
}
