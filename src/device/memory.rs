//! A block of memory on a device.

use super::Device;
use crate::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of every block and of every value in an arena, bytes: one cache line, one AVX-512 vector.
pub const ALIGN: usize = 64;

/// A zero-initialised block of 32-bit words on a device. Host pages are mapped by the system on first touch only.
#[derive(Debug)]
pub struct Memory {
    device: Device,
    base: NonNull<f32>,
    words: usize,
}

// SAFETY: the block is owned by this value alone and freed once; `&Memory` gives shared reads only, writes need `&mut`
// or go through the executor, which holds the arena exclusively while it runs.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates `words` 32-bit words, all zero. Errors when the device has not that much.
    pub fn new(device: Device, words: usize) -> Result<Self> {
        let layout = Self::layout(device, words)?;
        // SAFETY: the layout has a non-zero size because at least one cache line is asked for.
        let pointer = unsafe { alloc_zeroed(layout) };
        match NonNull::new(pointer.cast::<f32>()) {
            Some(base) => Ok(Memory {
                device,
                base,
                words,
            }),
            None => Err(Self::exhausted(device, words)),
        }
    }

    fn layout(device: Device, words: usize) -> Result<Layout> {
        words
            .checked_mul(4)
            .and_then(|bytes| Layout::from_size_align(bytes.max(ALIGN), ALIGN).ok())
            .ok_or_else(|| Self::exhausted(device, words))
    }

    fn exhausted(device: Device, words: usize) -> Error {
        Error::Device {
            device: device.to_string(),
            fault: format!(
                "cannot allocate {} MiB; use fewer points per batch or a larger voxel size",
                words >> 18
            ),
        }
    }

    /// Number of 32-bit words.
    pub fn len(&self) -> usize {
        self.words
    }

    /// True when the block holds nothing.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The device that holds the block.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Address of the first word on its device.
    pub fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// The words as a host slice. On the CPU this is the block itself.
    pub fn host(&self) -> &[f32] {
        // SAFETY: the block is allocated, zero-initialised and aligned; shared borrows exclude writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// The words as a mutable host slice.
    pub fn host_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `host`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.device, self.words) {
            // SAFETY: allocated in `new` with the same layout and not freed before.
            unsafe { dealloc(self.base.as_ptr().cast(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_start_at_zero_and_keep_what_is_written() {
        let mut m = Memory::new(Device::Cpu, 100).unwrap();
        assert!(m.host().iter().all(|x| *x == 0.0));
        assert_eq!(m.address() % ALIGN, 0);
        m.host_mut()[99] = 2.0;
        assert_eq!(m.host()[99], 2.0);
    }

    #[test]
    fn absurd_sizes_are_an_error() {
        assert!(Memory::new(Device::Cpu, usize::MAX / 2).is_err());
    }
}
