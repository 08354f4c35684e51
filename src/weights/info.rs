//! What a checkpoint holds: the summary behind `cairn info`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::architecture::{self, Family};
use super::checkpoint;
use super::metadata::{KEY, ModelMetadata, PROGRESS};
use super::presets::Preset;
use crate::{Error, Result};

/// Summary of a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointInfo {
    /// Container: `safetensors`, `PyTorch zip` or `PyTorch plain`.
    pub container: &'static str,
    /// Length of the file.
    pub bytes: u64,
    /// Number of trained parameters: all floating-point numbers but running statistics.
    pub parameters: usize,
    /// Number of running statistics.
    pub statistics: usize,
    /// What the names begin with, apart from the network's own names.
    pub prefix: String,
    /// Description of the model, if it is a model file.
    pub model: Option<ModelMetadata>,
    /// For other files: constructor arguments that the tensors tell, if they are those of a known network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<serde_json::Value>,
    /// The published configuration of that shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<&'static str>,
    /// Numbers and texts that stand beside the tensors, such as `epoch`, and other metadata.
    pub beside: BTreeMap<String, String>,
    /// Parts that were not read, such as `optimizer`.
    pub skipped: Vec<String>,
    /// All tensors in the order of the file.
    pub tensors: Vec<TensorInfo>,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// Bare name.
    pub name: String,
    /// Type of the numbers as in safetensors headers.
    pub dtype: &'static str,
    /// Sizes, outermost first.
    pub dims: Vec<usize>,
}

/// Summarises a safetensors file or one written by `torch.save`. Errors when it is neither or damaged.
pub fn info(path: impl AsRef<Path>) -> Result<CheckpointInfo> {
    let path = path.as_ref();
    let bytes = std::fs::metadata(path)
        .map_err(|e| Error::io(path, e))?
        .len();
    let mut found = checkpoint::read(path)?;
    if found.state.metadata.contains_key(PROGRESS) {
        // A training checkpoint: the network is what people ask for, not the optimizer's moments.
        let metadata = std::mem::take(&mut found.state.metadata);
        found.state = found.state.with_prefix("model.");
        found.state.metadata = metadata;
        found.skipped.push("optimizer".into());
    }
    let model = match found.state.metadata.contains_key(KEY) {
        true => Some(ModelMetadata::from_tensors(&found.state, path)?),
        false => None,
    };
    // Not every file of tensors is a network, so a failure here says only that this one is none we know.
    let told = match model {
        Some(_) => None,
        None => architecture::infer(&found.state).ok(),
    };
    let matching = |(family, told): &(Family, _)| Preset::matching(*family, told);
    let preset = told.as_ref().and_then(matching).map(Preset::name);
    let (mut parameters, mut statistics) = (0, 0);
    for (name, tensor) in found.state.iter().filter(|(_, t)| t.dtype().is_float()) {
        match name.ends_with(".running_mean") || name.ends_with(".running_var") {
            true => statistics += tensor.len(),
            false => parameters += tensor.len(),
        }
    }
    let mut beside = found.beside;
    let other = found.state.metadata.iter().filter(|(key, _)| *key != KEY);
    beside.extend(other.map(|(k, v)| (k.clone(), v.clone())));
    let tensors = found.state.iter().map(|(name, tensor)| TensorInfo {
        name: name.to_string(),
        dtype: tensor.dtype().name(),
        dims: tensor.dims().to_vec(),
    });
    Ok(CheckpointInfo {
        container: found.container,
        bytes,
        parameters,
        statistics,
        prefix: found.prefix,
        model,
        architecture: told.map(|(_, told)| serde_json::Value::Object(told)),
        preset,
        beside,
        skipped: found.skipped,
        tensors: tensors.collect(),
    })
}
