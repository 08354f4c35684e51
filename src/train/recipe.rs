//! What one training step does, as a value: which networks run, which losses count, what is updated.
//!
//! The loop hands a [`Recipe`] a batch and a [`Learner`] (network, parameters, optimizer); the recipe does the rest.
//! [`Supervised`] is the plain step: forward, loss, backward, clip, update.

use super::config::LossConfig;
use super::loader::Prepared;
use super::scaling::LossScale;
use crate::cloud::batch::IGNORED;
use crate::device::random::Random;
use crate::device::{Array, Device, Precision};
use crate::graph::{Executor, Gradients, Graph, Mode, Params, Shape, Var};
use crate::models::{Model, Network};
use crate::ops::{CrossEntropy, LovaszSoftmax, WeightedSum};
use crate::optim::{
    Average, Group, Optimizer, OptimizerConfig, Rate, Trained, check_groups, clip, divide, norm,
};
use crate::{Error, Result};
use std::sync::Arc;

/// Everything that training changes.
#[derive(Debug)]
pub struct Learner {
    /// What is computed.
    pub network: Arc<dyn Network>,
    /// With which numbers.
    pub params: Params,
    /// Gradients of the last step.
    pub gradients: Gradients,
    /// How parameters move.
    pub optimizer: Box<dyn Optimizer>,
    /// Moving average of the parameters, if one is kept.
    pub average: Option<Average>,
    /// Where graphs run.
    pub executor: Executor,
    /// What the loss is scaled by, in f16.
    pub scale: Option<LossScale>,
}

impl Learner {
    /// Takes a model into training; parameters of `groups` learn at their own rate.
    ///
    /// # Errors
    /// The device has not enough memory; groups without parameters or with factors that make no sense.
    pub fn new(
        model: Model,
        optimizer: &OptimizerConfig,
        groups: &[Group],
        ema: Option<f64>,
        device: Device,
    ) -> Result<Learner> {
        let layout = model.params.layout().clone();
        check_groups(groups, &layout)?;
        Ok(Learner {
            network: Arc::from(model.network),
            gradients: Gradients::new(layout.clone(), device)?,
            optimizer: optimizer.build(device, layout.words(), Trained::of(&layout, groups))?,
            average: ema
                .map(|decay| Average::new(model.params.memory(), decay))
                .transpose()?,
            params: model.params,
            executor: Executor::new(device),
            scale: None,
        })
    }

    /// The learner with matrix products in `precision`, and in f16 with a loss scale.
    ///
    /// # Errors
    /// As [`Executor::in_precision`].
    pub fn in_precision(self, precision: Precision) -> Result<Learner> {
        Ok(Learner {
            executor: self.executor.in_precision(precision)?,
            scale: LossScale::of(precision),
            ..self
        })
    }
}

/// The circumstances of a step.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Number of the step, from 0.
    pub step: u64,
    /// Its random stream.
    pub random: Random,
    /// Learning rate and momentum in force.
    pub rate: Rate,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Loss of the batch before the update.
    pub loss: f64,
    /// Norm of the gradient before clipping; 0 where the step was skipped.
    pub grad_norm: f64,
    /// True where the scaled gradient was not finite: nothing was updated but the loss scale.
    pub is_skipped: bool,
    /// Labelled rows whose training-mode logits were right.
    pub correct: usize,
    /// Labelled rows.
    pub labelled: usize,
}

/// What one step does.
pub trait Recipe: Send + Sync + std::fmt::Debug {
    /// Learns from one batch.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, or whatever the graph meets. The learner may then have changed in part.
    fn step(&self, learner: &mut Learner, prepared: Prepared, at: At) -> Result<Outcome>;
}

/// Forward, weighted sum of losses, backward, clipping, update. In f16 the loss is scaled, and a step whose gradient is
/// not finite leaves everything but the scale as it was, running statistics included.
#[derive(Debug, Clone, PartialEq)]
pub struct Supervised {
    /// What is minimised.
    pub loss: LossConfig,
    /// Longest gradient, if limited.
    pub clip: Option<f64>,
}

