//! Checkpoints: safetensors as the native format, PyTorch files read without executing anything.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tensors`] | named tensors in memory |
//! | [`safetensors`] | the native file format, read and written |
//! | [`pth`] | files written by `torch.save`, with [`pickle`] and [`constructors`] |
//! | [`checkpoint`] | finds the state dict in any of these files |
//! | [`convert`](mod@convert) | from an official checkpoint to a model file, with [`architecture`] and [`presets`] |
//! | [`info`](mod@info) | what a checkpoint holds |
//! | [`metadata`] | what a model file says about itself: network, classes, input features |

pub mod architecture;
pub mod checkpoint;
pub mod constructors;
pub mod convert;
pub mod info;
pub mod metadata;
pub mod pickle;
pub mod presets;
pub mod pth;
pub mod safetensors;
mod state;
mod stratified;
pub mod tensors;

#[cfg(test)]
mod pth_tests;

pub use convert::{ConvertOptions, Converted, convert};
pub use info::{CheckpointInfo, info};
pub use metadata::{ClassInfo, InputSpec, ModelMetadata};
pub use presets::{Conventions, Preset};
pub use state::{load_model, load_state, save_state};
pub use tensors::{Dtype, Tensor, Tensors};
