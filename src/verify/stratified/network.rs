//! Whole networks: every stage in inference, training logits, loss, all gradients, one optimizer step.

use super::super::Case;
use super::super::file::{ReferenceFile, Wanted, buffer, trained};
use super::super::network::{Input, zero_gradients};
use super::super::reference::{Report, largest_difference, worst};
use super::batch::{ball, classes, config, elements};
use crate::Result;
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::{Executor, Gradients, Graph, Mode, ParamKind, ParamSpec, Params};
use crate::models::{Geometry, Model};
use crate::ops::CrossEntropy;
use crate::optim::{Group, OptimizerConfig, Trained};
use serde_json::json;

/// Stage outputs, largest difference.
const STAGES: f64 = 2e-4;
/// Logits, largest difference.
const LOGITS: f64 = 1e-4;
/// The loss.
const LOSS: f64 = 1e-5;
/// Gradients, largest difference over the tensor's largest value.
const GRADIENT: f64 = 5e-4;
/// Gradients whose exact value is 0.
const NOISE: f64 = 1e-7;
/// Share of the parameters that may move farther than [`NEAR`] off.
const STRAYS: f64 = 1e-3;
/// Usual distance of a parameter after one step, in learning rates of its group.
const NEAR: f64 = 0.02;
/// Largest distance of a parameter after one step, in learning rates of its group.
const FAR: f64 = 2.1;

/// Outputs of one file, all of them read before anything is computed.
struct Outputs {
    /// Name of the stage, name and values of the tensor.
    stages: Vec<(String, String, Vec<f64>)>,
    eval_logits: Vec<f64>,
    train_logits: Vec<f64>,
    loss: f64,
    gradients: Vec<Wanted>,
    /// Running statistics and counters after the forward pass.
    statistics: Vec<Wanted>,
    /// Parameters after the optimizer step; kernel points never change and are not stored again.
    after: Vec<Wanted>,
}

impl Outputs {
    fn read(file: &ReferenceFile<'_>, model: &Model, rows: usize, levels: Levels) -> Result<Self> {
        let layout = model.params.layout();
        let dims = [rows, model.network.classes()];
        let moved = |spec: &ParamSpec| {
            matches!(spec.kind, ParamKind::Weight | ParamKind::Fixed)
                && !spec.name.ends_with("K_points")
        };
        let mut stages = Vec::new();
        for stage in levels.names() {
            let name = format!("mid.{stage}.feats");
            let values = file.matrix(&name)?;
            stages.push((format!("{stage}.feats"), name, values));
        }
        Ok(Outputs {
            stages,
            eval_logits: file.doubles("out.eval_logits", &dims)?,
            train_logits: file.doubles("out.train_logits", &dims)?,
            loss: file.single("out.loss")?,
            gradients: file.of_parameters("grad.", layout, trained)?,
            statistics: file.of_parameters("after.", layout, buffer)?,
            after: file.of_parameters("after.", layout, moved)?,
        })
    }
}

/// How many levels a network has, and whether its first stage of transformers is at full resolution.
#[derive(Debug, Clone, Copy)]
struct Levels {
    count: usize,
    stem: bool,
}

impl Levels {
    /// Stages of transformers.
    fn stages(self) -> usize {
        self.count - usize::from(!self.stem)
    }

    /// All stages whose outputs a file holds.
    fn names(self) -> Vec<String> {
        let named = |stage: &str, count: usize, rest: &'static str| -> Vec<String> {
            (0..count).map(|i| format!("{stage}.{i}{rest}")).collect()
        };
        [
            named("stem_layer", if self.stem { 1 } else { 2 }, ""),
            named("layers", self.stages(), ""),
            named("layers", self.stages().saturating_sub(1), ".downsample"),
            named("upsamples", self.count.saturating_sub(1), ""),
        ]
        .concat()
    }
}

