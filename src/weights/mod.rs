//! Checkpoints: safetensors as the native format, PyTorch files read without executing anything.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tensors`] | named tensors in memory |
//! | [`safetensors`] | the native file format, read and written |
//! | [`metadata`] | what a model file says about itself: network, classes, input features |

pub mod metadata;
pub mod safetensors;
pub mod tensors;

pub use metadata::{ClassInfo, InputSpec, ModelMetadata};
pub use tensors::{Dtype, Tensor, Tensors};
