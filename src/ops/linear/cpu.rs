//! Forward and backward on the host: forward with Wᵀ packed once; W itself lies as the crate's product wants it.

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

/// Adds the sum over rows to `sums`.
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
            };
            let x = View::new(&x[first * inputs..], rows, inputs);
            let y = ViewMut::new(y, rows, outputs);
            panels.product(y, x, finish);
        });
    }

    pub(super) fn cpu_backward(&self, io: &mut Backward<'_>) {
        let Some(d_y) = io.d_output(0) else { return };
        let (n, inputs, outputs) = (io.shape(0).rows, io.shape(0).cols, io.shape(1).rows);
        let scratch = io.scratch();
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
            let w = io.input(1);
            parallel::for_each_rows(d_x, inputs, chunk(n), |first, d_x| {
                let rows = d_x.len() / inputs;
                let d_z = View::new(&d_z[first * outputs..], rows, outputs);
                let w = View::new(w, outputs, inputs);
                product(ViewMut::new(d_x, rows, inputs), d_z, w, Store::Add);
            });
        }
        self.cpu_backward_weights(io, d_z, partials);
    }

    /// dW and db: sums over rows.
    fn cpu_backward_weights(&self, io: &mut Backward<'_>, d_z: &[f32], partials: &mut [f32]) {
        let (n, inputs, outputs) = (io.shape(0).rows, io.shape(0).cols, io.shape(1).rows);
        let (bias_parts, weight_parts) = partials.split_at_mut(parallel::PARTIALS * outputs);
        if let Some(d_b) = self.bias.then(|| io.d_input(2)).flatten() {
            parallel::for_each_partial(n, 1, bias_parts, outputs, |range, sums| {
                let rows = &d_z[range.start * outputs..range.end * outputs];
                dispatch(ColumnSums { rows, sums });
            });
            parallel::add_partials(bias_parts, outputs, d_b);
        }
        let Some(d_w) = io.d_input(1) else { return };
        let x = io.input(0);
        if weight_parts.is_empty() {
            let tile = outputs.div_ceil(8).next_multiple_of(16);
            parallel::for_each_rows(d_w, inputs, tile, |first, d_w| {
                let rows = d_w.len() / inputs;
                let d_z = d_z.get(first..).unwrap_or_default();
                let d_z = View::strided(d_z, [n, rows], [outputs, 1]).transposed();
                let x = View::new(x, n, inputs);
                product(ViewMut::new(d_w, rows, inputs), d_z, x, Store::Add);
            });
            return;
        }
        let size = outputs * inputs;
        parallel::for_each_partial(n, 1, weight_parts, size, |range, w| {
            let rows = range.len();
            let x = View::new(&x[range.start * inputs..], rows, inputs);
            let d_z = View::new(&d_z[range.start * outputs..], rows, outputs).transposed();
            product(ViewMut::new(w, outputs, inputs), d_z, x, Store::Add);
        });
        parallel::for_each_rows(d_w, 1, 1 << 12, |first, d_w| {
            for part in weight_parts.chunks_exact(size) {
                let pairs = d_w.iter_mut().zip(&part[first..]);
                pairs.for_each(|(d, p)| *d += p);
            }
        });
    }
}
