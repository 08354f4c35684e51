//! Neighbour tables and naive twins for the tests of the attention ops.

use super::Sizes;
use crate::device::random::{Random, Sequence};
use crate::geometry::{MISSING, Neighbors};
use crate::graph::Shape;
use std::sync::Arc;

/// A neighbour table that answers in `f64`.
pub struct Table {
    pub neighbors: Arc<Neighbors>,
}

impl Table {
    pub fn new(sizes: &[usize], k: usize) -> Table {
        let mut random = Sequence::new(Random::new(11, k as u64));
        let n: usize = sizes.iter().sum();
        let coord: Vec<[f32; 3]> = (0..n)
            .map(|_| std::array::from_fn(|_| random.between(-2.0, 2.0) as f32))
            .collect();
        let mut offsets = vec![0];
        for size in sizes {
            offsets.push(offsets[offsets.len() - 1] + size);
        }
        let neighbors = Neighbors::self_query(&coord, &offsets, k).unwrap();
        Table {
            neighbors: Arc::new(neighbors),
        }
    }

    pub fn pairs(&self) -> usize {
        self.neighbors.index.len()
    }

    #[allow(
        clippy::misnamed_getters,
        reason = "a self query: both are the number of points"
    )]
    pub fn points(&self) -> usize {
        self.neighbors.queries
    }

    pub fn delta(&self, pair: usize, axis: usize) -> f64 {
        f64::from(self.neighbors.delta[axis][pair])
    }

    /// Row of the neighbour of a pair, if it exists.
    pub fn row(&self, pair: usize) -> Option<usize> {
        let row = self.neighbors.index[pair];
        (row != MISSING).then_some(row as usize)
    }

    /// h of a pair for P ([C, 4]).
    pub fn hidden(&self, p: &[f64], pair: usize) -> Vec<f64> {
        self.hidden_at(p, pair, None)
    }

    /// h of a pair for P ([C, 4]) and, where they are given, offsets other than the table's ([N·K, 3]).
    pub fn hidden_at(&self, p: &[f64], pair: usize, offsets: Option<&Vec<f64>>) -> Vec<f64> {
        let delta = |a: usize| offsets.map_or_else(|| self.delta(pair, a), |d| d[3 * pair + a]);
        p.chunks_exact(4)
            .map(|p| {
                let z: f64 = (0..3).map(|a| p[a] * delta(a)).sum();
                (z + p[3]).max(0.0)
            })
            .collect()
    }

    /// The table's offsets as a value [N·K, 3].
    pub fn offsets(&self) -> (Shape, Vec<f32>) {
        let pairs = 0..self.pairs();
        let values = pairs.flat_map(|p| (0..3).map(move |a| self.neighbors.delta[a][p]));
        (Shape::new(self.pairs(), 3), values.collect())
    }
}

/// No points, one point, a middle size, an empty cloud between two others, clouds smaller than K; several K.
pub fn tables() -> Vec<Table> {
    let mut all = Vec::new();
    for k in [1, 5, 16, 17] {
        all.push(Table::new(&[37], k));
    }
    for sizes in [&[0][..], &[1], &[0, 3, 0, 90, 0, 1], &[200]] {
        all.push(Table::new(sizes, 16));
    }
    all
}

/// Channels and groups: widths 4, 6, 8, 1, 2, 32.
pub const WIDTHS: [[usize; 2]; 6] = [[24, 6], [24, 4], [48, 6], [12, 12], [10, 5], [64, 2]];

/// The table of 37 points with the given K, and the sizes for it.
pub fn case(k: usize, [channels, groups]: [usize; 2]) -> (Table, Sizes) {
    let table = Table::new(&[30, 0, 7], k);
    let sizes = Sizes::new("test", &table.neighbors, groups, channels).unwrap();
    (table, sizes)
}

/// Softmax weights of naive logits [pairs, G], zero where missing.
pub fn naive_weights(table: &Table, logits: &[f64], groups: usize) -> Vec<f64> {
    let k = table.neighbors.k;
    let mut w = vec![0.0; logits.len()];
    for i in 0..table.points() {
        for g in 0..groups {
            let at = |j: usize| (i * k + j) * groups + g;
            let top = (0..k).map(|j| logits[at(j)]).fold(f64::MIN, f64::max);
            let sum: f64 = (0..k).map(|j| (logits[at(j)] - top).exp()).sum();
            for j in (0..k).filter(|j| table.row(i * k + j).is_some()) {
                w[at(j)] = (logits[at(j)] - top).exp() / sum;
            }
        }
    }
    w
}
