//! Reference files of Stratified Transformer.

pub(super) mod steps;
