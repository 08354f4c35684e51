//! What a training run is made of: one TOML file. [`KEYS`] is one with every key.
//!
//! ```toml
//! [network]                 # constructor arguments of the reference; in_channels and num_classes follow from the rest
//! type = "PT-v2m2"
//! # …
//! [[classes]]
//! name = "ground"
//! code = 2                  # written to the labels of segmented scans
//! aliases = [8]             # read as this class, too
//! [input]
//! voxel_size = 0.4          # metres
//! features = ["coord", { name = "intensity", divisor = 2000, max = 1 }]
//! crop_points = 8000
//! [data]                    # paths start at this file's folder
//! train = ["scans/*.laz"]
//! validate = ["held_out"]
//! ignore = [1]
//! [[augment]]
//! kind = "scale"
//! range = [0.9, 1.1]
//! [optimizer]
//! kind = "adamw"
//! lr = 0.004
//! [[groups]]                # optional
//! contains = "blocks"       # parameters with this in their names
//! lr = 0.1                  # learn at this share of the rate
//! [schedule]
//! kind = "one_cycle"
//! [loss]
//! cross_entropy = 1
//! lovasz = 1
//! [train]
//! steps = 500
//! batch = 4
//! output = "runs/ground"    # starts at the working folder
//! ```
//!
//! Every key is checked when the file is read; an unknown key is an error that names it.

use crate::cloud::augment::Transform;
use crate::cloud::features;
use crate::device::Precision;
use crate::models::construct;
use crate::optim::{Group, OptimizerConfig, Schedule};
use crate::weights::{ClassInfo, InputSpec, ModelMetadata};
use crate::{Error, Result, toml_text};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A configuration with every key and what it means, for people to start from.
pub const KEYS: &str = include_str!("keys.toml");

/// A training configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Type and constructor arguments of the network.
    pub network: Value,
    /// The classes in the order of the logits.
    pub classes: Vec<ClassInfo>,
    /// From a scan to the network's input; `crop_points` is the size of training crops.
    pub input: InputSpec,
    /// The scans.
    pub data: DataConfig,
    /// What happens to training clouds, in order, before voxel sampling.
    #[serde(default)]
    pub augment: Vec<Transform>,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// Parameters that learn at another rate than the rest.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Its rate over time.
    #[serde(default)]
    pub schedule: Schedule,
    /// What is minimised.
    #[serde(default)]
    pub loss: LossConfig,
    /// Length, batches, outputs.
    pub train: TrainConfig,
    /// Free text that goes into the model file.
    #[serde(default)]
    pub notes: BTreeMap<String, String>,
}

/// Which scans, and how their labels are read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Scans to learn from: files, folders, patterns.
    pub train: Vec<String>,
    /// Scans to be scored on; none are seen in training.
    #[serde(default)]
    pub validate: Vec<String>,
    /// Attribute with the class codes; a usual name when absent.
    #[serde(default)]
    pub labels: Option<String>,
    /// Codes that mean nothing.
    #[serde(default)]
    pub ignore: Vec<i64>,
    /// Sees only the first of several points in exactly one place.
    #[serde(default)]
    pub drop_duplicates: bool,
    /// Where crops are centred.
    #[serde(default)]
    pub center: Center,
}

/// Where the crop of a training cloud is centred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Center {
    /// On a random point, as in the reference.
    #[default]
    Point,
    /// On a random point of a random class of the cloud, so that rare classes are met more often.
    Class,
}

/// What is minimised: a weighted sum.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the cross entropy.
    #[serde(default = "one")]
    pub cross_entropy: f64,
    /// Weight of the Lovász softmax loss.
    #[serde(default)]
    pub lovasz: f64,
    /// Weight of every class within the cross entropy.
    #[serde(default)]
    pub class_weights: Option<Vec<f32>>,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig {
            cross_entropy: 1.0,
            lovasz: 0.0,
            class_weights: None,
        }
    }
}

fn one() -> f64 {
    1.0
}

