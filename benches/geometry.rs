//! Speed of the index steps: voxels, neighbours, sampling, partition, windows, interpolation, transposed lists, and all
//! steps of a network.
//!
//! `cargo bench --bench geometry`; names are `step/cloud/points`. Clouds are a voxelised room (4 cm raster on walls and
//! floor) and a ground scan by a spinning scanner, whose density varies a thousandfold; both in random order, `ordered` ones by pooling cell. The
//! `kiddo` entries are the crate's k-d tree, built and asked in parallel for the same neighbours.

use cairn::cloud::crop::sphere_crop;
use cairn::cloud::voxel::Voxels;
use cairn::device::random::{Random, Sequence};
use cairn::geometry::{
    Choice, Hierarchy, Interpolation, Neighbors, Ragged, SearchTree, WindowOptions, Windows,
    farthest_points, knn, partition, radius_neighbors, stride_counts,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use std::hint::black_box;

type Cloud = Vec<[f32; 3]>;

/// Side length of the room's raster, metres.
const RASTER: f32 = 0.04;
const NEIGHBORS: usize = 16;

/// About `count` points on the six sides of a room twice as long and wide as high, one per raster cell.
fn room(count: usize) -> Cloud {
    let mut s = Sequence::new(Random::new(1, 0));
    let high = ((count as f64 / 16.0).sqrt() as u64).max(2);
    let cells = [2 * high, 2 * high, high];
    let mut cloud = Vec::new();
    for side in 0..6 {
        let (axis, far) = (side / 2, side % 2 == 1);
        let (u, v) = ((axis + 1) % 3, (axis + 2) % 3);
        for (a, b) in (0..cells[u]).flat_map(|a| (0..cells[v]).map(move |b| (a, b))) {
            let mut p = [0.0; 3];
            p[axis] = if far { cells[axis] as f32 } else { 0.0 };
            (p[u], p[v]) = (a as f32, b as f32);
            cloud.push(p.map(|x| (x + s.between(-0.4, 0.4) as f32) * RASTER));
        }
    }
    s.shuffle(&mut cloud);
    cloud
}

/// `count` points on the ground and on poles, seen from the middle.
fn lidar(count: usize) -> Cloud {
    let mut s = Sequence::new(Random::new(2, 0));
    (0..count)
        .map(|_| {
            let angle = s.between(0.0, std::f64::consts::TAU);
            let range = 1.5 / (0.015 + s.uniform());
            let height = if s.chance(0.1) {
                s.between(0.0, 4.0)
            } else {
                0.0
            };
            let p = [
                range * angle.cos(),
                range * angle.sin(),
                height + 0.01 * s.normal(),
            ];
            p.map(|x| x as f32)
        })
        .collect()
}

fn clouds(counts: &[usize]) -> Vec<(&'static str, usize, Cloud)> {
    let both = |&count: &usize| [("room", count, room(count)), ("lidar", count, lidar(count))];
    counts.iter().flat_map(both).collect()
}

fn neighbors(c: &mut Criterion) {
    let mut group = c.benchmark_group("neighbors");
    group.sample_size(20);
    for (name, count, cloud) in clouds(&[10_000, 40_000, 1_000_000]) {
        let ends = [0, cloud.len()];
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| Neighbors::self_query(black_box(&cloud), &ends, NEIGHBORS));
        });
        let cell = if name == "room" { 0.1 } else { 1.0 };
        let pooled = partition::grid(&cloud, &ends, cell).unwrap();
        let order = pooled.order().iter();
        let ordered: Cloud = order.map(|&row| cloud[row as usize]).collect();
        group.bench_function(BenchmarkId::new(format!("{name}-ordered"), count), |b| {
            b.iter(|| Neighbors::self_query(black_box(&ordered), &ends, NEIGHBORS));
        });
        group.bench_function(BenchmarkId::new(format!("{name}-kiddo"), count), |b| {
            b.iter(|| by_kiddo(black_box(&cloud)));
        });
    }
    group.finish();
}

fn by_kiddo(cloud: &Cloud) -> Vec<u32> {
    use kiddo::{ImmutableKdTree, SquaredEuclidean};
    let tree: ImmutableKdTree<f32, 3> = ImmutableKdTree::new_from_slice(cloud).unwrap();
    let count = std::num::NonZero::new(NEIGHBORS).unwrap();
    let mut index = vec![0; cloud.len() * NEIGHBORS];
    index
        .par_chunks_mut(NEIGHBORS)
        .zip(cloud)
        .for_each(|(out, query)| {
            let search = tree.query(query).nearest_n::<SquaredEuclidean<f32>>(count);
            for (slot, found) in out.iter_mut().zip(search.execute()) {
                *slot = found.item;
            }
        });
    index
}

fn tree(c: &mut Criterion) {
    let mut group = c.benchmark_group("search-tree");
    for (name, count, cloud) in clouds(&[40_000]) {
        let ends = [0, cloud.len()];
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| SearchTree::new(black_box(&cloud), &ends));
        });
        let tree = SearchTree::new(&cloud, &ends).unwrap();
        for k in [3, NEIGHBORS, 48, 128] {
            let id = BenchmarkId::new(format!("{name}-nearest-{k}"), count);
            group.bench_function(id, |b| b.iter(|| tree.nearest(black_box(&tree), k)));
        }
    }
    group.finish();
}

fn pooling(c: &mut Criterion) {
    let mut group = c.benchmark_group("partition");
    for (name, count, cloud) in clouds(&[40_000, 1_000_000]) {
        let ends = [0, cloud.len()];
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| partition::grid(black_box(&cloud), &ends, 0.1));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("interpolation");
    for (name, count, cloud) in clouds(&[40_000]) {
        let pooled = partition::grid(&cloud, &[0, cloud.len()], 0.1).unwrap();
        let fine = SearchTree::new(&cloud, &[0, cloud.len()]).unwrap();
        let coarse = SearchTree::new(&pooled.coord, &pooled.offsets).unwrap();
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| Interpolation::from_trees(black_box(&fine), &coarse));
        });
    }
    group.finish();
}

