//! Speed of the ops at the sizes of the S3DIS network: 40 000 points and its three coarser levels.
//!
//! Names are op/phase/device/size. Time is that of the op alone, as the executor measures it; the throughput of a
//! product counts multiplications and additions (elem = FLOP), that of all others the bytes that have to be read and
//! written at least.
//!
//!     cargo bench --bench ops                  all of them
//!     cargo bench --bench ops -- batch_norm    one op

mod stratified;
mod vector_attention;

use cairn::device::random::{Random, Sequence};
use cairn::device::{Array, Device};
use cairn::geometry::{Interpolation, Neighbors, Ragged};
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
    targets = products, norms, maps, rows, levels, stratified::blocks, stratified::convolutions, stratified::attention,
        vector_attention::vector_attention, losses
}
criterion_main!(ops);
