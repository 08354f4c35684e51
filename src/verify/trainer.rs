//! A network under training by the recipe of a reference file.

use super::Case;
use super::file::{ReferenceFile, each, trained};
use super::network::Input;
use crate::Result;
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::{Executor, Gradients, Graph, Mode, ParamSpec, Var};
use crate::models::Model;
use crate::ops::{CrossEntropy, LovaszSoftmax, WeightedSum};
use crate::optim::{Group, Optimizer, OptimizerConfig, Rate, Schedule, Trained, norm};
use crate::train::metrics::Confusion;
use crate::train::recipe::argmax;

/// What one step gave: loss, right predictions, lengths of the gradient, of the parameters and of their last move.
pub(super) type Step = [f64; 5];

/// A network under training by a file's recipe.
pub(super) struct Trainer {
    pub model: Model,
    executor: Executor,
    gradients: Gradients,
    optimizer: Box<dyn Optimizer>,
    pub config: OptimizerConfig,
    schedule: Schedule,
    pub total: u64,
    lovasz: bool,
    /// Label that counts for nothing.
    pub ignored: i32,
    /// Parameters that the norms of parameters and updates leave out.
    zero: Vec<String>,
}

impl Trainer {
    /// Cross entropy and label −1, all parameters compared.
    pub fn new(
        case: &Case<'_>,
        model: Model,
        config: OptimizerConfig,
        groups: &[Group],
        schedule: Schedule,
        total: u64,
    ) -> Result<Self> {
        let layout = model.params.layout().clone();
        Ok(Trainer {
            executor: Executor::new(case.device),
            optimizer: config.build(case.device, layout.words(), Trained::of(&layout, groups))?,
            gradients: Gradients::new(layout, case.device)?,
            model,
            config,
            schedule,
            total,
            lovasz: false,
            ignored: -1,
            zero: Vec::new(),
        })
    }

    /// As it is, with the Lovász loss beside the cross entropy where `lovasz` says so.
    pub fn with_lovasz(self, lovasz: bool) -> Self {
        Trainer { lovasz, ..self }
    }

    /// As it is, with another label that counts for nothing and without the parameters `zero` in norms.
    pub fn ignoring(self, ignored: i32, zero: Vec<String>) -> Self {
        Trainer {
            ignored,
            zero,
            ..self
        }
    }

