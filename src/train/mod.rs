//! Training: configuration, recipe, loop, metrics, logs.

pub mod log;
pub mod metrics;
pub mod plot;
pub mod tensorboard;
