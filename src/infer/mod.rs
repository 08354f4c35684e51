//! Segmenting whole scans: from points of any number and density to a class and a confidence for each of them.
//!
//! 1. points without usable coordinates are set aside ([`segment()`]);
//! 2. large scans are cut into overlapping tiles that fit into memory ([`tiles`]);
//! 3. a tile is seen as it is, or in several views for test-time augmentation ([`views`]);
//! 4. a view is thinned to one point per voxel, or to several such fragments, and the network runs ([`predict`]);
//! 5. probabilities are summed per point and the largest sum wins ([`vote`]).
//!
//! A scan that does not fit into memory goes through temporary files instead ([`large`], [`memory`]).
//!
//! [`Segmenter`] does this with a trained model; [`shipped`] holds those inside the program.

mod blend;
mod codes;
pub mod large;
pub mod memory;
pub mod passes;
pub mod predict;
pub mod segment;
mod segmenter;
pub mod shipped;
pub mod tiles;
pub mod views;
pub mod vote;

pub use codes::{Codes, LabelMap};
pub use memory::Memory;
pub use segment::{Classifier, Options, Prediction, segment};
pub use segmenter::Segmenter;
pub use shipped::Shipped;
pub use views::Views;
