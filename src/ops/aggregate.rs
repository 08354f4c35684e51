//! Aggregation of grouped vector attention: weights from the relation, then the weighted sum of values and positions.
//!
//! s = B ReLU(scale·e + shift) + b,  w = m ⊙ softmax_j(s),  u_ig = Σ_j w_ijg h_ij,
//! y_ic = Σ_j w_ij,g(c) v_jc + W2[c,:]·u_i,g(c) + b2_c Σ_j w_ij,g(c)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | e | [N·K, G] | relation |
//! | st | [2, G] | scale and shift of the norm over pairs |
//! | B, b | [G, G], [1, G] | second layer of the weight encoding |
//! | v | [N, C] | values |
//! | P, W2, b2 | [C, 4], [C, C], [1, C] | position bias, or left out |
//! | y | [N, C] | result |
//!
//! Missing slots (m = 0) take part in the softmax and count for nothing afterwards. Saves: w and the softmax.

use super::pairs::{Sizes, expect_shape};
use crate::device::random::Random;
use crate::device::{Device, parallel};
use crate::geometry::{MISSING, Neighbors};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use rayon::prelude::*;
use std::sync::Arc;

/// Inputs e, st, B, b, v and, with a position bias, P, W2, b2.
#[derive(Debug, Clone)]
pub struct Aggregate {
    /// The pairs.
    pub neighbors: Arc<Neighbors>,
    /// Number of groups.
    pub groups: usize,
    /// Dropout rate of the weights.
    pub rate: f32,
}

#[derive(Clone, Copy)]
struct Inputs<'a> {
    e: &'a [f32],
    st: &'a [f32],
    mix: &'a [f32],
    mix_bias: &'a [f32],
    v: &'a [f32],
    position: Option<[&'a [f32]; 3]>,
}

impl Aggregate {
    fn sizes(&self, inputs: &[Shape]) -> Result<Sizes> {
        let name = "aggregate";
        let (core, position) = match inputs {
            [a, b, c, d, e] => ([a, b, c, d, e], None),
            [a, b, c, d, e, p, w, t] => ([a, b, c, d, e], Some([p, w, t])),
            _ => return Err(Error::shape(name, "needs five or eight inputs")),
        };
        let [e, st, mix, mix_bias, v] = core.map(|s| *s);
        let sizes = Sizes::new(name, &self.neighbors, self.groups, v.cols)?;
        let (g, c) = (self.groups, v.cols);
        expect_shape(name, "e", e, Shape::new(self.neighbors.index.len(), g))?;
        expect_shape(name, "st", st, Shape::new(2, g))?;
        expect_shape(name, "B", mix, Shape::new(g, g))?;
        expect_shape(name, "b", mix_bias, Shape::new(1, g))?;
        expect_shape(name, "v", v, Shape::new(self.neighbors.points, c))?;
        if let Some([p, w, t]) = position {
            expect_shape(name, "P", *p, Shape::new(c, 4))?;
            expect_shape(name, "W2", *w, Shape::new(c, c))?;
            expect_shape(name, "b2", *t, Shape::new(1, c))?;
        }
        Ok(sizes)
    }

    fn factor(&self, random: Random, pair: usize, group: usize) -> f32 {
        if self.neighbors.index[pair] == MISSING {
            return 0.0;
        }
        if self.rate == 0.0 {
            return 1.0;
        }
        let index = (pair * self.groups + group) as u64;
        if random.uniform_f32(index) < self.rate {
            0.0
        } else {
            1.0 / (1.0 - self.rate)
        }
    }

    fn hidden(&self, position: &[f32], pair: usize, out: &mut [f32]) {
        let [x, y, z] = &self.neighbors.delta;
        for (h, p) in out.iter_mut().zip(position.chunks_exact(4)) {
            *h = (p[0] * x[pair] + p[1] * y[pair] + p[2] * z[pair] + p[3]).max(0.0);
        }
    }

