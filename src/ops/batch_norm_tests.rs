use super::*;
use crate::geometry::golden::Golden;
use crate::graph::check::{Check, assert_close, spread};
use crate::ops::reference::run;

fn naive(x: &[Vec<f64>], cols: usize, batch: bool, relu: bool) -> Vec<Vec<f64>> {
    let n = (x[0].len() / cols) as f64;
    let (mut y, mut mean, mut variance) = (x[0].clone(), x[3].clone(), x[4].clone());
    for c in 0..cols {
        let column = || x[0].iter().skip(c).step_by(cols);
        if batch {
            mean[c] = column().sum::<f64>() / n;
            variance[c] = column().map(|v| (v - mean[c]).powi(2)).sum::<f64>() / n;
        }
        for v in y.iter_mut().skip(c).step_by(cols) {
            *v = x[1][c] * (*v - mean[c]) / (variance[c] + 1e-5).sqrt() + x[2][c];
            *v = if relu { v.max(0.0) } else { *v };
        }
        variance[c] *= n / (n - 1.0);
    }
    if batch {
        vec![y, mean, variance]
    } else {
        vec![y]
    }
}

fn check(rows: usize, cols: usize, statistics: Statistics, relu: bool) {
    let op = BatchNorm {
        statistics,
        relu,
        epsilon: 1e-5,
    };
    let vector = Shape::new(1, cols);
    let positive = spread(vector, 8).iter().map(|x| x.abs() + 0.5).collect();
    let batch = statistics == Statistics::Batch;
    Check::new(op)
        .input(rows, cols)
        .input(1, cols)
        .input(1, cols)
        .constant(vector, spread(vector, 9))
        .constant(vector, positive)
        .silent_output(1)
        .silent_output(2)
        .run(|x| naive(x, cols, batch, relu));
}

#[test]
fn both_statistics_match_naive() {
    for (rows, cols) in [(4, 3), (50, 10), (700, 7), (5000, 3)] {
        check(rows, cols, Statistics::Batch, false);
        check(rows, cols, Statistics::Running, false);
    }
    check(60, 5, Statistics::Batch, true);
    check(60, 5, Statistics::Running, true);
    check(1, 5, Statistics::Running, true);
    check(0, 5, Statistics::Running, false);
}

#[test]
fn agrees_with_the_reference() {
    for name in ["op_batchnorm_2d", "op_batchnorm_3d"] {
        let golden = Golden::open(name);
        let x = golden.f32("input.x");
        let vector = |key: &str| (Shape::new(1, 10), golden.f32(&format!("state.norm.{key}")));
        let keys = ["weight", "bias", "running_mean", "running_var"];
        let mut inputs = vec![(Shape::new(x.len() / 10, 10), x)];
        inputs.extend(keys.map(vector));
        for (mode, statistics) in [("eval", Statistics::Running), ("train", Statistics::Batch)] {
            let op = BatchNorm {
                statistics,
                relu: false,
                epsilon: 1e-5,
            };
            let read = |key: &str| golden.f32(&format!("{mode}.{key}"));
            let (outputs, gradients) = run(op, &inputs, read("upstream.y"));
            let close = |got: &[f32], key: &str| assert_close(got, &read(key), 2e-6, key);
            close(&outputs[0], "out.y");
            let wanted = ["input.x", "param.norm.weight", "param.norm.bias"];
            for (got, key) in gradients.iter().zip(wanted) {
                close(got.as_ref().unwrap(), &format!("grad.{key}"));
            }
            for (batch, key) in outputs[1..].iter().zip(["running_mean", "running_var"]) {
                let before = vector(key).1;
                let moved = before.iter().zip(batch).map(|(r, b)| 0.9 * r + 0.1 * b);
                let moved: Vec<f32> = moved.collect();
                close(&moved, &format!("buffer_after.norm.{key}"));
            }
        }
    }
}

#[test]
fn an_empty_batch_leaves_the_running_statistics_alone() {
    let op = BatchNorm {
        statistics: Statistics::Batch,
        relu: true,
        epsilon: 1e-5,
    };
    let vector = |value| (Shape::new(1, 2), vec![value; 2]);
    let mut inputs = vec![(Shape::new(0, 2), Vec::new())];
    inputs.extend([1.0, 0.0, 3.0, 4.0].map(vector));
    let (outputs, gradients) = run(op, &inputs, Vec::new());
    assert_eq!(outputs[1..], [[3.0; 2], [4.0; 2]]);
    assert_eq!(gradients[1].as_ref().unwrap()[..], [0.0; 2]);
}

#[test]
fn a_value_that_is_not_a_number_is_not_hidden() {
    let op = BatchNorm {
        statistics: Statistics::Running,
        relu: true,
        epsilon: 1e-5,
    };
    let vector = |value| (Shape::new(1, 1), vec![value]);
    let mut inputs = vec![vector(f32::NAN)];
    inputs.extend([1.0, 0.0, 0.0, 1.0].map(vector));
    assert!(run(op, &inputs, vec![1.0]).0[0][0].is_nan());
}

#[test]
fn batch_statistics_of_one_row_are_refused() {
    let op = BatchNorm {
        statistics: Statistics::Batch,
        relu: false,
        epsilon: 1e-5,
    };
    let mut inputs = vec![Shape::new(1, 4)];
    inputs.extend([Shape::new(1, 4); 4]);
    assert!(op.plan(&inputs).is_err());
}
