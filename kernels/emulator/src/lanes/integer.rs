//! Integer arithmetic (PTX ISA 9.7.1). Values of 16 bits sit zero-extended in 32.

use super::{Lanes, Suffixes, lanes};
use crate::ptx::Scalar::{self, *};

fn low(value: u32) -> u32 {
    value & 0xffff
}

fn signed16(value: u32) -> i32 {
    value as i16 as i32
}

/// The function of an integer instruction, or none where it is not implemented.
pub fn find(op: &str, suffixes: &mut Suffixes) -> Option<Lanes> {
    let kind = suffixes.kind(0)?;
    match op {
        "add" | "sub" => sum(op, kind, suffixes),
        "mul" | "mad" => {
            let part = suffixes.take_one(&["lo", "hi", "wide"])?;
            if op == "mul" {
                product(kind, part)
            } else {
                product_sum(kind, part)
            }
        }
        "mul24" | "mad24" if suffixes.take("lo") => product24(op, kind),
        "div" | "rem" => quotient(op, kind),
        "neg" | "abs" => sign(op, kind),
        "min" | "max" => extreme(op, kind),
        "sad" => Some(match kind {
            U32 => lanes!(WWWtoW, |a, b, c| c.wrapping_add(a.abs_diff(b))),
            S32 => lanes!(WWWtoW, |a, b, c| c
                .wrapping_add((a as i32).abs_diff(b as i32))),
            _ => return None,
        }),
        _ => None,
    }
}

fn sum(op: &str, kind: Scalar, suffixes: &mut Suffixes) -> Option<Lanes> {
    if suffixes.take("sat") {
        return match (op, kind) {
            ("add", S32) => Some(lanes!(WWtoW, |a, b| (a as i32).saturating_add(b as i32) as u32)),
            ("sub", S32) => Some(lanes!(WWtoW, |a, b| (a as i32).saturating_sub(b as i32) as u32)),
            _ => None,
        };
    }
    Some(match (op, kind) {
        ("add", U16 | S16) => lanes!(WWtoW, |a, b| low(a.wrapping_add(b))),
        ("add", U32 | S32) => lanes!(WWtoW, |a, b| a.wrapping_add(b)),
        ("add", U64 | S64) => lanes!(DDtoD, |a, b| a.wrapping_add(b)),
        ("sub", U16 | S16) => lanes!(WWtoW, |a, b| low(a.wrapping_sub(b))),
        ("sub", U32 | S32) => lanes!(WWtoW, |a, b| a.wrapping_sub(b)),
        ("sub", U64 | S64) => lanes!(DDtoD, |a, b| a.wrapping_sub(b)),
        _ => return None,
    })
}

/// `part`: 0 the low half of the product, 1 the high half, 2 all of it.
fn product(kind: Scalar, part: usize) -> Option<Lanes> {
    Some(match (kind, part) {
        (U16 | S16, 0) => lanes!(WWtoW, |a, b| low(a.wrapping_mul(b))),
        (U16, 1) => lanes!(WWtoW, |a, b| low(a.wrapping_mul(b) >> 16)),
        (S16, 1) => lanes!(WWtoW, |a, b| low(
            (signed16(a).wrapping_mul(signed16(b)) >> 16) as u32
        )),
        (U16, 2) => lanes!(WWtoW, |a, b| low(a).wrapping_mul(low(b))),
        (S16, 2) => lanes!(WWtoW, |a, b| signed16(a).wrapping_mul(signed16(b)) as u32),
        (U32 | S32, 0) => lanes!(WWtoW, |a, b| a.wrapping_mul(b)),
        (U32, 1) => lanes!(WWtoW, |a, b| ((a as u64 * b as u64) >> 32) as u32),
        (S32, 1) => lanes!(WWtoW, |a, b| ((a as i32 as i64 * b as i32 as i64) >> 32)
            as u32),
        (U32, 2) => lanes!(WWtoD, |a, b| a as u64 * b as u64),
        (S32, 2) => lanes!(WWtoD, |a, b| (a as i32 as i64 * b as i32 as i64) as u64),
        (U64 | S64, 0) => lanes!(DDtoD, |a, b| a.wrapping_mul(b)),
        (U64, 1) => lanes!(DDtoD, |a, b| ((a as u128 * b as u128) >> 64) as u64),
        (S64, 1) => lanes!(DDtoD, |a, b| ((a as i64 as i128 * b as i64 as i128) >> 64)
            as u64),
        _ => return None,
    })
}

