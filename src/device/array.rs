//! Immutable shared lists that the geometry phase produces and ops read.

use super::{Device, Gpu, Pointer, cuda::Buffer};
use crate::Result;
use bytemuck::Pod;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock};

/// A shared immutable list. Cloning is free; on the host it reads as a slice.
///
/// A list is made on the host or by kernels of a GPU. Each side gets its copy when it first asks and keeps it as long as
/// the list lives, so a list that only kernels read never leaves the GPU. The length is known everywhere.
#[derive(Debug, Clone)]
pub struct Array<T>(Arc<List<T>>);

#[derive(Debug)]
struct List<T> {
    count: usize,
    /// What kernels made, they know: no value but `u32::MAX` is as large.
    rows: Option<usize>,
    host: OnceLock<Vec<T>>,
    copies: Mutex<Vec<Buffer>>,
}

impl<T> Array<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.count
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` values of `buffer`, which kernels have written or will by the time they are read.
    pub fn of_buffer(buffer: Buffer, count: usize) -> Array<T> {
        Array::made(buffer, count, None)
    }

    fn made(buffer: Buffer, count: usize, rows: Option<usize>) -> Array<T> {
        Array(Arc::new(List {
            count,
            rows,
            host: OnceLock::new(),
            copies: Mutex::new(vec![buffer]),
        }))
    }

    /// Whether reading the values on the host costs no copy from a GPU.
    pub fn is_on_host(&self) -> bool {
        self.0.host.get().is_some()
    }
}

impl Array<u32> {
    /// As [`Array::of_buffer`], of values that are below `rows` or `u32::MAX`.
    pub fn of_rows(buffer: Buffer, count: usize, rows: usize) -> Array<u32> {
        Array::made(buffer, count, Some(rows))
    }

    /// What kernels that made the list say about its values: all are below this, or `u32::MAX`. Checks need not read
    /// such a list.
    pub fn known_rows(&self) -> Option<usize> {
        self.0.rows
    }
}

impl<T: Pod> Array<T> {
    /// Address of the copy on `gpu`, made at the first call.
    ///
    /// # Errors
    /// Too little memory, or a fault of the GPU.
    pub fn on(&self, gpu: Gpu) -> Result<Pointer> {
        let find = |copies: &[Buffer]| copies.iter().find(|c| c.gpu() == gpu).map(Buffer::at);
        if let Some(base) = find(&self.copies()) {
            return Ok(base);
        }
        let values = self.fetch()?;
        let mut copies = self.copies();
        if let Some(base) = find(&copies) {
            return Ok(base); // another thread was here in the meantime
        }
        let copy = Buffer::copied(gpu, values)?;
        let base = copy.at();
        copies.push(copy);
        Ok(base)
    }

    /// The values on the host, copied from a GPU if need be.
    ///
    /// # Errors
    /// A fault of the GPU, or of work queued on it.
    pub fn fetch(&self) -> Result<&[T]> {
        if self.0.host.get().is_none() {
            let copies = self.copies();
            let made = copies.first().expect("a list lies somewhere");
            let values = made.read(self.len())?;
            // Another thread may have fetched the same values.
            let _ = self.0.host.set(values);
        }
        Ok(self.0.host.get().expect("it was set just now"))
    }

    /// Address on `device`.
    pub(crate) fn address(&self, device: Device) -> Result<usize> {
        match device {
            Device::Cpu => Ok(self.fetch()?.as_ptr() as usize),
            Device::Cuda(gpu) => Ok(self.on(gpu)?.0 as usize),
        }
    }

    fn copies(&self) -> std::sync::MutexGuard<'_, Vec<Buffer>> {
        self.0.copies.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<T> From<Vec<T>> for Array<T> {
    fn from(values: Vec<T>) -> Self {
        Array(Arc::new(List {
            count: values.len(),
            rows: None,
            host: values.into(),
            copies: Mutex::default(),
        }))
    }
}

impl<T> Default for Array<T> {
    fn default() -> Self {
        Array::from(Vec::new())
    }
}

impl<T: Pod> Deref for Array<T> {
    type Target = [T];

    /// # Panics
    /// When the GPU that holds the values is lost or faulted before they were fetched; [`Array::fetch`] reports that as
    /// an error.
    fn deref(&self) -> &[T] {
        self.fetch().unwrap_or_else(|e| panic!("{e}"))
    }
}

impl<T: Pod + PartialEq> PartialEq for Array<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::devices;

    #[test]
    fn lists_made_on_a_device_read_as_slices() {
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            let buffer = Buffer::copied(gpu, &[[1.0f32, 2.0], [3.0, 4.0]]).unwrap();
            let at = buffer.at();
            let list = Array::<[f32; 2]>::of_buffer(buffer, 2);
            assert!(!list.is_on_host() && list.len() == 2 && !list.is_empty());
            assert_eq!(list.on(gpu).unwrap(), at, "it already lies there");
            assert!(!list.is_on_host(), "an address needs no copy");
            assert_eq!(list[..], [[1.0, 2.0], [3.0, 4.0]]);
            assert!(list.is_on_host());
            assert_eq!(list, Array::from(vec![[1.0, 2.0], [3.0, 4.0]]));
            let none = Array::<u32>::of_buffer(Buffer::new::<u32>(gpu, 0).unwrap(), 0);
            assert!(none.is_empty() && none[..].is_empty());
        }
    }
}
