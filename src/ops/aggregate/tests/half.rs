//! The op in half precision: what is multiplied with what, in f64.

use super::{case, prepared};
use crate::graph::check::Round;
use crate::ops::pairs::fixtures::Table;

/// The op as its kernels compute it, with operands of products rounded.
struct Twin<'a> {
    round: Round,
    table: &'a Table,
    groups: usize,
    x: &'a [Vec<f64>],
}

impl Twin<'_> {
    fn channels(&self) -> usize {
        self.x[7].len()
    }

    fn pairs_of(&self, point: usize) -> std::ops::Range<usize> {
        let k = self.table.neighbors.k;
        point * k..(point + 1) * k
    }

    /// Rounded.
    fn r(&self, x: f64) -> f64 {
        (self.round)(x)
    }

    /// ReLU(scale e + shift) of a pair.
    fn norm(&self, pair: usize, f: usize) -> f64 {
        let (e, st) = (&self.x[0], &self.x[1]);
        (st[f] * e[pair * self.groups + f] + st[self.groups + f]).max(0.0)
    }

    /// Softmax over all slots, and what is left of it where neighbours are missing.
    fn weights(&self) -> [Vec<f64>; 2] {
        let (groups, mix) = (self.groups, &self.x[2]);
        let logit = |pair: usize, g: usize| {
            let terms =
                (0..groups).map(|f| self.r(mix[g * groups + f]) * self.r(self.norm(pair, f)));
            (self.x[3][g] + terms.sum::<f64>()).exp()
        };
        let mut soft: Vec<f64> = (0..self.table.pairs() * groups)
            .map(|at| logit(at / groups, at % groups))
            .collect();
        for point in 0..self.table.points() {
            for g in 0..groups {
                let sum: f64 = self
                    .pairs_of(point)
                    .map(|pair| soft[pair * groups + g])
                    .sum();
                self.pairs_of(point)
                    .for_each(|pair| soft[pair * groups + g] /= sum);
            }
        }
        let there = |at: usize| f64::from(u8::from(self.table.row(at / groups).is_some()));
        let kept = soft
            .iter()
            .enumerate()
            .map(|(at, s)| s * there(at))
            .collect();
        [soft, kept]
    }

    /// h of the pairs of a point.
    fn hidden(&self, point: usize) -> Vec<Vec<f64>> {
        let pairs = self.pairs_of(point);
        pairs.map(|p| self.table.hidden(&self.x[5], p)).collect()
    }

    /// u of a point and group, whose pairs have `hidden`.
    fn sums(&self, w: &[f64], point: usize, g: usize, hidden: &[Vec<f64>]) -> Vec<f64> {
        let mut u = vec![0.0; self.channels()];
        for (pair, h) in self.pairs_of(point).zip(hidden) {
            let w = self.r(w[pair * self.groups + g]);
            for (u, h) in u.iter_mut().zip(h) {
                *u += w * self.r(*h);
            }
        }
        u
    }

    fn forward(&self) -> Vec<Vec<f64>> {
        let (channels, [_, w]) = (self.channels(), self.weights());
        let mut y = vec![0.0; self.table.points() * channels];
        for point in 0..self.table.points() {
            let hidden = self.hidden(point);
            let u: Vec<Vec<f64>> = (0..self.groups)
                .map(|g| self.sums(&w, point, g, &hidden))
                .collect();
            for c in 0..channels {
                let g = c / (channels / self.groups);
                let y = &mut y[point * channels + c];
                for pair in self.pairs_of(point) {
                    let Some(row) = self.table.row(pair) else {
                        continue;
                    };
                    *y +=
                        w[pair * self.groups + g] * (self.x[4][row * channels + c] + self.x[7][c]);
                }
                let w2 = &self.x[6][c * channels..];
                *y += u[g]
                    .iter()
                    .zip(w2)
                    .map(|(u, w)| self.r(*u) * self.r(*w))
                    .sum::<f64>();
            }
        }
        vec![y]
    }

    fn backward(&self, d_y: &[f64]) -> Vec<Vec<f64>> {
        let (channels, [soft, w]) = (self.channels(), self.weights());
        let (groups, width) = (self.groups, channels / self.groups);
        let mut d: Vec<Vec<f64>> = self.x.iter().map(|x| vec![0.0; x.len()]).collect();
        let mut d_w = vec![0.0; soft.len()];
        for (point, d_y) in d_y.chunks_exact(channels).enumerate() {
            let mut d_h = vec![0.0; self.table.neighbors.k * channels];
            let hidden = self.hidden(point);
            for g in 0..groups {
                let own = g * width..(g + 1) * width;
                let u = self.sums(&w, point, g, &hidden);
                let w2 =
                    |c: usize, of: usize| self.r(d_y[c]) * self.r(self.x[6][c * channels + of]);
                let d_u: Vec<f64> = (0..channels)
                    .map(|of| own.clone().map(|c| w2(c, of)).sum())
                    .collect();
                for (c, of) in own
                    .clone()
                    .flat_map(|c| (0..channels).map(move |of| (c, of)))
                {
                    d[6][c * channels + of] += self.r(d_y[c]) * self.r(u[of]);
                }
                for (j, pair) in self.pairs_of(point).enumerate() {
                    let Some(row) = self.table.row(pair) else {
                        continue;
                    };
                    let (at, h) = (pair * groups + g, &hidden[j]);
                    for c in own.clone() {
                        d[4][row * channels + c] += w[at] * d_y[c];
                        d[7][c] += w[at] * d_y[c];
                        d_w[at] += d_y[c] * (self.x[4][row * channels + c] + self.x[7][c]);
                    }
                    for of in 0..channels {
                        d_w[at] += self.r(h[of]) * self.r(d_u[of]);
                        d_h[j * channels + of] += self.r(w[at]) * self.r(d_u[of]);
                    }
                }
            }
            self.position(point, &hidden, &d_h, &mut d[5]);
        }
        self.encoding([&soft, &d_w], &mut d);
        d
    }

    /// Through the hidden layer of a point's pairs.
    fn position(&self, point: usize, hidden: &[Vec<f64>], d_h: &[f64], d_position: &mut [f64]) {
        let d_h = d_h.chunks_exact(self.channels());
        for ((pair, h), d_h) in self.pairs_of(point).zip(hidden).zip(d_h) {
            for c in (0..h.len()).filter(|c| h[*c] > 0.0) {
                (0..3).for_each(|a| d_position[4 * c + a] += d_h[c] * self.table.delta(pair, a));
                d_position[4 * c + 3] += d_h[c];
            }
        }
    }

    /// Through the softmax, B, the ReLU and the norm.
    fn encoding(&self, [soft, d_w]: [&[f64]; 2], d: &mut [Vec<f64>]) {
        let groups = self.groups;
        for pair in 0..self.table.pairs() {
            let all = self.pairs_of(pair / self.table.neighbors.k);
            let d_s: Vec<f64> = (0..groups)
                .map(|g| {
                    let of = |pair: usize| soft[pair * groups + g] * d_w[pair * groups + g];
                    let at = pair * groups + g;
                    soft[at] * (d_w[at] - all.clone().map(of).sum::<f64>())
                })
                .collect();
            for f in 0..groups {
                let (at, norm) = (pair * groups + f, self.norm(pair, f));
                d[3][f] += d_s[f];
                for g in 0..groups {
                    d[2][g * groups + f] += self.r(d_s[g]) * self.r(norm);
                }
                let mix = |g: usize| self.r(d_s[g]) * self.r(self.x[2][g * groups + f]);
                let d_norm: f64 = (0..groups).map(mix).sum();
                if norm > 0.0 {
                    d[0][at] += self.x[1][f] * d_norm;
                    d[1][f] += self.x[0][at] * d_norm;
                    d[1][groups + f] += d_norm;
                }
            }
        }
    }
}

#[test]
fn half_precision_rounds_the_operands_of_products() {
    for (k, widths) in [(16, [24, 6]), (5, [24, 4]), (17, [10, 5]), (16, [64, 2])] {
        let (table, _) = case(k, widths);
        let twin = |round, x: &[Vec<f64>], run: &dyn Fn(Twin<'_>) -> Vec<Vec<f64>>| {
            let (table, groups) = (&table, widths[1]);
            run(Twin {
                round,
                table,
                groups,
                x,
            })
        };
        // Weights, u and the gradient of s are operands, too: a kernel rounds what it has in f32, the twin what it has in
        // f64, and beside the middle of two halves one of a thousand goes another way. Softmax's backward, a difference
        // of near numbers, makes that larger.
        let check = prepared(&table, widths, true, 0.0).limits(5e-5, 1e-4);
        check.run_half(
            |round, x| twin(round, x, &|t| t.forward()),
            |round, x, d_y| twin(round, x, &|t| t.backward(d_y)),
        );
    }
}
