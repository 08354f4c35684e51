//! Training curves: a free run from the initial state, a restart in the middle, and the final state.
//!
//! Training separates by rounding alone: one ReLU that falls on the other side changes a gradient by a finite amount.
//! The file therefore gives a limit per step, and a restart point from which four steps must agree closely. A free run
//! that leaves its narrow limits but stays within three times the largest distance that the official code itself
//! showed is judged by the restart.

use super::Case;
use super::file::{ReferenceFile, Wanted, each};
use super::network::{Input, zero_gradients};
use super::recipe::{number, optimizer_of, schedule_of};
use super::reference::{Report, worst};
use super::trainer::{Step, Trainer, target};
use crate::Result;
use crate::graph::{Init, Mode, ParamKind, ParamSpec, Params};
use crate::models::Model;
use crate::optim::Rate;

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
    let file = case.file;
    let config = file.metadata("config")?;
    let size = |key: &str| Ok::<_, crate::Error>(number(&config, key)? as usize);
    let (channels, classes) = (size("in_channels")?, size("num_classes")?);
    let ignored = file.ignored("ignore_index")?;
    let label = Some(("segment", classes, ignored));
    let batches = batches(file, |prefix| Input::read(file, prefix, channels, label))?;
    for (name, lovasz) in [("ce", false), ("lovasz", true)] {
        curve(case, name, (lovasz, ignored), &batches, report)?;
    }
    Ok(())
}

/// The batches `batch0.`, `batch1.`, … of a file; one that is there in part is there.
pub(super) fn batches(
    file: &ReferenceFile<'_>,
    read: impl Fn(&str) -> Result<Input>,
) -> Result<Vec<Input>> {
    let prefixes = (0..).map(|i| format!("batch{i}."));
    let held = prefixes.take_while(|prefix| file.any(prefix));
    let batches = held
        .map(|prefix| read(&prefix))
        .collect::<Result<Vec<Input>>>()?;
    match batches.is_empty() {
        true => Err(file.fault("batch0.coord", "is missing; the file holds no batches")),
        false => Ok(batches),
    }
}

fn curve(
    case: &Case<'_>,
    name: &str,
    (lovasz, ignored): (bool, i32),
    batches: &[Input],
    report: &mut Report,
) -> Result<()> {
    let file = case.file;
    let settings = file.metadata(&format!("curve_{name}"))?;
    let steps = file.whole("steps")? as u64;
    let rule = file.metadata("optimizer")?;
    let mut network = file.metadata("config")?;
    network["unpool_backend"] = settings["unpool_backend"].clone();
    let start = |prefix: &str| {
        let mut model = Model::new(&network, case.device, 0)?;
        file.load(&mut model.params, prefix)?;
        let lr = number(&settings, "lr")?;
        let config = optimizer_of(&rule, lr, number(&settings, "weight_decay")?);
        let schedule = schedule_of(&settings["schedule"], steps)?;
        let trainer = Trainer::new(case, model, config, &[], schedule, steps)?;
        let zero = zero_gradients(&settings["structurally_zero_grad"]);
        Ok(trainer.ignoring(ignored, zero).with_lovasz(lovasz))
    };
    let limits = Limits {
        miou: if lovasz { 0.04 } else { 0.06 },
        mean: 0.01,
    };
    let momentum = |rate: Rate| rate.momentum;
    let rates: Rates<'_> = ("beta1", &momentum);
    check(
        case,
        &format!("{name}."),
        rates,
        &start,
        batches,
        limits,
        report,
    )
}

/// The list of a file beside that of learning rates: its name, and how it follows from the schedule.
pub(super) type Rates<'a> = (&'a str, &'a dyn Fn(Rate) -> f64);

/// Limits that differ between files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of the mIoU at the end of the free run.
    pub miou: f64,
    /// Of running means after the restart, in standard deviations.
    pub mean: f64,
}

