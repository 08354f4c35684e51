//! Whole networks: inference, training forward, loss, every gradient, running statistics, one optimizer step.
//!
//! Three forms are run: the folded one for inference, the one with running statistics and a backward pass (its logits
//! must agree too), and the training one.

use super::Case;
use super::file::{ReferenceFile, Wanted, buffer, trained};
use super::recipe::adamw;
use super::reference::{Report, relative_l2};
use crate::Result;
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::{Executor, Gradients, Graph, Mode, ParamKind, Params, Shape};
use crate::models::{Geometry, Model, Network};
use crate::ops::CrossEntropy;
use crate::weights::load_state;
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
    /// None where a file for inference holds no labels.
    pub segment: Option<Array<i32>>,
}

impl Input {
    /// Reads `{prefix}coord`, `feat` with `channels` columns and `offset` (ends, without a leading 0). The labels are
    /// called `label.0`; they are below `label.1` or equal to `label.2`.
    pub fn read(
        file: &ReferenceFile<'_>,
        prefix: &str,
        channels: usize,
        label: Option<(&str, usize, i32)>,
    ) -> Result<Self> {
        let name = |n: &str| format!("{prefix}{n}");
        let coord = file.points(&name("coord"))?;
        let rows = coord.len();
        let segment = label
            .map(|(label, classes, ignored)| file.labels(&name(label), rows, classes, ignored));
        Ok(Input {
            feat: Array::from(file.floats(&name("feat"), &[rows, channels])?),
            offsets: file.ends(&name("offset"), rows)?,
            segment: segment.transpose()?,
            coord,
        })
    }

    pub fn shape(&self, network: &dyn Network) -> Shape {
        Shape::new(self.coord.len(), network.input_channels())
    }
}

/// Outputs of inference that a file holds.
struct Inference {
    /// Name of the stage, name and values of the tensor.
    stages: Vec<(String, String, Vec<f64>)>,
    logits: Vec<f64>,
    /// In double precision.
    exact: Option<Vec<f64>>,
    loss: Option<f64>,
}

/// What one training step of the official code gave.
struct Training {
    logits: Vec<f64>,
    exact: Vec<f64>,
    loss: f64,
    exact_loss: f64,
    buffers: Vec<Wanted>,
    gradients: Vec<Wanted>,
    /// Parameters after the optimizer step, in the order of the gradients.
    after: Vec<Wanted>,
}

impl Training {
    fn read(file: &ReferenceFile<'_>, model: &Model, rows: usize) -> Result<Self> {
        let layout = model.params.layout();
        let dims = [rows, model.network.classes()];
        Ok(Training {
            logits: file.doubles("train_logits", &dims)?,
            exact: file.doubles("train_logits_f64", &dims)?,
            loss: file.single("train_loss")?,
            exact_loss: file.single("train_loss_f64")?,
            buffers: file.of_parameters("buffer_after_forward.", layout, buffer)?,
            gradients: file.of_parameters("grad.", layout, trained)?,
            after: file.of_parameters("after_step.", layout, trained)?,
        })
    }
}

/// What a whole-network file is made for. Files for inference, which may do without weights, hold inputs and logits, and
/// may hold labels with the loss, and the outputs of all stages. Files for training hold everything: one tensor of a
/// training step is enough to make them ask for all.
#[derive(Debug, Clone, Copy)]
struct Contents {
    training: bool,
    labels: bool,
    stages: bool,
}

impl Contents {
    fn of(file: &ReferenceFile<'_>) -> Self {
        let any = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.any(prefix));
        let training = any(&["train_", "buffer_after_forward.", "grad.", "after_step."]);
        Contents {
            training,
            labels: training || any(&["input.segment", "eval_loss"]),
            stages: training || any(&["eval."]),
        }
    }
}

/// Checks one whole-network file.
pub(super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let model = model(case)?;
    let network = &*model.network;
    let contents = Contents::of(file);
    let ignored = file.ignored("ignore_index")?;
    let label = ("segment", network.classes(), ignored);
    let label = contents.labels.then_some(label);
    let input = Input::read(file, "input.", network.input_channels(), label)?;
    let rows = input.coord.len();
    let training_step = contents
        .training
        .then(|| Training::read(file, &model, rows));
    let training_step = training_step.transpose()?;
    let geometry = network.geometry(case.device, &input.coord, &input.offsets)?;
    let wanted = expected(file, &model, &geometry, rows, contents)?;
    if contents.stages {
        levels(case, &model, &geometry, report)?;
    }
    for mode in [Mode::Inference, Mode::Frozen] {
        inference(
            case,
            &model,
            (&input, ignored),
            &geometry,
            (mode, &wanted),
            report,
        )?;
    }
    match training_step {
        Some(wanted) => training(case, model, (&input, ignored), &geometry, &wanted, report),
        None => Ok(()),
    }
}

