//! Owned memory of a GPU without a side on the host: what kernels hand to kernels.

use super::{Block, Gpu, Pointer};
use crate::Result;
use bytemuck::{NoUninit, Pod};

/// GPU memory, freed when dropped, after everything that is queued by then.
#[derive(Debug)]
pub struct Buffer {
    gpu: Gpu,
    block: Block,
    /// Size.
    bytes: usize,
}

impl Buffer {
    /// Memory for `count` values, holding anything.
    ///
    /// # Errors
    /// Too little memory, or a fault of the GPU.
    pub fn new<T>(gpu: Gpu, count: usize) -> Result<Buffer> {
        let bytes = count.saturating_mul(size_of::<T>());
        let block = Block::new(gpu.open()?, bytes)?;
        Ok(Buffer { gpu, block, bytes })
    }

    /// Memory for `count` 32-bit words, all zero.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn zeroed(gpu: Gpu, count: usize) -> Result<Buffer> {
        let mut buffer = Buffer::new::<u32>(gpu, count)?;
        buffer.block.zero(count)?;
        Ok(buffer)
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn copied<T: NoUninit>(gpu: Gpu, values: &[T]) -> Result<Buffer> {
        let values: &[u8] = bytemuck::cast_slice(values);
        let (block, bytes) = (Block::copied(gpu.open()?, values)?, values.len());
        Ok(Buffer { gpu, block, bytes })
    }

    /// The first `count` values, once everything that is queued is done.
    ///
    /// # Errors
    /// A fault of the GPU or of queued work.
    ///
    /// # Panics
    /// When it does not hold that many.
    pub fn read<T: Pod>(&self, count: usize) -> Result<Vec<T>> {
        assert!(count.saturating_mul(size_of::<T>()) <= self.bytes);
        let mut values = vec![T::zeroed(); count];
        self.block
            .download(0, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// The 32-bit word number `at`, as [`Buffer::read`].
    ///
    /// # Errors
    /// As [`Buffer::read`].
    ///
    /// # Panics
    /// As there.
    pub fn read_word(&self, at: usize) -> Result<u32> {
        assert!(at < self.bytes / 4);
        let mut word = [0u32];
        self.block
            .download(4 * at, bytemuck::cast_slice_mut(&mut word))?;
        Ok(word[0])
    }

    /// The GPU whose memory it is.
    pub fn gpu(&self) -> Gpu {
        self.gpu
    }

    /// Its address, for what this thread queues from now on.
    pub fn at(&self) -> Pointer {
        self.block.at()
    }
}
