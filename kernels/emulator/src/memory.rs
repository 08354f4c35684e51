//! Device memory: allocations with gaps between them, at addresses that are never used twice.
//!
//! An address names its allocation by its page, freed ones too, so an access outside, into a gap or after a free is
//! always noticed and can be told apart. Kernels that run on several threads share the bytes; every access is atomic
//! and relaxed, so that a race of the kernel is a wrong value at worst.

use crate::Error;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed};

/// Lowest device address.
const BASE: u64 = 0x10_0000_0000;
/// Allocations start at multiples of this.
const PAGE: u64 = 1 << 16;

/// One allocation.
pub struct Allocation {
    /// First address.
    pub base: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// False once it is freed.
    pub alive: bool,
    /// A variable's name, or empty.
    pub label: String,
    words: Box<[AtomicU32]>,
    /// Per word, one bit for each byte that has been written.
    written: Box<[AtomicU8]>,
}

impl Allocation {
    /// Whether an access of `bytes` at `address` lies inside.
    #[inline(always)]
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        address >= self.base
            && address - self.base <= self.bytes.wrapping_sub(bytes)
            && bytes <= self.bytes
    }

    /// Whether all of `bytes` at an aligned `offset` have been written.
    #[inline(always)]
    pub fn is_written(&self, offset: usize, bytes: usize) -> bool {
        let word = offset / 4;
        if bytes < 4 {
            let mask = ((1u8 << bytes) - 1) << (offset % 4);
            return self.written[word].load(Relaxed) & mask == mask;
        }
        self.written[word..word + bytes / 4]
            .iter()
            .all(|flags| flags.load(Relaxed) == 15)
    }

    /// Notes that `bytes` at an aligned `offset` are written.
    #[inline(always)]
    pub fn set_written(&self, offset: usize, bytes: usize) {
        let word = offset / 4;
        if bytes < 4 {
            let mask = ((1u8 << bytes) - 1) << (offset % 4);
            if self.written[word].load(Relaxed) & mask != mask {
                self.written[word].fetch_or(mask, Relaxed);
            }
            return;
        }
        self.written[word..word + bytes / 4]
            .iter()
            .for_each(|flags| flags.store(15, Relaxed));
    }

    /// The word at `offset`, a multiple of 4.
    #[inline(always)]
    pub fn word(&self, offset: usize) -> u32 {
        self.words[offset / 4].load(Relaxed)
    }

    /// Writes the word at `offset`, a multiple of 4.
    #[inline(always)]
    pub fn set_word(&self, offset: usize, value: u32) {
        self.words[offset / 4].store(value, Relaxed);
    }

    /// One or two bytes at an aligned `offset`.
    #[inline(always)]
    pub fn part(&self, offset: usize, bytes: usize) -> u32 {
        let word = self.word(offset & !3) >> (8 * (offset % 4));
        if bytes == 1 {
            word & 0xff
        } else {
            word & 0xffff
        }
    }

    /// Writes one or two bytes at an aligned `offset`, leaving its neighbours alone.
    #[inline(always)]
    pub fn set_part(&self, offset: usize, bytes: usize, value: u32) {
        let word = &self.words[offset / 4];
        let within = offset % 4;
        if bytes == 1 {
            // SAFETY: the byte lies in a word that `words` owns, and atomics may be reached through shared references.
            unsafe { AtomicU8::from_ptr(word.as_ptr().cast::<u8>().add(within)) }
                .store(value as u8, Relaxed);
        } else {
            // SAFETY: as above; `within` is 0 or 2, so the halfword is aligned.
            unsafe { AtomicU16::from_ptr(word.as_ptr().cast::<u16>().add(within / 2)) }
                .store(value as u16, Relaxed);
        }
    }

    fn byte(&self, offset: usize) -> u8 {
        self.part(offset, 1) as u8
    }
}

/// All device memory.
pub struct Memory {
    allocations: Vec<Allocation>,
    /// Allocation number + 1 by page.
    pages: Vec<u32>,
    used: u64,
    limit: u64,
}