fn product_sum(kind: Scalar, part: usize) -> Option<Lanes> {
    Some(match (kind, part) {
        (U16 | S16, 0) => lanes!(WWWtoW, |a, b, c| low(a.wrapping_mul(b).wrapping_add(c))),
        (U16, 2) => lanes!(WWWtoW, |a, b, c| low(a)
            .wrapping_mul(low(b))
            .wrapping_add(c)),
        (S16, 2) => lanes!(WWWtoW, |a, b, c| (signed16(a).wrapping_mul(signed16(b))
            as u32)
            .wrapping_add(c)),
        (U32 | S32, 0) => lanes!(WWWtoW, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (U32, 1) => lanes!(WWWtoW, |a, b, c| (((a as u64 * b as u64) >> 32) as u32)
            .wrapping_add(c)),
        (S32, 1) => {
            lanes!(WWWtoW, |a, b, c| {
                (((a as i32 as i64 * b as i32 as i64) >> 32) as u32).wrapping_add(c)
            })
        }
        (U32, 2) => lanes!(WWDtoD, |a, b, c| (a as u64 * b as u64).wrapping_add(c)),
        (S32, 2) => lanes!(WWDtoD, |a, b, c| ((a as i32 as i64 * b as i32 as i64)
            as u64)
            .wrapping_add(c)),
        (U64 | S64, 0) => lanes!(DDDtoD, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (U64, 1) => lanes!(DDDtoD, |a, b, c| (((a as u128 * b as u128) >> 64) as u64)
            .wrapping_add(c)),
        (S64, 1) => {
            lanes!(DDDtoD, |a, b, c| {
                (((a as i64 as i128 * b as i64 as i128) >> 64) as u64).wrapping_add(c)
            })
        }
        _ => return None,
    })
}

fn unsigned24(value: u32) -> u32 {
    value & 0x00ff_ffff
}

fn signed24(value: u32) -> i32 {
    ((value << 8) as i32) >> 8
}

fn product24(op: &str, kind: Scalar) -> Option<Lanes> {
    Some(match (op, kind) {
        ("mul24", U32) => lanes!(WWtoW, |a, b| unsigned24(a).wrapping_mul(unsigned24(b))),
        ("mul24", S32) => lanes!(WWtoW, |a, b| signed24(a).wrapping_mul(signed24(b)) as u32),
        ("mad24", U32) => {
            lanes!(WWWtoW, |a, b, c| unsigned24(a)
                .wrapping_mul(unsigned24(b))
                .wrapping_add(c))
        }
        ("mad24", S32) => {
            lanes!(WWWtoW, |a, b, c| (signed24(a).wrapping_mul(signed24(b))
                as u32)
                .wrapping_add(c))
        }
        _ => return None,
    })
}

/// Division by zero gives all ones and the remainder the dividend, as GPUs do; PTX leaves both open.
fn quotient(op: &str, kind: Scalar) -> Option<Lanes> {
    Some(match (op, kind) {
        ("div", U16) => lanes!(WWtoW, |a, b| low(low(a).checked_div(low(b)).unwrap_or(!0))),
        ("div", S16) => {
            lanes!(WWtoW, |a, b| low(
                signed16(a).checked_div(signed16(b)).unwrap_or(-1) as u32
            ))
        }
        ("div", U32) => lanes!(WWtoW, |a, b| a.checked_div(b).unwrap_or(!0)),
        ("div", S32) => {
            lanes!(WWtoW, |a, b| if b == 0 {
                !0
            } else {
                (a as i32).wrapping_div(b as i32) as u32
            })
        }
        ("div", U64) => lanes!(DDtoD, |a, b| a.checked_div(b).unwrap_or(!0)),
        ("div", S64) => {
            lanes!(DDtoD, |a, b| if b == 0 {
                !0
            } else {
                (a as i64).wrapping_div(b as i64) as u64
            })
        }
        ("rem", U16) => lanes!(WWtoW, |a, b| low(low(a).checked_rem(low(b)).unwrap_or(a))),
        ("rem", S16) => {
            lanes!(WWtoW, |a, b| low(
                signed16(a).checked_rem(signed16(b)).unwrap_or(a as i32) as u32
            ))
        }
        ("rem", U32) => lanes!(WWtoW, |a, b| a.checked_rem(b).unwrap_or(a)),
        ("rem", S32) => {
            lanes!(WWtoW, |a, b| if b == 0 {
                a
            } else {
                (a as i32).wrapping_rem(b as i32) as u32
            })
        }
        ("rem", U64) => lanes!(DDtoD, |a, b| a.checked_rem(b).unwrap_or(a)),
        ("rem", S64) => {
            lanes!(DDtoD, |a, b| if b == 0 {
                a
            } else {
                (a as i64).wrapping_rem(b as i64) as u64
            })
        }
        _ => return None,
    })
}

fn sign(op: &str, kind: Scalar) -> Option<Lanes> {
    Some(match (op, kind) {
        ("neg", S16) => lanes!(WtoW, |a| low(a.wrapping_neg())),
        ("neg", S32) => lanes!(WtoW, |a| a.wrapping_neg()),
        ("neg", S64) => lanes!(DtoD, |a| a.wrapping_neg()),
        ("abs", S16) => lanes!(WtoW, |a| low(signed16(a).unsigned_abs())),
        ("abs", S32) => lanes!(WtoW, |a| (a as i32).unsigned_abs()),
        ("abs", S64) => lanes!(DtoD, |a| (a as i64).unsigned_abs()),
        _ => return None,
    })
}

fn extreme(op: &str, kind: Scalar) -> Option<Lanes> {
    Some(match (op, kind) {
        ("min", U16) => lanes!(WWtoW, |a, b| low(a).min(low(b))),
        ("min", S16) => lanes!(WWtoW, |a, b| low(signed16(a).min(signed16(b)) as u32)),
        ("min", U32) => lanes!(WWtoW, |a, b| a.min(b)),
        ("min", S32) => lanes!(WWtoW, |a, b| (a as i32).min(b as i32) as u32),
        ("min", U64) => lanes!(DDtoD, |a, b| a.min(b)),
        ("min", S64) => lanes!(DDtoD, |a, b| (a as i64).min(b as i64) as u64),
        ("max", U16) => lanes!(WWtoW, |a, b| low(a).max(low(b))),
        ("max", S16) => lanes!(WWtoW, |a, b| low(signed16(a).max(signed16(b)) as u32)),
        ("max", U32) => lanes!(WWtoW, |a, b| a.max(b)),
        ("max", S32) => lanes!(WWtoW, |a, b| (a as i32).max(b as i32) as u32),
        ("max", U64) => lanes!(DDtoD, |a, b| a.max(b)),
        ("max", S64) => lanes!(DDtoD, |a, b| (a as i64).max(b as i64) as u64),
        _ => return None,
    })
}
