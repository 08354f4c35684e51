//! Votes of overlapping tiles, so that no edge of a tile shows.
//!
//! Where the weight of a tile falls ([`Tile::weight`]), those of its neighbours rise: what is decided changes as smoothly from
//! one tile into the next as it does within them. A point that no tile gives less than full weight is decided by the one that
//! sees it.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | slot | \[N\] | row of `sums`; `NONE` for points that one tile decides |
//! | sums | [S, C] | weighted probabilities of the points that several tiles see |
//! | class, confidence | \[N\] | as in [`super::vote`] |
//!
//! Memory: 12 bytes per point, 4 C for one that several tiles see.

use super::tiles::Tile;
use super::vote::{Votes, decide};

const NONE: u32 = u32::MAX;

/// Decisions about the points of a scan or of a part of it.
#[derive(Debug)]
pub(super) struct Blend {
    classes: usize,
    slot: Vec<u32>,
    sums: Vec<f32>,
    class: Vec<i32>,
    confidence: Vec<f32>,
}

impl Blend {
    /// No votes yet for the points that `tiles` see. Those whose rows are `open` get votes from elsewhere too.
    pub fn new(
        coord: &[[f32; 3]],
        tiles: &[Tile],
        classes: usize,
        open: impl IntoIterator<Item = u32>,
    ) -> Blend {
        let mut slot = vec![NONE; coord.len()];
        let mut count = 0;
        let mut share = |row: u32| {
            let slot = &mut slot[row as usize];
            if *slot == NONE {
                *slot = count;
                count += 1;
            }
        };
        open.into_iter().for_each(&mut share);
        for tile in tiles {
            let part = |row: &u32| {
                let weight = tile.weight(coord[*row as usize]);
                weight > 0.0 && weight < 1.0
            };
            tile.rows.iter().copied().filter(part).for_each(&mut share);
        }
        Blend {
            classes,
            sums: vec![0.0; count as usize * classes],
            class: vec![-1; coord.len()],
            confidence: vec![0.0; coord.len()],
            slot,
        }
    }

    /// Adds what one tile says of its rows.
    pub fn add(&mut self, coord: &[[f32; 3]], tile: &Tile, votes: &Votes) {
        for (i, row) in tile.rows.iter().enumerate() {
            let row = *row as usize;
            let weight = tile.weight(coord[row]);
            if weight == 0.0 {
                continue;
            }
            let votes = votes.of_point(i);
            if self.slot[row] == NONE {
                (self.class[row], self.confidence[row]) = decide(votes);
                continue;
            }
            // With several views some points are seen more often than others.
            let total: f32 = votes.iter().sum();
            if total > 0.0 {
                let sums = &mut self.sums[self.slot[row] as usize * self.classes..][..self.classes];
                for (sum, vote) in sums.iter_mut().zip(votes) {
                    *sum += weight / total * vote;
                }
            }
        }
    }

    /// The weighted votes for a point that several tiles see, or that is open.
    ///
    /// # Panics
    /// For other points.
    pub fn sums(&self, row: u32) -> &[f32] {
        let slot = self.slot[row as usize];
        assert_ne!(slot, NONE, "one tile decides");
        &self.sums[slot as usize * self.classes..][..self.classes]
    }

    /// Class and confidence of every point, by the votes so far.
    pub fn decide(mut self) -> (Vec<i32>, Vec<f32>) {
        for (row, slot) in self.slot.iter().enumerate().filter(|(_, s)| **s != NONE) {
            let sums = &self.sums[*slot as usize * self.classes..][..self.classes];
            (self.class[row], self.confidence[row]) = decide(sums);
        }
        (self.class, self.confidence)
    }
}
