//! Geometry of one batch: every level, neighbour table, partition and stencil that a network asks for, each computed
//! once however often it is asked for.
//!
//! Level 0 is the input; every pool and every thinning makes a further level. A decoder stage that asks for the neighbours its encoder
//! stage had gets the same table, and all questions about a level share one search tree.
//!
//! On a GPU all of them are made by kernels and stay there; the host waits once per pool, for the number of pooled points,
//! and once per set of windows, for the lengths of their lists.
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

use super::farthest_point::{ends_of, farthest_of_tree};
use super::radius::{radius_of_tree, radius_on_gpu};
use super::ragged::check_offsets;
use super::{Choice, Extent, Interpolation, Neighbors, Padding, Partition, SearchTree};
use super::{WindowOptions, Windows, cuda, partition};
use crate::device::{Array, Device, Gpu};
use crate::{Error, Result};
use std::sync::Arc;

/// Levels of one batch and the index lists between and within them.
#[derive(Debug)]
pub struct Hierarchy {
    device: Device,
    levels: Vec<Level>,
    pools: Vec<Pool>,
    stencils: Vec<((usize, usize, Padding), Arc<Interpolation>)>,
}

/// One point set.
#[derive(Debug)]
struct Level {
    coord: Array<[f32; 3]>,
    offsets: Vec<usize>,
    extent: Extent,
    tree: Option<Arc<SearchTree>>,
    cloud: Option<Arc<cuda::Cloud>>,
    gpu_tree: Option<Arc<cuda::Tree>>,
    neighbors: Vec<Arc<Neighbors>>,
    /// Farthest points: how many per element, and their rows.
    sampled: (Vec<usize>, Array<u32>),
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
        Hierarchy::on(Device::Cpu, coord, offsets)
    }

    /// As [`Hierarchy::new`], with index lists made on `device`.
    pub fn on(device: Device, coord: Vec<[f32; 3]>, offsets: Vec<usize>) -> Result<Hierarchy> {
        check_offsets(&offsets, coord.len())?;
        let strange = |p: &[f32; 3]| p.iter().any(|x| !x.is_finite());
        if let Some(row) = coord.iter().position(strange) {
            return Err(Error::NotFinite {
                what: format!("coordinate of point {row}"),
                fault: format!("{:?}; remove such points first", coord[row]),
            });
        }
        let extent = Extent::of(&coord);
        Ok(Hierarchy {
            device,
            levels: vec![Level::new(coord.into(), offsets, extent)],
            pools: Vec::new(),
            stencils: Vec::new(),
        })
    }

    /// Number of levels so far.
    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Coordinates of a level, metres. Panics when the level does not exist, as indexing does.
    pub fn coord(&self, level: usize) -> &Array<[f32; 3]> {
        &self.levels[level].coord
    }

    /// Batch offsets of a level. Panics when the level does not exist, as indexing does.
    pub fn offsets(&self, level: usize) -> &[usize] {
        &self.levels[level].offsets
    }

    /// The `k` nearest neighbours of every point of `level`. Errors when the level does not exist or K is out of range.
    pub fn neighbors(&mut self, level: usize, k: usize) -> Result<Arc<Neighbors>> {
        self.check(level)?;
        let known = &self.levels[level].neighbors;
        if let Some(known) = known.iter().find(|table| table.k == k) {
            return Ok(known.clone());
        }
        let table = match self.device {
            Device::Cpu => {
                let tree = self.tree(level)?;
                Neighbors::from_tree(&self.levels[level].coord, &tree, k)?
            }
            Device::Cuda(gpu) => {
                let tree = self.gpu_tree(gpu, level)?;
                Neighbors::on_gpu(&tree, &tree, k, &self.levels[level].extent)?
            }
        };
        let table = Arc::new(table);
        self.levels[level].neighbors.push(table.clone());
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
        let partition = match self.device {
            Device::Cpu => {
                let fine = &self.levels[level];
                partition::grid(&fine.coord, &fine.offsets, size)?
            }
            Device::Cuda(gpu) => {
                partition::check_size(size)?;
                let cloud = self.cloud(gpu, level)?;
                cuda::partition(&cloud, size, &self.levels[level].extent)?
            }
        };
        let partition = Arc::new(partition);
        let coarse = self.levels.len();
        let fine = &self.levels[level];
        self.levels.push(Level::new(
            partition.coord.clone(),
            partition.offsets.clone(),
            fine.extent.of_means(fine.coord.len()),
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
        let stencil = match self.device {
            Device::Cpu => {
                let (fine, coarse) = (self.tree(fine)?, self.tree(coarse)?);
                Interpolation::padded(&fine, &coarse, padding)?
            }
            Device::Cuda(gpu) => {
                let (fine, coarse) = (self.gpu_tree(gpu, fine)?, self.gpu_tree(gpu, coarse)?);
                Interpolation::on_gpu(&fine, &coarse, padding)?
            }
        };
        let stencil = Arc::new(stencil);
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
        let table = match self.device {
            Device::Cpu => {
                let tree = self.tree(level)?;
                radius_of_tree(&self.levels[level].coord, &tree, radius, k, choice)?
            }
            Device::Cuda(gpu) => {
                let tree = self.gpu_tree(gpu, level)?;
                radius_on_gpu(&tree, radius, k, choice)?
            }
        };
        Ok(Arc::new(table))
    }

    /// The `k` nearest points of level `points` for every point of level `queries`. Errors as
    /// [`knn`](fn@super::knn), or when a level does not exist.
    pub fn neighbors_between(
        &mut self,
        queries: usize,
        points: usize,
        k: usize,
    ) -> Result<Arc<Neighbors>> {
        let table = match self.device {
            Device::Cpu => {
                let found = self.tree(points)?.nearest(&*self.tree(queries)?, k)?;
                let (queries, points) = (&self.levels[queries].coord, &self.levels[points].coord);
                Neighbors::from_index(k, &found.index, queries, points)?
            }
            Device::Cuda(gpu) => {
                let trees = [self.gpu_tree(gpu, points)?, self.gpu_tree(gpu, queries)?];
                let extents = [points, queries].map(|level| self.levels[level].extent);
                Neighbors::on_gpu(&trees[0], &trees[1], k, &extents[0].and(&extents[1]))?
            }
        };
        Ok(Arc::new(table))
    }

    /// Rows of the farthest points of `level`, `counts` per element, one element after another.
    ///
    /// Fewer samples are the beginning of more: ask for the largest counts first, and the others cost nothing. Errors as
    /// [`farthest_points`](super::farthest_points), or when the level does not exist.
    pub fn farthest(&mut self, level: usize, counts: &[usize]) -> Result<Array<u32>> {
        self.check(level)?;
        let known = &self.levels[level].sampled.0;
        let is_known = known.len() == counts.len() && counts.iter().zip(known).all(|(a, b)| a <= b);
        if !is_known {
            let rows = match self.device {
                Device::Cpu => {
                    let tree = self.tree(level)?;
                    farthest_of_tree(&self.levels[level].coord, &tree, counts)?.into()
                }
                Device::Cuda(gpu) => cuda::farthest(&*self.gpu_tree(gpu, level)?, counts)?,
            };
            self.levels[level].sampled = (counts.to_vec(), rows);
        }
        let (known, rows) = &self.levels[level].sampled;
        if known == counts {
            return Ok(rows.clone());
        }
        match self.device {
            Device::Cpu => Ok(beginnings(rows, known, counts).into()),
            Device::Cuda(gpu) => {
                let (known, rows) = (known.clone(), rows.clone());
                cuda::prefix(&*self.cloud(gpu, level)?, &rows, &known, counts)
            }
        }
    }

    /// Makes a level of the farthest points of `level`, in sampling order: the number of the new level. Errors as
    /// [`Hierarchy::farthest`].
    pub fn thin(&mut self, level: usize, counts: &[usize]) -> Result<usize> {
        let rows = self.farthest(level, counts)?;
        let coord = match self.device {
            Device::Cpu => {
                let coord = &self.levels[level].coord;
                let sampled = rows.iter().map(|&row| coord[row as usize]);
                sampled.collect::<Vec<_>>().into()
            }
            Device::Cuda(gpu) => cuda::sampled_coord(&*self.cloud(gpu, level)?, &rows)?,
        };
        let extent = self.levels[level].extent;
        self.levels.push(Level::new(coord, ends_of(counts), extent));
        Ok(self.levels.len() - 1)
    }

    /// Attention windows over `level`: with the rows in `sampled` as sparse keys, or with dense keys only and bins counted
    /// from cell to cell (3D Swin). Errors as [`windows`](super::windows) says, or when the level does not exist.
    pub fn windows(
        &mut self,
        level: usize,
        options: WindowOptions,
        sampled: Option<&Array<u32>>,
    ) -> Result<Arc<Windows>> {
        self.check(level)?;
        let windows = match self.device {
            Device::Cpu => {
                let Level { coord, offsets, .. } = &self.levels[level];
                match sampled {
                    Some(rows) => Windows::stratified(coord, offsets, options, rows)?,
                    None => Windows::swin(coord, offsets, options)?,
                }
            }
            Device::Cuda(gpu) => {
                let cloud = self.cloud(gpu, level)?;
                Windows::on_gpu(&cloud, &self.levels[level].extent, options, sampled)?
            }
        };
        Ok(Arc::new(windows))
    }

    /// The search tree of a level, built at the first call.
    fn tree(&mut self, level: usize) -> Result<Arc<SearchTree>> {
        self.check(level)?;
        let level = &mut self.levels[level];
        if let Some(tree) = &level.tree {
            return Ok(tree.clone());
        }
        let tree = Arc::new(SearchTree::new(level.coord.fetch()?, &level.offsets)?);
        level.tree = Some(tree.clone());
        Ok(tree)
    }

    /// The points of a level on a GPU, brought there at the first call.
    fn cloud(&mut self, gpu: Gpu, level: usize) -> Result<Arc<cuda::Cloud>> {
        self.check(level)?;
        let level = &mut self.levels[level];
        if let Some(cloud) = &level.cloud {
            return Ok(cloud.clone());
        }
        let cloud = cuda::Cloud::new(gpu, level.coord.clone(), &level.offsets)?;
        let cloud = Arc::new(cloud);
        level.cloud = Some(cloud.clone());
        Ok(cloud)
    }

    /// The search tree of a level on a GPU, built at the first call.
    fn gpu_tree(&mut self, gpu: Gpu, level: usize) -> Result<Arc<cuda::Tree>> {
        let cloud = self.cloud(gpu, level)?;
        let level = &mut self.levels[level];
        if let Some(tree) = &level.gpu_tree {
            return Ok(tree.clone());
        }
        let tree = Arc::new(cuda::Tree::new(cloud)?);
        level.gpu_tree = Some(tree.clone());
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

/// The first `counts` rows of every element, of which `known` are in `rows`.
fn beginnings(rows: &[u32], known: &[usize], counts: &[usize]) -> Vec<u32> {
    let starts = ends_of(known);
    let lists = starts.iter().zip(counts);
    let taken = lists.flat_map(|(&start, &count)| &rows[start..start + count]);
    taken.copied().collect()
}

impl Level {
    fn new(coord: Array<[f32; 3]>, offsets: Vec<usize>, extent: Extent) -> Level {
        let elements = offsets.len() - 1;
        Level {
            coord,
            offsets,
            extent,
            tree: None,
            cloud: None,
            gpu_tree: None,
            neighbors: Vec::new(),
            sampled: (vec![0; elements], Array::default()),
        }
    }
}

#[cfg(test)]
#[path = "hierarchy_tests.rs"]
mod tests;