    /// Takes up the moments of the trained parameters and the step count of a restart point.
    pub fn restore(&mut self, file: &ReferenceFile<'_>, prefix: &str) -> Result<()> {
        let layout = self.model.params.layout().clone();
        let name = format!("{prefix}step");
        let step = file.integers(&name, &[1])?[0];
        let step = u64::try_from(step).ok().filter(|step| *step < self.total);
        let step = step.ok_or_else(|| {
            let fault = format!("is none of the {} steps of the curve", self.total);
            file.fault(&name, fault)
        })?;
        let names: Vec<&str> = self.optimizer.state()?.iter().map(|(n, _)| *n).collect();
        let stored = ["exp_avg.", "exp_avg_sq."];
        let moments = stored.map(|moment| {
            let group = format!("{prefix}{moment}");
            file.of_parameters(&group, &layout, trained)
        });
        let mut lists = Vec::new();
        for moment in moments {
            let mut list = vec![0.0; layout.words()];
            for tensor in moment? {
                let slots = list[layout.range(tensor.id)].iter_mut();
                slots
                    .zip(&tensor.values)
                    .for_each(|(slot, value)| *slot = *value as f32);
            }
            lists.push(list);
        }
        let find = |name: &str| {
            let place = names.iter().position(|n| *n == name);
            let list = place.and_then(|place| lists.get(place));
            list.cloned()
                .ok_or_else(|| file.fault(prefix, format!("has no {name} of the optimizer")))
        };
        self.optimizer.restore(step, &find)
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// What the curve's schedule says at `step`.
    pub fn rate(&self, step: u64) -> Rate {
        self.schedule.at(step, self.total, self.config.base())
    }

    /// One step of training.
    pub fn step(&mut self, step: u64, batch: &Input) -> Result<Step> {
        let target = target(batch);
        let network = &self.model.network;
        let geometry =
            network.geometry(self.model.params.device(), &batch.coord, &batch.offsets)?;
        let mut graph = Graph::new(&self.model.params, Mode::Training, Random::new(0, step));
        let feat = graph.input(batch.feat.clone(), batch.shape(&**network))?;
        let logits = network.record(&mut graph, &geometry, feat.into())?;
        let loss = self.record_loss(&mut graph, logits, target.clone())?;
        graph.keep(logits);
        graph.keep(loss);
        graph.seed(loss, Array::from(vec![1.0]))?;
        self.gradients.clear()?;
        let run = self.executor.run(&graph, Some(&mut self.gradients))?;
        drop(graph);
        let value = f64::from(run.read(loss)[0]);
        let predicted = argmax(run.read(logits), network.classes());
        let correct = predicted.iter().zip(&*target);
        let correct = correct
            .filter(|(p, t)| i64::from(**p) == i64::from(**t))
            .count() as f64;
        run.commit(&mut self.model.params)?;
        let before = self.model.params.values().to_vec();
        let rate = self.rate(step);
        let values = self.model.params.memory_mut();
        self.optimizer.step(values, self.gradients.memory(), rate)?;
        let (parameters, update) = self.lengths(&before);
        Ok([
            value,
            correct,
            norm(self.gradients.memory())?,
            parameters,
            update,
        ])
    }

    fn record_loss(&self, graph: &mut Graph<'_>, logits: Var, target: Array<i32>) -> Result<Var> {
        let op = CrossEntropy::new(target.clone(), self.ignored);
        let cross_entropy = graph.push(op, &[logits])?;
        if !self.lovasz {
            return Ok(cross_entropy);
        }
        let lovasz = graph.push(LovaszSoftmax::new(target, self.ignored), &[logits])?;
        graph.push(WeightedSum::new(vec![1.0, 1.0]), &[cross_entropy, lovasz])
    }

    /// Lengths of the parameters and of their last move, without those that only noise moves.
    fn lengths(&self, before: &[f32]) -> (f64, f64) {
        let layout = self.model.params.layout();
        let after = self.model.params.values();
        let (mut all, mut moved) = (0.0, 0.0);
        let counts = |spec: &ParamSpec| trained(spec) && !self.zero.contains(&spec.name);
        for (id, _) in each(layout).filter(|(_, spec)| counts(spec)) {
            let range = layout.range(id);
            for (a, b) in after[range.clone()].iter().zip(&before[range]) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                all += a * a;
                moved += (a - b) * (a - b);
            }
        }
        (all.sqrt(), moved.sqrt())
    }

    /// Logits of a batch.
    pub fn logits(&mut self, batch: &Input, mode: Mode) -> Result<Vec<f32>> {
        let network = &self.model.network;
        let geometry =
            network.geometry(self.model.params.device(), &batch.coord, &batch.offsets)?;
        let mut graph = Graph::new(&self.model.params, mode, Random::new(0, 0));
        let feat = graph.input(batch.feat.clone(), batch.shape(&**network))?;
        let logits = network.record(&mut graph, &geometry, feat.into())?;
        graph.keep(logits);
        let run = self.executor.run(&graph, None)?;
        Ok(run.read(logits).to_vec())
    }

    /// Counts of right and wrong predictions over the batches.
    pub fn confusion(&mut self, batches: &[Input]) -> Result<Confusion> {
        let classes = self.model.network.classes();
        let mut confusion = Confusion::new(classes);
        for batch in batches {
            let logits = self.logits(batch, Mode::Inference)?;
            confusion.add(&argmax(&logits, classes), &target(batch));
        }
        Ok(confusion)
    }
}

/// Labels of a batch.
pub(super) fn target(batch: &Input) -> Array<i32> {
    let target = batch.segment.clone();
    target.expect("batches of curves are read with labels")
}
