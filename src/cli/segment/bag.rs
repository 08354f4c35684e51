//! Labelling the clouds of a bag.

use super::{Args, Chosen, KEPT};
use crate::cli::progress::Progress;
use crate::cli::{Global, print, signals};
use crate::infer::LabelMap;
use crate::io::{Scan, bag};
use crate::{Error, Result};
use anyhow::Context;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// Result of one bag. Times are seconds.
#[derive(Debug, Serialize)]
struct BagReport {
    input: String,
    output: String,
    topic: String,
    model: String,
    device: String,
    clouds: u64,
    points: u64,
    seconds: f64,
    /// Longest time for one cloud.
    slowest: f64,
}

/// Labels one bag and returns what is to be printed.
pub fn run(
    args: &Args,
    global: &Global,
    chosen: &mut Chosen,
    map: &LabelMap,
    [input, output]: [&Path; 2],
) -> anyhow::Result<String> {
    if !super::jobs::has_extension(output, "mcap") {
        let fault = "a bag is written as a bag; name the output .mcap";
        return Err(Error::unusable(output, fault).into());
    }
    let start = Instant::now();
    let topic = bag::choose(input, args.topic.as_deref()).context("reading the bag")?;
    let progress = Progress::new(global, "segmenting");
    let mut report = BagReport {
        input: input.display().to_string(),
        output: output.display().to_string(),
        topic: topic.name.clone(),
        model: String::new(),
        device: global.device.to_string(),
        clouds: 0,
        points: 0,
        seconds: 0.0,
        slowest: 0.0,
    };
    let by_scan = chosen.by_scan;
    let done = bag::label(input, output, &topic.name, &mut |frame| {
        signals::check(KEPT)?;
        let begin = Instant::now();
        let scan = Scan::from(frame.cloud);
        let labels = chosen.labels(args, global, map, &scan).map_err(|e| {
            let place = format!("{} cloud {}", topic.name, frame.number);
            named(input, &place, e)
        })?;
        report.clouds += 1;
        report.points += scan.cloud.len() as u64;
        report.slowest = report.slowest.max(begin.elapsed().as_secs_f64());
        progress.set(report.clouds, topic.messages);
        Ok(labels)
    });
    // The next scan may be of another kind.
    chosen.by_scan = by_scan;
    done.with_context(|| format!("labelling {}", input.display()))?;
    drop(progress);
    report.seconds = start.elapsed().as_secs_f64();
    report.model = chosen.name.clone();
    if args.json {
        return Ok(serde_json::to_string(&report)?);
    }
    Ok(format!(
        "{}: {} clouds of {} with {} points in {:.2} s, {:.3} s for the slowest",
        report.output,
        print::count(report.clouds),
        report.topic,
        print::count(report.points),
        report.seconds,
        report.slowest
    ))
}

/// A fault with the cloud that has it; interrupts stay interrupts.
fn named(path: &Path, place: &str, error: Error) -> Error {
    match error {
        Error::Interrupted { .. } => error,
        other => Error::malformed(path, place, other.to_string()),
    }
}

impl Chosen {
    /// The labels of a cloud that is one of many: the model that fits the first one takes them all.
    pub fn labels(
        &mut self,
        args: &Args,
        global: &Global,
        map: &LabelMap,
        scan: &Scan,
    ) -> Result<crate::io::Labels> {
        if scan.cloud.usable_rows().is_empty() {
            // A scanner that saw nothing has nothing to label.
            let points = scan.cloud.len();
            let none = match &self.segmenter {
                Some(segmenter) => map.resolve(segmenter)?.none,
                None => map.none().unwrap_or(0),
            };
            return Ok(crate::io::Labels {
                code: vec![none; points],
                confidence: vec![0.0; points],
                classes: Vec::new(),
            });
        }
        let segmenter = self.for_scan(scan, global)?;
        let codes = map.resolve(segmenter)?;
        let options = args.options();
        let prediction =
            segmenter.segment(&scan.cloud, &options, &mut |_, _| signals::check(KEPT))?;
        let labels = codes.labels(segmenter, &prediction);
        self.by_scan = false;
        Ok(labels)
    }
}
