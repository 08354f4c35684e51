//! `cairn eval`: scores of a model on the validation scans of a configuration.

use super::{Global, Products, print, progress::Progress, signals};
use crate::Error;
use crate::dataset::Dataset;
use crate::device::Precision;
use crate::graph::Executor;
use crate::models::Model;
use crate::train::evaluate::{Counts, Evaluator};
use crate::train::metrics::Scores;
use crate::train::{Config, scans};
use crate::weights::{ModelMetadata, load_model, safetensors};
use anyhow::Context;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Score a model on the validation scans of a configuration
///
/// Every scan runs whole, one point per voxel; classes are spread to all points of a voxel. Prints IoU and accuracy per class
/// on all labelled points, and the mean IoU on one point per voxel as well, which is what the reference code reports.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cairn eval data/configs/airborne.toml --weights runs/airborne/best.safetensors"
)]
pub struct Args {
    /// Configuration file (TOML) that names the scans and their labels
    config: PathBuf,
    /// Model to score (safetensors)
    #[arg(long, short, value_name = "FILE")]
    weights: PathBuf,
    /// Score on the training scans instead
    #[arg(long)]
    on_training: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    products: Products,
}

#[derive(Debug, Serialize)]
struct Report {
    classes: Vec<String>,
    points: Scores,
    voxels: Scores,
    scans: Vec<ScanReport>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct ScanReport {
    name: String,
    points: Scores,
    voxels: Scores,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let precision = args.products.on(global.device, Precision::F32)?;
    let path = &args.config;
    let mut config = Config::read(path).context("reading the configuration")?;
    let tensors = safetensors::read(&args.weights).context("reading the weights")?;
    let described =
        ModelMetadata::from_tensors(&tensors, &args.weights).context("reading the weights")?;
    if described.classes != config.classes {
        return Err(Error::unusable(
            &args.weights,
            format!(
                "knows the classes {}, the configuration {}",
                described.class_names().join(", "),
                config.metadata().class_names().join(", ")
            ),
        )
        .into());
    }
    // The model knows best what it was trained on.
    config.input = described.input.clone();
    let model =
        load_model(&described.network, &tensors, global.device).context("loading the weights")?;
    global.announce_in(precision);
    let base = path.parent().unwrap_or(Path::new("."));
    let (train, validate) = scans(&config, base).context("reading the scans")?;
    let data = if args.on_training { &train } else { &validate };
    if data.is_empty() {
        return Err(Error::config("data.validate", "names no scan to be scored on").into());
    }
    let report = report(&config, (&model, precision), data, global)?;
    if args.json {
        print::json(&report)?;
    } else {
        print::result(&report.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(
    config: &Config,
    (model, precision): (&Model, Precision),
    data: &dyn Dataset,
    global: &Global,
) -> anyhow::Result<Report> {
    let mut executor = Executor::new(global.device).in_precision(precision)?;
    let mut evaluator = Evaluator {
        network: &*model.network,
        params: &model.params,
        executor: &mut executor,
        input: &config.input,
    };
    let bar = Progress::new(global, "scoring");
    let start = Instant::now();
    let clouds = evaluator.clouds(data, &mut |number| {
        bar.set(number as u64, data.len() as u64);
        signals::check("nothing was written")
    })?;
    let mut all = Counts::new(config.classes.len());
    let mut scans = Vec::new();
    for (number, counts) in clouds.iter().enumerate() {
        all.merge(counts);
        scans.push(ScanReport {
            name: data.name(number).to_string(),
            points: counts.points.scores(),
            voxels: counts.voxels.scores(),
        });
    }
    Ok(Report {
        classes: config.classes.iter().map(|c| c.name.clone()).collect(),
        points: all.points.scores(),
        voxels: all.voxels.scores(),
        scans,
        seconds: start.elapsed().as_secs_f64(),
    })
}

impl Report {
    fn text(&self) -> String {
        let number = |v: f64| format!("{v:.4}");
        let line = |cells: [String; 5]| cells.to_vec();
        let head = ["class", "points", "IoU", "accuracy", "IoU (voxels)"];
        let mut rows = vec![line(head.map(String::from))];
        for (c, name) in self.classes.iter().enumerate() {
            rows.push(line([
                name.clone(),
                print::count(self.points.points[c]),
                number(self.points.iou[c]),
                number(self.points.recall[c]),
                number(self.voxels.iou[c]),
            ]));
        }
        rows.push(line([
            "mean".into(),
            print::count(self.points.points.iter().sum()),
            number(self.points.miou),
            number(self.points.macc),
            number(self.voxels.miou),
        ]));
        let mut text = print::table(&rows);
        let accuracy = (self.points.accuracy, self.voxels.accuracy);
        text += &format!(
            "overall accuracy {:.4} (voxels {:.4}), {:.1} s\n",
            accuracy.0, accuracy.1, self.seconds
        );
        for scan in self.scans.iter().filter(|_| self.scans.len() > 1) {
            text += &format!(
                "{}: mIoU {:.4} (voxels {:.4})\n",
                scan.name, scan.points.miou, scan.voxels.miou
            );
        }
        text
    }
}
