//! Single layers: batch norm, grid pool, unpool. Each with running and with batch statistics, forward and backward.

use super::file::{ReferenceFile, buffer, trained};
use super::network::{GradientLimits, buffers, compare_gradients, largest};
use super::reference::Report;
use super::{Case, Recorded};
use crate::Result;
use crate::device::Array;
use crate::device::random::Random;
use crate::geometry::{Interpolation, Padding, Partition, Ragged, partition};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Params, Scope, Shape, Var};
use crate::nn::{BatchNorm, GridPool, Unpool, Upsampling};
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
    case.file.load(&mut params, "state.")?;
    Ok((layer, params))
}

/// A tensor `input.{name}` of the file.
pub(super) struct Input {
    pub name: &'static str,
    pub dims: Vec<usize>,
    values: Array<f32>,
}

impl Input {
    /// Reads the tensor, which has to have the shape `dims`.
    pub fn new(case: &Case<'_>, name: &'static str, dims: &[usize]) -> Result<Self> {
        let values = case.file.floats(&format!("input.{name}"), dims)?;
        Ok(Input {
            name,
            dims: dims.to_vec(),
            values: Array::from(values),
        })
    }
}

/// The tensor as a graph input whose gradient is kept.
pub(super) fn input(graph: &mut Graph<'_>, input: &Input) -> Result<Var> {
    let cols = input.dims.last().copied().unwrap_or(1);
    let shape = Shape::new(input.values.len() / cols.max(1), cols);
    let var = graph.input(input.values.clone(), shape)?;
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
        let layout = params.layout().clone();
        let mut gradients = Gradients::new(layout.clone(), case.device)?;
        let mut graph = Graph::new(params, mode, Random::new(0, 0));
        let recorded = record(&mut graph)?;
        let name = |kind: &str, n: &str| format!("{prefix}{kind}.{n}");
        let made = graph.shape(recorded.output);
        let (want, upstream) = outputs(case.file, prefix, output, made)?;
        let group = format!("{prefix}grad.param.");
        let wanted = case.file.of_parameters(&group, &layout, trained)?;
        graph.keep(recorded.output);
        graph.seed(recorded.output, Array::from(upstream))?;
        for (_, var) in &recorded.taps {
            graph.keep(*var);
        }
        let mut executor = Executor::new(case.device);
        let run = executor.run(&graph, Some(&mut gradients))?;
        let shape = |var: Var| [graph.shape(var).rows, graph.shape(var).cols];
        let taps = recorded.taps.iter().map(|tap| (tap.0, tap.1, shape(tap.1)));
        let taps: Vec<_> = taps.collect();
        drop(graph);
        report.relative(
            name("out", output),
            run.read(recorded.output),
            &want,
            limits.output,
        );
        for (tap, var, dims) in taps {
            let want = case.file.doubles(&name("inner", tap), &dims)?;
            report.relative(name("inner", tap), run.read(var), &want, limits.output);
        }
        for (input, dims, var) in &recorded.inputs {
            let name = name("grad.input", input);
            let got = run.gradient(*var).unwrap_or(&[]);
            report.relative(
                &name,
                got,
                &case.file.doubles(&name, dims)?,
                limits.gradient,
            );
        }
        let (zero, noise) = zero_list(case.file, &group)?;
        let all = GradientLimits {
            each: limits.gradient,
            median: limits.gradient,
            zero: limits.noise,
            zero_of_file: noise / largest(&wanted).max(f64::MIN_POSITIVE),
        };
        compare_gradients(&group, &wanted, &gradients, &zero, all, report);
        if mode == Mode::Training {
            let after = "train.buffer_after.";
            let after = case.file.of_parameters(after, &layout, buffer)?;
            run.commit(params)?;
            buffers(&after, params, limits.output, report);
        }
    }
    Ok(())
}

/// The tensor `out.{output}` under `prefix`, of any shape with as many values as the layer `made`, and the gradient that
/// flows back from there.
fn outputs(
    file: &ReferenceFile<'_>,
    prefix: &str,
    output: &str,
    made: Shape,
) -> Result<(Vec<f64>, Vec<f32>)> {
    let name = format!("{prefix}out.{output}");
    let dims = file.shape(&name)?;
    if dims.iter().product::<usize>() != made.len() {
        let fault = format!("the file holds {dims:?}, as many values as in {made} are needed");
        return Err(file.fault(&name, fault));
    }
    let upstream = file.floats(&format!("{prefix}upstream.{output}"), dims)?;
    Ok((file.doubles(&name, dims)?, upstream))
}

/// Parameters in the metadata's `zero_grad_f64` that lie under `prefix`, without it, and the largest value that the
/// official code gave there.
fn zero_list(file: &ReferenceFile<'_>, prefix: &str) -> Result<(Vec<String>, f64)> {
    let noise = file.metadata("noise")?;
    let names = noise["zero_grad_f64"].as_array().into_iter().flatten();
    let under = names.filter_map(|v| v.as_str()?.strip_prefix(prefix).map(String::from));
    let largest = noise["zero_grad_f32_noise"].as_f64();
    let fault = "tells no zero_grad_f32_noise";
    let largest = largest.ok_or_else(|| file.fault("metadata noise", fault))?;
    // rounded like the values
    Ok((under.collect(), 1.000_001 * largest))
}

