//! What `cairn segment` says about a labelled scan.

use super::map::Codes;
use crate::cli::print;
use crate::cloud::{ClassColumn, PointCloud};
use crate::infer::{Memory, Prediction};
use crate::train::metrics::Confusion;
use crate::weights::ModelMetadata;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Result of one scan. Times are seconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub input: String,
    pub output: String,
    pub model: String,
    pub device: String,
    pub points: usize,
    /// Points without usable coordinates.
    pub without_class: usize,
    pub tiles: usize,
    /// Runs of the network.
    pub passes: usize,
    pub read_seconds: f64,
    /// Everything between reading and writing.
    pub seconds: f64,
    pub write_seconds: f64,
    pub points_per_second: f64,
    pub classes: Vec<ClassReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// How the memory was kept bounded; absent for scans that were in memory as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded: Option<Bounded>,
    /// Codes of the input's labels that are none of the model's classes, and how many points have them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown_codes: BTreeMap<i64, u64>,
}

/// What the labels of the input say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    /// Class of every point, −1 where the label is none of the model's classes.
    pub class: Vec<i32>,
    /// Codes without a class that nobody asked to ignore, with the number of their points.
    pub unknown: BTreeMap<i64, u64>,
}

/// What a scan took that was not in memory as a whole. Sizes are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Bounded {
    /// What was allowed.
    pub memory: u64,
    /// Most that was resident so far; absent where the system does not say.
    pub peak: Option<u64>,
    /// Size of the temporary file.
    pub temporary: u64,
    /// Parts that were in memory one after another.
    pub blocks: usize,
}

/// Predictions of one class.
#[derive(Debug, Clone, Serialize)]
pub struct ClassReport {
    pub name: String,
    /// Code in the output.
    pub code: i32,
    pub points: usize,
    /// Share of all points, 0 to 1.
    pub share: f64,
    /// Mean confidence of the points of this class; absent without any.
    pub confidence: Option<f64>,
    /// Intersection over union with the labels of the input; absent where neither has the class, or without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iou: Option<f64>,
}

/// Agreement with the labels of the input.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Points whose label is one of the model's classes; the others are left out.
    pub labelled_points: u64,
    pub accuracy: f64,
    /// Mean IoU over the classes that occur in the labels.
    pub miou: f64,
    /// How many these are.
    pub classes: usize,
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
    let labels = match name {
        None => cloud.labels(),
        Some(name) => Some(
            cloud
                .labels_of(name)
                .ok_or_else(|| no_labels(cloud, name))?,
        ),
    };
    let Some(labels) = labels else {
        return Ok(None);
    };
    if name.is_none() && labels.code.iter().all(|c| *c == labels.code[0]) {
        return Ok(None);
    }
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
    fn is_known(&self) -> bool {
        self.class.iter().any(|c| *c >= 0)
    }
}

/// Decisions counted as they come, compared with labels where there are some.
#[derive(Debug)]
pub struct Tally {
    points: usize,
    count: Vec<usize>,
    confidence: Vec<f64>,
    confusion: Confusion,
    unknown: BTreeMap<i64, u64>,
    is_known: bool,
}

impl Tally {
    /// Nothing counted, for a number of classes.
    pub fn new(classes: usize) -> Tally {
        Tally {
            points: 0,
            count: vec![0; classes],
            confidence: vec![0.0; classes],
            confusion: Confusion::new(classes),
            unknown: BTreeMap::new(),
            is_known: false,
        }
    }

    /// Counts some points; all of a scan or none have labels.
    pub fn add(&mut self, class: &[i32], confidence: &[f32], truth: Option<&Truth>) {
        self.points += class.len();
        for (class, c) in class.iter().zip(confidence) {
            if let Ok(class) = usize::try_from(*class) {
                self.count[class] += 1;
                self.confidence[class] += f64::from(*c);
            }
        }
        let Some(truth) = truth else { return };
        // Points without a class are no mistake of the network.
        let decided = class.iter().zip(&truth.class).filter(|(p, _)| **p >= 0);
        let (predicted, labels): (Vec<u32>, Vec<i32>) =
            decided.map(|(p, t)| (p.unsigned_abs(), *t)).unzip();
        self.confusion.add(&predicted, &labels);
        for (code, count) in &truth.unknown {
            *self.unknown.entry(*code).or_default() += count;
        }
        self.is_known |= truth.is_known();
    }

