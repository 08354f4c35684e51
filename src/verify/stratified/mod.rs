//! Reference files of Stratified Transformer.

pub(super) mod curve;
pub(super) mod layers;
pub(super) mod network;
pub(super) mod steps;

use super::network::metadata;
use crate::weights::Tensors;
use crate::{Error, Result};

/// A metadata number.
fn number(file: &Tensors, key: &str) -> Result<f64> {
    let value = metadata(file, key)?.as_f64();
    value.ok_or_else(|| Error::weights(format!("metadata {key}"), "is not a number"))
}
