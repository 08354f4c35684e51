//! Speed of the ops at the sizes of the S3DIS network: 40 000 points and its three coarser levels.
//!
//! Names are op/phase/device/size. Time is that of the op alone, as the executor measures it; the throughput of a
//! product counts multiplications and additions (elem = FLOP), that of all others the bytes that have to be read and
//! written at least.
//!
//!     cargo bench --bench ops                  all of them
//!     cargo bench --bench ops -- batch_norm    one op

use cairn::device::random::{Random, Sequence};
use cairn::device::{Array, Device};
use cairn::geometry::{
    Choice, Hierarchy, Interpolation, Neighbors, Ragged, SearchTree, WindowOptions, Windows,
    farthest_points, partition, radius_neighbors, ratio_counts, stride_counts,
};
use cairn::graph::{Executor, Gradients, Graph, Layout, Mode, Op, Params, Phase, Shape};
use cairn::ops::*;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use std::time::Duration;

/// Points and channels of the four levels.
const LEVELS: [(usize, usize); 4] = [(40_000, 48), (3_503, 96), (951, 192), (247, 384)];

/// One op with its inputs; the gradients of those below `differentiable` are wanted.
struct Case {
    inputs: Vec<Shape>,
    differentiable: usize,
    forward: Throughput,
    backward: Throughput,
    size: String,
}

impl Case {
    fn new(inputs: &[Shape], forward: Throughput, backward: Throughput) -> Self {
        Case {
            inputs: inputs.to_vec(),
            differentiable: inputs.len(),
            forward,
            backward,
            size: inputs[0].to_string().replace(", ", "x"),
        }
    }

    /// Throughput in passes over the first input.
    fn passes(inputs: &[Shape], forward: usize, backward: usize) -> Self {
        let bytes = |passes: usize| Throughput::Bytes(4 * (passes * inputs[0].len()) as u64);
        Self::new(inputs, bytes(forward), bytes(backward))
    }
}

fn values(len: usize, seed: u64) -> Array<f32> {
    let mut random = Sequence::new(Random::new(seed, 0));
    let values: Vec<f32> = (0..len).map(|_| random.between(0.1, 2.0) as f32).collect();
    Array::from(values)
}

/// Measures forward and backward of `op`.
fn measure(criterion: &mut Criterion, op: impl Op + 'static, case: &Case) {
    let params = Params::initial(Layout::default().into(), Device::Cpu, 0).unwrap();
    let mut graph = Graph::new(&params, Mode::Training, Random::new(0, 0));
    let mut vars = Vec::new();
    for (i, shape) in case.inputs.iter().enumerate() {
        let x = graph.input(values(shape.len(), i as u64), *shape).unwrap();
        if i < case.differentiable {
            graph.keep_gradient(x);
        }
        vars.push(x);
    }
    let name = op.name();
    let y = graph.push_many(op, &vars).unwrap()[0];
    graph.seed(y, values(graph.shape(y).len(), 99)).unwrap();
    let mut executor = Executor::new(Device::Cpu);
    let mut gradients = Gradients::new(params.layout().clone(), Device::Cpu).unwrap();
    for (phase, label, throughput) in [
        (Phase::Forward, "forward", &case.forward),
        (Phase::Backward, "backward", &case.backward),
    ] {
        if phase == Phase::Backward && case.differentiable == 0 {
            continue;
        }
        let mut group = criterion.benchmark_group(format!("{name}/{label}/cpu"));
        group.throughput(throughput.clone());
        group.bench_function(&case.size, |bench| {
            bench.iter_custom(|runs| {
                let time = |executor: &Executor| match executor.timings().get(&(name, phase)) {
                    Some(timing) => timing.time,
                    None => Duration::ZERO,
                };
                let before = time(&executor);
                for _ in 0..runs {
                    executor.run(&graph, Some(&mut gradients)).unwrap();
                }
                time(&executor) - before
            });
        });
    }
}

