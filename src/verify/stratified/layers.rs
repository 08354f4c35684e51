//! Single layers: window attention, a block, kernel point layers, the ways down and up.

use super::super::Case;
use super::super::layers::{input, offsets, points};
use super::super::reference::Report;
use super::network::{furthest, statistics};
use super::number;
use super::steps::{Sibling, pairs};
use crate::device::Array;
use crate::device::random::Random;
use crate::geometry::{
    Interpolation, MISSING, Neighbors, Padding, SearchTree, Windows, farthest_points, knn_on,
    ratio_counts,
};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Params, Scope, Shape, Var};
use crate::nn::{
    KernelPointBlock, KernelPointResidual, TransitionDown, Upsample, WindowBlock, WindowBlockConfig,
};
use crate::ops::{self, PositionTables};
use crate::weights::load_state;
use crate::{Error, Result};
use std::sync::Arc;

/// A registered layer with the state that the file holds under `prefix`.
fn load<L>(
    case: &Case<'_>,
    prefix: &str,
    make: impl FnOnce(&mut Scope<'_>) -> Result<L>,
) -> Result<(L, Params)> {
    let mut layout = Layout::default();
    let layer = make(&mut Scope::root(&mut layout))?;
    let mut params = Params::initial(Arc::new(layout), case.device, 0)?;
    load_state(&mut params, &case.file.with_prefix(prefix))?;
    Ok((layer, params))
}

/// A value compared with a tensor of the file: its name, the value, and the largest difference allowed.
type Wanted<'a> = (&'a str, Var, f64);

/// What a layer recorded.
struct Recorded<'a> {
    output: Var,
    inputs: Vec<(&'a str, Var)>,
    wanted: Vec<Wanted<'a>>,
}

/// Runs a layer forward and, from the file's `grad_out`, backward; compares values, gradients and running statistics.
/// `limit` is that of gradients, over the largest value of each.
fn check<'a>(
    case: &Case<'_>,
    params: &mut Params,
    mode: Mode,
    limit: f64,
    report: &mut Report,
    record: impl FnOnce(&mut Graph<'_>) -> Result<Recorded<'a>>,
) -> Result<()> {
    let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
    let mut graph = Graph::new(params, mode, Random::new(0, 0));
    let recorded = record(&mut graph)?;
    recorded
        .wanted
        .iter()
        .for_each(|(_, var, _)| graph.keep(*var));
    let backward = mode == Mode::Training;
    if backward {
        let upstream = case.file.get_f32("grad_out")?;
        graph.seed(recorded.output, Array::from(upstream))?;
    }
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, backward.then_some(&mut gradients))?;
    drop(graph);
    for (name, var, limit) in recorded.wanted {
        let error = furthest(run.read(var), &case.file.get_f64(name)?);
        report.bounded(name, "largest difference", error, limit);
    }
    if !backward {
        return Ok(());
    }
    for (name, var) in recorded.inputs {
        let got = run.gradient(var).unwrap_or(&[]);
        report.largest(name, got, &case.file.get_f64(name)?, limit);
    }
    for (name, tensor) in case.file.iter() {
        let id = name
            .strip_prefix("grad.")
            .and_then(|n| params.layout().find(n));
        if let Some(id) = id {
            report.largest(name, gradients.get(id), &tensor.to_f64(), limit);
        }
    }
    run.commit(params)?;
    statistics(case.file, "after.", params, report);
    Ok(())
}

/// One transformer block.
pub(in super::super) fn block(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let table = case.file.require("param.attn.relative_pos_query_table")?;
    let config = WindowBlockConfig {
        channels: case.file.require("feats")?.dims()[1],
        heads: table.dims()[1],
        bins: table.dims()[0],
        tables: PositionTables::ALL,
        qkv_bias: true,
        drop_path: 0.0,
    };
    let sibling = Sibling::open(case)?;
    let coord = points(case.file, "coord")?;
    report.equal("coord (of the keys' file)", &sibling.coord, &coord);
    let windows = Arc::new(sibling.windows(true)?);
    pairs(case.file, "", &windows, report)?;
    let (block, mut params) = load(case, "param.", |scope| WindowBlock::new(scope, config))?;
    check(case, &mut params, Mode::Training, 2e-5, report, |graph| {
        let x = input(graph, case.file, "feats")?;
        let output = block.record(graph, x, &windows)?;
        let attention = graph.tapped("attention").expect("the block taps it");
        Ok(Recorded {
            output,
            inputs: vec![("grad.feats", x)],
            wanted: vec![("out", output, 5e-5), ("attn_out", attention, 5e-5)],
        })
    })
}