/// Checks one whole-network file.
pub(in super::super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let [_, channels] = file.dims("in.feat")?;
    let mut model = Model::new(&config(file, channels)?, case.device, 0)?;
    file.load(&mut model.params, "param.")?;
    let ignored = file.ignored("ignore_label")?;
    let label = ("label", classes(file)?, ignored);
    let input = Input::read(file, "in.", channels, Some(label))?;
    elements(file, "in.", &input.offsets, report)?;
    ball(case, "in.", &input, report)?;
    let geometry = model
        .network
        .geometry(case.device, &input.coord, &input.offsets)?;
    let levels = Levels {
        count: model.network.levels(&geometry).len(),
        stem: file.metadata("config")?["stem_transformer"] == json!(true),
    };
    let wanted = Outputs::read(file, &model, input.coord.len(), levels)?;
    level_lists(case, &model, &geometry, levels, report)?;
    for (mode, form) in [(Mode::Inference, "folded"), (Mode::Frozen, "unfolded")] {
        inference(
            case,
            &model,
            (&input, &geometry),
            (mode, form, &wanted),
            report,
        )?;
    }
    training(case, model, (&input, &geometry), &wanted, report)
}

/// Positions and ends of the points of every stage.
fn level_lists(
    case: &Case<'_>,
    model: &Model,
    geometry: &Geometry,
    levels: Levels,
    report: &mut Report,
) -> Result<()> {
    let views = model.network.levels(geometry);
    let ends = |level: usize| -> Vec<i64> {
        let offsets = views[level].offsets[1..].iter();
        offsets.map(|&o| o as i64).collect()
    };
    let first = levels.count - levels.stages();
    let mut offsets = Vec::new();
    for stage in 0..levels.stages() {
        let level = first + stage;
        let name = format!("mid.layers.{stage}");
        let coord: Vec<f64> = views[level]
            .coord
            .iter()
            .flatten()
            .map(|x| f64::from(*x))
            .collect();
        let xyz = format!("{name}.xyz");
        report.equal(&xyz, &coord, &case.file.matrix(&xyz)?);
        offsets.push((format!("{name}.offset"), ends(level)));
        if level + 1 < levels.count {
            offsets.push((format!("{name}.downsample.offset"), ends(level + 1)));
        }
    }
    for up in 0..levels.count.saturating_sub(1) {
        let level = levels.count - 2 - up;
        offsets.push((format!("mid.upsamples.{up}.offset"), ends(level)));
    }
    for (name, ends) in offsets {
        report.equal(&name, &ends, &case.file.list(&name)?);
    }
    Ok(())
}

