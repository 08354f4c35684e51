//! Every step on a GPU or the emulator against the same step on the CPU, bit for bit.

use super::super::{
    Choice, Extent, Hierarchy, Interpolation, Neighbors, Padding, Partition, Ragged, SearchTree,
    knn, partition, radius::radius_on_gpu, radius_neighbors, shapes,
};
use super::{Cloud, Tree, inverse};
use crate::device::{Array, Device, Gpu};
use crate::graph::check::devices;
use std::sync::Arc;

mod stratified;

type Batch = (Vec<[f32; 3]>, Vec<usize>);

/// The GPU that is tested, if there is one.
fn gpus() -> impl Iterator<Item = Gpu> {
    devices().into_iter().filter_map(|device| match device {
        Device::Cuda(gpu) => Some(gpu),
        Device::Cpu => None,
    })
}

/// Ragged, empty, tiny, regular, coinciding, far, of very uneven density, with an outlier.
fn batches() -> Vec<Batch> {
    let far = |count, seed| {
        let mut cloud = shapes::uniform(count, seed);
        for p in &mut cloud {
            *p = [p[0] + 4.5e5, p[1] - 5.4e6, p[2] + 300.0];
        }
        cloud
    };
    let mut outlier = shapes::uniform(300, 8);
    outlier[7] = [3e5, -2e5, 0.0];
    [
        vec![
            shapes::uniform(500, 1),
            Vec::new(),
            shapes::uniform(33, 2),
            shapes::uniform(1, 3),
        ],
        vec![shapes::lattice(8)],
        vec![vec![[1.5, -2.5, 0.25]; 300], shapes::duplicated(400, 9, 4)],
        vec![shapes::lidar(1200, 5), shapes::clustered(300, 6)],
        vec![far(400, 7), far(31, 9)],
        vec![outlier],
        vec![Vec::new(), Vec::new()],
        vec![],
    ]
    .iter()
    .map(|clouds| shapes::batch(clouds))
    .collect()
}

fn cloud(gpu: Gpu, (coord, offsets): &Batch) -> Arc<Cloud> {
    Arc::new(Cloud::new(gpu, Array::from(coord.clone()), offsets).unwrap())
}

fn tree(gpu: Gpu, batch: &Batch) -> Tree {
    Tree::new(cloud(gpu, batch)).unwrap()
}

#[test]
fn partitions_equal_those_of_the_cpu() {
    for gpu in gpus() {
        for (number, batch) in batches().iter().enumerate() {
            for size in [0.04, 0.3, 2.0] {
                let (coord, offsets) = batch;
                let expected = partition::grid(coord, offsets, size).unwrap();
                let extent = Extent::of(coord);
                let found: Partition = super::partition(&cloud(gpu, batch), size, &extent).unwrap();
                assert!(!found.cluster.is_on_host() && !found.members.index.is_on_host());
                assert!(found == expected, "batch {number}, {size} m");
            }
        }
    }
}

#[test]
fn cells_that_cannot_be_numbered_are_an_error() {
    for gpu in gpus() {
        let batch = (vec![[0.0; 3], [1e6; 3]], vec![0, 2]);
        let extent = Extent::of(&batch.0);
        let error = super::partition(&cloud(gpu, &batch), 1e-6, &extent).unwrap_err();
        let expected = partition::grid(&batch.0, &batch.1, 1e-6).unwrap_err();
        assert_eq!(error.to_string(), expected.to_string());
    }
}

#[test]
fn neighbors_equal_those_of_the_cpu() {
    for gpu in gpus() {
        for (number, batch) in batches().iter().enumerate() {
            let tree = tree(gpu, batch);
            let (coord, offsets) = batch;
            let extent = Extent::of(coord);
            for k in [1, 3, 16, 32, 33, 128] {
                if k > 32 && number > 2 {
                    continue; // the emulator is slow, and the first batches have what is special
                }
                let expected = Neighbors::self_query(coord, offsets, k).unwrap();
                let found = Neighbors::on_gpu(&tree, &tree, k, &extent).unwrap();
                let name = format!("batch {number}, {k} neighbours");
                assert!(found.index == expected.index, "{name}");
                assert!(found.delta == expected.delta, "{name}");
                assert_eq!(found.is_complete(), expected.is_complete(), "{name}");
                if k == 3 || k == 16 {
                    assert!(found.transposed() == expected.transposed(), "{name}");
                    same_moments(&found, &expected);
                }
            }
        }
    }
}

