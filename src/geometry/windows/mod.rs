//! Attention windows: who attends to whom, as windows instead of pairs (Lai et al. 2022, Stratified Transformer).
//!
//! The cloud is cut into small windows of edge w and large ones of edge 2w. A point attends to all points of its small
//! window (*dense* keys) and to the sampled points of its large window that lie in another small window (*sparse*
//! keys). All points that share both windows have the same keys: they are one [`Group`]. So O(N) numbers say what
//! the reference code keeps as pair lists.
//!
//! cell = trunc((p + shift − start) / size) per axis in f32, in this order and with a true division; start is the
//! componentwise minimum over the **whole batch** (not per element). Shift is 0, or half the size in shifted windows:
//! w/2 for the small, w for the large ones, so that shifted small windows are not nested in the shifted large ones.
//! Windows never hold points of two batch elements. They are ordered by element, then z, then y, x fastest.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | [N, 3] | metres |
//! | sampled | D | rows of the sampled points (farthest points); a row that comes twice counts once |
//! | order | \[N\] | rows by small window, then large window, then row; *positions* below count in it |
//! | groups | ≤ N | queries and dense keys as ranges of positions, and a list of `sampled` |
//! | sampled lists | ragged over positions | sampled points of every large window |
//! | parts | ≤ 16 | runs of whole small windows with about equal work: what backward adds up on its own |
//!
//! On a GPU kernels make the same lists (`kernels/window_lists.cu`), through [`Hierarchy::windows`](super::Hierarchy).
//!
//! Errors: a window or bin size that is not a positive number, or a window above [`MAX_WINDOW`]; a sampled row that
//! does not exist; so many windows that their numbers overflow.

mod cells;
mod groups;
mod quantization;
#[cfg(test)]
mod tests;
mod tiles;

pub use groups::{Group, Part};
pub use quantization::Quantization;
pub use tiles::{TILE, Tiles};

use super::ragged::{Ragged, check_offsets};
use super::sort::order_by_key;
use super::{Extent, cuda};
use crate::device::{Array, Permutation};
use crate::{Error, Result};
pub(super) use cells::Grid;
use cells::{Cells, lowest};
use groups::{Work, groups};
use std::sync::OnceLock;

/// Largest window, metres: far more than any cloud, and little enough that offsets in units of 10 µm are numbers.
pub const MAX_WINDOW: f32 = 1e6;

/// How to cut a cloud.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowOptions {
    /// w: edge of a small window, metres.
    pub size: f32,
    /// q: edge of a bin of the position tables, metres.
    pub step: f32,
    /// Whether windows are shifted by half their size (every other block).
    pub shifted: bool,
}

/// The windows of one block over one batch.
#[derive(Debug, Clone)]
pub struct Windows {
    /// \[N\] rows by position.
    pub order: Permutation,
    /// x, y and z by position, in the units of `quantization`.
    pub place: [Array<f32>; 3],
    /// How offsets between places become bins.
    pub quantization: Quantization,
    /// Positions of the sampled points of every large window that is somebody's.
    pub sampled: Ragged,
    /// Made first on the host, and from `tiles` where a GPU made those.
    work: OnceLock<Work>,
    /// Made first on a GPU, and from `work` where the host made that.
    tiles: OnceLock<Tiles>,
}

impl Windows {
    /// Windows with dense and sparse keys: one block of Stratified Transformer. Errors as the module says.
    ///
    /// ```
    /// use cairn::geometry::{WindowOptions, Windows};
    /// let coord = [[0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.3, 0.0, 0.0], [0.5, 0.0, 0.0]];
    /// let options = WindowOptions { size: 0.2, step: 0.01, shifted: false };
    /// let windows = Windows::stratified(&coord, &[0, 4], options, &[0, 2])?;
    /// let group = &windows.groups()[0]; // two points of a small window, and a sampled one behind its border
    /// assert_eq!((group.queries.clone(), group.sparse), (0..2, 1));
    /// # Ok::<(), cairn::Error>(())
    /// ```
    pub fn stratified(
        coord: &[[f32; 3]],
        offsets: &[usize],
        options: WindowOptions,
        sampled: &[u32],
    ) -> Result<Windows> {
        check(coord, offsets, options)?;
        check_sampled(sampled, coord.len())?;
        let WindowOptions { size, shifted, .. } = options;
        let start = lowest(coord);
        let small = Cells::new(coord, offsets, Grid::new(start, size, shifted))?;
        let large = Cells::new(coord, offsets, Grid::new(start, 2.0 * size, shifted))?;
        let order = order_by_both(&small.keys, &large.keys);
        let mut groups = groups(&order, &small.keys, Some(&large.keys));
        let quantization = Quantization::offsets(size, options.step);
        let place = planes(&order, |row| coord[row]);
        let lists = sampled_lists(sampled, &order, &large.keys, &mut groups);
        Ok(Self::finish(order, place, quantization, groups, lists))
    }

