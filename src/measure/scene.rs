//! A synthetic scene with the point density of a voxel-sampled indoor scan.

use crate::device::random::{Random, Sequence};
use std::collections::BTreeSet;

/// Side of a voxel, metres: one point in each.
const VOXEL: f64 = 0.04;

/// A furnished room of `points` points, one in each occupied voxel of 4 cm: floor, walls and boxes. Positions in metres,
/// colours 0–1. The same for the same `points` and `seed`.
pub fn room(points: usize, seed: u64) -> (Vec<[f32; 3]>, Vec<[f32; 3]>) {
    let mut random = Sequence::new(Random::new(seed, 0));
    // Floor and four walls of half the height hold 3 of the 10.2 sides², boxes the rest.
    let side = ((points as f64 / 10.2).sqrt() as i64).max(2);
    let mut cells = shell(side);
    for boxes in 0.. {
        if cells.len() >= points {
            break;
        }
        let low: [i64; 3] = [0, 1, 2].map(|axis| {
            let space = if axis == 2 { side / 4 } else { side - side / 8 };
            random.below(space.max(1) as u64) as i64
        });
        let size = [0, 1, 2].map(|_| 2 + random.below((side / 8 + 1) as u64) as i64);
        // A full room goes on in the next one, so that there always is space.
        let shift = boxes / 256 * side;
        cells.extend(surface([low[0] + shift, low[1], low[2]], size));
    }
    let mut cells: Vec<[i64; 3]> = cells.into_iter().collect();
    random.shuffle(&mut cells);
    cells.truncate(points);
    let mut position = |c: i64| (VOXEL * (c as f64 + 0.25 + 0.5 * random.uniform())) as f32;
    let coord: Vec<[f32; 3]> = cells.iter().map(|cell| cell.map(&mut position)).collect();
    let shade = |p: &[f32; 3]| [p[0].sin().abs(), p[1].cos().abs(), 0.5];
    let color = coord.iter().map(shade).collect();
    (coord, color)
}

/// Voxels of floor and walls.
fn shell(side: i64) -> BTreeSet<[i64; 3]> {
    let mut cells = BTreeSet::new();
    for a in 0..side {
        for b in 0..side {
            cells.insert([a, b, 0]);
            if b < side / 2 {
                cells.extend([[a, 0, b], [a, side - 1, b], [0, a, b], [side - 1, a, b]]);
            }
        }
    }
    cells
}

/// Voxels of the surface of a box.
fn surface(low: [i64; 3], size: [i64; 3]) -> impl Iterator<Item = [i64; 3]> {
    let inside = move |p: [i64; 3]| (0..3).all(|a| p[a] > 0 && p[a] < size[a]);
    let all = (0..=size[0])
        .flat_map(move |x| (0..=size[1]).flat_map(move |y| (0..=size[2]).map(move |z| [x, y, z])));
    all.filter(move |p| !inside(*p))
        .map(move |p| [low[0] + p[0], low[1] + p[1], low[2] + p[2]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_points_has_one_in_each_voxel() {
        for points in [0, 1, 7, 1000, 20_000] {
            let (coord, color) = room(points, 3);
            assert_eq!((coord.len(), color.len()), (points, points));
            let voxel = |p: &[f32; 3]| p.map(|v| (f64::from(v) / VOXEL) as i64);
            let voxels: BTreeSet<[i64; 3]> = coord.iter().map(voxel).collect();
            assert_eq!(voxels.len(), points);
        }
        assert_eq!(room(1000, 3), room(1000, 3));
    }
}
