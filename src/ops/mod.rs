//! Ops: one per file, forward and backward.

mod add;
mod aggregate;
mod batch_norm;
mod cross_entropy;
mod drop;
mod gather;
mod grouped_weight;
mod interpolate;
mod linear;
mod lovasz;
mod matmul;
mod norm_coefficients;
mod pairs;
mod position_norm;
#[cfg(test)]
mod reference;
mod relation;
mod relation_multiplier;
mod relu;
mod segment_max;
mod segment_mean;
mod softmax;
mod statistics;
mod weighted_sum;

pub use add::Add;
pub use aggregate::Aggregate;
pub use batch_norm::BatchNorm;
pub use cross_entropy::CrossEntropy;
pub use drop::{DropPath, Dropout};
pub use gather::Gather;
pub use grouped_weight::GroupedWeight;
pub use interpolate::Interpolate;
pub use linear::Linear;
pub use lovasz::LovaszSoftmax;
pub use matmul::Matmul;
pub use norm_coefficients::NormCoefficients;
pub use position_norm::PositionNorm;
pub use relation::Relation;
pub use relation_multiplier::RelationMultiplier;
pub use relu::{AddRelu, Relu};
pub use segment_max::SegmentMax;
pub use segment_mean::SegmentMean;
pub use softmax::Softmax;
pub use statistics::Statistics;
pub use weighted_sum::WeightedSum;
