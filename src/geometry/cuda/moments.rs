//! Moments of the offsets to neighbours on a GPU.

use crate::Result;
use crate::device::cuda::{Buffer, Grid, args, kernels};
use crate::device::{Array, Gpu};

kernels!("moments");

/// Numbers: three means, then the covariances xx, xy, xz, yy, yz, zz.
const MOMENTS: usize = 9;
/// Fewest slots of a block.
const SHARE: usize = 1 << 14;
/// Most blocks.
const CHUNKS: usize = 1024;

/// Means and covariances of three planes, which have one length; all zero without slots.
pub fn moments(gpu: Gpu, delta: &[Array<f32>; 3]) -> Result<Array<f64>> {
    let [x, y, z] = delta;
    let n = x.len();
    let chunks = n.div_ceil(SHARE).min(CHUNKS);
    let share = n.div_ceil(chunks.max(1));
    let parts = Buffer::new::<[f64; MOMENTS]>(gpu, chunks)?;
    let args = args![x.on(gpu)?, y.on(gpu)?, z.on(gpu)?, n, share, parts.at()];
    gpu.launch(&KERNELS, "moments_sums", Grid::new(chunks, 256), args)?;
    let moments = Buffer::new::<[f64; MOMENTS]>(gpu, 1)?;
    let args = args![parts.at(), chunks as u32, n, moments.at()];
    gpu.launch(&KERNELS, "moments_finish", Grid::new(1, 256), args)?;
    Ok(Array::of_buffer(moments, MOMENTS))
}
