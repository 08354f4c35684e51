//! Geometry of one batch: every level, neighbour table, partition and stencil that a network asks for, each computed
//! once however often it is asked for.
//!
//! Level 0 is the input; every pool and every thinning makes a further level. A decoder stage that asks for the neighbours its encoder
//! stage had gets the same table, and all questions about a level share one search tree.
//!
//! ```
//! use cairn::geometry::Hierarchy;
//! let coord = vec![[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [2.0, 0.0, 0.0]];
//! let mut geometry = Hierarchy::new(coord, vec![0, 3])?;
//! let (coarse, partition) = geometry.pool(0, 1.0)?;
//! let neighbors = geometry.neighbors(coarse, 2)?;
//! let stencil = geometry.interpolation(0, coarse)?;
//! assert_eq!((partition.len(), neighbors.queries, stencil.len()), (2, 2, 3));
//! # Ok::<(), cairn::Error>(())
//! ```

use super::farthest_point::farthest_of_tree;
use super::radius::radius_of_tree;
use super::ragged::check_offsets;
use super::{Choice, Interpolation, Neighbors, Padding, Partition, SearchTree, partition};
use crate::{Error, Result};
use std::sync::Arc;

/// Levels of one batch and the index lists between and within them.
#[derive(Debug)]
pub struct Hierarchy {
    levels: Vec<Level>,
    pools: Vec<Pool>,
    stencils: Vec<((usize, usize, Padding), Arc<Interpolation>)>,
}

/// One point set.
#[derive(Debug)]
struct Level {
    coord: Vec<[f32; 3]>,
    offsets: Vec<usize>,
    tree: Option<Arc<SearchTree>>,
    neighbors: Vec<Arc<Neighbors>>,
    /// Farthest points: how many per element, and their rows.
    sampled: (Vec<usize>, Vec<u32>),
}

/// A partition of level `fine` that made level `coarse`.
#[derive(Debug)]
struct Pool {
    fine: usize,
    size: f32,
    coarse: usize,
    partition: Arc<Partition>,
}

impl Hierarchy {
    /// Starts with the input as level 0: `coord` in metres, `offsets` of the batch elements. Errors when the offsets do
    /// not fit or a coordinate is not finite.
    pub fn new(coord: Vec<[f32; 3]>, offsets: Vec<usize>) -> Result<Hierarchy> {
        check_offsets(&offsets, coord.len())?;
        let strange = |p: &[f32; 3]| p.iter().any(|x| !x.is_finite());
        if let Some(row) = coord.iter().position(strange) {
            return Err(Error::NotFinite {
                what: format!("coordinate of point {row}"),
                fault: format!("{:?}; remove such points first", coord[row]),
            });
        }
        Ok(Hierarchy {
            levels: vec![Level::new(coord, offsets)],
            pools: Vec::new(),
            stencils: Vec::new(),
        })
    }

    /// Number of levels so far.
    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Coordinates of a level, metres. Panics when the level does not exist, as indexing does.
    pub fn coord(&self, level: usize) -> &[[f32; 3]] {
        &self.levels[level].coord
    }

    /// Batch offsets of a level. Panics when the level does not exist, as indexing does.
    pub fn offsets(&self, level: usize) -> &[usize] {
        &self.levels[level].offsets
    }

    /// The `k` nearest neighbours of every point of `level`. Errors when the level does not exist or K is out of range.
    pub fn neighbors(&mut self, level: usize, k: usize) -> Result<Arc<Neighbors>> {
        let tree = self.tree(level)?;
        let level = &mut self.levels[level];
        if let Some(known) = level.neighbors.iter().find(|table| table.k == k) {
            return Ok(known.clone());
        }
        let table = Arc::new(Neighbors::from_tree(&level.coord, &tree, k)?);
        level.neighbors.push(table.clone());
        Ok(table)
    }

    /// Pools `level` by cells of `size` metres: the number of the pooled level, and the partition. Errors as
    /// [`partition::grid`] or when the level does not exist.
    pub fn pool(&mut self, level: usize, size: f32) -> Result<(usize, Arc<Partition>)> {
        self.check(level)?;
        let same = |pool: &&Pool| pool.fine == level && pool.size == size;
        if let Some(known) = self.pools.iter().find(same) {
            return Ok((known.coarse, known.partition.clone()));
        }
        let fine = &self.levels[level];
        let partition = Arc::new(partition::grid(&fine.coord, &fine.offsets, size)?);
        let coarse = self.levels.len();
        self.levels.push(Level::new(
            partition.coord.clone(),
            partition.offsets.clone(),
        ));
        self.pools.push(Pool {
            fine: level,
            size,
            coarse,
            partition: partition.clone(),
        });
        Ok((coarse, partition))
    }

