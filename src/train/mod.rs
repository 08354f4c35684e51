//! Training: a configuration and labelled scans in, a model out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | the configuration file |
//! | [`loader`] | batches as functions of the step |
//! | [`recipe`] | what one step does |
//! | [`scaling`] | what training in f16 needs besides |
//! | [`evaluate`], [`metrics`] | scores |
//! | [`checkpoint`] | what a run can be resumed from, and model files |
//! | [`log`], [`tensorboard`], [`plot`] | what a run tells |
//!
//! A run is the same, bit for bit, on any number of threads and however often it is interrupted and resumed. Its folder
//! then holds `best.safetensors` (highest validation mIoU), `last.safetensors`, `checkpoint.safetensors`, `log.jsonl`,
//! `curve.svg` and TensorBoard event files.

pub mod checkpoint;
pub mod config;
pub mod evaluate;
pub mod loader;
pub mod log;
pub mod metrics;
pub mod plot;
pub mod recipe;
pub mod scaling;
pub mod tensorboard;

#[cfg(test)]
mod precision_tests;

pub use config::Config;

use crate::dataset::folder::{Folder, Reading};
use crate::dataset::labels::LabelMap;
use crate::dataset::{Dataset, Duplicates};
use crate::device::Device;
use crate::graph::Params;
use crate::io::Atomic;
use crate::models::Model;
use crate::{Error, Result};
use checkpoint::Progress;
use evaluate::{Counts, Evaluator};
use loader::Prepared;
use log::{Log, Record};
use metrics::Scores;
use recipe::{At, Learner, Recipe, Supervised};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;
use tensorboard::EventFile;

/// Batches that wait, prepared, for the network.
const PREFETCH: usize = 2;

/// Someone who follows a run.
pub trait Watch {
    /// A step or a validation is over; `total` is the number of steps of the run.
    fn record(&mut self, record: &Record, total: u64);

    /// True when the run shall stop after the current step.
    fn stop(&self) -> bool;
}

/// A run before it starts.
pub struct Session<'a> {
    /// What is trained, and how.
    pub config: &'a Config,
    /// The text that it was read from, kept in checkpoints.
    pub text: &'a str,
    /// Clouds to learn from.
    pub train: &'a dyn Dataset,
    /// Clouds to be scored on; may be empty.
    pub validate: &'a dyn Dataset,
    /// Where files go.
    pub output: &'a Path,
    /// Where it runs.
    pub device: Device,
}

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In a folder without an earlier run.
    New,
    /// Over an earlier run, whose files are replaced as they are written.
    Again,
    /// From the checkpoint in the output folder.
    Resume,
}

/// Files of a run that cost time to make.
const PRECIOUS: [&str; 3] = [
    "checkpoint.safetensors",
    "best.safetensors",
    "last.safetensors",
];

/// What a run left.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Finished steps.
    pub steps: u64,
    /// Best validation mIoU and its step.
    pub best: Option<(f64, u64)>,
    /// The model to use.
    pub model: PathBuf,
}

/// The scans of a configuration whose relative paths start at `base`: those to learn from, and those to be scored on.
///
/// # Errors
/// As [`Folder::read`].
pub fn scans(config: &Config, base: &Path) -> Result<(Folder, Folder)> {
    let labels = LabelMap::new(&config.classes, &config.data.ignore)?;
    let how = Reading {
        features: &config.input.features,
        labels: &labels,
        attribute: config.data.labels.as_deref(),
        duplicates: if config.data.drop_duplicates {
            Duplicates::Drop
        } else {
            Duplicates::Keep
        },
    };
    Ok((
        Folder::read(&config.data.train, base, how)?,
        Folder::read(&config.data.validate, base, how)?,
    ))
}

