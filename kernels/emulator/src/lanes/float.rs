//! f32 and f64 arithmetic (PTX ISA 9.7.3), correctly rounded, with `.ftz` and `.sat`.
//!
//! A NaN result is the canonical one, as on a GPU. Rounding down, up or to zero goes through the f64 result and its
//! exact error.

use super::{Lanes, Rounding, Suffixes, lanes};

/// The NaN that f32 instructions give.
pub const NAN32: u32 = 0x7fff_ffff;
const NAN64: u64 = 0xfff8_0000_0000_0000;

/// `.ftz`: a subnormal becomes a zero of its sign.
#[inline(always)]
pub fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    })
}

/// `.sat`: within [0, 1], NaN becomes 0.
#[inline(always)]
pub fn saturate(value: f32) -> f32 {
    if value >= 1.0 {
        1.0
    } else if value > 0.0 {
        value
    } else {
        0.0
    }
}

/// Bits of a result, NaN made canonical.
#[inline(always)]
pub fn bits32(value: f32) -> u32 {
    if value.is_nan() {
        NAN32
    } else {
        value.to_bits()
    }
}

#[inline(always)]
fn bits64(value: f64) -> u64 {
    if value.is_nan() {
        NAN64
    } else {
        value.to_bits()
    }
}

/// A lane function over f32 values in the four combinations of `.ftz` and `.sat`.
macro_rules! floats {
    ($shape:ident, $ftz:expr, $sat:expr, |$($arg:ident),+| $e:expr) => {
        match ($ftz, $sat) {
            (false, false) => lanes!($shape, |$($arg),+| {
                $(let $arg = f32::from_bits($arg);)+
                $crate::lanes::float::bits32($e)
            }),
            (true, false) => lanes!($shape, |$($arg),+| {
                $(let $arg = $crate::lanes::float::flush(f32::from_bits($arg));)+
                $crate::lanes::float::bits32($crate::lanes::float::flush($e))
            }),
            (false, true) => lanes!($shape, |$($arg),+| {
                $(let $arg = f32::from_bits($arg);)+
                $crate::lanes::float::saturate($e).to_bits()
            }),
            (true, true) => lanes!($shape, |$($arg),+| {
                $(let $arg = $crate::lanes::float::flush(f32::from_bits($arg));)+
                $crate::lanes::float::flush($crate::lanes::float::saturate($e)).to_bits()
            }),
        }
    };
}
pub(crate) use floats;

/// What f64 addition lost: `a + b` is exactly its result plus this (Knuth's two-sum).
#[inline(always)]
pub fn addition_error(a: f64, b: f64, sum: f64) -> f64 {
    let rest = sum - a;
    (a - (sum - rest)) + (b - rest)
}

/// `value + error` rounded to f32, where `error` is far below `value`'s last place.
pub fn directed(value: f64, error: f64, rounding: Rounding) -> f32 {
    let near = value as f32;
    let above = f64::from(near) > value || (f64::from(near) == value && error < 0.0);
    let below = f64::from(near) < value || (f64::from(near) == value && error > 0.0);
    match rounding {
        Rounding::Down if above => near.next_down(),
        Rounding::Up if below => near.next_up(),
        Rounding::Zero if above && value > 0.0 => near.next_down(),
        Rounding::Zero if below && value < 0.0 => near.next_up(),
        _ => near,
    }
}

fn add_directed(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let sum = a + b;
    if sum == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return if rounding == Rounding::Down {
            -0.0
        } else {
            0.0
        };
    }
    directed(sum, addition_error(a, b, sum), rounding)
}

fn multiply_directed(a: f32, b: f32, rounding: Rounding) -> f32 {
    directed(f64::from(a) * f64::from(b), 0.0, rounding)
}

fn fused_directed(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    if sum == 0.0 && product.is_sign_negative() != c.is_sign_negative() {
        return if rounding == Rounding::Down {
            -0.0
        } else {
            0.0
        };
    }
    directed(sum, addition_error(product, c, sum), rounding)
}

/// The smaller value, −0 below +0; a NaN gives the other operand.
#[inline(always)]
pub fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b < a || (a == b && b.is_sign_negative()) {
        b
    } else {
        a
    }
}

/// The larger value, −0 below +0; a NaN gives the other operand.
#[inline(always)]
pub fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b > a || (a == b && a.is_sign_negative()) {
        b
    } else {
        a
    }
}

/// `value` unless an operand is NaN.
#[inline(always)]
pub fn or_nan(value: f32, a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else {
        value
    }
}