fn products(criterion: &mut Criterion) {
    for (n, c) in LEVELS {
        let flops = |times: usize| Throughput::Elements((2 * times * n * c * c) as u64);
        let shapes = [Shape::new(n, c), Shape::new(c, c), Shape::new(1, c)];
        let case = Case::new(&shapes, flops(1), flops(2));
        measure(criterion, Linear::new(true), &case);
    }
    for (g, c) in [(6, 48), (48, 384)] {
        let flops = |times: usize| Throughput::Elements((2 * times * g * c * c) as u64);
        let shapes = [Shape::new(g, c), Shape::new(c, c)];
        measure(criterion, Matmul, &Case::new(&shapes, flops(1), flops(2)));
    }
}

fn norms(criterion: &mut Criterion) {
    for statistics in [Statistics::Batch, Statistics::Running] {
        for (n, c) in LEVELS {
            let vector = Shape::new(1, c);
            let shapes = [Shape::new(n, c), vector, vector, vector, vector];
            let forward = if statistics == Statistics::Batch {
                3
            } else {
                2
            };
            let mut case = Case::passes(&shapes, forward, 6);
            case.differentiable = 3;
            case.size += &format!("/{statistics:?}").to_lowercase();
            let op = BatchNorm {
                statistics,
                relu: true,
                epsilon: 1e-5,
            };
            measure(criterion, op, &case);
        }
    }
    for (m, g) in [(640_000, 6), (56_048, 12), (15_216, 24), (3_952, 48)] {
        let vector = Shape::new(1, g);
        let shapes = [Shape::new(m, g), vector, vector, vector, vector];
        let mut case = Case::passes(&shapes, 1, 3);
        case.differentiable = 3;
        let op = NormCoefficients {
            statistics: Statistics::Batch,
            epsilon: 1e-5,
        };
        measure(criterion, op, &case);
    }
}

/// Ops on parameters alone: they are small, and a network has one for every attention.
fn maps(criterion: &mut Criterion) {
    for (n, c) in LEVELS {
        let coord = points(n, 1);
        let table = Neighbors::self_query(&coord, &[0, n], 16).unwrap();
        table.moments();
        let vector = Shape::new(1, c);
        let shapes = [Shape::new(c, 3), vector, vector, vector, vector, vector];
        let mut case = Case::passes(&shapes, 2, 4);
        case.differentiable = 4;
        let op = PositionNorm {
            neighbors: Arc::new(table),
            statistics: Statistics::Batch,
            epsilon: 1e-5,
        };
        measure(criterion, op, &case);
        let bytes = |values: usize| Throughput::Bytes(4 * values as u64);
        let groups = c / 8;
        let case = Case::new(&[vector], bytes(groups * c), bytes(3 * c));
        measure(criterion, GroupedWeight { groups }, &case);
    }
}

fn rows(criterion: &mut Criterion) {
    for (n, c) in LEVELS {
        let x = Shape::new(n, c);
        measure(criterion, Relu, &Case::passes(&[x], 2, 4));
        measure(criterion, Add, &Case::passes(&[x, x], 3, 5));
        measure(criterion, AddRelu, &Case::passes(&[x, x], 3, 6));
        measure(criterion, DropPath { rate: 0.3 }, &Case::passes(&[x], 2, 3));
        measure(criterion, Dropout { rate: 0.3 }, &Case::passes(&[x], 2, 3));
    }
}

/// Lists of neighbouring rows, as pooling of points in cluster order gives them.
fn segments(rows: usize, count: usize) -> Ragged {
    let offsets = (0..=count).map(|s| (s * rows / count) as u32);
    Ragged {
        offsets: offsets.collect::<Vec<_>>().into(),
        index: (0..rows as u32).collect::<Vec<_>>().into(),
    }
}

fn points(count: usize, seed: u64) -> Vec<[f32; 3]> {
    let values = values(3 * count, seed);
    values.as_chunks::<3>().0.to_vec()
}

