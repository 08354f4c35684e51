//! Geometry steps: nearest neighbours, grouping, interpolation.

use super::Case;
use super::file::ReferenceFile;
use super::reference::Report;
use crate::Result;
use crate::device::Array;
use crate::device::random::Random;
use crate::geometry::{Interpolation, MISSING, Neighbors, Padding, Ragged, knn_on};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Params, Shape};
use crate::ops;
use std::sync::Arc;

/// Index as the official code writes it: −1 where there is no neighbour.
fn signed(index: &[u32]) -> Vec<i64> {
    index
        .iter()
        .map(|&i| if i == MISSING { -1 } else { i64::from(i) })
        .collect()
}

/// Points and the offsets of their batch.
type Batch = (Vec<[f32; 3]>, Vec<usize>);

fn batch(file: &ReferenceFile<'_>, coord: &str, offset: &str) -> Result<Batch> {
    let coord = file.points(coord)?;
    let offsets = file.ends(offset, coord.len())?;
    Ok((coord, offsets))
}

/// Nearest neighbours. The metadata's `k` names the searches of the file, with K of each.
pub(super) fn knn(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let searches = case.file.metadata("k")?;
    let Some(searches) = searches.as_object() else {
        return Err(case.file.fault("metadata k", "names no searches"));
    };
    for (prefix, k) in searches {
        let k = k.as_u64().map_or(0, |k| k as usize);
        search(case, prefix, k, report)?;
    }
    Ok(())
}

fn search(case: &Case<'_>, prefix: &str, k: usize, report: &mut Report) -> Result<()> {
    let file = case.file;
    let name = |n: &str| format!("{prefix}.{n}");
    let (coord, starts) = batch(file, &name("coord"), &name("offset"))?;
    // a search of a cloud in itself has no queries of its own
    let (queries, query_starts) = match file.any(&name("new_")) {
        true => batch(file, &name("new_coord"), &name("new_offset"))?,
        false => (coord.clone(), starts.clone()),
    };
    let dims = [queries.len(), k];
    let index = file.rows(&name("idx"), &dims, coord.len())?;
    let want = file.doubles(&name("dist"), &dims)?;
    let found = knn_on(case.device, (&coord, &starts), (&queries, &query_starts), k)?;
    report.distances(name("dist"), &found.distances(), &want, 1e-6);
    let tied = |row: &[f64]| row.windows(2).any(|w| w[0] == w[1] && w[0] < 1e5);
    if want.chunks_exact(k).any(tied) {
        // which of several equally far points comes first, or at all, is the official code's heap's business
        let error = listed(&index, k, &want, &coord, &queries);
        let measure = "listed points that are elsewhere or listed twice";
        report.bounded(name("idx"), measure, error as f64, 0.0);
    } else {
        report.equal(name("idx"), &signed(&found.index), &signed(&index));
    }
    Ok(())
}

/// How many entries of `index` are not at the distance that the file says, or stand twice in their row.
fn listed(
    index: &[u32],
    k: usize,
    distances: &[f64],
    coord: &[[f32; 3]],
    queries: &[[f32; 3]],
) -> usize {
    let rows = index.chunks_exact(k).zip(distances.chunks_exact(k));
    let strange = rows.zip(queries).map(|((row, distances), query)| {
        let strange = |at: &usize| {
            let (point, distance) = (row[*at], distances[*at]);
            if point == MISSING {
                return distance != 1e5;
            }
            let place = coord[point as usize];
            let square = |axis: usize| f64::from(place[axis] - query[axis]).powi(2);
            let is = (square(0) + square(1) + square(2)).sqrt();
            (is - distance).abs() > 1e-6 * distance || row[..*at].contains(&point)
        };
        (0..k).filter(strange).count()
    });
    strange.sum()
}

