//! Logic, shifts and bit fields (PTX ISA 9.7.1 and 9.7.8).

use super::{Lanes, Suffixes, lanes};
use crate::ptx::Scalar::{self, *};

/// Whether `op` is one of this module's instructions.
pub fn is_bitwise(op: &str) -> bool {
    const OPS: [&str; 16] = [
        "and", "or", "xor", "not", "cnot", "shl", "shr", "shf", "lop3", "prmt", "bfe", "bfi",
        "bfind", "brev", "clz", "popc",
    ];
    OPS.contains(&op)
}

/// The function of a bitwise instruction, or none where it is not implemented.
pub fn find(op: &str, suffixes: &mut Suffixes) -> Option<Lanes> {
    let kind = suffixes.kind(0)?;
    match op {
        "shl" | "shr" => shift(op, kind),
        "shf" => funnel(suffixes),
        "lop3" => Some(lanes!(WWWWtoW, |a, b, c, table| logic3(a, b, c, table))),
        "prmt" => permute(suffixes),
        "bfe" | "bfi" => field(op, kind),
        "bfind" | "brev" | "clz" | "popc" => count(op, kind, suffixes),
        _ => logic(op, kind),
    }
}

fn logic(op: &str, kind: Scalar) -> Option<Lanes> {
    Some(match (op, kind) {
        ("and", B16 | B32) => lanes!(WWtoW, |a, b| a & b),
        ("and", B64) => lanes!(DDtoD, |a, b| a & b),
        ("or", B16 | B32) => lanes!(WWtoW, |a, b| a | b),
        ("or", B64) => lanes!(DDtoD, |a, b| a | b),
        ("xor", B16 | B32) => lanes!(WWtoW, |a, b| a ^ b),
        ("xor", B64) => lanes!(DDtoD, |a, b| a ^ b),
        ("not", B16) => lanes!(WtoW, |a| !a & 0xffff),
        ("not", B32) => lanes!(WtoW, |a| !a),
        ("not", B64) => lanes!(DtoD, |a| !a),
        ("cnot", B16 | B32) => lanes!(WtoW, |a| u32::from(a == 0)),
        ("cnot", B64) => lanes!(DtoD, |a| u64::from(a == 0)),
        _ => return None,
    })
}

/// Amounts past the width give 0, or the sign for signed types.
fn shift(op: &str, kind: Scalar) -> Option<Lanes> {
    Some(match (op, kind) {
        ("shl", B16) => lanes!(WWtoW, |a, n| if n > 15 { 0 } else { (a << n) & 0xffff }),
        ("shl", B32) => lanes!(WWtoW, |a, n| if n > 31 { 0 } else { a << (n & 31) }),
        ("shl", B64) => lanes!(DWtoD, |a, n| if n > 63 { 0 } else { a << (n & 63) }),
        ("shr", B16 | U16) => lanes!(WWtoW, |a, n| if n > 15 { 0 } else { (a & 0xffff) >> n }),
        ("shr", S16) => lanes!(WWtoW, |a, n| (i32::from(a as i16) >> n.min(15)) as u32
            & 0xffff),
        ("shr", B32 | U32) => lanes!(WWtoW, |a, n| if n > 31 { 0 } else { a >> (n & 31) }),
        ("shr", S32) => lanes!(WWtoW, |a, n| ((a as i32) >> n.min(31)) as u32),
        ("shr", B64 | U64) => lanes!(DWtoD, |a, n| if n > 63 { 0 } else { a >> (n & 63) }),
        ("shr", S64) => lanes!(DWtoD, |a, n| ((a as i64) >> n.min(63)) as u64),
        _ => return None,
    })
}

fn joined(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn funnel(suffixes: &mut Suffixes) -> Option<Lanes> {
    let right = suffixes.take_one(&["l", "r"])? == 1;
    let wrap = suffixes.take_one(&["clamp", "wrap"])? == 1;
    Some(match (right, wrap) {
        (false, false) => lanes!(WWWtoW, |a, b, n| ((joined(a, b) << n.min(32)) >> 32) as u32),
        (false, true) => lanes!(WWWtoW, |a, b, n| ((joined(a, b) << (n & 31)) >> 32) as u32),
        (true, false) => lanes!(WWWtoW, |a, b, n| (joined(a, b) >> n.min(32)) as u32),
        (true, true) => lanes!(WWWtoW, |a, b, n| (joined(a, b) >> (n & 31)) as u32),
    })
}

#[inline(always)]
fn logic3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut result = 0;
    for row in 0..8 {
        let taken = 0u32.wrapping_sub(table >> row & 1);
        let x = if row & 4 != 0 { a } else { !a };
        let y = if row & 2 != 0 { b } else { !b };
        let z = if row & 1 != 0 { c } else { !c };
        result |= taken & x & y & z;
    }
    result
}

#[inline(always)]
fn select_bytes(bytes: u64, selectors: [u32; 4]) -> u32 {
    let mut result = 0;
    for (place, selector) in selectors.into_iter().enumerate() {
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        let byte = if selector & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        result |= u32::from(byte) << (8 * place);
    }
    result
}