/// Attention alone, with and without the value table. The file's q is scaled already; ours is scaled within, by a power
/// of two, which rounds nothing.
pub(in super::super) fn attention(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let windows = Arc::new(Sibling::open(case)?.windows(true)?);
    pairs(case.file, "", &windows, report)?;
    for (prefix, value) in [("rv.", true), ("norv.", false)] {
        attention_form(case, prefix, value, &windows, report)?;
    }
    Ok(())
}

fn attention_form(
    case: &Case<'_>,
    prefix: &str,
    value: bool,
    windows: &Arc<Windows>,
    report: &mut Report,
) -> Result<()> {
    let file = case.file;
    let dims = file.require("q")?.dims().to_vec();
    let (rows, heads, channels) = (dims[0], dims[1], dims[1] * dims[2]);
    let scale = 1.0 / (dims[2] as f32).sqrt();
    let [q, k, v] = ["q", "k", "v"].map(|name| file.get_f32(name));
    let (q, k, v) = (q?, k?, v?);
    let mut qkv = Vec::with_capacity(3 * q.len());
    for row in 0..rows {
        let at = row * channels..(row + 1) * channels;
        qkv.extend(q[at.clone()].iter().map(|q| q / scale));
        qkv.extend(&k[at.clone()]);
        qkv.extend(&v[at]);
    }
    let params = Params::initial(Layout::default().into(), case.device, 0)?;
    let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let qkv = graph.input(Array::from(qkv), Shape::new(rows, 3 * channels))?;
    graph.keep_gradient(qkv);
    let mut inputs = vec![qkv];
    let names = ["table_q", "table_k", "table_v"];
    for name in &names[..2 + usize::from(value)] {
        let bins = file.require(name)?.dims()[0];
        let shape = Shape::new(bins, 3 * channels);
        let table = graph.input(Array::from(file.get_f32(name)?), shape)?;
        graph.keep_gradient(table);
        inputs.push(table);
    }
    let tables = PositionTables {
        value,
        ..PositionTables::ALL
    };
    let op = ops::WindowAttention::new(windows.clone(), heads, tables);
    let output = graph.push(op, &inputs)?;
    graph.keep(output);
    graph.seed(output, Array::from(file.get_f32("grad_out")?))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    let name = |n: &str| format!("{prefix}{n}");
    let error = furthest(run.read(output), &file.get_f64(&name("out"))?);
    report.bounded(name("out"), "largest difference", error, 2e-5);
    let d_qkv = run.gradient(qkv).unwrap_or(&[]);
    for (i, (part, factor)) in [("grad_q", 1.0 / scale), ("grad_k", 1.0), ("grad_v", 1.0)]
        .into_iter()
        .enumerate()
    {
        let rows = d_qkv.chunks_exact(3 * channels);
        let got: Vec<f32> = rows
            .flat_map(|row| {
                row[i * channels..(i + 1) * channels]
                    .iter()
                    .map(|d| d * factor)
            })
            .collect();
        report.largest(name(part), &got, &file.get_f64(&name(part))?, 1e-5);
    }
    for (table, part) in inputs[1..].iter().zip(names) {
        let part = name(&format!("grad_{part}"));
        let got = run.gradient(*table).unwrap_or(&[]);
        report.largest(&part, got, &file.get_f64(&part)?, 1e-5);
    }
    Ok(())
}

