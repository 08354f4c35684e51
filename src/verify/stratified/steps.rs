//! Geometry steps: farthest point sampling, nearest neighbours.

use super::super::Case;
use super::super::layers::{offsets, points};
use super::super::reference::Report;
use crate::Result;
use crate::geometry::{MISSING, farthest_points, knn};
use crate::weights::Tensors;

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
        let mut found = knn(&coord, &starts, &queries, &ends, k)?;
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
