//! Votes on points near the edges of blocks, on disk until all blocks around have voted.
//!
//! A point that the tiles of several blocks see belongs to the block in whose core it lies. Every block that sees it leaves a
//! vote for the owner; when all are done, the owner's points are decided by the sum.
//!
//! | bytes of a vote | holds |
//! |---|---|
//! | 8 | key of the point or voxel |
//! | C × 4 | weighted probabilities, f32 |
//!
//! All little-endian. Memory: that of the votes on one block.

use super::scratch::Scratch;
use crate::Result;
use crate::cloud::keys::KeyNumbers;
use crate::infer::vote::decide;
use std::path::Path;

/// Bytes that are read and written together.
const PIECE: usize = 1 << 20;

/// A row of what is in memory that several blocks may vote on.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    pub row: u32,
    /// Block that decides.
    pub owner: u32,
    /// Same number in all blocks.
    pub key: u64,
}

/// Votes of all blocks.
#[derive(Debug)]
pub struct Seams {
    scratch: Scratch,
    classes: usize,
    /// For each owner the positions and lengths, in bytes, of the votes left for it.
    sections: Vec<Vec<(u64, u64)>>,
}

/// Votes on the points of one block.
#[derive(Debug)]
pub struct Tally {
    classes: usize,
    numbers: KeyNumbers,
    keys: Vec<u64>,
    sums: Vec<f32>,
}

impl Seams {
    /// No votes yet, on the file system of `folder`.
    pub fn new(folder: &Path, blocks: usize, classes: usize) -> Result<Seams> {
        Ok(Seams {
            scratch: Scratch::new(folder)?,
            classes,
            sections: vec![Vec::new(); blocks],
        })
    }

    /// Leaves the votes of one block, `sums` of each open row. They are sorted by owner.
    pub fn put<'a>(&mut self, open: &mut [Open], sums: impl Fn(u32) -> &'a [f32]) -> Result<()> {
        open.sort_unstable_by_key(|o| (o.owner, o.row));
        let mut bytes = Vec::with_capacity(PIECE);
        for votes in open.chunk_by(|a, b| a.owner == b.owner) {
            let start = self.scratch.len();
            for vote in votes {
                let sums = sums(vote.row);
                // No tile reached it.
                if sums.iter().all(|s| *s == 0.0) {
                    continue;
                }
                bytes.extend_from_slice(&vote.key.to_le_bytes());
                bytes.extend(sums.iter().flat_map(|s| s.to_le_bytes()));
                if bytes.len() >= PIECE {
                    self.scratch.write(self.scratch.len(), &bytes)?;
                    bytes.clear();
                }
            }
            self.scratch.write(self.scratch.len(), &bytes)?;
            bytes.clear();
            let section = (start, self.scratch.len() - start);
            self.sections[votes[0].owner as usize].push(section);
        }
        Ok(())
    }

    /// Adds up the votes left for a block.
    pub fn tally(&self, owner: usize) -> Result<Tally> {
        let mut tally = Tally {
            classes: self.classes,
            numbers: KeyNumbers::default(),
            keys: Vec::new(),
            sums: Vec::new(),
        };
        let size = 8 + 4 * self.classes;
        let mut bytes = vec![0; (PIECE / size).max(1) * size];
        for &(start, length) in &self.sections[owner] {
            let mut at = start;
            while at < start + length {
                let piece = (start + length - at).min(bytes.len() as u64) as usize;
                self.scratch.read(at, &mut bytes[..piece])?;
                bytes[..piece].chunks_exact(size).for_each(|v| tally.add(v));
                at += piece as u64;
            }
        }
        Ok(tally)
    }
}

impl Tally {
    fn add(&mut self, vote: &[u8]) {
        let (key, values) = vote.split_at(8);
        let key = u64::from_le_bytes(key.try_into().expect("a key has 8 bytes"));
        let number = self.numbers.number(key) as usize;
        if number == self.keys.len() {
            self.keys.push(key);
            self.sums.resize(self.sums.len() + self.classes, 0.0);
        }
        let sums = &mut self.sums[number * self.classes..][..self.classes];
        for (sum, value) in sums.iter_mut().zip(values.chunks_exact(4)) {
            *sum += f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        }
    }

    /// Keys in the order in which they were first voted on.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Class and confidence of a key; −1 and 0 if nobody voted on it.
    pub fn decide(&self, key: u64) -> (i32, f32) {
        match self.numbers.get(key) {
            Some(number) => decide(&self.sums[number as usize * self.classes..][..self.classes]),
            None => (-1, 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_reach_their_owner_and_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut seams = Seams::new(folder.path(), 3, 2).unwrap();
        let open = |row, owner, key| Open { row, owner, key };
        let first = [[0.75, 0.25], [0.0, 0.0], [0.25, 0.25]];
        let mut votes = [open(0, 2, 77), open(1, 0, 5), open(2, 0, 77)];
        seams.put(&mut votes, |row| &first[row as usize]).unwrap();
        let second = [[0.0, 0.75]];
        seams
            .put(&mut [open(0, 2, 77)], |row| &second[row as usize])
            .unwrap();
        let tally = seams.tally(2).unwrap();
        assert_eq!(tally.keys(), [77]);
        assert_eq!(tally.decide(77), (1, 1.0 / 1.75));
        assert_eq!(tally.decide(5), (-1, 0.0));
        let tally = seams.tally(0).unwrap();
        assert_eq!((tally.keys(), tally.decide(77)), (&[77][..], (0, 0.5)));
        assert!(seams.tally(1).unwrap().keys().is_empty());
    }

    #[test]
    fn votes_of_more_than_a_piece_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut seams = Seams::new(folder.path(), 1, 5).unwrap();
        let mut votes: Vec<Open> = (0..100_000)
            .map(|row| Open {
                row,
                owner: 0,
                key: u64::from(row) << 20,
            })
            .collect();
        let sums: Vec<[f32; 5]> = (0..5)
            .map(|c| std::array::from_fn(|i| if i == c { 1.0 } else { 0.25 }))
            .collect();
        seams
            .put(&mut votes, |row| &sums[row as usize % 5])
            .unwrap();
        let tally = seams.tally(0).unwrap();
        assert_eq!(tally.keys().len(), votes.len());
        for vote in votes {
            assert_eq!(tally.decide(vote.key), (vote.row as i32 % 5, 0.5));
        }
    }
}
