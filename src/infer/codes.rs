//! Which code each class gets in the output, and what the codes of the input mean.
//!
//! ```toml
//! none = 1            # points without usable coordinates; else the model's own
//! ignore = [7, 18]    # codes of the input that are left out of the comparison without a word
//!
//! [codes]             # class of the model = code in the output; classes that are not named keep theirs
//! ground = 2
//! vegetation = 5
//!
//! [truth]             # further codes of the input = class of the model
//! 3 = "vegetation"
//! 4 = "vegetation"
//! ```

use super::{Prediction, Segmenter};
use crate::io::Labels;
use crate::weights::ModelMetadata;
use crate::{Error, Result, toml_text};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Codes of the American Society for Photogrammetry and Remote Sensing (LAS 1.4, table 17) by the names of classes.
const ASPRS: &[(&str, i32)] = &[
    ("unclassified", 1),
    ("ground", 2),
    ("floor", 2),
    ("low vegetation", 3),
    ("medium vegetation", 4),
    ("vegetation", 5),
    ("high vegetation", 5),
    ("tree", 5),
    ("building", 6),
    ("noise", 7),
    ("water", 9),
    ("rail", 10),
    ("road", 11),
    ("wire", 14),
    ("tower", 15),
    ("bridge", 17),
];
/// What ASPRS calls unclassified.
const UNCLASSIFIED: i32 = 1;

/// A label map as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelMap {
    none: Option<i32>,
    #[serde(default)]
    ignore: Vec<i64>,
    #[serde(default)]
    codes: BTreeMap<String, i32>,
    #[serde(default)]
    truth: BTreeMap<String, String>,
    #[serde(skip)]
    is_asprs: bool,
}

/// A label map for the classes of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// Code of each class.
    pub of_class: Vec<i32>,
    /// Code of points without a class.
    pub none: i32,
    truth: BTreeMap<i64, usize>,
    /// Codes of the input that are left out without a word.
    ignore: Vec<i64>,
}

impl LabelMap {
    /// Reads `asprs`, `ground=2,building=6` or the name of a TOML file.
    ///
    /// # Errors
    /// A file that cannot be read or says something else, and a list that is none.
    pub fn parse(text: Option<&str>, ignore: &[i64]) -> Result<LabelMap> {
        let mut map = match text {
            None => LabelMap::default(),
            Some("asprs") => LabelMap {
                is_asprs: true,
                none: Some(UNCLASSIFIED),
                ..LabelMap::default()
            },
            Some(file) if file.ends_with(".toml") => LabelMap::read(Path::new(file))?,
            Some(list) => LabelMap {
                codes: codes(list)?,
                ..LabelMap::default()
            },
        };
        if let Some(none) = map.codes.remove("none") {
            map.none = Some(none);
        }
        map.ignore.extend_from_slice(ignore);
        Ok(map)
    }

    /// The code of points without a class, if the map names one.
    pub fn none(&self) -> Option<i32> {
        self.none
    }

    fn read(path: &Path) -> Result<LabelMap> {
        let text = crate::io::read_text(path)?;
        LabelMap::from_toml(&text, path)
    }

    /// Reads the text of a TOML file; `path` is for messages.
    ///
    /// # Errors
    /// No TOML, and keys that a label map has not.
    pub fn from_toml(text: &str, path: &Path) -> Result<LabelMap> {
        toml_text::parse(text)
            .map_err(|f| Error::malformed(path, format!("line {}", f.line), f.fault))
    }

    /// Finds the classes of a model.
    ///
    /// # Errors
    /// Names that the model does not know, and codes of the input that are no numbers.
    pub fn resolve(&self, segmenter: &Segmenter) -> Result<Codes> {
        self.for_classes(segmenter.metadata(), segmenter.no_class())
    }

    /// Finds the classes that `metadata` describes; points without a class get `none` unless the map says otherwise.
    ///
    /// # Errors
    /// As [`LabelMap::resolve`].
    pub fn for_classes(&self, metadata: &ModelMetadata, none: i32) -> Result<Codes> {
        let names = metadata.class_names();
        let class = |name: &String| {
            names.iter().position(|n| n == name).ok_or_else(|| {
                let fault = format!(
                    "no class is called `{name}`; the model has {}",
                    names.join(", ")
                );
                Error::argument("map", fault)
            })
        };
        let own = metadata.class_codes().into_iter().map(|code| code as i32);
        let mut of_class: Vec<i32> = match self.is_asprs {
            true => names.iter().map(|name| asprs(name)).collect(),
            false => own.collect(),
        };
        for (name, code) in &self.codes {
            of_class[class(name)?] = *code;
        }
        let mut truth = BTreeMap::new();
        for (code, name) in &self.truth {
            let number = code.parse().map_err(|_| {
                let fault = format!("`{code}` in [truth] is no code; write 3 = \"{name}\"");
                Error::argument("map", fault)
            })?;
            truth.insert(number, class(name)?);
        }
        Ok(Codes {
            of_class,
            none: self.none.unwrap_or(none),
            truth,
            ignore: self.ignore.clone(),
        })
    }
}

