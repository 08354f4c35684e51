//! Single layers: window attention, a block, kernel point layers, the ways down and up.

use super::super::Case;
use super::super::file::{ReferenceFile, buffer, trained};
use super::super::reference::{Report, largest_difference};
use super::network::statistics;
use super::steps::{Batch, Lists, pairs};
use crate::Result;
use crate::device::Array;
use crate::device::random::Random;
use crate::geometry::{
    Hierarchy, Interpolation, Neighbors, Padding, SearchTree, Windows, knn_on, ratio_counts,
};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Params, Scope, Shape, Var};
use crate::nn::{
    KernelPointBlock, KernelPointResidual, TransitionDown, Upsample, WindowBlock, WindowBlockConfig,
};
use crate::ops::{self, PositionTables};
use std::sync::Arc;

/// A registered layer with the state that the file holds under `param.`.
fn load<L>(case: &Case<'_>, make: impl FnOnce(&mut Scope<'_>) -> Result<L>) -> Result<(L, Params)> {
    let mut layout = Layout::default();
    let layer = make(&mut Scope::root(&mut layout))?;
    let mut params = Params::initial(Arc::new(layout), case.device, 0)?;
    case.file.load(&mut params, "param.")?;
    Ok((layer, params))
}

/// A matrix of the file as a graph input whose gradient is kept.
fn input(
    graph: &mut Graph<'_>,
    file: &ReferenceFile<'_>,
    name: &str,
    [rows, cols]: [usize; 2],
) -> Result<Var> {
    let values = file.floats(name, &[rows, cols])?;
    let var = graph.input(Array::from(values), Shape::new(rows, cols))?;
    graph.keep_gradient(var);
    Ok(var)
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
    let dims = |var: Var| [graph.shape(var).rows, graph.shape(var).cols];
    let wanted = recorded.wanted.into_iter().map(|(name, var, limit)| {
        let want = case.file.doubles(name, &dims(var))?;
        Ok((name, var, limit, want))
    });
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    let inputs = recorded
        .inputs
        .into_iter()
        .map(|(name, var)| (name, var, dims(var)));
    let inputs: Vec<_> = inputs.collect();
    let backward = mode == Mode::Training;
    if backward {
        let upstream = case.file.floats("grad_out", &dims(recorded.output))?;
        graph.seed(recorded.output, Array::from(upstream))?;
    }
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, backward.then_some(&mut gradients))?;
    drop(graph);
    for (name, var, limit, want) in wanted {
        let error = largest_difference(run.read(var), &want);
        report.bounded(name, "largest difference", error, limit);
    }
    if !backward {
        return Ok(());
    }
    for (name, var, dims) in inputs {
        let got = run.gradient(var).unwrap_or(&[]);
        report.largest(name, got, &case.file.doubles(name, &dims)?, limit);
    }
    let layout = params.layout().clone();
    for gradient in case.file.of_parameters("grad.", &layout, trained)? {
        let got = gradients.get(gradient.id);
        report.largest(&gradient.name, got, &gradient.values, limit);
    }
    let after = case.file.of_parameters("after.", &layout, buffer)?;
    run.commit(params)?;
    statistics(&after, params, report);
    Ok(())
}

