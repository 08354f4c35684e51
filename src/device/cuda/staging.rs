//! Pinned host memory that copies go through.
//!
//! A GPU copies from and to page-locked memory by itself, while the host goes on; from other memory the driver has to copy
//! first, and makes the host wait. So uploads are copied into one of a few pinned slots and leave from there; a slot is
//! used again when its event says that its copies are done. Readbacks arrive in a pinned slot each lane has for them. The
//! slots are all the pinned memory there is: larger copies go through them piece by piece.
//!
//! Where the system gives no pinned memory, slots are ordinary memory: everything works, and waits more often. The command
//! line says so.

use super::lane::event;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::ffi::c_void;

/// Slots for uploads, and their size in bytes.
const SLOTS: usize = 4;
const SLOT: usize = 1 << 20;
/// Size of the slots of readbacks; two take turns.
const BACK: usize = 1 << 18;
/// Alignment of what lies in a slot.
const LINE: usize = 64;

/// Host memory of a fixed size, pinned if possible.
#[derive(Debug)]
pub(super) struct Slot {
    memory: Place,
    bytes: usize,
    /// After the copies that use it.
    event: sys::CUevent,
}

#[derive(Debug)]
enum Place {
    /// The driver's.
    Pinned(*mut u8),
    Pageable(Vec<u8>),
}

// SAFETY: the memory is owned by the slot, and the event may be used from any thread.
unsafe impl Send for Slot {}

impl Slot {
    fn new(bytes: usize, pin: Pin) -> Result<Slot, DriverError> {
        let event = event()?;
        let memory = match pin(bytes) {
            Ok(memory) => {
                // SAFETY: the block has that size; bytes of it may be read before they are written.
                unsafe { memory.cast::<u8>().write_bytes(0, bytes) };
                Place::Pinned(memory.cast())
            }
            Err(_) => Place::Pageable(vec![0; bytes]),
        };
        Ok(Slot {
            memory,
            bytes,
            event,
        })
    }

    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.memory {
            // SAFETY: the block has that size, was filled, and is the slot's alone; `&mut self` makes the borrow exclusive.
            Place::Pinned(base) => unsafe { std::slice::from_raw_parts_mut(*base, self.bytes) },
            Place::Pageable(bytes) => bytes,
        }
    }

    fn is_pinned(&self) -> bool {
        matches!(self.memory, Place::Pinned(_))
    }

    /// The copies queued in `stream` so far use the slot.
    fn leave(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: both are alive.
        unsafe { result::event::record(self.event, stream) }
    }

    /// Waits for the copies that use it.
    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.event) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A failure here is an earlier fault that the next call reports; what cannot be waited for is not freed.
        if self.wait().is_err() {
            return;
        }
        // SAFETY: made in `new`, destroyed once, after all copies.
        let _ = unsafe { result::event::destroy(self.event) };
        if let Place::Pinned(base) = self.memory {
            // SAFETY: as above.
            let _ = unsafe { result::free_host(base.cast()) };
        }
    }
}

/// Gives pinned memory of a size.
type Pin = fn(usize) -> Result<*mut c_void, DriverError>;

/// Pinned memory of the driver.
fn pin(bytes: usize) -> Result<*mut c_void, DriverError> {
    // SAFETY: a plain allocation; without flags it is portable enough for one context.
    unsafe { result::malloc_host(bytes, 0) }
}

/// The slots that uploads leave from, in the order of one stream.
#[derive(Debug)]
pub(super) struct Staging {
    slots: Vec<Slot>,
    /// The slot that is being filled, and how far it is.
    at: usize,
    used: usize,
}

impl Staging {
    /// Slots for the uploads of one GPU, whose context is current.
    pub fn new() -> Result<Staging, DriverError> {
        Staging::of(SLOTS, SLOT, pin)
    }

    fn of(count: usize, bytes: usize, pin: Pin) -> Result<Staging, DriverError> {
        let slots = (0..count).map(|_| Slot::new(bytes, pin));
        Ok(Staging {
            slots: slots.collect::<Result<_, _>>()?,
            at: 0,
            used: 0,
        })
    }

    /// Whether all of it is pinned.
    pub fn is_pinned(&self) -> bool {
        self.slots.iter().all(Slot::is_pinned)
    }