/// The network of the file with its state, which is that of `--weights` where one is given.
fn model(case: &Case<'_>) -> Result<Model> {
    let file = case.file;
    let mut model = Model::new(&file.metadata("config")?, case.device, 0)?;
    match case.weights {
        Some(weights) => {
            file.skip("state.");
            load_state(&mut model.params, weights)?;
        }
        None if file.any("state.") => file.load(&mut model.params, "state.")?,
        None => return Err(file.fault("state.*", "the file holds none; give --weights")),
    }
    Ok(model)
}

fn expected(
    file: &ReferenceFile<'_>,
    model: &Model,
    geometry: &Geometry,
    rows: usize,
    contents: Contents,
) -> Result<Inference> {
    let mut stages = Vec::new();
    if contents.stages {
        let mut names = vec!["patch_embed.feat".to_string()];
        for i in 1..model.network.levels(geometry).len() {
            names.extend(["enc", "dec"].map(|stage| format!("{stage}{}.feat", i - 1)));
        }
        for stage in names {
            let name = format!("eval.{stage}");
            let values = file.matrix(&name)?;
            stages.push((stage, name, values));
        }
    }
    let dims = [rows, model.network.classes()];
    let exact = contents.training || file.any("eval_logits_f64");
    let exact = exact.then(|| file.doubles("eval_logits_f64", &dims));
    Ok(Inference {
        stages,
        logits: file.doubles("eval_logits", &dims)?,
        exact: exact.transpose()?,
        loss: match contents.labels {
            true => Some(file.single("eval_loss")?),
            false => None,
        },
    })
}

fn levels(case: &Case<'_>, model: &Model, geometry: &Geometry, report: &mut Report) -> Result<()> {
    let file = case.file;
    for (i, level) in model.network.levels(geometry).iter().enumerate().skip(1) {
        let name = |n: &str| format!("eval.enc{}.{n}", i - 1);
        let coord: Vec<f32> = level.coord.iter().flatten().copied().collect();
        let want = file.matrix(&name("coord"))?;
        report.relative(name("coord"), &coord, &want, INFERENCE.0);
        let cluster: Vec<i64> = level.cluster.iter().map(|&c| i64::from(c)).collect();
        report.equal(name("cluster"), &cluster, &file.list(&name("cluster"))?);
        let ends: Vec<i64> = level.offsets[1..].iter().map(|&o| o as i64).collect();
        report.equal(name("offset"), &ends, &file.list(&name("offset"))?);
    }
    Ok(())
}

