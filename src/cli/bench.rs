//! `cairn bench`: how fast this machine runs and trains a network.

use super::forward::{RawBatch, read_batch};
use super::{Global, Products, print, signals};
use crate::cloud::batch::Batch;
use crate::device::{Device, Precision};
use crate::measure::steps::{StepTime, steps};
use crate::measure::{Inference, Job, Share, Times, Training, peak_memory, room, scene};
use crate::models::Model;
use crate::weights::{ModelMetadata, load_model, safetensors};
use crate::{Error, Result};
use anyhow::Context;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The network that is timed unless another one is asked for.
const S3DIS: &str = include_str!("../../data/configs/s3dis_ptv2.toml");
/// Ops that the text lists.
const LISTED: usize = 8;

/// Time a network on this machine: inference, and a training step
///
/// Runs a network on a synthetic room, or on the tensors of --input, and prints the median time of several runs, the
/// memory and which ops the time goes to. A run computes everything that depends on the points, neighbours included.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn bench\n  cairn bench --network data/configs/s3dis_stratified.toml --points 20000 \
    --training\n  cairn bench --weights model.safetensors --input batch.safetensors --json\n  \
    cairn bench --steps --points 40000,1000000"
)]
pub struct Args {
    /// Configuration with the [network] to time [default: Point Transformer V2 for S3DIS, 3.9 million parameters]
    #[arg(long, value_name = "FILE.toml", conflicts_with = "weights")]
    network: Option<PathBuf>,
    /// Model to time (safetensors)
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Numbers of points of the synthetic room, in voxels of 4 cm
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "40000"
    )]
    points: Vec<usize>,
    /// Tensors coord [N, 3], feat [N, C] and offset [B] to run on instead, as for `cairn forward`
    #[arg(long, value_name = "FILE", conflicts_with = "points")]
    input: Option<PathBuf>,
    /// Time a training step (forward, loss, backward, AdamW) instead of inference
    #[arg(long)]
    training: bool,
    /// Time neighbours, sampling and grids alone, on the coordinates
    #[arg(long, conflicts_with_all = ["training", "network", "weights"])]
    steps: bool,
    /// Timed runs of each; one more comes before them
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    repeats: u16,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    products: Products,
}

/// What was measured at one size.
#[derive(Debug, Serialize)]
struct Measurement {
    job: &'static str,
    points: usize,
    threads: usize,
    instructions: String,
    repeats: u16,
    seconds: f64,
    fastest: f64,
    slowest: f64,
    points_per_second: f64,
    arena_bytes: usize,
    peak_process_bytes: Option<u64>,
    ops: Vec<Share>,
}

