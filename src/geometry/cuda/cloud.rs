//! The points of one level on a GPU.

use super::check_elements;
use crate::Result;
use crate::device::cuda::{Buffer, Grid, args, kernels};
use crate::device::{Array, Gpu, Pointer};
use crate::geometry::check_offsets;

kernels!("bounds");

/// Most blocks that share the points of an element.
const CHUNKS: usize = 1024;
/// Points that keep a block of 256 threads busy.
const SHARE: usize = 1024;

/// Points of a batch on a GPU.
#[derive(Debug)]
pub struct Cloud {
    pub gpu: Gpu,
    pub coord: Array<[f32; 3]>,
    /// B+1 entries, the first is 0.
    pub offsets: Vec<usize>,
    starts: Array<u32>,
    bounds: Buffer,
}

impl Cloud {
    /// Brings the points to `gpu` and finds the bounds of the elements. `offsets` are those of a checked batch.
    pub fn new(gpu: Gpu, coord: Array<[f32; 3]>, offsets: &[usize]) -> Result<Cloud> {
        let elements = offsets.len() - 1;
        check_elements(elements)?;
        let cloud = Cloud {
            gpu,
            coord,
            offsets: offsets.to_vec(),
            starts: starts_of(offsets),
            bounds: Buffer::zeroed(gpu, 6 * elements)?,
        };
        let args = args![cloud.coord.on(gpu)?, cloud.starts()?, cloud.bounds.at()];
        gpu.launch(&KERNELS, "element_bounds", cloud.grid(), args)?;
        Ok(cloud)
    }

    /// Points that a caller holds, as [`Cloud::new`]. Errors also when `offsets` do not describe `coord`.
    pub fn of(gpu: Gpu, coord: &[[f32; 3]], offsets: &[usize]) -> Result<Cloud> {
        check_offsets(offsets, coord.len())?;
        Cloud::new(gpu, coord.to_vec().into(), offsets)
    }

    /// B: number of elements.
    pub fn elements(&self) -> usize {
        self.offsets.len() - 1
    }

    /// [B + 1] where the elements start.
    pub fn starts(&self) -> Result<Pointer> {
        self.starts.on(self.gpu)
    }

    /// [B, 6] bounds of the elements, as `element_bounds` leaves them.
    pub fn bounds(&self) -> Pointer {
        self.bounds.at()
    }

    /// Blocks for kernels that take the points element by element.
    pub fn grid(&self) -> Grid {
        let lengths = self.offsets.windows(2).map(|ends| ends[1] - ends[0]);
        let longest = lengths.max().unwrap_or(0);
        let chunks = longest.div_ceil(SHARE).clamp(1, CHUNKS);
        Grid::plane([self.elements(), chunks], 256)
    }
}

/// Offsets as kernels read them; a checked batch has fewer than 2^32 points.
pub fn starts_of(offsets: &[usize]) -> Array<u32> {
    let starts: Vec<u32> = offsets.iter().map(|&offset| offset as u32).collect();
    starts.into()
}
