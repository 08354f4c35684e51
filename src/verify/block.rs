//! One residual block over a given neighbour table.

use super::layers::{Limits, both_modes, input, load};
use super::network::metadata;
use super::reference::Report;
use super::{Case, Recorded};
use crate::device::random::Random;
use crate::geometry::{MISSING, Neighbors};
use crate::graph::{Executor, Graph, Mode, Params};
use crate::nn::{AttentionConfig, Block, Pairs, WeightEncoding};
use crate::{Error, Result};
use std::sync::Arc;

const LIMITS: Limits = Limits {
    output: 2e-5,
    gradient: 1e-4,
    noise: 1e-4,
};

fn config(case: &Case<'_>) -> Result<AttentionConfig> {
    let flag = |key: &str| Ok::<bool, Error>(metadata(case.file, key)?.as_bool().unwrap_or(false));
    let number = |key: &str| {
        let value = metadata(case.file, key)?;
        let whole = value.as_u64().map(|v| v as usize);
        whole.ok_or_else(|| Error::weights(format!("metadata {key}"), "is not a number"))
    };
    let grouped = case
        .file
        .metadata
        .get("model")
        .is_some_and(|m| m.contains("m1"));
    Ok(AttentionConfig {
        channels: number("embed_channels")?,
        groups: number("groups")?,
        qkv_bias: flag("qkv_bias")?,
        pe_multiplier: flag("pe_multiplier")?,
        pe_bias: flag("pe_bias")?,
        encoding: if grouped {
            WeightEncoding::Grouped
        } else {
            WeightEncoding::Full
        },
        dropout: 0.0,
    })
}

fn neighbors(case: &Case<'_>) -> Result<Neighbors> {
    let dims = case.file.require("input.idx")?.dims().to_vec();
    let k = *dims.last().unwrap_or(&1);
    let index = case.file.get_i64("input.idx")?;
    let index: Vec<u32> = index
        .iter()
        .map(|&i| u32::try_from(i).unwrap_or(MISSING))
        .collect();
    let coord = case.file.get_f32("input.coord")?;
    let coord: Vec<[f32; 3]> = coord.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    Neighbors::from_index(k, &index, &coord, &coord)
}

/// Checks one block file: the unfolded form with both statistics and all gradients, and the folded form.
pub(super) fn run(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let config = config(case)?;
    let neighbors = Arc::new(neighbors(case)?);
    let (block, mut params) = load(case, |scope| Block::new(scope, config, 0.0))?;
    folded(case, &block, &params, &neighbors, report)?;
    both_modes(case, &mut params, "feat", LIMITS, report, |graph| {
        let x = input(graph, case.file, "input.feat")?;
        let pairs = Pairs::new(graph, &neighbors, None)?;
        let output = block.record(graph, x, &pairs)?;
        let mut recorded = Recorded::new(output, &[("feat", x)]);
        for name in ["attn_in", "attn_out"] {
            recorded
                .taps
                .extend(graph.tapped(name).map(|var| (name, var)));
        }
        Ok(recorded)
    })?;
    weight_logits(case, &block, &params, &neighbors, report)
}

fn folded(
    case: &Case<'_>,
    block: &Block,
    params: &Params,
    neighbors: &Arc<Neighbors>,
    report: &mut Report,
) -> Result<()> {
    let mut graph = Graph::new(params, Mode::Inference, Random::new(0, 0));
    let x = input(&mut graph, case.file, "input.feat")?;
    let pairs = Pairs::new(&mut graph, neighbors, None)?;
    let y = block.record(&mut graph, x, &pairs)?;
    graph.keep(y);
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let want = case.file.get_f64("eval.out.feat")?;
    report.relative("eval.out.feat (folded)", run.read(y), &want, LIMITS.output);
    Ok(())
}

/// The attention logits never exist as a tensor; here they are made from the relation that does.
fn weight_logits(
    case: &Case<'_>,
    block: &Block,
    params: &Params,
    neighbors: &Arc<Neighbors>,
    report: &mut Report,
) -> Result<()> {
    let name = "eval.inner.weight_logits";
    let mut fresh = Params::initial(params.layout().clone(), case.device, 0)?;
    crate::weights::load_state(&mut fresh, &case.file.with_prefix("state."))?;
    let mut graph = Graph::new(&fresh, Mode::Frozen, Random::new(0, 0));
    let x = input(&mut graph, case.file, "input.feat")?;
    let pairs = Pairs::new(&mut graph, neighbors, None)?;
    let y = block.record(&mut graph, x, &pairs)?;
    graph.keep(y);
    let (Some(e), Some(st)) = (graph.tapped("relation"), graph.tapped("coefficients")) else {
        return Ok(());
    };
    graph.keep(e);
    graph.keep(st);
    let groups = graph.shape(e).cols;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, None)?;
    let parameter = |n: &str| {
        let id = fresh.layout().find(&format!("attn.weight_encoding.3.{n}"));
        id.map(|id| fresh.get(id)).unwrap_or(&[])
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
    report.relative(name, &logits, &case.file.get_f64(name)?, LIMITS.output);
    Ok(())
}
