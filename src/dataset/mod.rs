//! Labelled scans as training data: one data set per file.
