//! What a model file says about itself: everything that turns a raw scan into the network's input and its output into
//! class names.
//!
//! It is one JSON document under the key `cairn` of the safetensors metadata:
//!
//! ```json
//! {"format": 1,
//!  "network": {"type": "PT-v2m2", "in_channels": 6, "num_classes": 2, "...": "constructor arguments"},
//!  "classes": [{"name": "ground", "code": 2}, {"name": "building", "code": 6}],
//!  "ignore_label": -1,
//!  "input": {"voxel_size": 0.4, "features": ["coord", {"name": "color", "divisor": 255.0}]},
//!  "notes": {"trained on": "..."}}
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tensors::Tensors;
use crate::cloud::features::{Feature, channels};
use crate::cloud::frame::Frame;
use crate::{Error, Result};

/// Key under which the description is kept in the metadata of a safetensors file.
pub const KEY: &str = "cairn";

/// Key of the metadata of training checkpoints: how far the run is.
pub const PROGRESS: &str = "progress";

/// Newest version of the description that this program reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// Description of a trained network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// Version of this description, see [`FORMAT`].
    pub format: u32,
    /// Type and constructor arguments of the network, named as in the reference implementation.
    pub network: serde_json::Value,
    /// The classes in the order of the logits.
    pub classes: Vec<ClassInfo>,
    /// Label of training points that count for nothing; outside the classes.
    #[serde(default = "default_ignore")]
    pub ignore_label: i64,
    /// How a scan becomes the network's input.
    pub input: InputSpec,
    /// Free text about the model's origin: data, recipe, results, conventions. Shown by `cairn info`, used by nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

fn default_ignore() -> i64 {
    -1
}

/// One class of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassInfo {
    /// Name shown to the user.
    pub name: String,
    /// Code written to the label field of scans (LAS classification); without it, the class number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// Further codes that mean this class in labelled scans, such as 3 and 4 for vegetation that is written as 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<u32>,
}

/// How a raw scan becomes the network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Edge of the voxels of which the network sees one point each, metres.
    pub voxel_size: f64,
    /// The feature row of a point, from left to right.
    pub features: Vec<Feature>,
    /// Where the network's input starts.
    #[serde(default, skip_serializing_if = "Frame::is_default")]
    pub frame: Frame,
    /// Number of voxels of the crops that the network was trained on, if it was trained on crops: larger scans are best
    /// given to it in pieces of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop_points: Option<usize>,
}

impl ClassInfo {
    /// A class whose code is its number.
    pub fn named(name: &str) -> Self {
        ClassInfo {
            name: name.to_string(),
            code: None,
            aliases: Vec::new(),
        }
    }
}

impl ModelMetadata {
    /// A description of the current [`FORMAT`] with ignore label −1 and no notes.
    pub fn new(network: serde_json::Value, classes: Vec<ClassInfo>, input: InputSpec) -> Self {
        ModelMetadata {
            format: FORMAT,
            network,
            classes,
            ignore_label: default_ignore(),
            input,
            notes: BTreeMap::new(),
        }
    }

    /// Names of the classes in the order of the logits.
    pub fn class_names(&self) -> Vec<String> {
        self.classes.iter().map(|c| c.name.clone()).collect()
    }

    /// Codes written to scans, in the order of the logits.
    pub fn class_codes(&self) -> Vec<u32> {
        let codes = self.classes.iter().enumerate();
        codes.map(|(i, c)| c.code.unwrap_or(i as u32)).collect()
    }

    /// The class that `code` means in a labelled scan, if it means one.
    pub fn class_of_code(&self, code: i64) -> Option<usize> {
        let code = u32::try_from(code).ok()?;
        let own = self.class_codes().iter().position(|c| *c == code);
        own.or_else(|| self.classes.iter().position(|c| c.aliases.contains(&code)))
    }

    /// Reads the description of a model file; `path` is used in messages only.
    ///
    /// # Errors
    /// No description (a converted or golden file without one), a newer format, or parts that contradict each other.
    pub fn from_tensors(tensors: &Tensors, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if tensors.metadata.contains_key(PROGRESS) {
            let fault = "is the checkpoint of a training run, for --resume; its models are best.safetensors and \
                         last.safetensors in the same folder";
            return Err(Error::unusable(path, fault));
        }
        let text = tensors.metadata.get(KEY).ok_or_else(|| {
            Error::unusable(
                path,
                "holds tensors but no description of a model (metadata key `cairn`); \
                 official checkpoints become models with `cairn convert`",
            )
        })?;
        let place = "model description";
        let format = serde_json::from_str::<serde_json::Value>(text)
            .ok()
            .and_then(|v| v.get("format")?.as_u64());
        if let Some(format) = format.filter(|&f| f > u64::from(FORMAT)) {
            let fault = format!("has format {format}; this version of cairn reads up to {FORMAT}");
            return Err(Error::malformed(path, place, fault));
        }
        let model: ModelMetadata =
            serde_json::from_str(text).map_err(|e| Error::malformed(path, place, e.to_string()))?;
        model
            .check()
            .map_err(|e| Error::malformed(path, place, e.to_string()))?;
        Ok(model)
    }

