//! `cairn segment`: scans in, the same scans with a class and a confidence on every point out.

mod report;

use super::{Global, print, progress::Progress, signals};
use crate::infer::{Options, Segmenter, Shipped, Views, segment::TILE_VOXELS, shipped::Facts};
use crate::io::{self, Scan};
use crate::{Error, Result};
use anyhow::Context;
use report::Report;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// What an interrupt leaves behind.
const KEPT: &str = "nothing was written, an older output is as it was";

/// Label the points of scans
///
/// Every point of the input is written with all its attributes, in its order, plus the class (LAS: the classification
/// field; elsewhere `label`) and the confidence, the probability of that class from 0 to 1 (LAS: an extra dimension).
/// The output format follows the output name. Points without usable coordinates get no class and confidence 0.
///
/// Without --weights or --model, a built-in model that fits the scan is taken; standard error says which and why. If the
/// input holds labels in the model's classes, the IoU per class is printed as well.
///
/// The network sees one point per voxel; its size is the model's. With --tta it sees every point, in several scaled and
/// flipped (or turned) copies of the scan, and probabilities are summed: slower, usually somewhat better.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, after_long_help = EXAMPLE)]
pub struct Args {
    /// Scans to label (LAS, LAZ, PLY, PCD, NPY; recognised by content)
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<PathBuf>,
    /// Output file; for several inputs a folder, which is made if need be
    #[arg(long, short, value_name = "OUT")]
    output: PathBuf,
    /// Model file (safetensors) from `cairn train` or `cairn convert`
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Built-in model: airborne or robot_cell [default: the one that fits the scan]
    #[arg(long, value_name = "NAME", conflicts_with = "weights")]
    model: Option<String>,
    /// Sum predictions over several views: scale-flip (10 views, the default list) or rotate (13 views)
    #[arg(
        long,
        value_name = "LIST",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "scale-flip"
    )]
    tta: Option<Views>,
    /// Most voxels that the network sees at once; larger scans are cut into overlapping tiles
    #[arg(long, value_name = "N", default_value_t = TILE_VOXELS)]
    tile_voxels: usize,
    /// Attribute of the input that holds true classes to compare with [default: label or classification]
    #[arg(long, value_name = "NAME")]
    labels: Option<String>,
    /// Print one line of JSON per scan instead of text
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Examples:
  cairn segment scan.laz -o labelled.laz
  cairn segment scans/*.ply -o labelled/ --weights model.safetensors --tta --json";

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if args.tile_voxels < MINIMUM_TILE {
        let fault = format!("{} is less than {MINIMUM_TILE}", args.tile_voxels);
        return Err(Error::argument("tile-voxels", fault).into());
    }
    let jobs = jobs(&args.inputs, &args.output)?;
    let mut chosen = Chosen::of(&args, global)?;
    global.announce();
    for (input, output) in &jobs {
        let report = one(&args, global, &mut chosen, input, output)?;
        if args.json {
            print::result(&serde_json::to_string(&report)?)?;
        } else {
            print::result(&report.text())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A tile of fewer voxels than this gives the network no surroundings to see.
const MINIMUM_TILE: usize = 1000;

/// Input and output files. Every output name is checked before anything is read.
fn jobs(inputs: &[PathBuf], output: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    if let ([input], false) = (inputs, output.is_dir()) {
        io::format_of_name(output)?;
        return Ok(vec![(input.clone(), output.to_path_buf())]);
    }
    if output.exists() && !output.is_dir() {
        let fault = "is a file; several inputs need a folder as output";
        return Err(Error::unusable(output, fault));
    }
    let mut names = BTreeSet::new();
    let mut jobs = Vec::new();
    for input in inputs {
        let name = input
            .file_name()
            .ok_or_else(|| Error::unusable(input, "is no file"))?;
        let target = output.join(name);
        io::format_of_name(&target)?;
        if !names.insert(name) {
            let fault = "another input has the same file name, and both outputs go into one folder";
            return Err(Error::unusable(input, fault));
        }
        jobs.push((input.clone(), target));
    }
    std::fs::create_dir_all(output).map_err(|e| Error::io(output, e))?;
    Ok(jobs)
}

/// The model in use, loaded once.
struct Chosen {
    /// Chosen anew for every scan.
    by_scan: bool,
    name: String,
    segmenter: Option<Segmenter>,
}

impl Chosen {
    /// Loads what was asked for by name; a model that depends on the scan is loaded later.
    fn of(args: &Args, global: &Global) -> anyhow::Result<Chosen> {
        let (name, segmenter) = match (&args.weights, &args.model) {
            (Some(path), _) => {
                let segmenter =
                    Segmenter::read(path, global.device).context("loading the weights")?;
                (path.display().to_string(), Some(segmenter))
            }
            (None, Some(name)) => {
                let segmenter = Segmenter::shipped(Shipped::named(name)?, global.device)?;
                (name.clone(), Some(segmenter))
            }
            (None, None) => (String::new(), None),
        };
        Ok(Chosen {
            by_scan: segmenter.is_none(),
            name,
            segmenter,
        })
    }

    /// The model for `scan`.
    fn for_scan(&mut self, scan: &Scan, global: &Global) -> Result<&mut Segmenter> {
        if self.by_scan {
            let (model, why) = Shipped::choose(&Facts::new(scan)?)?;
            global.note(format_args!(
                "model: {}, because the scan is {why}",
                model.name
            ));
            if self.name != model.name {
                self.segmenter = Some(Segmenter::shipped(model, global.device)?);
                self.name = model.name.to_string();
            }
        }
        Ok(self
            .segmenter
            .as_mut()
            .expect("a model is loaded by name or was just chosen"))
    }
}

fn one(
    args: &Args,
    global: &Global,
    chosen: &mut Chosen,
    input: &Path,
    output: &Path,
) -> anyhow::Result<Report> {
    // Better now than after the work: makes a temporary file beside the output and removes it again.
    io::Atomic::create(output).context("preparing the output")?;
    let start = Instant::now();
    let scan = io::read(input).context("reading the scan")?;
    scan.warnings.iter().for_each(print::warning);
    if scan.cloud.is_empty() {
        return Err(Error::unusable(input, "holds no points").into());
    }
    signals::check(KEPT)?;
    let segmenter = chosen
        .for_scan(&scan, global)
        .with_context(|| format!("segmenting {}", input.display()))?;
    let read = start.elapsed();

    let options = Options {
        views: args.tta.unwrap_or_default(),
        tile_voxels: args.tile_voxels,
    };
    let progress = Progress::new(global, "segmenting");
    let prediction = segmenter
        .segment(&scan.cloud, &options, &mut |done, total| {
            progress.set(done, total);
            signals::check(KEPT)
        })
        .with_context(|| format!("segmenting {}", input.display()))?;
    drop(progress);
    let segmented = start.elapsed() - read;

    signals::check(KEPT)?;
    let labels = segmenter.labels(&prediction);
    let notes = io::write(output, &scan, &labels).context("writing the labelled scan")?;
    notes.iter().for_each(print::warning);
    let written = start.elapsed() - read - segmented;

    let metadata = segmenter.metadata();
    let truth = report::truth(&scan.cloud, metadata, args.labels.as_deref())?;
    let mut report = Report::new(metadata, &prediction, truth.as_deref());
    report.input = input.display().to_string();
    report.output = output.display().to_string();
    report.model.clone_from(&chosen.name);
    report.device = global.device.to_string();
    report.set_times([read, segmented, written]);
    Ok(report)
}
