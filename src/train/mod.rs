//! Training loop, metrics, checkpoints and logs.