/// One transformer block.
pub(in super::super) fn block(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let table = "param.attn.relative_pos_query_table";
    let [bins, heads, width, _] = file.dims(table)?;
    let coord = file.points("coord")?;
    let dims = [coord.len(), heads * width];
    let config = WindowBlockConfig {
        channels: dims[1],
        heads,
        bins,
        tables: PositionTables::ALL,
        qkv_bias: true,
        drop_path: 0.0,
    };
    let batch = Batch::beside(case)?;
    report.equal("coord (of the keys' file)", &batch.coord, &coord);
    let windows = batch.windows(true)?;
    pairs(file, "", &windows, Lists::default(), report)?;
    let (block, mut params) = load(case, |scope| WindowBlock::new(scope, config))?;
    check(case, &mut params, Mode::Training, 2e-5, report, |graph| {
        let x = input(graph, file, "feats", dims)?;
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
    let windows = Batch::beside(case)?.windows(true)?;
    let lists = Lists {
        bins: true,
        ..Lists::default()
    };
    pairs(case.file, "", &windows, lists, report)?;
    // Attention of whole windows writes neither scores nor probabilities down, so that there is nothing to compare
    // these with.
    for name in ["rv.scores", "rv.probs"] {
        let [pairs] = case.file.dims("index_0")?;
        let [_, heads, _] = case.file.dims("q")?;
        case.file.doubles(name, &[pairs, heads])?;
    }
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
    let dims: [usize; 3] = file.dims("q")?;
    let (rows, heads, channels) = (dims[0], dims[1], dims[1] * dims[2]);
    let scale = 1.0 / (dims[2] as f32).sqrt();
    let [q, k, v] = ["q", "k", "v"].map(|name| file.floats(name, &dims));
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
    let [bins, ..]: [usize; 4] = file.dims("table_q")?;
    let table_dims = [bins, heads, dims[2], 3];
    for name in &names[..2 + usize::from(value)] {
        let shape = Shape::new(bins, 3 * channels);
        let table = graph.input(Array::from(file.floats(name, &table_dims)?), shape)?;
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
    graph.seed(output, Array::from(file.floats("grad_out", &dims)?))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    let name = |n: &str| format!("{prefix}{n}");
    let error = largest_difference(run.read(output), &file.doubles(&name("out"), &dims)?);
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
        report.largest(name(part), &got, &file.doubles(&name(part), &dims)?, 1e-5);
    }
    for (table, part) in inputs[1..].iter().zip(names) {
        let part = name(&format!("grad_{part}"));
        let got = run.gradient(*table).unwrap_or(&[]);
        report.largest(&part, got, &file.doubles(&part, &table_dims)?, 1e-5);
    }
    Ok(())
}

/// Kernel point layers, each alone and one behind the other, with running and with batch statistics.
pub(in super::super) fn kernel_points(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let [_, inputs, middle] = file.dims("param.simple.kpconv.weight")?;
    let [outputs, _] = file.dims("param.res.unary_2.0.weight")?;
    let influence = file.number("point_influence")? as f32;
    let coord = file.points("coord")?;
    let rows = coord.len();
    file.ends("offset", rows)?;
    let [_, k] = file.dims("neighbor_idx")?;
    let index = file.rows("neighbor_idx", &[rows, k], rows)?;
    let ball = Arc::new(Neighbors::from_index(k, &index, &coord, &coord)?);
    let ((first, second), mut params) = load(case, |scope| {
        let first = KernelPointBlock::new(&mut scope.child("simple"), inputs, middle, influence);
        let mut scope = scope.child("res");
        Ok((
            first,
            KernelPointResidual::new(&mut scope, middle, outputs, influence),
        ))
    })?;
    for (mode, names) in [
        (Mode::Inference, ["eval.simple_out", "eval.res_out"]),
        (Mode::Frozen, ["eval.simple_out", "eval.res_out"]),
        (Mode::Training, ["train.simple_out", "train.res_out"]),
    ] {
        check(case, &mut params, mode, 2e-5, report, |graph| {
            let x = input(graph, file, "feats", [rows, inputs])?;
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
    let coord = file.points("coord")?;
    let starts = file.ends("offset", coord.len())?;
    let [outputs, inputs] = file.dims("param.linear.weight")?;
    let counts = ratio_counts(&starts, file.number("ratio")?);
    let points = Hierarchy::on(case.device, coord.clone(), starts.clone());
    let sampled = points?.farthest(0, &counts)?;
    let signed: Vec<i64> = sampled.iter().map(|&row| i64::from(row)).collect();
    report.equal("fps_idx", &signed, &file.list("fps_idx")?);
    let want = file.points("new_xyz")?;
    let ends = file.ends("new_offset", want.len())?;
    let found: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
    report.equal("new_offset", &counts, &found);
    let queries: Vec<[f32; 3]> = sampled.iter().map(|&row| coord[row as usize]).collect();
    report.equal("new_xyz", &queries, &want);
    let k = file.whole("k")?;
    let table = knn_on(case.device, (&coord, &starts), (&queries, &ends), k)?;
    let neighbors = Arc::new(Neighbors::from_index(k, &table.index, &queries, &coord)?);
    let (layer, mut params) = load(case, |scope| {
        Ok(TransitionDown::new(scope, inputs, outputs))
    })?;
    check(case, &mut params, Mode::Training, 2e-5, report, |graph| {
        let x = input(graph, file, "feats", [coord.len(), inputs])?;
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
    let tree = |coord: &str, ends: &str| {
        let coord = file.points(coord)?;
        SearchTree::new(&coord, &file.ends(ends, coord.len())?)
    };
    let fine = tree("support_xyz", "support_offset")?;
    let coarse = tree("xyz", "offset")?;
    let stencil = Interpolation::padded(&fine, &coarse, Padding::FirstOfElement)?;
    let stencil = Arc::new(stencil);
    let [outputs, inputs] = file.dims("param.linear2.1.weight")?;
    let (below, above) = ([coarse.points(), inputs], [fine.points(), outputs]);
    let (layer, mut params) = load(case, |scope| Ok(Upsample::new(scope, inputs, outputs)))?;
    let mut graph = Graph::new(&params, Mode::Inference, Random::new(0, 0));
    let x = input(&mut graph, file, "feats", below)?;
    let raised = graph.push(ops::Interpolate::new(stencil.clone()), &[x])?;
    graph.keep(raised);
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let want = file.doubles("interp_of_feats", &[above[0], inputs])?;
    let error = largest_difference(run.read(raised), &want);
    report.bounded("interp_of_feats", "largest difference", error, 5e-6);
    drop(graph);
    check(case, &mut params, Mode::Training, 2e-5, report, |graph| {
        let x = input(graph, file, "feats", below)?;
        let skip = input(graph, file, "support_feats", above)?;
        let output = layer.record(graph, x, skip, &stencil)?;
        Ok(Recorded {
            output,
            inputs: vec![("grad.feats", x), ("grad.support_feats", skip)],
            wanted: vec![("out", output, 2e-5)],
        })
    })
}
