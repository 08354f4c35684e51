//! Geometry steps: farthest point sampling, nearest neighbours, windows and keys.

use super::super::Case;
use super::super::layers::{offsets, points};
use super::super::reference::Report;
use super::number;
use crate::Result;
use crate::geometry::{MISSING, WindowOptions, Windows, farthest_points, knn_on, stride_counts};
use crate::weights::{Tensors, safetensors};

/// Prefixes `c0.`, `c1.`, … of the cases that hold a tensor `name`.
fn cases<'a>(file: &'a Tensors, name: &'a str) -> impl Iterator<Item = String> + 'a {
    (0..)
        .map(|i| format!("c{i}."))
        .take_while(move |case| file.get(&format!("{case}{name}")).is_some())
}

/// Row numbers as the file writes them.
fn signed(rows: &[u32]) -> Vec<i64> {
    rows.iter().map(|&row| i64::from(row)).collect()
}

/// Farthest point sampling, in order.
pub(in super::super) fn sampling(case: &Case<'_>, report: &mut Report) -> Result<()> {
    for prefix in cases(case.file, "new_offset") {
        let name = |n: &str| format!("{prefix}{n}");
        let ends = offsets(case.file, &name("new_offset"))?;
        let counts: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
        let coord = points(case.file, &name("xyz"))?;
        let rows = farthest_points(&coord, &offsets(case.file, &name("offset"))?, &counts)?;
        report.equal(
            name("idx"),
            &signed(&rows),
            &case.file.get_i64(&name("idx"))?,
        );
    }
    Ok(())
}

/// Nearest neighbours; a missing one is the first point of the element.
pub(in super::super) fn neighbors(case: &Case<'_>, report: &mut Report) -> Result<()> {
    for prefix in cases(case.file, "new_xyz") {
        let name = |n: &str| format!("{prefix}{n}");
        let (coord, starts) = (
            points(case.file, &name("xyz"))?,
            offsets(case.file, &name("offset"))?,
        );
        let (queries, ends) = (
            points(case.file, &name("new_xyz"))?,
            offsets(case.file, &name("new_offset"))?,
        );
        let k = case.file.get_i64(&name("k"))?[0] as usize;
        let mut found = knn_on(case.device, (&coord, &starts), (&queries, &ends), k)?;
        for (ends, first) in ends.windows(2).zip(&starts) {
            let rows = &mut found.index[ends[0] * k..ends[1] * k];
            for row in rows.iter_mut().filter(|row| **row == MISSING) {
                *row = *first as u32;
            }
        }
        report.equal(
            name("idx"),
            &signed(&found.index),
            &case.file.get_i64(&name("idx"))?,
        );
        let want = case.file.get_f64(&name("dist"))?;
        report.relative(name("dist"), &found.distances(), &want, 1e-6);
    }
    Ok(())
}

/// Rank of every point's cell and points per cell, by small windows of edge `size`.
fn partition(coord: &[[f32; 3]], ends: &[usize], size: f32, shifted: bool) -> Result<Cells> {
    let options = WindowOptions {
        size,
        step: size / 2.0,
        shifted,
    };
    let windows = Windows::swin(coord, ends, options)?;
    let (mut rank, mut counts) = (vec![0; coord.len()], Vec::new());
    let mut last = None;
    for group in &windows.groups {
        if last.replace(group.dense.clone()) != Some(group.dense.clone()) {
            counts.push(group.dense.len() as i64);
        }
        for position in group.queries.clone() {
            rank[windows.order[position] as usize] = counts.len() as i64 - 1;
        }
    }
    Ok(Cells { rank, counts })
}

struct Cells {
    rank: Vec<i64>,
    counts: Vec<i64>,
}

/// Window partitions, small and large, with and without shift.
pub(in super::super) fn partitions(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let (coord, ends) = (points(file, "coord")?, offsets(file, "offset")?);
    let size = file.get_f32("window_size")?[0];
    for (part, size) in [("small", size), ("large", 2.0 * size)] {
        for (suffix, shifted) in [("", false), ("_shift", true)] {
            let name = |n: &str| format!("{part}{suffix}.{n}");
            let found = partition(&coord, &ends, size, shifted)?;
            report.equal(name("v2p"), &found.rank, &file.get_i64(&name("v2p"))?);
            report.equal(
                name("counts"),
                &found.counts,
                &file.get_i64(&name("counts"))?,
            );
            // Cells have the order of their raw numbers.
            let raw = file.get_i64(&name("cell_id"))?;
            let mut sorted = raw.clone();
            sorted.sort_unstable();
            sorted.dedup();
            let rank: Vec<i64> = raw
                .iter()
                .map(|cell| sorted.partition_point(|c| c < cell) as i64)
                .collect();
            report.equal(name("cell_id (order)"), &found.rank, &rank);
        }
    }
    Ok(())
}