/// The function of an f32 instruction, or none where it is not implemented.
pub fn find_f32(op: &str, suffixes: &mut Suffixes) -> Option<Lanes> {
    let (ftz, sat) = (suffixes.take("ftz"), suffixes.take("sat"));
    let rounding = suffixes.rounding();
    if let Some(mode @ (Rounding::Zero | Rounding::Down | Rounding::Up)) = rounding {
        return find_directed(op, mode, ftz, sat);
    }
    Some(match op {
        "add" => floats!(WWtoW, ftz, sat, |a, b| a + b),
        "sub" => floats!(WWtoW, ftz, sat, |a, b| a - b),
        "mul" => floats!(WWtoW, ftz, sat, |a, b| a * b),
        "fma" | "mad" => floats!(WWWtoW, ftz, sat, |a, b, c| a.mul_add(b, c)),
        "div" if rounding.is_some() && !sat => floats!(WWtoW, ftz, false, |a, b| a / b),
        "rcp" if rounding.is_some() && !sat => floats!(WtoW, ftz, false, |a| 1.0 / a),
        "sqrt" if rounding.is_some() && !sat => floats!(WtoW, ftz, false, |a| a.sqrt()),
        "neg" if !ftz && !sat => lanes!(WtoW, |a| a ^ 0x8000_0000),
        "abs" if !ftz && !sat => lanes!(WtoW, |a| a & 0x7fff_ffff),
        "neg" if !sat => lanes!(WtoW, |a| flush(f32::from_bits(a)).to_bits() ^ 0x8000_0000),
        "abs" if !sat => lanes!(WtoW, |a| flush(f32::from_bits(a)).to_bits() & 0x7fff_ffff),
        "copysign" if !ftz && !sat => lanes!(WWtoW, |a, b| (a & 0x8000_0000) | (b & 0x7fff_ffff)),
        "min" if !sat && suffixes.take("NaN") => {
            floats!(WWtoW, ftz, false, |a, b| or_nan(minimum(a, b), a, b))
        }
        "max" if !sat && suffixes.take("NaN") => {
            floats!(WWtoW, ftz, false, |a, b| or_nan(maximum(a, b), a, b))
        }
        "min" if !sat => floats!(WWtoW, ftz, false, |a, b| minimum(a, b)),
        "max" if !sat => floats!(WWtoW, ftz, false, |a, b| maximum(a, b)),
        _ => return None,
    })
}

fn find_directed(op: &str, mode: Rounding, ftz: bool, sat: bool) -> Option<Lanes> {
    use Rounding::*;
    macro_rules! modes {
        ($shape:ident, |$($arg:ident),+| $f:ident) => {
            match mode {
                Zero => floats!($shape, ftz, sat, |$($arg),+| $f($($arg),+, Zero)),
                Down => floats!($shape, ftz, sat, |$($arg),+| $f($($arg),+, Down)),
                _ => floats!($shape, ftz, sat, |$($arg),+| $f($($arg),+, Up)),
            }
        };
    }
    fn subtract_directed(a: f32, b: f32, rounding: Rounding) -> f32 {
        add_directed(a, -b, rounding)
    }
    Some(match op {
        "add" => modes!(WWtoW, |a, b| add_directed),
        "sub" => modes!(WWtoW, |a, b| subtract_directed),
        "mul" => modes!(WWtoW, |a, b| multiply_directed),
        "fma" => modes!(WWWtoW, |a, b, c| fused_directed),
        _ => return None,
    })
}

/// The function of an f64 instruction, or none where it is not implemented. Only rounding to nearest is.
pub fn find_f64(op: &str, suffixes: &mut Suffixes) -> Option<Lanes> {
    macro_rules! doubles {
        ($shape:ident, |$($arg:ident),+| $e:expr) => {
            lanes!($shape, |$($arg),+| {
                $(let $arg = f64::from_bits($arg);)+
                bits64($e)
            })
        };
    }
    let rounding = suffixes.rounding();
    if !matches!(rounding, None | Some(Rounding::Nearest)) {
        return None;
    }
    Some(match op {
        "add" => doubles!(DDtoD, |a, b| a + b),
        "sub" => doubles!(DDtoD, |a, b| a - b),
        "mul" => doubles!(DDtoD, |a, b| a * b),
        "fma" | "mad" if rounding.is_some() => doubles!(DDDtoD, |a, b, c| a.mul_add(b, c)),
        "div" if rounding.is_some() => doubles!(DDtoD, |a, b| a / b),
        "rcp" if rounding.is_some() => doubles!(DtoD, |a| 1.0 / a),
        "sqrt" if rounding.is_some() => doubles!(DtoD, |a| a.sqrt()),
        "neg" => lanes!(DtoD, |a| a ^ 1 << 63),
        "abs" => lanes!(DtoD, |a| a & !(1 << 63)),
        "copysign" => lanes!(DDtoD, |a, b| (a & 1 << 63) | (b & !(1 << 63))),
        "min" => doubles!(
            DDtoD,
            |a, b| if a.is_nan() || b < a || (a == b && b.is_sign_negative()) {
                b
            } else {
                a
            }
        ),
        "max" => doubles!(
            DDtoD,
            |a, b| if a.is_nan() || b > a || (a == b && a.is_sign_negative()) {
                b
            } else {
                a
            }
        ),
        _ => return None,
    })
}
