use super::*;
use crate::geometry::MISSING;
use crate::geometry::golden::Golden;
use crate::graph::check::{Check, Round, assert_close, spread};
use crate::ops::reference::run;

/// One pair after another, in f64.
fn naive(op: &KernelPointConv, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (k, outputs, count) = (op.neighbors.k, op.outputs, x[1].len() / 3);
    let inputs = x[2].len() / count / outputs;
    let mut y = vec![0.0; op.neighbors.queries * outputs];
    for (pair, row) in op.neighbors.index.iter().enumerate() {
        if *row == MISSING {
            continue;
        }
        for m in 0..count {
            let offset =
                |axis: usize| f64::from(op.neighbors.delta[axis][pair]) - x[1][3 * m + axis];
            let distance = (0..3).map(|axis| offset(axis).powi(2)).sum::<f64>().sqrt();
            let h = (1.0 - distance / f64::from(op.influence)).max(0.0);
            for i in 0..inputs {
                let value = h * x[0][*row as usize * inputs + i];
                for o in 0..outputs {
                    y[pair / k * outputs + o] += value * x[2][(m * inputs + i) * outputs + o];
                }
            }
        }
    }
    vec![y]
}

fn points(count: usize, seed: u64) -> Vec<[f32; 3]> {
    let values = spread(Shape::new(count, 3), seed);
    values.chunks(3).map(|p| [p[0], p[1], p[2]]).collect()
}

/// Every third neighbour is missing.
fn table(queries: usize, count: usize, k: usize) -> Arc<Neighbors> {
    let row = |slot: usize| match slot % 3 {
        1 => MISSING,
        _ if count == 0 => MISSING,
        _ => ((slot * 7 + slot / 5) % count) as u32,
    };
    let index: Vec<u32> = (0..queries * k).map(row).collect();
    let (queries, points) = (points(queries, 1), points(count, 2));
    Arc::new(Neighbors::from_index(k, &index, &queries, &points).unwrap())
}

fn check(neighbors: Arc<Neighbors>, kernel: usize, inputs: usize, outputs: usize) {
    let rows = neighbors.points;
    let op = KernelPointConv {
        neighbors,
        influence: 2.5,
        outputs,
    };
    let shape = Shape::new(kernel, 3);
    Check::new(op.clone())
        .input(rows, inputs)
        .constant(shape, spread(shape, 8))
        .input(kernel, inputs * outputs)
        .run(|x| naive(&op, x));
}

#[test]
fn matches_naive() {
    for (kernel, inputs, outputs) in [(15, 6, 9), (1, 1, 1), (20, 3, 17), (15, 12, 12)] {
        check(table(40, 40, 5), kernel, inputs, outputs);
    }
}

#[test]
fn ragged_and_empty_tables_match_naive() {
    for (queries, count, k) in [(0, 3, 2), (3, 0, 2), (1, 1, 1), (150, 20, 34)] {
        check(table(queries, count, k), 4, 2, 3);
    }
}

#[test]
fn agrees_with_the_reference() {
    let golden = Golden::of("stratified", "op_kpconv");
    let coord = golden.points("coord");
    let index: Vec<u32> = golden
        .i32("neighbor_idx")
        .iter()
        .map(|i| *i as u32)
        .collect(); // −1 is MISSING
    let neighbors = Neighbors::from_index(34, &index, &coord, &coord).unwrap();
    let op = KernelPointConv {
        neighbors: Arc::new(neighbors),
        influence: 0.04,
        outputs: 16,
    };
    let inputs = [
        (Shape::new(750, 6), golden.f32("feats")),
        (
            Shape::new(15, 3),
            golden.f32("param.simple.kpconv.K_points"),
        ),
        (Shape::new(15, 96), golden.f32("param.simple.kpconv.weight")),
    ];
    let (outputs, _) = run(op, &inputs, vec![1.0; 750 * 16]);
    assert_close(&outputs[0], &golden.f32("kpconv_out"), 1e-6, "kpconv_out");
}

#[test]
fn shapes_that_differ_are_refused() {
    let mut op = KernelPointConv {
        neighbors: table(10, 8, 3),
        influence: 1.0,
        outputs: 5,
    };
    let (x, points, weight) = (Shape::new(8, 4), Shape::new(15, 3), Shape::new(15, 20));
    assert!(op.plan(&[x, points, weight]).is_ok());
    assert!(op.plan(&[x, points]).is_err());
    assert!(op.plan(&[Shape::new(10, 4), points, weight]).is_err());
    assert!(op.plan(&[x, Shape::new(15, 2), weight]).is_err());
    assert!(op.plan(&[x, Shape::new(14, 3), weight]).is_err());
    assert!(op.plan(&[x, Shape::new(0, 3), Shape::new(0, 20)]).is_err());
    for influence in [0.0, f32::NAN] {
        op.influence = influence;
        assert!(op.plan(&[x, points, weight]).is_err());
    }
}

