//! Eight lanes as an array: correct on every processor, and what the compiler vectorises where nothing better is known.

use super::{Kernel, Simd};

const L: usize = 8;

/// Vectors as arrays.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn zip(a: [f32; L], b: [f32; L], f: impl Fn(f32, f32) -> f32) -> [f32; L] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// A fused product only where it is one instruction: elsewhere it would be a library call.
#[inline(always)]
fn product_sum(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

impl Simd for Portable {
    type V = [f32; L];
    type Narrow = Self;
    const LANES: usize = L;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; L]
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        *x.first_chunk().expect("a whole vector")
    }

    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> Self::V {
        std::array::from_fn(|i| x.get(i).copied().unwrap_or(0.0))
    }

    #[inline(always)]
    fn store(self, y: &mut [f32], v: Self::V) {
        *y.first_chunk_mut().expect("a whole vector") = v;
    }

    #[inline(always)]
    fn store_partial(self, y: &mut [f32], v: Self::V) {
        y.iter_mut().zip(v).for_each(|(y, v)| *y = v);
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn quotient(self, a: Self::V, b: Self::V, _: Self::V) -> Self::V {
        self.div(a, b)
    }

    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| product_sum(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn where_positive(self, gate: Self::V, x: Self::V) -> Self::V {
        zip(gate, x, |gate, x| if gate > 0.0 { x } else { 0.0 })
    }

    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        // Adding 2^23 leaves no bits below the point; from there on all numbers are integers.
        const SHIFT: f32 = 8_388_608.0;
        x.map(|x| {
            let size = x.abs();
            let rounded = ((size + SHIFT) - SHIFT).copysign(x);
            if size < SHIFT { rounded } else { x }
        })
    }

    #[inline(always)]
    fn scale_by_power(self, x: Self::V, n: Self::V) -> Self::V {
        zip(x, n, |x, n| {
            x * f32::from_bits(((n as i32 + 127) as u32) << 23)
        })
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let [a, b, c, d, e, f, g, h] = v;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    fn sums_of_four(self, v: [Self::V; 4], y: &mut [f32; 4]) {
        *y = v.map(|v| self.sum(v));
    }

    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn load_columns(self, x: &[f32], starts: &[usize]) -> [Self::V; 4] {
        let mut columns = [[0.0; L]; 4];
        for (lane, &start) in starts[..L].iter().enumerate() {
            for (column, x) in columns.iter_mut().zip(&x[start..start + 4]) {
                column[lane] = *x;
            }
        }
        columns
    }

    #[inline(always)]
    fn store_columns(self, y: &mut [f32], starts: &[usize], columns: [Self::V; 4]) {
        for (lane, &start) in starts[..L].iter().enumerate() {
            for (column, y) in columns.iter().zip(&mut y[start..start + 4]) {
                *y = column[lane];
            }
        }
    }

    #[inline(always)]
    fn store_truncated(self, y: &mut [u32], v: Self::V) {
        y[..L].iter_mut().zip(v).for_each(|(y, v)| *y = v as u32);
    }

    #[inline(always)]
    fn at_most(self, a: Self::V, b: Self::V) -> u32 {
        let mut bits = 0;
        for lane in 0..L {
            bits |= u32::from(a[lane] <= b[lane]) << lane;
        }
        bits
    }

    #[inline(always)]
    fn pack(self, chosen: u32, v: Self::V, index: &[u32], y: &mut [f32], rows: &mut [u32]) {
        let (index, y, rows) = (&index[..L], &mut y[..L], &mut rows[..L]);
        let mut count = 0;
        for lane in 0..L {
            // Always writing and sometimes moving on costs less than a branch that is hard to foresee.
            y[count] = v[lane];
            rows[count] = index[lane];
            count += (chosen >> lane & 1) as usize;
        }
    }

    #[inline(always)]
    fn prefetch(self, _: &[f32]) {}

    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> Self::V {
        // SAFETY: the caller promises L readable values.
        unsafe { x.cast::<[f32; L]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_at(self, y: *mut f32, v: Self::V) {
        // SAFETY: the caller promises L writable values.
        unsafe { y.cast::<[f32; L]>().write_unaligned(v) }
    }
}
