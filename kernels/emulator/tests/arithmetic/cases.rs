//! The instructions, their operands and what Rust makes of them.

use half::{bf16, f16};

pub type Reference = fn(u64, u64, u64) -> u64;

pub fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

pub fn bits(value: f32) -> u64 {
    u64::from(value.to_bits())
}

pub fn h(bits: u64) -> f16 {
    f16::from_bits(bits as u16)
}

fn b(bits: u64) -> bf16 {
    bf16::from_bits(bits as u16)
}

fn s(bits: u64) -> i64 {
    i64::from(bits as i32)
}

/// Subnormals as zeros of their sign.
fn z(value: f32) -> f32 {
    if value.is_subnormal() {
        0f32.copysign(value)
    } else {
        value
    }
}

fn word(value: i64) -> u64 {
    u64::from(value as u32)
}

/// The f32 next to the exact sum in a direction, found by search around the nearest one: up if `up`, else down.
fn sum_towards(a: f32, b: f32, up: bool) -> f32 {
    let near = a + b;
    if !near.is_finite() {
        // Too large for f32: the exact sum is finite.
        let finite = a.is_finite() && b.is_finite();
        return if finite && (near > 0.0) != up {
            f32::MAX.copysign(near)
        } else {
            near
        };
    }
    // The error of an f32 addition is an f32 (Dekker), so this is exact unless it is subnormal, where sums are exact.
    let rest = near - a;
    let error = (a - (near - rest)) + (b - rest);
    match (up, error > 0.0, error < 0.0) {
        (true, true, _) => near.next_up(),
        (false, _, true) => near.next_down(),
        (false, false, false) if near == 0.0 && a.is_sign_negative() != b.is_sign_negative() => {
            -0.0
        }
        _ => near,
    }
}

