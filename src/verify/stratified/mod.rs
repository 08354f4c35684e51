//! Reference files of Stratified Transformer.

mod batch;
pub(super) mod curve;
pub(super) mod layers;
pub(super) mod network;
pub(super) mod steps;