/// What the file says about one quantity of every step.
struct Quantity {
    name: &'static str,
    relative: bool,
    want: Vec<f64>,
    limit: Vec<f64>,
    /// Largest distance that the official code showed.
    gap: Vec<f64>,
    /// Of the steps after the restart.
    restart: Vec<f64>,
}

/// What the file says about one curve, all of it read before the first step is taken.
struct Curve {
    name: String,
    lr: Vec<f64>,
    rates: Vec<f64>,
    /// Labelled points of every step.
    valid: Vec<i64>,
    quantities: Vec<Quantity>,
    /// Running statistics after the restart.
    after: Vec<Wanted>,
    last: Last,
}

/// What the final state gives.
struct Last {
    eval_logits: Vec<f64>,
    train_logits: Vec<f64>,
    intersection: Vec<i64>,
    union: Vec<i64>,
    target: Vec<i64>,
    miou: f64,
    accuracy: f64,
}

impl Curve {
    fn read(
        file: &ReferenceFile<'_>,
        name: &str,
        rates: &str,
        trainer: &Trainer,
        rows: usize,
    ) -> Result<Self> {
        let steps = trainer.total as usize;
        let of = |n: &str| format!("{name}{n}");
        let list = |name: &str, count: usize| match name.ends_with("correct") {
            true => {
                let counts = file.integers(name, &[count])?;
                Ok(counts.into_iter().map(|c| c as f64).collect::<Vec<f64>>())
            }
            false => file.doubles(name, &[count]),
        };
        let [restart] = file.dims(&of("anchor.tol.loss"))?;
        let quantities = QUANTITIES.map(|(quantity, relative)| {
            Ok(Quantity {
                name: quantity,
                relative,
                want: list(&of(quantity), steps)?,
                limit: list(&of(&format!("tol.{quantity}")), steps)?,
                gap: list(&of(&format!("gap.{quantity}")), steps)?,
                restart: list(&of(&format!("anchor.tol.{quantity}")), restart)?,
            })
        });
        let running = |spec: &ParamSpec| spec.kind == ParamKind::Running;
        let (layout, classes) = (
            trainer.model.params.layout(),
            trainer.model.network.classes(),
        );
        Ok(Curve {
            name: name.to_string(),
            lr: file.doubles(&of("lr"), &[steps])?,
            rates: file.doubles(&of(rates), &[steps])?,
            valid: file.integers(&of("valid"), &[steps])?,
            quantities: quantities.into_iter().collect::<Result<_>>()?,
            after: file.of_parameters(&of("anchor.after."), layout, running)?,
            last: Last {
                eval_logits: file.doubles(&of("final.eval_logits"), &[rows, classes])?,
                train_logits: file.doubles(&of("final.train_logits"), &[rows, classes])?,
                intersection: file.integers(&of("final.intersection"), &[classes])?,
                union: file.integers(&of("final.union"), &[classes])?,
                target: file.integers(&of("final.target"), &[classes])?,
                miou: file.single(&of("final.miou"))?,
                accuracy: file.single(&of("final.all_acc"))?,
            },
        })
    }

    fn of(&self, name: &str) -> String {
        format!("{}{name}", self.name)
    }
}

