//! Gaussian error linear unit, the exact form with erf (Hendrycks, Gimpel 2016; PyTorch's default GELU).
//!
//! y = x Φ(x),   Φ(x) = (1 + erf(x / √2)) / 2
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | features |
//! | y | [N, C] | features, gated |
//!
//! Backward: dx = dy (Φ(x) + x φ(x)), φ the normal density. Saves: nothing, reads x. Time and memory: O(N·C).

use super::elementwise::{self, Given};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::{Gpu, Pointer};
use crate::graph::{Backward, Forward, Op, Plan, Shape};

kernels!("gelu");

/// −ln(2 Φ(−u)) for u in [0, [`FITTED`]], a polynomial in u · 2 / FITTED − 1, highest power first: the Chebyshev fit of
/// degree 10, off by at most 3.3e-7.
const TAIL: [f32; 11] = [
    4.598_742_6e-4,
    -6.165_285e-4,
    -1.113_211e-3,
    4.251_648e-3,
    -1.068_858_7e-2,
    2.721_329e-2,
    -6.391_1e-2,
    0.141_669_33,
    4.182_484_7,
    9.849_294,
    5.914_579,
];
/// End of the fitted range; behind it the exponent goes on as −u²/2 from there.
const FITTED: f32 = 6.0;
/// 1 / √(2π)
const DENSITY: f32 = 0.398_942_3;

/// y = x Φ(x).
#[derive(Debug, Clone, Copy)]
pub struct Gelu;

/// Φ(x); NaN stays NaN.
#[inline(always)]
fn normal<S: Simd>(s: S, x: S::V) -> S::V {
    let u = s.max(x, s.sub(s.zero(), x));
    let near = s.min(s.splat(FITTED), u);
    let t = s.fma(near, s.splat(2.0 / FITTED), s.splat(-1.0));
    let mut p = s.splat(TAIL[0]);
    for c in &TAIL[1..] {
        p = s.fma(p, t, s.splat(*c));
    }
    // (u² − near²) / 2
    let beyond = s.mul(s.sub(u, near), s.mul(s.add(u, near), s.splat(0.5)));
    let twice = s.exp(s.sub(s.zero(), s.add(p, beyond)));
    // the tail 1 − Φ(|x|), or Φ(x) itself where x is not positive
    let tail = s.mul(twice, s.splat(0.5));
    s.add(tail, s.where_positive(x, s.sub(s.splat(1.0), twice)))
}

struct Gate<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let parts = self.x.chunks(S::LANES).zip(self.y.chunks_mut(S::LANES));
        for (x, y) in parts {
            let x = s.load_partial(x);
            s.store_partial(y, s.mul(x, normal(s, x)));
        }
    }
}

struct Gradient<'a> {
    x: &'a [f32],
    d_y: &'a [f32],
    d_x: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let given = self.x.chunks(S::LANES).zip(self.d_y.chunks(S::LANES));
        for ((x, d_y), d_x) in given.zip(self.d_x.chunks_mut(S::LANES)) {
            let x = s.load_partial(x);
            let density = s.exp(s.mul(s.mul(x, x), s.splat(-0.5)));
            let slope = s.fma(s.mul(x, s.splat(DENSITY)), density, normal(s, x));
            s.store_partial(d_x, s.fma(s.load_partial(d_y), slope, s.load_partial(d_x)));
        }
    }
}

/// The same in place.
struct GateInPlace<'a>(&'a mut [f32]);

impl Kernel for GateInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.0.chunks_mut(S::LANES) {
            let v = s.load_partial(x);
            s.store_partial(x, s.mul(v, normal(s, v)));
        }
    }
}

/// x becomes y, and d_y becomes d_x.
struct GateAndGradient<'a> {
    x: &'a mut [f32],
    d_y: &'a mut [f32],
}

