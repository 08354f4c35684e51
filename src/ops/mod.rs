//! Ops: one per file, forward and backward.

mod add;
mod batch_norm;
mod drop;
mod gather;
mod interpolate;
mod linear;
mod matmul;
mod norm_coefficients;
mod relu;
mod segment_max;
mod statistics;

pub use add::Add;
pub use batch_norm::BatchNorm;
pub use drop::{DropPath, Dropout};
pub use gather::Gather;
pub use interpolate::Interpolate;
pub use linear::Linear;
pub use matmul::Matmul;
pub use norm_coefficients::NormCoefficients;
pub use relu::{AddRelu, Relu};
pub use segment_max::SegmentMax;
pub use statistics::Statistics;
