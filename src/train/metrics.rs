//! Intersection over union and accuracy, from confusion counts.
//!
//! IoU = I / (U + 1e-10), accuracy of a class = I / (T + 1e-10); mIoU and mAcc are plain means over all classes (a class that
//! nobody has counts as 0, as in the reference), overall accuracy = ΣI / (ΣT + 1e-10). Rows with an ignored target are
//! left out. Counts of several clouds or areas add up before anything is divided.

use serde::Serialize;

/// How often each class was taken for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// [classes, classes]: row = target, column = prediction.
    counts: Vec<u64>,
}

/// The figures of a confusion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Mean IoU over all classes.
    pub miou: f64,
    /// Mean accuracy over all classes.
    pub macc: f64,
    /// Share of all points that are right.
    pub accuracy: f64,
    /// IoU per class.
    pub iou: Vec<f64>,
    /// Accuracy (recall) per class.
    pub recall: Vec<f64>,
    /// Labelled points per class.
    pub points: Vec<u64>,
}

const TINY: f64 = 1e-10;

impl Confusion {
    /// No counts yet.
    pub fn new(classes: usize) -> Confusion {
        Confusion {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Counts rows: predictions against targets. A target outside the classes (the ignore label) is left out.
    ///
    /// # Panics
    /// If a prediction is no class.
    pub fn add(&mut self, predicted: &[u32], target: &[i32]) {
        for (p, t) in predicted.iter().zip(target) {
            assert!((*p as usize) < self.classes, "prediction {p} is no class");
            if let Ok(t) = usize::try_from(*t)
                && t < self.classes
            {
                self.counts[t * self.classes + *p as usize] += 1;
            }
        }
    }

    /// Adds the counts of `other`, which has the same classes.
    pub fn merge(&mut self, other: &Confusion) {
        assert_eq!(self.classes, other.classes, "confusions of other classes");
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
    }

    /// Rows counted where `target` was taken for `predicted`.
    pub fn count(&self, target: usize, predicted: usize) -> u64 {
        self.counts[target * self.classes + predicted]
    }

    /// Per class: points that are right.
    pub fn intersection(&self) -> Vec<u64> {
        (0..self.classes).map(|c| self.count(c, c)).collect()
    }

    /// Per class: labelled points.
    pub fn target(&self) -> Vec<u64> {
        let row = |t| (0..self.classes).map(|p| self.count(t, p)).sum();
        (0..self.classes).map(row).collect()
    }

    /// Per class: points that are labelled, predicted or both.
    pub fn union(&self) -> Vec<u64> {
        let column = |p| (0..self.classes).map(|t| self.count(t, p)).sum::<u64>();
        let targets = self.target();
        (0..self.classes)
            .map(|c| targets[c] + column(c) - self.count(c, c))
            .collect()
    }

    /// All figures.
    pub fn scores(&self) -> Scores {
        let (intersection, union, points) = (self.intersection(), self.union(), self.target());
        let share = |of: &[u64]| -> Vec<f64> {
            intersection
                .iter()
                .zip(of)
                .map(|(i, n)| *i as f64 / (*n as f64 + TINY))
                .collect()
        };
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
        let (iou, recall) = (share(&union), share(&points));
        Scores {
            miou: mean(&iou),
            macc: mean(&recall),
            accuracy: intersection.iter().sum::<u64>() as f64
                / (points.iter().sum::<u64>() as f64 + TINY),
            iou,
            recall,
            points,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::tests::golden;

    #[test]
    fn matches_the_reference_file() {
        let file = golden("op_metrics");
        let predicted: Vec<u32> = file.i64("pred").iter().map(|p| *p as u32).collect();
        let target: Vec<i32> = file.i64("target").iter().map(|t| *t as i32).collect();
        // Counted in two parts, to check that parts add up.
        let mut all = Confusion::new(13);
        all.add(&predicted[..2000], &target[..2000]);
        let mut rest = Confusion::new(13);
        rest.add(&predicted[2000..], &target[2000..]);
        all.merge(&rest);
        let as_i64 = |v: Vec<u64>| v.into_iter().map(|n| n as i64).collect::<Vec<_>>();
        assert_eq!(as_i64(all.intersection()), file.i64("intersection"));
        assert_eq!(as_i64(all.union()), file.i64("union"));
        assert_eq!(as_i64(all.target()), file.i64("target_count"));
        let scores = all.scores();
        let found = [
            scores.iou,
            scores.recall,
            vec![scores.miou, scores.macc, scores.accuracy],
        ];
        for (found, name) in found.iter().zip(["iou_class", "acc_class", "summary"]) {
            for (f, e) in found.iter().zip(file.f64(name)) {
                assert!((f - e).abs() <= 1e-12, "{name}: {f} instead of {e}");
            }
        }
    }

    #[test]
    fn nothing_counted_gives_zeros() {
        let mut confusion = Confusion::new(2);
        confusion.add(&[0, 1], &[-1, 7]);
        let scores = confusion.scores();
        assert_eq!((scores.miou, scores.macc, scores.accuracy), (0.0, 0.0, 0.0));
    }
}
