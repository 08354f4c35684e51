mod half;

use super::*;
use crate::device::random::Random;
use crate::graph::check::{Check, spread};
use crate::ops::pairs::dropout_factor;
use crate::ops::pairs::fixtures::{Table, WIDTHS, case, naive_weights, tables};

/// The direct form: y_ic = Σ_j w_ij,g(c) (v_j + W2 h_ij + b2)_c.
fn naive(table: &Table, groups: usize, rate: f32, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let k = table.neighbors.k;
    let channels = x[4].len().checked_div(table.points()).unwrap_or(0);
    let mut logits = vec![0.0; x[0].len()];
    for (logits, e) in logits
        .chunks_exact_mut(groups)
        .zip(x[0].chunks_exact(groups))
    {
        for (g, logit) in logits.iter_mut().enumerate() {
            let r = |f: usize| (x[1][f] * e[f] + x[1][groups + f]).max(0.0);
            *logit = x[3][g]
                + (0..groups)
                    .map(|f| x[2][g * groups + f] * r(f))
                    .sum::<f64>();
        }
    }
    let mut w = naive_weights(table, &logits, groups);
    if rate > 0.0 {
        for (at, w) in w.iter_mut().enumerate() {
            let factor = dropout_factor(Random::new(5, 0), rate, groups, at / groups, at % groups);
            *w *= f64::from(factor);
        }
    }
    let mut y = vec![0.0; table.points() * channels];
    for pair in 0..table.pairs() {
        let Some(row) = table.row(pair) else { continue };
        let h = if x.len() >= 8 {
            table.hidden_at(&x[5], pair, x.get(8))
        } else {
            Vec::new()
        };
        for c in 0..channels {
            let mut value = x[4][row * channels + c];
            if x.len() >= 8 {
                let w2 = &x[6][c * channels..][..channels];
                value += x[7][c] + h.iter().zip(w2).map(|(h, w)| h * w).sum::<f64>();
            }
            let g = c / (channels / groups);
            y[pair / k * channels + c] += w[pair * groups + g] * value;
        }
    }
    vec![y]
}

/// P whose hidden layer stays a step away from the kink of its ReLU for every pair.
fn position(table: &Table, channels: usize) -> Vec<f32> {
    let mut p = spread(Shape::new(channels, 4), 6);
    for row in p.chunks_exact_mut(4) {
        let near = |row: &[f32]| {
            (0..table.pairs()).any(|pair| {
                let z: f64 = (0..3)
                    .map(|a| f64::from(row[a]) * table.delta(pair, a))
                    .sum();
                (z + f64::from(row[3])).abs() < 1e-4
            })
        };
        while near(row) {
            row[3] += 3e-4;
        }
    }
    p
}

fn check(table: &Table, widths: [usize; 2], has_bias: bool, rate: f32) {
    prepared(table, widths, has_bias, rate).run(|x| naive(table, widths[1], rate, x));
}

fn prepared(
    table: &Table,
    [channels, groups]: [usize; 2],
    has_bias: bool,
    rate: f32,
) -> Check<Aggregate> {
    let (points, pairs) = (table.points(), table.pairs());
    let mut check = Check::new(Aggregate {
        neighbors: table.neighbors.clone(),
        groups,
        rate,
    })
    .input(pairs, groups)
    .input(2, groups)
    .input(groups, groups)
    .input(1, groups)
    .input(points, channels);
    if has_bias {
        check = check
            .input_values(Shape::new(channels, 4), position(table, channels))
            .input(channels, channels)
            .input(1, channels);
    }
    check
}

#[test]
fn matches_naive_with_a_gradient_of_the_offsets() {
    let run = |table: &Table, widths: [usize; 2], rate: f32| {
        let (shape, values) = table.offsets();
        prepared(table, widths, true, rate)
            .input_values(shape, values)
            .run(|x| naive(table, widths[1], rate, x));
    };
    for widths in WIDTHS {
        run(&case(16, widths).0, widths, 0.0);
    }
    for table in tables() {
        run(&table, [12, 3], 0.0);
    }
    run(&case(5, [24, 6]).0, [24, 6], 0.4);
}

#[test]
fn matches_naive_for_every_width() {
    // The last one has so many groups that its tiles are short.
    for widths in [[24, 6], [24, 4], [48, 6], [12, 12], [10, 5], [28, 28]] {
        check(&case(16, widths).0, widths, true, 0.0);
    }
    check(&case(5, [64, 2]).0, [64, 2], true, 0.0);
}

#[test]
fn matches_naive_for_every_number_of_neighbors() {
    // Groups of one short vector and others take different paths, and both look at K.
    for k in [1, 4, 5, 17] {
        for widths in [[24, 3], [10, 5]] {
            check(&case(k, widths).0, widths, true, 0.0);
        }
    }
}

#[test]
fn matches_naive_for_ragged_batches() {
    for table in tables() {
        check(&table, [12, 3], true, 0.0);
    }
}

#[test]
fn matches_naive_without_position_bias() {
    check(&case(16, [24, 6]).0, [24, 6], false, 0.0);
}

#[test]
fn dropped_weights_have_no_part() {
    check(&case(16, [24, 3]).0, [24, 3], true, 0.4);
    check(&case(5, [24, 4]).0, [24, 4], false, 0.4);
}

#[test]
fn shapes_that_differ_are_rejected() {
    let (table, _) = case(5, [24, 6]);
    let neighbors = table.neighbors;
    let op = Aggregate {
        neighbors,
        groups: 6,
        rate: 0.0,
    };
    let good = [
        Shape::new(37 * 5, 6),
        Shape::new(2, 6),
        Shape::new(6, 6),
        Shape::new(1, 6),
        Shape::new(37, 24),
    ];
    assert!(op.plan(&good).is_ok());
    for wrong in 0..good.len() {
        let mut shapes = good;
        shapes[wrong] = Shape::new(good[wrong].rows + 1, good[wrong].cols);
        assert!(op.plan(&shapes).is_err(), "input {wrong}");
    }
    let groups = Aggregate {
        groups: 5,
        ..op.clone()
    };
    assert!(groups.plan(&good).is_err());
    let rate = Aggregate { rate: 1.0, ..op };
    assert!(rate.plan(&good).is_err());
}
