//! Cell numbers of a grid over the whole batch.

use crate::{Error, Result};

/// A grid of cubic cells.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Grid {
    /// Where it starts, metres.
    pub start: [f32; 3],
    /// Edge of a cell, metres.
    pub size: f32,
    /// How far points are moved before, metres.
    pub shift: f32,
}

impl Grid {
    /// Shifted grids move the points by half a cell.
    pub fn new(start: [f32; 3], size: f32, shifted: bool) -> Grid {
        let shift = if shifted { 0.5 * size } else { 0.0 };
        Grid { start, size, shift }
    }

    /// trunc((p + shift − start) / size) per axis, in f32.
    pub fn cell(&self, p: &[f32; 3]) -> [u64; 3] {
        // Float to integer casts truncate, and saturate where the value does not fit.
        std::array::from_fn(|axis| ((p[axis] + self.shift - self.start[axis]) / self.size) as u64)
    }

    /// Cells along the axes up to the cell of `highest`, and cells of a batch element. Errors when those of `elements`
    /// batch elements cannot be numbered.
    pub fn extent(&self, highest: [u64; 3], elements: usize) -> Result<([u64; 3], u64)> {
        let extent = highest.map(|cells| cells.saturating_add(1));
        let per_element = extent[0]
            .checked_mul(extent[1])
            .and_then(|n| n.checked_mul(extent[2]));
        let all = per_element.and_then(|n| n.checked_mul(elements as u64 + 1));
        match per_element.filter(|_| all.is_some_and(|n| n <= i64::MAX as u64)) {
            Some(per_element) => Ok((extent, per_element)),
            None => Err(self.too_many(extent, elements)),
        }
    }

    fn too_many(&self, [x, y, z]: [u64; 3], elements: usize) -> Error {
        let size = self.size;
        Error::argument(
            "window size",
            format!(
                "{size} m is too small for this cloud: {x} x {y} x {z} windows in {elements} batch elements; use larger \
                 windows or remove far outliers"
            ),
        )
    }
}

/// The cell of every point as one number: x + nx·(y + ny·(z + nz·element)).
#[derive(Debug)]
pub(super) struct Cells {
    /// \[N\]
    pub keys: Vec<u64>,
}

impl Cells {
    /// Errors when the numbers overflow.
    pub fn new(coord: &[[f32; 3]], offsets: &[usize], grid: Grid) -> Result<Cells> {
        let highest = coord.iter().fold([0u64; 3], |most, p| {
            let cell = grid.cell(p);
            std::array::from_fn(|axis| most[axis].max(cell[axis]))
        });
        let (extent, per_element) = grid.extent(highest, offsets.len() - 1)?;
        let mut keys = Vec::with_capacity(coord.len());
        for (element, ends) in offsets.windows(2).enumerate() {
            keys.extend(coord[ends[0]..ends[1]].iter().map(|p| {
                let [x, y, z] = grid.cell(p);
                x + extent[0] * (y + extent[1] * z) + per_element * element as u64
            }));
        }
        Ok(Cells { keys })
    }
}

/// Componentwise minimum.
pub(super) fn lowest(points: &[[f32; 3]]) -> [f32; 3] {
    points.iter().fold([f32::INFINITY; 3], |low, p| {
        std::array::from_fn(|axis| low[axis].min(p[axis]))
    })
}
