//! A block of memory on a device.
//!
//! On the CPU a block is host memory and nothing else. On a GPU it is GPU memory with a mirror on the host that exists
//! only once somebody asks for it: whoever reads or writes the host side gets what the GPU wrote last and the other way
//! round, and copies happen only where both sides are used.

use super::cuda::{Block, Cuda};
use super::{Device, Pointer};
use crate::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock};

/// Alignment of every block and of every value in an arena, bytes: one cache line, one AVX-512 vector.
pub const ALIGN: usize = 64;

/// A zero-initialised block of 32-bit words on a device. Host pages are mapped by the system on first touch only.
#[derive(Debug)]
pub struct Memory {
    device: Device,
    words: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Host(HostBlock),
    Cuda(Mirrored),
}

/// Zero-initialised host memory.
#[derive(Debug)]
struct HostBlock {
    base: NonNull<f32>,
    layout: Layout,
}

// SAFETY: the block is owned by this value alone and freed once; `&HostBlock` gives shared reads only, writes need
// `&mut`, or the lock of `Mirrored`, or go through the executor, which holds the arena exclusively while it runs.
unsafe impl Send for HostBlock {}
// SAFETY: as above.
unsafe impl Sync for HostBlock {}

impl HostBlock {
    fn new(words: usize) -> Option<HostBlock> {
        let bytes = words.checked_mul(4)?.max(ALIGN);
        let layout = Layout::from_size_align(bytes, ALIGN).ok()?;
        // SAFETY: the layout has a non-zero size because at least one cache line is asked for.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<f32>())?;
        Some(HostBlock { base, layout })
    }
}

impl Drop for HostBlock {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout and not freed before.
        unsafe { dealloc(self.base.as_ptr().cast(), self.layout) }
    }
}

/// GPU memory and its mirror on the host.
#[derive(Debug)]
struct Mirrored {
    block: Mutex<Block>,
    mirror: OnceLock<HostBlock>,
    newest: Mutex<Newest>,
}

/// Which side holds what was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newest {
    Both,
    Host,
    Cuda,
}

impl Mirrored {
    fn new(cuda: &'static Cuda, words: usize) -> Result<Mirrored> {
        let mut block = Block::new(cuda, 4 * words)?;
        block.zero(words)?;
        Ok(Mirrored {
            block: Mutex::new(block),
            mirror: OnceLock::new(),
            newest: Mutex::new(Newest::Cuda),
        })
    }

    fn block(&self) -> std::sync::MutexGuard<'_, Block> {
        self.block.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The mirror with what was written last.
    fn fetch(&self, device: Device, words: usize) -> Result<&HostBlock> {
        let mut newest = self.newest.lock().unwrap_or_else(|e| e.into_inner());
        let block = match self.mirror.get() {
            Some(block) => block,
            None => {
                let fresh = HostBlock::new(words).ok_or_else(|| exhausted(device, words))?;
                self.mirror.get_or_init(|| fresh)
            }
        };
        if *newest == Newest::Cuda {
            // SAFETY: the GPU side is newest only after an exclusive borrow, so no slice of the mirror is alive, and
            // the lock keeps others from handing one out.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(block.base.as_ptr().cast(), 4 * words) };
            self.block().download(0, bytes)?;
            *newest = Newest::Both;
        }
        Ok(block)
    }

    /// The GPU side with what was written last.
    fn push(&self, words: usize) -> Result<Pointer> {
        let mut newest = self.newest.lock().unwrap_or_else(|e| e.into_inner());
        if let (Newest::Host, Some(block)) = (*newest, self.mirror.get()) {
            // SAFETY: the block is allocated and initialised, and writers need an exclusive borrow.
            let bytes =
                unsafe { std::slice::from_raw_parts(block.base.as_ptr().cast(), 4 * words) };
            self.block().upload(bytes)?;
            *newest = Newest::Both;
        }
        Ok(self.block().at())
    }

    fn wrote(&mut self, side: Newest) {
        *self.newest.get_mut().unwrap_or_else(|e| e.into_inner()) = side;
    }
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

impl Memory {
    /// Allocates `words` 32-bit words, all zero. Errors when the device has not that much.
    pub fn new(device: Device, words: usize) -> Result<Self> {
        if words.checked_mul(4).is_none() {
            return Err(exhausted(device, words));
        }
        let place = match device {
            Device::Cpu => {
                Place::Host(HostBlock::new(words).ok_or_else(|| exhausted(device, words))?)
            }
            Device::Cuda(gpu) => Place::Cuda(Mirrored::new(gpu.open()?, words)?),
        };
        Ok(Memory {
            device,
            words,
            place,
        })
    }

