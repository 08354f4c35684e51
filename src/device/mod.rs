//! Where numbers live and run: memory, threads, SIMD, random numbers.
//!
//! A device never knows the names of ops; ops choose their code by [`Device`].

mod array;
pub mod gemm;
mod memory;
pub mod parallel;
mod permutation;
pub mod random;
pub mod simd;
pub mod workspace;

use crate::{Error, Result};
pub use array::Array;
pub use memory::{ALIGN, Memory};
pub use permutation::{Permutation, Rows};
use std::fmt;
use std::str::FromStr;

/// A place where ops run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host processor, through rayon and run-time detected SIMD.
    Cpu,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto` and `cpu` give the CPU. Asking for a device that this build cannot drive is an error.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" | "cpu" => Ok(Device::Cpu),
            _ => Err(Error::Device {
                device: name.to_string(),
                fault: "this build runs on the CPU only; use --device cpu or auto".to_string(),
            }),
        }
    }
}
