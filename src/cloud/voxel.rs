//! Voxel sampling: at most one point per cell of a cubic grid goes to the network ("GridSample" of the reference).
//!
//! cell(p) = floor(p / size) − componentwise minimum, in f64; key = 64-bit FNV-1 style hash of the three cell integers;
//! voxels are numbered by ascending unsigned key, members of a voxel by ascending point number.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | \[N\] × 3 | positions, metres, f32 or f64 |
//! | [`Voxels::inverse`] | \[N\] | voxel of every point |
//! | [`Voxels::members`] | ragged, V lists over N | points of every voxel, ascending |
//!
//! Training takes one random member per voxel ([`Voxels::pick`]); testing runs as many fragments as the fullest voxel has
//! points, fragment f taking member f mod count, so every point is seen ([`Voxels::fragment`]).
//!
//! Deviation from the reference: it orders members by an unstable sort, here they ascend, so results are reproducible.
//! Like there, two cells whose 64-bit keys collide would share a voxel.
//! Time: O(N log N), parallel. Memory: 16 bytes per point while sorting, 8 kept.

use super::keys::{self, KeyNumbers};
use crate::device::random::Random;
use crate::{Error, Result};
use rayon::prelude::*;

const FNV_OFFSET: u64 = 14_695_981_039_346_656_037;
const FNV_PRIME: u64 = 1_099_511_628_211;
/// Points per parallel piece; fixed so that nothing depends on the number of threads.
const CHUNK: usize = 1 << 14;
/// Cell numbers beyond this lose integers in f64.
const LARGEST_CELL: f64 = 9.0e15;

/// The occupied cells of a cubic grid and their points.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voxels {
    inverse: Vec<u32>,
    offsets: Vec<u32>,
    members: Vec<u32>,
}

/// The grid cell of every point, counted from the smallest occupied cell of each axis. `size` is the cell's edge in
/// metres.
///
/// # Errors
/// A size that is not a positive number, a coordinate that is not finite, or cells too many to number.
pub fn cells<T: Copy + Into<f64> + Sync>(coord: &[[T; 3]], size: f64) -> Result<Vec<[i64; 3]>> {
    if !(size.is_finite() && size > 0.0) {
        return Err(Error::argument(
            "voxel size",
            format!("{size} is not a positive number of metres"),
        ));
    }
    let mut cells = vec![[0i64; 3]; coord.len()];
    let lows = cells
        .par_chunks_mut(CHUNK)
        .zip(coord.par_chunks(CHUNK))
        .enumerate()
        .map(|(chunk, (cells, coord))| {
            let mut low = [i64::MAX; 3];
            for (row, (cell, p)) in cells.iter_mut().zip(coord).enumerate() {
                for axis in 0..3 {
                    let v = (p[axis].into() / size).floor();
                    if v.is_nan() || v.abs() > LARGEST_CELL {
                        return Err(outside(chunk * CHUNK + row, p[axis].into(), size));
                    }
                    cell[axis] = v as i64;
                    low[axis] = low[axis].min(cell[axis]);
                }
            }
            Ok(low)
        })
        .collect::<Vec<Result<[i64; 3]>>>();
    let mut low = [i64::MAX; 3];
    for part in lows {
        let part = part?;
        low = std::array::from_fn(|axis| low[axis].min(part[axis]));
    }
    cells.par_chunks_mut(CHUNK).for_each(|cells| {
        for cell in cells {
            *cell = std::array::from_fn(|axis| cell[axis] - low[axis]);
        }
    });
    Ok(cells)
}

fn outside(row: usize, value: f64, size: f64) -> Error {
    Error::argument(
        format!("point {row}"),
        format!(
            "coordinate {value} cannot be put into voxels of {size} m; remove such points first"
        ),
    )
}

/// The 64-bit key by which the reference numbers cells: multiply by the FNV prime, then xor, per axis.
pub fn key(cell: [i64; 3]) -> u64 {
    cell.iter().fold(FNV_OFFSET, |hash, &axis| {
        hash.wrapping_mul(FNV_PRIME) ^ axis as u64
    })
}