fn same_moments(found: &Neighbors, expected: &Neighbors) {
    let (found, expected) = (found.moments(), expected.moments());
    assert_eq!(found.count, expected.count);
    for axis in 0..3 {
        let scale = expected.covariance[axis][axis];
        let near = |a: f64, b: f64, scale: f64| (a - b).abs() <= 1e-12 * scale + 1e-300;
        assert!(near(
            found.mean[axis],
            expected.mean[axis],
            scale.sqrt() + expected.mean[axis].abs()
        ));
        for other in 0..3 {
            let scale = (scale * expected.covariance[other][other]).sqrt() + scale;
            let (a, b) = (
                found.covariance[axis][other],
                expected.covariance[axis][other],
            );
            assert!(near(a, b, scale), "{a} {b}");
        }
    }
}

#[test]
fn neighbors_of_other_points_equal_those_of_the_cpu() {
    let (points, offsets) = shapes::batch(&[
        shapes::uniform(200, 1),
        Vec::new(),
        shapes::lattice(3),
        shapes::uniform(5, 2),
    ]);
    let (queries, ends) = shapes::batch(&[
        shapes::uniform(70, 3),
        shapes::uniform(3, 4),
        shapes::uniform(40, 5),
        Vec::new(),
    ]);
    for gpu in gpus() {
        let trees = (
            tree(gpu, &(points.clone(), offsets.clone())),
            tree(gpu, &(queries.clone(), ends.clone())),
        );
        for k in [1, 8, 40] {
            let expected = knn(&points, &offsets, &queries, &ends, k).unwrap();
            let (index, squared) = super::nearest(&trees.0, &trees.1, k).unwrap();
            let slots = expected.index.len();
            assert!(index.read::<u32>(slots).unwrap() == expected.index, "{k}");
            assert!(
                squared.read::<f32>(slots).unwrap() == expected.squared,
                "{k}"
            );
        }
        assert!(super::nearest(&trees.0, &trees.1, 0).is_err());
        assert!(super::nearest(&trees.0, &trees.1, 129).is_err());
        let other = tree(gpu, &(queries.clone(), vec![0, queries.len()]));
        assert!(super::nearest(&trees.0, &other, 1).is_err());
    }
}

#[test]
fn radius_neighbors_equal_those_of_the_cpu() {
    for gpu in gpus() {
        for (number, batch) in batches().iter().enumerate() {
            let tree = tree(gpu, batch);
            let (coord, offsets) = batch;
            for (k, radius) in [(5, 0.2), (34, 0.4), (20, 1.0)] {
                for choice in [Choice::First, Choice::Nearest] {
                    let expected = radius_neighbors(coord, offsets, radius, k, choice).unwrap();
                    let found = radius_on_gpu(&tree, radius, k, choice).unwrap();
                    let name = format!("batch {number}, {choice:?} {k} within {radius} m");
                    assert!(found.index == expected.index, "{name}");
                    assert!(found.delta == expected.delta, "{name}");
                    assert!(found.transposed() == expected.transposed(), "{name}");
                    assert_eq!(found.is_complete(), expected.is_complete(), "{name}");
                }
            }
        }
        let tree = tree(gpu, &(vec![[0.0; 3]], vec![0, 1]));
        assert!(radius_on_gpu(&tree, 0.0, 3, Choice::First).is_err());
        assert!(radius_on_gpu(&tree, 1.0, 129, Choice::First).is_err());
    }
}