    /// Softmax of the logits of point `i` into `p` [K, G].
    fn softmax(&self, inputs: Inputs<'_>, i: usize, p: &mut [f32]) {
        let (k, g) = (self.neighbors.k, self.groups);
        let (scale, shift) = inputs.st.split_at(g);
        for (j, row) in p.chunks_exact_mut(g).enumerate() {
            let e = &inputs.e[(i * k + j) * g..][..g];
            for (o, s) in row.iter_mut().enumerate() {
                let mix = &inputs.mix[o * g..][..g];
                let terms = (0..g).map(|h| mix[h] * (scale[h] * e[h] + shift[h]).max(0.0));
                *s = inputs.mix_bias[o] + terms.sum::<f32>();
            }
        }
        for group in 0..g {
            let top = (0..k)
                .map(|j| p[j * g + group])
                .fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for j in 0..k {
                p[j * g + group] = (p[j * g + group] - top).exp();
                sum += p[j * g + group];
            }
            (0..k).for_each(|j| p[j * g + group] /= sum);
        }
    }

    fn point(&self, inputs: Inputs<'_>, random: Random, i: usize, p: &mut [f32], y: &mut [f32]) {
        let (k, g, c) = (self.neighbors.k, self.groups, y.len());
        let width = c / g;
        self.softmax(inputs, i, p);
        y.fill(0.0);
        let mut u = vec![0.0; g * c];
        let mut h = vec![0.0; c];
        for j in 0..k {
            let pair = i * k + j;
            let row = self.neighbors.index[pair];
            if row == MISSING {
                continue;
            }
            if let Some([position, ..]) = inputs.position {
                self.hidden(position, pair, &mut h);
            }
            for group in 0..g {
                let w = p[j * g + group] * self.factor(random, pair, group);
                let range = group * width..(group + 1) * width;
                let v = &inputs.v[row as usize * c..][range.clone()];
                y[range.clone()]
                    .iter_mut()
                    .zip(v)
                    .for_each(|(y, v)| *y += w * v);
                if let Some([_, _, bias]) = inputs.position {
                    y[range.clone()]
                        .iter_mut()
                        .zip(&bias[range])
                        .for_each(|(y, b)| *y += w * b);
                    u[group * c..][..c]
                        .iter_mut()
                        .zip(&h)
                        .for_each(|(u, h)| *u += w * h);
                }
            }
        }
        if let Some([_, weight, _]) = inputs.position {
            for (ch, y) in y.iter_mut().enumerate() {
                let u = &u[ch / width * c..][..c];
                *y += weight[ch * c..][..c]
                    .iter()
                    .zip(u)
                    .map(|(w, u)| w * u)
                    .sum::<f32>();
            }
        }
    }
}

/// Gradients of one part: st, B, b, P, W2, b2 one after another.
struct Part<'a> {
    st: &'a mut [f32],
    mix: &'a mut [f32],
    mix_bias: &'a mut [f32],
    position: &'a mut [f32],
    weight: &'a mut [f32],
    bias: &'a mut [f32],
}

fn lengths(g: usize, c: usize) -> [usize; 6] {
    [2 * g, g * g, g, 4 * c, c * c, c]
}

impl<'a> Part<'a> {
    fn split(mut slot: &'a mut [f32], g: usize, c: usize) -> Self {
        let mut next = |words| {
            let (a, b) = std::mem::take(&mut slot).split_at_mut(words);
            slot = b;
            a
        };
        let l = lengths(g, c);
        Part {
            st: next(l[0]),
            mix: next(l[1]),
            mix_bias: next(l[2]),
            position: next(l[3]),
            weight: next(l[4]),
            bias: next(l[5]),
        }
    }
}

