//! What surrounds the network in training: losses, optimizer, schedules, metrics, voxel sampling.

use super::Case;
use super::reference::Report;
use crate::cloud::augment;
use crate::cloud::voxel::{self, Voxels};
use crate::device::random::Random;
use crate::device::{Array, Memory};
use crate::geometry::MISSING;
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Op, Params, Shape};
use crate::ops::{CrossEntropy, LovaszSoftmax};
use crate::optim::{OptimizerConfig, Rate, Schedule};
use crate::train::metrics::Confusion;
use crate::{Error, Result};
use serde_json::Value;

/// A number of a JSON object.
pub(super) fn number(value: &Value, key: &str) -> Result<f64> {
    let found = value.get(key).and_then(Value::as_f64);
    found.ok_or_else(|| Error::weights(format!("metadata {key}"), "is not a number"))
}

/// The optimizer that a file's metadata describes.
pub(super) fn optimizer_of(settings: &Value, lr: f64, weight_decay: f64) -> OptimizerConfig {
    let beta = |i: usize, otherwise: f64| settings["betas"][i].as_f64().unwrap_or(otherwise);
    OptimizerConfig::AdamW {
        lr,
        betas: [beta(0, 0.9), beta(1, 0.999)],
        eps: settings["eps"].as_f64().unwrap_or(1e-8),
        weight_decay,
    }
}

/// The schedule that a file's metadata describes; milestones below 1 are shares, others steps of `total`.
pub(super) fn schedule_of(settings: &Value, total: u64) -> Result<Schedule> {
    let Some(milestones) = settings["milestones"].as_array() else {
        return Ok(Schedule::OneCycle {
            warm_up: number(settings, "pct_start")?,
            div: number(settings, "div_factor")?,
            final_div: number(settings, "final_div_factor")?,
            momentum: [0.85, 0.95],
        });
    };
    let share = |m: &Value| match m.as_f64() {
        Some(m) if m >= 1.0 => m / total as f64,
        other => other.unwrap_or(1.0),
    };
    Ok(Schedule::MultiStep {
        milestones: milestones.iter().map(share).collect(),
        gamma: number(settings, "gamma")?,
        warm_up_steps: settings["warmup_iters"].as_u64().unwrap_or(0),
        warm_up_ratio: settings["warmup_ratio"].as_f64().unwrap_or(1.0),
    })
}

/// One step of AdamW from zero moments with the settings of a file, on the device of the case.
pub(super) fn adamw(
    case: &Case<'_>,
    settings: &Value,
    start: &[f32],
    gradient: &[f32],
) -> Result<Vec<f32>> {
    let decay = number(settings, "weight_decay")?;
    let config = optimizer_of(settings, number(settings, "lr")?, decay);
    let mut values = Memory::of(case.device, start)?;
    let gradient = Memory::of(case.device, gradient)?;
    let whole = std::iter::once(0..start.len()).collect();
    config
        .build(case.device, start.len(), whole)?
        .step(&mut values, &gradient, config.base())?;
    values.fetch()?;
    Ok(values.host().to_vec())
}

/// Cross entropy and Lovász softmax with their gradients.
pub(super) fn losses(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let ignored = case.file.ignored("ignore_index")?;
    let [rows, classes] = case.file.dims("logits")?;
    let target = case.file.labels("target", rows, classes, ignored)?;
    let cross_entropy = CrossEntropy::new(target.clone(), ignored);
    loss(case, "ce", cross_entropy, report)?;
    let lovasz = LovaszSoftmax::new(target, ignored);
    loss(case, "lovasz", lovasz, report)
}

fn loss(case: &Case<'_>, name: &str, op: impl Op + 'static, report: &mut Report) -> Result<()> {
    let dims: [usize; 2] = case.file.dims("logits")?;
    let values = case.file.floats("logits", &dims)?;
    let params = Params::initial(Layout::default().into(), case.device, 0)?;
    let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let logits = graph.input(Array::from(values), Shape::new(dims[0], dims[1]))?;
    graph.keep_gradient(logits);
    let value = graph.push(op, &[logits])?;
    graph.keep(value);
    graph.seed(value, Array::from(vec![1.0]))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    let want = case.file.doubles(name, &[1])?;
    report.relative(name, run.read(value), &want, 2e-6);
    let name = format!("{name}_grad");
    let got = run.gradient(logits).unwrap_or(&[]);
    report.relative(&name, got, &case.file.doubles(&name, &dims)?, 2e-6);
    Ok(())
}

/// Steps of AdamW on two tensors, as many as the metadata says.
pub(super) fn optimizer(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let settings = file.metadata("adamw")?;
    let decay = number(&settings, "weight_decay")?;
    let config = optimizer_of(&settings, number(&settings, "lr")?, decay);
    let steps = number(&settings, "steps")? as u64;
    for tensor in 0..2 {
        let start = format!("p{tensor}.0");
        let dims = file.shape(&start)?;
        let mut values = Memory::of(case.device, &file.floats(&start, dims)?)?;
        let whole = std::iter::once(0..values.len()).collect();
        let mut rule = config.build(case.device, values.len(), whole)?;
        for step in 1..=steps {
            let name = |n: &str| format!("{n}{tensor}.{step}");
            let gradient = Memory::of(case.device, &file.floats(&name("g"), dims)?)?;
            rule.step(&mut values, &gradient, config.base())?;
            values.fetch()?;
            let want = file.doubles(&name("p"), dims)?;
            report.relative(name("p"), values.host(), &want, 1e-6);
            for ((_, list), n) in rule.state()?.into_iter().zip(["m", "v"]) {
                report.relative(name(n), list, &file.doubles(&name(n), dims)?, 1e-6);
            }
        }
    }
    Ok(())
}