fn inference(
    case: &Case<'_>,
    model: &Model,
    (input, ignored): (&Input, i32),
    geometry: &Geometry,
    (mode, wanted): (Mode, &Inference),
    report: &mut Report,
) -> Result<()> {
    let mut graph = Graph::new(&model.params, mode, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    let mut compared = vec![("eval_logits", logits, &wanted.logits)];
    if let Some(exact) = &wanted.exact {
        compared.push(("eval_logits_f64", logits, exact));
    }
    for (stage, name, values) in &wanted.stages {
        let var = graph.tapped(stage);
        let var = var.ok_or_else(|| case.file.fault(name, "the network has no such stage"))?;
        compared.push((name.as_str(), var, values));
    }
    compared.iter().for_each(|(_, var, _)| graph.keep(*var));
    let loss = match (&input.segment, mode) {
        (Some(target), Mode::Frozen) => {
            let op = CrossEntropy::new(target.clone(), ignored);
            let loss = graph.push(op, &[logits])?;
            graph.keep(loss);
            Some(loss)
        }
        _ => None,
    };
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let form = match mode {
        Mode::Inference => "folded",
        _ => "unfolded",
    };
    for (name, var, want) in compared {
        let name = format!("{name} ({form})");
        report.relative(&name, run.read(var), want, INFERENCE.0);
        report.largest(name, run.read(var), want, INFERENCE.1);
    }
    if let (Some(loss), Some(want)) = (loss, wanted.loss) {
        report.ratio("eval_loss", f64::from(run.read(loss)[0]), want, LOSS);
    }
    Ok(())
}

fn training(
    case: &Case<'_>,
    mut model: Model,
    (input, ignored): (&Input, i32),
    geometry: &Geometry,
    wanted: &Training,
    report: &mut Report,
) -> Result<()> {
    let target = input.segment.clone();
    let target = target.expect("files for training are read with labels");
    let mut gradients = Gradients::new(model.params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&model.params, Mode::Training, Random::new(0, 0));
    let feat = graph.input(input.feat.clone(), input.shape(&*model.network))?;
    let logits = model.network.record(&mut graph, geometry, feat.into())?;
    let loss = graph.push(CrossEntropy::new(target, ignored), &[logits])?;
    graph.keep(logits);
    graph.keep(loss);
    graph.seed(loss, Array::from(vec![1.0]))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    drop(graph);
    report.relative("train_logits", run.read(logits), &wanted.logits, TRAINING);
    report.relative(
        "train_logits_f64",
        run.read(logits),
        &wanted.exact,
        TRAINING,
    );
    let got = f64::from(run.read(loss)[0]);
    report.ratio("train_loss", got, wanted.loss, LOSS);
    report.ratio("train_loss_f64", got, wanted.exact_loss, LOSS);
    run.commit(&mut model.params)?;
    buffers(&wanted.buffers, &model.params, LOSS, report);
    let zero = zero_gradients(&case.file.metadata("structurally_zero_grad")?);
    let limits = GradientLimits {
        each: GRADIENT.0,
        median: GRADIENT.1,
        zero: NOISE,
        zero_of_file: NOISE,
    };
    compare_gradients(
        "grad.",
        &wanted.gradients,
        &gradients,
        &zero,
        limits,
        report,
    );
    optimizer_steps(case, &model.params, &gradients, (wanted, &zero), report)
}

/// Compares running statistics and counters.
pub(super) fn buffers(wanted: &[Wanted], params: &Params, limit: f64, report: &mut Report) {
    for buffer in wanted {
        match params.layout().spec(buffer.id).kind {
            ParamKind::Counter => {
                let count = params.counter(buffer.id) as f64;
                report.equal(&buffer.name, &[count], &buffer.values);
            }
            _ => report.relative(&buffer.name, params.get(buffer.id), &buffer.values, limit),
        }
    }
}

/// Limits of a list of gradients.
#[derive(Debug, Clone, Copy)]
pub(super) struct GradientLimits {
    /// Of each.
    pub each: f64,
    /// Of the median.
    pub median: f64,
    /// Of those that should be zero, relative to the largest of the file.
    pub zero: f64,
    /// As `zero`, of the file's own, which are the noise of another program.
    pub zero_of_file: f64,
}

/// Compares all gradients, whose names begin with `prefix`; those called `zero` should be zero.
pub(super) fn compare_gradients(
    prefix: &str,
    wanted: &[Wanted],
    gradients: &Gradients,
    zero: &[String],
    limits: GradientLimits,
    report: &mut Report,
) {
    let largest = largest(wanted);
    let mut errors = Vec::new();
    for gradient in wanted {
        let (name, got, want) = (&gradient.name, gradients.get(gradient.id), &gradient.values);
        if zero.contains(&gradient.param) {
            report.zero(name, got, largest, limits.zero);
            let own: Vec<f32> = want.iter().map(|g| *g as f32).collect();
            report.zero(
                format!("{name} (the file's)"),
                &own,
                largest,
                limits.zero_of_file,
            );
        } else {
            report.relative(name, got, want, limits.each);
            errors.push(relative_l2(got, want));
        }
    }
    errors.sort_by(f64::total_cmp);
    if let Some(median) = errors.get(errors.len() / 2) {
        let name = format!("{prefix}* (median)");
        report.bounded(name, "median of relative L2", *median, limits.median);
    }
}

/// Largest absolute value of all gradients.
pub(super) fn largest(gradients: &[Wanted]) -> f64 {
    let values = gradients.iter().flat_map(|gradient| &gradient.values);
    values.fold(0.0, |m: f64, g| m.max(g.abs()))
}

/// One AdamW step on the file's gradients must give the file's parameters; with our own gradients, where they are not
/// noise.
fn optimizer_steps(
    case: &Case<'_>,
    params: &Params,
    gradients: &Gradients,
    (wanted, zero): (&Training, &[String]),
    report: &mut Report,
) -> Result<()> {
    let settings = case.file.metadata("optimizer")?;
    let floor = NOISE * largest(&wanted.gradients);
    for (gradient, after) in wanted.gradients.iter().zip(&wanted.after) {
        let given: Vec<f32> = gradient.values.iter().map(|g| *g as f32).collect();
        let (id, name, want) = (after.id, &after.name, &after.values);
        let stepped = adamw(case, &settings, params.get(id), &given)?;
        report.largest(format!("{name} (file's gradient)"), &stepped, want, 1e-6);
        if zero.contains(&after.param) {
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
