//! Scan formats: one file format per file.