impl Session<'_> {
    /// Trains to the end, or until `watch` asks to stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop, with the checkpoint written; a loss that is not finite; a folder that holds a
    /// run already, or for [`Start::Resume`] a checkpoint that is missing or of another configuration; outputs that
    /// cannot be written; whatever the data give rise to.
    pub fn run(&self, start: Start, watch: &mut dyn Watch) -> Result<Summary> {
        if self.train.is_empty() {
            return Err(Error::config("data.train", "holds no scan"));
        }
        let mut run = Run::new(self, start)?;
        let total = self.config.steps(self.train.len());
        let (sender, batches) = sync_channel(PREFETCH);
        let (network, first) = (run.learner.network.clone(), run.progress.steps);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Held to the end: batches are prepared beside the steps, not between them.
                let _ahead = match self.device.ahead() {
                    Ok(ahead) => ahead,
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        return;
                    }
                };
                for step in first..total {
                    let prepared =
                        loader::prepare(self.config, self.train, &*network, self.device, step);
                    // The other end is gone after an error or an interrupt.
                    if sender.send(prepared).is_err() {
                        return;
                    }
                }
            });
            run.steps(total, batches, watch)
        })?;
        run.finish()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.output.join(name)
    }
}

/// A run under way.
struct Run<'a> {
    session: &'a Session<'a>,
    learner: Learner,
    recipe: Box<dyn Recipe>,
    progress: Progress,
    log: Log,
    events: EventFile,
}

