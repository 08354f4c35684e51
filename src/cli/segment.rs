//! `cairn segment`: scans in, the same scans with a class and a confidence on every point out.

mod bag;
mod jobs;
mod large;
mod report;
mod stream;
mod truth;

use super::{Global, Products, print, progress::Progress, signals};
use crate::device::Precision;
use crate::error::{one_line, path_text};
use crate::infer::{
    LabelMap, Memory, Options, Segmenter, Shipped, Views, segment::TILE_VOXELS, shipped::Facts,
};
use crate::io::{self, Scan};
use crate::{Error, Result};
use anyhow::Context;
use jobs::{Job, Jobs};
use report::Report;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Files of fewer bytes together are mostly labelled before a GPU would be ready.
const SMALL: u64 = 8 << 20;

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
///
/// Scans of any size: one that does not fit into --memory is read into a temporary file, labelled part by part, and written
/// in its order, as fast as in memory. The labels differ as those of two ways to cut tiles do.
///
/// Of several scans, one that cannot be labelled does not stop the others: the reasons are listed at the end and the exit
/// status is 1. Outputs that are newer than their inputs are left alone, so that a run that was stopped goes on where it
/// was; a NAME_labelled beside a NAME that is an input, too, is a result and no scan. Outputs that would fall on each
/// other, on an input, or on the labels of one (KITTI's .label files) are refused before any work.
///
/// An MCAP bag comes back as a bag in which every cloud of the topic has the fields `label` and `confidence`.
///
/// With `-` as input, clouds come on standard input and labels go to standard output, each with its length in front: four
/// bytes, little-endian, then a cloud as the bytes of an NPY (or PLY, PCD, LAS, LAZ) file. The answer is a length, a
/// byte that is 0, and for N points N class codes (i32) and N confidences (f32); or a byte that is 1 and a reason.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, after_long_help = EXAMPLE)]
pub struct Args {
    /// Scans to label (LAS, LAZ, PLY, PCD, NPY, E57, text, KITTI, MCAP bags), folders of them (without the folders inside),
    /// patterns such as 'scans/*.laz', quoted or not, or - for clouds on standard input
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<PathBuf>,
    /// Output file; for several inputs a folder, which is made if need be; a name that ends with / is a folder
    /// [default: beside each input, NAME_labelled]
    #[arg(long, short, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Format of the outputs by its file name extension, such as laz [default: that of each input]
    #[arg(long, value_name = "EXTENSION")]
    to: Option<String>,
    /// Label scans again whose output is there and newer than they are
    #[arg(long)]
    again: bool,
    /// Topic of a bag whose clouds are labelled [default: the only one with sensor_msgs/PointCloud2]
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// Codes of the classes in the output: asprs, a list such as ground=2,building=6 (none=0 for points without a class),
    /// or a TOML file with tables [codes] and [truth] [default: the model's codes]
    #[arg(long, value_name = "asprs|LIST|FILE.toml")]
    map: Option<String>,
    /// Codes of the input's labels that are left out of the comparison without a word, such as 1,7,64
    #[arg(
        long,
        value_name = "CODES",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    ignore: Vec<i64>,
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
    /// Most memory to use, such as 512MiB or 2GiB, but for clouds of bags, which are held whole; scans that need more go through temporary files in the folder of the output, clouds of a stream are refused
    /// [default: half of what the machine has free]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,
    /// Attribute of the input that holds true classes to compare with [default: label or classification]
    #[arg(long, value_name = "NAME")]
    labels: Option<String>,
    /// Print one line of JSON per scan instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    products: Products,
}

