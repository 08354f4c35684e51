//! Types and state spaces of PTX.

/// A fundamental type of PTX (PTX ISA 5.2).
#[allow(missing_docs)] // the names are PTX's own
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scalar {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
}

impl Scalar {
    /// The type named by a suffix such as `f32`, without its dot.
    pub fn parse(name: &str) -> Option<Scalar> {
        use Scalar::*;
        Some(match name {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => BF16,
            "bf16x2" => BF16x2,
            "tf32" => TF32,
            "f32" => F32,
            "f64" => F64,
            _ => return None,
        })
    }

    /// Size in memory, in bytes.
    pub fn bytes(self) -> usize {
        use Scalar::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | BF16 => 2,
            B32 | U32 | S32 | F32 | TF32 | F16x2 | BF16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    /// Whether values take a 64-bit register.
    pub fn is_wide(self) -> bool {
        self.bytes() == 8
    }

    /// Whether it is a signed integer.
    pub fn is_signed(self) -> bool {
        matches!(self, Scalar::S8 | Scalar::S16 | Scalar::S32 | Scalar::S64)
    }

    /// Whether it is a floating-point type, packed pairs included.
    pub fn is_float(self) -> bool {
        use Scalar::*;
        matches!(self, F16 | F16x2 | BF16 | BF16x2 | TF32 | F32 | F64)
    }
}

/// A state space of PTX (PTX ISA 5.1). `Generic` addresses name global, shared or local memory by their value.
#[allow(missing_docs)] // the names are PTX's own
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}