fn levels(criterion: &mut Criterion) {
    for pair in LEVELS.windows(2) {
        let ((n, _), (s, c)) = (pair[0], pair[1]);
        let lists = segments(n, s);
        let fine = Shape::new(n, c);
        measure(
            criterion,
            SegmentMax::new(lists.clone()),
            &Case::passes(&[fine], 1, 2),
        );
        measure(
            criterion,
            SegmentMean::new(lists.clone()),
            &Case::passes(&[fine], 1, 2),
        );
        let c = pair[0].1;
        let bytes = |passes: usize| Throughput::Bytes(4 * (passes * n * c) as u64);
        let coarse = Case::new(&[Shape::new(s, c)], bytes(1), bytes(1));
        let mut cluster = vec![0; n];
        for segment in 0..s {
            let range = lists.offsets[segment] as usize..lists.offsets[segment + 1] as usize;
            cluster[range].fill(segment as u32);
        }
        measure(
            criterion,
            Gather::new(cluster.into(), lists.clone()),
            &coarse,
        );
        let stencil = Interpolation::new(&points(n, 1), &[0, n], &points(s, 2), &[0, s]).unwrap();
        stencil.transposed();
        measure(criterion, Interpolate::new(Arc::new(stencil)), &coarse);
    }
}

/// Points and channels of the four levels of Stratified Transformer, from 40 000 points.
const STRATIFIED: [(usize, usize); 4] = [(40_000, 48), (10_001, 96), (2_501, 192), (626, 384)];

/// A furnished room of about `count` points, one in each occupied voxel of 4 cm, in random order.
fn room(count: usize) -> Vec<[f32; 3]> {
    let mut random = Sequence::new(Random::new(1, 0));
    let side = (count as f64 / 10.2).sqrt() as i64;
    let mut cells = std::collections::BTreeSet::new();
    for (a, b) in (0..side).flat_map(|a| (0..side).map(move |b| (a, b))) {
        cells.insert([a, b, 0]);
        for wall in [[a, 0, b], [a, side - 1, b], [0, a, b], [side - 1, a, b]] {
            if wall[2] < side / 2 {
                cells.insert(wall);
            }
        }
    }
    while cells.len() < count {
        let highest = [side, side, side / 4];
        let at = highest.map(|most| random.below(most as u64) as i64);
        let [a, b, c]: [i64; 3] = std::array::from_fn(|_| 5 + random.below(15) as i64);
        let all = (0..a).flat_map(|x| (0..b).flat_map(move |y| (0..c).map(move |z| [x, y, z])));
        let shell =
            all.filter(|[x, y, z]| [0, a - 1].contains(x) || [0, b - 1].contains(y) || *z == c - 1);
        cells.extend(shell.map(|[x, y, z]| [at[0] + x, at[1] + y, at[2] + z]));
    }
    let mut cells: Vec<_> = cells.into_iter().collect();
    random.shuffle(&mut cells);
    cells.truncate(count);
    let mut inside = |cell: i64| (cell as f64 * 0.04 + random.between(0.0, 0.04)) as f32;
    cells.into_iter().map(|c| c.map(&mut inside)).collect()
}

/// The ops of a transformer block, but for attention, and of the step to the next level.
fn blocks(criterion: &mut Criterion) {
    for (n, c) in STRATIFIED {
        let (x, vector) = (Shape::new(n, c), Shape::new(1, c));
        let norm = LayerNorm { epsilon: 1e-5 };
        measure(criterion, norm, &Case::passes(&[x, vector, vector], 2, 4));
        measure(
            criterion,
            Gelu,
            &Case::passes(&[Shape::new(n, 4 * c)], 2, 4),
        );
    }
    let x = Shape::new(40_000, 48);
    measure(
        criterion,
        LeakyRelu { slope: 0.2 },
        &Case::passes(&[x], 2, 4),
    );
    for pair in STRATIFIED.windows(2) {
        let ((n, _), (m, c)) = (pair[0], pair[1]);
        let (fine, coarse) = (points(n, 1), points(m, 2));
        let tree = SearchTree::new(&fine, &[0, n]).unwrap();
        let found = tree
            .nearest(&SearchTree::new(&coarse, &[0, m]).unwrap(), 16)
            .unwrap();
        let table = Neighbors::from_index(16, &found.index, &coarse, &fine).unwrap();
        table.transposed();
        let bytes = |rows: usize| Throughput::Bytes(4 * (rows * c) as u64);
        // forward reads a row for every neighbour; backward adds to each point what its queries say
        let case = Case::new(
            &[Shape::new(n, c)],
            bytes(16 * m + m),
            bytes(32 * m + 2 * n),
        );
        measure(criterion, NeighborMax::new(Arc::new(table)), &case);
    }
}

