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
//! Errors: a window or bin size that is not a positive number, or a window above [`MAX_WINDOW`]; a sampled row that
//! does not exist; so many windows that their numbers overflow.

mod cells;
mod quantization;
#[cfg(test)]
mod tests;
mod tiles;

pub use quantization::Quantization;
pub use tiles::{TILE, Tiles};

use super::ragged::{Ragged, check_offsets};
use super::sort::order_by_key;
use crate::device::{Array, Permutation, parallel};
use crate::{Error, Result};
use cells::{Cells, lowest};
use std::ops::Range;
use std::sync::OnceLock;

/// Largest window, metres: offsets within two windows, in units of 10 µm, stay below 2^22, where rounding is exact.
pub const MAX_WINDOW: f32 = 20.0;
/// Points per part below which a batch is not cut further.
const PART: usize = 64;

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

/// Queries that have the same keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Positions of the queries.
    pub queries: Range<usize>,
    /// Positions of the small window: the dense keys, the queries among them.
    pub dense: Range<usize>,
    /// List of [`Windows::sampled`] that holds the large window's sampled points; those in `dense` are no sparse keys.
    pub large: usize,
    /// Number of sparse keys.
    pub sparse: usize,
    /// Place of the first entry of list `large` among the sampled points that the part of this group touches.
    pub slot: usize,
}

impl Group {
    /// Number of keys of each query.
    pub fn keys(&self) -> usize {
        self.dense.len() + self.sparse
    }

    /// Number of pairs.
    pub fn pairs(&self) -> usize {
        self.queries.len() * self.keys()
    }
}

/// A run of groups that backward works through alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Which groups.
    pub groups: Range<usize>,
    /// Lists of [`Windows::sampled`] that its groups touch, each once, with the slot of its first entry.
    pub touched: Vec<(usize, usize)>,
    /// Slots of all of them.
    pub slots: usize,
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
    /// In order of their queries, which cover all positions.
    pub groups: Vec<Group>,
    /// Positions of the sampled points of every large window that is somebody's.
    pub sampled: Ragged,
    /// In order of their groups.
    pub parts: Vec<Part>,
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
    /// let group = &windows.groups[0]; // two points of a small window, and a sampled one behind its border
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
        if let Some(row) = sampled.iter().find(|row| **row as usize >= coord.len()) {
            let fault = format!("row {row}, but there are {} points", coord.len());
            return Err(Error::argument("sampled points", fault));
        }
        let WindowOptions { size, shifted, .. } = options;
        let start = lowest(coord);
        let shift = |size: f32| if shifted { 0.5 * size } else { 0.0 };
        let small = Cells::new(coord, offsets, start, size, shift(size))?;
        let large = Cells::new(coord, offsets, start, 2.0 * size, shift(2.0 * size))?;
        let order = order_by_both(&small.keys, &large.keys);
        let mut groups = groups(&order, &small.keys, Some(&large.keys));
        let quantization = Quantization::Offset {
            reach: 2.0 * size,
            step: options.step,
        };
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
        let shift = if options.shifted { 0.5 * size } else { 0.0 };
        let small = Cells::new(coord, offsets, start, size, shift)?;
        let order = order_by_key(&small.keys);
        let groups = groups(&order, &small.keys, None);
        // place of a point inside its window, in bins
        let place = planes(&order, |row| {
            std::array::from_fn(|axis| {
                let inside = (coord[row][axis] - start[axis] + shift) % size;
                (inside / step).trunc()
            })
        });
        let center = (f64::from(size) / f64::from(step) + 1e-4).floor() as f32 - 1.0;
        let quantization = Quantization::Cell { center };
        let lists = Ragged {
            offsets: vec![0, 0].into(),
            index: Array::default(),
        };
        Ok(Self::finish(order, place, quantization, groups, lists))
    }

    /// Number of points.
    pub fn points(&self) -> usize {
        self.order.len()
    }

    /// Number of pairs of a query and a key.
    pub fn pairs(&self) -> usize {
        self.groups.iter().map(Group::pairs).sum()
    }

    /// The lists that GPUs work by. Made at the first call.
    pub fn tiles(&self) -> &Tiles {
        self.tiles.get_or_init(|| Tiles::new(self))
    }

    /// Number of tiles of queries in [`Windows::tiles`].
    pub fn query_tiles(&self) -> usize {
        tiles::count(&self.groups)
    }

    /// Bytes of all lists.
    pub fn bytes(&self) -> usize {
        let touched: usize = self.parts.iter().map(|p| p.touched.len()).sum();
        4 * (4 * self.order.len() + self.sampled.offsets.len() + self.sampled.index.len())
            + size_of::<Group>() * self.groups.len()
            + size_of::<Part>() * self.parts.len()
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
        mut groups: Vec<Group>,
        sampled: Ragged,
    ) -> Windows {
        for group in &mut groups {
            let inside = |position: &&u32| group.dense.contains(&(**position as usize));
            let list = sampled.list(group.large);
            group.sparse = list.len() - list.iter().filter(inside).count();
        }
        let parts = parts(&mut groups, &sampled, order.len());
        Windows {
            order: Permutation::new(order).expect("sorting keeps every row once"),
            place,
            quantization,
            groups,
            sampled,
            parts,
            tiles: OnceLock::new(),
        }
    }
}

