//! Neighbour tables of self queries, with what attention needs besides the rows: offsets to the neighbours, their
//! moments, and the table turned around.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | index | [N, K] | rows of the neighbours, nearest first (a point is its own first neighbour); [`MISSING`] at the end |
//! | delta | 3 planes [N, K] | x, y and z of p_j − p_i, metres; 0 where the neighbour is missing |
//! | transposed | ragged, one list per point | pairs i·K + j in which the point is the neighbour, ascending |
//! | moments | 3, 3×3 | mean and covariance of delta over all N·K slots, missing ones included |
//!
//! The moments make batch norm over positions cheap: the statistics of any linear image W Δ are W mean and W cov Wᵀ.

use super::ragged::check_length;
use super::tree::SearchTree;
use super::{Extent, MISSING, Ragged, cuda, search};
use crate::device::{Array, Gpu, Pointer};
use crate::{Error, Result};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Fewest rows that one task fills.
const ROWS: usize = 1024;
/// Slots that are summed into one partial result.
const SUMMED: usize = 1 << 14;

/// K neighbours of each of N query points.
#[derive(Debug, Clone)]
pub struct Neighbors {
    /// Neighbours per query.
    pub k: usize,
    /// N: number of queries.
    pub queries: usize,
    /// Number of points that can be neighbours; N for a self query.
    pub points: usize,
    /// [N, K] row-major: rows of the neighbours, [`MISSING`] where there is none.
    pub index: Array<u32>,
    /// x, y and z planes of p_j − p_i, each [N, K] row-major, metres; 0 where missing.
    pub delta: [Array<f32>; 3],
    /// How many slots have no neighbour, if that is known without reading them.
    missing: Option<usize>,
    /// The GPU whose kernels made it, if any.
    gpu: Option<Gpu>,
    transposed: OnceLock<Ragged>,
    moments: OnceLock<Moments>,
    /// Means of x, y, z, then covariances xx, xy, xz, yy, yz, zz.
    moment_values: OnceLock<Array<f64>>,
}

/// First and second moments of the offsets to neighbours.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Mean of delta, metres.
    pub mean: [f64; 3],
    /// Biased covariance of delta, m².
    pub covariance: [[f64; 3]; 3],
    /// N·K: slots, missing ones included.
    pub count: usize,
}

impl Neighbors {
    /// The `k` nearest neighbours of every point in its own batch element. Errors as [`knn`](fn@super::knn).
    pub fn self_query(coord: &[[f32; 3]], offsets: &[usize], k: usize) -> Result<Neighbors> {
        Self::from_tree(coord, &SearchTree::new(coord, offsets)?, k)
    }

    /// As [`Neighbors::self_query`] with a tree already built over `coord`. Errors also when the tree has another number
    /// of points.
    pub fn from_tree(coord: &[[f32; 3]], tree: &SearchTree, k: usize) -> Result<Neighbors> {
        if tree.points() != coord.len() {
            return Err(Error::argument(
                "search tree",
                format!("{} points, but {} coordinates", tree.points(), coord.len()),
            ));
        }
        let keys = tree.nearest_keys(tree, k)?;
        let position = tree.positions();
        Ok(Self::fill(k, coord, coord, |query, rows| {
            let keys = &keys[position[query] as usize * k..][..k];
            for (row, &key) in rows.iter_mut().zip(keys) {
                *row = search::parts(key).1;
            }
        }))
    }

    /// A table made elsewhere: `index` is [N, K] over the rows of `points`. Errors when its length is not N·K or a row
    /// does not exist.
    pub fn from_index(
        k: usize,
        index: &[u32],
        queries: &[[f32; 3]],
        points: &[[f32; 3]],
    ) -> Result<Neighbors> {
        check_length("queries times neighbours", index.len())?;
        if k == 0 || queries.len().checked_mul(k) != Some(index.len()) {
            return Err(Error::argument(
                "neighbour table",
                format!(
                    "{} entries for {} queries of {k} neighbours",
                    index.len(),
                    queries.len()
                ),
            ));
        }
        let strange = |row: &u32| *row != MISSING && *row as usize >= points.len();
        if let Some(at) = index.iter().position(strange) {
            return Err(Error::argument(
                "neighbour table",
                format!(
                    "entry {at} is {}, but there are {} points",
                    index[at],
                    points.len()
                ),
            ));
        }
        Ok(Self::fill(k, queries, points, |query, rows| {
            rows.copy_from_slice(&index[query * k..][..k]);
        }))
    }