/// The file that says which windows the attention files mean: they hold pairs, but no batch and no sampled keys.
pub(super) struct Sibling {
    file: Tensors,
    pub coord: Vec<[f32; 3]>,
    size: f32,
}

impl Sibling {
    /// Reads `op_stratified_keys.safetensors` beside the file at hand.
    pub fn open(case: &Case<'_>) -> Result<Sibling> {
        Sibling::new(safetensors::read(
            case.path.with_file_name("op_stratified_keys.safetensors"),
        )?)
    }

    fn new(file: Tensors) -> Result<Sibling> {
        Ok(Sibling {
            coord: points(&file, "coord")?,
            size: file.get_f32("window_size")?[0],
            file,
        })
    }

    /// The windows of an unshifted or a shifted block, with sampled keys of our own.
    pub fn windows(&self, shifted: bool) -> Result<Windows> {
        let ends = offsets(&self.file, "offset")?;
        let stride = number(&self.file, "downsample_scale")? as usize;
        let sampled = farthest_points(&self.coord, &ends, &stride_counts(&ends, stride))?;
        let options = WindowOptions {
            size: self.size,
            step: number(&self.file, "quant_size")? as f32,
            shifted,
        };
        Windows::stratified(&self.coord, &ends, options, &sampled)
    }
}

/// Compares the pairs that windows stand for with the file's lists under `prefix`: rows, kinds and bins.
pub(super) fn pairs(
    file: &Tensors,
    prefix: &str,
    windows: &Windows,
    report: &mut Report,
) -> Result<()> {
    let name = |n: &str| format!("{prefix}{n}");
    let row = |position: usize| i64::from(windows.order[position]);
    let mut pairs = Vec::with_capacity(windows.pairs());
    for group in &windows.groups {
        let dense = group.dense.clone().map(|key| (key, 1));
        let keys = dense.chain(windows.sparse(group).map(|(_, key)| (key, 0)));
        for (key, kind) in keys {
            pairs.extend(
                group
                    .queries
                    .clone()
                    .map(|q| (row(q), row(key), kind, q, key)),
            );
        }
    }
    pairs.sort_unstable();
    let column = |pick: fn(&(i64, i64, i64, usize, usize)) -> i64| -> Vec<i64> {
        pairs.iter().map(pick).collect()
    };
    report.equal(
        name("index_0"),
        &column(|p| p.0),
        &file.get_i64(&name("index_0"))?,
    );
    report.equal(
        name("index_1"),
        &column(|p| p.1),
        &file.get_i64(&name("index_1"))?,
    );
    if file.get(&name("is_dense")).is_some() {
        let want = file.get_i64(&name("is_dense"))?;
        report.equal(name("is_dense"), &column(|p| p.2), &want);
    }
    if file.get(&name("rel_idx")).is_some() {
        let rows = 2 * windows.quantization.bins().div_ceil(2);
        let bin = |axis: usize, query: usize, key: usize| {
            let place = &windows.place[axis];
            windows.quantization.bin(place[query], place[key], rows) as i64
        };
        let bins: Vec<i64> = pairs
            .iter()
            .flat_map(|p| (0..3).map(move |axis| bin(axis, p.3, p.4)))
            .collect();
        report.equal(name("rel_idx"), &bins, &file.get_i64(&name("rel_idx"))?);
    }
    Ok(())
}

/// Keys of unshifted and shifted blocks.
pub(in super::super) fn keys(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let sibling = Sibling::new(case.file.clone())?;
    let ends = offsets(case.file, "offset")?;
    let stride = number(case.file, "downsample_scale")? as usize;
    let sampled = farthest_points(&sibling.coord, &ends, &stride_counts(&ends, stride))?;
    let want = case.file.get_i64("downsample_idx")?;
    report.equal("downsample_idx", &signed(&sampled), &want);
    for (prefix, shifted) in [("block0.", false), ("block1.", true)] {
        pairs(case.file, prefix, &sibling.windows(shifted)?, report)?;
    }
    Ok(())
}
