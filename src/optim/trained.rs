//! Which values an optimizer moves, at what share of the rate, and how they are cut into pieces of work.

use super::PIECE;
use crate::device::Array;
use crate::graph::{Layout, ParamKind};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Most values of a piece on a GPU: enough for one block, few enough for many blocks.
const GPU_PIECE: usize = 1 << 12;

/// Parameters that learn at another rate than the rest, as written in a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Part of the names of the group's parameters.
    pub contains: String,
    /// Factor on the rate.
    pub lr: f64,
}

/// The ranges of a flat list that an optimizer moves, ascending, each with its factor on the rate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained(Vec<(Range<usize>, f64)>);

impl Trained {
    /// The trained tensors of a layout. A tensor that several groups name belongs to the first of them.
    pub fn of(layout: &Layout, groups: &[Group]) -> Trained {
        let mut trained = Vec::new();
        for spec in layout.specs() {
            let id = layout
                .find(&spec.name)
                .filter(|_| spec.kind == ParamKind::Weight);
            let group = groups.iter().find(|g| spec.name.contains(&g.contains));
            trained.extend(id.map(|id| (layout.range(id), group.map_or(1.0, |g| g.lr))));
        }
        Trained(trained)
    }

    /// The factor on the rate of every piece that [`pieces`] gives.
    pub(super) fn factors(&self) -> Vec<f64> {
        let pieces = |(range, factor): &(Range<usize>, f64)| {
            std::iter::repeat_n(*factor, range.len().div_ceil(PIECE))
        };
        self.0.iter().flat_map(pieces).collect()
    }
}

/// The pieces of a [`Trained`] as the kernels read them: where each starts, how long it is, its factor on the rate.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    pub starts: Array<u64>,
    pub lengths: Array<u32>,
    pub factors: Array<f64>,
}

impl Pieces {
    /// Cuts every range into pieces for one block each.
    pub fn of(trained: &Trained) -> Pieces {
        let (mut starts, mut lengths, mut factors) = (Vec::new(), Vec::new(), Vec::new());
        for (range, factor) in &trained.0 {
            for start in range.clone().step_by(GPU_PIECE) {
                starts.push(start as u64);
                lengths.push((range.end - start).min(GPU_PIECE) as u32);
                factors.push(*factor);
            }
        }
        Pieces {
            starts: starts.into(),
            lengths: lengths.into(),
            factors: factors.into(),
        }
    }
}

impl FromIterator<Range<usize>> for Trained {
    fn from_iter<I: IntoIterator<Item = Range<usize>>>(ranges: I) -> Self {
        Trained(ranges.into_iter().map(|range| (range, 1.0)).collect())
    }
}

impl From<Vec<Range<usize>>> for Trained {
    fn from(ranges: Vec<Range<usize>>) -> Self {
        ranges.into_iter().collect()
    }
}

/// Checks the groups of a configuration against the parameters of its network.
///
/// # Errors
/// A factor that is not a positive number, a group that no parameter belongs to.
pub fn check_groups(groups: &[Group], layout: &Layout) -> Result<()> {
    for group in groups {
        if !(group.lr.is_finite() && group.lr > 0.0) {
            return Err(Error::config(
                "groups.lr",
                format!("{} must be above 0", group.lr),
            ));
        }
        if !layout
            .specs()
            .iter()
            .any(|s| s.name.contains(&group.contains))
        {
            let fault = format!("no parameter's name contains {:?}", group.contains);
            return Err(Error::config("groups.contains", fault));
        }
    }
    Ok(())
}

/// Cuts the ranges of `trained` (ascending, apart) out of `list`, in pieces of at most [`PIECE`] values.
pub(super) fn pieces_mut<'a>(list: &'a mut [f32], trained: &Trained) -> Vec<&'a mut [f32]> {
    let mut pieces = Vec::new();
    let (mut rest, mut start) = (list, 0);
    for (range, _) in &trained.0 {
        let (_, tail) = rest.split_at_mut(range.start - start);
        let (part, tail) = tail.split_at_mut(range.len());
        pieces.extend(part.chunks_mut(PIECE));
        (rest, start) = (tail, range.end);
    }
    pieces
}

/// As [`pieces_mut`], for reading.
pub(super) fn pieces<'a>(list: &'a [f32], trained: &Trained) -> Vec<&'a [f32]> {
    trained
        .0
        .iter()
        .flat_map(|(range, _)| list[range.clone()].chunks(PIECE))
        .collect()
}
