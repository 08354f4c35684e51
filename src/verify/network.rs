//! Whole networks: inference, training forward, loss, every gradient, running statistics, one optimizer step.
//!
//! Three forms are run: the folded one for inference, the one with running statistics and a backward pass (its logits
//! must agree too), and the training one.

use super::Case;
use super::recipe::adamw;
use super::reference::{Report, relative_l2};
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::{Executor, Gradients, Graph, Mode, Params, Shape};
use crate::models::{Geometry, Model, Network};
use crate::ops::CrossEntropy;
use crate::weights::{Tensors, load_state};
use crate::{Error, Result};
use serde_json::Value;

/// Stage outputs and inference logits, relative L2 and largest difference.
const INFERENCE: (f64, f64) = (1e-5, 2e-5);
/// Training logits.
const TRAINING: f64 = 1e-4;
/// Losses and running statistics.
const LOSS: f64 = 1e-5;
/// Each gradient, and the median over all.
const GRADIENT: (f64, f64) = (5e-3, 1e-3);
/// Gradients whose exact value is 0, and entries left out after the optimizer step, against the largest gradient.
const NOISE: f64 = 1e-4;

/// A network built from the file's metadata, with its state.
pub(super) fn load(case: &Case<'_>, config: &Value, state: &Tensors) -> Result<Model> {
    let mut model = Model::new(config, case.device, 0)?;
    load_state(&mut model.params, state)?;
    Ok(model)
}

/// A metadata string parsed as JSON.
pub(super) fn metadata(file: &Tensors, key: &str) -> Result<Value> {
    let text = file
        .metadata
        .get(key)
        .ok_or_else(|| Error::weights(format!("metadata {key}"), "is missing from the file"))?;
    serde_json::from_str(text)
        .map_err(|e| Error::weights(format!("metadata {key}"), format!("is not JSON: {e}")))
}

/// Names in the metadata list `structurally_zero_grad`.
pub(super) fn zero_gradients(value: &Value) -> Vec<String> {
    let names = value.as_array().into_iter().flatten();
    names.filter_map(|v| v.as_str().map(String::from)).collect()
}

/// Points, features and targets of one batch.
pub(super) struct Input {
    pub coord: Vec<[f32; 3]>,
    pub feat: Array<f32>,
    pub offsets: Vec<usize>,
    pub segment: Option<Array<i32>>,
}

impl Input {
    /// Reads `{prefix}coord`, `feat`, `offset` (ends, without a leading 0) and `segment`.
    pub fn read(file: &Tensors, prefix: &str) -> Result<Self> {
        let name = |n: &str| format!("{prefix}{n}");
        let coord = file.get_f32(&name("coord"))?;
        let mut offsets = vec![0usize];
        for end in file.get_i64(&name("offset"))? {
            offsets.push(usize::try_from(end).map_err(|_| {
                Error::weights(name("offset"), format!("{end} is not a number of points"))
            })?);
        }
        let segment = match file.get(&name("segment")) {
            None => None,
            Some(_) => {
                let labels = file.get_i64(&name("segment"))?;
                Some(Array::from(
                    labels.iter().map(|&l| l as i32).collect::<Vec<_>>(),
                ))
            }
        };
        Ok(Input {
            coord: coord.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect(),
            feat: Array::from(file.get_f32(&name("feat"))?),
            offsets,
            segment,
        })
    }

    pub fn shape(&self, network: &dyn Network) -> Shape {
        Shape::new(self.coord.len(), network.input_channels())
    }
}

/// The class number that the loss ignores.
fn ignored(file: &Tensors) -> i32 {
    let text = file.metadata.get("ignore_index");
    text.and_then(|t| t.parse().ok()).unwrap_or(-1)
}