/// The index steps at one size.
#[derive(Debug, Serialize)]
struct Steps {
    points: usize,
    threads: usize,
    instructions: String,
    repeats: u16,
    steps: Vec<StepTime>,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let sizes = match &args.input {
        Some(_) => vec![None],
        None => args.points.iter().copied().map(Some).collect(),
    };
    let precision = args.products.on(global.device, Precision::F32)?;
    global.announce_in(precision);
    if args.steps {
        return run_steps(&args, &sizes);
    }
    let mut measured = Vec::new();
    for points in sizes {
        signals::check("nothing was written")?;
        let model = model(&args, global).context("building the network")?;
        let batch = batch(&args, points, &model).context("preparing the points")?;
        let row = measure(&args, model, batch, (global.device, precision))?;
        if !args.json {
            print::result(&text(&row)?)?;
        }
        measured.push(row);
    }
    if args.json {
        print::json(&measured)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Times the index steps.
fn run_steps(args: &Args, sizes: &[Option<usize>]) -> anyhow::Result<ExitCode> {
    let mut measured = Vec::new();
    for points in sizes {
        signals::check("nothing was written")?;
        let coord = match (&args.input, points) {
            (Some(path), _) => read_batch(path)?.coord,
            (None, points) => room(points.unwrap_or_default(), 1).0,
        };
        let row = Steps {
            points: coord.len(),
            threads: rayon::current_num_threads(),
            instructions: crate::device::simd::level().to_string(),
            repeats: args.repeats,
            steps: steps(&coord, usize::from(args.repeats))?,
        };
        if !args.json {
            let points = print::count(row.points as u64);
            let mut text = format!("{points} points, median of {} runs\n", row.repeats);
            for step in &row.steps {
                let (rate, [fastest, slowest]) = (row.points as f64 / step.seconds, step.range);
                writeln!(
                    text,
                    "  {:20} {:9.4} s ({fastest:.4}–{slowest:.4}), {} points/s",
                    step.step,
                    step.seconds,
                    print::count(rate as u64)
                )?;
            }
            print::result(&text)?;
        }
        measured.push(row);
    }
    if args.json {
        print::json(&measured)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn model(args: &Args, global: &Global) -> Result<Model> {
    if let Some(path) = &args.weights {
        let tensors = safetensors::read(path)?;
        let metadata = ModelMetadata::from_tensors(&tensors, path)?;
        return load_model(&metadata.network, &tensors, global.device);
    }
    let config = match &args.network {
        Some(path) => crate::train::Config::read(path)?,
        None => crate::train::Config::parse(S3DIS, Path::new("the built-in configuration"))?,
    };
    Model::new(&config.network, global.device, global.seed)
}

fn batch(args: &Args, points: Option<usize>, model: &Model) -> Result<Batch> {
    let (channels, classes) = (model.network.input_channels(), model.network.classes());
    let (Some(path), None) = (&args.input, points) else {
        return scene(points.unwrap_or_default(), channels, classes);
    };
    let RawBatch {
        coord,
        feat,
        channels: found,
        offsets,
    } = read_batch(path)?;
    if found != channels {
        let fault = format!("tensor feat has {found} columns, the network reads {channels}");
        return Err(Error::unusable(path, fault));
    }
    let target = (0..coord.len()).map(|i| (i % classes) as i32).collect();
    Ok(Batch {
        coord,
        feat,
        channels,
        offsets,
        target,
    })
}

fn measure(
    args: &Args,
    model: Model,
    batch: Batch,
    (device, precision): (Device, Precision),
) -> Result<Measurement> {
    let points = batch.len();
    let mut job: Box<dyn Job> = match args.training {
        true => Box::new(Training::new(model, batch, device)?.in_precision(precision)?),
        false => Box::new(Inference::new(model, batch, device).in_precision(precision)?),
    };
    let times = Times::of(|| job.once(), usize::from(args.repeats))?;
    let [fastest, slowest] = times.range();
    Ok(Measurement {
        job: if args.training {
            "training step"
        } else {
            "inference"
        },
        points,
        threads: rayon::current_num_threads(),
        instructions: crate::device::simd::level().to_string(),
        repeats: args.repeats,
        seconds: times.median(),
        fastest,
        slowest,
        points_per_second: points as f64 / times.median(),
        arena_bytes: job.executor().arena_bytes(),
        peak_process_bytes: peak_memory(),
        ops: job.shares(),
    })
}

fn text(row: &Measurement) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    writeln!(
        text,
        "{}, {} points: {:.3} s (median of {}, {:.3}–{:.3}), {} points/s",
        row.job,
        print::count(row.points as u64),
        row.seconds,
        row.repeats,
        row.fastest,
        row.slowest,
        print::count(row.points_per_second as u64)
    )?;
    let peak = row.peak_process_bytes.map_or("unknown".into(), mib);
    let arena = mib(row.arena_bytes as u64);
    writeln!(
        text,
        "  memory: arena {arena}, whole process at most {peak}"
    )?;
    let total: f64 = row.ops.iter().map(|s| s.seconds).sum();
    for share in row.ops.iter().take(LISTED) {
        let percent = 100.0 * share.seconds / total;
        let phase = format!("{:?}", share.phase).to_lowercase();
        writeln!(text, "  {percent:5.1} %  {} {phase}", share.op)?;
    }
    Ok(text)
}
