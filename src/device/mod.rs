//! Where numbers live and run: memory, threads, SIMD, random numbers.
//!
//! A device never knows the names of ops; ops choose their code by [`Device`].

mod array;
pub mod parallel;
pub mod random;

pub use array::Array;

/// A place where ops run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host processor, through rayon and run-time detected SIMD.
    Cpu,
}