    /// Windows with dense keys only, and bins counted from cell to cell: one block of the 3D Swin baseline. Errors as
    /// the module says.
    pub fn swin(coord: &[[f32; 3]], offsets: &[usize], options: WindowOptions) -> Result<Windows> {
        check(coord, offsets, options)?;
        let WindowOptions { size, step, .. } = options;
        let start = lowest(coord);
        let grid = Grid::new(start, size, options.shifted);
        let small = Cells::new(coord, offsets, grid)?;
        let order = order_by_key(&small.keys);
        let groups = groups(&order, &small.keys, None);
        // place of a point inside its window, in bins
        let place = planes(&order, |row| {
            std::array::from_fn(|axis| {
                let inside = (coord[row][axis] - start[axis] + grid.shift) % size;
                (inside / step).trunc()
            })
        });
        let quantization = Quantization::cells(size, step);
        let lists = Ragged {
            offsets: vec![0, 0].into(),
            index: Array::default(),
        };
        Ok(Self::finish(order, place, quantization, groups, lists))
    }

    /// The windows of the points of `cloud`, which lie in `extent`, made by kernels: with the rows in `sampled` as sparse
    /// keys, or with dense keys only and bins counted from cell to cell. They equal those of the host and stay on the GPU,
    /// which the host asks for sizes once. Errors as the module says.
    pub(super) fn on_gpu(
        cloud: &cuda::Cloud,
        extent: &Extent,
        options: WindowOptions,
        sampled: Option<&Array<u32>>,
    ) -> Result<Windows> {
        check_options(options)?;
        let points = cloud.coord.len();
        if let Some(rows) = sampled
            && rows.known_rows().is_none_or(|known| known > points)
        {
            check_sampled(rows.fetch()?, points)?;
        }
        if points == 0 {
            return match sampled {
                Some(_) => Windows::stratified(&[], &cloud.offsets, options, &[]),
                None => Windows::swin(&[], &cloud.offsets, options),
            };
        }
        let lists = cuda::window_lists(cloud, extent, options, sampled)?;
        let WindowOptions { size, step, .. } = options;
        Ok(Windows {
            order: Permutation::made(lists.order),
            place: lists.place,
            quantization: match sampled {
                Some(_) => Quantization::offsets(size, step),
                None => Quantization::cells(size, step),
            },
            sampled: lists.sampled,
            work: OnceLock::new(),
            tiles: lists.tiles.into(),
        })
    }

    /// Number of points.
    pub fn points(&self) -> usize {
        self.order.len()
    }

    /// Number of pairs of a query and a key.
    pub fn pairs(&self) -> usize {
        self.groups().iter().map(Group::pairs).sum()
    }

    /// Groups in order of their queries, which cover all positions.
    pub fn groups(&self) -> &[Group] {
        &self.work().groups
    }

    /// Parts in order of their groups.
    pub fn parts(&self) -> &[Part] {
        &self.work().parts
    }

    /// As [`Windows::parts`], unless finding out means to bring lists from a GPU.
    pub fn known_parts(&self) -> Option<&[Part]> {
        self.work.get().map(|work| &work.parts[..])
    }

    fn work(&self) -> &Work {
        self.work
            .get_or_init(|| Work::of_tiles(self.tiles(), &self.sampled, self.points()))
    }

    /// The lists that GPUs work by. Made at the first call where the host made the windows.
    pub fn tiles(&self) -> &Tiles {
        self.tiles.get_or_init(|| Tiles::new(self))
    }

