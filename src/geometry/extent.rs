//! A box that holds all points of a level, known on the host while the points themselves are on a GPU: what bounds sizes
//! before anything is read back.

/// Lowest and highest coordinates, metres, perhaps with some room to spare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    low: [f64; 3],
    high: [f64; 3],
}

impl Extent {
    /// The box around finite points; that of no points is empty.
    pub fn of(coord: &[[f32; 3]]) -> Extent {
        let mut extent = Extent {
            low: [f64::INFINITY; 3],
            high: [f64::NEG_INFINITY; 3],
        };
        for p in coord {
            for axis in 0..3 {
                extent.low[axis] = extent.low[axis].min(f64::from(p[axis]));
                extent.high[axis] = extent.high[axis].max(f64::from(p[axis]));
            }
        }
        extent
    }

    /// The box around both.
    pub fn and(&self, other: &Extent) -> Extent {
        Extent {
            low: std::array::from_fn(|axis| self.low[axis].min(other.low[axis])),
            high: std::array::from_fn(|axis| self.high[axis].max(other.high[axis])),
        }
    }

    /// Length along an axis, metres.
    fn length(&self, axis: usize) -> f64 {
        (self.high[axis] - self.low[axis]).max(0.0)
    }

    /// The box around means of up to `points` of the points inside, added up in f32: rounding may push such a mean out
    /// of the box by as many units in the last place as there are additions.
    pub fn of_means(&self, points: usize) -> Extent {
        let farthest = |axis: usize| self.low[axis].abs().max(self.high[axis].abs());
        let room = |axis: usize| (points as f64 + 2.0) * f64::from(f32::EPSILON) * farthest(axis);
        Extent {
            low: std::array::from_fn(|axis| self.low[axis] - room(axis)),
            high: std::array::from_fn(|axis| self.high[axis] + room(axis)),
        }
    }

    /// Bits that hold the number of any cell of `size` metres in `elements` batch elements; 64 when they do not suffice.
    pub fn key_bits(&self, size: f32, elements: usize) -> u32 {
        // Differences and quotients in f32 are rounded, by less than the factor; one more cell starts at the end.
        let cells = |axis: usize| (self.length(axis) / f64::from(size)) * (1.0 + 1e-6) + 2.0;
        let all = cells(0) * cells(1) * cells(2) * elements.max(1) as f64;
        if all.is_finite() {
            (all.log2().ceil() as u32).clamp(1, 64)
        } else {
            64
        }
    }

    /// True when no two points inside are as far apart as neighbours cannot be.
    pub fn is_within_reach(&self) -> bool {
        let squared: f64 = (0..3).map(|axis| self.length(axis).powi(2)).sum();
        squared < 0.99 * f64::from(super::knn::MISSING_SQUARED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{partition, shapes};

    #[test]
    fn keys_fit_the_bits() {
        for (coord, size) in [
            (shapes::uniform(300, 1), 0.01f32),
            (shapes::lattice(5), 1.0),
            (shapes::clustered(200, 2), 0.04),
            (vec![[1e6, -1e6, 3.0]; 4], 0.04),
            (vec![[0.0; 3], [4.0, 0.0, 0.0]], 1.0),
        ] {
            let bits = Extent::of(&coord).key_bits(size, 2);
            let (keys, per_element) =
                partition::cell_keys(&coord, &[0, 2, coord.len()], size).unwrap();
            let most = keys.iter().max().unwrap();
            assert!(bits < 64 && most >> bits == 0, "{most} in {bits} bits");
            // Not much too many either: a pass of the sort is 8 bits.
            assert!(
                (2 * per_element) >> bits.saturating_sub(7) > 0,
                "{bits} bits"
            );
        }
        assert_eq!(Extent::of(&[[-3e38; 3], [3e38; 3]]).key_bits(1e-30, 1), 64);
        assert_eq!(Extent::of(&[]).key_bits(0.1, 0), 3);
    }

    #[test]
    fn means_stay_inside_however_they_are_rounded() {
        let far: Vec<[f32; 3]> = shapes::uniform(5000, 3)
            .iter()
            .map(|p| [p[0] + 4.5e5, p[1] - 4.5e5, p[2]])
            .collect();
        let extent = Extent::of(&far).of_means(far.len());
        let pooled = partition::grid(&far, &[0, far.len()], 10.0).unwrap();
        let means = Extent::of(&pooled.coord);
        for axis in 0..3 {
            assert!(extent.low[axis] <= means.low[axis] && means.high[axis] <= extent.high[axis]);
        }
        assert!(extent.is_within_reach());
        assert!(!Extent::of(&[[0.0; 3], [1e5, 0.0, 0.0]]).is_within_reach());
    }
}