fn asprs(name: &str) -> i32 {
    let plain = name.to_lowercase().replace(['_', '-'], " ");
    let found = ASPRS.iter().find(|(known, _)| *known == plain);
    found.map_or(UNCLASSIFIED, |(_, code)| *code)
}

fn codes(list: &str) -> Result<BTreeMap<String, i32>> {
    let mut found = BTreeMap::new();
    for part in list.split(',') {
        let pair = part.split_once('=').and_then(|(name, code)| {
            let name = name.trim();
            (!name.is_empty()).then_some((name.to_string(), code.trim().parse().ok()?))
        });
        let (name, code) = pair.ok_or_else(|| {
            let fault = format!(
                "`{part}` is no class and code like ground=2; `asprs`, such a list or a file NAME.toml can be given"
            );
            Error::argument("map", fault)
        })?;
        if found.insert(name, code).is_some() {
            return Err(Error::argument(
                "map",
                format!("`{part}`: the class occurs twice"),
            ));
        }
    }
    Ok(found)
}

impl Codes {
    /// What a writer adds to the scan.
    pub fn labels(&self, segmenter: &Segmenter, prediction: &Prediction) -> Labels {
        let code = |class: &i32| usize::try_from(*class).map_or(self.none, |c| self.of_class[c]);
        let mut labels = segmenter.labels(prediction);
        labels.code = prediction.class.iter().map(code).collect();
        for ((code, _), new) in labels.classes.iter_mut().zip(&self.of_class) {
            *code = *new;
        }
        // Classes that became one keep the first name.
        let mut seen = std::collections::BTreeSet::new();
        labels.classes.retain(|(code, _)| seen.insert(*code));
        labels
    }

    /// All codes that can occur in the output.
    pub fn all(&self) -> Vec<i32> {
        let none = std::iter::once(self.none);
        self.of_class.iter().copied().chain(none).collect()
    }

    /// The class that a code of the input means: by the map, else by the codes of the output, else by the model.
    pub fn class_of(&self, code: i64, metadata: &ModelMetadata) -> Option<usize> {
        let mapped = self.truth.get(&code).copied();
        let output = || self.of_class.iter().position(|c| i64::from(*c) == code);
        if self.ignore.contains(&code) {
            return None;
        }
        mapped
            .or_else(output)
            .or_else(|| metadata.class_of_code(code))
    }

    /// True for codes of the input that are left out without a word.
    pub fn is_ignored(&self, code: i64) -> bool {
        self.ignore.contains(&code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{ClassInfo, InputSpec};

    fn metadata() -> ModelMetadata {
        let class = |name: &str, code: u32, aliases: &[u32]| ClassInfo {
            name: name.into(),
            code: Some(code),
            aliases: aliases.to_vec(),
        };
        let input = InputSpec {
            voxel_size: 0.4,
            features: Vec::new(),
            crop_points: None,
            frame: Default::default(),
        };
        let classes = vec![
            class("ground", 2, &[]),
            class("vegetation", 5, &[3, 4]),
            class("building", 6, &[]),
        ];
        ModelMetadata::new(serde_json::json!({}), classes, input)
    }

    fn resolved(text: &str) -> Result<Codes> {
        LabelMap::parse(Some(text), &[])?.for_classes(&metadata(), 0)
    }

    #[test]
    fn lists_presets_and_files_give_codes() {
        let codes = resolved("ground = 11, none=-1").unwrap();
        assert_eq!((codes.of_class, codes.none), (vec![11, 5, 6], -1));
        let codes = resolved("asprs").unwrap();
        assert_eq!((codes.of_class, codes.none), (vec![2, 5, 6], 1));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.toml");
        let text = "none = 9\nignore = [7]\n[codes]\nbuilding = 60\n[truth]\n3 = \"ground\"\n";
        std::fs::write(&path, text).unwrap();
        let codes = resolved(path.to_str().unwrap()).unwrap();
        assert_eq!((&codes.of_class[..], codes.none), (&[2, 5, 60][..], 9));
        let class = |code| codes.class_of(code, &metadata());
        assert_eq!(
            [3, 60, 6, 4, 7, 8].map(class),
            [Some(0), Some(2), Some(2), Some(1), None, None]
        );
        assert!(codes.is_ignored(7) && !codes.is_ignored(8));
        std::fs::write(&path, "none = 1\nground = 2\n").unwrap();
        let fault = resolved(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(
            fault.contains("map.toml: line 2: unknown field `ground`"),
            "{fault}"
        );
    }

    #[test]
    fn faults_name_what_can_be_given() {
        for (text, part) in [
            ("ground", "`ground` is no class and code like ground=2"),
            ("ground=two", "NAME.toml"),
            ("ground=2,ground=3", "twice"),
            ("=3", "is no class"),
            (
                "sky=3",
                "no class is called `sky`; the model has ground, vegetation, building",
            ),
            ("none.toml", "none.toml"),
        ] {
            let fault = resolved(text).unwrap_err();
            assert!(fault.to_string().contains(part), "{fault}");
            assert_eq!(fault.exit_code(), 2);
        }
    }
}
