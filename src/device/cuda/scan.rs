//! Running totals on a GPU.
//!
//! y\[i\] = x\[0\] + … + x[i − 1] for i = 0 … N
//!
//! Totals must fit 32 bits. Time and memory: O(N), three launches.

use super::{Gpu, Grid, Pointer, args, kernels};
use crate::Result;

/// Values of one tile; as in the kernels.
const TILE: usize = 2048;

kernels!("scan");

fn tiles(count: usize) -> usize {
    // The place after the last value belongs to a tile, too.
    count / TILE + 1
}

/// Words of scratch memory that [`exclusive`] needs for `count` values.
pub fn scratch_words(count: usize) -> usize {
    tiles(count)
}

/// Queues the running totals of `count` 32-bit values at `x`: `count` + 1 values at `y`, which may not overlap `x`.
///
/// # Errors
/// As [`Gpu::launch`].
pub fn exclusive(gpu: Gpu, x: Pointer, count: usize, scratch: Pointer, y: Pointer) -> Result<()> {
    let tiles = tiles(count);
    let grid = Grid::new(tiles, 256);
    gpu.launch(&KERNELS, "scan_sums", grid, args![x, count, scratch])?;
    let one = Grid::new(1, 256);
    gpu.launch(&KERNELS, "scan_starts", one, args![tiles as u32, scratch])?;
    gpu.launch(&KERNELS, "scan_tiles", grid, args![x, scratch, count, y])
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::device::cuda::Buffer;
    use crate::device::{Device, random::Random};
    use crate::graph::check::devices;

    #[test]
    fn totals_equal_running_sums() {
        let random = Random::new(5, 2);
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            for count in [0, 1, 31, 33, 2047, 2048, 2049, 3 * 2048, 700_001] {
                let x: Vec<u32> = (0..count).map(|i| random.bits(i) as u32 % 5).collect();
                let mut expected = vec![0];
                for (i, x) in x.iter().enumerate() {
                    expected.push(expected[i] + x);
                }
                let count = x.len();
                let from = Buffer::copied(gpu, &x).unwrap();
                let scratch = Buffer::new::<u32>(gpu, scratch_words(count)).unwrap();
                let to = Buffer::new::<u32>(gpu, count + 1).unwrap();
                exclusive(gpu, from.at(), count, scratch.at(), to.at()).unwrap();
                assert!(to.read::<u32>(count + 1).unwrap() == expected, "{count}");
            }
        }
    }
}
