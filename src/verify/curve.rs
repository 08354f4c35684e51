//! Training curves: a free run from the initial state, a restart in the middle, and the final state.
//!
//! Training separates by rounding alone: one ReLU that falls on the other side changes a gradient by a finite amount.
//! The file therefore gives a limit per step, and a restart point from which four steps must agree closely. A free run
//! that leaves its narrow limits but stays within three times the largest distance that the official code itself
//! showed is judged by the restart.

use super::Case;
use super::network::{Input, load, metadata, zero_gradients};
use super::recipe::{number, optimizer_of, schedule_of};
use super::reference::Report;
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::{Executor, Gradients, Graph, Mode, Params, Var};
use crate::models::Model;
use crate::ops::{CrossEntropy, LovaszSoftmax, WeightedSum};
use crate::optim::{Group, Optimizer, OptimizerConfig, Rate, Schedule, Trained, norm};
use crate::train::metrics::Confusion;
use crate::weights::Tensors;
use crate::{Error, Result};
use serde_json::Value;

/// Quantities of one step, in the file's names, with how they are compared.
const QUANTITIES: [(&str, bool); 5] = [
    ("loss", false),
    ("correct", false),
    ("grad_norm", true),
    ("param_norm", true),
    ("update_norm", true),
];

/// Checks every curve of the file.
pub(super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let mut batches = Vec::new();
    while case
        .file
        .get(&format!("batch{}.coord", batches.len()))
        .is_some()
    {
        batches.push(Input::read(case.file, &format!("batch{}.", batches.len()))?);
    }
    for (name, lovasz) in [("ce", false), ("lovasz", true)] {
        if case.file.get(&format!("{name}.loss")).is_some() {
            curve(case, &format!("{name}."), lovasz, &batches, report)?;
        }
    }
    Ok(())
}

fn curve(
    case: &Case<'_>,
    name: &str,
    lovasz: bool,
    batches: &[Input],
    report: &mut Report,
) -> Result<()> {
    let settings = metadata(case.file, &format!("curve_{}", name.trim_end_matches('.')))?;
    let steps = case.file.get_f64(&format!("{name}loss"))?.len();
    let start = |prefix: &str| {
        let state = case.file.with_prefix(prefix);
        Trainer::new(case, &settings, &state, lovasz, steps as u64)
    };
    let limits = match name {
        "ce." => Limits {
            miou: 0.06,
            mean: 0.01,
        },
        _ => Limits {
            miou: 0.04,
            mean: 0.01,
        },
    };
    check(case, name, &start, batches, limits, report)
}

/// Limits that differ between files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of the mIoU at the end of the free run.
    pub miou: f64,
    /// Of running means after the restart, in standard deviations.
    pub mean: f64,
}

/// The three checks of one curve, whose tensors begin with `name`; `start` makes a trainer from the state under a prefix.
pub(super) fn check(
    case: &Case<'_>,
    name: &str,
    start: &dyn Fn(&str) -> Result<Trainer>,
    batches: &[Input],
    limits: Limits,
    report: &mut Report,
) -> Result<()> {
    let mut restart = start(&format!("{name}anchor.state."))?;
    restart.restore(case.file, &format!("{name}anchor."))?;
    restarted(case, name, restart, batches, limits, report)?;
    free_run(case, name, start("init.")?, batches, limits, report)?;
    final_state(
        case,
        name,
        start(&format!("{name}final.state."))?,
        batches,
        report,
    )
}

/// What one step gave, in the order of [`QUANTITIES`].
type Step = [f64; 5];

/// A network under training by a file's recipe.
pub(super) struct Trainer {
    model: Model,
    executor: Executor,
    gradients: Gradients,
    optimizer: Box<dyn Optimizer>,
    config: OptimizerConfig,
    schedule: Schedule,
    total: u64,
    lovasz: bool,
    /// Label that counts for nothing.
    ignored: i32,
    /// Parameters that the norms of parameters and updates leave out.
    zero: Vec<String>,
}

impl Trainer {
    fn new(
        case: &Case<'_>,
        settings: &Value,
        state: &Tensors,
        lovasz: bool,
        total: u64,
    ) -> Result<Self> {
        let mut network = metadata(case.file, "config")?;
        network["unpool_backend"] = settings["unpool_backend"].clone();
        let model = load(case, &network, state)?;
        let rule = metadata(case.file, "optimizer")?;
        let (lr, decay) = (number(settings, "lr")?, number(settings, "weight_decay")?);
        let config = optimizer_of(&rule, lr, decay);
        let schedule = schedule_of(&settings["schedule"], total)?;
        let zero = zero_gradients(&settings["structurally_zero_grad"]);
        let trainer = Trainer::plain(case, model, config, &[], schedule, total)?;
        Ok(Trainer {
            lovasz,
            zero,
            ..trainer
        })
    }

