//! Owned memory of a GPU without a side on the host: what kernels hand to kernels.

use super::{Cuda, Gpu, Pointer};
use crate::Result;
use bytemuck::{NoUninit, Pod};

/// GPU memory, freed when dropped, after everything that is queued by then.
#[derive(Debug)]
pub struct Buffer {
    gpu: Gpu,
    cuda: &'static Cuda,
    base: Pointer,
    /// Size.
    bytes: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.cuda.free(self.base);
    }
}

impl Buffer {
    /// Memory for `count` values, holding anything.
    ///
    /// # Errors
    /// Too little memory, or a fault of the GPU.
    pub fn new<T>(gpu: Gpu, count: usize) -> Result<Buffer> {
        let cuda = gpu.open()?;
        let bytes = count.saturating_mul(size_of::<T>());
        let base = cuda.allocate(bytes)?;
        Ok(Buffer {
            gpu,
            cuda,
            base,
            bytes,
        })
    }

    /// Memory for `count` 32-bit words, all zero.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn zeroed(gpu: Gpu, count: usize) -> Result<Buffer> {
        let buffer = Buffer::new::<u32>(gpu, count)?;
        buffer.cuda.zero(buffer.base, count)?;
        Ok(buffer)
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn copied<T: NoUninit>(gpu: Gpu, values: &[T]) -> Result<Buffer> {
        let buffer = Buffer::new::<T>(gpu, values.len())?;
        buffer
            .cuda
            .upload(bytemuck::cast_slice(values), buffer.base)?;
        Ok(buffer)
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
        self.cuda
            .download(self.base, bytemuck::cast_slice_mut(&mut values))?;
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
        self.cuda
            .download(self.base.offset(at), bytemuck::cast_slice_mut(&mut word))?;
        Ok(word[0])
    }

    /// The GPU whose memory it is.
    pub fn gpu(&self) -> Gpu {
        self.gpu
    }

    /// Its address.
    pub fn at(&self) -> Pointer {
        self.base
    }
}
