use super::super::pairs::fixtures::{Table, tables};
use super::*;
use crate::graph::check::{Check, Round};

fn naive(table: &Table, x: &[Vec<f64>], c: usize, g: usize) -> Vec<f64> {
    let k = table.neighbors.k;
    let mut e = Vec::new();
    for pair in 0..table.pairs() {
        let h = table.hidden_at(&x[2], pair, x.get(6));
        let relation: Vec<f64> = (0..c)
            .map(|ch| {
                let factor: f64 = (0..c).map(|l| x[3][ch * c + l] * h[l]).sum();
                let key = table.row(pair).map_or(0.0, |row| x[0][row * c + ch]);
                (key - x[1][pair / k * c + ch]) * (factor + x[4][ch])
            })
            .collect();
        e.extend((0..g).map(|g| {
            (0..c)
                .map(|ch| x[5][g * c + ch] * relation[ch])
                .sum::<f64>()
        }));
    }
    e
}

#[test]
fn matches_naive() {
    for (table, [c, g]) in tables()
        .into_iter()
        .zip([[12, 3], [6, 6], [8, 4]].into_iter().cycle())
    {
        let n = table.points();
        let op = RelationMultiplier {
            neighbors: table.neighbors.clone(),
        };
        let (shape, values) = table.offsets();
        let check = || {
            Check::new(op.clone())
                .input(n, c)
                .input(n, c)
                .input(c, 4)
                .input(c, c)
                .input(1, c)
                .input(g, c)
        };
        check().run(|x| vec![naive(&table, x, c, g)]);
        let check = check().input_values(shape, values);
        check.run(|x| vec![naive(&table, x, c, g)]);
    }
}

/// Hidden layer, factor and relation of a pair, with operands of products rounded.
fn half_pair(round: Round, table: &Table, x: &[Vec<f64>], pair: usize) -> [Vec<f64>; 3] {
    let h = table.hidden(&x[2], pair);
    let c = h.len();
    let factor = |ch: usize| {
        let terms = (0..c).map(|l| round(x[3][ch * c + l]) * round(h[l]));
        terms.sum::<f64>() + x[4][ch]
    };
    let factor: Vec<f64> = (0..c).map(factor).collect();
    let relation = (0..c).map(|ch| difference(table, x, pair, ch) * factor[ch]);
    [h.clone(), factor.clone(), relation.collect()]
}

/// k − q of a pair.
fn difference(table: &Table, x: &[Vec<f64>], pair: usize, ch: usize) -> f64 {
    let c = x[4].len();
    let key = table.row(pair).map_or(0.0, |row| x[0][row * c + ch]);
    key - x[1][pair / table.neighbors.k * c + ch]
}

fn half(round: Round, table: &Table, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (c, mut e) = (x[4].len(), Vec::new());
    for pair in 0..table.pairs() {
        let [_, _, r] = half_pair(round, table, x, pair);
        let rows = x[5].chunks_exact(c);
        e.extend(rows.map(|a| {
            a.iter()
                .zip(&r)
                .map(|(a, r)| round(*a) * round(*r))
                .sum::<f64>()
        }));
    }
    vec![e]
}

fn half_backward(round: Round, table: &Table, x: &[Vec<f64>], d_e: &[f64]) -> Vec<Vec<f64>> {
    let c = x[4].len();
    let g = x[5].len() / c;
    let mut d: Vec<Vec<f64>> = x.iter().map(|x| vec![0.0; x.len()]).collect();
    for (pair, d_e) in d_e.chunks_exact(g).enumerate() {
        let [h, factor, r] = half_pair(round, table, x, pair);
        let mut d_h = vec![0.0; c];
        for ch in 0..c {
            let d_r: f64 = (0..g)
                .map(|g| round(d_e[g]) * round(x[5][g * c + ch]))
                .sum();
            (0..g).for_each(|g| d[5][g * c + ch] += round(d_e[g]) * round(r[ch]));
            if let Some(row) = table.row(pair) {
                d[0][row * c + ch] += d_r * factor[ch];
            }
            d[1][pair / table.neighbors.k * c + ch] -= d_r * factor[ch];
            let d_f = d_r * difference(table, x, pair, ch);
            d[4][ch] += d_f;
            for l in 0..c {
                d[3][ch * c + l] += round(d_f) * round(h[l]);
                d_h[l] += round(d_f) * round(x[3][ch * c + l]);
            }
        }
        for l in (0..c).filter(|l| h[*l] > 0.0) {
            (0..3).for_each(|a| d[2][4 * l + a] += d_h[l] * table.delta(pair, a));
            d[2][4 * l + 3] += d_h[l];
        }
    }
    d
}

#[test]
fn half_precision_rounds_the_operands_of_products() {
    let (table, c, g) = (Table::new(&[30, 0, 7], 5), 12, 3);
    let n = table.points();
    let neighbors = table.neighbors.clone();
    Check::new(RelationMultiplier { neighbors })
        .input(n, c)
        .input(n, c)
        .input(c, 4)
        .input(c, c)
        .input(1, c)
        .input(g, c)
        .run_half(
            |round, x| half(round, &table, x),
            |round, x, d_e| half_backward(round, &table, x, d_e),
        );
}
