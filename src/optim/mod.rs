//! Optimizers and learning-rate schedules: one per file.
