//! Timing whole networks on this machine: a scene to run on, and the two jobs that users wait for. [`steps`] times what
//! only depends on coordinates.
//!
//! [`Inference`] and [`Training`] do what `cairn segment` and `cairn train` do with one prepared batch: index lists are
//! computed anew each time, since every scan has its own. Both keep the time of every op.

mod scene;
pub mod steps;

use crate::cloud::batch::Batch;
use crate::device::random::Random;
use crate::device::{Device, Precision};
use crate::graph::{Executor, Phase};
use crate::infer::memory::read_table;
use crate::infer::predict;
use crate::models::Model;
use crate::optim::OptimizerConfig;
use crate::train::config::LossConfig;
use crate::train::loader::Prepared;
use crate::train::recipe::{At, Learner, Recipe, Supervised};
use crate::{Error, Result};
pub use scene::room;
use std::time::Duration;

/// Share of the time of a job that one op took in one phase.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Share {
    /// Name of the op.
    pub op: &'static str,
    /// Forward or backward.
    pub phase: Phase,
    /// How often it ran.
    pub steps: usize,
    /// How long all of that took, seconds.
    pub seconds: f64,
}

/// A job that can be repeated.
pub trait Job {
    /// Does it once.
    ///
    /// # Errors
    /// Whatever the network meets.
    fn once(&mut self) -> Result<()>;

    /// Where values live and what each op took.
    fn executor(&self) -> &Executor;

    /// Time per op since the job was made, the longest first.
    fn shares(&self) -> Vec<Share> {
        let share = |(&(op, phase), t): (&(&'static str, Phase), &crate::graph::Timing)| Share {
            op,
            phase,
            steps: t.steps,
            seconds: t.time.as_secs_f64(),
        };
        let mut shares: Vec<Share> = self.executor().timings().iter().map(share).collect();
        shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        shares
    }
}

/// Times of repeated runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Runs `job` once to warm caches and reserve memory, then `repeats` times against the clock.
    ///
    /// # Errors
    /// No repeats, and whatever the job meets.
    pub fn of(mut job: impl FnMut() -> Result<()>, repeats: usize) -> Result<Times> {
        if repeats == 0 {
            return Err(Error::argument("repeats", "must be at least 1"));
        }
        job()?;
        let mut times = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let start = std::time::Instant::now();
            job()?;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(Times(times))
    }

    /// Middle value, seconds; the lower one of two.
    pub fn median(&self) -> f64 {
        self.0[(self.0.len() - 1) / 2].as_secs_f64()
    }

    /// Shortest and longest, seconds.
    pub fn range(&self) -> [f64; 2] {
        [self.0[0], self.0[self.0.len() - 1]].map(|t| t.as_secs_f64())
    }
}

/// Labelled points of [`room`]: coordinates and colours repeated to fill `channels`, classes that follow the height.
///
/// # Errors
/// More points than a batch can hold.
pub fn scene(points: usize, channels: usize, classes: usize) -> Result<Batch> {
    let (coord, color) = room(points, 1);
    let mut batch = Batch::new(channels);
    let row = |(p, c): (&[f32; 3], &[f32; 3])| {
        let values = [p[0], p[1], p[2], c[0], c[1], c[2]];
        (0..channels).map(move |i| values[i % 6])
    };
    let feat: Vec<f32> = coord.iter().zip(&color).flat_map(row).collect();
    let class = |p: &[f32; 3]| ((p[2] * 8.0).max(0.0) as usize % classes) as i32;
    let target: Vec<i32> = coord.iter().map(class).collect();
    batch.push(&coord, &feat, &target)?;
    Ok(batch)
}

/// One batch through a network in its inference form.
#[derive(Debug)]
pub struct Inference {
    model: Model,
    batch: Batch,
    executor: Executor,
}

impl Inference {
    /// Inference of `batch` with `model`.
    pub fn new(model: Model, batch: Batch, device: Device) -> Inference {
        Inference {
            model,
            batch,
            executor: Executor::new(device),
        }
    }

    /// With matrix products in `precision`.
    ///
    /// # Errors
    /// As [`Executor::in_precision`].
    pub fn in_precision(self, precision: Precision) -> Result<Inference> {
        Ok(Inference {
            executor: self.executor.in_precision(precision)?,
            ..self
        })
    }
}

impl Job for Inference {
    fn once(&mut self) -> Result<()> {
        let Batch {
            coord,
            offsets,
            feat,
            ..
        } = &self.batch;
        let executor = &mut self.executor;
        predict::logits(&self.model, executor, coord, offsets, feat.clone()).map(|_| ())
    }

    fn executor(&self) -> &Executor {
        &self.executor
    }
}

/// One training step on a batch: forward, cross entropy, backward, AdamW.
#[derive(Debug)]
pub struct Training {
    learner: Learner,
    batch: Batch,
    step: u64,
}

impl Training {
    /// Training of `model` on `batch`, over and over.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn new(model: Model, batch: Batch, device: Device) -> Result<Training> {
        let learner = Learner::new(model, &optimizer(), &[], None, device)?;
        Ok(Training {
            learner,
            batch,
            step: 0,
        })
    }

    /// With matrix products in `precision`.
    ///
    /// # Errors
    /// As [`Executor::in_precision`].
    pub fn in_precision(self, precision: Precision) -> Result<Training> {
        Ok(Training {
            learner: self.learner.in_precision(precision)?,
            ..self
        })
    }
}

/// The optimizer of [`Training`]; its rate is so small that any number of steps stays finite.
fn optimizer() -> OptimizerConfig {
    OptimizerConfig::AdamW {
        lr: 1e-5,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.05,
    }
}

impl Job for Training {
    fn once(&mut self) -> Result<()> {
        let recipe = Supervised {
            loss: LossConfig::default(),
            clip: None,
        };
        let batch = self.batch.clone();
        let device = self.learner.params.device();
        let network = &self.learner.network;
        let geometry = network.geometry(device, &batch.coord, &batch.offsets)?;
        let at = At {
            step: self.step,
            random: Random::new(0, self.step),
            rate: optimizer().base(),
        };
        self.step += 1;
        let prepared = Prepared::new(device, batch, geometry)?;
        recipe.step(&mut self.learner, prepared, at).map(|_| ())
    }

    fn executor(&self) -> &Executor {
        &self.learner.executor
    }
}

/// Most memory that this process has had resident so far, bytes; nothing where the system does not say.
pub fn peak_memory() -> Option<u64> {
    // `getrusage` would count what the parent had when it started this process.
    read_table("/proc/self/status", "VmHWM:").map(|kib| kib << 10)
}