/// Influence of kernel point m on a pair.
fn influence(op: &KernelPointConv, x: &[Vec<f64>], pair: usize, m: usize) -> f64 {
    let offset = |axis: usize| f64::from(op.neighbors.delta[axis][pair]) - x[1][3 * m + axis];
    let distance = (0..3).map(|axis| offset(axis).powi(2)).sum::<f64>().sqrt();
    (1.0 - distance / f64::from(op.influence)).max(0.0)
}

/// Sums of `rows` of `values` [_, C] over pairs into [count, M, C], a pair from one row to another.
fn sums(
    op: &KernelPointConv,
    x: &[Vec<f64>],
    (values, channels): (&[f64], usize),
    (ends, count): (impl Fn(usize) -> [usize; 2], usize),
) -> Vec<f64> {
    let kernel = x[1].len() / 3;
    let mut sums = vec![0.0; count * kernel * channels];
    for pair in (0..op.neighbors.index.len()).filter(|p| op.neighbors.index[*p] != MISSING) {
        let [from, to] = ends(pair);
        for (m, c) in (0..kernel).flat_map(|m| (0..channels).map(move |c| (m, c))) {
            sums[(to * kernel + m) * channels + c] +=
                influence(op, x, pair, m) * values[from * channels + c];
        }
    }
    sums
}

/// Products of rounded operands, forward and backward.
fn half(round: Round, op: &KernelPointConv, x: &[Vec<f64>], d_y: Option<&[f64]>) -> Vec<Vec<f64>> {
    let (k, outputs, kernel) = (op.neighbors.k, op.outputs, x[1].len() / 3);
    let inputs = x[2].len() / kernel / outputs;
    let row = |pair: usize| op.neighbors.index[pair] as usize;
    let ahead = |pair: usize| [row(pair), pair / k];
    let of_queries = sums(op, x, (&x[0], inputs), (ahead, op.neighbors.queries));
    let weight = |m: usize, i: usize, o: usize| round(x[2][(m * inputs + i) * outputs + o]);
    let each = || {
        let of_m = move |m| (0..inputs).flat_map(move |i| (0..outputs).map(move |o| (m, i, o)));
        (0..kernel).flat_map(of_m)
    };
    let Some(d_y) = d_y else {
        let mut y = vec![0.0; op.neighbors.queries * outputs];
        for (query, (m, i, o)) in
            (0..op.neighbors.queries).flat_map(|q| each().map(move |e| (q, e)))
        {
            let sum = of_queries[(query * kernel + m) * inputs + i];
            y[query * outputs + o] += round(sum) * weight(m, i, o);
        }
        return vec![y];
    };
    let back = |pair: usize| [pair / k, row(pair)];
    let of_points = sums(op, x, (d_y, outputs), (back, op.neighbors.points));
    let (mut d_x, mut d_w) = (vec![0.0; x[0].len()], vec![0.0; x[2].len()]);
    for (m, i, o) in each() {
        for point in 0..op.neighbors.points {
            let sum = of_points[(point * kernel + m) * outputs + o];
            d_x[point * inputs + i] += round(sum) * weight(m, i, o);
        }
        for query in 0..op.neighbors.queries {
            let sum = of_queries[(query * kernel + m) * inputs + i];
            d_w[(m * inputs + i) * outputs + o] += round(sum) * round(d_y[query * outputs + o]);
        }
    }
    vec![d_x, Vec::new(), d_w]
}

#[test]
fn half_precision_rounds_the_operands_of_products() {
    for (kernel, inputs, outputs) in [(15, 6, 9), (4, 3, 17)] {
        let op = KernelPointConv {
            neighbors: table(40, 40, 5),
            influence: 2.5,
            outputs,
        };
        let shape = Shape::new(kernel, 3);
        Check::new(op.clone())
            .input(40, inputs)
            .constant(shape, spread(shape, 8))
            .input(kernel, inputs * outputs)
            .run_half(
                |round, x| half(round, &op, x, None),
                |round, x, d_y| half(round, &op, x, Some(d_y)),
            );
    }
}