impl<'a> Run<'a> {
    fn new(session: &'a Session<'a>, start: Start) -> Result<Run<'a>> {
        let config = session.config;
        let earlier = PRECIOUS.map(|name| session.path(name));
        if let (Start::New, Some(file)) = (start, earlier.iter().find(|file| file.exists())) {
            let fault = "is of an earlier run; --resume goes on with it, --again replaces it, --output trains elsewhere";
            return Err(Error::unusable(file, fault));
        }
        let model = Model::new(&config.network, session.device, config.train.seed)?;
        let mut learner = Learner::new(
            model,
            &config.optimizer,
            &config.groups,
            config.train.ema,
            session.device,
        )?
        .in_precision(config.train.precision)?;
        let progress = if start == Start::Resume {
            checkpoint::resume(
                &session.path("checkpoint.safetensors"),
                &mut learner,
                config,
            )?
        } else {
            Progress {
                seed: config.train.seed,
                precision: config.train.precision,
                ..Progress::default()
            }
        };
        // Nothing is made before everything above has proved right.
        std::fs::create_dir_all(session.output).map_err(|e| Error::io(session.output, e))?;
        Ok(Run {
            session,
            learner,
            recipe: Box::new(Supervised {
                loss: config.loss.clone(),
                clip: config.train.clip,
            }),
            log: Log::open(&session.path("log.jsonl"), progress.steps)?,
            events: EventFile::create(session.output)?,
            progress,
        })
    }

    fn steps(
        &mut self,
        total: u64,
        batches: Receiver<Result<Prepared>>,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let config = self.session.config;
        let every =
            |steps: u64, interval: Option<u64>| interval.is_some_and(|n| steps.is_multiple_of(n));
        let mut clock = Instant::now();
        for prepared in batches {
            let prepared = prepared?;
            let step = self.progress.steps;
            let at = At {
                step,
                random: loader::stream(config.train.seed, step),
                rate: config.schedule.at(step, total, config.optimizer.base()),
            };
            let points = prepared.points;
            let outcome = self.recipe.step(&mut self.learner, prepared, at)?;
            self.progress.steps += 1;
            let seconds = clock.elapsed().as_secs_f64();
            clock = Instant::now();
            let record = Record::Step {
                step: self.progress.steps,
                loss: outcome.loss,
                accuracy: outcome.correct as f64 / outcome.labelled.max(1) as f64,
                lr: at.rate.lr,
                grad_norm: outcome.grad_norm,
                skipped: outcome.is_skipped,
                points,
                seconds,
            };
            self.tell(record, total, watch)?;

            let steps = self.progress.steps;
            let validates = steps == total || every(steps, config.train.validate_every);
            if validates {
                self.validate(total, watch)?;
            }
            let stops = watch.stop() && steps < total;
            if validates || stops || every(steps, config.train.checkpoint_every) {
                self.save()?;
            }
            if stops {
                return Err(Error::Interrupted {
                    saved: format!(
                        "step {steps} of {total} is in {}; go on with --resume",
                        self.session.path("checkpoint.safetensors").display()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Logs a record and passes it on.
    fn tell(&mut self, record: Record, total: u64, watch: &mut dyn Watch) -> Result<()> {
        match &record {
            Record::Step {
                step,
                loss,
                accuracy,
                lr,
                grad_norm,
                skipped,
                ..
            } => {
                let mut values = vec![
                    ("train/loss", *loss),
                    ("train/accuracy", *accuracy),
                    ("train/learning_rate", *lr),
                ];
                if !skipped {
                    values.push(("train/gradient_norm", *grad_norm));
                }
                if let Some(scale) = self.learner.scale {
                    values.push(("train/loss_scale", f64::from(scale.factor())));
                }
                self.events.add(*step, &values)?;
            }
            Record::Validation {
                step,
                miou,
                macc,
                accuracy,
                iou,
                miou_voxels,
            } => {
                let classes = &self.session.config.classes;
                let names: Vec<String> = classes
                    .iter()
                    .map(|c| format!("validation/iou/{}", c.name))
                    .collect();
                let mut values = vec![
                    ("validation/miou", *miou),
                    ("validation/macc", *macc),
                    ("validation/accuracy", *accuracy),
                    ("validation/miou_voxels", *miou_voxels),
                ];
                values.extend(names.iter().map(String::as_str).zip(iou.iter().copied()));
                self.events.add(*step, &values)?;
            }
        }
        watch.record(&record, total);
        self.log.add(record)
    }

    /// The parameters that are scored and kept: the average where there is one.
    fn shown(&self) -> Result<Params> {
        let params = &self.learner.params;
        let mut shown = Params::zeros(params.layout().clone(), self.session.device)?;
        let values = match &self.learner.average {
            Some(average) => average.values()?,
            None => params.values(),
        };
        shown.values_mut().copy_from_slice(values);
        for spec in params.layout().specs() {
            let id = params
                .layout()
                .find(&spec.name)
                .expect("the name is one of the layout's");
            if spec.kind == crate::graph::ParamKind::Counter {
                shown.set_counter(id, params.counter(id));
            }
        }
        Ok(shown)
    }

    fn validate(&mut self, total: u64, watch: &mut dyn Watch) -> Result<()> {
        if self.session.validate.is_empty() {
            return Ok(());
        }
        let shown = self.shown()?;
        let mut counts = Counts::new(self.learner.network.classes());
        let mut evaluator = Evaluator {
            network: &*self.learner.network,
            params: &shown,
            executor: &mut self.learner.executor,
            input: &self.session.config.input,
        };
        for cloud in evaluator.clouds(self.session.validate, &mut |_| Ok(()))? {
            counts.merge(&cloud);
        }
        let (scores, step) = (counts.points.scores(), self.progress.steps);
        if self
            .progress
            .best
            .is_none_or(|(best, _)| scores.miou > best)
        {
            self.progress.best = Some((scores.miou, step));
            self.write_model("best.safetensors", &shown, Some(&scores))?;
        }
        let record = Record::Validation {
            step,
            miou: scores.miou,
            macc: scores.macc,
            accuracy: scores.accuracy,
            iou: scores.iou,
            miou_voxels: counts.voxels.scores().miou,
        };
        self.tell(record, total, watch)
    }

    fn write_model(&self, name: &str, params: &Params, scores: Option<&Scores>) -> Result<()> {
        let mut metadata = self.session.config.metadata();
        let mut note = |key: &str, value: String| metadata.notes.insert(key.into(), value);
        note("trained steps", self.progress.steps.to_string());
        if let Some(scores) = scores {
            note("validation mIoU", format!("{:.4}", scores.miou));
        }
        checkpoint::write_model(&self.session.path(name), params, &metadata)
    }

    /// Checkpoint and curve.
    fn save(&self) -> Result<()> {
        let path = self.session.path("checkpoint.safetensors");
        checkpoint::write(&path, &self.learner, &self.progress, self.session.text)?;
        let kind = self
            .session
            .config
            .network
            .get("type")
            .and_then(|t| t.as_str());
        let svg = plot::svg(self.log.records(), kind.unwrap_or("training"))?;
        let mut file = Atomic::create(&self.session.path("curve.svg"))?;
        file.put(svg.as_bytes())?;
        file.finish()
    }

    fn finish(self) -> Result<Summary> {
        let shown = self.shown()?;
        self.write_model("last.safetensors", &shown, None)?;
        let name = match self.progress.best {
            Some(_) => "best.safetensors",
            None => "last.safetensors",
        };
        Ok(Summary {
            steps: self.progress.steps,
            best: self.progress.best,
            model: self.session.path(name),
        })
    }
}