    /// Queues a copy of `bytes` to the address `to` in `stream`, always the same one. They may be reused at once.
    pub fn upload(
        &mut self,
        mut bytes: &[u8],
        mut to: u64,
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        while !bytes.is_empty() {
            if self.used == self.slots[self.at].bytes {
                self.slots[self.at].leave(stream)?;
                self.at = (self.at + 1) % self.slots.len();
                self.used = 0;
                self.slots[self.at].wait()?;
            }
            let room = &mut self.slots[self.at].bytes()[self.used..];
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            let part = &mut room[..now.len()];
            part.copy_from_slice(now);
            // SAFETY: the destination holds as many bytes; the part is not written again before its slot's event.
            unsafe { result::memcpy_htod_async(to, part, stream) }?;
            self.used = (self.used + now.len()).next_multiple_of(LINE);
            to += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

/// The slots that readbacks of one stream arrive in, made at the first.
#[derive(Debug, Default)]
pub(super) struct Readback(Option<[Slot; 2]>);

impl Readback {
    /// Copies from the address `from` in `stream` and waits for it, and for nothing that is queued later. While a part
    /// arrives, the one before is taken out.
    pub fn download(
        &mut self,
        mut from: u64,
        bytes: &mut [u8],
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        let slots = match &mut self.0 {
            Some(slots) => slots,
            none => none.insert([Slot::new(BACK, pin)?, Slot::new(BACK, pin)?]),
        };
        let mut under_way: Option<(usize, &mut [u8])> = None;
        for (number, part) in bytes.chunks_mut(BACK).enumerate() {
            let slot = &mut slots[number % 2];
            // SAFETY: the source holds as many bytes, and the slot is not read before its event.
            unsafe { result::memcpy_dtoh_async(&mut slot.bytes()[..part.len()], from, stream) }?;
            slot.leave(stream)?;
            from += part.len() as u64;
            if let Some((before, part)) = under_way.replace((number % 2, part)) {
                take(&mut slots[before], part)?;
            }
        }
        match under_way {
            Some((last, part)) => take(&mut slots[last], part),
            None => Ok(()),
        }
    }
}

/// Waits for what arrives in a slot and takes it out.
fn take(slot: &mut Slot, part: &mut [u8]) -> Result<(), DriverError> {
    slot.wait()?;
    part.copy_from_slice(&slot.bytes()[..part.len()]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::cuda::Buffer;
    use crate::graph::check::devices;

    /// Uploads of several sizes, more than the slots hold together, arrive whole.
    fn check(mut staging: Staging) {
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            let cuda = gpu.open().unwrap();
            for count in [1, 3, 17, 5000, 70_001] {
                let bytes: Vec<u8> = (0..count).map(|i| (i * 7 + count) as u8).collect();
                let buffer = Buffer::new::<u8>(gpu, count).unwrap();
                // All in one stream: the ring is at fault, or nobody.
                staging
                    .upload(&bytes, buffer.at().0, cuda.stream())
                    .unwrap();
                assert!(buffer.read::<u8>(count).unwrap() == bytes, "{count} bytes");
            }
        }
    }

    /// Whether there is a GPU to test; if so, its context is current.
    fn is_tested() -> bool {
        let gpu = devices().into_iter().find_map(|device| match device {
            Device::Cuda(gpu) => Some(gpu),
            Device::Cpu => None,
        });
        gpu.map(|gpu| gpu.open().unwrap().bind().unwrap()).is_some()
    }

    #[test]
    fn uploads_larger_than_all_slots_arrive_whole() {
        if is_tested() {
            let staging = Staging::of(3, 4096, pin).unwrap();
            assert!(staging.is_pinned());
            check(staging);
        }
    }

    #[test]
    fn without_pinned_memory_uploads_arrive_too() {
        if is_tested() {
            let full: Pin = |_| Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY));
            let staging = Staging::of(3, 4096, full).unwrap();
            assert!(!staging.is_pinned());
            check(staging);
        }
    }

    #[test]
    fn readbacks_larger_than_their_slots_arrive_whole() {
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            for count in [0, 1, BACK / 4, BACK / 4 + 1, BACK + 123] {
                let values: Vec<u32> = (0..count as u32).map(|i| i.wrapping_mul(0x9e37)).collect();
                let buffer = Buffer::copied(gpu, &values).unwrap();
                assert!(
                    buffer.read::<u32>(count).unwrap() == values,
                    "{count} words"
                );
            }
        }
    }
}
