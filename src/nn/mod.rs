//! Layers made of ops, each with a training and an inference form.

mod attention;
mod block;
mod dense;
mod head;
mod kernel_point;
mod position;
mod sampling;
mod transition;
mod window;

pub use attention::{AttentionConfig, GroupedVectorAttention, WeightEncoding};
pub use block::{Block, BlockSequence};
pub use dense::{Affine, BatchNorm, EPSILON, Linear, LinearNorm, MOMENTUM};
pub use head::{FurtherHeads, Head};
pub use kernel_point::{KernelPointBlock, KernelPointConv, KernelPointResidual};
pub use position::{Pairs, PositionEncoding};
pub use sampling::{GridPool, Unpool, Upsampling};
pub use transition::{TransitionDown, Upsample};
pub use window::{LayerNorm, WindowBlock, WindowBlockConfig};
