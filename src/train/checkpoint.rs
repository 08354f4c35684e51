//! Checkpoints to resume from, and the model files that training leaves.
//!
//! A checkpoint is a safetensors file, written beside its place and renamed: an interrupt leaves the previous one.
//!
//! | tensor | holds |
//! |---|---|
//! | `model.<name>` | every tensor of the network |
//! | `optimizer.<list>` | the optimizer's lists, laid out as the values in memory |
//! | `average` | moving average, laid out likewise, if one is kept |
//! | metadata `progress` | steps, averages, best score so far, loss scale, as JSON |
//! | metadata `configuration` | the text of the configuration file |
//!
//! Everything random is a function of the seed and the step, so nothing else is needed to go on with the same bits.

use super::config::Config;
use super::recipe::Learner;
use super::scaling::LossScale;
use crate::device::Precision;
use crate::graph::Params;
use crate::optim::Average;
use crate::weights::metadata::PROGRESS;
use crate::weights::{ModelMetadata, Tensor, Tensors, load_state, safetensors, save_state};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Seed of the run, which the command line may have put in the place of the configuration's.
    pub seed: u64,
    /// Precision of matrix products, likewise.
    #[serde(default)]
    pub precision: Precision,
    /// Loss scale, in f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Finished steps.
    pub steps: u64,
    /// Steps that the optimizer counts.
    pub optimizer_steps: u64,
    /// Updates of the moving average.
    pub average_updates: u64,
    /// Best validation mIoU so far, and the step at which it was reached.
    pub best: Option<(f64, u64)>,
}

const CONFIGURATION: &str = "configuration";

/// Writes a checkpoint.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, learner: &Learner, progress: &Progress, text: &str) -> Result<()> {
    let mut tensors = Tensors::new();
    for (name, tensor) in save_state(&learner.params)?.iter() {
        tensors.insert(format!("model.{name}"), tensor.clone())?;
    }
    for (name, list) in learner.optimizer.state()? {
        tensors.insert(format!("optimizer.{name}"), flat(list)?)?;
    }
    if let Some(average) = &learner.average {
        tensors.insert("average", flat(average.values()?)?)?;
    }
    let progress = Progress {
        optimizer_steps: learner.optimizer.steps(),
        average_updates: learner.average.as_ref().map_or(0, Average::updates),
        loss_scale: learner.scale,
        ..progress.clone()
    };
    let progress = serde_json::to_string(&progress).expect("progress is plain numbers");
    tensors.metadata.insert(PROGRESS.into(), progress);
    tensors.metadata.insert(CONFIGURATION.into(), text.into());
    safetensors::write(path, &tensors)
}

fn flat(list: &[f32]) -> Result<Tensor> {
    Tensor::from_f32(&[list.len()], list)
}

/// Takes up a checkpoint: the learner becomes what it was, and the run's progress is returned.
///
/// # Errors
/// The file cannot be read, belongs to another configuration, or does not fit the network.
pub fn resume(path: &Path, learner: &mut Learner, config: &Config) -> Result<Progress> {
    let tensors = safetensors::read(path)?;
    let part = |key: &str| {
        tensors.metadata.get(key).ok_or_else(|| {
            Error::unusable(
                path,
                format!("is no training checkpoint: it holds no {key}"),
            )
        })
    };
    let progress: Progress = serde_json::from_str(part(PROGRESS)?)
        .map_err(|e| Error::malformed(path, "metadata progress", e.to_string()))?;
    let mut made_with = Config::parse(part(CONFIGURATION)?, path)?;
    made_with.train.seed = progress.seed;
    made_with.train.precision = progress.precision;
    if made_with != *config {
        return Err(Error::unusable(
            path,
            "was made with another configuration, seed or precision; restore those, or start again without --resume",
        ));
    }
    load_state(&mut learner.params, &tensors.with_prefix("model."))?;
    let find = |name: &str| tensors.get_f32(&format!("optimizer.{name}"));
    learner.optimizer.restore(progress.optimizer_steps, &find)?;
    if let Some(average) = &mut learner.average {
        let values = tensors.get_f32("average")?;
        average.restore(&values, progress.average_updates)?;
    }
    learner.scale = progress.loss_scale;
    Ok(progress)
}

/// Writes a model file: the network's tensors and its description.
///
/// # Errors
/// The file cannot be written.
pub fn write_model(path: &Path, params: &Params, metadata: &ModelMetadata) -> Result<()> {
    let mut tensors = save_state(params)?;
    metadata.store(&mut tensors);
    safetensors::write(path, &tensors)
}
