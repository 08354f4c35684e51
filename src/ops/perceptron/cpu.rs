//! Both layers on the host, a chunk of rows at a time.

use super::super::gelu;
use super::super::linear::{
    ADD, Linear, add_bias_gradient, add_column_sums, add_few_rows_gradient, add_weight_gradient,
};
use super::super::pairs::Partials;
use super::Sizes;
use crate::device::gemm::{Finish, Panels, View, ViewMut};
use crate::device::parallel;
use crate::device::workspace::{carve, padded, with_workspace};
use crate::graph::{Backward, Forward};
use rayon::prelude::*;

/// Hidden values of a chunk of rows: they stay in the second-level cache.
const HIDDEN: usize = 1 << 16;

/// Rows of a chunk: small enough for every thread to get some.
fn chunk(rows: usize, hidden: usize) -> usize {
    let most = (HIDDEN / hidden.max(1)).clamp(32, 256);
    rows.div_ceil(16).next_multiple_of(16).clamp(32, most)
}

pub(super) fn forward(io: &mut Forward<'_>) {
    let sizes = Sizes::new(|i| io.shape(i));
    let Sizes {
        rows,
        inputs,
        hidden,
        outputs,
    } = sizes;
    let [x, w1, b1, w2, b2] = [0, 1, 2, 3, 4].map(|i| io.input(i));
    let (first, second) = io.scratch().split_at_mut(sizes.forward_panels()[0]);
    let first = Panels::pack(View::new(w1, hidden, inputs).transposed(), first);
    let second = Panels::pack(View::new(w2, outputs, hidden).transposed(), second);
    let with = |bias| Finish {
        bias: Some(bias),
        ..Finish::default()
    };
    parallel::for_each_rows(io.output(0), outputs, chunk(rows, hidden), |start, y| {
        let rows = y.len() / outputs;
        with_workspace(rows * hidden, |h| {
            let x = View::new(&x[start * inputs..], rows, inputs);
            first.product(ViewMut::new(h, rows, hidden), x, with(b1));
            gelu::gate(h);
            let y = ViewMut::new(y, rows, outputs);
            second.product(y, View::new(h, rows, hidden), with(b2));
        });
    });
}

/// What backward reads, weights packed.
#[derive(Clone, Copy)]
struct Given<'a> {
    sizes: Sizes,
    x: &'a [f32],
    d_y: &'a [f32],
    b1: &'a [f32],
    /// W1ᵀ, W2, W1
    panels: [Panels<'a>; 3],
}

impl Given<'_> {
    /// h and dz of some rows from `start` on, as many as there is room for.
    fn hidden(&self, start: usize, h: &mut [f32], d_z: &mut [f32]) {
        let Sizes {
            inputs,
            hidden,
            outputs,
            ..
        } = self.sizes;
        let rows = h.len() / hidden;
        let x = View::new(&self.x[start * inputs..], rows, inputs);
        let finish = Finish {
            bias: Some(self.b1),
            ..Finish::default()
        };
        self.panels[0].product(ViewMut::new(h, rows, hidden), x, finish);
        let d_y = View::new(&self.d_y[start * outputs..], rows, outputs);
        self.panels[1].product(ViewMut::new(d_z, rows, hidden), d_y, Finish::default());
        gelu::gate_and_gradient(h, d_z);
    }

    /// dx += dz W1 for some rows.
    fn add_to_input(&self, d_z: &[f32], d_x: &mut [f32]) {
        let Sizes { inputs, hidden, .. } = self.sizes;
        let rows = d_x.len() / inputs;
        let d_z = View::new(d_z, rows, hidden);
        self.panels[2].product(ViewMut::new(d_x, rows, inputs), d_z, ADD);
    }
}

