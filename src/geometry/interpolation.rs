//! Interpolation stencil: the three nearest coarse points of every fine point, weighted by inverse distance
//! (Qi et al. 2017, PointNet++, section 3.4; PTv2's `interp` unpooling).
//!
//! r_k = 1 / (distance_k + 1e-8), weight_k = r_k / (r_0 + r_1 + r_2)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | index | [N, 3] | rows of the coarse points of the same element |
//! | weight | [N, 3] | add up to 1 |
//!
//! As in the official codes, a neighbour that does not exist (the element has fewer than three coarse points) reads some
//! row at a distance of 1e5 m, which at room scale leaks about 1e-6 of that row; see [`Padding`] for which.
//!
//! Errors: fine points without any coarse row to read.

use super::ragged::Ragged;
use super::{MISSING, SearchTree, cuda};
use crate::device::{Array, Device, Gpu};
use crate::{Error, Result};
use std::sync::OnceLock;

/// Coarse points per fine point.
pub const STENCIL: usize = 3;
/// Keeps the inverse of a zero distance finite, metres.
const EPSILON: f32 = 1e-8;

/// The row that a neighbour which does not exist reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The last row of the whole coarse tensor, perhaps of another element (PTv2).
    LastRow,
    /// The first row of the element (Stratified Transformer).
    FirstOfElement,
}

/// For each of N fine points, which coarse rows to mix and how.
#[derive(Debug, Clone)]
pub struct Interpolation {
    /// Coarse rows per fine point: 3.
    pub k: usize,
    /// Number of coarse rows.
    pub points: usize,
    /// [N, 3] row-major: coarse rows, nearest first; every one exists.
    pub index: Array<u32>,
    /// [N, 3] row-major: weights, which add up to 1 per fine point.
    pub weight: Array<f32>,
    /// The GPU whose kernels made it, if any.
    gpu: Option<Gpu>,
    transposed: OnceLock<Ragged>,
}

impl Interpolation {
    /// The stencil from a coarse batch to a fine one with as many elements.
    pub fn new(
        fine: &[[f32; 3]],
        fine_offsets: &[usize],
        coarse: &[[f32; 3]],
        coarse_offsets: &[usize],
    ) -> Result<Interpolation> {
        Self::from_trees(
            &SearchTree::new(fine, fine_offsets)?,
            &SearchTree::new(coarse, coarse_offsets)?,
        )
    }

    /// The stencil from a coarse batch to a fine one, points with their offsets, made on `device`. Errors as
    /// [`Interpolation::padded`].
    pub fn on(
        device: Device,
        fine: (&[[f32; 3]], &[usize]),
        coarse: (&[[f32; 3]], &[usize]),
        padding: Padding,
    ) -> Result<Interpolation> {
        match device {
            Device::Cpu => Self::padded(
                &SearchTree::new(fine.0, fine.1)?,
                &SearchTree::new(coarse.0, coarse.1)?,
                padding,
            ),
            Device::Cuda(gpu) => Self::on_gpu(
                &cuda::Tree::of(gpu, fine.0, fine.1)?,
                &cuda::Tree::of(gpu, coarse.0, coarse.1)?,
                padding,
            ),
        }
    }

    /// As [`Interpolation::new`] with trees already built.
    pub fn from_trees(fine: &SearchTree, coarse: &SearchTree) -> Result<Interpolation> {
        Self::padded(fine, coarse, Padding::LastRow)
    }

