//! What stands in for a GPU in a build without the feature `cuda`: nothing that could be reached.

use super::{Arg, Code, Gpu, Grid, Inventory, Kernels, Lap, Pointer, Resources};
use crate::device::Precision;
use crate::{Error, Result};

/// A GPU that cannot exist in this build.
#[derive(Debug)]
pub enum Cuda {}

/// Says that this build has no CUDA.
///
/// # Errors
/// Always.
pub fn probe() -> Result<&'static str, &'static str> {
    Err("this build has no CUDA (feature `cuda`)")
}

/// Nothing: there is nothing to find.
pub fn probed() -> Option<Result<&'static str, &'static str>> {
    None
}

/// Nothing, and why.
pub fn describe() -> Inventory {
    let absent = "this build has no CUDA; build it with the feature `cuda`";
    Inventory {
        cards: Err(absent.into()),
        nvrtc: Err(absent.into()),
        nvrtc_folders: Vec::new(),
        emulator: Err(absent.into()),
    }
}

/// Nothing is counted.
///
/// # Errors
/// Always.
pub fn take_counts() -> Result<String> {
    Err(absent(Gpu::Emulator))
}

/// Nothing is compiled.
///
/// # Errors
/// Always.
pub fn resources(_: &Kernels, _: Precision, _: u32) -> Result<Vec<Resources>> {
    Err(absent(Gpu::Card(0)))
}

/// There is none.
///
/// # Errors
/// Always.
pub fn compiler() -> Result<String> {
    Err(absent(Gpu::Card(0)))
}

fn absent(gpu: Gpu) -> Error {
    gpu.error("this build runs on the CPU only; build it with the feature `cuda`, or use --device cpu or auto")
}

impl Cuda {
    pub(super) fn open(gpu: Gpu) -> Result<&'static Cuda> {
        Err(absent(gpu))
    }

    /// Cannot be called.
    pub fn launch(&self, _: impl Into<Code>, _: &str, _: Grid, _: &[Arg]) -> Result<()> {
        match *self {}
    }

    /// Cannot be called.
    pub fn note(&self) -> Option<&'static str> {
        match *self {}
    }

    /// Cannot be called.
    pub fn capability(&self) -> u32 {
        match *self {}
    }

    /// Cannot be called.
    pub fn shared_memory(&self) -> Result<usize> {
        match *self {}
    }

    /// Cannot be called.
    pub fn name(&self) -> Result<String> {
        match *self {}
    }

    /// Cannot be called.
    pub fn clocked(&self, _: impl FnOnce() -> Result<()>) -> Result<Vec<Lap>> {
        match *self {}
    }

    /// Cannot be called.
    pub fn loaded(&self) -> Vec<&'static Kernels> {
        match *self {}
    }

    pub(crate) fn download(&self, _: Pointer, _: &mut [u8]) -> Result<()> {
        match *self {}
    }

    pub(crate) fn zero(&self, _: Pointer, _: usize) -> Result<()> {
        match *self {}
    }

    /// Cannot be called.
    pub fn synchronize(&self) -> Result<()> {
        match *self {}
    }
}

/// Memory that cannot exist in this build.
#[derive(Debug)]
pub(crate) enum Block {}

impl Block {
    pub fn new(cuda: &'static Cuda, _: usize) -> Result<Block> {
        match *cuda {}
    }

    pub fn copied(cuda: &'static Cuda, _: &[u8]) -> Result<Block> {
        match *cuda {}
    }

    pub fn at(&self) -> Pointer {
        match *self {}
    }

    pub fn at_mut(&mut self) -> Pointer {
        match *self {}
    }

    pub fn upload(&mut self, _: &[u8]) -> Result<()> {
        match *self {}
    }

    pub fn download(&self, _: usize, _: &mut [u8]) -> Result<()> {
        match *self {}
    }

    pub fn zero(&mut self, _: usize) -> Result<()> {
        match *self {}
    }
}

/// A thread that works ahead on a GPU that cannot exist in this build.
#[derive(Debug)]
pub enum Ahead {}

impl Ahead {
    /// Says that this build has no CUDA.
    ///
    /// # Errors
    /// Always.
    pub fn begin(gpu: Gpu) -> Result<Ahead> {
        Err(absent(gpu))
    }
}

/// The end of work that cannot be done in this build.
#[derive(Debug)]
pub enum Mark {}

impl Mark {
    /// Says that this build has no CUDA.
    ///
    /// # Errors
    /// Always.
    pub fn set(gpu: Gpu) -> Result<Option<Mark>> {
        Err(absent(gpu))
    }

    /// Cannot be called.
    pub fn wait(&self) -> Result<()> {
        match *self {}
    }
}

/// Runs of networks on a GPU that cannot exist in this build.
#[derive(Debug, Default)]
pub struct Replay {}

impl Replay {
    /// Says that this build has no CUDA.
    ///
    /// # Errors
    /// Always.
    pub fn run<R>(&mut self, gpu: Gpu, _: u64, _: impl FnOnce() -> Result<R>) -> Result<R> {
        Err(absent(gpu))
    }
}
