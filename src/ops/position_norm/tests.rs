use super::*;
use crate::graph::check::{Check, spread};
use crate::ops::pairs::fixtures::{Table, tables};

const EPSILON: f32 = 1e-3;

fn naive(table: &Table, x: &[Vec<f64>], statistics: Statistics) -> Vec<Vec<f64>> {
    let channels = x[1].len();
    let n = table.neighbors.index.len();
    let delta = |p: usize, a: usize| x.get(6).map_or_else(|| table.delta(p, a), |d| d[3 * p + a]);
    let mut out = vec![
        vec![0.0; 4 * channels],
        vec![0.0; channels],
        vec![0.0; channels],
    ];
    for c in 0..channels {
        let z: Vec<f64> = (0..n)
            .map(|p| x[1][c] + (0..3).map(|a| x[0][3 * c + a] * delta(p, a)).sum::<f64>())
            .collect();
        let mut mean = z.iter().sum::<f64>() / n.max(1) as f64;
        if n == 0 {
            mean = x[1][c];
        }
        let square: f64 = z.iter().map(|z| (z - mean).powi(2)).sum();
        let mut variance = square / n.max(1) as f64;
        out[1][c] = mean;
        out[2][c] = square / n.saturating_sub(1).max(1) as f64;
        if statistics == Statistics::Running {
            (mean, variance) = (x[4][c], x[5][c]);
        }
        let a = x[2][c] / (variance + f64::from(EPSILON)).sqrt();
        for axis in 0..3 {
            out[0][4 * c + axis] = a * x[0][3 * c + axis];
        }
        out[0][4 * c + 3] = a * (x[1][c] - mean) + x[3][c];
    }
    if statistics == Statistics::Running {
        out.truncate(1);
    }
    out
}

#[test]
fn matches_naive_statistics_over_all_pairs() {
    for table in tables() {
        for statistics in [Statistics::Batch, Statistics::Running] {
            let vector = Shape::new(1, 7);
            let positive = spread(vector, 9).iter().map(|x| x.abs() + 0.5).collect();
            let (shape, offsets) = table.offsets();
            let check = Check::new(PositionNorm {
                neighbors: table.neighbors.clone(),
                statistics,
                epsilon: EPSILON,
            })
            .input(7, 3);
            // With batch statistics the bias cancels: its gradient is exactly zero.
            let check = match statistics {
                Statistics::Batch => check.constant(vector, spread(vector, 7)),
                Statistics::Running => check.input(1, 7),
            };
            let check = check
                .input(1, 7)
                .input(1, 7)
                .constant(vector, spread(vector, 8))
                .constant(vector, positive);
            let check = match statistics {
                Statistics::Batch => check.silent_output(1).silent_output(2),
                Statistics::Running => check,
            };
            check.run(|x| naive(&table, x, statistics));
            let check = check.input_values(shape, offsets);
            check.run(|x| naive(&table, x, statistics));
        }
    }
}

#[test]
fn shapes_that_differ_are_rejected() {
    let op = PositionNorm {
        neighbors: tables().remove(0).neighbors,
        statistics: Statistics::Batch,
        epsilon: EPSILON,
    };
    let vector = Shape::new(1, 4);
    let weight = Shape::new(4, 3);
    assert!(
        op.plan(&[weight, vector, vector, vector, vector, vector])
            .is_ok()
    );
    let narrow = Shape::new(4, 2);
    assert!(
        op.plan(&[narrow, vector, vector, vector, vector, vector])
            .is_err()
    );
    assert!(op.plan(&[weight, vector, vector]).is_err());
    assert!(op.plan(&[]).is_err());
}