impl Supervised {
    /// Records the loss of `logits` [N, C] against `target` \[N\].
    ///
    /// # Errors
    /// Labels that are no class.
    pub fn record(&self, graph: &mut Graph<'_>, logits: Var, target: Array<i32>) -> Result<Var> {
        let (mut terms, mut weights) = (Vec::new(), Vec::new());
        if self.loss.cross_entropy > 0.0 {
            let mut op = CrossEntropy::new(target.clone(), IGNORED);
            if let Some(classes) = &self.loss.class_weights {
                op = op.with_class_weights(Array::from(classes.clone()));
            }
            terms.push(graph.push(op, &[logits])?);
            weights.push(self.loss.cross_entropy as f32);
        }
        if self.loss.lovasz > 0.0 {
            terms.push(graph.push(LovaszSoftmax::new(target, IGNORED), &[logits])?);
            weights.push(self.loss.lovasz as f32);
        }
        graph.push(WeightedSum::new(weights), &terms)
    }
}

impl Recipe for Supervised {
    fn step(&self, learner: &mut Learner, prepared: Prepared, at: At) -> Result<Outcome> {
        if let Some(mark) = &prepared.ready {
            mark.wait()?;
        }
        let Prepared {
            points,
            channels,
            feat,
            target,
            geometry,
            ..
        } = prepared;
        let shape = Shape::new(points, channels);
        let mut graph = Graph::new(&learner.params, Mode::Training, at.random);
        let feat = graph.input(feat, shape)?;
        let logits = learner.network.record(&mut graph, &geometry, feat.into())?;
        let loss = self.record(&mut graph, logits, target.clone())?;
        graph.keep(logits);
        graph.keep(loss);
        let factor = learner.scale.map_or(1.0, LossScale::factor);
        graph.seed(loss, Array::from(vec![factor]))?;

        learner.gradients.clear()?;
        let run = learner.executor.run(&graph, Some(&mut learner.gradients))?;
        drop(graph);
        let loss = f64::from(run.read(loss)[0]);
        let mut grad_norm = norm(learner.gradients.memory())? / f64::from(factor);
        check_finite("training loss", loss, at)?;
        let scale = learner
            .scale
            .map(|scale| scale.after(grad_norm.is_finite()));
        let is_skipped = match scale {
            Some(Some(scale)) => {
                learner.scale = Some(scale);
                !grad_norm.is_finite()
            }
            _ => {
                check_finite("gradient", grad_norm, at)?;
                false
            }
        };
        let predicted = argmax(run.read(logits), learner.network.classes());
        if is_skipped {
            grad_norm = 0.0;
        } else {
            run.commit(&mut learner.params)?;
            self.update(learner, (grad_norm, factor), at.rate)?;
        }
        let rows = || {
            predicted
                .iter()
                .zip(target.iter())
                .filter(|(_, t)| **t != IGNORED)
        };
        Ok(Outcome {
            loss,
            grad_norm,
            is_skipped,
            correct: rows().filter(|(p, t)| **p as i32 == **t).count(),
            labelled: rows().count(),
        })
    }
}

impl Supervised {
    /// Moves the parameters along gradients that were scaled by `factor` and have the norm `grad_norm` without it.
    fn update(
        &self,
        learner: &mut Learner,
        (grad_norm, factor): (f64, f32),
        rate: Rate,
    ) -> Result<()> {
        divide(learner.gradients.memory_mut(), factor)?;
        if let Some(limit) = self.clip {
            clip(learner.gradients.memory_mut(), grad_norm, limit)?;
        }
        learner.optimizer.step(
            learner.params.memory_mut(),
            learner.gradients.memory(),
            rate,
        )?;
        if let Some(average) = &mut learner.average {
            average.update(learner.params.memory())?;
        }
        Ok(())
    }
}

fn check_finite(what: &str, value: f64, at: At) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::NotFinite {
        what: what.into(),
        fault: format!(
            "{value} at step {} with learning rate {:.2e}; a lower optimizer.lr or a limit train.clip usually helps, \
             otherwise look for features with huge values, and in f16 try bf16 or f32",
            at.step + 1,
            at.rate.lr
        ),
    })
}

/// The class of the largest value of every row; the first of equal ones.
pub fn argmax(logits: &[f32], classes: usize) -> Vec<u32> {
    logits
        .chunks_exact(classes)
        .map(|row| {
            let best = (1..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            best as u32
        })
        .collect()
}

#[cfg(test)]
#[path = "recipe_tests.rs"]
mod tests;