    /// Puts the description into the metadata of `tensors`, replacing an older one.
    pub fn store(&self, tensors: &mut Tensors) {
        let text = serde_json::to_string(self).expect("names and numbers always serialise");
        tensors.metadata.insert(KEY.to_string(), text);
    }

    /// Checks that classes, features and network fit each other.
    pub fn check(&self) -> Result<()> {
        let size = self.input.voxel_size;
        if !(size.is_finite() && size > 0.0) {
            let fault = format!("{size} is not a positive number of metres");
            return Err(Error::config("input.voxel_size", fault));
        }
        if self.input.crop_points == Some(0) {
            return Err(Error::config("input.crop_points", "has to be positive"));
        }
        for feature in &self.input.features {
            feature.check()?;
        }
        self.compare(
            "in_channels",
            channels(&self.input.features),
            "input.features give",
        )?;
        self.compare("num_classes", self.classes.len(), "classes hold")?;
        for (i, class) in self.classes.iter().enumerate() {
            if self.classes[..i].iter().any(|c| c.name == class.name) {
                let fault = format!("{:?} is the name of two classes", class.name);
                return Err(Error::config("classes.name", fault));
            }
        }
        if self.ignore_label >= 0 && (self.ignore_label as u64) < self.classes.len() as u64 {
            let fault = format!("{} is the number of a class", self.ignore_label);
            return Err(Error::config("ignore_label", fault));
        }
        Ok(())
    }

    /// Compares a constructor argument with what other parts of the description say.
    fn compare(&self, key: &str, found: usize, what: &str) -> Result<()> {
        match self.network.get(key).and_then(serde_json::Value::as_u64) {
            Some(n) if n == found as u64 => Ok(()),
            Some(n) => Err(Error::config(
                format!("network.{key}"),
                format!("is {n}, but {what} {found}"),
            )),
            None => Err(Error::config(
                format!("network.{key}"),
                "is missing or no count",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> ModelMetadata {
        let color = Feature::new("color");
        ModelMetadata::new(
            json!({"type": "PT-v2m2", "in_channels": 6, "num_classes": 2}),
            ["ground", "building"]
                .map(|name| ClassInfo {
                    name: name.into(),
                    code: (name == "building").then_some(6),
                    aliases: Vec::new(),
                })
                .to_vec(),
            InputSpec {
                voxel_size: 0.4,
                features: vec![Feature::new("coord"), color],
                crop_points: Some(4096),
                frame: Frame::Corner,
            },
        )
    }

    fn reread(text: &str) -> Result<ModelMetadata> {
        let mut tensors = Tensors::new();
        tensors.metadata.insert(KEY.into(), text.into());
        ModelMetadata::from_tensors(&tensors, "m.safetensors")
    }

    #[test]
    fn survives_a_round_trip() {
        let mut model = sample();
        model.notes.insert("trained on".into(), "tiles".into());
        model.classes[1].aliases = vec![9];
        let mut tensors = Tensors::new();
        model.store(&mut tensors);
        let back = ModelMetadata::from_tensors(&tensors, "m.safetensors").unwrap();
        assert_eq!(back, model);
        assert_eq!(back.class_codes(), [0, 6]);
        assert_eq!(
            [0, 6, 9, -1].map(|c| back.class_of_code(c)),
            [Some(0), Some(1), Some(1), None]
        );
        assert_eq!(back.class_names(), ["ground", "building"]);
    }

    #[test]
    fn contradictions_are_named() {
        type Spoil = fn(&mut ModelMetadata);
        let cases: [(Spoil, &str); 6] = [
            (|m| m.classes.truncate(1), "num_classes"),
            (|m| m.input.features.truncate(1), "in_channels"),
            (|m| m.input.voxel_size = 0.0, "voxel_size"),
            (|m| m.ignore_label = 1, "ignore_label"),
            (|m| m.input.crop_points = Some(0), "crop_points"),
            (|m| m.network = json!({"num_classes": 2}), "in_channels"),
        ];
        for (spoil, name) in cases {
            let mut model = sample();
            spoil(&mut model);
            let fault = reread(&serde_json::to_string(&model).unwrap())
                .unwrap_err()
                .to_string();
            assert!(fault.contains(name), "{fault}");
        }
    }

    #[test]
    fn missing_newer_and_broken_descriptions_are_refused() {
        let fault = ModelMetadata::from_tensors(&Tensors::new(), "m.safetensors").unwrap_err();
        assert!(fault.to_string().contains("cairn convert"), "{fault}");
        let fault = reread(r#"{"format": 2, "layers": []}"#).unwrap_err();
        assert!(fault.to_string().contains("format 2"), "{fault}");
        for text in ["", "{", "[]", "{}", r#"{"format": 1}"#] {
            assert!(
                matches!(reread(text), Err(Error::Malformed { .. })),
                "{text}"
            );
        }
    }
}
