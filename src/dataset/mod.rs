//! Labelled scans as training data.
//!
//! | module | what it holds |
//! |---|---|
//! | [`folder`] | scans in files, folders and patterns, with a label attribute |
//! | [`labels`] | from codes in scans to classes |
//!
//! A data set gives [`LabelledCloud`]s by number. A new kind of data set is a file here that implements [`Dataset`] and a
//! variant of what configurations can ask for.

pub mod folder;
pub mod labels;

use crate::Result;
use crate::cloud::PointCloud;
use crate::cloud::features::{Feature, Sample};
use std::sync::Arc;

/// Clouds with labels, by number.
pub trait Dataset: Send + Sync {
    /// Number of clouds.
    fn len(&self) -> usize;

    /// True without clouds.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of a cloud for people.
    fn name(&self, number: usize) -> &str;

    /// A cloud, read or from memory.
    ///
    /// # Errors
    /// Whatever reading it meets.
    fn cloud(&self, number: usize) -> Result<Arc<LabelledCloud>>;
}

/// A scan that networks can be trained on and scored against.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledCloud {
    /// The points to see, with a class each or [`crate::cloud::batch::IGNORED`].
    pub sample: Sample,
    /// Class of every usable point of the file, in file order: what all-points scores are counted on.
    pub target: Vec<i32>,
    /// For each of those, its row in `sample`; several share one where duplicates were dropped.
    pub row_of: Vec<u32>,
}

impl LabelledCloud {
    /// Takes what `features` need from `cloud`, whose points have the classes `target`. Points without usable coordinates
    /// are left out; with `Duplicates::Drop` only the first of several points in one place is seen.
    ///
    /// # Errors
    /// A feature that the cloud cannot give.
    pub fn new(
        cloud: &PointCloud,
        target: &[i32],
        features: &[Feature],
        duplicates: Duplicates,
    ) -> Result<LabelledCloud> {
        let usable = cloud.usable_rows();
        let target: Vec<i32> = usable.iter().map(|r| target[*r as usize]).collect();
        let (rows, row_of) = match duplicates {
            Duplicates::Keep => (
                (0..usable.len() as u32).collect(),
                (0..usable.len() as u32).collect(),
            ),
            Duplicates::Drop => distinct(&cloud.coord, &usable),
        };
        let seen: Vec<u32> = rows.iter().map(|r: &u32| usable[*r as usize]).collect();
        let mut sample = Sample::new(&cloud.select(&seen), features)?;
        sample.label = rows.iter().map(|r| target[*r as usize]).collect();
        Ok(LabelledCloud {
            sample,
            target,
            row_of,
        })
    }
}

/// What to do with points in exactly one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// They all stay.
    Keep,
    /// The first one stays.
    Drop,
}

/// The first of each group of coincident points among `usable`, ascending, and for every usable point the number of its
/// group's first in that list.
fn distinct(coord: &[[f64; 3]], usable: &[u32]) -> (Vec<u32>, Vec<u32>) {
    // 0.0 and -0.0 are one place.
    let bits = |row: u32| coord[usable[row as usize] as usize].map(|v| (v + 0.0).to_bits());
    let mut order: Vec<u32> = (0..usable.len() as u32).collect();
    order.sort_by_key(|row| bits(*row));
    let mut first: Vec<u32> = (0..usable.len() as u32).collect();
    for pair in order.windows(2) {
        if bits(pair[0]) == bits(pair[1]) {
            // The sort is stable, so the first of a group comes first.
            first[pair[1] as usize] = first[pair[0] as usize];
        }
    }
    let rows: Vec<u32> = (0..usable.len() as u32)
        .filter(|row| first[*row as usize] == *row)
        .collect();
    let mut number = vec![0; usable.len()];
    for (i, row) in rows.iter().enumerate() {
        number[*row as usize] = i as u32;
    }
    let row_of = first.iter().map(|row| number[*row as usize]).collect();
    (rows, row_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coincident_points_are_seen_once_and_scored_all() {
        let place = [7.0, 8.0, 9.0];
        let cloud = PointCloud {
            coord: vec![
                place,
                [0.0; 3],
                place,
                [f64::NAN; 3],
                [-0.0, 0.0, 0.0],
                place,
            ],
            ..PointCloud::default()
        };
        let target = [0, 1, 2, 3, 4, 5];
        let found = LabelledCloud::new(&cloud, &target, &[], Duplicates::Drop).unwrap();
        assert_eq!(found.sample.label, [0, 1]);
        assert_eq!(found.target, [0, 1, 2, 4, 5]);
        assert_eq!(found.row_of, [0, 1, 0, 1, 0]);
        let found = LabelledCloud::new(&cloud, &target, &[], Duplicates::Keep).unwrap();
        assert_eq!(found.sample.label, [0, 1, 2, 4, 5]);
        assert_eq!(found.row_of, [0, 1, 2, 3, 4]);
    }
}
