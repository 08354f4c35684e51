//! Farthest point sampling against the reference files and a naive twin, which decides ties as the reference's threads.

use super::*;
use crate::geometry::golden::Golden;
use crate::geometry::shapes;

/// Looks at every point for every sample, thread by thread as the reference's kernel.
fn naive(coord: &[[f32; 3]], offsets: &[usize], counts: &[usize]) -> Vec<u32> {
    let longest = offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(1);
    let threads = 1usize << longest.clamp(1, 1024).ilog2();
    let mut rows = Vec::new();
    for (ends, &count) in offsets.windows(2).zip(counts) {
        let points = &coord[ends[0]..ends[1]];
        let mut squared = vec![1e10f32; points.len()];
        let mut last = 0;
        for _ in 0..count {
            rows.push((ends[0] + last) as u32);
            let s = points[last];
            for (d, p) in squared.iter_mut().zip(points) {
                let [x, y, z] = std::array::from_fn(|a| p[a] - s[a]);
                *d = d.min(x * x + y * y + z * z);
            }
            let mut best = (-1.0, 0);
            for thread in 0..threads {
                for i in (thread..points.len()).step_by(threads) {
                    if squared[i] > best.0 {
                        best = (squared[i], i);
                    }
                }
            }
            last = best.1;
        }
    }
    rows
}

#[test]
fn samples_match_the_official_code() {
    let golden = Golden::of("stratified", "op_fps");
    for case in ["c0", "c1", "c2", "c3"] {
        let name = |n: &str| format!("{case}.{n}");
        let (coord, offsets) = (golden.points(&name("xyz")), golden.offsets(&name("offset")));
        let ends = golden.offsets(&name("new_offset"));
        let counts: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
        let rows = farthest_points(&coord, &offsets, &counts).unwrap();
        let expected: Vec<u32> = golden.i32(&name("idx")).iter().map(|i| *i as u32).collect();
        assert_eq!(rows, expected, "{case}");
    }
}

#[test]
fn counts_match_the_official_code() {
    let golden = Golden::of("stratified", "op_transition_down");
    let offsets = golden.offsets("offset");
    let ends = golden.offsets("new_offset");
    let expected: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
    let counts = ratio_counts(&offsets, 0.25);
    assert_eq!(counts, expected);
    let rows = farthest_points(&golden.points("coord"), &offsets, &counts).unwrap();
    let expected: Vec<u32> = golden.i32("fps_idx").iter().map(|i| *i as u32).collect();
    assert_eq!(rows, expected);
    let golden = Golden::of("stratified", "op_stratified_keys");
    let counts = stride_counts(&golden.offsets("offset"), 8);
    let ends = golden.offsets("downsample_offset");
    let expected: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(counts, expected);
}

#[test]
fn fractions_are_carried_from_element_to_element() {
    // The first: 3/4 + 1, rounded down to 1. Then 1 + 7/4 + 1 = 3.75 in all, and 3.75 + 7/4 + 1 = 6.5.
    assert_eq!(ratio_counts(&[0, 3, 10, 17], 0.25), [1, 2, 3]);
    assert_eq!(ratio_counts(&[0, 0, 3, 3, 10], 0.25), [0, 1, 0, 2]);
    assert_eq!(stride_counts(&[0, 7, 7, 15], 8), [1, 0, 2]);
    assert!(ratio_counts(&[0], 0.25).is_empty());
}

#[test]
fn samples_match_the_naive_ones() {
    let clouds = [
        shapes::uniform(3000, 1),
        shapes::clustered(2000, 2),
        shapes::lidar(2500, 3),
        shapes::room(2500, 4),
    ];
    let (coord, offsets) = shapes::batch(&clouds);
    let counts = [700, 500, 2500, 1];
    let rows = farthest_points(&coord, &offsets, &counts).unwrap();
    assert_eq!(rows, naive(&coord, &offsets, &counts));
}

#[test]
fn ties_go_the_way_of_the_reference() {
    // On a lattice nearly everything ties; duplicates tie at 0 once every place is sampled.
    for cloud in [
        shapes::lattice(11),
        shapes::lattice(3),
        shapes::duplicated(1500, 9, 5),
        vec![[1.0; 3]; 400],
    ] {
        let (coord, offsets) = shapes::batch(&[cloud.clone(), cloud[..20].to_vec()]);
        let counts = [cloud.len(), 25];
        let rows = farthest_points(&coord, &offsets, &counts).unwrap();
        assert_eq!(rows, naive(&coord, &offsets, &counts));
    }
}

#[test]
fn a_batch_gives_what_its_elements_give_alone() {
    let clouds = [
        shapes::uniform(1500, 1),
        Vec::new(),
        shapes::uniform(1, 2),
        shapes::room(900, 3),
    ];
    let (coord, offsets) = shapes::batch(&clouds);
    let rows = farthest_points(&coord, &offsets, &[300, 0, 2, 200]).unwrap();
    let alone = |cloud: &[[f32; 3]], count, start: usize| -> Vec<u32> {
        let rows = farthest_points(cloud, &[0, cloud.len()], &[count]).unwrap();
        rows.iter().map(|r| r + start as u32).collect()
    };
    assert_eq!(rows[..300], alone(&clouds[0], 300, 0));
    assert_eq!(rows[300..302], [1500, 1500]);
    assert_eq!(rows[302..], alone(&clouds[3], 200, 1501));
}

#[test]
fn many_coinciding_points_are_quick() {
    let mut cloud = vec![[0.5; 3]; 200_000];
    cloud.extend(shapes::uniform(50, 1));
    let begin = std::time::Instant::now();
    let rows = farthest_points(&cloud, &[0, cloud.len()], &[1000]).unwrap();
    assert!(begin.elapsed().as_secs() < 5);
    assert!(rows[51..].iter().all(|row| *row == 0));
}

#[test]
fn bad_requests_are_errors() {
    let coord = [[0.0; 3]; 2];
    assert!(farthest_points(&coord, &[0, 2], &[]).is_err());
    assert!(farthest_points(&coord, &[0, 3], &[1]).is_err());
    assert!(farthest_points(&coord, &[0, 2, 2], &[1, 1]).is_err());
    assert!(farthest_points(&coord, &[0, 2], &[usize::MAX]).is_err());
    assert!(farthest_points(&[], &[0], &[]).unwrap().is_empty());
}
