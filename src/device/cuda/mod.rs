//! GPUs: finding them, their memory, and running the kernels of `kernels/` on them.
//!
//! The driver and NVRTC are loaded when they are first asked for, so the program builds and runs on machines that have
//! neither; what is missing is an ordinary error that says how to get it. A kernel is compiled for the GPU at hand by
//! NVRTC at first use and kept in a cache on disk. The emulator is a driver library that executes the same PTX on the
//! processor: nothing above this module knows which of the two it is.
//!
//! | item | what it is |
//! |---|---|
//! | [`Gpu`] | which GPU, as named on the command line |
//! | [`Cores`] | a GPU and the precision of matrix products on it |
//! | [`Cuda`] | an open GPU: copies and launches |
//! | [`Kernels`], [`Grid`], [`Arg`] | a `.cu` file, how many threads, what they are given |
//! | [`Buffer`] | memory that kernels hand to kernels |
//! | [`Ahead`], [`Mark`] | a thread that prepares what others compute with, and the end of a piece of its work |
//! | [`Replay`] | networks whose shapes repeat, as CUDA graphs |
//! | [`Lap`] | a launch and its time on a real GPU |
//! | [`scan`], [`sort`](mod@sort) | running totals and orders, what index lists are built with |
//! | [`probe`] | whether a usable GPU is there, and why not |
//! | [`describe`] | all that is there to run kernels with, and what is missing |
//! | [`resources()`], [`take_counts`] | what kernels take on a GPU, and what they did on the emulator |
//!
//! Everything is ordered by the main stream of a GPU: a launch sees what earlier launches and copies wrote, and memory may
//! be freed while work that uses it is still queued. Beside it, uploads have a stream of their own, which leaves from pinned
//! memory, and so has each thread that works [ahead](Ahead); memory knows where it was made and orders its uses.

mod buffer;
mod files;
mod grid;
mod inventory;
mod resources;
pub mod scan;
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "launches need a driver")
)]
mod signature;
pub mod sort;

#[cfg(feature = "cuda")]
mod block;
#[cfg(feature = "cuda")]
mod cache;
#[cfg(feature = "cuda")]
mod clock;
#[cfg(feature = "cuda")]
mod compile;
#[cfg(feature = "cuda")]
mod context;
#[cfg(feature = "cuda")]
mod lane;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod probe;
#[cfg(feature = "cuda")]
mod replay;
#[cfg(feature = "cuda")]
mod staging;
#[cfg(feature = "cuda")]
pub(crate) use block::Block;
#[cfg(feature = "cuda")]
pub use context::Cuda;
#[cfg(feature = "cuda")]
pub use lane::{Ahead, Mark};
#[cfg(feature = "cuda")]
pub use probe::{compiler, describe, probe, probed, resources, take_counts};
#[cfg(feature = "cuda")]
pub use replay::Replay;

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(not(feature = "cuda"))]
pub(crate) use absent::Block;
#[cfg(not(feature = "cuda"))]
pub use absent::{
    Ahead, Cuda, Mark, Replay, compiler, describe, probe, probed, resources, take_counts,
};

pub use buffer::Buffer;
pub use files::FILES;
pub use grid::Grid;
pub use inventory::{Card, Inventory, Nvrtc};
pub use resources::Resources;
pub use signature::Arg;

use super::Precision;
use crate::{Error, Result};
use std::fmt;

/// Oldest compute capability that the kernels are written for (Turing), as major · 10 + minor.
pub const OLDEST_CAPABILITY: u32 = 75;

/// A GPU, or what stands in for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gpu {
    /// The card with this number, as the driver counts.
    Card(u16),
    /// The emulator: the same kernels, executed and checked on the processor.
    Emulator,
}

impl Gpu {
    /// The open GPU. Opening happens once per process.
    ///
    /// # Errors
    /// What is missing (driver, GPU, NVRTC, emulator) and how to get it.
    pub fn open(self) -> Result<&'static Cuda> {
        Cuda::open(self)
    }

    /// Queues `kernel` of `kernels`; see [`Cuda::launch`].
    ///
    /// # Errors
    /// What the compiler or the driver says, with the name of the kernel.
    pub fn launch(
        self,
        kernels: &'static Kernels,
        kernel: &str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        self.open()?.launch(kernels, kernel, grid, args)
    }

    /// Error of this GPU.
    pub(crate) fn error(self, fault: impl Into<String>) -> Error {
        Error::Device {
            device: self.to_string(),
            fault: fault.into(),
        }
    }
}

/// A GPU and the precision in which its tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// The GPU.
    pub gpu: Gpu,
    /// Of the operands of matrix products.
    pub precision: Precision,
}

