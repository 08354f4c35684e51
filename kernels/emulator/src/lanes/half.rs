//! f16 and bf16 arithmetic (PTX ISA 9.7.4), correctly rounded, single and in packed pairs.
//!
//! Sums, products and square roots are computed in f32, which is wide enough that rounding twice changes nothing;
//! fused multiply-add is computed in f64 and rounded to odd on the way down, for the same reason.

use super::float::{addition_error, maximum, minimum, or_nan, saturate};
use super::{Lanes, Rounding, Suffixes, lanes};
use crate::ptx::Scalar;

/// The NaN that half-precision instructions give, in both formats.
pub const NAN16: u32 = 0x7fff;

/// f16 to f32, exactly.
#[inline(always)]
pub fn from_f16(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000); // 2^112
    let magnitude = if bits & 0x7c00 == 0x7c00 {
        magnitude.to_bits() | 0x7f80_0000
    } else {
        magnitude.to_bits()
    };
    f32::from_bits(sign | magnitude)
}

/// f32 to f16, to nearest even.
#[inline(always)]
pub fn to_f16(value: f32) -> u32 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14, adding 0.5 leaves the subnormal's bits, rounded, at the end of the mantissa.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    let normal = magnitude
        .wrapping_add(0xfff + (magnitude >> 13 & 1))
        .wrapping_sub(112 << 23)
        >> 13;
    let rounded = if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    let finite = if magnitude >= 0x477f_f000 {
        0x7c00
    } else {
        rounded
    };
    if magnitude > 0x7f80_0000 {
        NAN16
    } else {
        finite | bits >> 16 & 0x8000
    }
}

/// bf16 to f32, exactly.
#[inline(always)]
pub fn from_bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// f32 to bf16, to nearest even.
#[inline(always)]
pub fn to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { NAN16 } else { rounded }
}

/// `value + error` in f32, rounded to odd: rounding it again to a narrower format is as good as rounding once.
#[inline(always)]
pub fn to_odd(value: f64, error: f64) -> f32 {
    let near = value as f32;
    let back = f64::from(near);
    if (back == value && error == 0.0) || value.is_nan() {
        return near;
    }
    let over = back.abs() > value.abs() || (back == value && (error < 0.0) == (value > 0.0));
    let truncated = if over {
        near.to_bits() - 1
    } else {
        near.to_bits()
    };
    f32::from_bits(truncated | 1)
}

/// a·b + c with one rounding to come.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    if sum.is_finite() {
        to_odd(sum, addition_error(product, c, sum))
    } else {
        sum as f32
    }
}

/// `.ftz` for f16, before and after.
#[inline(always)]
fn flush16(value: f32) -> f32 {
    if value.abs() < 6.103_515_6e-5 {
        0f32.copysign(value)
    } else {
        value
    }
}

#[inline(always)]
fn relu(value: f32) -> f32 {
    if value.is_nan() {
        value
    } else {
        maximum(value, 0.0)
    }
}

/// Applies one expression to f16, f16x2, bf16 or bf16x2 operands.
macro_rules! halves {
    ($kind:expr, $shape:ident, |$($arg:ident),+| $e:expr) => {
        match $kind {
            Scalar::F16 => lanes!($shape, |$($arg),+| {
                $(let $arg = from_f16($arg & 0xffff);)+
                to_f16($e)
            }),
            Scalar::BF16 => lanes!($shape, |$($arg),+| {
                $(let $arg = from_bf16($arg & 0xffff);)+
                to_bf16($e)
            }),
            Scalar::F16x2 => lanes!($shape, |$($arg),+| {
                let low = { $(let $arg = from_f16($arg & 0xffff);)+ to_f16($e) };
                let high = { $(let $arg = from_f16($arg >> 16);)+ to_f16($e) };
                low | high << 16
            }),
            _ => lanes!($shape, |$($arg),+| {
                let low = { $(let $arg = from_bf16($arg & 0xffff);)+ to_bf16($e) };
                let high = { $(let $arg = from_bf16($arg >> 16);)+ to_bf16($e) };
                low | high << 16
            }),
        }
    };
}

/// The function of a half-precision instruction, or none where it is not implemented.
pub fn find(op: &str, suffixes: &mut Suffixes) -> Option<Lanes> {
    let kind = suffixes.kind(0)?;
    let is_f16 = matches!(kind, Scalar::F16 | Scalar::F16x2);
    if !matches!(suffixes.rounding(), None | Some(Rounding::Nearest)) {
        return None;
    }
    let (ftz, sat) = (suffixes.take("ftz"), suffixes.take("sat"));
    if ftz || sat {
        return if is_f16 {
            flushed(op, kind, ftz, sat)
        } else {
            None
        };
    }
    Some(match op {
        "add" => halves!(kind, WWtoW, |a, b| a + b),
        "sub" => halves!(kind, WWtoW, |a, b| a - b),
        "mul" => halves!(kind, WWtoW, |a, b| a * b),
        "fma" if suffixes.take("relu") => halves!(kind, WWWtoW, |a, b, c| relu(fused(a, b, c))),
        "fma" => halves!(kind, WWWtoW, |a, b, c| fused(a, b, c)),
        "neg" | "abs" => sign(op, kind)?,
        "min" if suffixes.take("NaN") => halves!(kind, WWtoW, |a, b| or_nan(minimum(a, b), a, b)),
        "max" if suffixes.take("NaN") => halves!(kind, WWtoW, |a, b| or_nan(maximum(a, b), a, b)),
        "min" => halves!(kind, WWtoW, |a, b| minimum(a, b)),
        "max" => halves!(kind, WWtoW, |a, b| maximum(a, b)),
        "ex2" if suffixes.take("approx") && is_f16 => halves!(kind, WtoW, |a| a.exp2()),
        "tanh" if suffixes.take("approx") => halves!(kind, WtoW, |a| a.tanh()),
        _ => return None,
    })
}

fn sign(op: &str, kind: Scalar) -> Option<Lanes> {
    let pair = matches!(kind, Scalar::F16x2 | Scalar::BF16x2);
    Some(match (op, pair) {
        ("neg", false) => lanes!(WtoW, |a| a ^ 0x8000),
        ("neg", true) => lanes!(WtoW, |a| a ^ 0x8000_8000),
        ("abs", false) => lanes!(WtoW, |a| a & 0x7fff),
        ("abs", true) => lanes!(WtoW, |a| a & 0x7fff_7fff),
        _ => return None,
    })
}

fn flushed(op: &str, kind: Scalar, ftz: bool, sat: bool) -> Option<Lanes> {
    if !ftz {
        return Some(match op {
            "add" => halves!(kind, WWtoW, |a, b| saturate(a + b)),
            "sub" => halves!(kind, WWtoW, |a, b| saturate(a - b)),
            "mul" => halves!(kind, WWtoW, |a, b| saturate(a * b)),
            "fma" => halves!(kind, WWWtoW, |a, b, c| saturate(fused(a, b, c))),
            _ => return None,
        });
    }
    if sat {
        return None;
    }
    Some(match op {
        "add" => halves!(kind, WWtoW, |a, b| flush16(flush16(a) + flush16(b))),
        "sub" => halves!(kind, WWtoW, |a, b| flush16(flush16(a) - flush16(b))),
        "mul" => halves!(kind, WWtoW, |a, b| flush16(flush16(a) * flush16(b))),
        _ => return None,
    })
}