const EXAMPLE: &str = "\
Examples:
  cairn segment scan.laz -o labelled.laz
  cairn segment scans/ -o labelled/ --to laz --map asprs
  cairn segment scans/*.ply -o labelled/ --weights model.safetensors --tta --json
  cairn segment drive.mcap --topic /lidar/points --weights model.safetensors
  cairn segment - --weights model.safetensors < requests > answers";

impl Args {
    /// Whether the inputs are files so small that a GPU is not worth waiting for.
    pub(super) fn are_small(&self) -> bool {
        let bytes = |path: &PathBuf| {
            let file = std::fs::metadata(path).ok().filter(|file| file.is_file());
            file.map(|file| file.len())
        };
        let bytes: Option<Vec<u64>> = self.inputs.iter().map(bytes).collect();
        bytes.is_some_and(|bytes| bytes.into_iter().sum::<u64>() < SMALL)
    }
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if args.tile_voxels < MINIMUM_TILE {
        let fault = format!("{} is less than {MINIMUM_TILE}", args.tile_voxels);
        return Err(Error::argument("tile-voxels", fault).into());
    }
    signals::end_writing();
    let map = LabelMap::parse(args.map.as_deref(), &args.ignore)?;
    if args.inputs == [Path::new("-")] {
        if args.output.is_some() || args.json {
            let fault = "with - as input, labels go to standard output and nothing else is written";
            return Err(Error::argument("output", fault).into());
        }
        let mut chosen = Chosen::of(&args, global)?;
        global.announce_in(chosen.precision);
        stream::run(&args, global, &mut chosen, &map)?;
        return Ok(ExitCode::SUCCESS);
    }
    let output = args.output.as_deref();
    let jobs = Jobs::new(&args.inputs, output, args.to.as_deref(), args.again)?;
    let mut chosen = Chosen::of(&args, global)?;
    global.announce_in(chosen.precision);
    if jobs.many {
        return all(&args, global, &mut chosen, &map, &jobs);
    }
    for job in &jobs.list {
        print::result(&any(&args, global, &mut chosen, &map, job)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A tile of fewer voxels than this gives the network no surroundings to see.
const MINIMUM_TILE: usize = 1000;

impl Args {
    fn options(&self) -> Options {
        Options {
            views: self.tta.unwrap_or_default(),
            tile_voxels: self.tile_voxels,
        }
    }
}

/// Labels many scans; a fault of one does not stop the others.
fn all(
    args: &Args,
    global: &Global,
    chosen: &mut Chosen,
    map: &LabelMap,
    Jobs { list, results, .. }: &Jobs,
) -> anyhow::Result<ExitCode> {
    let mut failed = Vec::new();
    let mut skipped = 0;
    for job in list {
        signals::check("the scans so far are labelled; the same command goes on with the others")?;
        if !args.again && job.is_done() {
            skipped += 1;
            continue;
        }
        match any(args, global, chosen, map, job) {
            Ok(text) => print::result(&text)?,
            Err(error) if is_interrupt(&error) => return Err(error),
            Err(error) => {
                print::error(&error);
                let reason = print::chain(&error);
                if args.json {
                    let input = job.input.display().to_string();
                    let line = serde_json::json!({ "input": input, "error": reason });
                    print::result(&line.to_string())?;
                }
                failed.push((&job.input, reason));
            }
        }
    }
    let labelled = list.len() - skipped - failed.len();
    let mut summary = format!("labelled {labelled} of {} scans", list.len());
    if skipped > 0 {
        summary.push_str(&format!(
            ", {skipped} were done already (--again labels them anew)"
        ));
    }
    if *results > 0 {
        summary.push_str(&format!(", {results} results of such a run left out"));
    }
    if failed.is_empty() {
        global.note(summary);
        return Ok(ExitCode::SUCCESS);
    }
    print::say(format_args!("{summary}, {} failed:", failed.len()));
    for (input, reason) in &failed {
        print::say(format_args!("  {}: {reason}", path_text(input)));
    }
    Ok(ExitCode::FAILURE)
}

fn is_interrupt(error: &anyhow::Error) -> bool {
    let cause = error.chain().find_map(|e| e.downcast_ref::<Error>());
    matches!(cause, Some(Error::Interrupted { .. }))
}

/// Labels one scan or bag and returns what is to be printed.
fn any(
    args: &Args,
    global: &Global,
    chosen: &mut Chosen,
    map: &LabelMap,
    job: &Job,
) -> anyhow::Result<String> {
    if io::bag::is_bag(&job.input) {
        let text = bag::run(args, global, chosen, map, [&job.input, &job.output])?;
        return Ok(one_line(&text));
    }
    let report = one(args, global, chosen, map, job)?;
    match args.json {
        true => Ok(serde_json::to_string(&report)?),
        false => Ok(report.text()),
    }
}

/// The model in use, loaded once.
struct Chosen {
    /// Chosen anew for every scan.
    by_scan: bool,
    name: String,
    segmenter: Option<Segmenter>,
    /// Of matrix products.
    precision: Precision,
}

impl Chosen {
    /// A report with the names of what was read, written and used.
    fn named(&self, report: Report, [input, output]: [&Path; 2], global: &Global) -> Report {
        Report {
            input: input.display().to_string(),
            output: output.display().to_string(),
            model: self.name.clone(),
            device: global.device.to_string(),
            ..report
        }
    }

    /// Loads what was asked for by name; a model that depends on the scan is loaded later.
    fn of(args: &Args, global: &Global) -> anyhow::Result<Chosen> {
        let precision = args.products.on(global.device, Precision::F32)?;
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
            segmenter: segmenter.map(|s| s.in_precision(precision)).transpose()?,
            precision,
        })
    }

    /// The model for `scan`.
    fn for_scan(&mut self, scan: &Scan, global: &Global) -> Result<&mut Segmenter> {
        self.for_facts(|| Facts::new(scan), global)
    }

    /// The model for a scan with these facts.
    fn for_facts(
        &mut self,
        facts: impl FnOnce() -> Result<Facts>,
        global: &Global,
    ) -> Result<&mut Segmenter> {
        if self.by_scan {
            let (model, why) = Shipped::choose(&facts()?)?;
            global.note(format_args!(
                "model: {}, because the scan is {why}",
                model.name
            ));
            if self.name != model.name {
                let segmenter = Segmenter::shipped(model, global.device)?;
                self.segmenter = Some(segmenter.in_precision(self.precision)?);
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
    map: &LabelMap,
    Job { input, output }: &Job,
) -> anyhow::Result<Report> {
    // Better now than after the work: makes a temporary file beside the output and removes it again.
    io::format_of_name(output)?;
    io::Atomic::create(output).context("preparing the output")?;
    let start = Instant::now();
    let reader = io::open(input).context("reading the scan")?;
    let points = large::expected(input, &*reader).context("reading the scan")?;
    if !large::is_held(args, chosen, points, reader.schema(), reader.held())? {
        let scan = large::Scan {
            input,
            output,
            reader,
            points,
        };
        return large::run(args, global, chosen, map, scan);
    }
    let scan = io::collect(reader).context("reading the scan")?;
    print::warnings(input, &scan.warnings);
    if scan.cloud.is_empty() {
        return Err(Error::unusable(input, "holds no points").into());
    }
    signals::check(KEPT)?;
    let segmenter = chosen
        .for_scan(&scan, global)
        .with_context(|| format!("segmenting {}", path_text(input)))?;
    let codes = map.resolve(segmenter)?;
    let metadata = segmenter.metadata();
    let truth = truth::truth(&scan.cloud, metadata, &codes, args.labels.as_deref())?;
    io::check_output(output, &scan, &codes.all()).context("preparing the output")?;
    let read = start.elapsed();

    let progress = Progress::new(global, "segmenting");
    let prediction = segmenter
        .segment(&scan.cloud, &args.options(), &mut |done, total| {
            progress.set(done as u64, total as u64);
            signals::check(KEPT)
        })
        .with_context(|| format!("segmenting {}", path_text(input)))?;
    drop(progress);
    let segmented = start.elapsed() - read;

    signals::check(KEPT)?;
    let labels = codes.labels(segmenter, &prediction);
    let notes = io::write(output, &scan, &labels).context("writing the labelled scan")?;
    print::warnings(output, &notes);
    let written = start.elapsed() - read - segmented;

    let mut report = Report::new(segmenter.metadata(), &prediction, truth.as_ref());
    report.set_times([read, segmented, written]);
    report.set_codes(&codes.of_class);
    Ok(chosen.named(report, [input, output], global))
}
