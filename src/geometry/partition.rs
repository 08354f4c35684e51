//! Grid partition: points that share a cell become one pooled point (Wu et al. 2022, PTv2, partition-based pooling).
//!
//! Per batch element the grid starts at the componentwise minimum; cell = trunc((p − start) / size) in f32, with a true
//! division. The extents n of the cell numbers are those of the whole batch, and the key of a cell is
//! x + nx·(y + ny·(z + nz·element)). Pooled points are ordered by key: by element, then z, then y, x fastest.
//! A pooled coordinate is the f32 sum over the members in their original order, divided by their count.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | [N, 3] | metres |
//! | cluster | \[N\] | pooled point of each point |
//! | members | ragged, S lists over N | points of each pooled point, ascending |
//! | pooled coord | [S, 3] | mean of the members, metres |
//!
//! Errors: a cell size that is not a positive number; an extent of so many cells that keys overflow 63 bits.

use super::ragged::{Ragged, check_offsets};
use super::sort::order_by_key;
use super::{Extent, cuda};
use crate::device::{Array, Device};
use crate::{Error, Result};
use rayon::prelude::*;

/// Points grouped by grid cell, with lists in both directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// \[N\] pooled point of each point.
    pub cluster: Array<u32>,
    /// S lists: the points of each pooled point, ascending.
    pub members: Ragged,
    /// \[S\] mean position of the members, metres.
    pub coord: Array<[f32; 3]>,
    /// Batch of the pooled points: B+1 offsets.
    pub offsets: Vec<usize>,
}

impl Partition {
    /// Number of points that were grouped.
    pub fn points(&self) -> usize {
        self.cluster.len()
    }

    /// Number of pooled points.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True when there is no pooled point.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The points in the order of their pooled points. Reordering a cloud by this list puts points that are pooled
    /// together, and therefore near each other, side by side: pooling reads contiguous rows, and neighbour rows are
    /// more often in cache.
    pub fn order(&self) -> &[u32] {
        &self.members.index
    }
}

/// Groups the points of a batch by cells of `size` metres.
///
/// ```
/// let coord = [[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [1.1, 0.0, 0.0]];
/// let pooled = cairn::geometry::partition::grid(&coord, &[0, 3], 1.0)?;
/// assert_eq!(pooled.cluster[..], [0, 0, 1]);
/// assert_eq!(pooled.coord[..], [[0.45, 0.0, 0.0], [1.1, 0.0, 0.0]]);
/// # Ok::<(), cairn::Error>(())
/// ```
pub fn grid(coord: &[[f32; 3]], offsets: &[usize], size: f32) -> Result<Partition> {
    check_offsets(offsets, coord.len())?;
    check_size(size)?;
    let (keys, per_element) = cell_keys(coord, offsets, size)?;
    let order = order_by_key(&keys);
    let mut cluster = vec![0; coord.len()];
    let mut starts = Vec::new();
    let mut counts = vec![0; offsets.len()];
    let mut last = None;
    for (position, &row) in order.iter().enumerate() {
        let key = keys[row as usize];
        if last.replace(key) != Some(key) {
            starts.push(position as u32);
            counts[(key / per_element) as usize + 1] += 1;
        }
        cluster[row as usize] = starts.len() as u32 - 1;
    }
    for element in 1..counts.len() {
        counts[element] += counts[element - 1];
    }
    starts.push(order.len() as u32);
    let coord = starts
        .par_windows(2)
        .with_min_len(1024)
        .map(|ends| mean(coord, &order[ends[0] as usize..ends[1] as usize]))
        .collect::<Vec<_>>();
    Ok(Partition {
        cluster: cluster.into(),
        members: Ragged {
            offsets: starts.into(),
            index: order.into(),
        },
        coord: coord.into(),
        offsets: counts,
    })
}

/// As [`grid`], on `device`.
pub fn grid_on(
    device: Device,
    coord: &[[f32; 3]],
    offsets: &[usize],
    size: f32,
) -> Result<Partition> {
    let Device::Cuda(gpu) = device else {
        return grid(coord, offsets, size);
    };
    check_size(size)?;
    let cloud = cuda::Cloud::of(gpu, coord, offsets)?;
    cuda::partition(&cloud, size, &Extent::of(coord))
}

/// Errors unless cells of `size` metres can exist.
pub(super) fn check_size(size: f32) -> Result<()> {
    if size > 0.0 && size.is_finite() {
        return Ok(());
    }
    Err(Error::argument(
        "grid size",
        format!("{size} m is not a positive number"),
    ))
}

/// How the cells of a batch are numbered.
pub(super) struct Cells {
    /// Cells along each axis.
    extent: [u64; 3],
    /// Their product: numbers of one element.
    per_element: u64,
}

impl Cells {
    /// Numbers for cells up to `most` along each axis, in each of `elements` elements. Errors when 63 bits do not
    /// suffice for those of `size` metres.
    pub fn new(most: [f32; 3], elements: usize, size: f32) -> Result<Cells> {
        // Float to integer casts truncate, and saturate where the value does not fit.
        let extent = most.map(|cells| (cells as u64).saturating_add(1));
        let per_element = extent[0]
            .checked_mul(extent[1])
            .and_then(|n| n.checked_mul(extent[2]));
        let all = per_element.and_then(|n| n.checked_mul(elements as u64));
        match per_element.filter(|_| all.is_some_and(|n| n <= i64::MAX as u64)) {
            Some(per_element) => Ok(Cells {
                extent,
                per_element,
            }),
            None => Err(Error::argument(
                "grid size",
                format!(
                    "{size} m is too small for this cloud: {} x {} x {} cells in {elements} batch elements; use larger \
                     cells or remove far outliers",
                    extent[0], extent[1], extent[2],
                ),
            )),
        }
    }
}

/// The key of every point's cell, and how many keys an element has.
pub(crate) fn cell_keys(
    coord: &[[f32; 3]],
    offsets: &[usize],
    size: f32,
) -> Result<(Vec<u64>, u64)> {
    let elements: Vec<([f32; 3], &[[f32; 3]])> = offsets
        .windows(2)
        .map(|ends| {
            let points = &coord[ends[0]..ends[1]];
            (lowest(points), points)
        })
        .collect();
    let cell = |p: f32, start: f32| (p - start) / size;
    let mut most = [0.0f32; 3];
    for (start, points) in &elements {
        for p in *points {
            for axis in 0..3 {
                most[axis] = most[axis].max(cell(p[axis], start[axis]));
            }
        }
    }
    let Cells {
        extent,
        per_element,
    } = Cells::new(most, elements.len(), size)?;
    let mut keys = Vec::with_capacity(coord.len());
    for (element, (start, points)) in elements.iter().enumerate() {
        keys.extend(points.iter().map(|p| {
            let [x, y, z] = std::array::from_fn(|axis| cell(p[axis], start[axis]) as u64);
            x + extent[0] * (y + extent[1] * z) + per_element * element as u64
        }));
    }
    Ok((keys, per_element))
}

/// Componentwise minimum.
fn lowest(points: &[[f32; 3]]) -> [f32; 3] {
    points.iter().fold([f32::INFINITY; 3], |low, p| {
        std::array::from_fn(|axis| low[axis].min(p[axis]))
    })
}

/// Mean of the points named by `rows`, summed in that order.
fn mean(coord: &[[f32; 3]], rows: &[u32]) -> [f32; 3] {
    let mut sum = [0.0f32; 3];
    for &row in rows {
        for axis in 0..3 {
            sum[axis] += coord[row as usize][axis];
        }
    }
    sum.map(|sum| sum / rows.len() as f32)
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
