//! Names under which new labels are written beside what a scan holds already.
//!
//! New labels are called `label` and `confidence`, and replace those of an earlier run. Anything else that has these names
//! belongs to the scan, such as its ground truth, and stays: a label as `original_label`, a confidence as it is, beside the
//! new `label_confidence`.

use crate::cloud::{Column, Kind, PointCloud};
use crate::io::Output;

/// Name of new labels.
pub(super) const LABEL: &str = "label";

/// What becomes of the attributes whose names new labels would take. Without new labels, nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelNames {
    /// Labels are written.
    pub is_labelled: bool,
    /// New name of labels that are not of an earlier run, if the scan has some.
    original: Option<String>,
    /// Name of new confidences.
    pub confidence: &'static str,
}

impl LabelNames {
    /// The names in an output.
    pub fn of(plan: &Output<'_>) -> LabelNames {
        LabelNames::new(plan.schema, plan.classes.is_some())
    }

    /// The names for a scan with the attributes of `schema`.
    pub fn new(schema: &PointCloud, is_labelled: bool) -> LabelNames {
        let is_float = |column: &Column| matches!(column.kind(), Kind::F32 | Kind::F64);
        let label = schema.attribute(LABEL);
        // In LAS files the class field is what holds the labels. Text does not tell whole numbers from others.
        let has_labels = label.is_some() || schema.attribute("classification").is_some();
        // With both, the first is the scan's own.
        let earlier = ["label_confidence", "confidence"]
            .into_iter()
            .find(|name| has_labels && schema.attribute(name).is_some_and(is_float));
        let has_own = is_labelled && label.is_some() && earlier.is_none();
        let original = || {
            let numbered = (2..).map(|n| format!("original_label_{n}"));
            let mut names = std::iter::once("original_label".to_string()).chain(numbered);
            names.find(|name| schema.attribute(name).is_none())
        };
        LabelNames {
            is_labelled,
            original: has_own.then(original).flatten(),
            confidence: earlier.unwrap_or(match schema.attribute("confidence") {
                None => "confidence",
                Some(_) => "label_confidence",
            }),
        }
    }

    /// True for an attribute that gives way to the new labels.
    pub fn replace(&self, name: &str) -> bool {
        let is_old = name == LABEL && self.original.is_none() || name == self.confidence;
        self.is_labelled && is_old
    }

    /// The name under which an attribute that stays is written.
    pub fn written<'a>(&'a self, name: &'a str) -> &'a str {
        match &self.original {
            Some(original) if name == LABEL => original,
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_labels_are_replaced_and_all_others_stay() {
        let byte = || Column::U8(vec![]);
        let (int, float) = (|| Column::I32(vec![]), || Column::F32(vec![]));
        for (attributes, stays, confidence) in [
            (vec![], false, "confidence"),
            (
                vec![("label", int()), ("confidence", float())],
                false,
                "confidence",
            ),
            (
                vec![("classification", byte()), ("confidence", float())],
                false,
                "confidence",
            ),
            (vec![("label", int())], true, "confidence"),
            (vec![("confidence", float())], false, "label_confidence"),
            (
                vec![("label", int()), ("confidence", byte())],
                true,
                "label_confidence",
            ),
            (
                vec![
                    ("confidence", float()),
                    ("label", int()),
                    ("label_confidence", float()),
                ],
                false,
                "label_confidence",
            ),
            (
                vec![
                    ("confidence", byte()),
                    ("label", int()),
                    ("label_confidence", float()),
                ],
                false,
                "label_confidence",
            ),
        ] {
            let mut schema = PointCloud::default();
            for (name, column) in &attributes {
                schema.set_attribute(name, column.clone()).unwrap();
            }
            let names = LabelNames::new(&schema, true);
            assert_eq!(names.confidence, confidence, "{attributes:?}");
            assert_eq!(names.replace("label"), !stays, "{attributes:?}");
            let want = if stays { "original_label" } else { "label" };
            assert_eq!(names.written("label"), want, "{attributes:?}");
            assert_eq!(names.written("intensity"), "intensity");
            let unlabelled = LabelNames::new(&schema, false);
            assert!(!unlabelled.replace("label") && unlabelled.written("label") == "label");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_again() {
        let mut schema = PointCloud::default();
        for name in ["label", "original_label", "original_label_2"] {
            schema.set_attribute(name, Column::U8(vec![])).unwrap();
        }
        let names = LabelNames::new(&schema, true);
        assert_eq!(names.written("label"), "original_label_3");
        assert_eq!(names.written("original_label"), "original_label");
    }
}