    /// Number of tiles of queries in [`Windows::tiles`].
    pub fn query_tiles(&self) -> usize {
        match self.tiles.get() {
            Some(tiles) => tiles.queries.len() / 2,
            None => tiles::count(self.groups()),
        }
    }

    /// Bytes of all lists.
    pub fn bytes(&self) -> usize {
        let touched: usize = self.parts().iter().map(|p| p.touched.len()).sum();
        4 * (4 * self.order.len() + self.sampled.offsets.len() + self.sampled.index.len())
            + size_of_val(self.groups())
            + size_of_val(self.parts())
            + size_of::<(usize, usize)>() * touched
    }

    /// Positions of the sparse keys of `group`, each with its place in the group's list.
    pub fn sparse<'w>(&'w self, group: &'w Group) -> impl Iterator<Item = (usize, usize)> + 'w {
        let all = self.sampled.list(group.large).iter().enumerate();
        all.map(|(place, position)| (place, *position as usize))
            .filter(|(_, position)| !group.dense.contains(position))
    }

    fn finish(
        order: Vec<u32>,
        place: [Array<f32>; 3],
        quantization: Quantization,
        groups: Vec<Group>,
        sampled: Ragged,
    ) -> Windows {
        let work = Work::new(groups, &sampled, order.len());
        Windows {
            order: Permutation::new(order).expect("sorting keeps every row once"),
            place,
            quantization,
            sampled,
            work: work.into(),
            tiles: OnceLock::new(),
        }
    }
}

/// Errors unless all sampled rows are below `points`.
fn check_sampled(sampled: &[u32], points: usize) -> Result<()> {
    let Some(row) = sampled.iter().find(|row| **row as usize >= points) else {
        return Ok(());
    };
    let fault = format!("row {row}, but there are {points} points");
    Err(Error::argument("sampled points", fault))
}

fn check(coord: &[[f32; 3]], offsets: &[usize], options: WindowOptions) -> Result<()> {
    check_offsets(offsets, coord.len())?;
    check_options(options)
}

fn check_options(options: WindowOptions) -> Result<()> {
    let WindowOptions { size, step, .. } = options;
    if !(size > 0.0 && size <= MAX_WINDOW) {
        let fault = format!("{size} m is not between 0 and {MAX_WINDOW} m");
        return Err(Error::argument("window size", fault));
    }
    if !(step > 0.0 && step <= size) {
        let fault = format!("{step} m is not between 0 and the window size of {size} m");
        return Err(Error::argument("bin size of positions", fault));
    }
    Ok(())
}

/// Rows by `first`, then `second`, then row.
fn order_by_both(first: &[u64], second: &[u64]) -> Vec<u32> {
    let by_second = order_by_key(second);
    let keys: Vec<u64> = by_second.iter().map(|row| first[*row as usize]).collect();
    let order = order_by_key(&keys);
    order.iter().map(|&at| by_second[at as usize]).collect()
}

fn planes(order: &[u32], place: impl Fn(usize) -> [f32; 3]) -> [Array<f32>; 3] {
    let all: Vec<[f32; 3]> = order.iter().map(|row| place(*row as usize)).collect();
    std::array::from_fn(|axis| all.iter().map(|p| p[axis]).collect::<Vec<_>>().into())
}

/// The sampled points of every large window, one list each; tells every group its own. List 0 is empty.
fn sampled_lists(sampled: &[u32], order: &[u32], large: &[u64], groups: &mut [Group]) -> Ragged {
    let mut positions = vec![0u32; order.len()];
    for (position, row) in order.iter().enumerate() {
        positions[*row as usize] = position as u32;
    }
    let mut entries: Vec<(u64, u32)> = sampled
        .iter()
        .map(|row| (large[*row as usize], positions[*row as usize]))
        .collect();
    entries.sort_unstable();
    entries.dedup();
    let mut offsets = vec![0];
    let mut windows = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        if windows.last() != Some(&entry.0) {
            windows.push(entry.0);
            offsets.push(at as u32);
        }
    }
    offsets.push(entries.len() as u32);
    for group in groups {
        let key = large[order[group.queries.start] as usize];
        group.large = windows.binary_search(&key).map_or(0, |list| list + 1);
    }
    Ragged {
        offsets: offsets.into(),
        index: entries.iter().map(|e| e.1).collect::<Vec<_>>().into(),
    }
}
