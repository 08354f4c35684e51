//! Farthest points and attention windows.

use super::super::farthest_point::{farthest, in_buckets};
use super::*;
use crate::geometry::{WindowOptions, Windows, farthest_points};

#[test]
fn farthest_points_equal_those_of_the_cpu() {
    for gpu in gpus() {
        for (number, batch) in batches().iter().enumerate() {
            let (tree, (coord, offsets)) = (tree(gpu, batch), batch);
            let lengths = || offsets.windows(2).map(|ends| ends[1] - ends[0]);
            // a quarter; all, and more than there are; none of some
            let quarter: Vec<usize> = lengths().map(|n| n.div_ceil(4)).collect();
            let more = lengths().map(|n| if n == 0 { 0 } else { n.min(200) + 5 });
            let some = lengths().enumerate().map(|(b, n)| n.min(50) * (b % 2));
            for counts in [quarter, more.collect(), some.collect()] {
                let expected = farthest_points(coord, offsets, &counts).unwrap();
                for width in [1, 4] {
                    let found = in_buckets(&tree, &counts, width).unwrap();
                    assert_eq!(found[..], expected, "batch {number}, {width} blocks");
                }
            }
        }
    }
}

/// What rounds of samples meet: gaps that close evenly, more ties than candidates fit, nothing but one place, steps that
/// suit one density only, distances that are all cut off at 1e5 m, hardly any points.
#[test]
fn rounds_of_farthest_points_equal_those_of_the_cpu() {
    let mut uneven = shapes::uniform(900, 2);
    for p in &mut uneven[..700] {
        *p = p.map(|v| 5.0 + 1e-3 * v);
    }
    let apart: Vec<_> = shapes::uniform(300, 3)
        .iter()
        .map(|p| p.map(|v| 1e7 * v))
        .collect();
    let tiny = [
        shapes::uniform(1, 4),
        shapes::room(200, 5),
        shapes::uniform(2, 6),
    ];
    let batches: [&[_]; 6] = [
        &[shapes::room(2500, 1)],
        &[shapes::lattice(12)],
        &[vec![[0.5, 1.5, -2.5]; 3000]],
        &[uneven, shapes::clustered(600, 7)],
        &[apart],
        &tiny,
    ];
    for gpu in gpus() {
        for (number, batch) in batches.map(shapes::batch).iter().enumerate() {
            let (tree, (coord, offsets)) = (tree(gpu, batch), batch);
            for share in [4, 1] {
                let lengths = offsets.windows(2).map(|ends| ends[1] - ends[0]);
                let counts: Vec<usize> = lengths.map(|n| n.div_ceil(share)).collect();
                let expected = farthest_points(coord, offsets, &counts).unwrap();
                let found = farthest(&tree, &counts).unwrap();
                assert_eq!(found[..], expected, "batch {number}, one in {share}");
            }
        }
    }
}

/// More buckets than the warps of the smallest block hold in one node each, and more than shared memory holds.
#[test]
fn farthest_points_of_large_elements_equal_those_of_the_cpu() {
    let large = shapes::batch(&[shapes::room(125_000, 3), shapes::lidar(9000, 4)]);
    for gpu in gpus() {
        let counts = [130, 260];
        let expected = farthest_points(&large.0, &large.1, &counts).unwrap();
        let tree = tree(gpu, &large);
        let found = farthest(&tree, &counts).unwrap();
        assert_eq!(found[..], expected);
    }
}

/// Rows of every fifth point, some of them twice.
fn some_rows(points: usize) -> Vec<u32> {
    let rows = (0..points as u32).filter(|row| row % 5 == 0);
    rows.clone()
        .chain(rows.filter(|row| row % 3 == 0))
        .collect()
}

#[test]
fn windows_equal_those_of_the_cpu() {
    for gpu in gpus() {
        for (number, batch) in batches().iter().enumerate() {
            let (coord, offsets) = batch;
            let (cloud, extent) = (cloud(gpu, batch), Extent::of(coord));
            let rows = some_rows(coord.len());
            for (size, shifted) in [(0.11, false), (0.3, true), (5.0, true)] {
                let step = size / 8.0;
                let options = WindowOptions {
                    size,
                    step,
                    shifted,
                };
                for sampled in [Some(&rows[..]), Some(&[]), None] {
                    let expected = match sampled {
                        Some(rows) => Windows::stratified(coord, offsets, options, rows),
                        None => Windows::swin(coord, offsets, options),
                    };
                    let sampled = sampled.map(|rows| Array::from(rows.to_vec()));
                    let found = Windows::on_gpu(&cloud, &extent, options, sampled.as_ref());
                    let name = format!("batch {number}, {size} m, {shifted}, {sampled:?}");
                    match (found, expected) {
                        (Ok(found), Ok(expected)) => same_windows(&found, &expected, &name),
                        (Err(found), Err(expected)) => {
                            assert_eq!(found.to_string(), expected.to_string(), "{name}");
                        }
                        (found, expected) => panic!("{name}: {found:?} {expected:?}"),
                    }
                }
            }
        }
    }
}