/// The three checks of one curve, whose tensors begin with `name`; `start` makes a trainer from the state under a prefix.
pub(super) fn check(
    case: &Case<'_>,
    name: &str,
    rates: Rates<'_>,
    start: &dyn Fn(&str) -> Result<Trainer>,
    batches: &[Input],
    limits: Limits,
    report: &mut Report,
) -> Result<()> {
    let file = case.file;
    let mut restart = start(&format!("{name}anchor.state."))?;
    restart.restore(file, &format!("{name}anchor."))?;
    let free = start("init.")?;
    let last = start(&format!("{name}final.state."))?;
    let wanted = Curve::read(file, name, rates.0, &free, batches[0].coord.len())?;
    let first = restart.steps();
    if first + wanted.quantities[0].restart.len() as u64 > free.total {
        let fault = format!("a restart after step {first} passes the end of the curve");
        return Err(file.fault(&format!("{name}anchor.tol.loss"), fault));
    }
    for (state, trainer, steps) in [
        ("init.", &free, 0),
        (&*format!("{name}anchor.state."), &restart, first),
        (&*format!("{name}final.state."), &last, free.total),
    ] {
        counters(state, &trainer.model.params, steps, report);
    }
    initial(&free.model.params, report);
    restarted(&wanted, restart, batches, limits, report)?;
    free_run(&wanted, (free, rates), batches, limits, report)?;
    final_state(&wanted, last, batches, report)
}

/// Counters of a state after `steps` steps, which no later value shows.
fn counters(prefix: &str, params: &Params, steps: u64, report: &mut Report) {
    let counters = each(params.layout()).filter(|(_, spec)| spec.kind == ParamKind::Counter);
    let counts: Vec<u64> = counters.map(|(id, _)| params.counter(id) as u64).collect();
    let name = format!("{prefix}*num_batches_tracked");
    report.equal(name, &counts, &vec![steps; counts.len()]);
}