    /// Builds the table from `find(query, rows)`, which writes the rows of a query's neighbours.
    fn fill(
        k: usize,
        queries: &[[f32; 3]],
        points: &[[f32; 3]],
        find: impl Fn(usize, &mut [u32]) + Sync,
    ) -> Neighbors {
        let slots = queries.len() * k;
        let mut index = vec![0u32; slots];
        let [mut x, mut y, mut z] = [(); 3].map(|()| vec![0.0f32; slots]);
        let missing: usize = index
            .par_chunks_mut(k)
            .zip(x.par_chunks_mut(k))
            .zip(y.par_chunks_mut(k))
            .zip(z.par_chunks_mut(k))
            .zip(queries)
            .enumerate()
            .with_min_len(ROWS)
            .map(|(query, ((((rows, x), y), z), center))| {
                find(query, rows);
                let mut missing = 0;
                for (slot, &row) in rows.iter().enumerate() {
                    match points.get(row as usize) {
                        Some(point) => {
                            x[slot] = point[0] - center[0];
                            y[slot] = point[1] - center[1];
                            z[slot] = point[2] - center[2];
                        }
                        None => missing += 1,
                    }
                }
                missing
            })
            .sum();
        Neighbors {
            k,
            queries: queries.len(),
            points: points.len(),
            index: index.into(),
            delta: [x.into(), y.into(), z.into()],
            missing: Some(missing),
            gpu: None,
            transposed: OnceLock::new(),
            moments: OnceLock::new(),
            moment_values: OnceLock::new(),
        }
    }

    /// True when no neighbour is missing.
    ///
    /// # Panics
    /// As [`Neighbors::transposed`].
    pub fn is_complete(&self) -> bool {
        match self.missing {
            Some(missing) => missing == 0,
            None => self.transposed().index.len() == self.index.len(),
        }
    }

    /// For every point the pair numbers i·K + j in which it is the neighbour, ascending. Built at the first call.
    ///
    /// # Panics
    /// When the GPU that holds the table is lost or has no memory left.
    pub fn transposed(&self) -> &Ragged {
        self.try_transposed().unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`Neighbors::transposed`], for callers that can pass a fault on.
    ///
    /// # Errors
    /// Too little memory on the GPU that holds the table, or a fault of it.
    pub fn try_transposed(&self) -> Result<&Ragged> {
        if self.transposed.get().is_none() {
            let lists = match self.gpu {
                None => Ragged::inverse(&self.index, self.points)?,
                Some(gpu) => cuda::inverse(gpu, &self.index, self.points, self.missing)?,
            };
            // Another thread may have been faster, with the same lists.
            let _ = self.transposed.set(lists);
        }
        Ok(self.transposed.get().expect("they were set just now"))
    }

    /// Moments of delta over all N·K slots. Summed in f64 over fixed chunks at the first call; all zero without slots.
    ///
    /// # Panics
    /// When the GPU that holds the table is lost or has no memory left.
    pub fn moments(&self) -> &Moments {
        self.moments
            .get_or_init(|| Moments::of(self.moment_values(), self.index.len()))
    }

    /// Address on `gpu` of the means of x, y and z and the covariances xx, xy, xz, yy, yz and zz of delta, f64.
    ///
    /// # Errors
    /// Too little memory, or a fault of the GPU.
    pub fn moments_on(&self, gpu: Gpu) -> Result<Pointer> {
        if let (None, Some(home)) = (self.moment_values.get(), self.gpu) {
            // Another thread may have been faster, with the same values.
            let _ = self.moment_values.set(cuda::moments(home, &self.delta)?);
        }
        self.moment_values().on(gpu)
    }

    fn moment_values(&self) -> &Array<f64> {
        self.moment_values.get_or_init(|| match self.gpu {
            Some(gpu) => cuda::moments(gpu, &self.delta).unwrap_or_else(|e| panic!("{e}")),
            None => self.sum_moments().to_vec().into(),
        })
    }

    fn sum_moments(&self) -> [f64; 9] {
        let [x, y, z] = &self.delta;
        let partial: Vec<[f64; 9]> = x
            .par_chunks(SUMMED)
            .zip(y.par_chunks(SUMMED))
            .zip(z.par_chunks(SUMMED))
            .map(|((x, y), z)| sums(x, y, z))
            .collect();
        let mut sum = [0.0; 9];
        for partial in partial {
            for (sum, part) in sum.iter_mut().zip(partial) {
                *sum += part;
            }
        }
        let [mx, my, mz, xx, xy, xz, yy, yz, zz] = sum.map(|s| s / x.len().max(1) as f64);
        let (xy, xz, yz) = (xy - mx * my, xz - mx * mz, yz - my * mz);
        let [xx, yy, zz] = [xx - mx * mx, yy - my * my, zz - mz * mz].map(|v| v.max(0.0));
        [mx, my, mz, xx, xy, xz, yy, yz, zz]
    }

    /// As [`Neighbors::from_tree`] and between two point sets, on the GPU that holds the trees. `extent` bounds the
    /// coordinates of both.
    pub(super) fn on_gpu(
        points: &cuda::Tree,
        queries: &cuda::Tree,
        k: usize,
        extent: &Extent,
    ) -> Result<Neighbors> {
        let table = cuda::neighbors(points, queries, k)?;
        // Where every point can be found, only those that an element lacks are missing.
        let missing = extent.is_within_reach().then(|| {
            let elements = points.cloud.offsets.windows(2);
            elements
                .zip(queries.cloud.offsets.windows(2))
                .map(|(p, q)| (q[1] - q[0]) * k.saturating_sub(p[1] - p[0]))
                .sum()
        });
        Ok(Self::of_table(k, table, [points, queries], missing))
    }

