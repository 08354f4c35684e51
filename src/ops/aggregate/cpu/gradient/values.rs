//! d_v: for every point the sum over the pairs in which it is the neighbour.

use super::super::super::super::pairs::{
    MAX_NEIGHBORS, SHORT, Sizes, dropout_factor, prefetch_rows,
};
use super::Inputs;
use crate::device::simd::{Kernel, Simd};

/// Groups whose dropped weights are held at once.
const MAX_GROUPS: usize = MAX_NEIGHBORS;
/// Short vectors that are summed in registers at once.
const TOGETHER: usize = 6;

/// d_v of a run of points.
pub(super) struct Values<'a> {
    pub inputs: Inputs<'a>,
    pub first: usize,
    pub d_v: &'a mut [f32],
}

impl Kernel for Values<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes {
            k,
            groups,
            channels,
        } = self.inputs.sizes;
        let is_short = self.inputs.sizes.width() == SHORT && self.inputs.drop.rate <= 0.0;
        let lists = self.inputs.neighbors.transposed();
        let last = self.first + self.d_v.len() / channels;
        for (point, d_v) in (self.first..).zip(self.d_v.chunks_exact_mut(channels)) {
            let pairs = lists.list(point);
            if point + 1 < last {
                for &pair in lists.list(point + 1) {
                    prefetch_rows(s, self.inputs.d_y, &[pair / k as u32], channels);
                    prefetch_rows(s, self.inputs.saved, &[pair], groups);
                }
            }
            if !is_short {
                self.inputs.add_pairs(s, pairs, d_v);
                continue;
            }
            let short = s.narrow();
            let mut group = 0;
            while group < groups {
                let d_v = &mut d_v[group * SHORT..];
                group += if groups - group >= TOGETHER {
                    self.inputs
                        .add_short::<S::Narrow, TOGETHER>(short, pairs, group, d_v)
                } else {
                    self.inputs
                        .add_short::<S::Narrow, 1>(short, pairs, group, d_v)
                };
            }
        }
    }
}

impl Inputs<'_> {
    /// Adds the pairs to `N` groups of one short vector each, from `group` on, with nothing dropped. Returns `N`.
    #[inline(always)]
    fn add_short<S: Simd, const N: usize>(
        &self,
        s: S,
        pairs: &[u32],
        group: usize,
        d_v: &mut [f32],
    ) -> usize {
        let Sizes {
            k,
            groups,
            channels,
        } = self.sizes;
        let mut sums = [s.zero(); N];
        for (sum, d_v) in sums.iter_mut().zip(d_v.chunks_exact(SHORT)) {
            *sum = s.load(d_v);
        }
        for &pair in pairs {
            let row = (pair / k as u32) as usize * channels + group * SHORT;
            let d_y = &self.d_y[row..][..N * SHORT];
            let w = &self.saved[pair as usize * groups + group..][..N];
            for a in 0..N {
                sums[a] = s.fma(s.splat(w[a]), s.load(&d_y[a * SHORT..]), sums[a]);
            }
        }
        for (sum, d_v) in sums.iter().zip(d_v.chunks_exact_mut(SHORT)) {
            s.store(d_v, *sum);
        }
        N
    }

    /// Adds the pairs to all groups of any width.
    #[inline(always)]
    fn add_pairs<S: Simd>(&self, s: S, pairs: &[u32], d_v: &mut [f32]) {
        let Sizes {
            k,
            groups,
            channels,
        } = self.sizes;
        let mut dropped = [0.0; MAX_GROUPS];
        for pair in pairs.iter().map(|pair| *pair as usize) {
            let d_y = &self.d_y[pair / k * channels..][..channels];
            let weights = &self.saved[pair * groups..][..groups];
            for first in (0..groups).step_by(MAX_GROUPS) {
                let mut w = &weights[first..groups.min(first + MAX_GROUPS)];
                if self.drop.rate > 0.0 {
                    for (g, (y, x)) in dropped.iter_mut().zip(w).enumerate() {
                        let (random, rate) = (self.drop.random, self.drop.rate);
                        *y = x * dropout_factor(random, rate, groups, pair, first + g);
                    }
                    w = &dropped[..w.len()];
                }
                let from = first * self.sizes.width();
                add_scaled(s, w, &d_y[from..], self.sizes, &mut d_v[from..]);
            }
        }
    }
}

/// y_c += w_g(c) x_c for the groups of `w`.
#[inline(always)]
fn add_scaled<S: Simd>(s: S, w: &[f32], x: &[f32], sizes: Sizes, y: &mut [f32]) {
    let s = s.narrow();
    let width = sizes.width();
    let groups = w
        .iter()
        .zip(x.chunks_exact(width))
        .zip(y.chunks_exact_mut(width));
    for ((w, x), y) in groups {
        let w = s.splat(*w);
        for (x, y) in x.chunks(SHORT).zip(y.chunks_mut(SHORT)) {
            let sum = s.fma(w, s.load_partial(x), s.load_partial(y));
            s.store_partial(y, sum);
        }
    }
}
