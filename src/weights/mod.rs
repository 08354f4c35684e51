//! Checkpoints: safetensors as the native format, PyTorch files read without executing anything.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tensors`] | named tensors in memory |
//! | [`safetensors`] | the native file format, read and written |
//! | [`pth`] | files written by `torch.save`, with [`pickle`] and [`constructors`] |
//! | [`metadata`] | what a model file says about itself: network, classes, input features |

pub mod constructors;
pub mod metadata;
pub mod pickle;
pub mod pth;
pub mod safetensors;
mod state;
pub mod tensors;

#[cfg(test)]
mod pth_tests;

pub use metadata::{ClassInfo, InputSpec, ModelMetadata};
pub use state::{load_state, save_state};
pub use tensors::{Dtype, Tensor, Tensors};
