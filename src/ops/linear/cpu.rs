//! Forward and backward on the host: Wᵀ or W packed once; sums over rows lie as the crate's product wants them.

use super::{Epilogue, Linear};
use crate::device::gemm::{Finish, Panels, Store, View, ViewMut, product};
use crate::device::parallel;
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::graph::{Backward, Forward};

/// Rows of one parallel chunk: small enough for every thread to get some, few enough for input and output to stay in
/// the second-level cache.
fn chunk(rows: usize) -> usize {
    rows.div_ceil(16).next_multiple_of(16).clamp(32, 256)
}

/// The result is added to what is there.
pub(in super::super) const ADD: Finish<'_> = Finish {
    bias: None,
    residual: None,
    relu: false,
    add: true,
};

/// d_w += d_zᵀ · x for `d_z`, some columns of n rows, and x [n, `inputs`].
pub(in super::super) fn add_weight_gradient(
    d_w: &mut [f32],
    d_z: View<'_>,
    (x, inputs): (&[f32], usize),
) {
    let (n, outputs) = d_z.shape();
    let d_w = ViewMut::new(d_w, outputs, inputs);
    product(d_w, d_z.transposed(), View::new(x, n, inputs), Store::Add);
}

/// d_w += d_zᵀ · x where threads share out the rows of d_w, of matrices with `outputs` and `inputs` columns.
pub(in super::super) fn add_few_rows_gradient(
    d_w: &mut [f32],
    (d_z, outputs): (&[f32], usize),
    (x, inputs): (&[f32], usize),
) {
    let tile = outputs.div_ceil(8).next_multiple_of(16);
    parallel::for_each_rows(d_w, inputs, tile, |first, d_w| {
        let shape = [d_z.len() / outputs, d_w.len() / inputs];
        let d_z = View::strided(d_z.get(first..).unwrap_or_default(), shape, [outputs, 1]);
        add_weight_gradient(d_w, d_z, (x, inputs));
    });
}

/// d_b += Σ d_z; `scratch` holds [`parallel::PARTIALS`] times as many values as d_b.
pub(in super::super) fn add_bias_gradient(d_b: &mut [f32], d_z: &[f32], scratch: &mut [f32]) {
    let outputs = d_b.len();
    let partials = &mut scratch[..parallel::PARTIALS * outputs];
    let rows = d_z.len() / outputs.max(1);
    parallel::for_each_partial(rows, 1, partials, outputs, |range, sums| {
        add_column_sums(&d_z[range.start * outputs..range.end * outputs], sums);
    });
    parallel::add_partials(partials, outputs, d_b);
}

/// Adds the sum over `rows` to `sums`.
pub(in super::super) fn add_column_sums(rows: &[f32], sums: &mut [f32]) {
    dispatch(ColumnSums { rows, sums });
}

struct ColumnSums<'a> {
    rows: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for row in self.rows.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
    }
}

impl Linear {
    pub(super) fn cpu_forward(&self, io: &mut Forward<'_>) {
        let (rows, inputs, outputs) = (io.shape(0).rows, io.shape(0).cols, io.shape(1).rows);
        let (x, w) = (io.input(0), io.input(1));
        let bias = self.bias.then(|| io.input(2));
        let residual = self.residual().map(|r| io.input(r));
        let w = View::new(w, outputs, inputs).transposed();
        let panels = Panels::pack(w, io.scratch());
        parallel::for_each_rows(io.output(0), outputs, chunk(rows), |first, y| {
            let rows = y.len() / outputs;
            let finish = Finish {
                bias,
                residual: residual.map(|r| &r[first * outputs..]),
                relu: self.epilogue != Epilogue::Nothing,
                add: false,
            };
            let x = View::new(&x[first * inputs..], rows, inputs);
            let y = ViewMut::new(y, rows, outputs);
            panels.product(y, x, finish);
        });
    }

    pub(super) fn cpu_backward(&self, io: &mut Backward<'_>) {
        let Some(d_y) = io.d_output(0) else { return };
        let (n, inputs, outputs) = (io.shape(0).rows, io.shape(0).cols, io.shape(1).rows);
        let (panels, scratch) = io.scratch().split_at_mut(Panels::words(outputs, inputs));
        let (masked, partials) = match self.epilogue {
            Epilogue::Nothing => scratch.split_at_mut(0),
            _ => scratch.split_at_mut(n * outputs),
        };
        if self.epilogue != Epilogue::Nothing {
            let y = io.output(0);
            parallel::for_each_rows(masked, 1, 1 << 14, |first, part| {
                let pairs = y[first..].iter().zip(&d_y[first..]);
                for (d, (y, d_y)) in part.iter_mut().zip(pairs) {
                    *d = if *y > 0.0 { *d_y } else { 0.0 };
                }
            });
        }
        let d_z: &[f32] = if masked.is_empty() { d_y } else { masked };
        if let Some(d_r) = self.residual().and_then(|r| io.d_input(r)) {
            parallel::for_each_rows(d_r, 1, 1 << 14, |first, part| {
                part.iter_mut()
                    .zip(&d_z[first..])
                    .for_each(|(d, z)| *d += z);
            });
        }
        if let Some(d_x) = io.d_input(0) {
            let w = Panels::pack(View::new(io.input(1), outputs, inputs), panels);
            parallel::for_each_rows(d_x, inputs, chunk(n), |first, d_x| {
                let rows = d_x.len() / inputs;
                let d_z = View::new(&d_z[first * outputs..], rows, outputs);
                w.product(ViewMut::new(d_x, rows, inputs), d_z, ADD);
            });
        }
        self.cpu_backward_weights(io, d_z, partials);
    }

    /// dW and db: sums over rows.
    fn cpu_backward_weights(&self, io: &mut Backward<'_>, d_z: &[f32], partials: &mut [f32]) {
        let (n, inputs, outputs) = (io.shape(0).rows, io.shape(0).cols, io.shape(1).rows);
        let (bias_parts, weight_parts) = partials.split_at_mut(parallel::PARTIALS * outputs);
        if let Some(d_b) = self.bias.then(|| io.d_input(2)).flatten() {
            add_bias_gradient(d_b, d_z, bias_parts);
        }
        let Some(d_w) = io.d_input(1) else { return };
        let x = io.input(0);
        if weight_parts.is_empty() {
            add_few_rows_gradient(d_w, (d_z, outputs), (x, inputs));
            return;
        }
        let size = outputs * inputs;
        parallel::for_each_partial(n, 1, weight_parts, size, |range, w| {
            let d_z = View::new(&d_z[range.start * outputs..], range.len(), outputs);
            let x = &x[range.start * inputs..range.end * inputs];
            add_weight_gradient(w, d_z, (x, inputs));
        });
        parallel::for_each_rows(d_w, 1, 1 << 12, |first, d_w| {
            for part in weight_parts.chunks_exact(size) {
                let pairs = d_w.iter_mut().zip(&part[first..]);
                pairs.for_each(|(d, p)| *d += p);
            }
        });
    }
}
