//! Conversions between types (PTX ISA 9.7.9, `cvt`).
//!
//! The frequent ones are lane functions; every other one goes through [`Conversion`], a lane at a time.

use super::float::{bits32, directed, flush, saturate};
use super::half::{NAN16, from_bf16, from_f16, to_bf16, to_f16, to_odd};
use super::{Lanes, Rounding, Suffixes, lanes};
use crate::ptx::Scalar::{self, *};

/// What a `cvt` does, for the conversions that have no lane function.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    /// Result type.
    pub to: Scalar,
    /// Operand type.
    pub from: Scalar,
    rounding: Option<Rounding>,
    to_integer: Option<Rounding>,
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Conversion {
    /// Reads the suffixes of `cvt`; none where the conversion is not implemented.
    pub fn new(suffixes: &mut Suffixes) -> Option<Conversion> {
        let (to, from) = (suffixes.kind(0)?, suffixes.kind(1)?);
        const TO_INTEGER: [Rounding; 4] = [
            Rounding::Nearest,
            Rounding::Zero,
            Rounding::Down,
            Rounding::Up,
        ];
        let to_integer = suffixes
            .take_one(&["rni", "rzi", "rmi", "rpi"])
            .map(|found| TO_INTEGER[found]);
        let conversion = Conversion {
            to,
            from,
            rounding: suffixes.rounding(),
            to_integer,
            ftz: suffixes.take("ftz"),
            sat: suffixes.take("sat"),
            relu: suffixes.take("relu"),
        };
        (suffixes.kinds() == 2 && conversion.is_known()).then_some(conversion)
    }

    fn is_known(&self) -> bool {
        let nearest = matches!(self.rounding, None | Some(Rounding::Nearest));
        let single = |kind| !matches!(kind, Pred | F16x2 | BF16x2);
        let combined = self.relu && !matches!(self.to, F16 | BF16);
        if !single(self.to) || !single(self.from) || self.from == TF32 || combined {
            return false;
        }
        match (self.from.is_float(), self.to.is_float()) {
            (false, false) => self.rounding.is_none() && self.to_integer.is_none() && !self.ftz,
            (true, false) => self.to_integer.is_some(),
            (false, true) => match self.to {
                F32 => self.rounding != Some(Rounding::NearestAway),
                F64 | F16 => nearest,
                BF16 => nearest && self.from.bytes() < 8,
                _ => false,
            },
            (true, true) => match self.to {
                F16 => nearest,
                BF16 | F32 => {
                    nearest
                        || matches!(
                            self.rounding,
                            Some(Rounding::Zero | Rounding::Down | Rounding::Up)
                        )
                }
                TF32 => {
                    self.from == F32
                        && matches!(self.rounding, Some(Rounding::NearestAway))
                        && !self.sat
                }
                F64 => true,
                _ => false,
            },
        }
    }

    /// The lane function of this conversion, if it is a frequent one.
    pub fn lanes(&self) -> Option<Lanes> {
        if self.sat || self.ftz || self.relu {
            return None;
        }
        let rounding = self.to_integer.or(self.rounding);
        Some(match (self.to, self.from, rounding) {
            (U64 | S64, U32, None) => lanes!(WtoD, |a| a as u64),
            (S64 | U64, S32, None) => lanes!(WtoD, |a| a as i32 as i64 as u64),
            (U32 | S32, U64 | S64, None) => lanes!(DtoW, |a| a as u32),
            (U16 | S16, U32 | S32, None) => lanes!(WtoW, |a| a & 0xffff),
            (U32 | S32, U16, None) => lanes!(WtoW, |a| a & 0xffff),
            (U32 | S32, S16, None) => lanes!(WtoW, |a| a as i16 as i32 as u32),
            (F32, S32, Some(Rounding::Nearest)) => lanes!(WtoW, |a| (a as i32 as f32).to_bits()),
            (F32, U32, Some(Rounding::Nearest)) => lanes!(WtoW, |a| (a as f32).to_bits()),
            (F32, F16, None) => lanes!(WtoW, |a| bits32(from_f16(a & 0xffff))),
            (F32, BF16, None) => lanes!(WtoW, |a| bits32(from_bf16(a & 0xffff))),
            (F16, F32, Some(Rounding::Nearest)) => lanes!(WtoW, |a| to_f16(f32::from_bits(a))),
            (BF16, F32, Some(Rounding::Nearest)) => lanes!(WtoW, |a| to_bf16(f32::from_bits(a))),
            (S32, F32, Some(Rounding::Zero)) => lanes!(WtoW, |a| f32::from_bits(a) as i32 as u32),
            (S32, F32, Some(Rounding::Down)) => {
                lanes!(WtoW, |a| f32::from_bits(a).floor() as i32 as u32)
            }
            (S32, F32, Some(Rounding::Nearest)) => {
                lanes!(WtoW, |a| f32::from_bits(a).round_ties_even() as i32 as u32)
            }
            (U32, F32, Some(Rounding::Zero)) => lanes!(WtoW, |a| f32::from_bits(a) as u32),
            (F64, F32, None) => lanes!(WtoD, |a| f64::from(f32::from_bits(a)).to_bits()),
            (F32, F64, Some(Rounding::Nearest)) => {
                lanes!(DtoW, |a| bits32(f64::from_bits(a) as f32))
            }
            _ => return None,
        })
    }

    /// Converts one value, for a result register of `width` bits.
    pub fn convert(&self, bits: u64, width: u32) -> u64 {
        let result = if self.from.is_float() {
            self.float_source(bits)
        } else {
            self.integer_source(bits)
        };
        if width < 64 {
            result & ((1 << width) - 1)
        } else {
            result
        }
    }

    fn integer_source(&self, bits: u64) -> u64 {
        let unused = 64 - 8 * self.from.bytes() as u32;
        let value = if self.from.is_signed() {
            i128::from((bits << unused) as i64 >> unused)
        } else {
            i128::from(bits << unused >> unused)
        };
        match self.to {
            F32 => u64::from(self.finish32(integer_to_f32(value, self.rounding))),
            F64 => (value as f64).to_bits(),
            F16 => u64::from(to_f16(to_odd(value as f64, 0.0))),
            BF16 => u64::from(to_bf16(to_odd(value as f64, 0.0))),
            to => integer_bits(value, to, self.sat),
        }
    }

    fn float_source(&self, bits: u64) -> u64 {
        let value = match self.from {
            F16 => f64::from(from_f16(bits as u32 & 0xffff)),
            BF16 => f64::from(from_bf16(bits as u32 & 0xffff)),
            F32 if self.ftz => f64::from(flush(f32::from_bits(bits as u32))),
            F32 => f64::from(f32::from_bits(bits as u32)),
            _ => f64::from_bits(bits),
        };
        let value = match self.to_integer {
            Some(Rounding::Nearest) => value.round_ties_even(),
            Some(Rounding::Zero) => value.trunc(),
            Some(Rounding::Down) => value.floor(),
            Some(_) => value.ceil(),
            None => value,
        };
        let rounding = self.rounding.unwrap_or(Rounding::Nearest);
        let value = if self.relu && !value.is_nan() {
            value.max(0.0)
        } else {
            value
        };
        match self.to {
            F32 => u64::from(self.finish32(directed(value, 0.0, rounding))),
            F64 if value.is_nan() => 0x7fff_ffff_ffff_ffff,
            F64 if self.sat => value.clamp(0.0, 1.0).to_bits(),
            F64 => value.to_bits(),
            F16 | BF16 if value.is_nan() => u64::from(if self.sat { 0 } else { NAN16 }),
            F16 => u64::from(to_f16(to_odd(self.clamped(value), 0.0))),
            BF16 => u64::from(round_bf16(self.clamped(value), rounding)),
            TF32 => u64::from(round_tf32(value as f32)),
            to => integer_bits(if value.is_nan() { 0 } else { value as i128 }, to, true),
        }
    }

    fn clamped(&self, value: f64) -> f64 {
        if self.sat {
            value.clamp(0.0, 1.0)
        } else {
            value
        }
    }

    fn finish32(&self, value: f32) -> u32 {
        let value = if self.sat { saturate(value) } else { value };
        bits32(if self.ftz { flush(value) } else { value })
    }
}

