//! Index steps: coordinates become integer lists (neighbours, partitions, interpolation stencils).
//!
//! Nothing here has a gradient with respect to features. Clouds are ragged batches: `coord` holds all points of all
//! batch elements one after another, `offsets` has B+1 entries, starts with 0 and ends with the number of points.

use crate::device::Array;

/// Index value of a neighbour that does not exist (fewer than K points in the batch element).
pub const MISSING: u32 = u32::MAX;

/// S lists of row numbers, stored one after another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ragged {
    /// Where each list starts and ends: S+1 entries, the first is 0.
    pub offsets: Array<u32>,
    /// The row numbers of all lists.
    pub index: Array<u32>,
}

impl Ragged {
    /// Number of lists.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// True when there is no list at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `list`-th list.
    pub fn list(&self, list: usize) -> &[u32] {
        &self.index[self.offsets[list] as usize..self.offsets[list + 1] as usize]
    }
}