/// Checks one whole-network file.
pub(super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let config = metadata(case.file, "config")?;
    let own = case.file.with_prefix("state.");
    let state = match (case.weights, own.is_empty()) {
        (Some(weights), _) => weights,
        (None, false) => &own,
        (None, true) => {
            return Err(Error::weights(
                "state.*",
                "the file holds none; give --weights",
            ));
        }
    };
    let model = load(case, &config, state)?;
    let input = Input::read(case.file, "input.")?;
    let geometry = model
        .network
        .geometry(case.device, &input.coord, &input.offsets)?;
    levels(case, &model, &geometry, report)?;
    inference(case, &model, &input, &geometry, Mode::Inference, report)?;
    inference(case, &model, &input, &geometry, Mode::Frozen, report)?;
    if case.file.get("train_logits").is_some() {
        training(case, model, &input, &geometry, report)?;
    }
    Ok(())
}

fn levels(case: &Case<'_>, model: &Model, geometry: &Geometry, report: &mut Report) -> Result<()> {
    for (i, level) in model.network.levels(geometry).iter().enumerate().skip(1) {
        let name = |n: &str| format!("eval.enc{}.{n}", i - 1);
        if case.file.get(&name("coord")).is_none() {
            continue;
        }
        let coord: Vec<f32> = level.coord.iter().flatten().copied().collect();
        report.relative(
            name("coord"),
            &coord,
            &case.file.get_f64(&name("coord"))?,
            INFERENCE.0,
        );
        let cluster: Vec<i64> = level.cluster.iter().map(|&c| i64::from(c)).collect();
        report.equal(
            name("cluster"),
            &cluster,
            &case.file.get_i64(&name("cluster"))?,
        );
        let ends: Vec<i64> = level.offsets[1..].iter().map(|&o| o as i64).collect();
        report.equal(name("offset"), &ends, &case.file.get_i64(&name("offset"))?);
    }
    Ok(())
}

