//! `cairn convert`: official checkpoints become model files.

use super::{Global, print};
use crate::error::path_text;
use crate::weights::{Conventions, ConvertOptions, Preset, convert};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;

/// Turn an official PyTorch checkpoint into a model file
///
/// Reads `.pth` files in both containers of `torch.save` without executing anything in them. The shapes of the tensors
/// say most of the configuration; the rest comes from --config, or from the published configuration of the same shape.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cairn convert model_best.pth s3dis.safetensors\n  \
    cairn convert mine.pth mine.safetensors --config mine.toml"
)]
pub struct Args {
    /// Checkpoint (.pth, or safetensors with official names)
    input: PathBuf,
    /// Model file to write (safetensors)
    output: PathBuf,
    /// What the tensors cannot say: any of [network], [[classes]], [input] (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Published configuration [default: the one of the same shape]
    #[arg(long, value_name = "s3dis|scannet", value_parser = preset)]
    preset: Option<Preset>,
    /// Training code that it comes from [default: told by the names of the tensors]
    #[arg(long, value_name = "pointcept|original|stratified", value_parser = conventions)]
    conventions: Option<Conventions>,
}

fn preset(name: &str) -> Result<Preset, String> {
    Preset::from_name(name).ok_or_else(|| "s3dis or scannet".to_string())
}

fn conventions(name: &str) -> Result<Conventions, String> {
    Conventions::from_name(name).ok_or_else(|| "pointcept, original or stratified".to_string())
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let options = ConvertOptions {
        config: args.config,
        preset: args.preset,
        conventions: args.conventions,
    };
    let done = convert(&args.input, &args.output, &options)
        .with_context(|| format!("converting {}", path_text(&args.input)))?;
    if !done.skipped.is_empty() {
        global.note(format_args!("left out: {}", done.skipped.join(", ")));
    }
    print::result(&format!(
        "{}: {} parameters in {} tensors, {} classes, {} conventions{}",
        args.output.display(),
        done.parameters,
        done.tensors,
        done.model.classes.len(),
        done.conventions.name(),
        done.preset
            .map_or_else(String::new, |p| format!(", preset {}", p.name())),
    ))?;
    Ok(ExitCode::SUCCESS)
}
