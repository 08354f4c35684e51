//! What surrounds the network in training: losses, optimizer, schedules, metrics, voxel sampling.

use super::Case;
use super::layers::points;
use super::network::metadata;
use super::reference::Report;
use crate::cloud::augment;
use crate::cloud::voxel::{self, Voxels};
use crate::device::random::Random;
use crate::device::{Array, Memory};
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
    let target = case.file.get_i64("target")?;
    let target = Array::from(target.iter().map(|&t| t as i32).collect::<Vec<_>>());
    let ignore = case.file.metadata.get("ignore_index");
    let ignore = ignore.and_then(|t| t.parse().ok()).unwrap_or(-1);
    let cross_entropy = CrossEntropy::new(target.clone(), ignore);
    loss(case, "ce", cross_entropy, report)?;
    loss(case, "lovasz", LovaszSoftmax::new(target, ignore), report)
}

fn loss(case: &Case<'_>, name: &str, op: impl Op + 'static, report: &mut Report) -> Result<()> {
    let tensor = case.file.require("logits")?;
    let shape = Shape::new(tensor.dims()[0], tensor.dims()[1]);
    let params = Params::initial(Layout::default().into(), case.device, 0)?;
    let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let logits = graph.input(Array::from(tensor.to_f32()), shape)?;
    graph.keep_gradient(logits);
    let value = graph.push(op, &[logits])?;
    graph.keep(value);
    graph.seed(value, Array::from(vec![1.0]))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    report.relative(name, run.read(value), &case.file.get_f64(name)?, 2e-6);
    let name = format!("{name}_grad");
    let got = run.gradient(logits).unwrap_or(&[]);
    report.relative(&name, got, &case.file.get_f64(&name)?, 2e-6);
    Ok(())
}

/// Five steps of AdamW on two tensors.
pub(super) fn optimizer(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let settings = metadata(file, "adamw")?;
    let decay = number(&settings, "weight_decay")?;
    let config = optimizer_of(&settings, number(&settings, "lr")?, decay);
    for tensor in 0..2 {
        let mut values = Memory::of(case.device, &file.get_f32(&format!("p{tensor}.0"))?)?;
        let whole = std::iter::once(0..values.len()).collect();
        let mut rule = config.build(case.device, values.len(), whole)?;
        for step in 1.. {
            let name = |n: &str| format!("{n}{tensor}.{step}");
            if file.get(&name("p")).is_none() {
                break;
            }
            let gradient = Memory::of(case.device, &file.get_f32(&name("g"))?)?;
            rule.step(&mut values, &gradient, config.base())?;
            values.fetch()?;
            report.relative(name("p"), values.host(), &file.get_f64(&name("p"))?, 1e-6);
            for ((_, list), n) in rule.state()?.into_iter().zip(["m", "v"]) {
                report.relative(name(n), list, &file.get_f64(&name(n))?, 1e-6);
            }
        }
    }
    Ok(())
}

/// Rates and first betas of MultiStep and OneCycle.
pub(super) fn schedules(case: &Case<'_>, report: &mut Report) -> Result<()> {
    for (name, rate, momentum) in [("multistep", "base_lr", 0.9), ("onecycle", "max_lr", 0.95)] {
        let settings = metadata(case.file, name)?;
        let total = number(&settings, "total_steps")? as u64;
        let schedule = schedule_of(&settings, total)?;
        let lr = number(&settings, rate)?;
        let rates: Vec<Rate> = (0..total)
            .map(|step| schedule.at(step, total, Rate { lr, momentum }))
            .collect();
        let mut compare = |what: &str, got: Vec<f64>| -> Result<()> {
            let want = case.file.get_f64(&format!("{name}.{what}"))?;
            let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs() / w.abs());
            let worst = worst.fold(0.0, f64::max);
            let worst = if got.len() == want.len() {
                worst
            } else {
                f64::INFINITY
            };
            report.bounded(format!("{name}.{what}"), "largest relative", worst, 1e-12);
            Ok(())
        };
        compare("lr", rates.iter().map(|r| r.lr).collect())?;
        compare("beta1", rates.iter().map(|r| r.momentum).collect())?;
    }
    Ok(())
}

