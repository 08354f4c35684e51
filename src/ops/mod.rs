//! Ops: one per file, forward and backward.
