//! Networks: one per file.