fn convolutions(criterion: &mut Criterion) {
    let coord = room(40_000);
    for (inputs, outputs) in [(6, 48), (12, 12)] {
        let table = radius_neighbors(&coord, &[0, coord.len()], 0.1, 34, Choice::Nearest).unwrap();
        let pairs = table.transposed().index.len();
        // influences (11 a pair and kernel point), their sums, and the products with the weights
        let flops = |channels: usize| {
            let products = 2 * coord.len() * 15 * inputs * outputs;
            15 * pairs * (11 + 2 * channels) + products
        };
        let (forward, backward) = (flops(inputs), flops(outputs) + flops(inputs));
        let shapes = [
            Shape::new(coord.len(), inputs),
            Shape::new(15, 3),
            Shape::new(15, inputs * outputs),
        ];
        let elements = |flops: usize| Throughput::Elements(flops as u64);
        let case = Case::new(&shapes, elements(forward), elements(backward));
        let op = KernelPointConv {
            neighbors: Arc::new(table),
            influence: 0.04,
            outputs,
        };
        measure(criterion, op, &case);
    }
}

/// Attention of the four stages in the S3DIS configuration, plain and shifted. Operations a pair and channel: 14 for
/// the score (three products with six table rows), 5 for the value; in backward 14 for the score, 8 for d_p, 23 for the
/// gradients.
fn attention(criterion: &mut Criterion) {
    let mut coord = room(40_000);
    for (level, (n, c)) in STRATIFIED.into_iter().enumerate() {
        assert_eq!(coord.len(), n);
        let size = 0.16 * (1 << level) as f32;
        let sampled = farthest_points(&coord, &[0, n], &stride_counts(&[0, n], 8)).unwrap();
        for shifted in [false, true] {
            let options = WindowOptions {
                size,
                step: size / 16.0,
                shifted,
            };
            let windows = Windows::stratified(&coord, &[0, n], options, &sampled).unwrap();
            let flops = |times: usize| Throughput::Elements((times * windows.pairs() * c) as u64);
            let table = Shape::new(64, 3 * c);
            let shapes = [Shape::new(n, 3 * c), table, table, table];
            let mut case = Case::new(&shapes, flops(19), flops(45));
            case.size = format!("{n}x{c}/{}", if shifted { "shifted" } else { "plain" });
            let op = WindowAttention::new(Arc::new(windows), c / 16, PositionTables::ALL);
            measure(criterion, op, &case);
        }
        let keep = farthest_points(&coord, &[0, n], &ratio_counts(&[0, n], 0.25)).unwrap();
        coord = keep.iter().map(|row| coord[*row as usize]).collect();
    }
}

/// Neighbours, points, channels and groups of the four levels of Point Transformer V2, points in the order of the
/// clusters that they are pooled to.
fn vector_levels() -> Vec<(Arc<Neighbors>, usize, usize, usize)> {
    let coord = room(40_000);
    let clusters = partition::grid(&coord, &[0, coord.len()], 0.1).unwrap();
    let coord: Vec<_> = clusters
        .order()
        .iter()
        .map(|row| coord[*row as usize])
        .collect();
    let offsets = vec![0, coord.len()];
    let mut levels = Hierarchy::new(coord, offsets).unwrap();
    let mut level = 0;
    let mut all = Vec::new();
    for (channels, size) in [(48, 0.1), (96, 0.2), (192, 0.4), (384, 0.8)] {
        let neighbors = levels.neighbors(level, 16).unwrap();
        neighbors.transposed();
        let points = neighbors.queries;
        all.push((neighbors, points, channels, channels / 8));
        level = levels.pool(level, size).unwrap().0;
    }
    all
}