fn sampling(c: &mut Criterion) {
    let mut group = c.benchmark_group("farthest-points");
    for (name, count, cloud) in clouds(&[80_000]) {
        let ends = [0, cloud.len()];
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| farthest_points(black_box(&cloud), &ends, &[cloud.len() / 8]));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("radius");
    for (name, count, cloud) in clouds(&[80_000]) {
        let ends = [0, cloud.len()];
        group.throughput(Throughput::Elements(cloud.len() as u64));
        for choice in [Choice::First, Choice::Nearest] {
            let id = BenchmarkId::new(format!("{name}-{choice:?}").to_lowercase(), count);
            group.bench_function(id, |b| {
                b.iter(|| radius_neighbors(black_box(&cloud), &ends, 0.1, 34, choice));
            });
        }
    }
    group.finish();
}

fn lists(c: &mut Criterion) {
    let mut group = c.benchmark_group("neighbor-table");
    for (name, count, cloud) in clouds(&[40_000]) {
        let table = Neighbors::self_query(&cloud, &[0, cloud.len()], NEIGHBORS).unwrap();
        group.throughput(Throughput::Elements(table.index.len() as u64));
        // Cloning before the first use gives a table whose lists are not built yet; the arrays are shared.
        group.bench_function(BenchmarkId::new(format!("{name}-transposed"), count), |b| {
            b.iter(|| table.clone().transposed().len());
        });
        group.bench_function(BenchmarkId::new(format!("{name}-moments"), count), |b| {
            b.iter(|| table.clone().moments().count);
        });
    }
    group.finish();
}

/// From a scan to the points that a network sees.
fn voxels(c: &mut Criterion) {
    let mut group = c.benchmark_group("voxels");
    for (name, count, cloud) in clouds(&[40_000, 1_000_000]) {
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| Voxels::new(black_box(&cloud), 0.1).unwrap().len());
        });
    }
    group.finish();
    let mut group = c.benchmark_group("sphere-crop");
    for (name, count, cloud) in clouds(&[1_000_000]) {
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| sphere_crop(black_box(&cloud), 0, 80_000));
        });
    }
    group.finish();
}

/// Neighbours in another cloud, with the trees of both, and the table of offsets that follows.
fn between(c: &mut Criterion) {
    let mut group = c.benchmark_group("knn");
    for (name, count, cloud) in clouds(&[40_000]) {
        let ends = [0, cloud.len()];
        let queries = &cloud[..cloud.len() / 4];
        let query_ends = [0, queries.len()];
        group.throughput(Throughput::Elements(queries.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| knn(black_box(&cloud), &ends, queries, &query_ends, NEIGHBORS));
        });
        let found = knn(&cloud, &ends, queries, &query_ends, NEIGHBORS).unwrap();
        group.bench_function(BenchmarkId::new(format!("{name}-offsets"), count), |b| {
            b.iter(|| Neighbors::from_index(NEIGHBORS, black_box(&found.index), queries, &cloud));
        });
        group.bench_function(BenchmarkId::new(format!("{name}-inverse"), count), |b| {
            b.iter(|| Ragged::inverse(black_box(&found.index), cloud.len()));
        });
    }
    group.finish();
}

/// Attention windows with their keys, as Stratified Transformer and as Swin has them.
fn windows(c: &mut Criterion) {
    let mut group = c.benchmark_group("windows");
    for (name, count, cloud) in clouds(&[80_000]) {
        let ends = [0, cloud.len()];
        let size = if name == "room" { 0.16 } else { 2.0 };
        let sampled = farthest_points(&cloud, &ends, &stride_counts(&ends, 8)).unwrap();
        group.throughput(Throughput::Elements(cloud.len() as u64));
        for shifted in [false, true] {
            let step = size / 16.0;
            let options = WindowOptions {
                size,
                step,
                shifted,
            };
            let form = if shifted { "shifted" } else { "plain" };
            let id = BenchmarkId::new(format!("{name}-stratified-{form}"), count);
            group.bench_function(id, |b| {
                b.iter(|| Windows::stratified(black_box(&cloud), &ends, options, &sampled));
            });
            let id = BenchmarkId::new(format!("{name}-swin-{form}"), count);
            group.bench_function(id, |b| {
                b.iter(|| Windows::swin(black_box(&cloud), &ends, options))
            });
        }
    }
    group.finish();
}

/// Everything that Point Transformer V2 asks for in the S3DIS configuration.
fn network(c: &mut Criterion) {
    let mut group = c.benchmark_group("hierarchy");
    for (name, count, cloud) in clouds(&[40_000]) {
        let sizes = if name == "room" {
            [0.1, 0.2, 0.4]
        } else {
            [1.0, 2.0, 4.0]
        };
        group.throughput(Throughput::Elements(cloud.len() as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| {
                let mut points = Hierarchy::new(cloud.clone(), vec![0, cloud.len()]).unwrap();
                points.neighbors(0, NEIGHBORS).unwrap();
                let mut level = 0;
                for size in sizes {
                    let (coarse, _) = points.pool(level, size).unwrap();
                    points.neighbors(coarse, NEIGHBORS).unwrap();
                    points.interpolation(level, coarse).unwrap();
                    level = coarse;
                }
                points.levels()
            });
        });
    }
    group.finish();
}

criterion_group!(
    benches, voxels, neighbors, between, tree, pooling, sampling, windows, lists, network
);
criterion_main!(benches);