pub(super) fn backward(io: &mut Backward<'_>) {
    let Some(d_y) = io.d_output(0) else { return };
    let sizes = Sizes::new(|i| io.shape(i));
    let Sizes {
        rows,
        inputs,
        hidden,
        outputs,
    } = sizes;
    let [x, w1, b1, w2] = [0, 1, 2, 3].map(|i| io.input(i));
    let (w1, w2) = (
        View::new(w1, hidden, inputs),
        View::new(w2, outputs, hidden),
    );
    let words = sizes.backward_panels();
    let (first, rest) = io.scratch().split_at_mut(words[0]);
    let (second, rest) = rest.split_at_mut(words[1]);
    let (third, scratch) = rest.split_at_mut(words[2]);
    let panels = [
        Panels::pack(w1.transposed(), first),
        Panels::pack(w2, second),
        Panels::pack(w1, third),
    ];
    let given = Given {
        sizes,
        x,
        d_y,
        b1,
        panels,
    };
    match Linear::parts(rows) {
        0 => few_rows(given, io, scratch),
        parts => many_rows(given, io, parts, scratch),
    }
}

/// Every part adds up gradients of its own, a chunk of rows at a time.
fn many_rows(given: Given<'_>, io: &mut Backward<'_>, parts: usize, scratch: &mut [f32]) {
    let Sizes {
        rows,
        inputs,
        hidden,
        outputs,
    } = given.sizes;
    let words = given.sizes.gradients();
    let mut partials = Partials::new(scratch, parts, words.iter().sum());
    let d_x = io.d_input(0).unwrap_or(&mut []);
    let step = chunk(rows, hidden);
    partials.for_each(rows, 1, (d_x, inputs), |range, partial, d_x| {
        let (d_w1, rest) = partial.split_at_mut(words[0]);
        let (d_w2, rest) = rest.split_at_mut(words[1]);
        let (d_b1, d_b2) = rest.split_at_mut(words[2]);
        with_workspace(2 * padded(step * hidden), |mut rest| {
            let h = carve(&mut rest, step * hidden);
            let d_z = carve(&mut rest, step * hidden);
            for start in range.clone().step_by(step) {
                let rows = step.min(range.end - start);
                let (h, d_z) = (&mut h[..rows * hidden], &mut d_z[..rows * hidden]);
                given.hidden(start, h, d_z);
                let from = (start - range.start) * inputs;
                if let Some(d_x) = d_x.get_mut(from..from + rows * inputs) {
                    given.add_to_input(d_z, d_x);
                }
                let x = &given.x[start * inputs..(start + rows) * inputs];
                let d_y = &given.d_y[start * outputs..(start + rows) * outputs];
                add_column_sums(d_z, d_b1);
                add_column_sums(d_y, d_b2);
                add_weight_gradient(d_w1, View::new(d_z, rows, hidden), (x, inputs));
                add_weight_gradient(d_w2, View::new(d_y, rows, outputs), (h, hidden));
            }
        });
    });
    let mut first = 0;
    for (input, words) in [1, 3, 2, 4].into_iter().zip(words) {
        if let Some(gradient) = io.d_input(input) {
            partials.add_to(first, gradient);
        }
        first += words;
    }
}

/// Parts would have more gradients than rows: h and dz are written down, and threads share out the rows of the weights.
fn few_rows(given: Given<'_>, io: &mut Backward<'_>, scratch: &mut [f32]) {
    let Sizes {
        rows,
        inputs,
        hidden,
        outputs,
    } = given.sizes;
    let (h, rest) = scratch.split_at_mut(rows * hidden);
    let (d_z, sums) = rest.split_at_mut(rows * hidden);
    let step = chunk(rows, hidden);
    let words = (step * hidden).max(1);
    let chunks = h.par_chunks_mut(words).zip(d_z.par_chunks_mut(words));
    chunks
        .enumerate()
        .for_each(|(at, (h, d_z))| given.hidden(at * step, h, d_z));
    let (h, d_z) = (&*h, &*d_z);
    if let Some(d_x) = io.d_input(0) {
        parallel::for_each_rows(d_x, inputs, step, |first, d_x| {
            given.add_to_input(&d_z[first * hidden..], d_x);
        });
    }
    if let Some(d_w1) = io.d_input(1) {
        add_few_rows_gradient(d_w1, (d_z, hidden), (given.x, inputs));
    }
    if let Some(d_b1) = io.d_input(2) {
        add_bias_gradient(d_b1, d_z, sums);
    }
    if let Some(d_w2) = io.d_input(3) {
        add_few_rows_gradient(d_w2, (given.d_y, outputs), (h, hidden));
    }
    if let Some(d_b2) = io.d_input(4) {
        add_bias_gradient(d_b2, given.d_y, sums);
    }
}