#[test]
fn stencils_equal_those_of_the_cpu() {
    let fine = shapes::batch(&[
        shapes::uniform(300, 1),
        shapes::lattice(4),
        shapes::uniform(2, 2),
    ]);
    let coarse = shapes::batch(&[
        shapes::uniform(40, 3),
        shapes::lattice(2),
        shapes::uniform(2, 4),
    ]);
    for gpu in gpus() {
        for padding in [Padding::LastRow, Padding::FirstOfElement] {
            let expected = Interpolation::padded(
                &SearchTree::new(&fine.0, &fine.1).unwrap(),
                &SearchTree::new(&coarse.0, &coarse.1).unwrap(),
                padding,
            )
            .unwrap();
            let (fine, coarse) = (tree(gpu, &fine), tree(gpu, &coarse));
            let found = Interpolation::on_gpu(&fine, &coarse, padding).unwrap();
            assert!(!found.index.is_on_host());
            assert_eq!(found.index, expected.index);
            assert_eq!(found.transposed(), expected.transposed());
            assert_eq!(found.weight, expected.weight);
        }
        let empty = tree(gpu, &(Vec::new(), vec![0, 0, 0, 0]));
        assert!(Interpolation::on_gpu(&tree(gpu, &fine), &empty, Padding::LastRow).is_err());
        assert!(
            Interpolation::on_gpu(&empty, &empty, Padding::LastRow)
                .unwrap()
                .is_empty()
        );
        let hole = tree(gpu, &(vec![[0.0; 3]; 2], vec![0, 1, 1, 2]));
        assert!(Interpolation::on_gpu(&tree(gpu, &fine), &hole, Padding::FirstOfElement).is_err());
    }
}

#[test]
fn inverse_lists_equal_those_of_the_cpu() {
    let missing = super::super::MISSING;
    for gpu in gpus() {
        for (rows, index) in [
            (5, vec![2, 0, missing, 2, 3, 0]),
            (0, vec![]),
            (3, vec![]),
            (2, vec![missing, missing]),
            (256, (0..3000u32).map(|i| i * 7919 % 256).collect()),
            (
                255,
                (0..3000u32)
                    .map(|i| i * 7919 % 255)
                    .chain([missing])
                    .collect(),
            ),
            (70_000, vec![69_999, 65_535, 65_536, missing, 0]),
        ] {
            let expected = Ragged::inverse(&index, rows).unwrap();
            let lost = index.iter().filter(|row| **row == missing).count();
            let found = inverse(gpu, &Array::from(index.clone()), rows, Some(lost)).unwrap();
            let counted = inverse(gpu, &Array::from(index), rows, None).unwrap();
            assert!(counted == expected, "{rows} rows");
            found.check(expected.index.len() + lost).unwrap();
            assert!(
                !found.index.is_on_host(),
                "what kernels made needs no check"
            );
            assert!(found == expected, "{rows} rows");
        }
    }
}

#[test]
fn hierarchies_equal_those_of_the_cpu_and_stay_on_the_device() {
    let batch = shapes::batch(&[shapes::room(900, 1), shapes::uniform(60, 2)]);
    for gpu in gpus() {
        let new = |device| Hierarchy::on(device, batch.0.clone(), batch.1.clone()).unwrap();
        let (mut cpu, mut gpu) = (new(Device::Cpu), new(Device::Cuda(gpu)));
        let mut made = Vec::new();
        for (level, size) in [(0, 0.12), (1, 0.3)] {
            let (a, b) = (
                cpu.pool(level, size).unwrap(),
                gpu.pool(level, size).unwrap(),
            );
            assert_eq!(cpu.offsets(a.0), gpu.offsets(b.0));
            let fine = (
                cpu.neighbors(level, 8).unwrap(),
                gpu.neighbors(level, 8).unwrap(),
            );
            let stencil = (
                cpu.interpolation(level, level + 1).unwrap(),
                gpu.interpolation(level, level + 1).unwrap(),
            );
            fine.1.transposed();
            made.push((a.1, b.1, fine, stencil));
        }
        let (a, b) = (
            cpu.neighbors_between(2, 0, 5).unwrap(),
            gpu.neighbors_between(2, 0, 5).unwrap(),
        );
        // The sizes were read back; the lists were not.
        for (_, cells, (_, table), (_, stencil)) in &made {
            assert!(!cells.cluster.is_on_host() && !cells.coord.is_on_host());
            assert!(!table.index.is_on_host() && !table.delta[0].is_on_host());
            assert!(!table.transposed().offsets.is_on_host());
            assert!(!stencil.index.is_on_host() && !stencil.weight.is_on_host());
        }
        assert!(!gpu.coord(2).is_on_host());
        for (cells, gpu_cells, tables, stencils) in &made {
            assert!(cells == gpu_cells);
            assert!(tables.0.index == tables.1.index && tables.0.delta == tables.1.delta);
            assert!(tables.0.transposed() == tables.1.transposed());
            assert!(stencils.0.index == stencils.1.index);
            assert!(stencils.0.weight == stencils.1.weight);
        }
        assert!(a.index == b.index && a.delta == b.delta);
    }
}
