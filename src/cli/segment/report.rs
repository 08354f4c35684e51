//! What `cairn segment` says about a labelled scan.

use super::truth::Truth;
use crate::cli::print;
use crate::error::one_line;
use crate::infer::{Memory, Prediction};
use crate::train::metrics::Confusion;
use crate::weights::ModelMetadata;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Codes without a class that are listed for people.
const LISTED: usize = 20;

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
            one_line(&self.output),
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
            let codes = self.unknown_codes.iter().take(LISTED);
            let mut codes: Vec<String> = codes
                .map(|(code, count)| format!("{code} ({} points)", print::count(*count)))
                .collect();
            if let Some(more @ 1..) = self.unknown_codes.len().checked_sub(LISTED) {
                codes.push(format!("and {more} more"));
            }
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
pub mod tests;