    /// As [`Interpolation::from_trees`] with a choice of the row that missing neighbours read. Errors also when an element
    /// has fine points but no coarse ones and [`Padding::FirstOfElement`] is asked for.
    pub fn padded(
        fine: &SearchTree,
        coarse: &SearchTree,
        padding: Padding,
    ) -> Result<Interpolation> {
        let points = coarse.points();
        check_rows(fine.offsets(), coarse.offsets(), padding)?;
        let found = coarse.nearest(fine, STENCIL)?;
        let mut index = found.index;
        for (ends, starts) in fine.offsets().windows(2).zip(coarse.offsets().windows(2)) {
            let row = match padding {
                Padding::LastRow => points.wrapping_sub(1),
                Padding::FirstOfElement => starts[0],
            };
            for slot in &mut index[ends[0] * STENCIL..ends[1] * STENCIL] {
                if *slot == MISSING {
                    *slot = row as u32;
                }
            }
        }
        let mut weight = found.squared;
        for weights in weight.chunks_exact_mut(STENCIL) {
            for r in &mut *weights {
                *r = 1.0 / (r.sqrt() + EPSILON);
            }
            let sum: f32 = weights.iter().sum();
            for r in weights {
                *r /= sum;
            }
        }
        Ok(Interpolation {
            k: STENCIL,
            points,
            index: index.into(),
            weight: weight.into(),
            gpu: None,
            transposed: OnceLock::new(),
        })
    }

    /// As [`Interpolation::padded`], on the GPU that holds the trees.
    pub(super) fn on_gpu(
        fine: &cuda::Tree,
        coarse: &cuda::Tree,
        padding: Padding,
    ) -> Result<Interpolation> {
        check_rows(&fine.cloud.offsets, &coarse.cloud.offsets, padding)?;
        let (index, weight) = cuda::stencil(fine, coarse, padding)?;
        Ok(Interpolation {
            k: STENCIL,
            points: coarse.cloud.coord.len(),
            index,
            weight,
            gpu: Some(fine.cloud.gpu),
            transposed: OnceLock::new(),
        })
    }

    /// Number of fine points.
    pub fn len(&self) -> usize {
        self.index.len() / self.k
    }

    /// True when there is no fine point.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// For every coarse row the slots i·3 + j that read it, ascending. Built at the first call.
    ///
    /// # Panics
    /// When the GPU that holds the stencil is lost or has no memory left.
    pub fn transposed(&self) -> &Ragged {
        self.try_transposed().unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`Interpolation::transposed`], for callers that can pass a fault on.
    ///
    /// # Errors
    /// Too little memory on the GPU that holds the stencil, or a fault of it.
    pub fn try_transposed(&self) -> Result<&Ragged> {
        if self.transposed.get().is_none() {
            let lists = match self.gpu {
                None => Ragged::inverse(&self.index, self.points)?,
                Some(gpu) => cuda::inverse(gpu, &self.index, self.points, Some(0))?,
            };
            // Another thread may have been faster, with the same lists.
            let _ = self.transposed.set(lists);
        }
        Ok(self.transposed.get().expect("they were set just now"))
    }
}