#[rustfmt::skip]
pub const CASES: &[(&str, &str, Reference)] = &[
    ("add.s32", "r:rr", |a, b, _| word(s(a) + s(b))),
    ("add.sat.s32", "r:rr", |a, b, _| word((a as i32).saturating_add(b as i32).into())),
    ("sub.s64", "l:ll", |a, b, _| a.wrapping_sub(b)),
    ("add.u16", "h:hh", |a, b, _| (a + b) & 0xffff),
    ("mul.lo.s32", "r:rr", |a, b, _| word(s(a).wrapping_mul(s(b)))),
    ("mul.hi.s32", "r:rr", |a, b, _| word((s(a) * s(b)) >> 32)),
    ("mul.hi.u32", "r:rr", |a, b, _| (a * b) >> 32),
    ("mul.hi.u64", "l:ll", |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64),
    ("mul.hi.s64", "l:ll", |a, b, _| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
    ("mul.wide.s32", "l:rr", |a, b, _| (s(a) * s(b)) as u64),
    ("mul.wide.u16", "r:hh", |a, b, _| a * b),
    ("mul.wide.s16", "r:hh", |a, b, _| word(i64::from(a as i16) * i64::from(b as i16))),
    ("mad.lo.u32", "r:rrr", |a, b, c| (a.wrapping_mul(b).wrapping_add(c)) & 0xffff_ffff),
    ("mad.hi.u32", "r:rrr", |a, b, c| ((a * b) >> 32).wrapping_add(c) & 0xffff_ffff),
    ("mad.wide.u32", "l:rrl", |a, b, c| (a * b).wrapping_add(c)),
    ("mul24.lo.u32", "r:rr", |a, b, _| ((a & 0xff_ffff) * (b & 0xff_ffff)) & 0xffff_ffff),
    ("min.s32", "r:rr", |a, b, _| word(s(a).min(s(b)))),
    ("max.u64", "l:ll", |a, b, _| a.max(b)),
    ("abs.s32", "r:r", |a, _, _| word(s(a).abs())),
    ("neg.s16", "h:h", |a, _, _| a.wrapping_neg() & 0xffff),
    ("sad.u32", "r:rrr", |a, b, c| (a.abs_diff(b) + c) & 0xffff_ffff),
    ("shl.b32", "r:rr", |a, n, _| if n > 31 { 0 } else { a << n & 0xffff_ffff }),
    ("shr.s32", "r:rr", |a, n, _| word(s(a) >> n.min(31))),
    ("shr.u64", "l:lr", |a, n, _| if n > 63 { 0 } else { a >> n }),
    ("shf.l.wrap.b32", "r:rrr", |a, b, n| ((a | b << 32) << (n & 31)) >> 32),
    ("shf.r.clamp.b32", "r:rrr", |a, b, n| ((a | b << 32) >> n.min(32)) & 0xffff_ffff),
    ("popc.b64", "r:l", |a, _, _| a.count_ones().into()),
    ("clz.b32", "r:r", |a, _, _| (a as u32).leading_zeros().into()),
    ("brev.b64", "l:l", |a, _, _| a.reverse_bits()),
    ("bfind.u32", "r:r", |a, _, _| (a as u32).checked_ilog2().map_or(0xffff_ffff, u64::from)),
    ("bfe.u32", "r:rrr", |a, at, n| field(a, at & 255, n & 255, 32, false)),
    ("bfe.s32", "r:rrr", |a, at, n| field(a, at & 255, n & 255, 32, true)),
    ("bfe.s64", "l:lrr", |a, at, n| field(a, at & 255, n & 255, 64, true)),
    ("prmt.b32", "r:rrr", |a, b, c| {
        let bytes = (a | b << 32).to_le_bytes();
        let pick = |i: u64| { let n = c >> (4 * i); let byte = bytes[(n & 7) as usize]; if n & 8 != 0 { if byte > 127 { 255 } else { 0 } } else { byte } };
        (0..4).map(|i| u64::from(pick(i)) << (8 * i)).sum()
    }),
    ("lop3.b32 %0, %1, %2, %3, 0xca", "r:rrr", |a, b, c| (a & b) | (!a & c & 0xffff_ffff)),
    ("add.f32", "f:ff", |a, b, _| bits(f(a) + f(b))),
    ("add.ftz.f32", "f:ff", |a, b, _| bits(z(z(f(a)) + z(f(b))))),
    ("add.rm.f32", "f:ff", |a, b, _| bits(sum_towards(f(a), f(b), false))),
    ("add.rp.f32", "f:ff", |a, b, _| bits(sum_towards(f(a), f(b), true))),
    ("sub.f32", "f:ff", |a, b, _| bits(f(a) - f(b))),
    ("mul.f32", "f:ff", |a, b, _| bits(f(a) * f(b))),
    ("mul.ftz.f32", "f:ff", |a, b, _| bits(z(z(f(a)) * z(f(b))))),
    ("add.sat.f32", "f:ff", |a, b, _| { let v = f(a) + f(b); bits(if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) }) }),
    ("fma.rn.f32", "f:fff", |a, b, c| bits(f(a).mul_add(f(b), f(c)))),
    ("fma.rn.ftz.f32", "f:fff", |a, b, c| bits(z(z(f(a)).mul_add(z(f(b)), z(f(c)))))),
    ("div.rn.f32", "f:ff", |a, b, _| bits(f(a) / f(b))),
    ("rcp.rn.f32", "f:f", |a, _, _| bits(1.0 / f(a))),
    ("sqrt.rn.f32", "f:f", |a, _, _| bits(f(a).sqrt())),
    ("neg.f32", "f:f", |a, _, _| bits(-f(a))),
    ("abs.f32", "f:f", |a, _, _| bits(f(a).abs())),
    ("min.f32", "f:ff", |a, b, _| bits(least(f(a), f(b)))),
    ("max.f32", "f:ff", |a, b, _| bits(-least(-f(a), -f(b)))),
    ("copysign.f32", "f:ff", |a, b, _| bits(f(b).copysign(f(a)))),
    ("add.f64", "d:dd", |a, b, _| (d(a) + d(b)).to_bits()),
    ("fma.rn.f64", "d:ddd", |a, b, c| d(a).mul_add(d(b), d(c)).to_bits()),
    ("div.rn.f64", "d:dd", |a, b, _| (d(a) / d(b)).to_bits()),
    ("cvt.rn.f32.s32", "f:r", |a, _, _| bits(a as i32 as f32)),
    ("cvt.rn.f32.u64", "f:l", |a, _, _| bits(a as f32)),
    ("cvt.rz.f32.u32", "f:r", |a, _, _| { let v = a as f32; bits(if v as u64 > a { v.next_down() } else { v }) }),
    ("cvt.rzi.s32.f32", "r:f", |a, _, _| word((f(a) as i32).into())),
    ("cvt.rni.s32.f32", "r:f", |a, _, _| word((f(a).round_ties_even() as i32).into())),
    ("cvt.rmi.s32.f32", "r:f", |a, _, _| word((f(a).floor() as i32).into())),
    ("cvt.rpi.f32.f32", "f:f", |a, _, _| bits(f(a).ceil())),
    ("cvt.rzi.u64.f64", "l:d", |a, _, _| d(a) as u64),
    ("cvt.rn.f32.f64", "f:d", |a, _, _| bits(d(a) as f32)),
    ("cvt.f64.f32", "d:f", |a, _, _| f64::from(f(a)).to_bits()),
    ("cvt.sat.f32.f32", "f:f", |a, _, _| bits(if f(a).is_nan() || f(a) <= 0.0 { 0.0 } else { f(a).min(1.0) })),
    ("cvt.s64.s32", "l:r", |a, _, _| s(a) as u64),
    ("cvt.s64.s32", "l:l", |a, _, _| s(a) as u64),
    ("cvt.rn.f32.u16", "f:l", |a, _, _| bits((a as u16).into())),
    ("cvt.u32.u64", "r:l", |a, _, _| a & 0xffff_ffff),
    ("cvt.u16.u32", "h:r", |a, _, _| a & 0xffff),
    ("cvt.s32.s16", "r:h", |a, _, _| word((a as i16).into())),
    ("cvt.s32.s8", "r:r", |a, _, _| word((a as i8).into())),
    ("cvt.sat.u8.s32", "r:r", |a, _, _| s(a).clamp(0, 255) as u64),
    ("cvt.rn.f16.f32", "h:f", |a, _, _| f16::from_f32(f(a)).to_bits().into()),
    ("cvt.f32.f16", "f:h", |a, _, _| bits(h(a).to_f32())),
    ("cvt.rn.bf16.f32", "h:f", |a, _, _| bf16::from_f32(f(a)).to_bits().into()),
    ("cvt.rn.f16x2.f32", "r:ff", |a, b, _| u64::from(f16::from_f32(f(a)).to_bits()) << 16 | u64::from(f16::from_f32(f(b)).to_bits())),
    ("cvt.rn.bf16x2.f32", "r:ff", |a, b, _| u64::from(bf16::from_f32(f(a)).to_bits()) << 16 | u64::from(bf16::from_f32(f(b)).to_bits())),
    ("add.f16", "h:hh", |a, b, _| (h(a) + h(b)).to_bits().into()),
    ("mul.f16", "h:hh", |a, b, _| (h(a) * h(b)).to_bits().into()),
    ("fma.rn.bf16", "h:hhh", |x, y, c| bf16_fused(b(x), b(y), b(c))),
    ("max.bf16", "h:hh", |x, y, _| { let v = -least(-b(x).to_f32(), -b(y).to_f32()); bf16::from_f32(v).to_bits().into() }),
];

