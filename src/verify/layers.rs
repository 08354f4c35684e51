//! Single layers: batch norm, grid pool, unpool. Each with running and with batch statistics, forward and backward.

use super::network::{buffers, compare_gradients, metadata};
use super::reference::Report;
use super::{Case, Recorded};
use crate::device::Array;
use crate::device::random::Random;
use crate::geometry::{Interpolation, Padding, Ragged, partition};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Params, Scope, Shape, Var};
use crate::nn::{BatchNorm, GridPool, Unpool, Upsampling};
use crate::weights::{Tensors, load_state};
use crate::{Error, Result};
use std::sync::Arc;

/// Limits of one layer: outputs, gradients, and gradients that should be zero against the largest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub output: f64,
    pub gradient: f64,
    pub noise: f64,
}

/// A registered layer with the file's state.
pub(super) fn load<L>(
    case: &Case<'_>,
    make: impl FnOnce(&mut Scope<'_>) -> Result<L>,
) -> Result<(L, Params)> {
    let mut layout = Layout::default();
    let layer = make(&mut Scope::root(&mut layout))?;
    let mut params = Params::initial(Arc::new(layout), case.device, 0)?;
    load_state(&mut params, &case.file.with_prefix("state."))?;
    Ok((layer, params))
}

/// The file's tensor as a graph input whose gradient is kept.
pub(super) fn input(graph: &mut Graph<'_>, file: &Tensors, name: &str) -> Result<Var> {
    let tensor = file.require(name)?;
    let (cols, rows) = tensor
        .dims()
        .split_last()
        .map(|(cols, rest)| (*cols, rest.iter().product()))
        .ok_or_else(|| Error::weights(name, "is a scalar, a matrix is needed"))?;
    let var = graph.input(Array::from(tensor.to_f32()), Shape::new(rows, cols))?;
    graph.keep_gradient(var);
    Ok(var)
}

/// Runs a layer with running (`eval.`) and batch (`train.`) statistics and compares output, gradients and buffers.
pub(super) fn both_modes(
    case: &Case<'_>,
    params: &mut Params,
    output: &str,
    limits: Limits,
    report: &mut Report,
    record: impl Fn(&mut Graph<'_>) -> Result<Recorded>,
) -> Result<()> {
    for (prefix, mode) in [("eval.", Mode::Frozen), ("train.", Mode::Training)] {
        if case.file.get(&format!("{prefix}out.{output}")).is_none() {
            continue;
        }
        let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
        let mut graph = Graph::new(params, mode, Random::new(0, 0));
        let recorded = record(&mut graph)?;
        let upstream = case.file.get_f32(&format!("{prefix}upstream.{output}"))?;
        graph.keep(recorded.output);
        graph.seed(recorded.output, Array::from(upstream))?;
        for (_, var) in &recorded.taps {
            graph.keep(*var);
        }
        let mut executor = Executor::new(case.device);
        let run = executor.run(&graph, Some(&mut gradients))?;
        drop(graph);
        let name = format!("{prefix}out.{output}");
        let want = case.file.get_f64(&name)?;
        report.relative(name, run.read(recorded.output), &want, limits.output);
        for (name, var) in &recorded.taps {
            let name = format!("{prefix}inner.{name}");
            if let Some(want) = case.file.get(&name) {
                report.relative(name, run.read(*var), &want.to_f64(), limits.output);
            }
        }
        for (name, var) in &recorded.inputs {
            let name = format!("{prefix}grad.input.{name}");
            let got = run.gradient(*var).unwrap_or(&[]);
            report.relative(&name, got, &case.file.get_f64(&name)?, limits.gradient);
        }
        let zero = zero_list(case.file, &format!("{prefix}grad.param."));
        let all = (limits.gradient, limits.gradient, limits.noise);
        let group = format!("{prefix}grad.param.");
        compare_gradients(case.file, &group, &gradients, &zero, all, report)?;
        if mode == Mode::Training {
            run.commit(params)?;
            buffers(
                case.file,
                "train.buffer_after.",
                params,
                limits.output,
                report,
            )?;
        }
    }
    Ok(())
}

/// Parameters in the metadata's `zero_grad_f64` that lie under `prefix`, without it.
fn zero_list(file: &Tensors, prefix: &str) -> Vec<String> {
    let Ok(noise) = metadata(file, "noise") else {
        return Vec::new();
    };
    let names = noise["zero_grad_f64"].as_array().into_iter().flatten();
    names
        .filter_map(|v| v.as_str()?.strip_prefix(prefix).map(String::from))
        .collect()
}

/// Offsets with a leading 0 from the file's list of ends.
pub(super) fn offsets(file: &Tensors, name: &str) -> Result<Vec<usize>> {
    let ends = file.get_i64(name)?;
    Ok(std::iter::once(0)
        .chain(ends.iter().map(|&e| e as usize))
        .collect())
}

/// Rows of three.
pub(super) fn points(file: &Tensors, name: &str) -> Result<Vec<[f32; 3]>> {
    let values = file.get_f32(name)?;
    Ok(values.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect())
}

/// Batch norm over rows or over pairs.
pub(super) fn batch_norm(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let channels = case.file.require("state.norm.weight")?.len();
    let (norm, mut params) = load(case, |scope| Ok(BatchNorm::new(scope, channels)))?;
    let limits = Limits {
        output: 2e-6,
        gradient: 2e-6,
        noise: 2e-6,
    };
    both_modes(case, &mut params, "y", limits, report, |graph| {
        let x = input(graph, case.file, "input.x")?;
        let output = norm.record(graph, x, false)?;
        Ok(Recorded::new(output, &[("x", x)]))
    })
}

/// Projection and partition pooling.
pub(super) fn grid_pool(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let coord = points(case.file, "input.coord")?;
    let offsets = offsets(case.file, "input.offset")?;
    let size = metadata(case.file, "grid_size")?
        .as_f64()
        .ok_or_else(|| Error::weights("metadata grid_size", "is not a number"))?;
    let cells = Arc::new(partition::grid_on(
        case.device,
        &coord,
        &offsets,
        size as f32,
    )?);
    let integers = |values: &[u32]| values.iter().map(|&v| i64::from(v)).collect::<Vec<_>>();
    let order = integers(&cells.members.index);
    report.equal(
        "sorted_indices",
        &order,
        &case.file.get_i64("sorted_indices")?,
    );
    let starts = integers(&cells.members.offsets);
    report.equal("idx_ptr", &starts, &case.file.get_i64("idx_ptr")?);
    let counts: Vec<i64> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    report.equal("counts", &counts, &case.file.get_i64("counts")?);
    for prefix in ["eval", "train"] {
        let name = |n: &str| format!("{prefix}.out.{n}");
        let cluster = integers(&cells.cluster);
        report.equal(
            name("cluster"),
            &cluster,
            &case.file.get_i64(&name("cluster"))?,
        );
        let ends: Vec<i64> = cells.offsets[1..].iter().map(|&o| o as i64).collect();
        report.equal(name("offset"), &ends, &case.file.get_i64(&name("offset"))?);
        let coord: Vec<f32> = cells.coord.iter().flatten().copied().collect();
        report.relative(
            name("coord"),
            &coord,
            &case.file.get_f64(&name("coord"))?,
            2e-6,
        );
    }
    let dims = case.file.require("state.fc.weight")?.dims().to_vec();
    let (pool, mut params) = load(case, |scope| Ok(GridPool::new(scope, dims[1], dims[0])))?;
    let limits = Limits {
        output: 2e-6,
        gradient: 2e-6,
        noise: 2e-6,
    };
    both_modes(case, &mut params, "feat", limits, report, |graph| {
        let x = input(graph, case.file, "input.feat")?;
        let output = pool.record(graph, x, &cells)?;
        Ok(Recorded::new(output, &[("feat", x)]))
    })
}

/// Projection, upsampling by map or interpolation, skip connection.
pub(super) fn unpool(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let text = |key: &str| {
        case.file
            .metadata
            .get(key)
            .map(|t| t.trim_matches('"').to_string())
    };
    let fine = points(case.file, "input.skip_coord")?;
    let fine_offsets = offsets(case.file, "input.skip_offset")?;
    let coarse = points(case.file, "input.coord")?;
    let coarse_offsets = offsets(case.file, "input.offset")?;
    let upsampling = match text("backend").as_deref() {
        Some("interp") => Upsampling::Interpolate(Arc::new(Interpolation::on(
            case.device,
            (&fine, &fine_offsets),
            (&coarse, &coarse_offsets),
            Padding::LastRow,
        )?)),
        Some("map") => {
            let cluster = case.file.get_i64("input.cluster")?;
            let cluster: Vec<u32> = cluster.iter().map(|&c| c as u32).collect();
            Upsampling::Map {
                members: Ragged::inverse(&cluster, coarse.len())?,
                cluster: Array::from(cluster),
            }
        }
        other => {
            let fault = format!("{other:?} is not map or interp");
            return Err(Error::weights("metadata backend", fault));
        }
    };
    let inputs = case.file.require("state.proj.0.weight")?.dims().to_vec();
    let skip = case.file.require("state.proj_skip.0.weight")?.dims()[1];
    let (layer, mut params) = load(case, |scope| {
        Ok(Unpool::new(scope, inputs[1], skip, inputs[0]))
    })?;
    let limits = Limits {
        output: 3e-6,
        gradient: 3e-6,
        noise: 3e-6,
    };
    both_modes(case, &mut params, "feat", limits, report, |graph| {
        let x = input(graph, case.file, "input.feat")?;
        let skip = input(graph, case.file, "input.skip_feat")?;
        let output = layer.record(graph, x, skip, &upsampling)?;
        Ok(Recorded::new(output, &[("feat", x), ("skip_feat", skip)]))
    })
}