impl Memory {
    /// Memory of at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Memory {
            allocations: Vec::new(),
            pages: Vec::new(),
            used: 0,
            limit,
        }
    }

    /// Bytes in use, and bytes there are.
    pub fn usage(&self) -> (u64, u64) {
        (self.used, self.limit)
    }

    /// Reserves `bytes`; none where the memory is full. Nothing is initialised.
    pub fn allocate(&mut self, bytes: u64, label: &str) -> Option<u64> {
        if bytes > self.limit - self.used {
            return None;
        }
        let base = BASE + self.pages.len() as u64 * PAGE;
        let words = bytes.div_ceil(4) as usize;
        // The gap grows with the allocation: an index that is off by a fraction of its size is caught too.
        let pages = (bytes + bytes / 4).div_ceil(PAGE) + 1;
        self.allocations.push(Allocation {
            base,
            bytes,
            alive: true,
            label: label.into(),
            words: bytemuck::zeroed_slice_box(words),
            written: bytemuck::zeroed_slice_box(words),
        });
        let number = self.allocations.len() as u32;
        self.pages.resize(self.pages.len() + pages as usize, number);
        self.used += bytes;
        Some(base)
    }

    /// Frees an allocation and gives its number; its address stays known as freed.
    ///
    /// # Errors
    /// [`Error::Memory`] where `address` is not the start of a live allocation.
    pub fn free(&mut self, address: u64) -> Result<usize, Error> {
        let found = self.find(address).filter(|&number| {
            let allocation = &self.allocations[number];
            allocation.base == address && allocation.alive
        });
        let Some(number) = found else {
            return Err(Error::Memory(format!("free of {}", self.describe(address))));
        };
        let allocation = &mut self.allocations[number];
        allocation.alive = false;
        allocation.words = Box::default();
        allocation.written = Box::default();
        self.used -= allocation.bytes;
        Ok(number)
    }

    /// The allocation whose pages hold `address`, freed ones included.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<usize> {
        let page = address.wrapping_sub(BASE) / PAGE;
        self.pages
            .get(usize::try_from(page).unwrap_or(usize::MAX))
            .map(|&number| number as usize - 1)
    }

    /// An allocation by its number.
    #[inline(always)]
    pub fn allocation(&self, number: usize) -> &Allocation {
        &self.allocations[number]
    }

    /// Where an address lies, in words.
    pub fn describe(&self, address: u64) -> String {
        let Some(number) = self.find(address) else {
            return format!("address {address:#x}, in no allocation");
        };
        let Allocation {
            base,
            bytes,
            alive,
            label,
            ..
        } = &self.allocations[number];
        let name = if label.is_empty() {
            format!("allocation {number}")
        } else {
            format!("variable {label}")
        };
        let state = if *alive { "" } else { " (freed)" };
        let offset = address - base;
        if offset < *bytes {
            format!("address {address:#x}, byte {offset} of {name}{state} of {bytes} bytes")
        } else {
            format!(
                "address {address:#x}, {} bytes past the end of {name}{state} of {bytes} bytes",
                offset - bytes
            )
        }
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(&Allocation, usize), Error> {
        let found = self.find(address).map(|number| &self.allocations[number]);
        match found.filter(|allocation| allocation.alive && allocation.holds(address, bytes)) {
            Some(allocation) => Ok((allocation, (address - allocation.base) as usize)),
            None => Err(Error::Memory(format!(
                "{bytes} bytes at {}",
                self.describe(address)
            ))),
        }
    }

    /// Copies device bytes to the host.
    ///
    /// # Errors
    /// [`Error::Memory`] where the range is not inside one live allocation; so for the other copies.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Error> {
        if out.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, out.len() as u64)?;
        if offset % 4 == 0 {
            let mut chunks = out.chunks_exact_mut(4);
            let mut at = offset;
            for chunk in &mut chunks {
                chunk.copy_from_slice(&allocation.word(at).to_le_bytes());
                at += 4;
            }
            chunks
                .into_remainder()
                .iter_mut()
                .enumerate()
                .for_each(|(i, byte)| *byte = allocation.byte(at + i));
        } else {
            out.iter_mut()
                .enumerate()
                .for_each(|(i, byte)| *byte = allocation.byte(offset + i));
        }
        Ok(())
    }

    /// Copies host bytes to the device.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, bytes.len() as u64)?;
        let whole = if offset % 4 == 0 { bytes.len() & !3 } else { 0 };
        for (i, chunk) in bytes[..whole].chunks_exact(4).enumerate() {
            allocation.set_word(
                offset + 4 * i,
                u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]),
            );
            allocation.set_written(offset + 4 * i, 4);
        }
        for (i, &byte) in bytes.iter().enumerate().skip(whole) {
            allocation.set_part(offset + i, 1, u32::from(byte));
            allocation.set_written(offset + i, 1);
        }
        Ok(())
    }

    /// Fills with a value of 1, 2 or 4 bytes, `count` times.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn fill(
        &mut self,
        address: u64,
        value: u32,
        bytes: usize,
        count: usize,
    ) -> Result<(), Error> {
        let pattern = &value.to_le_bytes()[..bytes];
        self.write(address, &pattern.repeat(count))
    }

    /// Copies from device to device; what was not initialised stays so.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, from_offset) = self.range(from, bytes as u64)?;
        let aligned = [bytes, from_offset, to as usize]
            .iter()
            .all(|at| at.is_multiple_of(4));
        if aligned {
            let (target, to_offset) = self.range(to, bytes as u64)?;
            // Through a buffer, since the ranges may overlap.
            let words = from_offset / 4..(from_offset + bytes) / 4;
            let read = |at: usize| {
                (
                    source.words[at].load(Relaxed),
                    source.written[at].load(Relaxed),
                )
            };
            let values: Vec<(u32, u8)> = words.map(read).collect();
            for (at, (word, written)) in (to_offset / 4..).zip(values) {
                target.words[at].store(word, Relaxed);
                target.written[at].store(written, Relaxed);
            }
            return Ok(());
        }
        let known: Vec<bool> = (0..bytes)
            .map(|i| source.is_written(from_offset + i, 1))
            .collect();
        let mut data = vec![0; bytes];
        self.read(from, &mut data)?;
        self.write(to, &data)?;
        let (target, to_offset) = self.range(to, bytes as u64)?;
        for (i, _) in known.iter().enumerate().filter(|(_, known)| !**known) {
            target.written[(to_offset + i) / 4].fetch_and(!(1 << ((to_offset + i) % 4)), Relaxed);
        }
        Ok(())
    }

    /// Forgets that a range was ever written: for owners of an arena that hand its parts out anew.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn forget(&mut self, address: u64, bytes: u64) -> Result<(), Error> {
        let (allocation, offset) = self.range(address, bytes)?;
        for at in offset..offset + bytes as usize {
            allocation.written[at / 4].fetch_and(!(1 << (at % 4)), Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_and_neighbours_stay() {
        let mut memory = Memory::new(1 << 20);
        let a = memory.allocate(11, "").unwrap();
        memory
            .write(a, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
            .unwrap();
        memory.write(a + 5, &[0xff, 0xfe]).unwrap();
        let mut out = [0; 11];
        memory.read(a, &mut out).unwrap();
        assert_eq!(out, [1, 2, 3, 4, 5, 0xff, 0xfe, 8, 9, 10, 11]);
        assert!(memory.write(a + 10, &[1, 2]).is_err());
    }

    #[test]
    fn freed_addresses_are_never_reused() {
        let mut memory = Memory::new(1 << 20);
        let a = memory.allocate(1 << 19, "").unwrap();
        memory.free(a).unwrap();
        assert!(memory.free(a).is_err());
        let b = memory.allocate(1 << 19, "").unwrap();
        assert_ne!(a, b);
        assert!(
            memory.describe(a).contains("freed"),
            "{}",
            memory.describe(a)
        );
        assert!(memory.allocate(1 << 20, "").is_none());
    }

    #[test]
    fn copies_keep_what_is_unknown() {
        let mut memory = Memory::new(1 << 20);
        let (a, b) = (
            memory.allocate(8, "").unwrap(),
            memory.allocate(8, "").unwrap(),
        );
        memory.write(a, &[1, 2, 3]).unwrap();
        memory.fill(b, 0, 4, 2).unwrap();
        memory.copy(b, a, 8).unwrap();
        let target = memory.allocation(memory.find(b).unwrap());
        assert!(target.is_written(0, 2) && !target.is_written(0, 4) && !target.is_written(4, 4));
        memory.copy(b + 3, a + 1, 4).unwrap();
        let target = memory.allocation(memory.find(b).unwrap());
        let known = [true, true, true, true, true, false, false, false];
        assert_eq!(known, std::array::from_fn(|at| target.is_written(at, 1)));
    }
}