fn inference(
    case: &Case<'_>,
    model: &Model,
    input: &Input,
    geometry: &Geometry,
    mode: Mode,
    report: &mut Report,
) -> Result<()> {
    let mut graph = Graph::new(&model.params, mode, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    graph.keep(logits);
    let stages = case.file.iter().map(|(name, _)| name);
    let mut wanted = vec![("eval_logits".to_string(), logits)];
    for name in stages.filter(|n| n.starts_with("eval.") && n.ends_with(".feat")) {
        if let Some(var) = graph.tapped(&name["eval.".len()..]) {
            graph.keep(var);
            wanted.push((name.to_string(), var));
        }
    }
    let loss = match (&input.segment, mode) {
        (Some(target), Mode::Frozen) => {
            let op = CrossEntropy::new(target.clone(), ignored(case.file));
            let loss = graph.push(op, &[logits])?;
            graph.keep(loss);
            Some(loss)
        }
        _ => None,
    };
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let form = if mode == Mode::Inference {
        "folded"
    } else {
        "unfolded"
    };
    for (name, var) in wanted {
        let want = case.file.get_f64(&name)?;
        report.relative(
            format!("{name} ({form})"),
            run.read(var),
            &want,
            INFERENCE.0,
        );
        report.largest(
            format!("{name} ({form})"),
            run.read(var),
            &want,
            INFERENCE.1,
        );
    }
    if let (Some(loss), Some(want)) = (loss, case.file.get("eval_loss")) {
        report.ratio(
            "eval_loss",
            f64::from(run.read(loss)[0]),
            want.to_f64()[0],
            LOSS,
        );
    }
    Ok(())
}

fn training(
    case: &Case<'_>,
    mut model: Model,
    input: &Input,
    geometry: &Geometry,
    report: &mut Report,
) -> Result<()> {
    let target = input
        .segment
        .clone()
        .ok_or_else(|| Error::weights("input.segment", "is missing from the file"))?;
    let mut gradients = Gradients::new(model.params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&model.params, Mode::Training, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    let loss = graph.push(CrossEntropy::new(target, ignored(case.file)), &[logits])?;
    graph.keep(logits);
    graph.keep(loss);
    graph.seed(loss, Array::from(vec![1.0]))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    drop(graph);
    let want = case.file.get_f64("train_logits")?;
    report.relative("train_logits", run.read(logits), &want, TRAINING);
    let got = f64::from(run.read(loss)[0]);
    report.ratio("train_loss", got, case.file.get_f64("train_loss")?[0], LOSS);
    run.commit(&mut model.params)?;
    buffers(
        case.file,
        "buffer_after_forward.",
        &model.params,
        LOSS,
        report,
    )?;
    let zero = zero_gradients(&metadata(case.file, "structurally_zero_grad")?);
    let limits = (GRADIENT.0, GRADIENT.1, NOISE);
    compare_gradients(case.file, "grad.", &gradients, &zero, limits, report)?;
    optimizer_steps(case, &model.params, &gradients, &zero, report)
}

/// Compares running statistics and counters with the tensors under `prefix`.
pub(super) fn buffers(
    file: &Tensors,
    prefix: &str,
    params: &Params,
    limit: f64,
    report: &mut Report,
) -> Result<()> {
    for (name, tensor) in file.iter() {
        let Some(id) = name
            .strip_prefix(prefix)
            .and_then(|n| params.layout().find(n))
        else {
            continue;
        };
        match tensor.to_i64() {
            Some(count) => report.equal(name, &[params.counter(id)], &count),
            None => report.relative(name, params.get(id), &tensor.to_f64(), limit),
        }
    }
    Ok(())
}

/// Compares every gradient under `prefix`; `limits` are those of each gradient, of the median, and of the ones that
/// should be zero relative to the largest of the file.
pub(super) fn compare_gradients(
    file: &Tensors,
    prefix: &str,
    gradients: &Gradients,
    zero: &[String],
    limits: (f64, f64, f64),
    report: &mut Report,
) -> Result<()> {
    let largest = largest_gradient(file, prefix);
    let layout = gradients.layout();
    let mut errors = Vec::new();
    for (name, tensor) in file.iter() {
        let Some(param) = name.strip_prefix(prefix) else {
            continue;
        };
        let id = layout
            .find(param)
            .ok_or_else(|| Error::weights(name, "the network has no such parameter"))?;
        let (got, want) = (gradients.get(id), tensor.to_f64());
        if zero.iter().any(|z| z == param) {
            report.zero(name, got, largest, limits.2);
        } else {
            report.relative(name, got, &want, limits.0);
            errors.push(relative_l2(got, &want));
        }
    }
    errors.sort_by(f64::total_cmp);
    if let Some(median) = errors.get(errors.len() / 2) {
        let name = format!("{prefix}* (median)");
        report.bounded(name, "median of relative L2", *median, limits.1);
    }
    Ok(())
}

/// Largest absolute value over all tensors under `prefix`.
pub(super) fn largest_gradient(file: &Tensors, prefix: &str) -> f64 {
    let tensors = file.iter().filter(|(name, _)| name.starts_with(prefix));
    tensors
        .flat_map(|(_, t)| t.to_f64())
        .fold(0.0, |m: f64, g| m.max(g.abs()))
}

/// One AdamW step on the file's gradients must give the file's parameters; with our own gradients, where they are not
/// noise.
fn optimizer_steps(
    case: &Case<'_>,
    params: &Params,
    gradients: &Gradients,
    zero: &[String],
    report: &mut Report,
) -> Result<()> {
    let settings = metadata(case.file, "optimizer")?;
    let floor = NOISE * largest_gradient(case.file, "grad.");
    for (name, tensor) in case.file.iter() {
        let Some(param) = name.strip_prefix("after_step.") else {
            continue;
        };
        let Some(id) = params.layout().find(param) else {
            continue;
        };
        let given = case.file.get_f32(&format!("grad.{param}"))?;
        let want = tensor.to_f64();
        let stepped = adamw(case, &settings, params.get(id), &given)?;
        report.largest(format!("{name} (file's gradient)"), &stepped, &want, 1e-6);
        if zero.iter().any(|z| z == param) {
            continue;
        }
        let own = adamw(case, &settings, params.get(id), gradients.get(id))?;
        let clear: Vec<usize> = (0..given.len())
            .filter(|&i| f64::from(given[i].abs()) > floor)
            .collect();
        let got: Vec<f32> = clear.iter().map(|&i| own[i]).collect();
        let want: Vec<f64> = clear.iter().map(|&i| want[i]).collect();
        if !clear.is_empty() {
            report.largest(format!("{name} (own gradient)"), &got, &want, 1e-4);
        }
    }
    Ok(())
}
