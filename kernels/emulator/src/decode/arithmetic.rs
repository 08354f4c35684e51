//! Instructions that touch registers only.

use super::kernel::{Class, Logic, Op, Reg};
use super::{Decoded, Decoder, Trouble, UNKNOWN};
use crate::lanes::convert::Conversion;
use crate::lanes::{self, Lanes, Suffixes, Width, compare, convert};
use crate::ptx::{Operand, Scalar};

/// How an arithmetic instruction is counted.
fn class(op: &str, kind: Scalar) -> Class {
    use Scalar::*;
    match (op, kind) {
        ("ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt" | "rcp" | "sqrt", _) => Class::Special,
        ("div", F32 | F64) => Class::Special,
        (_, F32) => Class::Float32,
        (_, F64) => Class::Float64,
        (_, F16 | F16x2 | BF16 | BF16x2) => Class::Half,
        _ => Class::Integer,
    }
}

fn scalar_of(width: Width, kind: Scalar) -> Scalar {
    match width {
        Width::Long if kind.is_wide() => kind,
        Width::Long => Scalar::B64,
        Width::Word if kind.is_wide() => Scalar::B32,
        Width::Word => kind,
    }
}

impl Decoder<'_> {
    /// Any instruction with a lane function.
    pub fn arithmetic(
        &mut self,
        op: &str,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        let kind = suffixes.kind(0).ok_or(UNKNOWN)?;
        if kind == Scalar::Pred {
            return self.logic(op, operands);
        }
        let lanes = lanes::find(op, suffixes).ok_or(UNKNOWN)?;
        Ok((self.lanes(lanes, kind, op, operands)?, class(op, kind)))
    }

    fn lanes(&mut self, lanes: Lanes, kind: Scalar, op: &str, operands: &[Operand]) -> Decoded<Op> {
        let widths = lanes.inputs();
        if operands.len() != widths.len() + 1 {
            return Err(Trouble::Wrong(format!(
                "{} operands instead of {}",
                operands.len(),
                widths.len() + 1
            )));
        }
        let out = self
            .names
            .out(operands.first(), lanes.output() == Some(Width::Long))?;
        let mut inputs = [Reg(0); 4];
        for (index, &width) in widths.iter().enumerate() {
            // Shift amounts, positions and tables are 32-bit numbers whatever the type.
            let plain =
                index > 0 && matches!(op, "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe" | "bfi");
            let wanted = if plain && width == Width::Word {
                Scalar::B32
            } else {
                scalar_of(width, kind)
            };
            // The third operand of `mad.wide.u16` has 32 bits.
            let wanted = if index == 2 && matches!(wanted, Scalar::U16 | Scalar::S16) {
                Scalar::B32
            } else {
                wanted
            };
            inputs[index] = self.names.source(operands.get(index + 1), wanted)?;
        }
        Ok(Op::Lanes(lanes, out, inputs))
    }

    fn logic(&mut self, op: &str, operands: &[Operand]) -> Decoded<(Op, Class)> {
        let Some(Operand::Name(out)) = operands.first() else {
            return Err(UNKNOWN);
        };
        let out = self.names.pred(out)?;
        let a = self.names.condition(operands.get(1))?;
        let logic = match op {
            "not" if operands.len() == 2 => {
                let negation = super::Condition {
                    negated: !a.negated,
                    ..a
                };
                return Ok((Op::SetPred(out, negation), Class::Predicate));
            }
            "and" => Logic::And,
            "or" => Logic::Or,
            "xor" => Logic::Xor,
            _ => return Err(UNKNOWN),
        };
        let b = self.names.condition(operands.get(2))?;
        Ok((Op::Logic(logic, out, a, b), Class::Predicate))
    }

    /// `mov`, also between a register and its parts.
    pub fn movement(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        let kind = suffixes.kind(0).ok_or(UNKNOWN)?;
        let [to, from] = operands else {
            return Err(UNKNOWN);
        };
        let op = match (to, from) {
            (Operand::Name(name), _) if kind == Scalar::Pred => {
                Op::SetPred(self.names.pred(name)?, self.names.condition(Some(from))?)
            }
            (_, Operand::Vector(values)) => {
                let bits = 8 * kind.bytes() / values.len().max(1);
                let part = part_kind(bits)?;
                let mut parts = [Reg(0); 4];
                for (place, value) in parts.iter_mut().zip(values) {
                    *place = self.names.source(Some(value), part)?;
                }
                let (out, count) = (self.names.out(Some(to), kind.is_wide())?, values.len());
                Op::Pack {
                    out,
                    wide: kind.is_wide(),
                    parts,
                    count,
                    bits: bits as u32,
                }
            }
            (Operand::Vector(values), _) => {
                let bits = 8 * kind.bytes() / values.len().max(1);
                part_kind(bits)?;
                let mut out = [None; 4];
                for (place, value) in out.iter_mut().zip(values) {
                    *place = self.names.out_or_sink(Some(value), false)?;
                }
                let (input, count) = (self.names.source(Some(from), kind)?, values.len());
                Op::Unpack {
                    out,
                    input,
                    wide: kind.is_wide(),
                    count,
                    bits: bits as u32,
                }
            }
            _ => {
                let input = self.names.source(Some(from), kind)?;
                Op::Move(
                    self.names.out(Some(to), kind.is_wide())?,
                    input,
                    kind.is_wide(),
                )
            }
        };
        Ok((op, Class::Move))
    }

    /// `cvt`.
    pub fn conversion(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        if operands.len() == 3 {
            let lanes = convert::find_pair(suffixes).ok_or(UNKNOWN)?;
            return Ok((
                self.lanes(lanes, Scalar::B32, "cvt", operands)?,
                Class::Conversion,
            ));
        }
        let conversion = Conversion::new(suffixes).ok_or(UNKNOWN)?;
        let [to, from] = operands else {
            return Err(UNKNOWN);
        };
        // A narrow type may sit in a wider register.
        let wide_out = self.names.is_wide(Some(to));
        let wide_in = self.names.is_wide(Some(from));
        if (conversion.to.is_wide() && !wide_out) || (conversion.from.is_wide() && !wide_in) {
            return Err(Trouble::Wrong("a register is too narrow".into()));
        }
        let out = self.names.out(Some(to), wide_out)?;
        let input = self.names.source(
            Some(from),
            if wide_in {
                Scalar::B64
            } else {
                conversion.from
            },
        )?;
        let bits = self.names.bits(out);
        let same_width =
            wide_out == conversion.to.is_wide() && wide_in == conversion.from.is_wide();
        let fits = bits == 8 * conversion.to.bytes() as u32;
        let op = match conversion.lanes() {
            Some(lanes) if same_width && fits => {
                Op::Lanes(lanes, out, [input, Reg(0), Reg(0), Reg(0)])
            }
            _ => Op::Convert(conversion, out, bits, (input, wide_in)),
        };
        Ok((op, Class::Conversion))
    }

    /// `setp` and `testp`.
    pub fn comparison(
        &mut self,
        op: &str,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        let kind = suffixes.kind(0).ok_or(UNKNOWN)?;
        // `and`, `or`, `xor` are no types, so they are still among the suffixes.
        let joined = suffixes
            .take_one(&["and", "or", "xor"])
            .map(|found| [Logic::And, Logic::Or, Logic::Xor][found]);
        let lanes = if op == "setp" {
            compare::find(suffixes)
        } else {
            compare::find_property(suffixes)
        }
        .ok_or(UNKNOWN)?;
        let (out, negation) = match operands.first() {
            Some(Operand::Name(name)) => (Some(self.names.pred(name)?), None),
            Some(Operand::Pair(out, negation)) => {
                (self.pred_or_sink(out)?, self.pred_or_sink(negation)?)
            }
            _ => return Err(UNKNOWN),
        };
        let mut inputs = [Reg(0); 2];
        let count = lanes.inputs().len();
        for index in 0..count {
            inputs[index] = self.names.source(operands.get(index + 1), kind)?;
        }
        let joined = match joined {
            Some(logic) => Some((logic, self.names.condition(operands.get(count + 1))?)),
            None => None,
        };
        if operands.len() != 1 + count + usize::from(joined.is_some()) {
            return Err(UNKNOWN);
        }
        Ok((
            Op::Compare {
                lanes,
                inputs,
                out,
                negation,
                joined,
            },
            Class::Predicate,
        ))
    }

    /// A predicate to write, or none for `_`.
    pub fn pred_or_sink(&self, name: &str) -> Decoded<Option<super::kernel::Pred>> {
        if name == "_" {
            Ok(None)
        } else {
            self.names.pred(name).map(Some)
        }
    }

    /// `selp`.
    pub fn selection(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        let kind = suffixes.kind(0).ok_or(UNKNOWN)?;
        let out = self.names.out(operands.first(), kind.is_wide())?;
        let yes = self.names.source(operands.get(1), kind)?;
        let no = self.names.source(operands.get(2), kind)?;
        let condition = self.names.condition(operands.get(3))?;
        Ok((
            Op::Select {
                out,
                yes,
                no,
                condition,
                wide: kind.is_wide(),
            },
            Class::Move,
        ))
    }
}

fn part_kind(bits: usize) -> Decoded<Scalar> {
    match bits {
        16 => Ok(Scalar::B16),
        32 => Ok(Scalar::B32),
        _ => Err(UNKNOWN),
    }
}
