//! Checks of this build and machine against reference files.