fn same_windows(found: &Windows, expected: &Windows, name: &str) {
    let points = found.points();
    assert_eq!(found.query_tiles(), expected.query_tiles(), "{name}");
    assert!(points == 0 || !found.sampled.index.is_on_host());
    assert!(points == 0 || found.known_parts().is_none());
    assert!(points == 0 || !found.tiles().groups.is_on_host());
    found.sampled.check(points).unwrap();
    assert!(found.order == expected.order, "{name}");
    assert!(found.place == expected.place, "{name}");
    assert!(found.quantization == expected.quantization, "{name}");
    assert!(found.sampled == expected.sampled, "{name}");
    let (a, b) = (found.tiles(), expected.tiles());
    assert_eq!(a.groups, b.groups, "{name}");
    assert_eq!(a.queries, b.queries, "{name}");
    assert_eq!(a.window, b.window, "{name}");
    assert_eq!(a.members, b.members, "{name}");
    assert_eq!(a.dense, b.dense, "{name}");
    assert_eq!(a.sparse, b.sparse, "{name}");
    // What the host works by, made of what the GPU made.
    assert_eq!(found.groups(), expected.groups(), "{name}");
    assert_eq!(found.parts(), expected.parts(), "{name}");
}

#[test]
fn windows_that_cannot_be_are_an_error() {
    let batch = (vec![[0.0; 3], [1e30; 3]], vec![0, 2]);
    for gpu in gpus() {
        let (cloud, extent) = (cloud(gpu, &batch), Extent::of(&batch.0));
        for (size, step, row) in [
            (1e-3, 1e-4, 0),
            (0.1, 0.2, 0),
            (1e7, 1.0, 0),
            (0.1, 0.01, 2),
        ] {
            let shifted = false;
            let options = WindowOptions {
                size,
                step,
                shifted,
            };
            let expected = Windows::stratified(&batch.0, &batch.1, options, &[row]).unwrap_err();
            let rows = Array::from(vec![row]);
            let found = Windows::on_gpu(&cloud, &extent, options, Some(&rows)).unwrap_err();
            assert_eq!(found.to_string(), expected.to_string());
        }
    }
}

#[test]
fn samples_that_cannot_be_are_an_error() {
    for gpu in gpus() {
        let batch = (vec![[0.0; 3]; 2], vec![0, 2, 2]);
        let tree = tree(gpu, &batch);
        for counts in [&[1, 1][..], &[1], &[usize::MAX, 0]] {
            let error = farthest(&tree, counts).unwrap_err();
            let expected = farthest_points(&batch.0, &batch.1, counts).unwrap_err();
            assert_eq!(error.to_string(), expected.to_string());
        }
    }
}

#[test]
fn thinned_levels_equal_those_of_the_cpu_and_stay_on_the_device() {
    let batch = shapes::batch(&[shapes::room(900, 1), Vec::new(), shapes::uniform(60, 2)]);
    for gpu in gpus() {
        let new = |device| Hierarchy::on(device, batch.0.clone(), batch.1.clone()).unwrap();
        let (mut cpu, mut gpu) = (new(Device::Cpu), new(Device::Cuda(gpu)));
        let coarse = [&mut cpu, &mut gpu].map(|levels| {
            let coarse = levels.thin(0, &[230, 0, 16]).unwrap();
            levels.neighbors(coarse, 4).unwrap();
            coarse
        });
        assert_eq!(coarse, [1, 1]);
        let counts = [[100, 0, 3], [230, 0, 16], [7, 0, 0], [231, 0, 16]];
        let rows = counts.map(|counts| {
            let found = gpu.farthest(0, &counts).unwrap();
            assert!(!found.is_on_host());
            (found, cpu.farthest(0, &counts).unwrap())
        });
        assert!(!gpu.coord(1).is_on_host());
        assert!(rows.iter().all(|(found, expected)| found == expected));
        assert_eq!(gpu.coord(1), cpu.coord(1));
        assert_eq!(gpu.offsets(1), cpu.offsets(1));
        let options = WindowOptions {
            size: 0.3,
            step: 0.05,
            shifted: true,
        };
        for (level, rows) in [(0, Some(&rows[1].0)), (1, None)] {
            let windows = [&mut cpu, &mut gpu].map(|h| h.windows(level, options, rows).unwrap());
            assert!(!windows[1].place[0].is_on_host());
            same_windows(&windows[1], &windows[0], "levels");
        }
        assert!(gpu.windows(2, options, None).is_err());
        assert!(gpu.thin(0, &[1, 1, 1]).is_err() && gpu.farthest(0, &[1]).is_err());
    }
}