    /// The stencil that interpolates from level `coarse` to level `fine`. Errors when a level does not exist or there is
    /// no coarse point to read.
    pub fn interpolation(&mut self, fine: usize, coarse: usize) -> Result<Arc<Interpolation>> {
        self.interpolation_padded(fine, coarse, Padding::LastRow)
    }

    /// As [`Hierarchy::interpolation`] with a choice of the row that missing neighbours read.
    pub fn interpolation_padded(
        &mut self,
        fine: usize,
        coarse: usize,
        padding: Padding,
    ) -> Result<Arc<Interpolation>> {
        let request = (fine, coarse, padding);
        if let Some((_, known)) = self.stencils.iter().find(|(of, _)| *of == request) {
            return Ok(known.clone());
        }
        let (fine, coarse) = (self.tree(fine)?, self.tree(coarse)?);
        let stencil = Arc::new(Interpolation::padded(&fine, &coarse, padding)?);
        self.stencils.push((request, stencil.clone()));
        Ok(stencil)
    }

    /// The neighbours of every point of `level` within `radius` metres. Errors as [`radius`](super::radius), or when the
    /// level does not exist.
    pub fn ball(
        &mut self,
        level: usize,
        radius: f32,
        k: usize,
        choice: Choice,
    ) -> Result<Arc<Neighbors>> {
        let tree = self.tree(level)?;
        let coord = &self.levels[level].coord;
        Ok(Arc::new(radius_of_tree(coord, &tree, radius, k, choice)?))
    }

    /// The `k` nearest points of level `points` for every point of level `queries`. Errors as
    /// [`knn`](fn@super::knn), or when a level does not exist.
    pub fn neighbors_between(
        &mut self,
        queries: usize,
        points: usize,
        k: usize,
    ) -> Result<Arc<Neighbors>> {
        let found = self.tree(points)?.nearest(&*self.tree(queries)?, k)?;
        let (queries, points) = (&self.levels[queries].coord, &self.levels[points].coord);
        Ok(Arc::new(Neighbors::from_index(
            k,
            &found.index,
            queries,
            points,
        )?))
    }

    /// Rows of the farthest points of `level`, `counts` per element, one element after another.
    ///
    /// Fewer samples are the beginning of more: ask for the largest counts first, and the others cost nothing. Errors as
    /// [`farthest_points`](super::farthest_points), or when the level does not exist.
    pub fn farthest(&mut self, level: usize, counts: &[usize]) -> Result<Vec<u32>> {
        let tree = self.tree(level)?;
        let level = &mut self.levels[level];
        let known = level.sampled.0.len() == counts.len()
            && counts.iter().zip(&level.sampled.0).all(|(a, b)| a <= b);
        if !known {
            level.sampled = (
                counts.to_vec(),
                farthest_of_tree(&level.coord, &tree, counts)?,
            );
        }
        let (lengths, rows) = &level.sampled;
        let mut rest = &rows[..];
        let mut taken = Vec::with_capacity(counts.iter().sum());
        for (&count, &length) in counts.iter().zip(lengths) {
            let (mine, others) = rest.split_at(length);
            taken.extend_from_slice(&mine[..count]);
            rest = others;
        }
        Ok(taken)
    }

    /// Makes a level of the farthest points of `level`, in sampling order: the number of the new level. Errors as
    /// [`Hierarchy::farthest`].
    pub fn thin(&mut self, level: usize, counts: &[usize]) -> Result<usize> {
        let rows = self.farthest(level, counts)?;
        let coord = &self.levels[level].coord;
        let coord = rows.iter().map(|&row| coord[row as usize]).collect();
        let mut offsets = vec![0];
        for count in counts {
            offsets.push(offsets[offsets.len() - 1] + count);
        }
        self.levels.push(Level::new(coord, offsets));
        Ok(self.levels.len() - 1)
    }

    /// The search tree of a level, built at the first call.
    fn tree(&mut self, level: usize) -> Result<Arc<SearchTree>> {
        self.check(level)?;
        let level = &mut self.levels[level];
        if let Some(tree) = &level.tree {
            return Ok(tree.clone());
        }
        let tree = Arc::new(SearchTree::new(&level.coord, &level.offsets)?);
        level.tree = Some(tree.clone());
        Ok(tree)
    }

    fn check(&self, level: usize) -> Result<()> {
        if level < self.levels.len() {
            return Ok(());
        }
        Err(Error::argument(
            "geometry level",
            format!("{level} does not exist; there are {}", self.levels.len()),
        ))
    }
}