    /// A table that kernels made among points for queries.
    pub(super) fn of_table(
        k: usize,
        table: cuda::Table,
        [points, queries]: [&cuda::Tree; 2],
        missing: Option<usize>,
    ) -> Neighbors {
        Neighbors {
            k,
            queries: queries.cloud.coord.len(),
            points: points.cloud.coord.len(),
            index: table.index,
            delta: table.delta,
            missing,
            gpu: Some(points.cloud.gpu),
            transposed: OnceLock::new(),
            moments: OnceLock::new(),
            moment_values: OnceLock::new(),
        }
    }
}

impl Moments {
    /// From means of x, y, z and covariances xx, xy, xz, yy, yz, zz over `count` slots.
    fn of(values: &[f64], count: usize) -> Moments {
        let [mx, my, mz, xx, xy, xz, yy, yz, zz] = std::array::from_fn(|i| values[i]);
        Moments {
            mean: [mx, my, mz],
            covariance: [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]],
            count,
        }
    }
}

/// Sums of x, y, z, xx, xy, xz, yy, yz, zz.
fn sums(x: &[f32], y: &[f32], z: &[f32]) -> [f64; 9] {
    let mut sum = [0.0; 9];
    for ((&x, &y), &z) in x.iter().zip(y).zip(z) {
        let (x, y, z) = (f64::from(x), f64::from(y), f64::from(z));
        for (sum, term) in sum
            .iter_mut()
            .zip([x, y, z, x * x, x * y, x * z, y * y, y * z, z * z])
        {
            *sum += term;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::shapes;

    #[test]
    fn delta_is_the_offset_to_the_neighbour() {
        let (coord, offsets) = shapes::batch(&[shapes::uniform(500, 1), shapes::uniform(3, 2)]);
        let table = Neighbors::self_query(&coord, &offsets, 8).unwrap();
        let found = crate::geometry::knn(&coord, &offsets, &coord, &offsets, 8).unwrap();
        assert_eq!(table.index[..], found.index);
        assert!(!table.is_complete());
        for (slot, &row) in table.index.iter().enumerate() {
            for axis in 0..3 {
                let expected = match coord.get(row as usize) {
                    Some(p) => p[axis] - coord[slot / 8][axis],
                    None => 0.0,
                };
                assert_eq!(table.delta[axis][slot], expected);
            }
        }
        let again = Neighbors::from_index(8, &table.index, &coord, &coord).unwrap();
        assert_eq!(again.delta, table.delta);
    }

    #[test]
    fn transposed_lists_name_every_pair_once() {
        let (coord, offsets) = shapes::batch(&[shapes::uniform(200, 1), shapes::uniform(5, 2)]);
        let table = Neighbors::self_query(&coord, &offsets, 16).unwrap();
        let lists = table.transposed();
        assert_eq!(lists.len(), 205);
        lists.check(205 * 16).unwrap();
        let pairs = table.index.iter().filter(|row| **row != MISSING).count();
        assert_eq!(lists.index.len(), pairs);
        for point in 0..205 {
            let list = lists.list(point);
            assert!(list.windows(2).all(|w| w[0] < w[1]));
            assert!(
                list.iter()
                    .all(|pair| table.index[*pair as usize] as usize == point)
            );
        }
    }

    #[test]
    fn moments_match_two_passes() {
        let (coord, offsets) = shapes::batch(&[shapes::uniform(2500, 1), shapes::uniform(3, 2)]);
        let table = Neighbors::self_query(&coord, &offsets, 16).unwrap();
        let moments = table.moments();
        let slots = table.index.len();
        assert_eq!(moments.count, slots);
        let value = |axis: usize, slot: usize| f64::from(table.delta[axis][slot]);
        let mean: [f64; 3] =
            std::array::from_fn(|a| (0..slots).map(|s| value(a, s)).sum::<f64>() / slots as f64);
        for a in 0..3 {
            assert!((moments.mean[a] - mean[a]).abs() < 1e-12);
            for b in 0..3 {
                let terms = (0..slots).map(|s| (value(a, s) - mean[a]) * (value(b, s) - mean[b]));
                let expected = terms.sum::<f64>() / slots as f64;
                let error = (moments.covariance[a][b] - expected).abs();
                assert!(error < 1e-12, "{a} {b}: {error}");
            }
        }
    }

    #[test]
    fn no_points_give_an_empty_table() {
        let table = Neighbors::self_query(&[], &[0, 0], 16).unwrap();
        assert_eq!(table.index.len(), 0);
        assert!(table.is_complete());
        assert_eq!(table.transposed().len(), 0);
        assert_eq!(table.moments().mean, [0.0; 3]);
    }

    #[test]
    fn tables_that_do_not_fit_are_rejected() {
        let coord = [[0.0; 3]; 2];
        for (k, index) in [(0, &[][..]), (2, &[0, 1, 0]), (1, &[0, 2])] {
            assert!(Neighbors::from_index(k, index, &coord, &coord).is_err());
        }
        let tree = SearchTree::new(&coord, &[0, 2]).unwrap();
        assert!(Neighbors::from_tree(&coord[..1], &tree, 1).is_err());
    }
}