/// Kernel point layers, each alone and one behind the other, with running and with batch statistics.
pub(in super::super) fn kernel_points(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let width = |name: &str| Ok::<_, Error>(file.require(name)?.dims().to_vec());
    let simple = width("param.simple.kpconv.weight")?;
    let outputs = width("param.res.unary_2.0.weight")?[0];
    let influence = number(file, "point_influence")? as f32;
    let table = file.require("neighbor_idx")?.dims()[1];
    let rows = file.get_i64("neighbor_idx")?;
    let index: Vec<u32> = rows
        .iter()
        .map(|&row| u32::try_from(row).unwrap_or(MISSING))
        .collect();
    let coord = points(file, "coord")?;
    let ball = Arc::new(Neighbors::from_index(table, &index, &coord, &coord)?);
    let ((first, second), mut params) = load(case, "param.", |scope| {
        let first =
            KernelPointBlock::new(&mut scope.child("simple"), simple[1], simple[2], influence);
        let mut scope = scope.child("res");
        Ok((
            first,
            KernelPointResidual::new(&mut scope, simple[2], outputs, influence),
        ))
    })?;
    for (mode, names) in [
        (Mode::Inference, ["eval.simple_out", "eval.res_out"]),
        (Mode::Frozen, ["eval.simple_out", "eval.res_out"]),
        (Mode::Training, ["train.simple_out", "train.res_out"]),
    ] {
        check(case, &mut params, mode, 2e-5, report, |graph| {
            let x = input(graph, file, "feats")?;
            let y = first.record(graph, x, &ball)?;
            let output = second.record(graph, y, &ball)?;
            let bare = graph.tapped("kpconv").expect("the block taps it");
            Ok(Recorded {
                output,
                inputs: vec![("grad.feats", x)],
                wanted: vec![
                    ("kpconv_out", bare, 1e-4),
                    (names[0], y, 1e-4),
                    (names[1], output, 1e-4),
                ],
            })
        })?;
    }
    Ok(())
}

/// The way down.
pub(in super::super) fn transition_down(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let coord = points(file, "coord")?;
    let starts = offsets(file, "offset")?;
    let counts = ratio_counts(&starts, number(file, "ratio")?);
    let sampled = farthest_points(&coord, &starts, &counts)?;
    let signed: Vec<i64> = sampled.iter().map(|&row| i64::from(row)).collect();
    report.equal("fps_idx", &signed, &file.get_i64("fps_idx")?);
    let ends = offsets(file, "new_offset")?;
    let found: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
    report.equal("new_offset", &counts, &found);
    let queries: Vec<[f32; 3]> = sampled.iter().map(|&row| coord[row as usize]).collect();
    report.equal("new_xyz", &queries, &points(file, "new_xyz")?);
    let k = number(file, "k")? as usize;
    let table = knn_on(case.device, (&coord, &starts), (&queries, &ends), k)?;
    let neighbors = Arc::new(Neighbors::from_index(k, &table.index, &queries, &coord)?);
    let dims = file.require("param.linear.weight")?.dims().to_vec();
    let (layer, mut params) = load(case, "param.", |scope| {
        Ok(TransitionDown::new(scope, dims[1], dims[0]))
    })?;
    check(case, &mut params, Mode::Training, 2e-5, report, |graph| {
        let x = input(graph, file, "feats")?;
        let output = layer.record(graph, x, &neighbors)?;
        Ok(Recorded {
            output,
            inputs: vec![("grad.feats", x)],
            wanted: vec![("out", output, 2e-5)],
        })
    })
}

/// The way up, and interpolation alone.
pub(in super::super) fn upsample(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let tree =
        |coord: &str, ends: &str| SearchTree::new(&points(file, coord)?, &offsets(file, ends)?);
    let (fine, coarse) = (
        tree("support_xyz", "support_offset")?,
        tree("xyz", "offset")?,
    );
    let stencil = Arc::new(Interpolation::padded(
        &fine,
        &coarse,
        Padding::FirstOfElement,
    )?);
    let dims = file.require("param.linear2.1.weight")?.dims().to_vec();
    let (layer, mut params) = load(case, "param.", |scope| {
        Ok(Upsample::new(scope, dims[1], dims[0]))
    })?;
    let mut graph = Graph::new(&params, Mode::Inference, Random::new(0, 0));
    let x = input(&mut graph, file, "feats")?;
    let raised = graph.push(ops::Interpolate::new(stencil.clone()), &[x])?;
    graph.keep(raised);
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let error = furthest(run.read(raised), &file.get_f64("interp_of_feats")?);
    report.bounded("interp_of_feats", "largest difference", error, 5e-6);
    drop(graph);
    check(case, &mut params, Mode::Training, 2e-5, report, |graph| {
        let x = input(graph, file, "feats")?;
        let skip = input(graph, file, "support_feats")?;
        let output = layer.record(graph, x, skip, &stencil)?;
        Ok(Recorded {
            output,
            inputs: vec![("grad.feats", x), ("grad.support_feats", skip)],
            wanted: vec![("out", output, 2e-5)],
        })
    })
}
