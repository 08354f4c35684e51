//! How many blocks of how many threads a kernel runs with.

/// Threads of a block where nothing else is asked for.
const THREADS: u32 = 256;
/// Most blocks of a kernel that walks over its elements in strides.
const STRIDE_BLOCKS: usize = 4096;

/// Blocks, threads per block and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared: u32,
}

impl Grid {
    /// `blocks` blocks of `threads` threads.
    pub fn new(blocks: usize, threads: u32) -> Grid {
        Grid::plane([blocks, 1], threads)
    }

    /// A plane of blocks: the first number may pass 65 535, the second may not.
    pub fn plane([x, y]: [usize; 2], threads: u32) -> Grid {
        Grid::space([x, y, 1], threads)
    }

    /// Blocks along three axes: only the first number may pass 65 535.
    pub fn space([x, y, z]: [usize; 3], threads: u32) -> Grid {
        let limit = |count: usize, most: usize, axis: &str| {
            assert!(count <= most, "{count} blocks along {axis}");
            count as u32
        };
        Grid {
            blocks: [
                limit(x, i32::MAX as usize, "x"),
                limit(y, u16::MAX as usize, "y"),
                limit(z, u16::MAX as usize, "z"),
            ],
            threads,
            shared: 0,
        }
    }

    /// A kernel that walks over `count` elements in strides of the whole grid.
    pub fn strided(count: usize) -> Grid {
        Grid::new(count.div_ceil(THREADS as usize).min(STRIDE_BLOCKS), THREADS)
    }

    /// A kernel that gives each of `count` rows a warp of its own.
    pub fn warps(count: usize) -> Grid {
        Grid::new(count.div_ceil(THREADS as usize / 32), THREADS)
    }

    /// With `bytes` of dynamic shared memory per block.
    pub fn shared(self, bytes: usize) -> Grid {
        let shared = u32::try_from(bytes).expect("shared memory is counted in kilobytes");
        Grid { shared, ..self }
    }

    /// True when there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.blocks.contains(&0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_grids_cover_small_counts_and_stay_bounded() {
        assert!(Grid::strided(0).is_empty());
        assert_eq!(Grid::strided(257).blocks, [2, 1, 1]);
        assert_eq!(Grid::strided(1 << 40).blocks, [4096, 1, 1]);
    }
}
