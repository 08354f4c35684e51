//! What instructions compute, for all 32 lanes of a warp at once.
//!
//! Each arithmetic instruction is a function over rows of 32 values. It is compiled twice, for the baseline processor
//! and for AVX2 with FMA; the right one is taken when a kernel is decoded. Lanes that do not take part are computed
//! too and dropped by the caller, so no function here may panic on any input.
//!
//! | module | instructions |
//! |---|---|
//! | [`integer`] | integer arithmetic |
//! | [`bits`] | logic, shifts, bit fields |
//! | [`float`] | f32 and f64 arithmetic |
//! | [`approx`] | approximate functions |
//! | [`half`] | f16 and bf16 arithmetic |
//! | [`compare`] | `setp`, `testp` |
//! | [`convert`] | `cvt` |
//! | [`tensor`] | `mma` |

pub mod approx;
pub mod bits;
pub mod compare;
pub mod convert;
pub mod float;
pub mod half;
pub mod integer;
mod suffixes;
pub mod tensor;

pub use suffixes::{Rounding, Suffixes};

/// A 32-bit value per lane. Values of 16 bits are zero-extended.
pub type Words = [u32; 32];
/// A 64-bit value per lane.
pub type Longs = [u64; 32];

/// Whether an operand is a row of 32-bit or of 64-bit values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32 bits or fewer.
    Word,
    /// 64 bits.
    Long,
}

macro_rules! shapes {
    ($($name:ident = ($($width:ident),+) => $out:ident;)+) => {
        /// A lane function, by the widths of its operands: W for 32 bits, D for 64, P for a predicate.
        ///
        /// Calling one is unsafe because it may need AVX2 and FMA: [`crate::lanes`] only makes one where they are.
        #[allow(missing_docs)] // the name says it all
        #[derive(Clone, Copy, Debug)]
        pub enum Lanes {
            $($name(shapes!(@fn ($($width),+) => $out)),)+
        }

        impl Lanes {
            /// Widths of the operands in order.
            pub fn inputs(&self) -> &'static [Width] {
                match self {
                    $(Lanes::$name(_) => &[$(shapes!(@width $width)),+],)+
                }
            }

            /// Width of the result; none for a predicate.
            pub fn output(&self) -> Option<Width> {
                match self {
                    $(Lanes::$name(_) => shapes!(@out $out),)+
                }
            }
        }
    };
    (@fn ($($width:ident),+) => P) => { unsafe fn($(&shapes!(@row $width)),+) -> u32 };
    (@fn ($($width:ident),+) => $out:ident) => { unsafe fn($(&shapes!(@row $width)),+, &mut shapes!(@row $out)) };
    (@row W) => { Words };
    (@row D) => { Longs };
    (@width W) => { Width::Word };
    (@width D) => { Width::Long };
    (@out P) => { None };
    (@out W) => { Some(Width::Word) };
    (@out D) => { Some(Width::Long) };
}

shapes! {
    WtoW = (W) => W;
    WtoD = (W) => D;
    DtoW = (D) => W;
    DtoD = (D) => D;
    WWtoW = (W, W) => W;
    WWtoD = (W, W) => D;
    DDtoD = (D, D) => D;
    DWtoD = (D, W) => D;
    WWWtoW = (W, W, W) => W;
    WWDtoD = (W, W, D) => D;
    DWWtoD = (D, W, W) => D;
    DDDtoD = (D, D, D) => D;
    WWWWtoW = (W, W, W, W) => W;
    DDWWtoD = (D, D, W, W) => D;
    WtoP = (W) => P;
    DtoP = (D) => P;
    WWtoP = (W, W) => P;
    DDtoP = (D, D) => P;
}

