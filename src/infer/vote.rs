//! Summed class probabilities of points that are seen several times, or of whom a neighbour was seen.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | sums | [N, C] | probabilities added up per point |
//! | class | \[N\] | first class of the largest sum; -1 for a point that was never seen |
//! | confidence | \[N\] | that sum divided by all of the point's, 0 to 1 |

use rayon::prelude::*;

/// Votes of some points for C classes.
#[derive(Debug, Clone)]
pub struct Votes {
    classes: usize,
    sums: Vec<f32>,
}

impl Votes {
    /// No votes yet for `points` points.
    pub fn new(points: usize, classes: usize) -> Votes {
        Votes {
            classes,
            sums: vec![0.0; points * classes],
        }
    }

    /// One row of probabilities for each point.
    pub fn of(probabilities: Vec<f32>, classes: usize) -> Votes {
        Votes {
            classes,
            sums: probabilities,
        }
    }

    /// Adds one row of probabilities to one point.
    pub fn add(&mut self, point: usize, probabilities: &[f32]) {
        let sums = &mut self.sums[point * self.classes..][..self.classes];
        for (sum, p) in sums.iter_mut().zip(probabilities) {
            *sum += p;
        }
    }

    /// Adds to every point the row that `row_of` names: voxel results spread to points.
    pub fn spread(&mut self, row_of: &[u32], probabilities: &[f32]) {
        let classes = self.classes;
        self.sums
            .par_chunks_exact_mut(classes)
            .zip(row_of)
            .for_each(|(sums, row)| {
                let row = &probabilities[*row as usize * classes..][..classes];
                for (sum, p) in sums.iter_mut().zip(row) {
                    *sum += p;
                }
            });
    }

    /// The sums of one point.
    pub fn of_point(&self, point: usize) -> &[f32] {
        &self.sums[point * self.classes..][..self.classes]
    }
}

/// Class and confidence of a point.
pub fn decide(sums: &[f32]) -> (i32, f32) {
    let best = (0..sums.len()).fold(0, |b, c| if sums[c] > sums[b] { c } else { b });
    let total: f32 = sums.iter().sum();
    if total > 0.0 {
        (best as i32, (sums[best] / total).min(1.0))
    } else {
        (-1, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_decide_and_ties_go_to_the_first() {
        let mut votes = Votes::new(3, 2);
        votes.add(0, &[0.9, 0.1]);
        votes.add(0, &[0.2, 0.8]);
        votes.add(0, &[0.1, 0.9]);
        votes.add(2, &[0.5, 0.5]);
        let (class, confidence) = decide(votes.of_point(0));
        assert_eq!(class, 1);
        assert!((confidence - 0.6).abs() < 1e-6);
        assert_eq!(decide(votes.of_point(1)), (-1, 0.0));
        assert_eq!(decide(votes.of_point(2)), (0, 0.5));
    }

    #[test]
    fn spreading_follows_the_map() {
        let mut votes = Votes::new(3, 2);
        votes.spread(&[1, 0, 1], &[1.0, 0.0, 0.25, 0.75]);
        let decided = [0, 1, 2].map(|point| decide(votes.of_point(point)));
        assert_eq!(decided, [(1, 0.75), (0, 1.0), (1, 0.75)]);
    }
}
