//! Geometry steps: farthest point sampling, nearest neighbours, windows and keys.

use super::super::Case;
use super::super::file::ReferenceFile;
use super::super::reference::Report;
use super::batch::elements;
use crate::Result;
use crate::device::{Array, Device};
use crate::geometry::{Hierarchy, MISSING, WindowOptions, Windows, knn_on, stride_counts};
use crate::weights::safetensors;
use std::sync::Arc;

/// Prefixes `c0.`, `c1.`, … of the cases of a file; one that is there in part is there.
fn cases<'a>(file: &'a ReferenceFile<'_>) -> impl Iterator<Item = String> + 'a {
    let prefixes = (0..).map(|i| format!("c{i}."));
    prefixes.take_while(|prefix| file.any(prefix))
}

/// Row numbers as the file writes them.
fn signed(rows: &[u32]) -> Vec<i64> {
    rows.iter().map(|&row| i64::from(row)).collect()
}

/// Farthest point sampling, in order.
pub(in super::super) fn sampling(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    for prefix in cases(file) {
        let name = |n: &str| format!("{prefix}{n}");
        let coord = file.points(&name("xyz"))?;
        let starts = file.ends(&name("offset"), coord.len())?;
        let want = file.list(&name("idx"))?;
        let ends = file.ends(&name("new_offset"), want.len())?;
        let counts: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
        let rows = Hierarchy::on(case.device, coord, starts)?.farthest(0, &counts)?;
        report.equal(name("idx"), &signed(&rows), &want);
    }
    Ok(())
}

/// Nearest neighbours; a missing one is the first point of the element.
pub(in super::super) fn neighbors(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    for prefix in cases(file) {
        let name = |n: &str| format!("{prefix}{n}");
        let coord = file.points(&name("xyz"))?;
        let starts = file.ends(&name("offset"), coord.len())?;
        let queries = file.points(&name("new_xyz"))?;
        let ends = file.ends(&name("new_offset"), queries.len())?;
        let k = file.integers(&name("k"), &[1])?[0];
        let k = usize::try_from(k).unwrap_or(0);
        let want = file.integers(&name("idx"), &[queries.len(), k])?;
        let distances = file.doubles(&name("dist"), &[queries.len(), k])?;
        let mut found = knn_on(case.device, (&coord, &starts), (&queries, &ends), k)?;
        for (ends, first) in ends.windows(2).zip(&starts) {
            let rows = &mut found.index[ends[0] * k..ends[1] * k];
            for row in rows.iter_mut().filter(|row| **row == MISSING) {
                *row = *first as u32;
            }
        }
        report.equal(name("idx"), &signed(&found.index), &want);
        report.distances(name("dist"), &found.distances(), &distances, 1e-6);
    }
    Ok(())
}

