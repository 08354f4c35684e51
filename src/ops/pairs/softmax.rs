//! Softmax over the neighbours of a point, its gradient, and dropout of weights.

use super::MAX_NEIGHBORS;
use crate::device::random::Random;
use crate::device::simd::Simd;

/// Softmax of all runs of `k` values in `values`, in place.
#[inline(always)]
pub fn softmax<S: Simd>(s: S, values: &mut [f32], k: usize) {
    if k.is_multiple_of(S::LANES) {
        for run in values.chunks_exact_mut(k) {
            match k / S::LANES {
                1 => softmax_vectors::<S, 1>(s, run),
                2 => softmax_vectors::<S, 2>(s, run),
                _ => softmax_whole(s, run),
            }
        }
        return;
    }
    // Padding far below every value counts for nothing.
    let mut padded = [f32::MIN; MAX_NEIGHBORS];
    let length = k.next_multiple_of(S::LANES);
    for run in values.chunks_exact_mut(k) {
        padded[..k].copy_from_slice(run);
        padded[k..length].fill(f32::MIN);
        softmax_whole(s, &mut padded[..length]);
        run.copy_from_slice(&padded[..k]);
    }
}

/// [`softmax_whole`] of `NV` vectors, which stay in registers.
#[inline(always)]
fn softmax_vectors<S: Simd, const NV: usize>(s: S, run: &mut [f32]) {
    let mut values = [s.zero(); NV];
    let mut top = s.splat(f32::NEG_INFINITY);
    for (v, part) in values.iter_mut().zip(run.chunks_exact(S::LANES)) {
        *v = s.load(part);
        top = s.max(top, *v);
    }
    let top = s.splat(s.largest(top));
    let mut sum = s.zero();
    for v in &mut values {
        *v = s.exp(s.sub(*v, top));
        sum = s.add(sum, *v);
    }
    let scale = s.splat(1.0 / s.sum(sum));
    for (v, part) in values.iter().zip(run.chunks_exact_mut(S::LANES)) {
        s.store(part, s.mul(*v, scale));
    }
}

#[inline(always)]
fn softmax_whole<S: Simd>(s: S, run: &mut [f32]) {
    let mut top = s.splat(f32::NEG_INFINITY);
    for part in run.chunks_exact(S::LANES) {
        top = s.max(top, s.load(part));
    }
    let top = s.splat(s.largest(top));
    let mut sum = s.zero();
    for part in run.chunks_exact_mut(S::LANES) {
        let e = s.exp(s.sub(s.load(part), top));
        sum = s.add(sum, e);
        s.store(part, e);
    }
    let scale = s.splat(1.0 / s.sum(sum));
    for part in run.chunks_exact_mut(S::LANES) {
        s.store(part, s.mul(s.load(part), scale));
    }
}

/// In runs of `k`: d ← w (d − Σ w d), the gradient of softmax with result `w`.
#[inline(always)]
pub fn softmax_gradient<S: Simd>(s: S, w: &[f32], d: &mut [f32], k: usize) {
    for (w, d) in w.chunks_exact(k).zip(d.chunks_exact_mut(k)) {
        let mut sum = s.zero();
        for (w, d) in w.chunks(S::LANES).zip(d.chunks(S::LANES)) {
            sum = s.fma(s.load_partial(w), s.load_partial(d), sum);
        }
        let mean = s.splat(s.sum(sum));
        for (w, d) in w.chunks(S::LANES).zip(d.chunks_mut(S::LANES)) {
            let difference = s.sub(s.load_partial(d), mean);
            s.store_partial(d, s.mul(s.load_partial(w), difference));
        }
    }
}

/// What dropout multiplies the weight of `group` in pair number `pair` by.
#[inline]
pub fn dropout_factor(random: Random, rate: f32, groups: usize, pair: usize, group: usize) -> f32 {
    if random.uniform_f32((pair * groups + group) as u64) < rate {
        0.0
    } else {
        1.0 / (1.0 - rate)
    }
}
