//! Comparisons (PTX ISA 9.7.6) and `testp`, giving one bit per lane.

use super::float::flush;
use super::half::{from_bf16, from_f16};
use super::{Lanes, Suffixes, lanes};
use crate::ptx::Scalar::{self, *};

const ORDERED: [&str; 10] = ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
const UNORDERED: [&str; 8] = ["equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// The function of `setp` with its comparison among the suffixes, or none where it is not implemented.
pub fn find(suffixes: &mut Suffixes) -> Option<Lanes> {
    let kind = suffixes.kind(0)?;
    if suffixes.kinds() != 1 {
        return None;
    }
    let relation = match suffixes.take_one(&ORDERED) {
        Some(found) => ORDERED[found],
        None => UNORDERED[suffixes.take_one(&UNORDERED)?],
    };
    match kind {
        F32 if suffixes.take("ftz") => ordered_f32_flushed(relation),
        F32 | F64 | F16 | BF16 => floats(relation, kind),
        _ => integers(relation, kind),
    }
}

fn integers(relation: &str, kind: Scalar) -> Option<Lanes> {
    macro_rules! relations {
        ($shape:ident, $cast:ty) => {
            match relation {
                "eq" => lanes!($shape, |a, b| a as $cast == b as $cast),
                "ne" => lanes!($shape, |a, b| a as $cast != b as $cast),
                "lt" | "lo" => lanes!($shape, |a, b| (a as $cast) < b as $cast),
                "le" | "ls" => lanes!($shape, |a, b| a as $cast <= b as $cast),
                "gt" | "hi" => lanes!($shape, |a, b| a as $cast > b as $cast),
                "ge" | "hs" => lanes!($shape, |a, b| a as $cast >= b as $cast),
                _ => return None,
            }
        };
    }
    Some(match kind {
        B16 | U16 => relations!(WWtoP, u16),
        S16 => relations!(WWtoP, i16),
        B32 | U32 => relations!(WWtoP, u32),
        S32 => relations!(WWtoP, i32),
        B64 | U64 => relations!(DDtoP, u64),
        S64 => relations!(DDtoP, i64),
        _ => return None,
    })
}

macro_rules! float_relations {
    ($relation:expr, $shape:ident, $value:expr) => {
        match $relation {
            "eq" => lanes!($shape, |a, b| $value(a) == $value(b)),
            "ne" => lanes!($shape, |a, b| $value(a) < $value(b)
                || $value(a) > $value(b)),
            "lt" => lanes!($shape, |a, b| $value(a) < $value(b)),
            "le" => lanes!($shape, |a, b| $value(a) <= $value(b)),
            "gt" => lanes!($shape, |a, b| $value(a) > $value(b)),
            "ge" => lanes!($shape, |a, b| $value(a) >= $value(b)),
            "equ" => lanes!($shape, |a, b| !($value(a) < $value(b)
                || $value(a) > $value(b))),
            "neu" => lanes!($shape, |a, b| $value(a) != $value(b)),
            "ltu" => lanes!($shape, |a, b| !matches!(
                $value(a).partial_cmp(&$value(b)),
                Some(std::cmp::Ordering::Greater | std::cmp::Ordering::Equal)
            )),
            "leu" => lanes!($shape, |a, b| $value(a).partial_cmp(&$value(b))
                != Some(std::cmp::Ordering::Greater)),
            "gtu" => lanes!($shape, |a, b| !matches!(
                $value(a).partial_cmp(&$value(b)),
                Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
            )),
            "geu" => lanes!($shape, |a, b| $value(a).partial_cmp(&$value(b))
                != Some(std::cmp::Ordering::Less)),
            "num" => lanes!($shape, |a, b| !$value(a).is_nan() && !$value(b).is_nan()),
            "nan" => lanes!($shape, |a, b| $value(a).is_nan() || $value(b).is_nan()),
            _ => return None,
        }
    };
}

fn floats(relation: &str, kind: Scalar) -> Option<Lanes> {
    Some(match kind {
        F32 => float_relations!(relation, WWtoP, f32::from_bits),
        F64 => float_relations!(relation, DDtoP, f64::from_bits),
        F16 => float_relations!(relation, WWtoP, from_f16),
        BF16 => float_relations!(relation, WWtoP, from_bf16),
        _ => return None,
    })
}

fn ordered_f32_flushed(relation: &str) -> Option<Lanes> {
    #[inline(always)]
    fn flushed(bits: u32) -> f32 {
        flush(f32::from_bits(bits))
    }
    Some(float_relations!(relation, WWtoP, flushed))
}

/// The function of `testp` with its property among the suffixes, or none where it is not implemented.
pub fn find_property(suffixes: &mut Suffixes) -> Option<Lanes> {
    const PROPERTIES: [&str; 6] = [
        "finite",
        "infinite",
        "number",
        "notanumber",
        "normal",
        "subnormal",
    ];
    let property = suffixes.take_one(&PROPERTIES)?;
    Some(match (suffixes.kind(0)?, property) {
        (F32, 0) => lanes!(WtoP, |a| f32::from_bits(a).is_finite()),
        (F32, 1) => lanes!(WtoP, |a| f32::from_bits(a).is_infinite()),
        (F32, 2) => lanes!(WtoP, |a| !f32::from_bits(a).is_nan()),
        (F32, 3) => lanes!(WtoP, |a| f32::from_bits(a).is_nan()),
        (F32, 4) => lanes!(WtoP, |a| f32::from_bits(a).is_normal()),
        (F32, 5) => lanes!(WtoP, |a| f32::from_bits(a).is_subnormal()),
        (F64, 0) => lanes!(DtoP, |a| f64::from_bits(a).is_finite()),
        (F64, 1) => lanes!(DtoP, |a| f64::from_bits(a).is_infinite()),
        (F64, 2) => lanes!(DtoP, |a| !f64::from_bits(a).is_nan()),
        (F64, 3) => lanes!(DtoP, |a| f64::from_bits(a).is_nan()),
        (F64, 4) => lanes!(DtoP, |a| f64::from_bits(a).is_normal()),
        (F64, 5) => lanes!(DtoP, |a| f64::from_bits(a).is_subnormal()),
        _ => return None,
    })
}
