//! Whole networks: every stage in inference, training logits, loss, all gradients, one optimizer step.

use super::super::Case;
use super::super::network::{Input, load, metadata, zero_gradients};
use super::super::reference::Report;
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, ParamKind, Params};
use crate::models::{Geometry, Model};
use crate::ops::CrossEntropy;
use crate::optim::{Group, OptimizerConfig, Trained};
use crate::weights::Tensors;
use crate::{Error, Result};
use serde_json::{Value, json};

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

/// The `network` table that the constructor arguments of a reference file amount to.
pub(super) fn config(file: &Tensors, input_channels: usize) -> Result<Value> {
    let told = metadata(file, "config")?;
    let number = |value: &Value, key: &str| {
        let found = value.as_f64();
        found.ok_or_else(|| Error::weights(format!("metadata config.{key}"), "is not a number"))
    };
    let grid = number(&told["prev_grid_size"], "prev_grid_size")?;
    let mut config = json!({
        "type": "Stratified",
        "in_channels": input_channels,
        "grid_size": grid,
        "window_size": number(&told["window_size"][0], "window_size")? / grid,
        "quant_size": told["quant_sizes"][0],
        "ball_radius": number(&told["ball_radius"], "ball_radius")? / grid,
        "ball_choice": "nearest",
    });
    for key in [
        "num_classes",
        "stem_transformer",
        "depths",
        "channels",
        "num_heads",
        "downsample_scale",
        "rel_query",
        "rel_key",
        "rel_value",
        "ratio",
        "k",
        "sigma",
        "max_num_neighbors",
    ] {
        config[key] = told[key].clone();
    }
    Ok(config)
}

/// The network of a file, with the state under `prefix`.
pub(super) fn model(case: &Case<'_>, channels: usize, state: &Tensors) -> Result<Model> {
    load(case, &config(case.file, channels)?, state)
}

/// A batch; its labels are called `label`, and unknown ones carry the metadata's `ignore_label`.
pub(super) fn input(file: &Tensors, prefix: &str) -> Result<Input> {
    let mut input = Input::read(file, prefix)?;
    let labels = file.get_i64(&format!("{prefix}label"))?;
    let labels: Vec<i32> = labels.iter().map(|&l| l as i32).collect();
    input.segment = Some(Array::from(labels));
    Ok(input)
}

/// The label that counts for nothing.
pub(super) fn ignored(file: &Tensors) -> Result<i32> {
    let label = metadata(file, "ignore_label")?.as_i64();
    let label = label.and_then(|l| i32::try_from(l).ok());
    label.ok_or_else(|| Error::weights("metadata ignore_label", "is no label"))
}

/// Largest difference, infinite where lengths differ or something is not finite.
pub(super) fn furthest(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let distances = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs());
    distances.fold(
        0.0,
        |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) },
    )
}

/// Checks one whole-network file.
pub(in super::super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let channels = *case.file.require("in.feat")?.dims().last().unwrap_or(&0);
    let model = model(case, channels, &case.file.with_prefix("param."))?;
    let input = input(case.file, "in.")?;
    let geometry = model
        .network
        .geometry(case.device, &input.coord, &input.offsets)?;
    levels(case, &model, &geometry, report)?;
    for (mode, form) in [(Mode::Inference, "folded"), (Mode::Frozen, "unfolded")] {
        inference(case, &model, (&input, &geometry), (mode, form), report)?;
    }
    training(case, model, (&input, &geometry), report)
}

fn levels(case: &Case<'_>, model: &Model, geometry: &Geometry, report: &mut Report) -> Result<()> {
    let levels = model.network.levels(geometry);
    let stem = metadata(case.file, "config")?["stem_transformer"] == json!(true);
    for (stage, level) in levels[usize::from(!stem)..].iter().enumerate() {
        let name = |n: &str| format!("mid.layers.{stage}.{n}");
        let coord: Vec<f32> = level.coord.iter().flatten().copied().collect();
        report.equal(name("xyz"), &coord, &case.file.get_f32(&name("xyz"))?);
        let ends: Vec<i64> = level.offsets[1..].iter().map(|&o| o as i64).collect();
        report.equal(name("offset"), &ends, &case.file.get_i64(&name("offset"))?);
    }
    Ok(())
}

