//! Immutable shared lists that the geometry phase produces and ops read.

use super::{Device, Gpu, Pointer, cuda::Cuda};
use crate::Result;
use bytemuck::NoUninit;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

/// A shared immutable list. Cloning is free; on the host it reads as a slice. A GPU gets its copy at first use and
/// keeps it as long as the list lives.
#[derive(Debug, Clone)]
pub struct Array<T>(Arc<List<T>>);

#[derive(Debug)]
struct List<T> {
    values: Vec<T>,
    copies: Mutex<Vec<Copied>>,
}

/// The copy on one GPU.
#[derive(Debug)]
struct Copied {
    gpu: Gpu,
    cuda: &'static Cuda,
    base: Pointer,
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.cuda.free(self.base);
    }
}

impl<T: NoUninit> Array<T> {
    /// Address of the copy on `gpu`, made at the first call.
    ///
    /// # Errors
    /// Too little memory, or a fault of the GPU.
    pub fn on(&self, gpu: Gpu) -> Result<Pointer> {
        let mut copies = self.0.copies.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(copy) = copies.iter().find(|c| c.gpu == gpu) {
            return Ok(copy.base);
        }
        let cuda = gpu.open()?;
        let bytes: &[u8] = bytemuck::cast_slice(&self.0.values);
        let base = cuda.allocate(bytes.len())?;
        let copy = Copied { gpu, cuda, base };
        cuda.upload(bytes, base)?;
        copies.push(copy);
        Ok(base)
    }

    /// Address on `device`.
    pub(crate) fn address(&self, device: Device) -> Result<usize> {
        match device {
            Device::Cpu => Ok(self.0.values.as_ptr() as usize),
            Device::Cuda(gpu) => Ok(self.on(gpu)?.0 as usize),
        }
    }
}

impl<T> From<Vec<T>> for Array<T> {
    fn from(values: Vec<T>) -> Self {
        let copies = Mutex::default();
        Array(Arc::new(List { values, copies }))
    }
}

impl<T> Default for Array<T> {
    fn default() -> Self {
        Array::from(Vec::new())
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0.values
    }
}

impl<T: PartialEq> PartialEq for Array<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}
