use super::*;
use crate::graph::check::{Check, Round, spread};
use crate::ops::pairs::fixtures::{Table, WIDTHS, case, naive_weights, tables};

/// The direct form: softmax over the relation of v + W2 h + b2, then shift and ReLU.
fn naive(table: &Table, groups: usize, w2: &[f64], x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let channels = x[6].len();
    let (k, width) = (table.neighbors.k, channels / groups);
    let hidden = |pair| match x.get(7) {
        Some(p) => table.hidden(p, pair),
        None => Vec::new(),
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut logits = Vec::new();
    for pair in 0..table.pairs() {
        let h = hidden(pair);
        let r: Vec<f64> = (0..groups)
            .map(|g| {
                let key = table.row(pair).map_or(0.0, |j| x[0][j * groups + g]);
                let position = x.get(8).map_or(0.0, |m| dot(&m[g * channels..], &h));
                (key - x[1][pair / k * groups + g] + x[2][g] + position).max(0.0)
            })
            .collect();
        logits.extend((0..groups).map(|g| x[4][g] + dot(&x[3][g * groups..], &r)));
    }
    let w = naive_weights(table, &logits, groups);
    let mut y: Vec<f64> = (0..table.points()).flat_map(|_| x[6].clone()).collect();
    for pair in 0..table.pairs() {
        let Some(row) = table.row(pair) else { continue };
        let h = hidden(pair);
        for c in 0..channels {
            let position = x
                .get(10)
                .map_or(0.0, |b2| b2[c] + dot(&w2[c * channels..], &h));
            let value = x[5][row * channels + c] + position;
            y[pair / k * channels + c] += w[pair * groups + c / width] * value;
        }
    }
    vec![y.iter().map(|y| y.max(0.0)).collect()]
}

fn check(table: &Table, widths: [usize; 2], has_bias: bool) {
    let (check, w2) = prepared(table, widths, has_bias);
    check.run(|x| naive(table, widths[1], &w2, x));
}

/// The op with its inputs, and W2, which is among them packed.
fn prepared(
    table: &Table,
    [channels, groups]: [usize; 2],
    has_bias: bool,
) -> (Check<VectorAttention>, Vec<f64>) {
    let points = table.points();
    let mut shapes = vec![
        Shape::new(points, groups),
        Shape::new(points, groups),
        Shape::new(1, groups),
        Shape::new(groups, groups),
        Shape::new(1, groups),
        Shape::new(points, channels),
        Shape::new(1, channels),
    ];
    if has_bias {
        shapes.extend([Shape::new(channels, 4), Shape::new(groups, channels)]);
    }
    let mut check = Check::new(VectorAttention {
        neighbors: table.neighbors.clone(),
        groups,
    });
    for (i, shape) in shapes.into_iter().enumerate() {
        check = check.constant(shape, spread(shape, 1 + i as u64));
    }
    let w2 = spread(Shape::new(channels, channels), 50);
    if has_bias {
        let packed = VectorAttention::pack(&w2, groups);
        let shape = VectorAttention::packed_shape(channels, groups);
        let vector = Shape::new(1, channels);
        check = check
            .constant(shape, packed)
            .constant(vector, spread(vector, 51));
    }
    (check, w2.iter().map(|w| f64::from(*w)).collect())
}

#[test]
fn matches_naive_for_every_width_and_number_of_neighbors() {
    for k in [1, 5, 16, 17] {
        for widths in WIDTHS {
            check(&case(k, widths).0, widths, true);
        }
    }
}

#[test]
fn matches_naive_for_ragged_batches() {
    for table in tables() {
        check(&table, [24, 6], true);
        check(&table, [12, 3], false);
    }
}

#[test]
fn shapes_that_differ_are_rejected() {
    let (table, _) = case(5, [24, 6]);
    let op = VectorAttention {
        neighbors: table.neighbors,
        groups: 6,
    };
    let good = [
        Shape::new(37, 6),
        Shape::new(37, 6),
        Shape::new(1, 6),
        Shape::new(6, 6),
        Shape::new(1, 6),
        Shape::new(37, 24),
        Shape::new(1, 24),
    ];
    assert!(op.plan(&good).is_ok());
    for wrong in 0..good.len() {
        let mut shapes = good;
        shapes[wrong] = Shape::new(good[wrong].rows + 1, good[wrong].cols);
        assert!(op.plan(&shapes).is_err(), "input {wrong}");
    }
    let groups = VectorAttention { groups: 5, ..op };
    assert!(groups.plan(&good).is_err());
}

/// The op as its kernels compute it, with operands of products rounded.
fn half(round: Round, table: &Table, groups: usize, w2: &[f64], x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (channels, k) = (x[6].len(), table.neighbors.k);
    let dot = |a: &[f64], b: &[f64]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| round(*a) * round(*b))
            .sum::<f64>()
    };
    let hidden = |pair| table.hidden(&x[7], pair);
    let mut logits = Vec::new();
    for pair in 0..table.pairs() {
        let h = hidden(pair);
        let relation = |g: usize| {
            let key = table.row(pair).map_or(0.0, |j| x[0][j * groups + g]);
            let query = x[1][pair / k * groups + g];
            (key - query + x[2][g] + dot(&x[8][g * channels..], &h)).max(0.0)
        };
        let r: Vec<f64> = (0..groups).map(relation).collect();
        logits.extend((0..groups).map(|g| x[4][g] + dot(&x[3][g * groups..], &r)));
    }
    let w = naive_weights(table, &logits, groups);
    let mut y = Vec::new();
    for (point, c) in (0..table.points()).flat_map(|p| (0..channels).map(move |c| (p, c))) {
        let weight = |pair: usize| w[pair * groups + c / (channels / groups)];
        let (mut u, mut sum) = (vec![0.0; channels], x[6][c]);
        for pair in (point * k..(point + 1) * k).filter(|pair| table.row(*pair).is_some()) {
            let row = table.row(pair).unwrap();
            sum += weight(pair) * (x[5][row * channels + c] + x[10][c]);
            let h = hidden(pair);
            u.iter_mut()
                .zip(h)
                .for_each(|(u, h)| *u += round(weight(pair)) * round(h));
        }
        y.push((sum + dot(&u, &w2[c * channels..])).max(0.0));
    }
    vec![y]
}

#[test]
fn half_precision_rounds_the_operands_of_products() {
    for (k, widths) in [(16, [24, 6]), (5, [24, 4]), (17, [10, 5])] {
        let (table, _) = case(k, widths);
        let (check, w2) = prepared(&table, widths, true);
        check.run_half(
            |round, x| half(round, &table, widths[1], &w2, x),
            |_, x, _| vec![Vec::new(); x.len()],
        );
    }
}