impl From<Gpu> for Cores {
    /// With products in f32.
    fn from(gpu: Gpu) -> Cores {
        let precision = Precision::F32;
        Cores { gpu, precision }
    }
}

impl Cores {
    /// Queues a kernel that multiplies matrices, in the form of this precision; see [`Cuda::launch`]. Kernels without
    /// matrix products have one form only, that of [`Gpu::launch`].
    ///
    /// # Errors
    /// What the compiler or the driver says, with the name of the kernel.
    pub fn launch(
        self,
        kernels: &'static Kernels,
        kernel: &str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        let code = kernels.in_precision(self.precision);
        self.gpu.open()?.launch(code, kernel, grid, args)
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gpu::Card(ordinal) => write!(f, "cuda:{ordinal}"),
            Gpu::Emulator => f.write_str("emulator"),
        }
    }
}

/// A launch, and how long it took.
#[derive(Debug, Clone)]
pub struct Lap {
    /// Name of the kernel.
    pub kernel: String,
    /// Microseconds from before it to after it; a GPU takes one or two of them to begin and end a kernel.
    pub microseconds: f64,
}

/// An address in the memory of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer(pub(crate) u64);

impl Pointer {
    /// The address `words` 32-bit words further on.
    pub fn offset(self, words: usize) -> Pointer {
        Pointer(self.0 + 4 * words as u64)
    }
}

/// Device code of one `.cu` file. Declared as a `static`, since compiled code is kept per declaration.
#[derive(Debug)]
pub struct Kernels {
    /// Name of the file without its ending.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

impl Kernels {
    /// The code with products in `precision`.
    pub fn in_precision(&'static self, precision: Precision) -> Code {
        Code {
            kernels: self,
            precision,
        }
    }

    /// Whether there are matrix products in it, so that its code depends on the precision.
    pub fn multiplies(&self) -> bool {
        let includes = |header| self.source.contains(&format!("#include \"{header}\""));
        ["gemm.cuh", "fragments.cuh", "aggregate.cuh"]
            .into_iter()
            .any(includes)
    }
}

/// A kernel file in one of its forms.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// The file.
    pub kernels: &'static Kernels,
    /// In what its products are taken.
    pub precision: Precision,
}

impl From<&'static Kernels> for Code {
    fn from(kernels: &'static Kernels) -> Code {
        kernels.in_precision(Precision::F32)
    }
}

/// The text of line `number` (from 1) of a kernel file or of what it includes.
pub fn source_line(kernels: &Kernels, file: &str, number: u32) -> Option<&'static str> {
    let header = HEADERS
        .iter()
        .find(|(name, _)| name.to_str().is_ok_and(|name| file.ends_with(name)));
    let text = header.map_or(kernels.source, |(_, text)| text);
    text.lines().nth((number as usize).checked_sub(1)?)
}

/// What kernel files may include: names and texts.
const HEADERS: [(&std::ffi::CStr, &str); 12] = [
    (
        c"candidates.cuh",
        include_str!("../../../kernels/candidates.cuh"),
    ),
    (c"common.cuh", include_str!("../../../kernels/common.cuh")),
    (c"columns.cuh", include_str!("../../../kernels/columns.cuh")),
    (
        c"elements.cuh",
        include_str!("../../../kernels/elements.cuh"),
    ),
    (
        c"fragments.cuh",
        include_str!("../../../kernels/fragments.cuh"),
    ),
    (
        c"aggregate.cuh",
        include_str!("../../../kernels/aggregate.cuh"),
    ),
    (c"gemm.cuh", include_str!("../../../kernels/gemm.cuh")),
    (c"windows.cuh", include_str!("../../../kernels/windows.cuh")),
    (c"pairs.cuh", include_str!("../../../kernels/pairs.cuh")),
    (c"search.cuh", include_str!("../../../kernels/search.cuh")),
    (c"tree.cuh", include_str!("../../../kernels/tree.cuh")),
    (c"triples.cuh", include_str!("../../../kernels/triples.cuh")),
];

/// Declares the device code of `kernels/<name>.cu` as `static KERNELS`, or under another name.
macro_rules! kernels {
    ($name:literal) => {
        $crate::device::cuda::kernels!(KERNELS = $name);
    };
    ($item:ident = $name:literal) => {
        static $item: $crate::device::cuda::Kernels = $crate::device::cuda::Kernels {
            name: $name,
            source: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/kernels/",
                $name,
                ".cu"
            )),
        };
    };
}
pub(crate) use kernels;

/// The arguments of a launch.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        &[$($crate::device::cuda::Arg::from($value)),*]
    };
}
pub(crate) use args;
