//! Cairn: semantic segmentation of point clouds.
//!
//! A scan goes in, the same scan comes out with a label on every point. Work is done in two phases. The **geometry**
//! phase turns coordinates into integer lists: neighbours, partitions, interpolation stencils. The **feature** phase
//! records a graph of ops for the batch at hand, plans every value into one arena and runs it, forward and, in
//! training, backward.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cloud`] | point clouds in memory, batches, voxel sampling |
//! | [`io`] | scan formats |
//! | [`dataset`] | labelled scans as training data |
//! | [`geometry`] | index steps: neighbours, partitions, interpolation |
//! | [`device`] | memory, threads, SIMD, random numbers |
//! | [`graph`] | recording, planning and running ops |
//! | [`ops`] | one op per file, forward and backward |
//! | [`nn`] | layers made of ops |
//! | [`models`] | networks |
//! | [`weights`] | checkpoints: safetensors and PyTorch files |
//! | [`optim`], [`train`] | optimizers, schedules, training loop |
//! | [`infer`] | segmenting whole scans |
//! | [`profile`] | what CUDA kernels cost: registers, traffic, bounds |
//! | [`verify`] | checks of a build against reference files |
//! | [`measure`] | timing networks on this machine |

pub mod cli;
pub mod cloud;
pub mod dataset;
pub mod device;
pub mod error;
pub mod geometry;
pub mod graph;
pub mod infer;
pub mod io;
pub mod measure;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod profile;
mod toml_text;
pub mod train;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};
