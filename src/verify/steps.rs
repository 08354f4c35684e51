//! Geometry steps: nearest neighbours, grouping, interpolation.

use super::Case;
use super::layers::{offsets, points};
use super::reference::Report;
use crate::Result;
use crate::device::Array;
use crate::device::random::Random;
use crate::geometry::{Interpolation, MISSING, Neighbors, Padding, Ragged, knn_on};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Params, Shape};
use crate::ops;
use crate::weights::Tensors;
use std::sync::Arc;

/// Index as the official code writes it: −1 where there is no neighbour.
fn signed(index: &[u32]) -> Vec<i64> {
    index
        .iter()
        .map(|&i| if i == MISSING { -1 } else { i64::from(i) })
        .collect()
}

/// Prefixes of the neighbour searches in a file.
pub(super) fn knn_cases(file: &Tensors) -> impl Iterator<Item = &str> {
    file.iter().filter_map(move |(name, _)| {
        let prefix = name.strip_suffix(".idx")?;
        let has = |n: &str| file.get(&format!("{prefix}.{n}")).is_some();
        (has("coord") && has("offset") && has("dist") && !prefix.is_empty()).then_some(prefix)
    })
}

/// Nearest neighbours. Where several points are equally far, only the distances are compared.
pub(super) fn knn(case: &Case<'_>, report: &mut Report) -> Result<()> {
    for prefix in knn_cases(case.file) {
        let name = |n: &str| format!("{prefix}.{n}");
        let coord = points(case.file, &name("coord"))?;
        let starts = offsets(case.file, &name("offset"))?;
        let (queries, query_starts) = match case.file.get(&name("new_coord")) {
            Some(_) => (
                points(case.file, &name("new_coord"))?,
                offsets(case.file, &name("new_offset"))?,
            ),
            None => (coord.clone(), starts.clone()),
        };
        let k = case.file.require(&name("idx"))?.dims()[1];
        let found = knn_on(case.device, (&coord, &starts), (&queries, &query_starts), k)?;
        let want = case.file.get_f64(&name("dist"))?;
        report.relative(name("dist"), &found.distances(), &want, 1e-6);
        let tied = |row: &[f64]| row.windows(2).any(|w| w[0] == w[1] && w[0] < 1e5);
        if !want.chunks_exact(k).any(tied) {
            report.equal(
                name("idx"),
                &signed(&found.index),
                &case.file.get_i64(&name("idx"))?,
            );
        }
    }
    Ok(())
}

/// Rows of a neighbour table with relative positions, and the gradient that flows back to the rows.
pub(super) fn grouping(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let coord = points(file, "coord")?;
    let k = file.require("idx")?.dims()[1];
    let index: Vec<u32> = file
        .get_i64("idx")?
        .iter()
        .map(|&i| u32::try_from(i).unwrap_or(MISSING))
        .collect();
    let channels = file.require("feat")?.dims()[1];
    let neighbors = Neighbors::from_index(k, &index, &coord, &coord)?;
    let params = Params::initial(Layout::default().into(), case.device, 0)?;
    let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let shape = Shape::new(coord.len(), channels);
    let feat = graph.input(Array::from(file.get_f32("feat")?), shape)?;
    graph.keep_gradient(feat);
    let transposed = Ragged::inverse(&index, coord.len())?;
    let gathered = graph.push(ops::Gather::new(Array::from(index), transposed), &[feat])?;
    graph.keep(gathered);
    let width = channels + 3;
    let with_position = file.get_f32("upstream_xyz")?;
    let upstream = file.get_f32("upstream")?;
    let both = upstream
        .chunks_exact(channels)
        .zip(with_position.chunks_exact(width));
    let both = both.flat_map(|(a, b)| a.iter().zip(&b[3..]).map(|(a, b)| a + b));
    graph.seed(gathered, Array::from(both.collect::<Vec<_>>()))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    let out = run.read(gathered);
    report.relative("out", out, &file.get_f64("out")?, 0.0);
    let mut out_xyz = Vec::with_capacity(with_position.len());
    for (pair, row) in out.chunks_exact(channels).enumerate() {
        out_xyz.extend(neighbors.delta.iter().map(|plane| plane[pair]));
        out_xyz.extend(row);
    }
    report.relative("out_xyz", &out_xyz, &file.get_f64("out_xyz")?, 0.0);
    let got = run.gradient(feat).unwrap_or(&[]);
    report.relative("grad_feat", got, &file.get_f64("grad_feat")?, 1e-6);
    Ok(())
}

/// Inverse-distance interpolation from three neighbours, and its gradient.
pub(super) fn interpolation(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let channels = file.require("feat")?.dims()[1];
    let coarse_offsets = offsets(file, "offset")?;
    let fine_offsets = offsets(file, "new_offset")?;
    for prefix in ["room", "wide"] {
        let name = |n: &str| format!("{prefix}.{n}");
        let coarse = points(file, &name("coord"))?;
        let fine = points(file, &name("new_coord"))?;
        let stencil = Interpolation::on(
            case.device,
            (&fine, &fine_offsets),
            (&coarse, &coarse_offsets),
            Padding::LastRow,
        )?;
        let found = knn_on(
            case.device,
            (&coarse, &coarse_offsets),
            (&fine, &fine_offsets),
            3,
        )?;
        report.equal(
            name("idx"),
            &signed(&found.index),
            &file.get_i64(&name("idx"))?,
        );
        report.relative(
            name("dist"),
            &found.distances(),
            &file.get_f64(&name("dist"))?,
            2e-6,
        );
        let params = Params::initial(Layout::default().into(), case.device, 0)?;
        let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
        let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
        let shape = Shape::new(coarse.len(), channels);
        let feat = graph.input(Array::from(file.get_f32("feat")?), shape)?;
        graph.keep_gradient(feat);
        let out = graph.push(ops::Interpolate::new(Arc::new(stencil)), &[feat])?;
        graph.keep(out);
        graph.seed(out, Array::from(file.get_f32("upstream")?))?;
        let mut executor = Executor::new(case.device);
        let run = executor.run(&graph, Some(&mut gradients))?;
        report.relative(
            name("out"),
            run.read(out),
            &file.get_f64(&name("out"))?,
            2e-6,
        );
        let got = run.gradient(feat).unwrap_or(&[]);
        report.relative(
            name("grad_feat"),
            got,
            &file.get_f64(&name("grad_feat"))?,
            2e-6,
        );
    }
    Ok(())
}