fn inference(
    case: &Case<'_>,
    model: &Model,
    (input, geometry): (&Input, &Geometry),
    (mode, form): (Mode, &str),
    report: &mut Report,
) -> Result<()> {
    let mut graph = Graph::new(&model.params, mode, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    let mut wanted = vec![("out.eval_logits", logits, LOGITS)];
    for (name, _) in case.file.iter() {
        let stage = name.strip_prefix("mid.").filter(|n| n.ends_with("feats"));
        if let Some(stage) = stage {
            let var = graph.tapped(stage);
            let var = var.ok_or_else(|| Error::weights(name, "the network has no such stage"))?;
            wanted.push((name, var, STAGES));
        }
    }
    wanted.iter().for_each(|(_, var, _)| graph.keep(*var));
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    for (name, var, limit) in wanted {
        let error = furthest(run.read(var), &case.file.get_f64(name)?);
        report.bounded(
            format!("{name} ({form})"),
            "largest difference",
            error,
            limit,
        );
    }
    Ok(())
}

fn training(
    case: &Case<'_>,
    mut model: Model,
    (input, geometry): (&Input, &Geometry),
    report: &mut Report,
) -> Result<()> {
    let target = input.segment.clone().expect("read with the input");
    let mut gradients = Gradients::new(model.params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&model.params, Mode::Training, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    let loss = graph.push(CrossEntropy::new(target, ignored(case.file)?), &[logits])?;
    graph.keep(logits);
    graph.keep(loss);
    graph.seed(loss, Array::from(vec![1.0]))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    drop(graph);
    let error = furthest(run.read(logits), &case.file.get_f64("out.train_logits")?);
    report.bounded("out.train_logits", "largest difference", error, LOGITS);
    let got = f64::from(run.read(loss)[0]);
    report.absolute("out.loss", got, case.file.get_f64("out.loss")?[0], LOSS);
    run.commit(&mut model.params)?;
    let zero = zero_gradients(&metadata(case.file, "zero_grad_params")?);
    compare_gradients(case.file, &gradients, &zero, report)?;
    statistics(case.file, "after.", &model.params, report);
    step(case, &mut model.params, &gradients, &zero, report)
}

/// Every gradient of the file, and that no other parameter has one.
fn compare_gradients(
    file: &Tensors,
    gradients: &Gradients,
    zero: &[String],
    report: &mut Report,
) -> Result<()> {
    let layout = gradients.layout();
    for spec in layout.specs() {
        let name = format!("grad.{}", spec.name);
        let id = layout.find(&spec.name).expect("a name of the layout");
        let Some(tensor) = file.get(&name) else {
            if spec.kind == ParamKind::Weight {
                return Err(Error::weights(name, "is missing from the file"));
            }
            continue;
        };
        let (got, want) = (gradients.get(id), tensor.to_f64());
        if zero.contains(&spec.name) {
            let largest = furthest(got, &vec![0.0; got.len()]);
            report.bounded(name, "largest value, should be 0", largest, NOISE);
        } else {
            report.largest(name, got, &want, GRADIENT);
        }
    }
    Ok(())
}

/// Running statistics within 1e-5 + 1e-4 of their value, counters equal.
pub(super) fn statistics(file: &Tensors, prefix: &str, params: &Params, report: &mut Report) {
    for (name, tensor) in file.iter() {
        let id = name
            .strip_prefix(prefix)
            .and_then(|n| params.layout().find(n));
        let Some(id) = id else { continue };
        match params.layout().spec(id).kind {
            ParamKind::Counter => {
                let count = tensor.to_i64().unwrap_or_default();
                report.equal(name, &[params.counter(id)], &count);
            }
            ParamKind::Running => {
                let pairs = params.get(id).iter().zip(tensor.to_f64());
                let worst = pairs
                    .map(|(got, want)| (f64::from(*got) - want).abs() / (1e-5 + 1e-4 * want.abs()))
                    .fold(0.0, f64::max);
                report.bounded(name, "error / (1e-5 + 1e-4 of the value)", worst, 1.0);
            }
            ParamKind::Weight | ParamKind::Fixed => {}
        }
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
    zero: &[String],
    report: &mut Report,
) -> Result<()> {
    let number = |key: &str| super::number(case.file, key);
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
    let distances = distances(case.file, &layout, params, zero, [lr, block_lr])?;
    let strays = distances.iter().filter(|d| **d > NEAR).count() as f64;
    let share = strays / distances.len().max(1) as f64;
    let measure = "share of parameters more than 0.02 learning rates off";
    report.bounded("after.* parameters", measure, share, STRAYS);
    let largest = distances.iter().fold(0.0f64, |m, d| m.max(*d));
    report.bounded("after.* parameters", "learning rates", largest, FAR);
    Ok(())
}

/// How far every parameter is from the file's, in learning rates of its group.
fn distances(
    file: &Tensors,
    layout: &Layout,
    params: &Params,
    zero: &[String],
    [lr, block_lr]: [f64; 2],
) -> Result<Vec<f64>> {
    let mut distances = Vec::new();
    for spec in layout.specs() {
        let trained = matches!(spec.kind, ParamKind::Weight | ParamKind::Fixed);
        if !trained || zero.contains(&spec.name) || spec.name.ends_with("K_points") {
            continue;
        }
        let id = layout.find(&spec.name).expect("a name of the layout");
        let rate = if spec.name.contains("blocks") {
            block_lr
        } else {
            lr
        };
        let want = file.get_f64(&format!("after.{}", spec.name))?;
        let pairs = params.get(id).iter().zip(want);
        distances.extend(pairs.map(|(got, want)| (f64::from(*got) - want).abs() / rate));
    }
    Ok(distances)
}
