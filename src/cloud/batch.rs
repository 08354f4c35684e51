//! Several clouds as one ragged batch: what a network reads in one step.

use crate::{Error, Result};

/// Label of a row that takes part in nothing: no loss, no metric.
pub const IGNORED: i32 = -1;

/// Clouds one after another.
///
/// | field | shape | meaning |
/// |---|---|---|
/// | coord | \[N\] × 3 | positions, metres, in each cloud's own frame |
/// | feat | [N, C] row-major | network input |
/// | offsets | [B + 1] | first row of every cloud; starts with 0, ends with N |
/// | target | \[N\] | class of every row, [`IGNORED`] where there is none |
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Positions, metres.
    pub coord: Vec<[f32; 3]>,
    /// Features, row-major.
    pub feat: Vec<f32>,
    /// Width C of a row of `feat`.
    pub channels: usize,
    /// First row of every cloud, then the number of rows.
    pub offsets: Vec<usize>,
    /// Class of every row, or [`IGNORED`].
    pub target: Vec<i32>,
}

impl Batch {
    /// A batch without clouds whose rows will have `channels` features.
    pub fn new(channels: usize) -> Batch {
        Batch {
            coord: Vec::new(),
            feat: Vec::new(),
            channels,
            offsets: vec![0],
            target: Vec::new(),
        }
    }

    /// Number of rows of all clouds.
    pub fn len(&self) -> usize {
        self.coord.len()
    }

    /// True without any row.
    pub fn is_empty(&self) -> bool {
        self.coord.is_empty()
    }

    /// Number of clouds.
    pub fn clouds(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Appends one cloud: `coord` \[N\], `feat` [N, channels], `target` \[N\].
    ///
    /// # Errors
    /// Lists of different lengths; the batch is left as it was.
    pub fn push(&mut self, coord: &[[f32; 3]], feat: &[f32], target: &[i32]) -> Result<()> {
        let rows = coord.len();
        if feat.len() != rows * self.channels || target.len() != rows {
            return Err(Error::shape(
                "batch",
                format!(
                    "{rows} points need {} feature values ({} each) and {rows} targets, but there are {} and {}",
                    rows * self.channels,
                    self.channels,
                    feat.len(),
                    target.len()
                ),
            ));
        }
        self.coord.extend_from_slice(coord);
        self.feat.extend_from_slice(feat);
        self.target.extend_from_slice(target);
        self.offsets.push(self.coord.len());
        Ok(())
    }

    /// Mix3D (Nekrasov et al. 2021) as the reference does it: clouds 0 and 1, 2 and 3, … become one; an odd last one stays
    /// alone. Nothing is moved, clouds overlap in their common centred frame.
    pub fn mix_pairs(&mut self) {
        let last = self.offsets.len() - 1;
        let mut number = 0..;
        self.offsets.retain(|_| {
            let i = number.next().unwrap_or(0);
            i % 2 == 0 || i == last
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(sizes: &[usize]) -> Batch {
        let mut b = Batch::new(2);
        for &n in sizes {
            b.push(&vec![[0.0; 3]; n], &vec![1.0; 2 * n], &vec![0; n])
                .unwrap();
        }
        b
    }

    #[test]
    fn mixing_merges_consecutive_pairs() {
        for (sizes, expected) in [
            (&[][..], &[0][..]),
            (&[3], &[0, 3]),
            (&[3, 4], &[0, 7]),
            (&[3, 4, 5], &[0, 7, 12]),
            (&[3, 0, 5, 2], &[0, 3, 10]),
        ] {
            let mut b = batch(sizes);
            b.mix_pairs();
            assert_eq!(b.offsets, expected, "clouds of {sizes:?}");
        }
    }

    #[test]
    fn lists_of_other_lengths_are_rejected() {
        let mut b = batch(&[2]);
        let before = b.clone();
        assert!(b.push(&[[0.0; 3]], &[1.0], &[0]).is_err());
        assert!(b.push(&[[0.0; 3]], &[1.0, 2.0], &[]).is_err());
        assert_eq!(b, before);
    }
}