    /// Cross entropy and label −1, all parameters compared.
    pub fn plain(
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

    /// As it is, with another label that counts for nothing and without the parameters `zero` in norms.
    pub fn ignoring(self, ignored: i32, zero: Vec<String>) -> Self {
        Trainer {
            ignored,
            zero,
            ..self
        }
    }

    /// Takes up the moments and the step count of a restart point.
    fn restore(&mut self, file: &Tensors, prefix: &str) -> Result<()> {
        let layout = self.model.params.layout().clone();
        let steps = file.get_i64(&format!("{prefix}step"))?[0];
        let names: Vec<&str> = self
            .optimizer
            .state()?
            .iter()
            .map(|(name, _)| *name)
            .collect();
        let stored = ["exp_avg.", "exp_avg_sq."];
        let find = |name: &str| -> Result<Vec<f32>> {
            let place = names.iter().position(|n| *n == name).unwrap_or(0);
            let mut list = vec![0.0; layout.words()];
            for spec in layout.specs() {
                let tensor = format!("{prefix}{}{}", stored[place], spec.name);
                if let (Some(id), Some(tensor)) = (layout.find(&spec.name), file.get(&tensor)) {
                    list[layout.range(id)].copy_from_slice(&tensor.to_f32());
                }
            }
            Ok(list)
        };
        self.optimizer.restore(steps as u64, &find)
    }

    fn rate(&self, step: u64) -> Rate {
        self.schedule.at(step, self.total, self.config.base())
    }

    fn step(&mut self, step: u64, batch: &Input) -> Result<Step> {
        let target = target(batch)?;
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
        let correct = correct(run.read(logits), network.classes(), &target);
        run.commit(&mut self.model.params)?;
        let before = self.model.params.values().to_vec();
        let rate = self.schedule.at(step, self.total, self.config.base());
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
        for (spec, range) in layout.specs().iter().filter_map(|spec| {
            let id = layout.find(&spec.name)?;
            let counts = spec.kind == crate::graph::ParamKind::Weight;
            counts.then(|| (spec, layout.range(id)))
        }) {
            if self.zero.contains(&spec.name) {
                continue;
            }
            for (a, b) in after[range.clone()].iter().zip(&before[range]) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                all += a * a;
                moved += (a - b) * (a - b);
            }
        }
        (all.sqrt(), moved.sqrt())
    }

