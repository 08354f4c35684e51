//! `cairn train`: a configuration and labelled scans in, a model out.

use super::{Global, Products, print, progress::Progress, signals};
use crate::train::config::KEYS;
use crate::train::log::Record;
use crate::train::{Config, Session, Start, Summary, Watch, scans};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Train a model on labelled scans
///
/// The configuration says which scans, classes, features, network, augmentation, optimizer and schedule; data/configs holds
/// complete examples, and --keys prints every key. The output folder gets best.safetensors (highest validation mIoU), last.safetensors, a checkpoint, a
/// log as JSON lines, TensorBoard events and a curve as SVG. Ctrl-C finishes the step and writes the checkpoint; --resume
/// goes on from there and ends with the same bits as a run that was never interrupted. A --seed other than 0 and a
/// --precision take the place of the configuration's.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn train data/configs/airborne.toml\n  cairn train data/configs/airborne.toml --resume"
)]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(required_unless_present = "keys")]
    config: Option<PathBuf>,
    /// Print a configuration with every key explained, and stop
    #[arg(long, exclusive = true)]
    keys: bool,
    /// Go on from the checkpoint in the output folder
    #[arg(long, conflicts_with = "again")]
    resume: bool,
    /// Start over where the output folder holds a run already; its files are replaced
    #[arg(long)]
    again: bool,
    /// Folder for models, checkpoints and logs [default: train.output of the configuration]
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    products: Products,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.config else {
        print::result(KEYS.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    let text = crate::io::read_text(path).context("reading the configuration")?;
    let mut config = Config::parse(&text, path).context("reading the configuration")?;
    if global.seed != 0 {
        config.train.seed = global.seed;
    }
    config.train.precision = args.products.on(global.device, config.train.precision)?;
    global.announce_in(config.train.precision);
    let (train, validate) = {
        let _bar = Progress::new(global, "reading scans");
        scans(&config, path.parent().unwrap_or(Path::new(".")))
            .context("reading the training data")?
    };
    let output = args.output.as_ref().unwrap_or(&config.train.output);
    let session = Session {
        config: &config,
        text: &text,
        train: &train,
        validate: &validate,
        output,
        device: global.device,
    };
    let mut screen = Screen::new(global, &config);
    let start = match (args.resume, args.again) {
        (true, _) => Start::Resume,
        (_, true) => Start::Again,
        _ => Start::New,
    };
    let summary = session.run(start, &mut screen).context("training")?;
    screen.bar.finish_and_clear();
    print::result(&told(&summary))?;
    Ok(ExitCode::SUCCESS)
}

fn told(summary: &Summary) -> String {
    let best = summary.best.map_or(String::new(), |(miou, step)| {
        format!("best validation mIoU {miou:.4} at step {step}\n")
    });
    format!("{best}model: {}", summary.model.display())
}

/// A bar with loss, speed and time left on a terminal; lines for validations.
struct Screen<'a> {
    global: &'a Global,
    classes: Vec<String>,
    bar: ProgressBar,
}

impl<'a> Screen<'a> {
    fn new(global: &'a Global, config: &Config) -> Screen<'a> {
        let bar = if global.quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  {eta} left")
                .expect("the template is a constant and correct");
            bar.set_style(style);
            bar
        };
        Screen {
            global,
            classes: config.classes.iter().map(|c| c.name.clone()).collect(),
            bar,
        }
    }
}

impl Watch for Screen<'_> {
    fn record(&mut self, record: &Record, total: u64) {
        match record {
            Record::Step {
                step,
                loss,
                points,
                seconds,
                ..
            } => {
                if *step == 1 || self.bar.length() == Some(0) {
                    self.bar.set_length(total);
                    self.bar.set_position(*step);
                    self.bar.reset_eta();
                }
                self.bar.set_position(*step);
                let speed = print::count((*points as f64 / seconds.max(1e-9)) as u64);
                self.bar
                    .set_message(format!("loss {loss:.3}  {speed} points/s"));
            }
            Record::Validation {
                step,
                miou,
                accuracy,
                iou,
                ..
            } => {
                let classes: Vec<String> = self
                    .classes
                    .iter()
                    .zip(iou)
                    .map(|(name, iou)| format!("{name} {iou:.3}"))
                    .collect();
                self.bar.suspend(|| {
                    self.global.note(format_args!(
                        "step {step}: validation mIoU {miou:.4}, accuracy {accuracy:.4} ({})",
                        classes.join(", ")
                    ));
                });
            }
        }
    }

    fn stop(&self) -> bool {
        signals::is_interrupted()
    }
}