impl Level {
    fn new(coord: Vec<[f32; 3]>, offsets: Vec<usize>) -> Level {
        let elements = offsets.len() - 1;
        Level {
            coord,
            offsets,
            tree: None,
            neighbors: Vec::new(),
            sampled: (vec![0; elements], Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::shapes;

    fn example() -> Hierarchy {
        let (coord, offsets) = shapes::batch(&[shapes::uniform(400, 1), shapes::uniform(7, 2)]);
        Hierarchy::new(coord, offsets).unwrap()
    }

    #[test]
    fn equal_requests_share_one_result() {
        let mut geometry = example();
        let (coarse, first) = geometry.pool(0, 0.3).unwrap();
        let (again, second) = geometry.pool(0, 0.3).unwrap();
        assert!(coarse == again && Arc::ptr_eq(&first, &second));
        let (other, _) = geometry.pool(0, 0.5).unwrap();
        assert_ne!(other, coarse);
        assert_eq!(geometry.levels(), 3);
        let a = geometry.neighbors(coarse, 16).unwrap();
        let b = geometry.neighbors(coarse, 16).unwrap();
        let c = geometry.neighbors(coarse, 8).unwrap();
        assert!(Arc::ptr_eq(&a, &b) && c.k == 8);
        let a = geometry.interpolation(0, coarse).unwrap();
        let b = geometry.interpolation(0, coarse).unwrap();
        assert!(Arc::ptr_eq(&a, &b));
        assert_eq!(
            geometry.interpolation(0, other).unwrap().points,
            geometry.coord(other).len()
        );
    }

    #[test]
    fn results_equal_those_of_the_single_steps() {
        let mut geometry = example();
        let (coarse, partition) = geometry.pool(0, 0.3).unwrap();
        assert_eq!(geometry.coord(coarse), partition.coord);
        assert_eq!(geometry.offsets(coarse), partition.offsets);
        let table = geometry.neighbors(coarse, 16).unwrap();
        let alone = Neighbors::self_query(&partition.coord, &partition.offsets, 16).unwrap();
        assert_eq!(table.index, alone.index);
        let stencil = geometry.interpolation(0, coarse).unwrap();
        let (coord, offsets) = (geometry.coord(0), geometry.offsets(0));
        let alone =
            Interpolation::new(coord, offsets, &partition.coord, &partition.offsets).unwrap();
        assert_eq!(stencil.index, alone.index);
        assert_eq!(stencil.weight, alone.weight);
    }

    #[test]
    fn fewer_samples_are_the_beginning_of_more() {
        let mut geometry = example();
        let more = geometry.farthest(0, &[100, 5]).unwrap();
        let fewer = geometry.farthest(0, &[40, 2]).unwrap();
        assert_eq!(fewer, [&more[..40], &more[100..102]].concat());
        let alone = example().farthest(0, &[40, 2]).unwrap();
        assert_eq!(fewer, alone);
        let again = geometry.farthest(0, &[40, 6]).unwrap();
        assert_eq!((&again[..40], again.len()), (&fewer[..40], 46));
    }

    #[test]
    fn thinned_levels_keep_the_order_of_sampling() {
        let mut geometry = example();
        let rows = geometry.farthest(0, &[30, 3]).unwrap();
        let coarse = geometry.thin(0, &[30, 3]).unwrap();
        assert_eq!(geometry.offsets(coarse), [0, 30, 33]);
        for (point, &row) in geometry.coord(coarse).to_vec().iter().zip(&rows) {
            assert_eq!(*point, geometry.coord(0)[row as usize]);
        }
        let table = geometry.neighbors_between(coarse, 0, 4).unwrap();
        let nearest: Vec<u32> = table.index.iter().step_by(4).copied().collect();
        assert_eq!(nearest, rows, "a sample's nearest point is itself");
    }

    #[test]
    fn bad_requests_are_errors() {
        let mut geometry = example();
        assert!(geometry.farthest(1, &[1, 1]).is_err());
        assert!(geometry.thin(0, &[1]).is_err());
        assert!(geometry.neighbors_between(0, 1, 3).is_err());
        assert!(geometry.ball(0, 0.0, 3, Choice::First).is_err());
        assert!(geometry.neighbors(1, 16).is_err());
        assert!(geometry.pool(1, 0.1).is_err());
        assert!(geometry.interpolation(0, 1).is_err());
        assert!(geometry.neighbors(0, 0).is_err());
        assert!(geometry.pool(0, -1.0).is_err());
        assert!(Hierarchy::new(vec![[0.0, f32::NAN, 0.0]], vec![0, 1]).is_err());
        assert!(Hierarchy::new(vec![[0.0; 3]], vec![0, 2]).is_err());
    }
}