fn check(coord: &[[f32; 3]], offsets: &[usize], options: WindowOptions) -> Result<()> {
    check_offsets(offsets, coord.len())?;
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

/// Cuts the order wherever a window number changes. List and sparse keys are filled in later.
fn groups(order: &[u32], small: &[u64], large: Option<&[u64]>) -> Vec<Group> {
    let window = |position: usize| small[order[position] as usize];
    let both = |position: usize| (window(position), large.map(|l| l[order[position] as usize]));
    let mut groups: Vec<Group> = Vec::new();
    let mut first_of_window = 0;
    let mut first = 0;
    for position in 1..=order.len() {
        let ends = position == order.len() || both(position) != both(first);
        if !ends {
            continue;
        }
        groups.push(Group {
            queries: first..position,
            dense: 0..0,
            large: 0,
            sparse: 0,
            slot: 0,
        });
        if position == order.len() || window(position) != window(first) {
            let dense = groups[first_of_window].queries.start..position;
            for group in &mut groups[first_of_window..] {
                group.dense = dense.clone();
            }
            first_of_window = groups.len();
        }
        first = position;
    }
    groups
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

/// Cuts the groups into parts of about equal work, and gives every group the slot of its list.
fn parts(groups: &mut [Group], sampled: &Ragged, points: usize) -> Vec<Part> {
    let count = (points / PART).clamp(1, parallel::PARTIALS);
    let total: usize = groups.iter().map(Group::pairs).sum();
    let mut parts = Vec::with_capacity(count);
    let (mut first, mut work) = (0, 0);
    for end in 1..=groups.len() {
        work += groups[end - 1].pairs();
        let ends_window = groups
            .get(end)
            .is_none_or(|g| g.dense != groups[end - 1].dense);
        let is_full = work * count >= total * (parts.len() + 1);
        if ends_window && (is_full || end == groups.len()) {
            parts.push(part(groups, first..end, sampled));
            first = end;
        }
    }
    parts
}

fn part(groups: &mut [Group], range: Range<usize>, sampled: &Ragged) -> Part {
    let own = &mut groups[range.clone()];
    let mut lists: Vec<usize> = own.iter().map(|g| g.large).collect();
    lists.sort_unstable();
    lists.dedup();
    let mut slots = 0;
    let mut touched = Vec::with_capacity(lists.len());
    for list in lists {
        touched.push((list, slots));
        slots += sampled.list(list).len();
    }
    for group in own {
        let at = touched.partition_point(|(list, _)| *list < group.large);
        group.slot = touched[at].1;
    }
    Part {
        groups: range,
        touched,
        slots,
    }
}