    /// A block that holds `values`.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn of(device: Device, values: &[f32]) -> Result<Self> {
        let mut memory = Memory::new(device, values.len())?;
        memory.host_mut().copy_from_slice(values);
        Ok(memory)
    }

    /// Sets every word to zero, where they are.
    ///
    /// # Errors
    /// Faults of the GPU.
    pub fn clear(&mut self) -> Result<()> {
        match &mut self.place {
            Place::Host(_) => self.host_mut().fill(0.0),
            Place::Cuda(mirrored) => {
                mirrored.block().zero(self.words)?;
                mirrored.wrote(Newest::Cuda);
            }
        }
        Ok(())
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

    /// Address of the first word on its device, for reading.
    ///
    /// # Errors
    /// Copying to the GPU what the host wrote last.
    pub fn address(&self) -> Result<usize> {
        match &self.place {
            Place::Host(block) => Ok(block.base.as_ptr() as usize),
            Place::Cuda(mirrored) => Ok(mirrored.push(self.words)?.0 as usize),
        }
    }

    /// Address of the first word on its device, for writing: what the host holds is old from now on.
    ///
    /// # Errors
    /// As [`Memory::address`].
    pub fn address_mut(&mut self) -> Result<usize> {
        let address = self.address()?;
        if let Place::Cuda(mirrored) = &mut self.place {
            mirrored.block().at_mut();
            mirrored.wrote(Newest::Cuda);
        }
        Ok(address)
    }

    fn block(&self) -> Result<&HostBlock> {
        match &self.place {
            Place::Host(block) => Ok(block),
            Place::Cuda(mirrored) => mirrored.fetch(self.device, self.words),
        }
    }

    /// Makes the host side current, so that [`Memory::host`] cannot fail.
    ///
    /// # Errors
    /// Faults of the GPU, or of work queued on it.
    pub fn fetch(&self) -> Result<()> {
        self.block().map(|_| ())
    }

    /// Whether the host side is current without a copy.
    #[cfg(test)]
    pub fn is_on_host(&self) -> bool {
        match &self.place {
            Place::Host(_) => true,
            Place::Cuda(mirrored) => {
                *mirrored.newest.lock().unwrap_or_else(|e| e.into_inner()) != Newest::Cuda
            }
        }
    }

    /// Whether a GPU's words were ever on the host.
    #[cfg(test)]
    pub fn has_mirror(&self) -> bool {
        matches!(&self.place, Place::Cuda(mirrored) if mirrored.mirror.get().is_some())
    }

    /// The words as a host slice. On the CPU this is the block itself.
    ///
    /// # Panics
    /// When the GPU is lost or faulted before its words were fetched; [`Memory::fetch`] reports that as an error.
    pub fn host(&self) -> &[f32] {
        let block = self.block().unwrap_or_else(|e| panic!("{e}"));
        // SAFETY: the block is allocated, zero-initialised and aligned; shared borrows exclude writers.
        unsafe { std::slice::from_raw_parts(block.base.as_ptr(), self.words) }
    }

    /// The words as a mutable host slice.
    ///
    /// # Panics
    /// As [`Memory::host`].
    pub fn host_mut(&mut self) -> &mut [f32] {
        let base = self.block().unwrap_or_else(|e| panic!("{e}")).base;
        if let Place::Cuda(mirrored) = &mut self.place {
            mirrored.wrote(Newest::Host);
        }
        // SAFETY: as in `host`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), self.words) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::devices;

    #[test]
    fn blocks_start_at_zero_and_keep_what_is_written() {
        for device in devices() {
            let mut m = Memory::new(device, 100).unwrap();
            assert!(m.host().iter().all(|x| *x == 0.0));
            assert_eq!(m.address().unwrap() % ALIGN, 0);
            m.host_mut()[99] = 2.0;
            assert_eq!(m.host()[99], 2.0);
            // Both sides in turn: what the host wrote reaches the device and comes back.
            m.address_mut().unwrap();
            assert_eq!(m.host()[99], 2.0);
            m.host_mut()[0] = 3.0;
            m.address_mut().unwrap();
            assert_eq!((m.host()[0], m.host()[99]), (3.0, 2.0));
            m.host_mut()[1] = 4.0;
            m.clear().unwrap();
            m.address().unwrap();
            assert!(m.host().iter().all(|x| *x == 0.0));
            assert_eq!(Memory::of(device, &[1.0, 2.0]).unwrap().host(), [1.0, 2.0]);
        }
    }

    #[test]
    fn absurd_sizes_are_an_error() {
        for device in devices() {
            assert!(Memory::new(device, usize::MAX / 2).is_err());
            assert!(Memory::new(device, usize::MAX / 16).is_err());
        }
    }
}