/// Rank of every point's cell and points per cell, by small windows of edge `size`.
fn partition(points: &mut Hierarchy, size: f32, shifted: bool) -> Result<Cells> {
    let options = WindowOptions {
        size,
        step: size / 2.0,
        shifted,
    };
    let windows = points.windows(0, options, None)?;
    let (mut rank, mut counts) = (vec![0; windows.points()], Vec::new());
    let mut last = None;
    for group in windows.groups() {
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

/// Edge of a window, which the file gives for each axis.
fn window_size(file: &ReferenceFile<'_>) -> Result<f32> {
    let sizes = file.floats("window_size", &[3])?;
    match sizes.iter().all(|size| *size == sizes[0]) {
        true => Ok(sizes[0]),
        false => Err(file.fault("window_size", format!("{sizes:?} are no cube"))),
    }
}

/// Window partitions, small and large, with and without shift.
pub(in super::super) fn partitions(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let coord = file.points("coord")?;
    let ends = file.ends("offset", coord.len())?;
    let size = window_size(file)?;
    elements(file, "", &ends, report)?;
    let mut points = Hierarchy::on(case.device, coord.clone(), ends.clone())?;
    for (part, size) in [("small", size), ("large", 2.0 * size)] {
        for (suffix, shifted) in [("", false), ("_shift", true)] {
            let name = |n: &str| format!("{part}{suffix}.{n}");
            let found = partition(&mut points, size, shifted)?;
            report.equal(name("v2p"), &found.rank, &file.list(&name("v2p"))?);
            let counts = file.list(&name("counts"))?;
            report.equal(name("counts"), &found.counts, &counts);
            let numbers = cell_numbers(&coord, &ends, size, shifted);
            report.equal(name("cell_id"), &numbers, &file.list(&name("cell_id"))?);
        }
    }
    Ok(())
}

/// Numbers of the cells of all points: those of a box around the batch, x fastest, element after element.
fn cell_numbers(coord: &[[f32; 3]], ends: &[usize], size: f32, shifted: bool) -> Vec<i64> {
    let start: [f32; 3] = std::array::from_fn(|axis| {
        let places = coord.iter().map(|p| p[axis]);
        places.fold(f32::INFINITY, f32::min)
    });
    let shift = if shifted { 0.5 * size } else { 0.0 };
    let cell = |p: &[f32; 3]| -> [i64; 3] {
        std::array::from_fn(|axis| ((p[axis] - start[axis] + shift) / size).floor() as i64)
    };
    let cells: Vec<[i64; 3]> = coord.iter().map(cell).collect();
    let [x, y, z]: [i64; 3] = std::array::from_fn(|axis| {
        let cells = cells.iter().map(|cell| cell[axis]);
        cells.max().unwrap_or(0) + 1
    });
    let number = |(row, cell): (usize, &[i64; 3])| {
        let element = ends[1..].partition_point(|end| *end <= row) as i64;
        cell[0] + x * (cell[1] + y * (cell[2] + z * element))
    };
    cells.iter().enumerate().map(number).collect()
}

/// The batch that says which windows the attention files mean: they hold pairs, but no batch and no sampled keys.
pub(super) struct Batch {
    device: Device,
    pub coord: Vec<[f32; 3]>,
    ends: Vec<usize>,
    size: f32,
    step: f32,
    stride: usize,
}

impl Batch {
    /// Reads `op_stratified_keys.safetensors` beside the file at hand.
    pub fn beside(case: &Case<'_>) -> Result<Batch> {
        let name = "op_stratified_keys.safetensors";
        let path = case.file.path().with_file_name(name);
        let tensors = safetensors::read(&path)?;
        Batch::read(&ReferenceFile::new(&tensors, &path), case.device)
    }

    fn read(file: &ReferenceFile<'_>, device: Device) -> Result<Batch> {
        let coord = file.points("coord")?;
        Ok(Batch {
            device,
            ends: file.ends("offset", coord.len())?,
            size: window_size(file)?,
            step: file.number("quant_size")? as f32,
            stride: file.whole("downsample_scale")?,
            coord,
        })
    }

    /// Points per element that are keys of other windows too.
    fn counts(&self) -> Vec<usize> {
        stride_counts(&self.ends, self.stride)
    }

    fn points(&self) -> Result<Hierarchy> {
        Hierarchy::on(self.device, self.coord.clone(), self.ends.clone())
    }

    fn sampled(&self) -> Result<Array<u32>> {
        self.points()?.farthest(0, &self.counts())
    }

    /// The windows of an unshifted or a shifted block, with sampled keys of our own.
    pub fn windows(&self, shifted: bool) -> Result<Arc<Windows>> {
        let options = WindowOptions {
            size: self.size,
            step: self.step,
            shifted,
        };
        let mut points = self.points()?;
        let sampled = points.farthest(0, &self.counts())?;
        points.windows(0, options, Some(&sampled))
    }
}

/// Which lists a file holds of pairs, beside rows and ends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lists {
    /// `is_dense`: whether both are in the same small window.
    pub kinds: bool,
    /// `rel_idx`: bins of the relative position.
    pub bins: bool,
}

/// Compares the pairs that windows stand for with the file's lists under `prefix`: rows, kinds and bins.
pub(super) fn pairs(
    file: &ReferenceFile<'_>,
    prefix: &str,
    windows: &Windows,
    lists: Lists,
    report: &mut Report,
) -> Result<()> {
    let name = |n: &str| format!("{prefix}{n}");
    let row = |position: usize| i64::from(windows.order[position]);
    let mut pairs = Vec::with_capacity(windows.pairs());
    for group in windows.groups() {
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
    let first = column(|p| p.0);
    report.equal(name("index_0"), &first, &file.list(&name("index_0"))?);
    let second = column(|p| p.1);
    report.equal(name("index_1"), &second, &file.list(&name("index_1"))?);
    let rows = 0..=windows.order.len() as i64;
    let ends: Vec<i64> = rows
        .map(|row| first.partition_point(|r| *r < row) as i64)
        .collect();
    report.equal(name("offsets"), &ends, &file.list(&name("offsets"))?);
    if lists.kinds {
        let want = file.list(&name("is_dense"))?;
        report.equal(name("is_dense"), &column(|p| p.2), &want);
    }
    if lists.bins {
        let rows = 2 * windows.quantization.bins().div_ceil(2);
        let bin = |axis: usize, query: usize, key: usize| {
            let place = &windows.place[axis];
            windows.quantization.bin(place[query], place[key], rows) as i64
        };
        let bins: Vec<i64> = pairs
            .iter()
            .flat_map(|p| (0..3).map(move |axis| bin(axis, p.3, p.4)))
            .collect();
        let [held, _] = file.dims(&name("rel_idx"))?;
        let want = file.integers(&name("rel_idx"), &[held, 3])?;
        report.equal(name("rel_idx"), &bins, &want);
    }
    Ok(())
}

/// Keys of unshifted and shifted blocks.
pub(in super::super) fn keys(case: &Case<'_>, report: &mut Report) -> Result<()> {
    let file = case.file;
    let batch = Batch::read(file, case.device)?;
    elements(file, "", &batch.ends, report)?;
    let want = file.list("downsample_idx")?;
    report.equal("downsample_idx", &signed(&batch.sampled()?), &want);
    let ends = file.ends("downsample_offset", want.len())?;
    let counts: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
    report.equal("downsample_offset", &batch.counts(), &counts);
    let lists = Lists {
        kinds: true,
        bins: true,
    };
    for (prefix, shifted) in [("block0.", false), ("block1.", true)] {
        let windows = batch.windows(shifted)?;
        pairs(file, prefix, &windows, lists, report)?;
    }
    Ok(())
}