/// Running statistics of the initial state, which training does not read: a curve starts from an untrained network.
fn initial(params: &Params, report: &mut Report) {
    let running = each(params.layout()).filter(|(_, spec)| spec.kind == ParamKind::Running);
    let strange = running.filter(|(id, spec)| match spec.init {
        Init::Constant(start) => params.get(*id).iter().any(|value| *value != start),
        _ => true,
    });
    let measure = "statistics that are not those of an untrained network";
    report.bounded("init.*running_*", measure, strange.count() as f64, 0.0);
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
    wanted: &Curve,
    (mut trainer, (name, second)): (Trainer, Rates<'_>),
    batches: &[Input],
    limits: Limits,
    report: &mut Report,
) -> Result<()> {
    let (mut steps, mut lr, mut rates, mut valid) = (vec![], vec![], vec![], vec![]);
    for step in 0..trainer.total {
        let batch = &batches[step as usize % batches.len()];
        let now = trainer.rate(step);
        lr.push(now.lr);
        rates.push(second(now));
        let labelled = target(batch);
        let labelled = labelled.iter().filter(|l| **l != trainer.ignored);
        valid.push(labelled.count() as i64);
        steps.push(trainer.step(step, batch)?);
    }
    report.ratios(wanted.of("lr"), &lr, &wanted.lr, 1e-12);
    report.ratios(wanted.of(name), &rates, &wanted.rates, 1e-12);
    report.equal(wanted.of("valid"), &valid, &wanted.valid);
    // The loss before the first step is a continuous function of the initial state: no rounding turns it.
    let (loss, first) = (
        &wanted.quantities[0],
        distance(steps[0][0], wanted.quantities[0].want[0], false),
    );
    let name = wanted.of("loss (first step)");
    report.bounded(name, "absolute", first, loss.limit[0]);
    for (q, quantity) in wanted.quantities.iter().enumerate() {
        free_quantity(wanted, quantity, &steps, q, report);
    }
    let miou = trainer.confusion(batches)?.scores().miou;
    let name = wanted.of("final.miou (free run)");
    report.absolute(name, miou, wanted.last.miou, limits.miou);
    Ok(())
}

fn free_quantity(
    wanted: &Curve,
    quantity: &Quantity,
    steps: &[Step],
    q: usize,
    report: &mut Report,
) {
    let widest = 3.0 * quantity.gap.iter().fold(0.0f64, |m, g| m.max(*g));
    let pairs = steps.iter().zip(&quantity.want);
    let distances = pairs.map(|(step, want)| distance(step[q], *want, quantity.relative));
    let distances: Vec<f64> = distances.collect();
    let of_limit = worst(distances.iter().zip(&quantity.limit).map(|(d, l)| d / l));
    let name = wanted.of(&format!("{} (free run)", quantity.name));
    if of_limit <= 1.0 || widest == 0.0 {
        let measure = "error / limit of the step, worst step";
        report.bounded(name, measure, of_limit, 1.0);
    } else {
        let measure = "error / 3 × largest gap; the restart decides";
        report.bounded(name, measure, worst(distances.into_iter()) / widest, 1.0);
    }
}

fn restarted(
    wanted: &Curve,
    mut trainer: Trainer,
    batches: &[Input],
    limits: Limits,
    report: &mut Report,
) -> Result<()> {
    let first = trainer.steps();
    let mut steps = Vec::new();
    for step in first..first + wanted.quantities[0].restart.len() as u64 {
        steps.push(trainer.step(step, &batches[step as usize % batches.len()])?);
    }
    for (q, quantity) in wanted.quantities.iter().enumerate() {
        let want = &quantity.want[first as usize..];
        let pairs = steps.iter().zip(want).zip(&quantity.restart);
        let errors =
            pairs.map(|((step, want), limit)| distance(step[q], *want, quantity.relative) / limit);
        let name = wanted.of(&format!("{} (restart)", quantity.name));
        let measure = "error / limit of the step, worst step";
        report.bounded(name, measure, worst(errors), 1.0);
    }
    running_statistics(wanted, &trainer.model.params, limits, report);
    Ok(())
}

/// Means within the limit, variances within 1 %.
fn running_statistics(wanted: &Curve, params: &Params, limits: Limits, report: &mut Report) {
    let (mut mean, mut variance) = (0.0f64, 0.0f64);
    for statistic in &wanted.after {
        let pairs = params.get(statistic.id).iter().zip(&statistic.values);
        let pairs = pairs.map(|(got, want)| (f64::from(*got), *want));
        if let Some(stem) = statistic.param.strip_suffix("running_mean") {
            let spread = format!("{stem}running_var");
            let spread = wanted.after.iter().find(|other| other.param == spread);
            let spread = spread.map_or(&[][..], |spread| &spread.values);
            let errors = pairs
                .zip(spread)
                .map(|((got, want), variance)| (got - want).abs() / variance.sqrt().max(1e-12));
            mean = mean.max(worst(errors));
        } else {
            let errors = pairs.map(|(got, want)| distance(got, want, true));
            variance = variance.max(worst(errors));
        }
    }
    let name = wanted.of("anchor.after.*running_mean");
    report.bounded(name, "standard deviations", mean, limits.mean);
    let name = wanted.of("anchor.after.*running_var");
    report.bounded(name, "largest relative", variance, 0.01);
}

fn final_state(
    wanted: &Curve,
    mut trainer: Trainer,
    batches: &[Input],
    report: &mut Report,
) -> Result<()> {
    let last = &wanted.last;
    for (what, mode, want) in [
        ("final.eval_logits", Mode::Inference, &last.eval_logits),
        ("final.train_logits", Mode::Training, &last.train_logits),
    ] {
        let got = trainer.logits(&batches[0], mode)?;
        report.relative(wanted.of(what), &got, want, 1e-5);
    }
    let confusion = trainer.confusion(batches)?;
    for (what, counts, want) in [
        ("intersection", confusion.intersection(), &last.intersection),
        ("union", confusion.union(), &last.union),
        ("target", confusion.target(), &last.target),
    ] {
        let got: Vec<i64> = counts.into_iter().map(|c| c as i64).collect();
        report.equal(wanted.of(&format!("final.{what}")), &got, want);
    }
    let scores = confusion.scores();
    report.absolute(wanted.of("final.miou"), scores.miou, last.miou, 1e-9);
    let (got, want) = (scores.accuracy, last.accuracy);
    report.absolute(wanted.of("final.all_acc"), got, want, 1e-9);
    Ok(())
}