/// Errors when a fine point has no coarse row to read.
fn check_rows(fine: &[usize], coarse: &[usize], padding: Padding) -> Result<()> {
    let (points, rows) = (fine[fine.len() - 1], coarse[coarse.len() - 1]);
    if points > 0 && rows == 0 {
        return Err(Error::argument(
            "interpolation",
            format!("{points} fine points but no coarse point to read"),
        ));
    }
    let mut elements = fine.windows(2).zip(coarse.windows(2));
    if padding == Padding::FirstOfElement && elements.any(|(f, c)| f[0] < f[1] && c[0] == c[1]) {
        return Err(Error::argument(
            "interpolation",
            "an element has fine points but no coarse point to read",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{golden::Golden, shapes};

    #[test]
    fn stencils_match_the_official_code() {
        let golden = Golden::open("op_interpolation");
        let offsets = golden.offsets("offset");
        let fine_offsets = golden.offsets("new_offset");
        for scene in ["room", "wide"] {
            let coarse = golden.points(&format!("{scene}.coord"));
            let fine = golden.points(&format!("{scene}.new_coord"));
            let stencil = Interpolation::new(&fine, &fine_offsets, &coarse, &offsets).unwrap();
            let rows = golden.i32(&format!("{scene}.idx"));
            let distances = golden.f32(&format!("{scene}.dist"));
            let last = coarse.len() as u32 - 1;
            let expected: Vec<u32> = rows
                .iter()
                .map(|&row| u32::try_from(row).unwrap_or(last))
                .collect();
            assert!(rows.contains(&-1), "the file has missing slots");
            assert_eq!(stencil.index[..], expected, "{scene}");
            let feat = golden.f32("feat");
            let channels = feat.len() / coarse.len();
            let out = golden.f32(&format!("{scene}.out"));
            for row in 0..fine.len() {
                let slots = row * 3..row * 3 + 3;
                let r: Vec<f64> = distances[slots.clone()]
                    .iter()
                    .map(|d| 1.0 / (f64::from(*d) + 1e-8))
                    .collect();
                for (slot, r_k) in slots.clone().zip(&r) {
                    let expected = r_k / r.iter().sum::<f64>();
                    let error = (f64::from(stencil.weight[slot]) - expected).abs();
                    assert!(error < 1e-6, "{scene} {slot}: {error}");
                }
                for c in 0..channels {
                    let value: f32 = slots
                        .clone()
                        .map(|s| stencil.weight[s] * feat[stencil.index[s] as usize * channels + c])
                        .sum();
                    assert!(
                        (value - out[row * channels + c]).abs() < 1e-5,
                        "{scene} {row} {c}"
                    );
                }
            }
        }
    }

    #[test]
    fn missing_neighbours_read_the_last_row_of_all() {
        let coarse = [[0.0; 3], [5.0; 3], [6.0; 3], [7.0; 3]];
        let stencil = Interpolation::new(&[[1.0; 3]], &[0, 1, 1], &coarse, &[0, 1, 4]).unwrap();
        assert_eq!(stencil.index[..], [0, 3, 3]);
        assert!(stencil.weight[1] > 0.0 && stencil.weight[1] < 1e-4);
        assert_eq!(stencil.transposed().list(3), [1, 2]);
        let sum: f32 = stencil.weight.iter().sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn padding_with_the_first_point_matches_the_official_code() {
        let golden = Golden::of("stratified", "op_knn");
        let tree = |points: &str, offsets: &str| {
            SearchTree::new(&golden.points(points), &golden.offsets(offsets)).unwrap()
        };
        let (fine, coarse) = (
            tree("c1.new_xyz", "c1.new_offset"),
            tree("c1.xyz", "c1.offset"),
        );
        let stencil = Interpolation::padded(&fine, &coarse, Padding::FirstOfElement).unwrap();
        let expected: Vec<u32> = golden.i32("c1.idx").iter().map(|i| *i as u32).collect();
        assert!(
            golden.f32("c1.dist").contains(&1e5),
            "the file has missing slots"
        );
        assert_eq!(stencil.index[..], expected);
        let empty = SearchTree::new(&[[0.0; 3]], &[0, 1, 1]).unwrap();
        let fine = SearchTree::new(&[[0.0; 3]; 2], &[0, 1, 2]).unwrap();
        assert!(Interpolation::padded(&fine, &empty, Padding::FirstOfElement).is_err());
    }

    #[test]
    fn coinciding_points_take_all_the_weight() {
        let coarse = shapes::uniform(50, 1);
        let stencil = Interpolation::new(&coarse[7..8], &[0, 1], &coarse, &[0, 50]).unwrap();
        assert_eq!(stencil.index[0], 7);
        assert!(stencil.weight[0] > 0.999_999);
    }

    #[test]
    fn empty_batches_are_fine_but_nothing_to_read_is_not() {
        let empty = Interpolation::new(&[], &[0, 0], &[], &[0, 0]).unwrap();
        assert!(empty.is_empty());
        assert_eq!(empty.transposed().len(), 0);
        let error = Interpolation::new(&[[0.0; 3]], &[0, 1], &[], &[0, 0]).unwrap_err();
        assert!(error.to_string().contains("no coarse point"), "{error}");
    }
}