/// Intersection, union, IoU and accuracy.
pub(super) fn metrics(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let classes = number(&metadata_object(file, "num_classes")?, "num_classes")? as usize;
    let list = |name: &str| -> Result<Vec<i32>> {
        Ok(file.get_i64(name)?.iter().map(|&x| x as i32).collect())
    };
    let mut confusion = Confusion::new(classes);
    let predicted: Vec<u32> = list("pred")?.iter().map(|&p| p as u32).collect();
    confusion.add(&predicted, &list("target")?);
    let signed = |v: Vec<u64>| v.into_iter().map(|x| x as i64).collect::<Vec<_>>();
    report.equal(
        "intersection",
        &signed(confusion.intersection()),
        &file.get_i64("intersection")?,
    );
    report.equal("union", &signed(confusion.union()), &file.get_i64("union")?);
    report.equal(
        "target_count",
        &signed(confusion.target()),
        &file.get_i64("target_count")?,
    );
    let scores = confusion.scores();
    let summary = [scores.miou, scores.macc, scores.accuracy];
    for (name, got) in [
        ("iou_class", scores.iou),
        ("acc_class", scores.recall),
        ("summary", summary.to_vec()),
    ] {
        let want = file.get_f64(name)?;
        let worst = got
            .iter()
            .zip(&want)
            .map(|(g, w)| (g - w).abs())
            .fold(0.0, f64::max);
        let worst = if got.len() == want.len() {
            worst
        } else {
            f64::INFINITY
        };
        report.bounded(name, "largest difference", worst, 1e-12);
    }
    Ok(())
}

fn metadata_object(file: &crate::weights::Tensors, key: &str) -> Result<Value> {
    Ok(serde_json::json!({ key: metadata(file, key)? }))
}

/// Voxel cells, keys, order and fragments; centring and contrast.
pub(super) fn voxels(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let coord = points(file, "coord")?;
    let size = number(&metadata_object(file, "grid_size")?, "grid_size")?;
    let cells = voxel::cells(&coord, size)?;
    let flat: Vec<i64> = cells.iter().flatten().copied().collect();
    report.equal("grid_coord", &flat, &file.get_i64("grid_coord")?);
    let keys: Vec<i64> = cells.iter().map(|&c| voxel::key(c) as i64).collect();
    report.equal("fnv_key_bits", &keys, &file.get_i64("fnv_key_bits")?);
    let voxels = Voxels::new(&coord, size)?;
    let inverse: Vec<i64> = voxels.inverse().iter().map(|&v| i64::from(v)).collect();
    report.equal("voxel_of_point", &inverse, &file.get_i64("voxel_of_point")?);
    let counts: Vec<i64> = (0..voxels.len())
        .map(|v| voxels.members(v).len() as i64)
        .collect();
    report.equal("voxel_count", &counts, &file.get_i64("voxel_count")?);
    let sizes: Vec<i64> = (0..voxels.fragment_count())
        .map(|f| voxels.fragment(f).len() as i64)
        .collect();
    report.equal("fragment_sizes", &sizes, &file.get_i64("fragment_sizes")?);
    let flat = |rows: &[[f32; 3]]| rows.iter().flatten().copied().collect::<Vec<_>>();
    for (name, z) in [("center_shift_z", true), ("center_shift_noz", false)] {
        let mut moved = coord.clone();
        augment::center_shift(&mut moved, z);
        report.relative(name, &flat(&moved), &file.get_f64(name)?, 1e-6);
    }
    let mut color = points(file, "color255")?;
    augment::auto_contrast(&mut color, 0.37);
    let name = "auto_contrast_0.37";
    report.relative(name, &flat(&color), &file.get_f64(name)?, 1e-6);
    Ok(())
}
