//! SIMD written once: vectors of `f32`, chosen at run time.
//!
//! A kernel is a struct that implements [`Kernel`]; its body is generic over [`Simd`] and is compiled once per
//! instruction set by [`dispatch`], behind a `#[target_feature]` entry point. A value of a type that implements
//! [`Simd`] is the proof that the processor has the instructions, so every primitive is a safe function.
//!
//! Everything between the entry point and the primitives has to be `#[inline(always)]`, without closures: code that
//! is not inlined into the entry point is compiled for the baseline processor.
//!
//! ```
//! use cairn::device::simd::{Kernel, Simd, dispatch};
//!
//! struct Sum<'a>(&'a [f32]);
//!
//! impl Kernel for Sum<'_> {
//!     type Output = f32;
//!
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) -> f32 {
//!         let mut total = s.zero();
//!         for part in self.0.chunks(S::LANES) {
//!             total = s.add(total, s.load_partial(part));
//!         }
//!         s.sum(total)
//!     }
//! }
//!
//! assert_eq!(dispatch(Sum(&[1.0; 100])), 100.0);
//! ```

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use portable::Portable;
use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

/// Most lanes that a vector has at any level: padding buffers to a multiple of it serves all of them.
pub const MAX_LANES: usize = 16;

/// Vectors of [`Simd::LANES`] values of `f32`, and what can be done with them.
///
/// A value of this type exists only where the processor has the instructions.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;
    /// The same processor with vectors of at most 8 lanes, for short rows.
    type Narrow: Simd;
    /// Number of lanes, a power of two, at most [`MAX_LANES`].
    const LANES: usize;
    /// Number of vector registers.
    const REGISTERS: usize;

    /// Vectors of at most 8 lanes.
    fn narrow(self) -> Self::Narrow;
    /// Runs `kernel` at this level in a function of its own, which keeps large bodies from being inlined many times.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// `x` in all lanes.
    fn splat(self, x: f32) -> Self::V;
    /// The first `LANES` values. Panics when there are fewer.
    fn load(self, x: &[f32]) -> Self::V;
    /// The first `LANES` values, zero where there are fewer.
    fn load_partial(self, x: &[f32]) -> Self::V;
    /// Writes all lanes. Panics when `y` is shorter.
    fn store(self, y: &mut [f32], v: Self::V);
    /// Writes as many lanes as `y` has room for.
    fn store_partial(self, y: &mut [f32], v: Self::V);

    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b, rounded like [`Simd::div`], given `inverse` = 1 / b rounded. For results that are neither subnormal nor
    /// infinite; 0 / b is 0 and NaN stays NaN.
    fn quotient(self, a: Self::V, b: Self::V, inverse: Self::V) -> Self::V;
    /// √a
    fn sqrt(self, a: Self::V) -> Self::V;
    /// a · b + c, rounded once where the processor can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` when one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` when one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `x` in lanes where `gate` > 0, else 0.
    fn where_positive(self, gate: Self::V, x: Self::V) -> Self::V;
    /// The nearest integer (ties to even).
    fn round(self, x: Self::V) -> Self::V;
    /// x · 2^n for integral `n` in −126..=127 and normal results.
    fn scale_by_power(self, x: Self::V, n: Self::V) -> Self::V;
    /// Sum of all lanes.
    fn sum(self, v: Self::V) -> f32;
    /// Sum of all lanes of each of four vectors.
    fn sums_of_four(self, v: [Self::V; 4], y: &mut [f32; 4]);
    /// Largest lane.
    fn largest(self, v: Self::V) -> f32;

    /// Four neighbouring columns of `LANES` rows: lane l of vector c is `x[starts[l] + c]`. Panics when `starts` is
    /// shorter than a vector or a row leaves `x`.
    fn load_columns(self, x: &[f32], starts: &[usize]) -> [Self::V; 4];
    /// The inverse of [`Simd::load_columns`]: `y[starts[l] + c]` becomes lane l of vector c, for lanes in order.
    fn store_columns(self, y: &mut [f32], starts: &[usize], columns: [Self::V; 4]);

    /// Writes all lanes without their fraction. They are from 0 to below 2^31. Panics when `y` is shorter.
    fn store_truncated(self, y: &mut [u32], v: Self::V);

    /// One bit per lane, the first lowest: set where a ≤ b, never where one is NaN.
    fn at_most(self, a: Self::V, b: Self::V) -> u32;
    /// Writes the lanes of `v` and of `index` whose bit is set in `chosen` side by side, in order. What follows them, up
    /// to `LANES` values, is overwritten with anything. Panics when a slice is shorter than a vector.
    fn pack(self, chosen: u32, v: Self::V, index: &[u32], y: &mut [f32], rows: &mut [u32]);

    /// Hints that all of `x` will be read soon.
    fn prefetch(self, x: &[f32]);

    /// Reads `LANES` values.
    ///
    /// # Safety
    /// All of them must be readable.
    unsafe fn load_at(self, x: *const f32) -> Self::V;
    /// Writes `LANES` values.
    ///
    /// # Safety
    /// All of them must be writable.
    unsafe fn store_at(self, y: *mut f32, v: Self::V);

    /// 0 in all lanes.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// eˣ to 2 units in the last place for x in [−87.3, 88.3]; values outside are moved to the border first, so that
    /// everything below gives about 10⁻³⁸. NaN stays NaN.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        // x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts), then the minimax polynomial of Cephes' expf.
        let x = self.max(self.splat(-87.33), x);
        let x = self.min(self.splat(88.37), x);
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fma(n, self.splat(-0.693_359_4), x);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
            p = self.fma(p, r, self.splat(c));
        }
        let y = self.fma(p, self.mul(r, r), self.add(r, self.splat(1.0)));
        self.scale_by_power(y, n)
    }
}

/// A function over vectors.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// The body. Mark it `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Arrays of eight, left to the compiler: any processor.
    Portable,
    /// x86-64 with AVX2 and FMA: 8 lanes.
    Avx2,
    /// x86-64 with AVX-512 F, VL, DQ and BW: 16 lanes.
    Avx512,
}

impl Level {
    /// Every level, best first.
    pub const ALL: [Level; 3] = [Level::Avx512, Level::Avx2, Level::Portable];

    /// Name as in the environment variable `CAIRN_SIMD`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// True when this processor has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The level that [`dispatch`] uses: the best of this processor, or a lower one when the environment variable
/// `CAIRN_SIMD` (`avx512`, `avx2`, `portable`) names one that it has. Found out once; a name that cannot be served is
/// reported on stderr.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let wanted = std::env::var("CAIRN_SIMD").unwrap_or_default();
        let is_wanted = |l: &Level| wanted.is_empty() || l.name() == wanted;
        let available = || Level::ALL.into_iter().filter(|l| l.is_available());
        available().find(is_wanted).unwrap_or_else(|| {
            let best = available().next().unwrap_or(Level::Portable);
            let text =
                format!("CAIRN_SIMD={wanted} is unknown or not in this processor; using {best}\n");
            // Where nobody listens there is nobody to tell.
            let _ = std::io::stderr().write_all(text.as_bytes());
            best
        })
    })
}

/// Runs `kernel` at [`level`].
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    dispatch_at(level(), kernel)
}

/// Runs `kernel` at `level`. Panics when the processor has not the instructions.
pub fn dispatch_at<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        Level::Portable => Portable.call(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::Avx2::new().call(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::Avx512::new().call(kernel),
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => panic!("this processor has no {level}"),
    }
}