/// Makes a [`Lanes`] from an expression of one lane's values: `lanes!(WWtoW, |a, b| a.wrapping_add(b))`.
macro_rules! lanes {
    (WtoW, |$a:ident| $e:expr) => { lanes!(@row WtoW, ($a: u32) -> u32, $e) };
    (WtoD, |$a:ident| $e:expr) => { lanes!(@row WtoD, ($a: u32) -> u64, $e) };
    (DtoW, |$a:ident| $e:expr) => { lanes!(@row DtoW, ($a: u64) -> u32, $e) };
    (DtoD, |$a:ident| $e:expr) => { lanes!(@row DtoD, ($a: u64) -> u64, $e) };
    (WWtoW, |$a:ident, $b:ident| $e:expr) => { lanes!(@row WWtoW, ($a: u32, $b: u32) -> u32, $e) };
    (WWtoD, |$a:ident, $b:ident| $e:expr) => { lanes!(@row WWtoD, ($a: u32, $b: u32) -> u64, $e) };
    (DDtoD, |$a:ident, $b:ident| $e:expr) => { lanes!(@row DDtoD, ($a: u64, $b: u64) -> u64, $e) };
    (DWtoD, |$a:ident, $b:ident| $e:expr) => { lanes!(@row DWtoD, ($a: u64, $b: u32) -> u64, $e) };
    (WWWtoW, |$a:ident, $b:ident, $c:ident| $e:expr) => { lanes!(@row WWWtoW, ($a: u32, $b: u32, $c: u32) -> u32, $e) };
    (WWDtoD, |$a:ident, $b:ident, $c:ident| $e:expr) => { lanes!(@row WWDtoD, ($a: u32, $b: u32, $c: u64) -> u64, $e) };
    (DWWtoD, |$a:ident, $b:ident, $c:ident| $e:expr) => { lanes!(@row DWWtoD, ($a: u64, $b: u32, $c: u32) -> u64, $e) };
    (DDDtoD, |$a:ident, $b:ident, $c:ident| $e:expr) => { lanes!(@row DDDtoD, ($a: u64, $b: u64, $c: u64) -> u64, $e) };
    (WWWWtoW, |$a:ident, $b:ident, $c:ident, $d:ident| $e:expr) => {
        lanes!(@row WWWWtoW, ($a: u32, $b: u32, $c: u32, $d: u32) -> u32, $e)
    };
    (DDWWtoD, |$a:ident, $b:ident, $c:ident, $d:ident| $e:expr) => {
        lanes!(@row DDWWtoD, ($a: u64, $b: u64, $c: u32, $d: u32) -> u64, $e)
    };
    (WtoP, |$a:ident| $e:expr) => { lanes!(@mask WtoP, ($a: u32), $e) };
    (DtoP, |$a:ident| $e:expr) => { lanes!(@mask DtoP, ($a: u64), $e) };
    (WWtoP, |$a:ident, $b:ident| $e:expr) => { lanes!(@mask WWtoP, ($a: u32, $b: u32), $e) };
    (DDtoP, |$a:ident, $b:ident| $e:expr) => { lanes!(@mask DDtoP, ($a: u64, $b: u64), $e) };

    (@row $shape:ident, ($($arg:ident: $in:ty),+) -> $out:ty, $e:expr) => {{
        #[inline(always)]
        fn each($($arg: &[$in; 32]),+, out: &mut [$out; 32]) {
            for lane in 0..32 {
                $(let $arg = $arg[lane];)+
                out[lane] = $e;
            }
        }
        #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,bmi2,lzcnt,popcnt"))]
        fn fast($($arg: &[$in; 32]),+, out: &mut [$out; 32]) {
            each($($arg),+, out)
        }
        fn plain($($arg: &[$in; 32]),+, out: &mut [$out; 32]) {
            each($($arg),+, out)
        }
        $crate::lanes::Lanes::$shape(if $crate::lanes::fast_processor() { fast } else { plain })
    }};
    (@mask $shape:ident, ($($arg:ident: $in:ty),+), $e:expr) => {{
        #[inline(always)]
        fn each($($arg: &[$in; 32]),+) -> u32 {
            let mut mask = 0;
            for lane in 0..32 {
                $(let $arg = $arg[lane];)+
                let holds: bool = $e;
                mask |= u32::from(holds) << lane;
            }
            mask
        }
        #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,bmi2,lzcnt,popcnt"))]
        fn fast($($arg: &[$in; 32]),+) -> u32 {
            each($($arg),+)
        }
        fn plain($($arg: &[$in; 32]),+) -> u32 {
            each($($arg),+)
        }
        $crate::lanes::Lanes::$shape(if $crate::lanes::fast_processor() { fast } else { plain })
    }};
}
pub(crate) use lanes;

/// Whether this processor has what the fast form of the lane functions needs.
pub(crate) fn fast_processor() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true
    }
}

/// The function of an arithmetic instruction, or none where it is not implemented.
pub fn find(op: &str, suffixes: &mut Suffixes) -> Option<Lanes> {
    use crate::ptx::Scalar::*;
    if suffixes.kinds() != 1 {
        return None; // mixed types, as in `add.f32.bf16`
    }
    match suffixes.kind(0)? {
        _ if bits::is_bitwise(op) => bits::find(op, suffixes),
        F32 | F64 if approx::is_approximate(op, suffixes) => approx::find(op, suffixes),
        F16 | F16x2 | BF16 | BF16x2 => half::find(op, suffixes),
        F32 => float::find_f32(op, suffixes),
        F64 => float::find_f64(op, suffixes),
        _ => integer::find(op, suffixes),
    }
}