impl Kernel for GateAndGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let parts = self
            .x
            .chunks_mut(S::LANES)
            .zip(self.d_y.chunks_mut(S::LANES));
        for (x, d_y) in parts {
            let v = s.load_partial(x);
            let share = normal(s, v);
            let density = s.exp(s.mul(s.mul(v, v), s.splat(-0.5)));
            let slope = s.fma(s.mul(v, s.splat(DENSITY)), density, share);
            s.store_partial(x, s.mul(v, share));
            s.store_partial(d_y, s.mul(s.load_partial(d_y), slope));
        }
    }
}

/// y in place of x, by this thread alone.
pub(super) fn gate(x: &mut [f32]) {
    dispatch(GateInPlace(x));
}

/// y in place of x and the gradient of x in place of that of y, by this thread alone.
pub(super) fn gate_and_gradient(x: &mut [f32], d_y: &mut [f32]) {
    dispatch(GateAndGradient { x, d_y });
}

/// y of `n` values on a GPU.
pub(super) fn gate_on(gpu: Gpu, x: Pointer, n: usize, y: Pointer) -> Result<()> {
    gpu.launch(&KERNELS, "gelu_forward", Grid::strided(n), args![x, n, y])
}

/// Adds the gradient of `n` values on a GPU.
pub(super) fn add_gradient_on(
    gpu: Gpu,
    (x, d_y): (Pointer, Pointer),
    n: usize,
    d_x: Pointer,
) -> Result<()> {
    let args = args![x, d_y, n, d_x];
    gpu.launch(&KERNELS, "gelu_backward", Grid::strided(n), args)
}

impl Op for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        Ok(Plan {
            reads_inputs: vec![0],
            ..Plan::of(elementwise::only_input(self, inputs)?)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        elementwise::forward(io, (&KERNELS, "gelu_forward"), &[], |x, y| {
            dispatch(Gate { x, y });
        })
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let kernel = (&KERNELS, "gelu_backward");
        elementwise::backward(io, Given::Input, kernel, &[], |x, d_y, d_x| {
            dispatch(Gradient { x, d_y, d_x });
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::device::simd::{Level, dispatch_at};
    use crate::graph::check::{Check, spread};

    /// Φ(x) by the series of erf, all terms of one sign: φ(x) Σ x^(2n+1) / (1·3·…·(2n+1)) above or below 1/2.
    pub fn normal_f64(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
    }

    #[test]
    fn matches_naive() {
        for (rows, scale) in [(0, 1.0), (1, 1.0), (37, 2.0), (1201, 1.0)] {
            let shape = Shape::new(rows, 7);
            let x = spread(shape, 1).iter().map(|x| scale * x).collect();
            Check::new(Gelu)
                .input_values(shape, x)
                .run(|x| vec![x[0].iter().map(|x| x * normal_f64(*x)).collect()]);
        }
    }

    #[test]
    fn tails_vanish_and_nothing_is_hidden() {
        let x = [-1e30, -40.0, -9.0, -4.0, 0.0, 4.0, 9.0, 1e30, f32::NAN];
        for level in Level::ALL.into_iter().filter(|l| l.is_available()) {
            let mut y = [0.0; 9];
            dispatch_at(level, Gate { x: &x, y: &mut y });
            // 4 Φ(−4) = 1.266850e-4, 9 Φ(−9) = 1.0e-18
            assert!((y[3] + 1.266_85e-4).abs() < 2e-9, "{level}: {y:?}");
            assert!(y[2] < 0.0 && y[2] > -1e-17, "{level}: {y:?}");
            assert!(y[1] <= 0.0 && y[1] > -1e-30, "{level}: {y:?}");
            assert!(y[0] <= 0.0 && y[0] > -1e-6, "{level}: {y:?}");
            assert_eq!([y[4], y[6], y[7]], [0.0, 9.0, 1e30], "{level}");
            assert!((y[5] - 3.999_873_3).abs() < 1e-6, "{level}: {y:?}");
            assert!(y[8].is_nan(), "{level}");
        }
    }
}
