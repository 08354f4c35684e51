//! Ops: one per file, forward and backward.

mod relu;

pub use relu::{AddRelu, Relu};
