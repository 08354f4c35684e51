//! Index steps: coordinates become integer lists (neighbours, partitions, interpolation stencils).
//!
//! Nothing here has a gradient with respect to features. Clouds are ragged batches: `coord` holds all points of all
//! batch elements one after another, in metres; `offsets` has B+1 entries, starts with 0 and ends with the number of
//! points. An element may be empty. No step looks beyond the batch element of the point at hand.
//!
//! | step | gives | module |
//! |---|---|---|
//! | K nearest neighbours | [`Knn`], [`Neighbors`] | [`knn`](mod@knn), [`neighbors`] |
//! | grid clustering | [`Partition`] | [`partition`] |
//! | farthest point sampling | [`farthest_points`] | [`farthest_point`] |
//! | neighbours within a radius | [`radius_neighbors`] | [`radius`] |
//! | attention windows and their keys | [`Windows`] | [`windows`] |
//! | interpolation stencil | [`Interpolation`] | [`interpolation`] |
//! | all of these for one batch, each computed once | [`Hierarchy`] | [`hierarchy`] |

mod cuda;
mod extent;
pub mod farthest_point;
pub mod hierarchy;
pub mod interpolation;
pub mod knn;
pub mod neighbors;
pub mod partition;
pub mod radius;
mod ragged;
mod search;
mod sort;
pub mod tree;
pub mod windows;

use extent::Extent;
pub use farthest_point::{farthest_of_tree, farthest_points, ratio_counts, stride_counts};
pub use hierarchy::Hierarchy;
pub use interpolation::{Interpolation, Padding};
pub use knn::{Knn, MAX_NEIGHBORS, knn, knn_on};
pub use neighbors::{Moments, Neighbors};
pub use partition::Partition;
pub use radius::{Choice, radius_neighbors};
pub use ragged::{Ragged, check_offsets};
pub use tree::SearchTree;
pub use windows::{Quantization, WindowOptions, Windows};

/// Index value of a neighbour that does not exist (fewer than K points in the batch element).
pub const MISSING: u32 = u32::MAX;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod shapes;
