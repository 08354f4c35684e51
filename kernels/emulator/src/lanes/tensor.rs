//! Products of small matrices as tensor cores add them up.
//!
//! **The model.** Products are exact. A tensor core adds a few of them at once, and the number that they are added to with
//! them: all are shifted to the largest exponent among them, what then lies below the last place it keeps is cut off each
//! of them, the rest is added exactly, and the sum is cut off to f32. Nothing is rounded to nearest, so a sum that goes
//! through a tensor core step after step loses a little of its magnitude at each. The exponent of a product is the sum of
//! its factors' exponents, although its significand may reach 4; a subnormal number has the exponent of the smallest
//! normal one. An inner index longer than what is added at once is gone through from its start, group by group.
//!
//! | capability | halves at once | tf32 at once | last place kept, of the largest exponent |
//! |---|---|---|---|
//! | 7.5 (Turing) | 4 | none | 2^-23 |
//! | 8.0, 8.6, 8.9 (Ampere, Ada) | 8 | 4 | 2^-24 |
//! | 9.0 and later (Hopper, Blackwell) | 16 | 8 | 2^-25 |
//!
//! NVIDIA documents none of this. Sources: Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor
//! cores", PeerJ Computer Science 7 (2021), who found it by tests; Khattak and Mikaitis, "Accurate models of NVIDIA tensor
//! cores", arXiv 2512.07004 (2025), and Xie et al., "MMA-Sim", arXiv 2511.10909 (2025), for later ones. A sum beyond the
//! largest f32 is that number below 2^128 and infinite from there on, which no source says. Where a factor or the number
//! that is added to is infinite or NaN, so is the result, by the rules of IEEE 754.

use super::fast_processor;
use crate::decode::kernel::Factor;

/// Operands of D = A·B + C, which becomes D: A of 16 × depth, B of depth × 8, C of 16 × 8.
pub struct Product {
    /// Numbers of the inner index, at most 16.
    pub depth: usize,
    /// Rows of A.
    pub a: [[f32; 16]; 16],
    /// Rows of B, by the inner index.
    pub b: [[f32; 8]; 16],
    /// Rows of C, and of D.
    pub c: [[f32; 8]; 16],
}

/// How the tensor cores of an architecture add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorCores {
    /// Products of halves, f16 or bf16, that are added at once.
    halves: usize,
    /// Products of tf32 factors.
    tf32: usize,
    /// Places kept after the binary point of a number with the largest exponent.
    places: u64,
}

impl TensorCores {
    /// Those of a compute capability: 80 for 8.0.
    pub fn of(capability: u32) -> Self {
        let (halves, tf32, places) = match capability {
            ..80 => (4, 4, 23),
            80..90 => (8, 4, 24),
            90.. => (16, 8, 25),
        };
        TensorCores {
            halves,
            tf32,
            places,
        }
    }

    /// Replaces C by A·B + C.
    pub fn multiply(self, product: &mut Product, factor: Factor) {
        let plain = (!product.is_finite()).then(|| product.plain());
        if fast_processor() {
            // SAFETY: the processor has what the function needs.
            unsafe { self.multiply_fast(product, factor) }
        } else {
            self.multiply_finite(product, factor);
        }
        let sums = product.c.as_flattened_mut().iter_mut();
        for (sum, plain) in sums.zip(plain.iter().flatten().flatten()) {
            if !plain.is_finite() {
                *sum = *plain;
            }
        }
    }

    #[cfg_attr(
        target_arch = "x86_64",
        target_feature(enable = "avx2,fma,bmi2,lzcnt,popcnt")
    )]
    fn multiply_fast(self, product: &mut Product, factor: Factor) {
        self.multiply_finite(product, factor);
    }

    /// [`Self::multiply`] of finite operands. Sums that depend on others mean nothing.
    #[inline(always)]
    fn multiply_finite(self, product: &mut Product, factor: Factor) {
        let (at_once, least) = match factor {
            Factor::F16 => (self.halves, 1.0 / 16384.0),
            Factor::BF16 => (self.halves, f32::MIN_POSITIVE),
            Factor::TF32 => (self.tf32, f32::MIN_POSITIVE),
        };
        let power_a = product.a.map(|row| row.map(|x| power(x, least)));
        let power_b = product.b.map(|row| row.map(|x| power(x, least)));
        let b = product.b.map(|row| row.map(f64::from));
        for row in 0..16 {
            let a = product.a[row].map(f64::from);
            let sums = &mut product.c[row];
            for first in (0..product.depth).step_by(at_once) {
                let group = first..(first + at_once).min(product.depth);
                let mut top = sums.map(|c| power(c, f32::MIN_POSITIVE));
                for k in group.clone() {
                    for column in 0..8 {
                        let power = power_a[row][k] * power_b[k][column];
                        top[column] = if power > top[column] {
                            power
                        } else {
                            top[column]
                        };
                    }
                }
                // What the last place kept counts, and how many of it make 1; without any number but 0 they mean nothing.
                let unit = top.map(|top| top * f64::from_bits((1023 - self.places) << 52));
                let units = top.map(|top| {
                    f64::from_bits(((2046 + self.places) << 52).wrapping_sub(top.to_bits()))
                });
                let mut total = [0.0; 8];
                for column in 0..8 {
                    total[column] += (f64::from(sums[column]) * units[column]).trunc();
                }
                for k in group {
                    for column in 0..8 {
                        total[column] += (a[k] * b[k][column] * units[column]).trunc();
                    }
                }
                for column in 0..8 {
                    sums[column] = toward_zero(total[column] * unit[column]);
                }
            }
        }
    }
}

