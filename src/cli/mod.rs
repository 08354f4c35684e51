//! The command line: one subcommand per file, each parses its arguments, calls the library and prints.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 bad input or
//! arguments, or an output given up by an interrupt, 130 interrupted.
//!
//! A new subcommand is a file with `Args` and `run`, a variant of `Command` and a line in `run`.

mod bench;
mod convert;
mod eval;
mod forward;
mod info;
mod kernels;
mod print;
mod progress;
mod segment;
mod signals;
mod train;
mod verify;

use crate::device::{Choice, Device, Precision, cuda};
use crate::{Error, Result};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Point cloud segmentation: a scan goes in, the same scan comes out with a class on every point.
#[derive(Debug, Parser)]
#[command(
    name = "cairn",
    version,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = EXAMPLES,
    long_about = "Point cloud segmentation with Point Transformer V2 and Stratified Transformer: a scan goes in, the same scan comes out with a \
        class and a confidence on every point. Reads and writes LAS, LAZ, PLY, PCD, NPY, \
        E57, text (XYZ, CSV, PTS, PTX), KITTI and nuScenes frames, and MCAP bags."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
Examples:
  cairn segment scan.laz -o labelled.laz   label a scan with a built-in model
  cairn info scan.laz                      what a scan or a model file holds
  cairn train config.toml                  train a model on labelled scans

Models: three are built in, airborne (ground, vegetation, building), and
robot_cell and robot_cell_stratified (floor, wall, robot, human, AGV). Others
come from `cairn train`, or from official checkpoints through `cairn convert`;
give them with --weights.
`cairn COMMAND --help` explains each command.";

/// Options of every subcommand.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of every command")]
struct Options {
    /// Where to compute: `auto` takes the first GPU, or the processor where there is none and for small scans; `cuda:1` the
    /// second GPU; `emulator` runs the GPU's kernels on the processor, checked and slow
    #[arg(
        long,
        global = true,
        default_value = "auto",
        value_name = "auto|cpu|cuda[:N]|emulator"
    )]
    device: Choice,
    /// Number of threads [default: one per processor core]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Start of every random sequence
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// No progress and no notes on standard error; errors and warnings stay
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// What every subcommand is given.
#[derive(Debug, Clone)]
pub struct Global {
    /// Where to compute.
    pub device: Device,
    /// Start of every random sequence.
    pub seed: u64,
    /// No progress and no notes on standard error.
    pub quiet: bool,
}

/// Options of every command that runs a network.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Products {
    /// Numbers that a GPU multiplies matrices in: `bf16` and `f16` are faster and rougher, everything else stays f32 [default: f32]
    #[arg(long, value_name = "f32|bf16|f16")]
    precision: Option<Precision>,
}

impl Products {
    /// The precision asked for, or else `default`.
    ///
    /// # Errors
    /// The device cannot multiply so.
    pub(crate) fn on(self, device: Device, default: Precision) -> Result<Precision> {
        let precision = self.precision.unwrap_or(default);
        precision.check(device)?;
        Ok(precision)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Segment(segment::Args),
    Info(info::Args),
    Train(train::Args),
    Eval(eval::Args),
    Convert(convert::Args),
    Verify(verify::Args),
    Forward(forward::Args),
    Bench(bench::Args),
    Kernels(kernels::Args),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => print::error(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let options = cli.options;
    signals::install()?;
    options.start_threads()?;
    // Commands that compute nothing, or little, do not wake a GPU up unless they are told to.
    let is_auto = options.device == Choice::Auto;
    let needs_none = match &cli.command {
        Command::Info(_) | Command::Convert(_) => is_auto,
        Command::Segment(args) => is_auto && args.are_small(),
        Command::Kernels(_) => true, // it opens what it counts or times on
        _ => false,
    };
    let device = match needs_none {
        true => Device::Cpu,
        false => options.device.open()?,
    };
    let global = Global {
        device,
        seed: options.seed,
        quiet: options.quiet,
    };
    match cli.command {
        Command::Segment(args) => segment::run(args, &global),
        Command::Forward(args) => forward::run(args, &global),
        Command::Info(args) => info::run(args, &global),
        Command::Train(args) => train::run(args, &global),
        Command::Eval(args) => eval::run(args, &global),
        Command::Convert(args) => convert::run(args, &global),
        Command::Verify(args) => verify::run(args, &global),
        Command::Bench(args) => bench::run(args, &global),
        Command::Kernels(args) => kernels::run(args, options.device),
    }
}

impl Options {
    /// Sizes the thread pool when that was asked for; otherwise it starts by itself at first use.
    fn start_threads(&self) -> Result<()> {
        let Some(threads) = self.threads else {
            return Ok(());
        };
        rayon::ThreadPoolBuilder::new()
            .num_threads(usize::from(threads))
            .build_global()
            .map_err(|e| Error::argument("threads", e.to_string()))
    }
}

impl Global {
    /// Prints a line for people on standard error, unless they asked for quiet.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            print::say(text);
        }
    }

    /// As [`Global::announce`], with the precision of matrix products.
    pub(crate) fn announce_in(&self, precision: Precision) {
        self.announce();
        if precision != Precision::F32 {
            self.note(format_args!("matrix products: {precision}"));
        }
    }

    /// Says once which device runs and, where `auto` found no GPU, why.
    pub(crate) fn announce(&self) {
        let threads = rayon::current_num_threads();
        let level = crate::device::simd::level();
        let host = format!("{threads} threads, {level} instructions");
        self.note(match (self.device, cuda::probed()) {
            (Device::Cpu, Some(Err(reason))) => format!("device: cpu, {host} (no GPU: {reason})"),
            (Device::Cpu, _) => format!("device: cpu, {host}"),
            (device, Some(Ok(card))) => format!("device: {device}, {card}; {host}"),
            (device, _) => format!("device: {device}; {host}"),
        });
        if let Device::Cuda(gpu) = self.device
            && let Some(note) = gpu.open().ok().and_then(|cuda| cuda.note())
        {
            self.note(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_explained_and_every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{name} {}",
                    argument.get_id()
                );
            }
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains(&format!("cairn {name} ")), "{name}");
            assert!(help.contains("Example"), "{name}");
        }
    }
}
