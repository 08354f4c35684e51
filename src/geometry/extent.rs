//! A box that holds all points of a level, known on the host while the points themselves are on a GPU: what bounds sizes
//! before anything is read back.

use super::windows::Grid;

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

    /// Bits that hold the number of any window of `grid` in `elements` batch elements; 64 when they do not suffice. The
    /// grid starts at the lowest coordinates of the points inside, wherever that is.
    pub fn window_bits(&self, size: f32, shifted: bool, elements: usize) -> u32 {
        // Rounding is monotone in every step: the highest cell is at most that of a higher point seen from a lower start.
        let grid = Grid::new(self.low.map(|x| x as f32), size, shifted);
        let cells = grid.cell(&self.high.map(|x| x as f32));
        match grid.extent(cells, elements) {
            Ok((_, per_element)) => {
                let all = per_element * elements.max(1) as u64;
                u64::BITS - (all - 1).leading_zeros()
            }
            Err(_) => 64,
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
    fn window_numbers_fit_the_bits() {
        let far: Vec<[f32; 3]> = shapes::uniform(300, 1)
            .iter()
            .map(|p| [p[0] + 4.5e5, p[1] - 5.4e6, p[2]])
            .collect();
        for coord in [
            far,
            shapes::lidar(500, 2),
            vec![[1.0; 3]; 3],
            shapes::lattice(5),
        ] {
            let exact = Extent::of(&coord);
            for (size, shifted) in [(0.16, false), (0.16, true), (2.0, true)] {
                let grid = Grid::new(exact.low.map(|x| x as f32), size, shifted);
                let most = coord.iter().fold([0; 3], |most: [u64; 3], p| {
                    let cell = grid.cell(p);
                    std::array::from_fn(|axis| most[axis].max(cell[axis]))
                });
                let (_, per_element) = grid.extent(most, 3).unwrap();
                for extent in [exact, exact.of_means(coord.len())] {
                    let bits = extent.window_bits(size, shifted, 3);
                    assert!((3 * per_element - 1) >> bits == 0, "{bits} bits");
                }
                let bits = exact.window_bits(size, shifted, 3);
                assert!((6 * per_element) >> bits > 0, "{bits} bits");
            }
        }
        assert_eq!(
            Extent::of(&[[-3e38; 3], [3e38; 3]]).window_bits(1.0, true, 1),
            64
        );
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