/// Rates and first betas of MultiStep and OneCycle.
pub(super) fn schedules(case: &Case<'_>, report: &mut Report) -> Result<()> {
    for (name, rate, momentum) in [("multistep", "base_lr", 0.9), ("onecycle", "max_lr", 0.95)] {
        let settings = case.file.metadata(name)?;
        let list = |what: &str| format!("{name}.{what}");
        let [total] = case.file.dims(&list("lr"))?;
        if number(&settings, "total_steps")? != total as f64 {
            let fault = format!("the file holds [{total}], not the steps of the metadata");
            return Err(case.file.fault(&list("lr"), fault));
        }
        let steps = total as u64;
        let schedule = schedule_of(&settings, steps)?;
        let lr = number(&settings, rate)?;
        let rates: Vec<Rate> = (0..steps)
            .map(|step| schedule.at(step, steps, Rate { lr, momentum }))
            .collect();
        for (what, got) in [
            ("lr", rates.iter().map(|r| r.lr).collect::<Vec<f64>>()),
            ("beta1", rates.iter().map(|r| r.momentum).collect()),
        ] {
            let want = case.file.doubles(&list(what), &[total])?;
            report.ratios(list(what), &got, &want, 1e-12);
        }
    }
    Ok(())
}

/// Intersection, union, IoU and accuracy.
pub(super) fn metrics(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let classes = file.whole("num_classes")?;
    let [points] = file.dims("pred")?;
    let predicted = file.rows("pred", &[points], classes)?;
    if predicted.contains(&MISSING) {
        return Err(file.fault("pred", "-1 is no class"));
    }
    let target = file.labels("target", points, classes, file.ignored("ignore_index")?)?;
    let mut confusion = Confusion::new(classes);
    confusion.add(&predicted, &target);
    for (name, counts) in [
        ("intersection", confusion.intersection()),
        ("union", confusion.union()),
        ("target_count", confusion.target()),
    ] {
        let got: Vec<i64> = counts.into_iter().map(|x| x as i64).collect();
        report.equal(name, &got, &file.integers(name, &[classes])?);
    }
    let scores = confusion.scores();
    let summary = vec![scores.miou, scores.macc, scores.accuracy];
    for (name, got) in [
        ("iou_class", scores.iou),
        ("acc_class", scores.recall),
        ("summary", summary),
    ] {
        let want = file.doubles(name, &[got.len()])?;
        let distances = got.iter().zip(&want).map(|(g, w)| (g - w).abs());
        let worst = distances.fold(0.0, f64::max);
        report.bounded(name, "largest difference", worst, 1e-12);
    }
    Ok(())
}

/// Voxel cells, keys, order and fragments; centring and contrast.
pub(super) fn voxels(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let coord = file.points("coord")?;
    let size = file.number("grid_size")?;
    let dims = [coord.len(), 3];
    let cells = voxel::cells(&coord, size)?;
    let flat: Vec<i64> = cells.iter().flatten().copied().collect();
    report.equal("grid_coord", &flat, &file.integers("grid_coord", &dims)?);
    let keys: Vec<i64> = cells.iter().map(|&c| voxel::key(c) as i64).collect();
    report.equal("fnv_key_bits", &keys, &file.list("fnv_key_bits")?);
    let voxels = Voxels::new(&coord, size)?;
    let inverse: Vec<i64> = voxels.inverse().iter().map(|&v| i64::from(v)).collect();
    report.equal("voxel_of_point", &inverse, &file.list("voxel_of_point")?);
    let counts: Vec<i64> = (0..voxels.len())
        .map(|v| voxels.members(v).len() as i64)
        .collect();
    report.equal("voxel_count", &counts, &file.list("voxel_count")?);
    let sizes: Vec<i64> = (0..voxels.fragment_count())
        .map(|f| voxels.fragment(f).len() as i64)
        .collect();
    report.equal("fragment_sizes", &sizes, &file.list("fragment_sizes")?);
    let flat = |rows: &[[f32; 3]]| rows.iter().flatten().copied().collect::<Vec<_>>();
    for (name, z) in [("center_shift_z", true), ("center_shift_noz", false)] {
        let mut moved = coord.clone();
        augment::center_shift(&mut moved, z);
        report.relative(name, &flat(&moved), &file.doubles(name, &dims)?, 1e-6);
    }
    let mut color = file.points("color255")?;
    augment::auto_contrast(&mut color, 0.37);
    let name = "auto_contrast_0.37";
    report.relative(name, &flat(&color), &file.doubles(name, &dims)?, 1e-6);
    Ok(())
}