/// Grouped vector attention: the fused form of inference, and the pair of training with the position multiplier.
/// Operations: two a pair for each of 3·C (the hidden layer) and G·C (each product with it), and those per point.
fn vector_attention(criterion: &mut Criterion) {
    for (neighbors, n, c, g) in vector_levels() {
        let (m, channels) = (n * 16, Shape::new(1, c));
        let (per_group, per_point) = (Shape::new(n, g), Shape::new(n, c));
        let (position, square) = (Shape::new(c, 4), Shape::new(c, c));
        let (mix, constant) = (Shape::new(g, g), Shape::new(1, g));
        let elements = |flops: usize| Throughput::Elements(2 * flops as u64);
        let (hidden, layer) = (m * 3 * c, m * g * c);
        let (mixed, weighted, projected) = (m * g * g, m * c, n * c * c);
        let case = |inputs: &[Shape], forward, backward| Case {
            size: format!("{n}x{c}"),
            ..Case::new(inputs, elements(forward), elements(backward))
        };

        let bytes = || Throughput::Bytes(4 * (3 * n + 4 * m) as u64);
        let op = Offsets {
            neighbors: neighbors.clone(),
        };
        measure(
            criterion,
            op,
            &Case::new(&[Shape::new(n, 3)], bytes(), bytes()),
        );

        let inputs = [per_group, per_group, position, Shape::new(g, c), constant];
        let relation = case(&inputs, hidden + layer, hidden + 2 * layer + m * 4 * c);
        let op = Relation {
            neighbors: neighbors.clone(),
        };
        measure(criterion, op, &relation);

        let inputs = [
            Shape::new(m, g),
            Shape::new(2, g),
            mix,
            constant,
            per_point,
            position,
            square,
            channels,
        ];
        let attend = mixed + weighted + hidden + layer + projected;
        let backward = hidden + 3 * layer + m * 4 * c + 2 * (mixed + weighted + projected);
        let op = Aggregate {
            neighbors: neighbors.clone(),
            groups: g,
            rate: 0.0,
        };
        measure(criterion, op, &case(&inputs, attend, backward));

        let packed = VectorAttention::packed_shape(c, g);
        let inputs = [
            per_group,
            per_group,
            constant,
            mix,
            constant,
            per_point,
            channels,
            position,
            Shape::new(g, c),
            packed,
            channels,
        ];
        let mut fused = case(&inputs, hidden + layer + attend, 0);
        fused.differentiable = 0;
        let op = VectorAttention {
            neighbors: neighbors.clone(),
            groups: g,
        };
        measure(criterion, op, &fused);

        let inputs = [
            per_point,
            per_point,
            position,
            square,
            channels,
            Shape::new(g, c),
        ];
        let direct = hidden + m * c * c + m * c + layer;
        let multiplied = case(&inputs, direct, direct + 2 * (m * c * c + layer));
        measure(criterion, RelationMultiplier { neighbors }, &multiplied);
    }
}

fn losses(criterion: &mut Criterion) {
    for (n, c) in [(40_000, 13), (100_000, 20)] {
        let x = Shape::new(n, c);
        let labels: Vec<i32> = (0..n).map(|i| (i * 7 % (c + 1)) as i32 - 1).collect();
        let labels = Array::from(labels);
        measure(criterion, Softmax, &Case::passes(&[x], 2, 4));
        measure(
            criterion,
            CrossEntropy::new(labels.clone(), -1),
            &Case::passes(&[x], 2, 3),
        );
        measure(
            criterion,
            LovaszSoftmax::new(labels, -1),
            &Case::passes(&[x], 2, 3),
        );
    }
    let scalar = Shape::new(1, 1);
    let sum = WeightedSum::new(vec![1.0, 0.5]);
    measure(criterion, sum, &Case::passes(&[scalar, scalar], 3, 3));
}

criterion_group! {
    name = ops;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = products, norms, maps, rows, levels, blocks, convolutions, attention, vector_attention, losses
}
criterion_main!(ops);
