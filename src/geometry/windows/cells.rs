//! Cell numbers of a grid over the whole batch.

use crate::{Error, Result};

/// The cell of every point as one number: x + nx·(y + ny·(z + nz·element)).
#[derive(Debug)]
pub(super) struct Cells {
    /// \[N\]
    pub keys: Vec<u64>,
}

impl Cells {
    /// cell = trunc((p + shift − start) / size) in f32. Errors when the numbers overflow.
    pub fn new(
        coord: &[[f32; 3]],
        offsets: &[usize],
        start: [f32; 3],
        size: f32,
        shift: f32,
    ) -> Result<Cells> {
        // Float to integer casts truncate, and saturate where the value does not fit.
        let cell = |p: &[f32; 3]| -> [u64; 3] {
            std::array::from_fn(|axis| ((p[axis] + shift - start[axis]) / size) as u64)
        };
        let most = coord.iter().fold([0u64; 3], |most, p| {
            let cell = cell(p);
            std::array::from_fn(|axis| most[axis].max(cell[axis]))
        });
        let extent = most.map(|cells| cells.saturating_add(1));
        let per_element = extent[0]
            .checked_mul(extent[1])
            .and_then(|n| n.checked_mul(extent[2]));
        let all = per_element.and_then(|n| n.checked_mul(offsets.len() as u64));
        let Some(per_element) = per_element.filter(|_| all.is_some_and(|n| n <= i64::MAX as u64))
        else {
            let [x, y, z] = extent;
            return Err(Error::argument(
                "window size",
                format!(
                    "{size} m is too small for this cloud: {x} x {y} x {z} windows in {} batch elements; use larger \
                     windows or remove far outliers",
                    offsets.len() - 1
                ),
            ));
        };
        let mut keys = Vec::with_capacity(coord.len());
        for (element, ends) in offsets.windows(2).enumerate() {
            keys.extend(coord[ends[0]..ends[1]].iter().map(|p| {
                let [x, y, z] = cell(p);
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