/// Rows of a neighbour table with relative positions, and the gradient that flows back to the rows.
pub(super) fn grouping(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let (coord, _) = batch(file, "coord", "offset")?;
    let rows = coord.len();
    let [_, k] = file.dims("idx")?;
    let [_, channels] = file.dims("feat")?;
    let width = channels + 3;
    let index = file.rows("idx", &[rows, k], rows)?;
    let values = file.floats("feat", &[rows, channels])?;
    let with_position = file.floats("upstream_xyz", &[rows, k, width])?;
    let upstream = file.floats("upstream", &[rows, k, channels])?;
    let wanted = file.doubles("out", &[rows, k, channels])?;
    let wanted_xyz = file.doubles("out_xyz", &[rows, k, width])?;
    let gradient = file.doubles("grad_feat", &[rows, channels])?;
    let neighbors = Neighbors::from_index(k, &index, &coord, &coord)?;
    let params = Params::initial(Layout::default().into(), case.device, 0)?;
    let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let feat = graph.input(Array::from(values), Shape::new(rows, channels))?;
    graph.keep_gradient(feat);
    let transposed = Ragged::inverse(&index, rows)?;
    let gathered = graph.push(ops::Gather::new(Array::from(index), transposed), &[feat])?;
    graph.keep(gathered);
    let both = upstream
        .chunks_exact(channels)
        .zip(with_position.chunks_exact(width));
    let both = both.flat_map(|(a, b)| a.iter().zip(&b[3..]).map(|(a, b)| a + b));
    graph.seed(gathered, Array::from(both.collect::<Vec<_>>()))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    let out = run.read(gathered);
    report.relative("out", out, &wanted, 0.0);
    let mut out_xyz = Vec::with_capacity(with_position.len());
    for (pair, row) in out.chunks_exact(channels).enumerate() {
        out_xyz.extend(neighbors.delta.iter().map(|plane| plane[pair]));
        out_xyz.extend(row);
    }
    report.relative("out_xyz", &out_xyz, &wanted_xyz, 0.0);
    let got = run.gradient(feat).unwrap_or(&[]);
    report.relative("grad_feat", got, &gradient, 1e-6);
    Ok(())
}

/// Inverse-distance interpolation from three neighbours, and its gradient.
pub(super) fn interpolation(case: &Case<'_>, report: &mut Report) -> Result<()> {
    ["room", "wide"]
        .iter()
        .try_for_each(|prefix| interpolated(case, prefix, report))
}

fn interpolated(case: &Case<'_>, prefix: &str, report: &mut Report) -> Result<()> {
    let file = case.file;
    let name = |n: &str| format!("{prefix}.{n}");
    let [_, channels] = file.dims("feat")?;
    let (coarse, coarse_offsets) = batch(file, &name("coord"), "offset")?;
    let (fine, fine_offsets) = batch(file, &name("new_coord"), "new_offset")?;
    let (below, above) = ([coarse.len(), channels], [fine.len(), channels]);
    let values = file.floats("feat", &below)?;
    let upstream = file.floats("upstream", &above)?;
    let index = file.rows(&name("idx"), &[fine.len(), 3], coarse.len())?;
    let distances = file.doubles(&name("dist"), &[fine.len(), 3])?;
    let wanted = file.doubles(&name("out"), &above)?;
    let gradient = file.doubles(&name("grad_feat"), &below)?;
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
    report.equal(name("idx"), &signed(&found.index), &signed(&index));
    report.distances(name("dist"), &found.distances(), &distances, 2e-6);
    let params = Params::initial(Layout::default().into(), case.device, 0)?;
    let mut gradients = Gradients::new(params.layout().clone(), case.device)?;
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let feat = graph.input(Array::from(values), Shape::new(coarse.len(), channels))?;
    graph.keep_gradient(feat);
    let out = graph.push(ops::Interpolate::new(Arc::new(stencil)), &[feat])?;
    graph.keep(out);
    graph.seed(out, Array::from(upstream))?;
    let mut executor = Executor::new(case.device);
    let run = executor.run(&graph, Some(&mut gradients))?;
    report.relative(name("out"), run.read(out), &wanted, 2e-6);
    let got = run.gradient(feat).unwrap_or(&[]);
    report.relative(name("grad_feat"), got, &gradient, 2e-6);
    Ok(())
}
