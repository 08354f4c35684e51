//! Layers made of ops, each with a training and an inference form.

mod attention;
mod block;
mod dense;
mod position;
mod sampling;

pub use attention::{AttentionConfig, GroupedVectorAttention, WeightEncoding};
pub use block::{Block, BlockSequence};
pub use dense::{Affine, BatchNorm, EPSILON, Linear, LinearNorm, MOMENTUM};
pub use position::PositionEncoding;
pub use sampling::{GridPool, Unpool, Upsampling};
