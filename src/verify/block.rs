//! One residual block over a given neighbour table.

use super::layers::{Input, Limits, both_modes, input, load};
use super::reference::Report;
use super::{Case, Recorded};
use crate::Result;
use crate::device::random::Random;
use crate::geometry::Neighbors;
use crate::graph::{Executor, Graph, Mode, Params};
use crate::nn::{AttentionConfig, Block, Pairs, WeightEncoding};
use std::sync::Arc;

const LIMITS: Limits = Limits {
    output: 2e-5,
    gradient: 1e-4,
    noise: 1e-4,
};

fn config(case: &Case<'_>) -> Result<AttentionConfig> {
    let flag = |key: &str| {
        let value = case.file.metadata(key)?.as_bool();
        value.ok_or_else(|| {
            case.file
                .fault(&format!("metadata {key}"), "is not true or false")
        })
    };
    let encoding = match case.file.text("model") {
        Some("m1") => WeightEncoding::Grouped,
        Some("m2") => WeightEncoding::Full,
        other => {
            let fault = format!("{other:?} is not m1 or m2");
            return Err(case.file.fault("metadata model", fault));
        }
    };
    Ok(AttentionConfig {
        channels: case.file.whole("embed_channels")?,
        groups: case.file.whole("groups")?,
        qkv_bias: flag("qkv_bias")?,
        pe_multiplier: flag("pe_multiplier")?,
        pe_bias: flag("pe_bias")?,
        encoding,
        dropout: 0.0,
    })
}

fn neighbors(case: &Case<'_>) -> Result<Neighbors> {
    let coord = case.file.points("input.coord")?;
    case.file.ends("input.offset", coord.len())?;
    let k = case.file.whole("neighbours")?;
    let index = case
        .file
        .rows("input.idx", &[coord.len(), k], coord.len())?;
    Neighbors::from_index(k, &index, &coord, &coord)
}

/// Checks one block file: the unfolded form with both statistics and all gradients, and the folded form.
pub(super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let config = config(case)?;
    let neighbors = Arc::new(neighbors(case)?);
    let feat = Input::new(case, "feat", &[neighbors.queries, config.channels])?;
    let (block, mut params) = load(case, |scope| Block::new(scope, config, 0.0))?;
    weight_logits(case, &block, &params, &neighbors, &feat, report)?;
    folded(case, &block, &params, &neighbors, &feat, report)?;
    both_modes(case, &mut params, "feat", LIMITS, report, |graph| {
        let x = input(graph, &feat)?;
        let pairs = Pairs::new(graph, &neighbors, None)?;
        let output = block.record(graph, x, &pairs)?;
        let mut recorded = Recorded::new(output, &[(&feat, x)]);
        // inner values are in the files for running statistics only
        if graph.mode() == Mode::Frozen {
            let taps = ["attn_in", "attn_out"].map(|name| (name, graph.tapped(name)));
            recorded.taps = taps
                .map(|(name, var)| (name, var.expect("a block taps it")))
                .to_vec();
        }
        Ok(recorded)
    })
}

fn folded(
    case: &Case<'_>,
    block: &Block,
    params: &Params,
    neighbors: &Arc<Neighbors>,
    feat: &Input,
    report: &mut Report,
) -> Result<()> {
    let mut graph = Graph::new(params, Mode::Inference, Random::new(0, 0));
    let x = input(&mut graph, feat)?;
    let pairs = Pairs::new(&mut graph, neighbors, None)?;
    let y = block.record(&mut graph, x, &pairs)?;
    graph.keep(y);
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let want = case.file.doubles("eval.out.feat", &feat.dims)?;
    report.relative("eval.out.feat (folded)", run.read(y), &want, LIMITS.output);
    Ok(())
}

/// The attention logits never exist as a tensor; here they are made from the relation that does.
fn weight_logits(
    case: &Case<'_>,
    block: &Block,
    params: &Params,
    neighbors: &Arc<Neighbors>,
    feat: &Input,
    report: &mut Report,
) -> Result<()> {
    let name = "eval.inner.weight_logits";
    let mut graph = Graph::new(params, Mode::Frozen, Random::new(0, 0));
    let x = input(&mut graph, feat)?;
    let pairs = Pairs::new(&mut graph, neighbors, None)?;
    let y = block.record(&mut graph, x, &pairs)?;
    graph.keep(y);
    let tapped = |name: &str| graph.tapped(name).expect("the attention taps it");
    let (e, st) = (tapped("relation"), tapped("coefficients"));
    graph.keep(e);
    graph.keep(st);
    let groups = graph.shape(e).cols;
    let want = case
        .file
        .doubles(name, &[neighbors.queries, neighbors.k, groups])?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let parameter = |n: &str| {
        let id = params.layout().find(&format!("attn.weight_encoding.3.{n}"));
        id.map(|id| params.get(id)).unwrap_or(&[])
    };
    let (mix, bias) = (parameter("weight"), parameter("bias"));
    let (scale, shift) = run.read(st).split_at(groups);
    let mut logits = Vec::with_capacity(run.read(e).len());
    for row in run.read(e).chunks_exact(groups) {
        let hidden: Vec<f32> = (0..groups)
            .map(|g| (scale[g] * row[g] + shift[g]).max(0.0))
            .collect();
        for (weights, bias) in mix.chunks_exact(groups).zip(bias) {
            let dot: f32 = weights.iter().zip(&hidden).map(|(w, h)| w * h).sum();
            logits.push(dot + bias);
        }
    }
    report.relative(name, &logits, &want, LIMITS.output);
    Ok(())
}
