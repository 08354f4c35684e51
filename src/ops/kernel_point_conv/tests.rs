use super::*;
use crate::geometry::MISSING;
use crate::geometry::golden::Golden;
use crate::graph::check::{Check, assert_close, spread};
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
