use super::*;
use crate::graph::check::{Check, Round};
use crate::ops::pairs::fixtures::{Table, WIDTHS, case, tables};

fn naive(table: &Table, groups: usize, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (constant, bias) = match x {
        [_, _, p, m, c] | [_, _, p, m, c, _] => (c, Some((p, m))),
        [_, _, c] => (c, None),
        _ => panic!("three, five or six inputs"),
    };
    let mut e = vec![0.0; table.pairs() * groups];
    for (pair, e) in e.chunks_exact_mut(groups).enumerate() {
        let h = bias.map(|(p, _)| table.hidden_at(p, pair, x.get(5)));
        for (g, e) in e.iter_mut().enumerate() {
            let query = pair / table.neighbors.k * groups + g;
            *e = constant[g] - x[1][query];
            *e += table.row(pair).map_or(0.0, |j| x[0][j * groups + g]);
            if let (Some(h), Some((_, m))) = (&h, bias) {
                let m = &m[g * h.len()..];
                *e += h.iter().zip(m).map(|(h, m)| h * m).sum::<f64>();
            }
        }
    }
    vec![e]
}

fn check(table: &Table, [channels, groups]: [usize; 2], has_bias: bool) {
    check_with(table, [channels, groups], has_bias, false);
}

fn check_with(table: &Table, [channels, groups]: [usize; 2], has_bias: bool, has_offsets: bool) {
    let points = table.points();
    let neighbors = table.neighbors.clone();
    let mut check = Check::new(Relation { neighbors })
        .input(points, groups)
        .input(points, groups);
    if has_bias {
        check = check.input(channels, 4).input(groups, channels);
    }
    check = check.input(1, groups);
    if has_offsets {
        let (shape, values) = table.offsets();
        check = check.input_values(shape, values);
    }
    check.run(|x| naive(table, groups, x));
}

#[test]
fn matches_naive_with_a_gradient_of_the_offsets() {
    for widths in WIDTHS {
        check_with(&case(16, widths).0, widths, true, true);
    }
    for table in tables() {
        check_with(&table, [24, 6], true, true);
    }
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
        check(&table, [6, 6], false);
    }
}

#[test]
fn shapes_that_differ_are_rejected() {
    let (table, _) = case(5, [24, 6]);
    let neighbors = table.neighbors;
    let op = Relation { neighbors };
    let (rows, one) = (Shape::new(37, 6), Shape::new(1, 6));
    let (p, m) = (Shape::new(24, 4), Shape::new(6, 24));
    assert!(op.plan(&[rows, rows, p, m, one]).is_ok());
    assert!(op.plan(&[rows, rows, m, p, one]).is_err());
    assert!(op.plan(&[rows, Shape::new(36, 6), p, m, one]).is_err());
    assert!(
        op.plan(&[rows, rows, Shape::new(25, 4), Shape::new(6, 25), one])
            .is_err()
    );
    assert!(op.plan(&[rows, rows, one, one]).is_err());
}

/// With a position bias, of rounded operands.
fn half(round: Round, table: &Table, groups: usize, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut e = Vec::new();
    for pair in 0..table.pairs() {
        let h = table.hidden(&x[2], pair);
        e.extend((0..groups).map(|g| {
            let m = &x[3][g * h.len()..];
            let product: f64 = h.iter().zip(m).map(|(h, m)| round(*h) * round(*m)).sum();
            let key = table.row(pair).map_or(0.0, |j| x[0][j * groups + g]);
            x[4][g] - x[1][pair / table.neighbors.k * groups + g] + key + product
        }));
    }
    vec![e]
}

fn half_backward(
    round: Round,
    table: &Table,
    groups: usize,
    x: &[Vec<f64>],
    d_e: &[f64],
) -> Vec<Vec<f64>> {
    let mut d: Vec<Vec<f64>> = x.iter().map(|x| vec![0.0; x.len()]).collect();
    for pair in 0..table.pairs() {
        let h = table.hidden(&x[2], pair);
        let own = &d_e[pair * groups..][..groups];
        for (g, d_e) in own.iter().enumerate() {
            if let Some(row) = table.row(pair) {
                d[0][row * groups + g] += d_e;
            }
            d[1][pair / table.neighbors.k * groups + g] -= d_e;
            d[4][g] += d_e;
            for (c, h) in h.iter().enumerate() {
                d[3][g * x[2].len() / 4 + c] += round(*d_e) * round(*h);
            }
        }
        for c in (0..h.len()).filter(|c| h[*c] > 0.0) {
            let m = |g: usize| round(x[3][g * h.len() + c]);
            let d_h: f64 = (0..groups).map(|g| round(own[g]) * m(g)).sum();
            (0..3).for_each(|a| d[2][4 * c + a] += d_h * table.delta(pair, a));
            d[2][4 * c + 3] += d_h;
        }
    }
    d
}

#[test]
fn half_precision_rounds_the_operands_of_products() {
    for (k, [channels, groups]) in [(16, [24, 6]), (5, [48, 6]), (17, [10, 5]), (16, [64, 2])] {
        let (table, _) = case(k, [channels, groups]);
        let (points, neighbors) = (table.points(), table.neighbors.clone());
        Check::new(Relation { neighbors })
            .input(points, groups)
            .input(points, groups)
            .input(channels, 4)
            .input(groups, channels)
            .input(1, groups)
            .run_half(
                |round, x| half(round, &table, groups, x),
                |round, x, d_e| half_backward(round, &table, groups, x, d_e),
            );
    }
}