/// Length, batches, outputs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Number of optimizer steps; this or `epochs`.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Number of times that every training cloud is drawn; this or `steps`.
    #[serde(default)]
    pub epochs: Option<u64>,
    /// Clouds per step.
    pub batch: usize,
    /// Most points of a batch: clouds that go beyond it are left out, except for the first; no limit when absent.
    #[serde(default)]
    pub batch_points: Option<usize>,
    /// How often the clouds of a batch are merged in pairs (Mix3D).
    #[serde(default)]
    pub mix_probability: f64,
    /// Decay of the moving average of the weights, which is then what is validated and kept; no average when absent.
    #[serde(default)]
    pub ema: Option<f64>,
    /// Longest gradient; no limit when absent.
    #[serde(default)]
    pub clip: Option<f64>,
    /// In which numbers GPUs multiply matrices; the CPU knows f32 only.
    #[serde(default)]
    pub precision: Precision,
    /// Start of every random sequence.
    #[serde(default)]
    pub seed: u64,
    /// Steps between validations; only at the end when absent.
    #[serde(default)]
    pub validate_every: Option<u64>,
    /// Steps between checkpoints to resume from; with every validation when absent.
    #[serde(default)]
    pub checkpoint_every: Option<u64>,
    /// Folder for models, checkpoints and logs, from the working folder.
    pub output: PathBuf,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, has unknown or missing keys, or values that make no sense.
    pub fn read(path: &Path) -> Result<Config> {
        let text = crate::io::read_text(path)?;
        Config::parse(&text, path)
    }

    /// As [`Config::read`], from text; `path` is for messages.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str, path: &Path) -> Result<Config> {
        let mut config: Config = toml_text::parse(text).map_err(|f| {
            let said = text.lines().nth(f.line - 1).unwrap_or_default().trim();
            Error::malformed(path, format!("line {}: {said}", f.line), f.fault)
        })?;
        let checked = config.complete();
        checked.map_err(|e| match e {
            Error::Config { key, fault } => Error::malformed(path, key, fault),
            other => other,
        })?;
        Ok(config)
    }

    /// Fills in what follows from the rest, and checks everything that can be checked without the scans.
    fn complete(&mut self) -> Result<()> {
        self.derive("in_channels", features::channels(&self.input.features))?;
        self.derive("num_classes", self.classes.len())?;
        self.check()?;
        construct(&self.network)?;
        Ok(())
    }

    /// Fills in a network argument that follows from other parts, if it is absent.
    fn derive(&mut self, key: &str, value: usize) -> Result<()> {
        let Some(network) = self.network.as_object_mut() else {
            return Err(Error::config("network", "must be a table"));
        };
        network.entry(key).or_insert(value.into());
        Ok(())
    }

    fn check(&self) -> Result<()> {
        // The description of the model to be written checks classes, input and network against each other.
        self.metadata().check()?;
        for transform in &self.augment {
            transform.check()?;
        }
        self.optimizer.check()?;
        self.schedule.check()?;
        self.check_loss()?;
        let t = &self.train;
        let wrong = |key: &str, fault: &str| Err(Error::config(key, fault));
        if self.data.train.is_empty() {
            return wrong("data.train", "names no scan");
        }
        if self.network.get("heads").is_some() {
            let fault = "scans have one label per point: heads beside the main one would never learn; leave them out, \
                         or train them with a recipe of your own (train::recipe)";
            return wrong("network.heads", fault);
        }
        match (t.steps, t.epochs) {
            (Some(n), None) | (None, Some(n)) if n > 0 => {}
            _ => {
                return wrong(
                    "train.steps",
                    "exactly one of steps and epochs must be given, and not 0",
                );
            }
        }
        if t.batch == 0 {
            return wrong("train.batch", "must be at least 1");
        }
        if !(0.0..=1.0).contains(&t.mix_probability) {
            return wrong("train.mix_probability", "must be between 0 and 1");
        }
        if t.ema.is_some_and(|d| !(0.0..1.0).contains(&d)) {
            return wrong("train.ema", "must be at least 0 and below 1");
        }
        if t.clip.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
            return wrong("train.clip", "must be above 0");
        }
        for (key, every) in [
            ("train.validate_every", t.validate_every),
            ("train.checkpoint_every", t.checkpoint_every),
            ("train.batch_points", t.batch_points.map(|n| n as u64)),
        ] {
            if every == Some(0) {
                return wrong(key, "must be at least 1");
            }
        }
        Ok(())
    }

    fn check_loss(&self) -> Result<()> {
        let loss = &self.loss;
        let weights = [loss.cross_entropy, loss.lovasz];
        if weights.iter().any(|w| !(w.is_finite() && *w >= 0.0)) || weights == [0.0; 2] {
            return Err(Error::config(
                "loss",
                "cross_entropy and lovasz must not be negative, and not both 0",
            ));
        }
        let Some(classes) = &loss.class_weights else {
            return Ok(());
        };
        if classes.len() != self.classes.len()
            || classes.iter().any(|w| !(w.is_finite() && *w >= 0.0))
        {
            return Err(Error::config(
                "loss.class_weights",
                format!(
                    "must be {} numbers that are not negative, one per class",
                    self.classes.len()
                ),
            ));
        }
        Ok(())
    }

    /// The description that trained models carry.
    pub fn metadata(&self) -> ModelMetadata {
        ModelMetadata {
            notes: self.notes.clone(),
            ..ModelMetadata::new(
                self.network.clone(),
                self.classes.clone(),
                self.input.clone(),
            )
        }
    }

    /// Number of steps, given the number of training clouds.
    pub fn steps(&self, clouds: usize) -> u64 {
        match (self.train.steps, self.train.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => (epochs.unwrap_or(1) * clouds as u64)
                .div_ceil(self.train.batch as u64)
                .max(1),
        }
    }
}

#[cfg(test)]
mod tests;