/// Batch norm over rows or over pairs.
pub(super) fn batch_norm(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let [channels] = case.file.dims("state.norm.weight")?;
    let dims = case.file.shape("input.x")?;
    if dims.last() != Some(&channels) {
        let fault = format!("the file holds {dims:?}, rows of {channels} are needed");
        return Err(case.file.fault("input.x", fault));
    }
    let x = Input::new(case, "x", dims)?;
    let (norm, mut params) = load(case, |scope| Ok(BatchNorm::new(scope, channels)))?;
    let limits = Limits {
        output: 2e-6,
        gradient: 2e-6,
        noise: 2e-6,
    };
    both_modes(case, &mut params, "y", limits, report, |graph| {
        let var = input(graph, &x)?;
        let output = norm.record(graph, var, false)?;
        Ok(Recorded::new(output, &[(&x, var)]))
    })
}

fn integers(values: &[u32]) -> Vec<i64> {
    values.iter().map(|&v| i64::from(v)).collect()
}

/// Projection and partition pooling.
pub(super) fn grid_pool(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let coord = file.points("input.coord")?;
    let offsets = file.ends("input.offset", coord.len())?;
    let size = file.number("grid_size")? as f32;
    let [outputs, inputs] = file.dims("state.fc.weight")?;
    let feat = Input::new(case, "feat", &[coord.len(), inputs])?;
    let cells = Arc::new(partition::grid_on(case.device, &coord, &offsets, size)?);
    cell_lists(file, &cells, report)?;
    let (keys, _) = partition::cell_keys(&coord, &offsets, size)?;
    let mut keys: Vec<i64> = keys.into_iter().map(|key| key as i64).collect();
    report.equal("voxel_key", &keys, &file.list("voxel_key")?);
    keys.sort_unstable();
    keys.dedup();
    report.equal("unique_key", &keys, &file.list("unique_key")?);
    let (pool, mut params) = load(case, |scope| Ok(GridPool::new(scope, inputs, outputs)))?;
    let limits = Limits {
        output: 2e-6,
        gradient: 2e-6,
        noise: 2e-6,
    };
    both_modes(case, &mut params, "feat", limits, report, |graph| {
        let x = input(graph, &feat)?;
        let output = pool.record(graph, x, &cells)?;
        Ok(Recorded::new(output, &[(&feat, x)]))
    })
}

fn cell_lists(file: &ReferenceFile<'_>, cells: &Partition, report: &mut Report) -> Result<()> {
    let order = integers(&cells.members.index);
    report.equal("sorted_indices", &order, &file.list("sorted_indices")?);
    let starts = integers(&cells.members.offsets);
    report.equal("idx_ptr", &starts, &file.list("idx_ptr")?);
    let counts: Vec<i64> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    report.equal("counts", &counts, &file.list("counts")?);
    for prefix in ["eval", "train"] {
        let name = |n: &str| format!("{prefix}.out.{n}");
        let cluster = integers(&cells.cluster);
        report.equal(name("cluster"), &cluster, &file.list(&name("cluster"))?);
        let ends: Vec<i64> = cells.offsets[1..].iter().map(|&o| o as i64).collect();
        report.equal(name("offset"), &ends, &file.list(&name("offset"))?);
        let coord: Vec<f32> = cells.coord.iter().flatten().copied().collect();
        let want = file.matrix(&name("coord"))?;
        report.relative(name("coord"), &coord, &want, 2e-6);
    }
    Ok(())
}

/// Projection, upsampling by map or interpolation, skip connection.
pub(super) fn unpool(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let [outputs, inputs] = file.dims("state.proj.0.weight")?;
    let [_, skips] = file.dims("state.proj_skip.0.weight")?;
    let upsampling = upsampling(case)?;
    let (fine, coarse) = (
        file.points("input.skip_coord")?.len(),
        file.points("input.coord")?.len(),
    );
    let feat = Input::new(case, "feat", &[coarse, inputs])?;
    let skip_feat = Input::new(case, "skip_feat", &[fine, skips])?;
    let (layer, mut params) = load(case, |scope| Ok(Unpool::new(scope, inputs, skips, outputs)))?;
    let limits = Limits {
        output: 3e-6,
        gradient: 3e-6,
        noise: 3e-6,
    };
    both_modes(case, &mut params, "feat", limits, report, |graph| {
        let x = input(graph, &feat)?;
        let skip = input(graph, &skip_feat)?;
        let output = layer.record(graph, x, skip, &upsampling)?;
        Ok(Recorded::new(output, &[(&feat, x), (&skip_feat, skip)]))
    })
}

/// The way up that the metadata's `backend` names. The file holds what both need.
fn upsampling(case: &Case<'_>) -> Result<Upsampling> {
    let file = case.file;
    let fine = file.points("input.skip_coord")?;
    let fine_offsets = file.ends("input.skip_offset", fine.len())?;
    let coarse = file.points("input.coord")?;
    let coarse_offsets = file.ends("input.offset", coarse.len())?;
    let cluster = file.rows("input.cluster", &[fine.len()], coarse.len())?;
    match file.text("backend").map(|text| text.trim_matches('"')) {
        Some("interp") => Ok(Upsampling::Interpolate(Arc::new(Interpolation::on(
            case.device,
            (&fine, &fine_offsets),
            (&coarse, &coarse_offsets),
            Padding::LastRow,
        )?))),
        Some("map") => Ok(Upsampling::Map {
            members: Ragged::inverse(&cluster, coarse.len())?,
            cluster: Array::from(cluster),
        }),
        other => {
            let fault = format!("{other:?} is not map or interp");
            Err(file.fault("metadata backend", fault))
        }
    }
}
