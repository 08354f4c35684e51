//! Sphere crop: the n points of a cloud nearest to a centre ("SphereCrop" of the reference).
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | coord | \[N\] × 3 | positions, metres |
//! | centre | row number | the point in the middle of the crop |
//! | result | [min(n, N)] | rows that stay, ascending |
//!
//! Squared distances are f32 direct differences; of equally distant points the lower row number stays. The reference
//! returns rows by distance; here they keep their order, which no network depends on.
//! Time: O(N).

use rayon::prelude::*;

/// Rows of the `count` points nearest to point `centre`, ascending; all rows when there are no more than that.
///
/// # Panics
/// If `centre` is not a row of `coord` and points have to go.
pub fn sphere_crop(coord: &[[f32; 3]], centre: usize, count: usize) -> Vec<u32> {
    if coord.len() <= count {
        return (0..coord.len() as u32).collect();
    }
    if count == 0 {
        return Vec::new();
    }
    let c = coord[centre];
    // Squared distances are not negative, so their bits order like the numbers (NaN last); the row number breaks ties.
    let mut order: Vec<u64> = coord
        .par_iter()
        .enumerate()
        .map(|(row, p)| {
            let d = [p[0] - c[0], p[1] - c[1], p[2] - c[2]];
            let square = (d[0] * d[0] + d[1] * d[1]) + d[2] * d[2];
            u64::from(square.abs().to_bits()) << 32 | row as u64
        })
        .collect();
    order.select_nth_unstable(count - 1);
    let mut rows: Vec<u32> = order[..count].iter().map(|k| *k as u32).collect();
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Random, Sequence};

    #[test]
    fn keeps_the_nearest_points() {
        let mut s = Sequence::new(Random::new(1, 1));
        let coord: Vec<[f32; 3]> = (0..2000)
            .map(|_| std::array::from_fn(|_| s.uniform() as f32))
            .collect();
        let distance =
            |row: usize| -> f32 { (0..3).map(|a| (coord[row][a] - coord[17][a]).powi(2)).sum() };
        let kept = sphere_crop(&coord, 17, 300);
        assert_eq!(kept.len(), 300);
        assert!(kept.windows(2).all(|w| w[0] < w[1]));
        assert!(kept.contains(&17));
        let farthest = kept
            .iter()
            .map(|r| distance(*r as usize))
            .fold(0.0, f32::max);
        let nearer = (0..coord.len())
            .filter(|r| distance(*r) < farthest * 0.9999)
            .count();
        assert!((298..=300).contains(&nearer), "{nearer} points are nearer");
    }

    #[test]
    fn small_clouds_stay_whole() {
        let coord = [[0.0; 3], [1.0, 0.0, 0.0]];
        assert_eq!(sphere_crop(&coord, 0, 2), [0, 1]);
        assert_eq!(sphere_crop(&coord, 1, 100), [0, 1]);
        assert_eq!(sphere_crop(&coord, 1, 1), [1]);
        assert!(sphere_crop(&[], 0, 5).is_empty());
    }

    #[test]
    fn ties_go_to_the_lower_row() {
        let coord = [[0.0; 3]; 10];
        assert_eq!(sphere_crop(&coord, 9, 4), [0, 1, 2, 3]);
    }
}