fn permute(suffixes: &mut Suffixes) -> Option<Lanes> {
    Some(
        match suffixes.take_one(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
            None => lanes!(WWWtoW, |a, b, c| {
                select_bytes(
                    joined(a, b),
                    [c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15],
                )
            }),
            Some(0) => lanes!(WWWtoW, |a, b, c| {
                let n = c & 3;
                select_bytes(joined(a, b), [n, n + 1, n + 2, n + 3])
            }),
            Some(1) => lanes!(WWWtoW, |a, b, c| {
                let n = c & 3;
                select_bytes(joined(a, b), [n, (n + 7) & 7, (n + 6) & 7, (n + 5) & 7])
            }),
            Some(2) => lanes!(WWWtoW, |a, b, c| select_bytes(joined(a, b), [c & 3; 4])),
            Some(5) => lanes!(WWWtoW, |a, b, c| {
                let n = 2 * (c & 1);
                select_bytes(joined(a, b), [n, n + 1, n, n + 1])
            }),
            Some(_) => return None,
        },
    )
}

fn field(op: &str, kind: Scalar) -> Option<Lanes> {
    Some(match (op, kind) {
        ("bfe", U32) => lanes!(
            WWWtoW,
            |a, at, length| extract(a as u64, at, length, 32, false) as u32
        ),
        ("bfe", S32) => {
            lanes!(
                WWWtoW,
                |a, at, length| extract(a as i32 as u64, at, length, 32, true) as u32
            )
        }
        ("bfe", U64) => lanes!(DWWtoD, |a, at, length| extract(a, at, length, 64, false)),
        ("bfe", S64) => lanes!(DWWtoD, |a, at, length| extract(a, at, length, 64, true)),
        ("bfi", B32) => lanes!(WWWWtoW, |a, b, at, length| insert(
            a as u64, b as u64, at, length, 32
        ) as u32),
        ("bfi", B64) => lanes!(DDWWtoD, |a, b, at, length| insert(a, b, at, length, 64)),
        _ => return None,
    })
}

/// `value` is sign-extended to 64 bits where `signed`; bits past the width read as the sign, or as 0.
fn extract(value: u64, at: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (at, length) = (at & 255, length & 255);
    if length == 0 {
        return 0;
    }
    let shifted = match (signed, at >= 64) {
        (true, _) => ((value as i64) >> at.min(63)) as u64,
        (false, true) => 0,
        (false, false) => value >> at,
    };
    let kept = length.min(width);
    if kept >= 64 {
        return shifted;
    }
    let field = shifted & ((1 << kept) - 1);
    if !signed {
        return field;
    }
    // The field's sign is its highest bit, or the value's where the field reaches past it.
    let sign_at = (at + length - 1).min(width - 1);
    let negative = value >> sign_at & 1 != 0;
    if negative {
        field | !((1 << kept) - 1)
    } else {
        field
    }
}

fn insert(value: u64, into: u64, at: u32, length: u32, width: u32) -> u64 {
    let (at, length) = (at & 255, length & 255);
    if at >= width || length == 0 {
        return into;
    }
    let ones = if length >= 64 {
        !0
    } else {
        (1u64 << length) - 1
    };
    let mask = ones << at;
    (into & !mask) | (value << at & mask)
}

fn count(op: &str, kind: Scalar, suffixes: &mut Suffixes) -> Option<Lanes> {
    if op == "bfind" && suffixes.take("shiftamt") {
        return match kind {
            U32 => Some(lanes!(WtoW, |a| if a == 0 {
                !0
            } else {
                a.leading_zeros()
            })),
            U64 => Some(lanes!(DtoW, |a| if a == 0 {
                !0
            } else {
                a.leading_zeros()
            })),
            _ => None,
        };
    }
    Some(match (op, kind) {
        ("popc", B32) => lanes!(WtoW, |a| a.count_ones()),
        ("popc", B64) => lanes!(DtoW, |a| a.count_ones()),
        ("clz", B32) => lanes!(WtoW, |a| a.leading_zeros()),
        ("clz", B64) => lanes!(DtoW, |a| a.leading_zeros()),
        ("brev", B32) => lanes!(WtoW, |a| a.reverse_bits()),
        ("brev", B64) => lanes!(DtoD, |a| a.reverse_bits()),
        ("bfind", U32) => lanes!(WtoW, |a| 31u32.wrapping_sub(a.leading_zeros())),
        ("bfind", S32) => lanes!(WtoW, |a| {
            31u32.wrapping_sub((if (a as i32) < 0 { !a } else { a }).leading_zeros())
        }),
        ("bfind", U64) => lanes!(DtoW, |a| 63u32.wrapping_sub(a.leading_zeros())),
        ("bfind", S64) => lanes!(DtoW, |a| {
            63u32.wrapping_sub((if (a as i64) < 0 { !a } else { a }).leading_zeros())
        }),
        _ => return None,
    })
}