    /// What was counted, for people and programs.
    pub fn report(self, metadata: &ModelMetadata) -> Report {
        let names = metadata
            .class_names()
            .into_iter()
            .zip(metadata.class_codes());
        let classes = names.enumerate().map(|(i, (name, code))| ClassReport {
            name,
            code: code as i32,
            points: self.count[i],
            share: self.count[i] as f64 / self.points.max(1) as f64,
            confidence: (self.count[i] > 0).then(|| self.confidence[i] / self.count[i] as f64),
            iou: None,
        });
        let mut report = Report {
            points: self.points,
            classes: classes.collect(),
            ..Report::default()
        };
        if self.is_known {
            report.compare(&self.confusion);
            report.unknown_codes = self.unknown;
        }
        report
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

impl Report {
    /// Counts a prediction and compares it with `truth` where there is one.
    pub fn new(metadata: &ModelMetadata, prediction: &Prediction, truth: Option<&Truth>) -> Report {
        let mut tally = Tally::new(metadata.classes.len());
        tally.add(&prediction.class, &prediction.confidence, truth);
        Report {
            without_class: prediction.skipped,
            tiles: prediction.tiles,
            passes: prediction.passes,
            ..tally.report(metadata)
        }
    }

    /// Codes of the classes in the output.
    pub fn set_codes(&mut self, codes: &[i32]) {
        let classes = self.classes.iter_mut().zip(codes);
        classes.for_each(|(class, code)| class.code = *code);
    }

    fn compare(&mut self, confusion: &Confusion) {
        let scores = confusion.scores();
        let labelled: u64 = scores.points.iter().sum();
        if labelled == 0 {
            return;
        }
        let union = confusion.union();
        for (i, class) in self.classes.iter_mut().enumerate() {
            class.iou = (union[i] > 0).then_some(scores.iou[i]);
        }
        let occurring = (0..self.classes.len()).filter(|i| scores.points[*i] > 0);
        let classes = occurring.clone().count();
        self.comparison = Some(Comparison {
            labelled_points: labelled,
            accuracy: scores.accuracy,
            miou: occurring.map(|i| scores.iou[i]).sum::<f64>() / classes as f64,
            classes,
        });
    }

    /// Time for reading, segmenting and writing.
    pub fn set_times(&mut self, times: [Duration; 3]) {
        [self.read_seconds, self.seconds, self.write_seconds] = times.map(|t| t.as_secs_f64());
        self.points_per_second = self.points as f64 / self.seconds.max(1e-9);
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: {} points in {:.2} s, {} points/s (reading {:.2} s, writing {:.2} s)\n",
            self.output,
            print::count(self.points as u64),
            self.seconds,
            print::count(self.points_per_second as u64),
            self.read_seconds,
            self.write_seconds,
        );
        if let Some(b) = &self.bounded {
            let peak = b
                .peak
                .map_or(String::new(), |p| format!(", peak {}", Memory(p)));
            writeln!(
                text,
                "in {} blocks within {} of memory{peak}, {} of temporary files",
                b.blocks,
                Memory(b.memory),
                Memory(b.temporary)
            )
            .expect("writing to a string never fails");
        }
        text.push_str(&print::table(&self.rows()));
        if self.without_class > 0 {
            let count = print::count(self.without_class as u64);
            writeln!(
                text,
                "{count} points without usable coordinates have no class"
            )
            .expect("writing to a string never fails");
        }
        if let Some(c) = &self.comparison {
            writeln!(
                text,
                "against the labels of the input: mIoU {:.3} over {} classes, accuracy {:.3}, {} labelled points",
                c.miou,
                c.classes,
                c.accuracy,
                print::count(c.labelled_points),
            )
            .expect("writing to a string never fails");
        }
        if !self.unknown_codes.is_empty() {
            let codes = self.unknown_codes.iter();
            let codes: Vec<String> = codes
                .map(|(code, count)| format!("{code} ({} points)", print::count(*count)))
                .collect();
            writeln!(
                text,
                "codes of the input that are no class here: {} (--map or --ignore settles them)",
                codes.join(", ")
            )
            .expect("writing to a string never fails");
        }
        text
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let number = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.3}"));
        let mut head = vec!["class", "code", "points", "share", "confidence"];
        if self.comparison.is_some() {
            head.push("IoU");
        }
        let mut rows = vec![head.into_iter().map(String::from).collect()];
        for class in &self.classes {
            let mut row = vec![
                class.name.clone(),
                class.code.to_string(),
                print::count(class.points as u64),
                format!("{:.1} %", 100.0 * class.share),
                number(class.confidence),
            ];
            if self.comparison.is_some() {
                row.push(number(class.iou));
            }
            rows.push(row);
        }
        rows
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::segment::map::tests::own;
    use crate::cloud::Column;
    use crate::weights::{ClassInfo, InputSpec};

    pub fn metadata() -> ModelMetadata {
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

    fn labelled(codes: &[u8]) -> PointCloud {
        let mut cloud = PointCloud {
            coord: vec![[0.0; 3]; codes.len()],
            attributes: Vec::new(),
        };
        cloud
            .set_attribute("classification", Column::U8(codes.to_vec()))
            .unwrap();
        cloud
    }

    #[test]
    fn iou_counts_labelled_points_only() {
        let cloud = labelled(&[2, 2, 3, 5, 1, 1]);
        let truth = truth(&cloud, &metadata(), &own(), None).unwrap().unwrap();
        assert_eq!(truth.class, [0, 0, 1, 1, -1, -1]);
        assert_eq!(truth.unknown, [(1, 2)].into());
        let prediction = Prediction {
            class: vec![0, 1, 1, 1, 2, -1],
            confidence: vec![0.5, 1.0, 1.0, 0.4, 0.9, 0.0],
            skipped: 1,
            ..Prediction::default()
        };
        let report = Report::new(&metadata(), &prediction, Some(&truth));
        let iou: Vec<_> = report.classes.iter().map(|c| c.iou).collect();
        for (found, expected) in iou.iter().zip([Some(0.5), Some(2.0 / 3.0), None]) {
            assert_eq!(found.is_some(), expected.is_some());
            assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-9);
        }
        let comparison = report.comparison.as_ref().unwrap();
        assert_eq!((comparison.labelled_points, comparison.classes), (4, 2));
        assert!((comparison.miou - 7.0 / 12.0).abs() < 1e-9);
        assert!((comparison.accuracy - 0.75).abs() < 1e-9);
        assert_eq!(
            report.classes[1].confidence,
            Some((1.0 + 1.0 + f64::from(0.4f32)) / 3.0)
        );
        let text = report.text();
        assert!(
            text.contains("mIoU 0.583") && text.contains("1 (2 points)"),
            "{text}"
        );
    }

    #[test]
    fn labels_of_a_scan_in_pieces_are_those_of_the_whole() {
        let own = own();
        for (codes, asked) in [
            (&[2u8, 2, 3, 5, 1, 1][..], None),
            (&[2, 2, 2, 2], None),
            (&[2, 2, 2, 2], Some("classification")),
            (&[9, 8, 7, 9], None),
        ] {
            let whole = labelled(codes);
            let expected = truth(&whole, &metadata(), &own, asked).unwrap();
            let mut search = LabelSearch::new(asked);
            let pieces = [labelled(&codes[..2]), labelled(&codes[2..])];
            pieces.iter().for_each(|piece| search.see(piece));
            let name = search.found(&whole).unwrap();
            let class: Vec<i32> = (0..codes.len() as i32).map(|i| i % 3).collect();
            let mut tally = Tally::new(3);
            for (piece, class) in pieces.iter().zip([&class[..2], &class[2..]]) {
                let truth =
                    name.map(|n| Truth::new(&piece.labels_of(n).unwrap(), &metadata(), &own));
                tally.add(class, &vec![0.5; class.len()], truth.as_ref());
            }
            let prediction = Prediction {
                confidence: vec![0.5; class.len()],
                class,
                ..Prediction::default()
            };
            let expected = Report::new(&metadata(), &prediction, expected.as_ref());
            let text = |report: &Report| serde_json::to_string(report).unwrap();
            assert_eq!(
                text(&tally.report(&metadata())),
                text(&expected),
                "{codes:?}"
            );
        }
        let mut search = LabelSearch::new(Some("none"));
        search.see(&labelled(&[1]));
        let fault = search.found(&labelled(&[])).unwrap_err().to_string();
        assert!(fault.contains("it has classification"), "{fault}");
    }

    #[test]
    fn scans_that_were_never_classified_are_not_compared() {
        for codes in [&[2u8, 2, 2][..], &[1, 0, 1]] {
            assert!(
                truth(&labelled(codes), &metadata(), &own(), None)
                    .unwrap()
                    .is_none()
            );
        }
        assert!(
            truth(&labelled(&[2]), &metadata(), &own(), Some("classification"))
                .unwrap()
                .is_some()
        );
        let fault = truth(&labelled(&[2]), &metadata(), &own(), Some("no")).unwrap_err();
        assert!(
            fault.to_string().contains("it has classification"),
            "{fault}"
        );
    }
}
