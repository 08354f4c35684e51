//! Approximate functions (PTX ISA 9.7.3).
//!
//! **Accuracy model.** A GPU's result may be off by what PTX states (2 ulp for `ex2`, about 1 ulp for `rcp`, `sqrt`,
//! `rsqrt` and `div`, 2^-22 absolute near 1 and 3 ulp elsewhere for `lg2`, 2^-20.5 absolute within [−π, π] for `sin`
//! and `cos`, 2^-11 relative for `tanh`). Here they are the f32 result of the host's math library, at most about
//! 1 ulp off (`tanh` 3). So a result here is nearer to the truth than on a GPU and equal to no GPU's bits: a test
//! through these functions needs a tolerance that covers the figures above.

use super::float::floats;
use super::{Lanes, Suffixes, lanes};
use crate::ptx::Scalar;

/// Whether the instruction is one of this module's.
pub fn is_approximate(op: &str, suffixes: &Suffixes) -> bool {
    matches!(op, "ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt")
        || (matches!(op, "rcp" | "sqrt" | "div")
            && (suffixes.has("approx") || suffixes.has("full")))
}

/// The function of an approximate instruction, or none where it is not implemented.
pub fn find(op: &str, suffixes: &mut Suffixes) -> Option<Lanes> {
    suffixes.take_one(&["approx", "full"])?;
    let ftz = suffixes.take("ftz");
    if suffixes.kind(0) == Some(Scalar::F64) {
        return (op == "rcp" && ftz).then(|| lanes!(DtoD, |a| reciprocal_start(a)));
    }
    Some(match op {
        "ex2" => floats!(WtoW, ftz, false, |a| a.exp2()),
        "lg2" => floats!(WtoW, ftz, false, |a| a.log2()),
        "sin" => floats!(WtoW, ftz, false, |a| a.sin()),
        "cos" => floats!(WtoW, ftz, false, |a| a.cos()),
        "tanh" => floats!(WtoW, ftz, false, |a| a.tanh()),
        "rsqrt" => floats!(WtoW, ftz, false, |a| (1.0 / f64::from(a).sqrt()) as f32),
        "rcp" => floats!(WtoW, ftz, false, |a| 1.0 / a),
        "sqrt" => floats!(WtoW, ftz, false, |a| a.sqrt()),
        "div" => floats!(WWtoW, ftz, false, |a, b| a / b),
        _ => return None,
    })
}

/// `rcp.approx.ftz.f64`: the start of the library's divisions. Only the high halves of operand and result count.
fn reciprocal_start(bits: u64) -> u64 {
    const HIGH: u64 = !0xffff_ffff;
    let flushed = |value: f64| {
        if value.is_subnormal() {
            0f64.copysign(value)
        } else {
            value
        }
    };
    flushed(1.0 / flushed(f64::from_bits(bits & HIGH))).to_bits() & HIGH
}