impl Product {
    fn is_finite(&self) -> bool {
        let operands = [
            self.a.as_flattened(),
            self.b.as_flattened(),
            self.c.as_flattened(),
        ];
        // Without a way out in the middle, which would keep the compiler from taking many at once.
        let finite = |all: bool, x: &f32| all & x.is_finite();
        operands
            .iter()
            .all(|values| values.iter().fold(true, finite))
    }

    /// The sums in f64, in order. They are finite if the operands are.
    fn plain(&self) -> [[f32; 8]; 16] {
        let mut sums = self.c;
        for (row, sums) in sums.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                let product = |k: usize| f64::from(self.a[row][k]) * f64::from(self.b[k][column]);
                let total: f64 = (0..self.depth).map(product).sum();
                *sum = (f64::from(*sum) + total) as f32;
            }
        }
        sums
    }
}

/// The power of two of a number's exponent, which is not below that of the `least` normal number; 0 for 0.
#[inline(always)]
fn power(x: f32, least: f32) -> f64 {
    let power = f32::from_bits(x.to_bits() & 0x7f80_0000);
    let least = if x == 0.0 { 0.0 } else { least };
    f64::from(if power > least { power } else { least })
}

/// The next f32 that is not farther from 0.
#[inline(always)]
fn toward_zero(x: f64) -> f32 {
    let near = x as f32;
    let is_over = f64::from(near).abs() > x.abs() && x.abs() < f64::from_bits(1151 << 52);
    f32::from_bits(near.to_bits().wrapping_sub(u32::from(is_over)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURING: u32 = 75;
    const AMPERE: u32 = 80;
    const HOPPER: u32 = 90;

    /// 2^exponent.
    fn two(exponent: i32) -> f32 {
        2f32.powi(exponent)
    }

    /// c + x₀·y₀ + x₁·y₁ + …, up to 16 products, with the tensor cores of a capability.
    fn sum(capability: u32, factor: Factor, c: f32, pairs: &[(f32, f32)]) -> f32 {
        let mut product = Product {
            depth: pairs.len().next_multiple_of(8),
            a: [[0.0; 16]; 16],
            b: [[0.0; 8]; 16],
            c: [[0.0; 8]; 16],
        };
        // In a corner of its own, beside which everything is 0.
        product.c[5][3] = c;
        for (k, (x, y)) in pairs.iter().enumerate() {
            (product.a[5][k], product.b[k][3]) = (*x, *y);
        }
        TensorCores::of(capability).multiply(&mut product, factor);
        let all = product.c.as_flattened().iter().enumerate();
        let mut others = all.filter(|(at, _)| *at != 5 * 8 + 3);
        assert!(others.all(|(_, x)| *x == 0.0));
        product.c[5][3]
    }

    /// `count` products of that size.
    fn each(size: f32, count: usize) -> Vec<(f32, f32)> {
        vec![(size, 1.0); count]
    }

    #[test]
    fn sums_that_fit_are_exact() {
        let pairs: Vec<(f32, f32)> = (0..16).map(|k| (k as f32 - 6.5, 3.25 * k as f32)).collect();
        let exact: f32 = pairs.iter().map(|(x, y)| x * y).sum();
        for capability in [TURING, AMPERE, 86, 89, HOPPER, 120] {
            for factor in [Factor::F16, Factor::BF16, Factor::TF32] {
                let found = sum(capability, factor, 0.125, &pairs);
                assert_eq!(found, exact + 0.125, "{capability} {factor:?}");
            }
        }
        // From the largest number to the smallest one that is kept, with cancellation.
        let pairs = [(two(13), two(10)), (-two(13), two(10)), (1.0, 0.5)];
        assert_eq!(sum(AMPERE, Factor::F16, 0.0, &pairs), 0.5);
    }

    #[test]
    fn small_numbers_beside_a_large_one_are_cut_off_each() {
        for (capability, kept) in [(TURING, 23), (AMPERE, 24), (HOPPER, 25)] {
            // Four are in one group everywhere; rounded to nearest, the lost ones would add up to 2^-22 and more.
            let small = two(-kept);
            for sign in [1.0, -1.0] {
                let found = |size: f32| sum(capability, Factor::F16, sign, &each(size * sign, 4));
                assert_eq!(found(small), sign * (1.0 + 4.0 * small), "{capability}");
                assert_eq!(found(small * 0.5), sign, "{capability}");
                assert_eq!(found(small * 0.96875), sign, "{capability}");
            }
            // Toward zero each, not down.
            let against = each(-small * 0.96875, 4);
            assert_eq!(sum(capability, Factor::F16, 1.0, &against), 1.0);
        }
    }

    #[test]
    fn a_sum_is_cut_off_to_f32_after_every_group() {
        // 1 + 2^-24 is 1 again, so a partner in the same group is needed.
        let apart = |distance: usize| {
            let mut pairs = each(0.0, 16);
            (pairs[0], pairs[distance]) = ((two(-24), 1.0), (two(-24), 1.0));
            pairs
        };
        let once = |capability: u32, factor: Factor| {
            let is_kept = |d: &usize| sum(capability, factor, 1.0, &apart(*d)) != 1.0;
            (1..16).take_while(is_kept).count() + 1
        };
        assert_eq!(once(AMPERE, Factor::TF32), 4);
        assert_eq!(once(AMPERE, Factor::F16), 8);
        assert_eq!(once(89, Factor::BF16), 8);
        assert_eq!(once(HOPPER, Factor::TF32), 8);
        assert_eq!(once(HOPPER, Factor::BF16), 16);
        // Half of the last place is enough to lose nothing upward: 2 - 2^-24 becomes the number below 2.
        let pairs = [(1.0, 1.0), (-two(-24), 1.0)];
        let below = 2.0 - two(-23);
        assert_eq!(sum(AMPERE, Factor::TF32, 1.0, &pairs), below);
        assert_eq!(
            sum(AMPERE, Factor::TF32, -1.0, &[(-1.0, 1.0), (two(-24), 1.0)]),
            -below
        );
    }

    #[test]
    fn a_product_has_the_exponent_of_its_factors() {
        // 1.5² = 2.25 counts as 2.25·2^0: four times 2^-24 beside it are kept, and make one last place of the sum.
        let mut pairs = each(two(-24), 3);
        pairs.push((1.5, 1.5));
        assert_eq!(sum(AMPERE, Factor::TF32, two(-24), &pairs), 2.25 + two(-22));
        // Not so beside the number 2.25.
        assert_eq!(sum(AMPERE, Factor::TF32, 2.25, &each(two(-24), 4)), 2.25);
    }

    #[test]
    fn sums_step_after_step_are_biased_toward_zero() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Positive, with the ten places of tf32.
            1.0 + (state >> 22) as f32 / 1024.0
        };
        let (mut inside, mut outside, mut exact) = (0.0, 0f32, 0.0);
        for _ in 0..48 {
            let pairs: Vec<(f32, f32)> = (0..8).map(|_| (random(), random())).collect();
            let term = |(x, y): &(f32, f32)| f64::from(*x) * f64::from(*y);
            exact += pairs.iter().map(term).sum::<f64>();
            inside = sum(AMPERE, Factor::TF32, inside, &pairs);
            outside += sum(AMPERE, Factor::TF32, 0.0, &pairs);
        }
        let error = |sum: f32| (f64::from(sum) - exact) / exact;
        let (inside, outside) = (error(inside), error(outside));
        assert!((-1e-5..-2e-6).contains(&inside), "{inside:.2e}");
        assert!(outside.abs() < 2e-7, "{outside:.2e}");
    }

    #[test]
    fn extreme_numbers_keep_their_meaning() {
        let one = |factor, c, x, y| sum(AMPERE, factor, c, &[(x, y)]);
        let smallest = f32::from_bits(1);
        assert_eq!(one(Factor::TF32, smallest, 0.0, 0.0), smallest);
        assert_eq!(one(Factor::BF16, 0.0, two(-133), 1.0), two(-133));
        assert_eq!(one(Factor::F16, 0.0, two(-24), two(-24)), two(-48));
        // A subnormal factor has the exponent of the smallest normal one, here 2^-14: 2^-38 is the last place kept.
        let beside = |c| one(Factor::F16, c, two(-24), 1.0);
        assert_eq!(beside(two(-38)), two(-24) + two(-38));
        assert_eq!(beside(two(-39)), two(-24));
        assert_eq!(one(Factor::TF32, f32::MAX, two(100), two(3)), f32::MAX);
        assert_eq!(one(Factor::TF32, f32::MAX, two(100), two(4)), f32::INFINITY);
        assert_eq!(
            one(Factor::TF32, -f32::MAX, -two(127), two(127)),
            f32::NEG_INFINITY
        );
        assert_eq!(one(Factor::TF32, f32::INFINITY, 1.0, 1.0), f32::INFINITY);
        assert!(one(Factor::TF32, f32::NAN, 1.0, 1.0).is_nan());
        assert_eq!(one(Factor::TF32, -0.0, 0.0, 1.0).to_bits(), 0);
    }
}
