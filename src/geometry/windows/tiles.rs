//! Windows as lists for GPUs: who works on which queries and keys.
//!
//! | list | shape | meaning |
//! |---|---|---|
//! | groups | [G, 4] | end of the queries, first and end of the dense keys, list of sampled keys |
//! | queries | [tiles, 2] | group, first query: up to [`TILE`] queries of a group |
//! | window | \[N\] | number of the small window of each position |
//! | members | ragged over positions | queries of every large window that has a list of sampled keys |
//! | dense | [tiles, 4] | keys from, to, queries from, to: up to [`TILE`] keys of a small window, and all its points |
//! | sparse | [tiles, 4] | the same as places in the lists of sampled keys and in `members` |

use super::{Group, Windows};
use crate::device::Array;
use crate::geometry::Ragged;

/// Most queries, or keys, of a tile.
pub const TILE: usize = 16;

/// The lists.
#[derive(Debug, Clone)]
pub struct Tiles {
    /// [G, 4]
    pub groups: Array<u32>,
    /// [tiles, 2]
    pub queries: Array<u32>,
    /// \[N\]
    pub window: Array<u32>,
    /// One list for every list of sampled keys.
    pub members: Ragged,
    /// [tiles, 4]
    pub dense: Array<u32>,
    /// [tiles, 4]
    pub sparse: Array<u32>,
}

/// Number of tiles of queries.
pub(super) fn count(groups: &[Group]) -> usize {
    let tiles = |group: &Group| group.queries.len().div_ceil(TILE);
    groups.iter().map(tiles).sum()
}

impl Tiles {
    pub(super) fn new(windows: &Windows) -> Tiles {
        let groups = windows.groups();
        let all = groups.iter().flat_map(|group| {
            let ends = [group.queries.end, group.dense.start, group.dense.end];
            ends.map(|n| n as u32)
                .into_iter()
                .chain([group.large as u32])
        });
        let queries = groups.iter().enumerate().flat_map(|(g, group)| {
            let starts = group.queries.clone().step_by(TILE);
            starts.flat_map(move |first| [g as u32, first as u32])
        });
        let mut window = vec![0; windows.points()];
        let mut dense = Vec::new();
        let mut number = 0;
        for group in groups {
            // the first group of a window speaks for all of it
            if group.queries.start == group.dense.start {
                window[group.dense.clone()].fill(number);
                number += 1;
                push(&mut dense, group.dense.clone(), group.dense.clone());
            }
        }
        let members = members(windows);
        let mut sparse = Vec::new();
        for list in 0..windows.sampled.len() {
            let range =
                |ragged: &Ragged| ragged.offsets[list] as usize..ragged.offsets[list + 1] as usize;
            push(&mut sparse, range(&windows.sampled), range(&members));
        }
        Tiles {
            groups: all.collect::<Vec<_>>().into(),
            queries: queries.collect::<Vec<_>>().into(),
            window: window.into(),
            members,
            dense: dense.into(),
            sparse: sparse.into(),
        }
    }
}

/// Cuts keys into tiles, each with the same queries.
fn push(tiles: &mut Vec<u32>, keys: std::ops::Range<usize>, queries: std::ops::Range<usize>) {
    for first in keys.clone().step_by(TILE) {
        let end = (first + TILE).min(keys.end);
        tiles.extend([first, end, queries.start, queries.end].map(|n| n as u32));
    }
}

/// Positions of the queries of every list of sampled keys.
fn members(windows: &Windows) -> Ragged {
    let mut lists = vec![Vec::new(); windows.sampled.len()];
    for group in windows.groups() {
        lists[group.large].extend(group.queries.clone().map(|position| position as u32));
    }
    let mut offsets = vec![0];
    for list in &lists {
        offsets.push(offsets[offsets.len() - 1] + list.len() as u32);
    }
    Ragged {
        offsets: offsets.into(),
        index: lists.concat().into(),
    }
}
