use super::*;
use crate::geometry::{golden::Golden, shapes};
use std::collections::BTreeMap;

#[test]
fn clusters_match_the_official_code() {
    let golden = Golden::open("op_gridpool");
    let coord = golden.points("input.coord");
    let offsets = golden.offsets("input.offset");
    let size = golden.number("grid_size");
    let (keys, _) = cell_keys(&coord, &offsets, size).unwrap();
    let expected: Vec<u64> = golden
        .i64("voxel_key")
        .iter()
        .map(|key| *key as u64)
        .collect();
    assert_eq!(keys, expected);
    let pooled = grid(&coord, &offsets, size).unwrap();
    let integers = |values: &[u32]| values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>();
    assert_eq!(integers(&pooled.cluster), golden.i64("eval.out.cluster"));
    assert_eq!(
        integers(&pooled.members.index),
        golden.i64("sorted_indices")
    );
    assert_eq!(integers(&pooled.members.offsets), golden.i64("idx_ptr"));
    let offsets = golden.i64("eval.out.offset");
    assert_eq!(
        pooled.offsets[1..]
            .iter()
            .map(|o| *o as i64)
            .collect::<Vec<_>>(),
        offsets
    );
    let expected = golden.points("eval.out.coord");
    assert_eq!(pooled.coord.len(), expected.len());
    for (a, b) in pooled.coord.iter().zip(&expected) {
        for axis in 0..3 {
            assert!((a[axis] - b[axis]).abs() <= 1e-6 * b[axis].abs().max(1.0));
        }
    }
}

/// The same with ordered maps and integer tuples instead of keys.
fn naive(coord: &[[f32; 3]], offsets: &[usize], size: f32) -> Vec<Vec<u32>> {
    let mut cells: BTreeMap<(usize, u64, u64, u64), Vec<u32>> = BTreeMap::new();
    for (element, ends) in offsets.windows(2).enumerate() {
        let points = &coord[ends[0]..ends[1]];
        for (row, p) in points.iter().enumerate() {
            let [x, y, z] = std::array::from_fn(|axis| {
                let low = points.iter().map(|p| p[axis]).fold(f32::INFINITY, f32::min);
                ((p[axis] - low) / size).floor() as u64
            });
            let members = cells.entry((element, z, y, x)).or_default();
            members.push((ends[0] + row) as u32);
        }
    }
    cells.into_values().collect()
}

#[test]
fn partition_matches_naive() {
    let empty = Vec::new();
    for (clouds, size) in [
        (vec![shapes::uniform(700, 1), shapes::uniform(300, 2)], 0.1),
        (vec![shapes::lattice(6)], 2.0),
        (
            vec![
                shapes::uniform(300, 1),
                empty.clone(),
                shapes::uniform(1, 2),
            ],
            0.3,
        ),
        (vec![shapes::clustered(600, 3)], 5.0),
        (vec![shapes::lidar(600, 4)], 1.0),
        (
            vec![vec![[1e6, -1e6, 1e6]; 40], shapes::uniform(10, 1)],
            0.04,
        ),
        (vec![empty.clone(), empty], 0.1),
    ] {
        let (coord, offsets) = shapes::batch(&clouds);
        let pooled = grid(&coord, &offsets, size).unwrap();
        let expected = naive(&coord, &offsets, size);
        assert_eq!(pooled.len(), expected.len());
        pooled.members.check(coord.len()).unwrap();
        check_offsets(&pooled.offsets, pooled.len()).unwrap();
        for (number, rows) in expected.iter().enumerate() {
            assert_eq!(pooled.members.list(number), rows);
            assert_eq!(pooled.coord[number], mean(&coord, rows));
            let element = offsets.partition_point(|o| *o <= rows[0] as usize) - 1;
            assert!((pooled.offsets[element]..pooled.offsets[element + 1]).contains(&number));
            for &row in rows {
                assert_eq!(pooled.cluster[row as usize] as usize, number);
            }
        }
    }
}

#[test]
fn cells_that_cannot_be_numbered_are_an_error() {
    let coord = [[0.0; 3], [1e6; 3]];
    let message = grid(&coord, &[0, 2], 1e-6).unwrap_err().to_string();
    assert!(message.contains("0.000001 m is too small"), "{message}");
    let far = [[-3e38; 3], [3e38; 3]];
    assert!(grid(&far, &[0, 2], 1.0).is_err());
    for size in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(grid(&coord, &[0, 2], size).is_err(), "{size}");
    }
}

#[test]
fn coordinates_that_are_not_finite_do_not_panic() {
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let coord = [[0.0; 3], [strange, 1.0, 2.0], [1.0; 3]];
        if let Ok(pooled) = grid(&coord, &[0, 3], 0.5) {
            pooled.members.check(3).unwrap();
        }
    }
}