    /// Logits of a batch and the counts of right and wrong predictions.
    fn logits(&mut self, batch: &Input, mode: Mode) -> Result<Vec<f32>> {
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

    fn confusion(&mut self, batches: &[Input]) -> Result<Confusion> {
        let classes = self.model.network.classes();
        let mut confusion = Confusion::new(classes);
        for batch in batches {
            let logits = self.logits(batch, Mode::Inference)?;
            let predicted: Vec<u32> = logits.chunks_exact(classes).map(argmax).collect();
            confusion.add(&predicted, &target(batch)?);
        }
        Ok(confusion)
    }
}

fn target(batch: &Input) -> Result<Array<i32>> {
    let target = batch.segment.clone();
    target.ok_or_else(|| Error::weights("segment", "is missing from the file"))
}

fn argmax(row: &[f32]) -> u32 {
    let best = (0..row.len()).reduce(|best, c| if row[c] > row[best] { c } else { best });
    best.unwrap_or(0) as u32
}

fn correct(logits: &[f32], classes: usize, target: &[i32]) -> f64 {
    let rows = logits.chunks_exact(classes).zip(target);
    rows.filter(|(row, target)| i64::from(argmax(row)) == i64::from(**target))
        .count() as f64
}

/// |got − want|, relative where the quantity asks for it.
fn distance(got: f64, want: f64, relative: bool) -> f64 {
    let distance = (got - want).abs();
    if relative {
        distance / want.abs()
    } else {
        distance
    }
}

fn free_run(
    case: &Case<'_>,
    name: &str,
    mut trainer: Trainer,
    batches: &[Input],
    limits: Limits,
    report: &mut Report,
) -> Result<()> {
    let total = trainer.total;
    let mut steps = Vec::new();
    let (mut rate, mut momentum) = (0.0f64, 0.0f64);
    let lr = case.file.get_f64(&format!("{name}lr"))?;
    let beta1 = match case.file.get(&format!("{name}beta1")) {
        Some(tensor) => tensor.to_f64(),
        None => vec![trainer.config.base().momentum; total as usize],
    };
    for step in 0..total {
        let now = trainer.rate(step);
        rate = rate.max(distance(now.lr, lr[step as usize], true));
        momentum = momentum.max(distance(now.momentum, beta1[step as usize], true));
        steps.push(trainer.step(step, &batches[step as usize % batches.len()])?);
    }
    report.bounded(format!("{name}lr"), "largest relative", rate, 1e-12);
    report.bounded(format!("{name}beta1"), "largest relative", momentum, 1e-12);
    for (q, (quantity, relative)) in QUANTITIES.iter().enumerate() {
        let want = case.file.get_f64(&format!("{name}{quantity}"))?;
        let limit = case.file.get_f64(&format!("{name}tol.{quantity}"))?;
        let gap = case.file.get_f64(&format!("{name}gap.{quantity}"))?;
        let widest = 3.0 * gap.iter().fold(0.0f64, |m, g| m.max(*g));
        let distances = steps
            .iter()
            .zip(&want)
            .map(|(s, w)| distance(s[q], *w, *relative));
        let distances: Vec<f64> = distances.collect();
        let worst = distances
            .iter()
            .zip(&limit)
            .map(|(d, l)| d / l)
            .fold(0.0, f64::max);
        let name = format!("{name}{quantity} (free run)");
        if worst <= 1.0 || widest == 0.0 {
            report.bounded(name, "error / limit of the step, worst step", worst, 1.0);
        } else {
            let worst = distances.iter().fold(0.0f64, |m, d| m.max(*d)) / widest;
            report.bounded(
                name,
                "error / 3 × largest gap; the restart decides",
                worst,
                1.0,
            );
        }
    }
    let miou = trainer.confusion(batches)?.scores().miou;
    let want = case.file.get_f64(&format!("{name}final.miou"))?[0];
    report.absolute(
        format!("{name}final.miou (free run)"),
        miou,
        want,
        limits.miou,
    );
    Ok(())
}

fn restarted(
    case: &Case<'_>,
    name: &str,
    mut trainer: Trainer,
    batches: &[Input],
    limits: Limits,
    report: &mut Report,
) -> Result<()> {
    let first = trainer.optimizer.steps();
    let count = case.file.get_f64(&format!("{name}anchor.tol.loss"))?.len();
    let mut steps = Vec::new();
    for step in first..first + count as u64 {
        steps.push(trainer.step(step, &batches[step as usize % batches.len()])?);
    }
    for (q, (quantity, relative)) in QUANTITIES.iter().enumerate() {
        let want = case.file.get_f64(&format!("{name}{quantity}"))?;
        let limit = case.file.get_f64(&format!("{name}anchor.tol.{quantity}"))?;
        let worst = steps
            .iter()
            .enumerate()
            .map(|(i, step)| distance(step[q], want[first as usize + i], *relative) / limit[i]);
        let name = format!("{name}{quantity} (restart)");
        let worst = worst.fold(0.0, f64::max);
        report.bounded(name, "error / limit of the step, worst step", worst, 1.0);
    }
    running_statistics(
        case.file,
        &format!("{name}anchor.after."),
        &trainer.model.params,
        limits,
        report,
    );
    Ok(())
}

/// Means within the limit, variances within 1 %.
fn running_statistics(
    file: &Tensors,
    prefix: &str,
    params: &Params,
    limits: Limits,
    report: &mut Report,
) {
    let (mut mean, mut variance) = (0.0f64, 0.0f64);
    for (name, tensor) in file.iter() {
        let Some(parameter) = name.strip_prefix(prefix) else {
            continue;
        };
        let Some(id) = params.layout().find(parameter) else {
            continue;
        };
        let pairs = params.get(id).iter().zip(tensor.to_f64());
        if let Some(stem) = parameter.strip_suffix("running_mean") {
            let spread = file.get(&format!("{prefix}{stem}running_var"));
            let spread = spread.map(|t| t.to_f64()).unwrap_or_default();
            for ((got, want), variance) in pairs.zip(spread) {
                mean = mean.max((f64::from(*got) - want).abs() / variance.sqrt().max(1e-12));
            }
        } else if parameter.ends_with("running_var") {
            for (got, want) in pairs {
                variance = variance.max(distance(f64::from(*got), want, true));
            }
        }
    }
    report.bounded(
        format!("{prefix}*running_mean"),
        "standard deviations",
        mean,
        limits.mean,
    );
    report.bounded(
        format!("{prefix}*running_var"),
        "largest relative",
        variance,
        0.01,
    );
}

fn final_state(
    case: &Case<'_>,
    name: &str,
    mut trainer: Trainer,
    batches: &[Input],
    report: &mut Report,
) -> Result<()> {
    for (what, mode) in [
        ("eval_logits", Mode::Inference),
        ("train_logits", Mode::Training),
    ] {
        let name = format!("{name}final.{what}");
        let got = trainer.logits(&batches[0], mode)?;
        report.relative(&name, &got, &case.file.get_f64(&name)?, 1e-5);
    }
    let confusion = trainer.confusion(batches)?;
    for (what, counts) in [
        ("intersection", confusion.intersection()),
        ("union", confusion.union()),
        ("target", confusion.target()),
    ] {
        let name = format!("{name}final.{what}");
        let got: Vec<i64> = counts.into_iter().map(|c| c as i64).collect();
        report.equal(&name, &got, &case.file.get_i64(&name)?);
    }
    let scores = confusion.scores();
    for (what, got) in [("miou", scores.miou), ("all_acc", scores.accuracy)] {
        let name = format!("{name}final.{what}");
        report.absolute(&name, got, case.file.get_f64(&name)?[0], 1e-9);
    }
    Ok(())
}