impl Aggregate {
    /// Gradients of point `i` with gradient `d_y`; `p` is its softmax, `d_e` its part of the relation's gradient.
    fn point_gradient(
        &self,
        (inputs, random, i): (Inputs<'_>, Random, usize),
        p: &[f32],
        d_y: &[f32],
        d_e: &mut [f32],
        part: &mut Part<'_>,
    ) {
        let (k, g, c) = (self.neighbors.k, self.groups, d_y.len());
        let width = c / g;
        let mut d_u = vec![0.0; g * c];
        let mut u = vec![0.0; g * c];
        let mut h = vec![0.0; k * c];
        let mut d_p = vec![0.0; k * g];
        let mut w = vec![0.0; k * g];
        for (slot, w) in w.iter_mut().enumerate() {
            *w = p[slot] * self.factor(random, i * k + slot / g, slot % g);
        }
        if let Some([position, weight, _]) = inputs.position {
            for (ch, d) in d_y.iter().enumerate() {
                let row = &weight[ch * c..][..c];
                d_u[ch / width * c..][..c]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(u, w)| *u += d * w);
            }
            for j in 0..k {
                self.hidden(position, i * k + j, &mut h[j * c..][..c]);
            }
        }
        for j in 0..k {
            let pair = i * k + j;
            let row = self.neighbors.index[pair];
            if row == MISSING {
                continue;
            }
            let h = &h[j * c..][..c];
            for group in 0..g {
                let range = group * width..(group + 1) * width;
                let v = &inputs.v[row as usize * c..][range.clone()];
                let d = &d_y[range.clone()];
                let mut d_w: f32 = v.iter().zip(d).map(|(v, d)| v * d).sum();
                if let Some([_, _, bias]) = inputs.position {
                    d_w += bias[range.clone()]
                        .iter()
                        .zip(d)
                        .map(|(b, d)| b * d)
                        .sum::<f32>();
                    d_w += d_u[group * c..][..c]
                        .iter()
                        .zip(h)
                        .map(|(u, h)| u * h)
                        .sum::<f32>();
                    let w = w[j * g + group];
                    u[group * c..][..c]
                        .iter_mut()
                        .zip(h)
                        .for_each(|(u, h)| *u += w * h);
                    part.bias[range]
                        .iter_mut()
                        .zip(d)
                        .for_each(|(b, d)| *b += w * d);
                }
                d_p[j * g + group] = d_w * self.factor(random, pair, group);
            }
        }
        if inputs.position.is_some() {
            self.position_gradient(i, &w, &d_u, &h, part);
            for (ch, d) in d_y.iter().enumerate() {
                let u = &u[ch / width * c..][..c];
                part.weight[ch * c..][..c]
                    .iter_mut()
                    .zip(u)
                    .for_each(|(w, u)| *w += d * u);
            }
        }
        self.logit_gradient(inputs, i, p, &mut d_p, d_e, part);
    }

    fn position_gradient(&self, i: usize, w: &[f32], d_u: &[f32], h: &[f32], part: &mut Part<'_>) {
        let (k, g) = (self.neighbors.k, self.groups);
        let c = d_u.len() / g;
        let [x, y, z] = &self.neighbors.delta;
        for j in 0..k {
            let pair = i * k + j;
            let place = [x[pair], y[pair], z[pair], 1.0];
            for ch in 0..c {
                if h[j * c + ch] > 0.0 {
                    let d: f32 = (0..g).map(|g_| w[j * g + g_] * d_u[g_ * c + ch]).sum();
                    let d_p = &mut part.position[4 * ch..][..4];
                    d_p.iter_mut().zip(place).for_each(|(d_p, p)| *d_p += d * p);
                }
            }
        }
    }

    fn logit_gradient(
        &self,
        inputs: Inputs<'_>,
        i: usize,
        p: &[f32],
        d_p: &mut [f32],
        d_e: &mut [f32],
        part: &mut Part<'_>,
    ) {
        let (k, g) = (self.neighbors.k, self.groups);
        let (scale, shift) = inputs.st.split_at(g);
        for group in 0..g {
            let dot: f32 = (0..k).map(|j| p[j * g + group] * d_p[j * g + group]).sum();
            for j in 0..k {
                let slot = j * g + group;
                d_p[slot] = p[slot] * (d_p[slot] - dot);
            }
        }
        for j in 0..k {
            let d_s = &d_p[j * g..][..g];
            let e = &inputs.e[(i * k + j) * g..][..g];
            for h in 0..g {
                let z = scale[h] * e[h] + shift[h];
                let r = z.max(0.0);
                let mut d_r = 0.0;
                for o in 0..g {
                    part.mix[o * g + h] += d_s[o] * r;
                    d_r += d_s[o] * inputs.mix[o * g + h];
                }
                part.mix_bias[h] += d_s[h];
                if z > 0.0 {
                    part.st[h] += d_r * e[h];
                    part.st[g + h] += d_r;
                    d_e[j * g + h] += d_r * scale[h];
                }
            }
        }
    }
}