/// True when points occupy at most `limit` cells of edge `size` metres. Cells beyond that are not counted, so the answer
/// takes time for few points where the limit is small.
///
/// # Errors
/// As [`cells`], for the points up to the answer.
pub fn occupy_at_most(
    coord: impl Iterator<Item = [f32; 3]>,
    size: f64,
    limit: usize,
) -> Result<bool> {
    let mut seen = KeyNumbers::default();
    for (row, p) in coord.enumerate() {
        let mut cell = [0i64; 3];
        for axis in 0..3 {
            let v = (f64::from(p[axis]) / size).floor();
            if v.is_nan() || v.abs() > LARGEST_CELL {
                return Err(outside(row, f64::from(p[axis]), size));
            }
            cell[axis] = v as i64;
        }
        seen.number(keys::of_cell(cell));
        if seen.len() > limit {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Voxels {
    /// Sorts points into cells of edge `size` metres.
    ///
    /// # Errors
    /// As [`cells`], and more than 2^32 − 1 points.
    pub fn new<T: Copy + Into<f64> + Sync>(coord: &[[T; 3]], size: f64) -> Result<Voxels> {
        if u32::try_from(coord.len()).is_err() {
            return Err(Error::argument(
                "voxel sampling",
                format!("{} points at once; cut the cloud into tiles", coord.len()),
            ));
        }
        let cells = cells(coord, size)?;
        let mut order: Vec<(u64, u32)> = cells
            .par_iter()
            .enumerate()
            .map(|(row, cell)| (key(*cell), row as u32))
            .collect();
        drop(cells);
        // The pairs are distinct, so an unstable sort has one possible result.
        order.par_sort_unstable();

        let mut inverse = vec![0; coord.len()];
        let mut offsets = Vec::new();
        for (i, &(key, row)) in order.iter().enumerate() {
            if i == 0 || order[i - 1].0 != key {
                offsets.push(i as u32);
            }
            inverse[row as usize] = offsets.len() as u32 - 1;
        }
        offsets.push(order.len() as u32);
        Ok(Voxels {
            inverse,
            offsets,
            members: order.into_iter().map(|(_, row)| row).collect(),
        })
    }

    /// Number of occupied voxels.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// True when there is no voxel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The voxel of every point: spreads values from voxels back to points.
    pub fn inverse(&self) -> &[u32] {
        &self.inverse
    }

    /// The points of `voxel`, ascending.
    pub fn members(&self, voxel: usize) -> &[u32] {
        &self.members[self.offsets[voxel] as usize..self.offsets[voxel + 1] as usize]
    }

    fn counts(&self) -> impl Iterator<Item = u32> + '_ {
        self.offsets.windows(2).map(|w| w[1] - w[0])
    }

    /// Number of fragments of a test run: points in the fullest voxel.
    pub fn fragment_count(&self) -> usize {
        self.counts().max().unwrap_or(0) as usize
    }

    /// One random point per voxel, in voxel order. As in the reference, the draw is uniform over the fullest voxel's count
    /// and taken modulo the voxel's own.
    pub fn pick(&self, random: Random) -> Vec<u32> {
        let most = self.fragment_count() as u64;
        (0..self.len())
            .map(|voxel| {
                let members = self.members(voxel);
                members[random.below(voxel as u64, most) as usize % members.len()]
            })
            .collect()
    }

    /// Fragment number `fragment` of a test run: member `fragment mod count` of every voxel, in voxel order.
    pub fn fragment(&self, fragment: usize) -> Vec<u32> {
        (0..self.len())
            .map(|voxel| {
                let members = self.members(voxel);
                members[fragment % members.len()]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::tests::golden;
    use crate::device::random::Sequence;

    #[test]
    fn matches_the_reference_file() {
        let file = golden("op_voxelize");
        let coord = file.points("coord");
        let found = cells(&coord, 0.04).unwrap();
        let expected: Vec<[i64; 3]> = file
            .i64("grid_coord")
            .chunks_exact(3)
            .map(|c| [c[0], c[1], c[2]])
            .collect();
        assert_eq!(found, expected);
        let keys: Vec<i64> = found.iter().map(|c| key(*c) as i64).collect();
        assert_eq!(keys, file.i64("fnv_key_bits"));

        let voxels = Voxels::new(&coord, 0.04).unwrap();
        let inverse: Vec<i64> = voxels.inverse().iter().map(|v| i64::from(*v)).collect();
        assert_eq!(inverse, file.i64("voxel_of_point"));
        let counts: Vec<i64> = voxels.counts().map(i64::from).collect();
        assert_eq!(counts, file.i64("voxel_count"));
        let sizes: Vec<i64> = (0..voxels.fragment_count())
            .map(|f| voxels.fragment(f).len() as i64)
            .collect();
        assert_eq!(sizes, file.i64("fragment_sizes"));
    }

    #[test]
    fn fragments_together_hold_every_point() {
        let coord: Vec<[f32; 3]> = (0..500u16)
            .map(|i| [f32::from(i % 7) * 0.1, f32::from(i % 11) * 0.03, 0.0])
            .collect();
        let voxels = Voxels::new(&coord, 0.1).unwrap();
        let mut seen = vec![false; coord.len()];
        for f in 0..voxels.fragment_count() {
            for (voxel, row) in voxels.fragment(f).into_iter().enumerate() {
                assert_eq!(voxels.inverse()[row as usize] as usize, voxel);
                seen[row as usize] = true;
            }
        }
        assert!(seen.iter().all(|s| *s));
    }

    #[test]
    fn picks_repeat_for_a_seed_and_change_with_it() {
        let coord: Vec<[f64; 3]> = (0..300u32)
            .map(|i| [f64::from(i) * 0.01, 0.0, 0.0])
            .collect();
        let voxels = Voxels::new(&coord, 0.1).unwrap();
        assert_eq!(voxels.len(), 30);
        let pick = voxels.pick(Random::new(1, 2));
        assert_eq!(pick, voxels.pick(Random::new(1, 2)));
        assert_ne!(pick, voxels.pick(Random::new(1, 3)));
    }

    #[test]
    fn empty_clouds_and_bad_input_are_handled() {
        let none: [[f64; 3]; 0] = [];
        let voxels = Voxels::new(&none, 0.1).unwrap();
        assert!(voxels.is_empty() && voxels.fragment_count() == 0);
        assert!(voxels.pick(Random::new(0, 0)).is_empty());
        for size in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Voxels::new(&[[0.0f64; 3]], size).is_err(), "size {size}");
        }
        for bad in [f64::NAN, f64::INFINITY, 1e300] {
            let error = Voxels::new(&[[0.0; 3], [0.0, bad, 0.0]], 0.1).unwrap_err();
            assert!(error.to_string().contains("point 1"), "{error}");
        }
    }

    #[test]
    fn occupied_cells_are_counted_to_the_limit() {
        let mut s = Sequence::new(Random::new(2, 5));
        let coord: Vec<[f32; 3]> = (0..3000)
            .map(|_| std::array::from_fn(|_| (s.uniform() - 0.5) as f32))
            .collect();
        let count = Voxels::new(&coord, 0.1).unwrap().len();
        let within = |limit| occupy_at_most(coord.iter().copied(), 0.1, limit).unwrap();
        assert!(within(count) && !within(count - 1) && !within(0));
        assert!(occupy_at_most([[0.0, f32::NAN, 0.0]].into_iter(), 0.1, 5).is_err());
    }

    #[test]
    fn coincident_points_share_one_voxel() {
        let coord = vec![[3.0e6f64, 6.5e6, 100.0]; 1000];
        let voxels = Voxels::new(&coord, 0.04).unwrap();
        assert_eq!(voxels.len(), 1);
        assert_eq!(voxels.fragment_count(), 1000);
    }
}