/// Low bits of `value` in an integer type, sign- or zero-extended; clamped to its range where `sat`.
fn integer_bits(value: i128, to: Scalar, sat: bool) -> u64 {
    let bits = 8 * to.bytes() as u32;
    let (least, most) = if to.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    let value = if sat { value.clamp(least, most) } else { value };
    let unused = 64 - bits;
    let raw = (value as u64) << unused;
    if to.is_signed() {
        ((raw as i64) >> unused) as u64
    } else {
        raw >> unused
    }
}

fn integer_to_f32(value: i128, rounding: Option<Rounding>) -> f32 {
    let near = value as f32;
    let exact = near as i128;
    match rounding {
        Some(Rounding::Down) if exact > value => near.next_down(),
        Some(Rounding::Up) if exact < value => near.next_up(),
        Some(Rounding::Zero) if exact.abs() > value.abs() => f32::from_bits(near.to_bits() - 1),
        _ => near,
    }
}

fn round_bf16(value: f64, rounding: Rounding) -> u32 {
    if rounding == Rounding::Nearest {
        return to_bf16(to_odd(value, 0.0));
    }
    let exact = to_odd(value, 0.0).to_bits();
    let (kept, inexact) = (exact >> 16, exact & 0xffff != 0);
    let away = match rounding {
        Rounding::Down => value < 0.0,
        Rounding::Up => value > 0.0,
        _ => false,
    };
    kept + u32::from(inexact && away)
}

/// To nearest, ties away from zero, in 10 bits of mantissa.
fn round_tf32(value: f32) -> u32 {
    if value.is_nan() {
        super::float::NAN32
    } else {
        value.to_bits().wrapping_add(0x1000) & 0xffff_e000
    }
}

/// `cvt.rn.f16x2.f32 d, a, b` and its bf16 twin: `a` in the high half.
pub fn find_pair(suffixes: &mut Suffixes) -> Option<Lanes> {
    let (to, from) = (suffixes.kind(0)?, suffixes.kind(1)?);
    if from != F32 || suffixes.kinds() != 2 || suffixes.rounding() != Some(Rounding::Nearest) {
        return None;
    }
    fn relu(bits: u32) -> f32 {
        let value = f32::from_bits(bits);
        if value < 0.0 { 0.0 } else { value }
    }
    let relu_wanted = suffixes.take("relu");
    Some(match (to, relu_wanted) {
        (F16x2, false) => lanes!(WWtoW, |a, b| to_f16(f32::from_bits(a)) << 16
            | to_f16(f32::from_bits(b))),
        (BF16x2, false) => lanes!(WWtoW, |a, b| to_bf16(f32::from_bits(a)) << 16
            | to_bf16(f32::from_bits(b))),
        (F16x2, true) => lanes!(WWtoW, |a, b| to_f16(relu(a)) << 16 | to_f16(relu(b))),
        (BF16x2, true) => lanes!(WWtoW, |a, b| to_bf16(relu(a)) << 16 | to_bf16(relu(b))),
        _ => return None,
    })
}