/// a·b + c of bf16 values, rounded once: of the neighbours of the f64 sum the nearest, ties by what f64 lost.
fn bf16_fused(x: bf16, y: bf16, c: bf16) -> u64 {
    let (product, c) = (x.to_f64() * y.to_f64(), c.to_f64());
    let sum = product + c;
    let near = bf16::from_f32(sum as f32);
    if !sum.is_finite() || near.is_infinite() {
        return near.to_bits().into();
    }
    let rest = sum - product;
    let error = (product - (sum - rest)) + (c - rest);
    let middle = near.to_bits();
    let around = [middle, middle.wrapping_sub(1), middle.wrapping_add(1)].map(bf16::from_bits);
    let distance = |candidate: &bf16| (candidate.to_f64() - sum).abs();
    let sound = around.into_iter().filter(|candidate| candidate.is_finite());
    let least = sound
        .clone()
        .map(|candidate| distance(&candidate))
        .fold(f64::INFINITY, f64::min);
    let mut nearest = sound.filter(|candidate| distance(candidate) == least);
    let (first, second) = (nearest.next(), nearest.next());
    let (Some(first), Some(second)) = (first, second) else {
        return first.unwrap_or(near).to_bits().into();
    };
    let upper = if first.to_f64() > second.to_f64() {
        first
    } else {
        second
    };
    let lower = if first.to_f64() > second.to_f64() {
        second
    } else {
        first
    };
    let even = if first.to_bits() % 2 == 0 {
        first
    } else {
        second
    };
    let right = if error > 0.0 {
        upper
    } else if error < 0.0 {
        lower
    } else {
        even
    };
    right.to_bits().into()
}

fn least(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

/// `bfe` bit by bit, as the PTX manual writes it.
fn field(a: u64, at: u64, length: u64, width: u64, signed: bool) -> u64 {
    let last = width - 1;
    let sign = signed && length > 0 && a >> (at + length - 1).min(last) & 1 != 0;
    let bit = |i: u64| {
        if i < length && at + i <= last {
            a >> (at + i) & 1 != 0
        } else {
            sign
        }
    };
    (0..width)
        .map(|i| u64::from(bit(i)) << i)
        .fold(0, |all, bit| all | bit)
}