fn gather<'a>(io: impl Fn(usize) -> &'a [f32], has_position: bool) -> Inputs<'a> {
    Inputs {
        e: io(0),
        st: io(1),
        mix: io(2),
        mix_bias: io(3),
        v: io(4),
        position: has_position.then(|| [io(5), io(6), io(7)]),
    }
}

impl Op for Aggregate {
    fn name(&self) -> &'static str {
        "aggregate"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let sizes = self.sizes(inputs)?;
        let (g, c) = (self.groups, sizes.channels);
        let size: usize = lengths(g, c).iter().sum();
        Ok(Plan {
            saved: vec![self.neighbors.index.len() * g],
            forward_scratch: self.neighbors.index.len() * g,
            backward_scratch: parallel::PARTIALS * size + self.neighbors.index.len() * g,
            reads_inputs: (0..inputs.len()).collect(),
            ..Plan::of(Shape::new(self.neighbors.queries, c))
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let (c, row) = (io.shape(4).cols, self.neighbors.k * self.groups);
        let has_position = io.has_input(5);
        match io.device() {
            Device::Cpu => {
                let inputs = gather(|i| io.input(i), has_position);
                let random = io.random();
                let p = if io.saves() {
                    io.saved(0)
                } else {
                    io.scratch()
                };
                let y = io.output(0);
                p.par_chunks_mut(row)
                    .zip(y.par_chunks_mut(c))
                    .enumerate()
                    .for_each(|(i, (p, y))| self.point(inputs, random, i, p, y));
            }
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let Some(d_y) = io.d_output(0) else {
            return Ok(());
        };
        let (c, g, k) = (io.shape(4).cols, self.groups, self.neighbors.k);
        let row = k * g;
        let has_position = io.has_input(5);
        let inputs = gather(|i| io.input(i), has_position);
        let (p, random) = (io.saved(0), io.random());
        let size: usize = lengths(g, c).iter().sum();
        let (partials, d_e) = io.scratch().split_at_mut(parallel::PARTIALS * size);
        d_e.fill(0.0);
        let points = self.neighbors.queries;
        let range = |part| parallel::part(points, parallel::PARTIALS, 1, part);
        let mut rest = &mut *d_e;
        let mut tasks = Vec::new();
        for (part, slot) in partials.chunks_exact_mut(size).enumerate() {
            let (own, left) = std::mem::take(&mut rest).split_at_mut(range(part).len() * row);
            rest = left;
            tasks.push((range(part), slot, own));
        }
        tasks.into_par_iter().for_each(|(range, slot, d_e)| {
            slot.fill(0.0);
            let mut part = Part::split(slot, g, c);
            for (i, d_e) in range.zip(d_e.chunks_exact_mut(row)) {
                let (p, d_y) = (&p[i * row..][..row], &d_y[i * c..][..c]);
                self.point_gradient((inputs, random, i), p, d_y, d_e, &mut part);
            }
        });
        if let Some(d) = io.d_input(0) {
            d.iter_mut().zip(&*d_e).for_each(|(d, x)| *d += x);
        }
        if let Some(d_v) = io.d_input(4) {
            let width = c / g;
            let lists = self.neighbors.transposed();
            parallel::for_each_rows(d_v, c, 64, |first, rows| {
                for (j, d_v) in rows.chunks_exact_mut(c).enumerate() {
                    for &pair in lists.list(first + j) {
                        let pair = pair as usize;
                        let d_y = &d_y[pair / k * c..][..c];
                        for (ch, (d, y)) in d_v.iter_mut().zip(d_y).enumerate() {
                            let group = ch / width;
                            *d += p[pair * g + group] * self.factor(random, pair, group) * y;
                        }
                    }
                }
            });
        }
        let mut first = 0;
        for (input, words) in [1, 2, 3, 5, 6, 7].into_iter().zip(lengths(g, c)) {
            if io.has_input(input)
                && let Some(d) = io.d_input(input)
            {
                for slot in partials.chunks_exact(size) {
                    d.iter_mut()
                        .zip(&slot[first..first + words])
                        .for_each(|(d, x)| *d += x);
                }
            }
            first += words;
        }
        Ok(())
    }
}
