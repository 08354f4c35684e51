//! Where numbers live and run: memory, threads, SIMD, random numbers, GPUs.
//!
//! A device never knows the names of ops; ops choose their code by [`Device`].

mod array;
pub mod cuda;
pub mod gemm;
mod memory;
pub mod parallel;
mod permutation;
mod precision;
pub mod random;
pub mod simd;
pub mod workspace;

use crate::{Error, Result};
pub use array::Array;
pub use cuda::{Cores, Gpu, Pointer};
pub use memory::{ALIGN, Memory};
pub use permutation::{Permutation, Rows};
pub use precision::Precision;
use std::fmt;
use std::str::FromStr;

/// A place where ops run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The host processor, through rayon and run-time detected SIMD.
    Cpu,
    /// A GPU, or the emulator of one, through the kernels of `kernels/`.
    Cuda(Gpu),
}

impl Device {
    /// Lets this thread prepare what others will compute with, as long as the result lives: on a GPU in a stream of its
    /// own. The processor needs nothing for that.
    ///
    /// # Errors
    /// Faults of the GPU.
    pub fn ahead(self) -> Result<Option<cuda::Ahead>> {
        match self {
            Device::Cpu => Ok(None),
            Device::Cuda(gpu) => cuda::Ahead::begin(gpu).map(Some),
        }
    }

    /// Marks the end of what this thread has prepared; whoever takes it over waits for the mark before. None where nothing
    /// needs to be waited for.
    ///
    /// # Errors
    /// Faults of the GPU.
    pub fn mark(self) -> Result<Option<cuda::Mark>> {
        match self {
            Device::Cpu => Ok(None),
            Device::Cuda(gpu) => cuda::Mark::set(gpu),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(gpu) => gpu.fmt(f),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto` gives the CPU, also where [`cuda::probe`] finds a GPU, since only the emulator has run networks yet. Asking for
    /// a device that is not there is an error that says what is missing.
    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::Device {
            device: name.to_string(),
            fault: "not a device; there are auto, cpu, cuda, cuda:0, cuda:1 … and emulator".into(),
        };
        let gpu = match name {
            "cpu" => return Ok(Device::Cpu),
            "auto" => {
                // A GPU is looked for, to be named, and not taken: so far only the emulator has run the kernels.
                let _ = cuda::probe();
                return Ok(Device::Cpu);
            }
            "cuda" => Gpu::Card(0),
            "emulator" => Gpu::Emulator,
            _ => {
                let ordinal = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                Gpu::Card(ordinal.parse().map_err(|_| unknown())?)
            }
        };
        gpu.open()
            .map(|_| Device::Cuda(gpu))
            .map_err(|error| match error {
                Error::Device { device, fault } => Error::Device {
                    device,
                    fault: format!("{fault}; --device cpu and --device auto run without it"),
                },
                other => other,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_device_are_refused() {
        for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = name.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains("not a device"), "{error}");
        }
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
    }
}
