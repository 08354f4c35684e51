//! Groups of queries that have the same keys, and the parts that backward works through.

use super::Tiles;
use crate::device::parallel;
use crate::geometry::Ragged;
use std::ops::Range;

/// Points per part below which a batch is not cut further.
const PART: usize = 64;

/// Queries that have the same keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Positions of the queries.
    pub queries: Range<usize>,
    /// Positions of the small window: the dense keys, the queries among them.
    pub dense: Range<usize>,
    /// List of [`super::Windows::sampled`] that holds the large window's sampled points; those in `dense` are no sparse keys.
    pub large: usize,
    /// Number of sparse keys.
    pub sparse: usize,
    /// Place of the first entry of list `large` among the sampled points that the part of this group touches.
    pub slot: usize,
}

impl Group {
    /// Number of keys of each query.
    pub fn keys(&self) -> usize {
        self.dense.len() + self.sparse
    }

    /// Number of pairs.
    pub fn pairs(&self) -> usize {
        self.queries.len() * self.keys()
    }
}

/// A run of groups that backward works through alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Which groups.
    pub groups: Range<usize>,
    /// Lists of [`super::Windows::sampled`] that its groups touch, each once, with the slot of its first entry.
    pub touched: Vec<(usize, usize)>,
    /// Slots of all of them.
    pub slots: usize,
}

/// The lists that the host works by.
#[derive(Debug, Clone)]
pub(super) struct Work {
    /// In order of their queries, which cover all positions.
    pub groups: Vec<Group>,
    /// In order of their groups.
    pub parts: Vec<Part>,
}

impl Work {
    /// Counts sparse keys and cuts the groups into parts.
    pub fn new(mut groups: Vec<Group>, sampled: &Ragged, points: usize) -> Work {
        for group in &mut groups {
            let inside = |position: &&u32| group.dense.contains(&(**position as usize));
            let list = sampled.list(group.large);
            group.sparse = list.len() - list.iter().filter(inside).count();
        }
        let parts = parts(&mut groups, sampled, points);
        Work { groups, parts }
    }

    /// From the lists that GPUs work by.
    pub fn of_tiles(tiles: &Tiles, sampled: &Ragged, points: usize) -> Work {
        let mut first = 0;
        let (all, _) = tiles.groups.as_chunks::<4>();
        let groups = all.iter().map(|numbers| {
            let [end, dense, dense_end, large] = numbers.map(|n| n as usize);
            Group {
                queries: std::mem::replace(&mut first, end)..end,
                dense: dense..dense_end,
                large,
                sparse: 0,
                slot: 0,
            }
        });
        Work::new(groups.collect(), sampled, points)
    }
}

/// Cuts the order wherever a window number changes. List and sparse keys are filled in later.
pub(super) fn groups(order: &[u32], small: &[u64], large: Option<&[u64]>) -> Vec<Group> {
    let window = |position: usize| small[order[position] as usize];
    let both = |position: usize| (window(position), large.map(|l| l[order[position] as usize]));
    let mut groups: Vec<Group> = Vec::new();
    let mut first_of_window = 0;
    let mut first = 0;
    for position in 1..=order.len() {
        let ends = position == order.len() || both(position) != both(first);
        if !ends {
            continue;
        }
        groups.push(Group {
            queries: first..position,
            dense: 0..0,
            large: 0,
            sparse: 0,
            slot: 0,
        });
        if position == order.len() || window(position) != window(first) {
            let dense = groups[first_of_window].queries.start..position;
            for group in &mut groups[first_of_window..] {
                group.dense = dense.clone();
            }
            first_of_window = groups.len();
        }
        first = position;
    }
    groups
}

/// Cuts the groups into parts of about equal work, and gives every group the slot of its list.
fn parts(groups: &mut [Group], sampled: &Ragged, points: usize) -> Vec<Part> {
    let count = (points / PART).clamp(1, parallel::PARTIALS);
    let total: usize = groups.iter().map(Group::pairs).sum();
    let mut parts = Vec::with_capacity(count);
    let (mut first, mut work) = (0, 0);
    for end in 1..=groups.len() {
        work += groups[end - 1].pairs();
        let ends_window = groups
            .get(end)
            .is_none_or(|g| g.dense != groups[end - 1].dense);
        let is_full = work * count >= total * (parts.len() + 1);
        if ends_window && (is_full || end == groups.len()) {
            parts.push(part(groups, first..end, sampled));
            first = end;
        }
    }
    parts
}

fn part(groups: &mut [Group], range: Range<usize>, sampled: &Ragged) -> Part {
    let own = &mut groups[range.clone()];
    let mut lists: Vec<usize> = own.iter().map(|g| g.large).collect();
    lists.sort_unstable();
    lists.dedup();
    let mut slots = 0;
    let mut touched = Vec::with_capacity(lists.len());
    for list in lists {
        touched.push((list, slots));
        slots += sampled.list(list).len();
    }
    for group in own {
        let at = touched.partition_point(|(list, _)| *list < group.large);
        group.slot = touched[at].1;
    }
    Part {
        groups: range,
        touched,
        slots,
    }
}
