use super::super::pairs::fixtures::{Table, tables};
use super::*;
use crate::graph::check::Check;

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
