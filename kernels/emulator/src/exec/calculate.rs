//! Lane functions applied to registers.

use super::lanes;
use super::warp::Warp;
use crate::decode::kernel::{Logic, Reg};
use crate::lanes::Lanes;

/// Two conditions joined.
pub fn logical(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// `selp`.
pub fn select(warp: &mut Warp, [out, yes, no]: [Reg; 3], holds: u32, wide: bool, active: u32) {
    if wide {
        let (yes, no) = (warp.registers.long(yes), warp.registers.long(no));
        let values = std::array::from_fn(|lane| {
            if holds >> lane & 1 != 0 {
                yes[lane]
            } else {
                no[lane]
            }
        });
        warp.registers.set_long(out, active, &values);
    } else {
        let (yes, no) = (warp.registers.word(yes), warp.registers.word(no));
        let values = std::array::from_fn(|lane| {
            if holds >> lane & 1 != 0 {
                yes[lane]
            } else {
                no[lane]
            }
        });
        warp.registers.set_word(out, active, &values);
    }
}

/// A register as 64-bit values.
pub fn read(warp: &Warp, reg: Reg, wide: bool) -> [u64; 32] {
    if wide {
        *warp.registers.long(reg)
    } else {
        warp.registers.word(reg).map(u64::from)
    }
}

/// Writes 64-bit values to a register of either width.
pub fn write(warp: &mut Warp, reg: Reg, wide: bool, active: u32, values: &[u64; 32]) {
    if wide {
        warp.registers.set_long(reg, active, values);
    } else {
        warp.registers
            .set_word(reg, active, &values.map(|value| value as u32));
    }
}

/// A loaded value of `bytes`, sign- or zero-extended to a register of `bits`.
#[inline(always)]
pub fn extend(value: u64, bytes: usize, signed: bool, bits: u32) -> u64 {
    let unused = 64 - 8 * bytes as u32;
    let value = if signed {
        ((value << unused) as i64 >> unused) as u64
    } else {
        value << unused >> unused
    };
    if bits < 64 {
        value & ((1 << bits) - 1)
    } else {
        value
    }
}

/// `setp`: the lanes for which a comparison holds.
#[inline(always)]
pub fn compare(warp: &Warp, function: Lanes, inputs: &[Reg; 2]) -> u32 {
    let registers = &warp.registers;
    let [a, b] = *inputs;
    // SAFETY: decoding made the function for this processor.
    unsafe {
        match function {
            Lanes::WWtoP(f) => f(registers.word(a), registers.word(b)),
            Lanes::DDtoP(f) => f(registers.long(a), registers.long(b)),
            Lanes::WtoP(f) => f(registers.word(a)),
            Lanes::DtoP(f) => f(registers.long(a)),
            _ => unreachable!("a comparison gives a predicate"),
        }
    }
}

/// Applies a lane function.
#[inline(always)]
pub fn calculate(warp: &mut Warp, function: Lanes, out: Reg, inputs: &[Reg; 4], active: u32) {
    let registers = &mut warp.registers;
    let [a, b, c, d] = *inputs;
    let (mut words, mut longs) = ([0u32; 32], [0u64; 32]);
    // SAFETY: decoding made the function for this processor.
    unsafe {
        match function {
            Lanes::WWtoW(f) => f(registers.word(a), registers.word(b), &mut words),
            Lanes::WWWtoW(f) => f(
                registers.word(a),
                registers.word(b),
                registers.word(c),
                &mut words,
            ),
            Lanes::WtoW(f) => f(registers.word(a), &mut words),
            Lanes::DtoW(f) => f(registers.long(a), &mut words),
            Lanes::WWWWtoW(f) => f(
                registers.word(a),
                registers.word(b),
                registers.word(c),
                registers.word(d),
                &mut words,
            ),
            Lanes::WtoD(f) => f(registers.word(a), &mut longs),
            Lanes::DtoD(f) => f(registers.long(a), &mut longs),
            Lanes::WWtoD(f) => f(registers.word(a), registers.word(b), &mut longs),
            Lanes::DDtoD(f) => f(registers.long(a), registers.long(b), &mut longs),
            Lanes::DWtoD(f) => f(registers.long(a), registers.word(b), &mut longs),
            Lanes::WWDtoD(f) => f(
                registers.word(a),
                registers.word(b),
                registers.long(c),
                &mut longs,
            ),
            Lanes::DWWtoD(f) => f(
                registers.long(a),
                registers.word(b),
                registers.word(c),
                &mut longs,
            ),
            Lanes::DDDtoD(f) => f(
                registers.long(a),
                registers.long(b),
                registers.long(c),
                &mut longs,
            ),
            Lanes::DDWWtoD(f) => f(
                registers.long(a),
                registers.long(b),
                registers.word(c),
                registers.word(d),
                &mut longs,
            ),
            Lanes::WtoP(_) | Lanes::DtoP(_) | Lanes::WWtoP(_) | Lanes::DDtoP(_) => {
                unreachable!("arithmetic gives a register")
            }
        }
    }
    match function {
        Lanes::WWtoW(_)
        | Lanes::WWWtoW(_)
        | Lanes::WtoW(_)
        | Lanes::DtoW(_)
        | Lanes::WWWWtoW(_) => {
            registers.set_word(out, active, &words);
        }
        _ => registers.set_long(out, active, &longs),
    }
}

/// The first lane of a mask.
pub fn first(mask: u32) -> usize {
    lanes(mask).next().unwrap_or(0)
}