fn inference(
    case: &Case<'_>,
    model: &Model,
    (input, geometry): (&Input, &Geometry),
    (mode, form, outputs): (Mode, &str, &Outputs),
    report: &mut Report,
) -> Result<()> {
    let mut graph = Graph::new(&model.params, mode, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    let mut wanted = vec![("out.eval_logits", logits, &outputs.eval_logits, LOGITS)];
    for (stage, name, values) in &outputs.stages {
        let var = graph.tapped(stage);
        let var = var.ok_or_else(|| case.file.fault(name, "the network has no such stage"))?;
        wanted.push((name.as_str(), var, values, STAGES));
    }
    wanted.iter().for_each(|(_, var, ..)| graph.keep(*var));
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    for (name, var, want, limit) in wanted {
        let name = format!("{name} ({form})");
        let error = largest_difference(run.read(var), want);
        report.bounded(name, "largest difference", error, limit);
    }
    Ok(())
}

fn training(
    case: &Case<'_>,
    mut model: Model,
    (input, geometry): (&Input, &Geometry),
    wanted: &Outputs,
    report: &mut Report,
) -> Result<()> {
    let target = input.segment.clone().expect("read with the input");
    let mut gradients = Gradients::new(model.params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&model.params, Mode::Training, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    let ignored = case.file.ignored("ignore_label")?;
    let loss = graph.push(CrossEntropy::new(target, ignored), &[logits])?;
    graph.keep(logits);
    graph.keep(loss);
    graph.seed(loss, Array::from(vec![1.0]))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    drop(graph);
    let error = largest_difference(run.read(logits), &wanted.train_logits);
    report.bounded("out.train_logits", "largest difference", error, LOGITS);
    let got = f64::from(run.read(loss)[0]);
    report.absolute("out.loss", got, wanted.loss, LOSS);
    run.commit(&mut model.params)?;
    let zero = zero_gradients(&case.file.metadata("zero_grad_params")?);
    compare_gradients(&wanted.gradients, &gradients, &zero, report);
    statistics(&wanted.statistics, &model.params, report);
    step(
        case,
        &mut model.params,
        &gradients,
        (&wanted.after, &zero),
        report,
    )
}

/// Every gradient; those that should be zero are, in the file too, which was made in double precision.
fn compare_gradients(
    wanted: &[Wanted],
    gradients: &Gradients,
    zero: &[String],
    report: &mut Report,
) {
    for gradient in wanted {
        let (name, want) = (&gradient.name, &gradient.values);
        let got = gradients.get(gradient.id);
        if zero.contains(&gradient.param) {
            let own = want.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            let largest = largest_difference(got, &vec![0.0; got.len()]).max(own);
            report.bounded(name, "largest value, should be 0", largest, NOISE);
        } else {
            report.largest(name, got, want, GRADIENT);
        }
    }
}

/// Running statistics within 1e-5 + 1e-4 of their value, counters equal.
pub(super) fn statistics(wanted: &[Wanted], params: &Params, report: &mut Report) {
    for statistic in wanted {
        let (id, name, want) = (statistic.id, &statistic.name, &statistic.values);
        if params.layout().spec(id).kind == ParamKind::Counter {
            report.equal(name, &[params.counter(id) as f64], want);
            continue;
        }
        let pairs = params.get(id).iter().zip(want);
        let errors =
            pairs.map(|(got, want)| (f64::from(*got) - want).abs() / (1e-5 + 1e-4 * want.abs()));
        let worst = worst(errors);
        report.bounded(name, "error / (1e-5 + 1e-4 of the value)", worst, 1.0);
    }
}

/// The groups of the official recipe.
pub(super) fn groups(lr: f64, block_lr: f64) -> [Group; 1] {
    [Group {
        contains: "blocks".into(),
        lr: block_lr / lr,
    }]
}

/// One step of the optimizer from zero moments, with our own gradients.
fn step(
    case: &Case<'_>,
    params: &mut Params,
    gradients: &Gradients,
    (wanted, zero): (&[Wanted], &[String]),
    report: &mut Report,
) -> Result<()> {
    let number = |key: &str| case.file.number(key);
    let (lr, block_lr) = (number("lr")?, number("block_lr")?);
    let rule = OptimizerConfig::AdamW {
        lr,
        betas: [0.9, 0.999],
        eps: number("eps")?,
        weight_decay: number("weight_decay")?,
    };
    let layout = params.layout().clone();
    let trained = Trained::of(&layout, &groups(lr, block_lr));
    let mut optimizer = rule.build(case.device, layout.words(), trained)?;
    optimizer.step(params.memory_mut(), gradients.memory(), rule.base())?;
    let distances = |clear: bool| -> Vec<f64> {
        let wanted = wanted
            .iter()
            .filter(|after| !clear || !zero.contains(&after.param));
        let distances = wanted.flat_map(|after| {
            let rate = match after.param.contains("blocks") {
                true => block_lr,
                false => lr,
            };
            let pairs = params.get(after.id).iter().zip(&after.values);
            pairs.map(move |(got, want)| (f64::from(*got) - want).abs() / rate)
        });
        distances.collect()
    };
    let (all, clear) = (distances(false), distances(true));
    // the sign of a gradient that should be zero is noise, and so is the move, but not its length
    let is_near = |d: &&f64| **d <= NEAR; // which no NaN is
    let strays = (clear.len() - clear.iter().filter(is_near).count()) as f64;
    let share = strays / clear.len().max(1) as f64;
    let measure = "share of parameters more than 0.02 learning rates off";
    report.bounded("after.* parameters", measure, share, STRAYS);
    let largest = worst(all.into_iter());
    report.bounded("after.* parameters", "learning rates", largest, FAR);
    Ok(())
}
