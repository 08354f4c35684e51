//! The labels that a scan came with, as classes of a model.

use crate::cloud::{ClassColumn, PointCloud};
use crate::infer::Codes;
use crate::weights::ModelMetadata;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// What the labels of the input say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    /// Class of every point, −1 where the label is none of the model's classes.
    pub class: Vec<i32>,
    /// Codes without a class that nobody asked to ignore, with the number of their points.
    pub unknown: BTreeMap<i64, u64>,
}

/// The class of every point by the labels of the scan.
///
/// Nothing comes back when the scan has no labels, or but one code throughout: files that were never classified hold a
/// single code everywhere.
///
/// # Errors
/// The attribute `name` was asked for, and is missing or holds other than integers.
pub fn truth(
    cloud: &PointCloud,
    metadata: &ModelMetadata,
    codes: &Codes,
    name: Option<&str>,
) -> Result<Option<Truth>> {
    let mut search = LabelSearch::new(name);
    search.see(cloud);
    let Some(name) = search.found(cloud)? else {
        return Ok(None);
    };
    let labels = cloud.labels_of(name).expect("was just found");
    let truth = Truth::new(&labels, metadata, codes);
    Ok(truth.is_known().then_some(truth))
}

impl Truth {
    /// What the labels of some points say.
    pub fn new(labels: &ClassColumn, metadata: &ModelMetadata, codes: &Codes) -> Truth {
        let mut truth = Truth::default();
        for &code in &labels.code {
            let class = codes.class_of(code, metadata);
            truth.class.push(class.map_or(-1, |c| c as i32));
            if class.is_none() && !codes.is_ignored(code) {
                *truth.unknown.entry(code).or_default() += 1;
            }
        }
        truth
    }

    /// True when at least one label is one of the model's classes.
    pub fn is_known(&self) -> bool {
        self.class.iter().any(|c| *c >= 0)
    }
}

/// Finds the labels of a scan that comes in pieces, by the rules of [`truth`].
#[derive(Debug)]
pub struct LabelSearch {
    asked: Option<String>,
    candidates: Vec<Candidate>,
}

/// An attribute that may hold labels.
#[derive(Debug)]
struct Candidate {
    name: String,
    is_whole: bool,
    first: Option<i64>,
    is_varied: bool,
}

impl LabelSearch {
    /// Looks for the attribute `asked`, or for one of the usual names.
    pub fn new(asked: Option<&str>) -> LabelSearch {
        let names = match asked {
            Some(name) => vec![name],
            None => crate::cloud::CLASS.to_vec(),
        };
        let candidate = |name: &str| Candidate {
            name: name.into(),
            is_whole: true,
            first: None,
            is_varied: false,
        };
        LabelSearch {
            asked: asked.map(String::from),
            candidates: names.into_iter().map(candidate).collect(),
        }
    }

    /// Looks at some points.
    pub fn see(&mut self, cloud: &PointCloud) {
        for candidate in self.candidates.iter_mut().filter(|c| c.is_whole) {
            let Some(labels) = cloud.labels_of(&candidate.name) else {
                candidate.is_whole = false;
                continue;
            };
            for code in labels.code {
                candidate.is_varied |= code != *candidate.first.get_or_insert(code);
            }
        }
    }

    /// The attribute that holds the labels of the scan, if there is one.
    ///
    /// # Errors
    /// As [`truth`]; `schema` names the attributes there are.
    pub fn found(&self, schema: &PointCloud) -> Result<Option<&str>> {
        let found = self.candidates.iter().find(|c| c.is_whole);
        match (found, &self.asked) {
            (None, Some(name)) => Err(no_labels(schema, name)),
            (Some(c), None) if !c.is_varied => Ok(None),
            (found, _) => Ok(found.map(|c| c.name.as_str())),
        }
    }
}

fn no_labels(cloud: &PointCloud, name: &str) -> Error {
    let names: Vec<&str> = cloud.attributes.iter().map(|a| a.name.as_str()).collect();
    Error::argument(
        "labels",
        format!(
            "the scan has no attribute `{name}` with whole numbers; it has {}",
            names.join(", ")
        ),
    )
}
