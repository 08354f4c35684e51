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

/// A device as it was asked for, before it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU where one is usable, else the CPU.
    Auto,
    /// This one, or an error.
    Only(Device),
}

impl Choice {
    /// The device; a GPU is open then.
    ///
    /// # Errors
    /// The device that was asked for is not there, and what is missing.
    pub fn open(self) -> Result<Device> {
        match self {
            Choice::Auto => match cuda::probe() {
                Ok(_) => Gpu::Card(0).open().map(|_| Device::Cuda(Gpu::Card(0))),
                Err(_) => Ok(Device::Cpu),
            },
            Choice::Only(Device::Cpu) => Ok(Device::Cpu),
            Choice::Only(Device::Cuda(gpu)) => {
                gpu.open()
                    .map(|_| Device::Cuda(gpu))
                    .map_err(|error| match error {
                        Error::Device { device, fault } => Error::Device {
                            device,
                            fault: format!(
                                "{fault}; --device cpu and --device auto run without it"
                            ),
                        },
                        other => other,
                    })
            }
        }
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::Device {
            device: name.to_string(),
            fault: "not a device; there are auto, cpu, cuda, cuda:0, cuda:1 … and emulator".into(),
        };
        let gpu = match name {
            "cpu" => return Ok(Choice::Only(Device::Cpu)),
            "auto" => return Ok(Choice::Auto),
            "cuda" => Gpu::Card(0),
            "emulator" => Gpu::Emulator,
            _ => {
                let ordinal = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                Gpu::Card(ordinal.parse().map_err(|_| unknown())?)
            }
        };
        Ok(Choice::Only(Device::Cuda(gpu)))
    }
}

impl FromStr for Device {
    type Err = Error;

    /// As [`Choice::open`] of that name.
    fn from_str(name: &str) -> Result<Self> {
        name.parse::<Choice>()?.open()
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
