//! Instructions in which lanes or warps work together.

use super::kernel::{
    Atomic, BarrierKind, Class, Condition, Factor, MatrixProduct, Op, Reg, Shuffle, Vote,
};
use super::{Decoded, Decoder, UNKNOWN};
use crate::lanes::Suffixes;
use crate::ptx::{Operand, Scalar};

impl Decoder<'_> {
    /// `bar`, `barrier` and `bar.warp`.
    pub fn barrier(
        &mut self,
        op: &str,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        suffixes.take("cta");
        if suffixes.take("warp") {
            let [members] = operands else {
                return Err(UNKNOWN);
            };
            suffixes.take("sync");
            return Ok((
                Op::WarpBarrier(self.names.source(Some(members), Scalar::B32)?),
                Class::Barrier,
            ));
        }
        if op == "barrier" {
            suffixes.take("aligned");
        }
        let action = suffixes
            .take_one(&["sync", "arrive", "red"])
            .ok_or(UNKNOWN)?;
        let (kind, rest) = match action {
            0 => (BarrierKind::Sync, operands),
            1 => (BarrierKind::Arrive, operands),
            _ => self.barrier_reduction(suffixes, operands)?,
        };
        let condition_last = usize::from(action == 2);
        let id = self.names.source(rest.first(), Scalar::U32)?;
        let count = match rest.len() - condition_last {
            1 => None,
            2 => Some(self.names.source(rest.get(1), Scalar::U32)?),
            _ => return Err(UNKNOWN),
        };
        Ok((Op::Barrier { kind, id, count }, Class::Barrier))
    }

    fn barrier_reduction<'b>(
        &self,
        suffixes: &mut Suffixes,
        operands: &'b [Operand],
    ) -> Decoded<(BarrierKind, &'b [Operand])> {
        let [out, rest @ ..] = operands else {
            return Err(UNKNOWN);
        };
        if rest.len() < 2 {
            return Err(UNKNOWN);
        }
        let condition = self.names.condition(rest.last())?;
        let kind = match (suffixes.take_one(&["popc", "and", "or"]), out) {
            (Some(0), _) => BarrierKind::Count(self.names.out(Some(out), false)?, condition),
            (Some(1), Operand::Name(name)) => BarrierKind::All(self.names.pred(name)?, condition),
            (Some(2), Operand::Name(name)) => BarrierKind::Any(self.names.pred(name)?, condition),
            _ => return Err(UNKNOWN),
        };
        Ok((kind, rest))
    }

    /// `shfl.sync`.
    pub fn shuffle(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        const MODES: [Shuffle; 4] = [
            Shuffle::Up,
            Shuffle::Down,
            Shuffle::Butterfly,
            Shuffle::Index,
        ];
        sync(suffixes)?;
        let mode = MODES[suffixes
            .take_one(&["up", "down", "bfly", "idx"])
            .ok_or(UNKNOWN)?];
        let [to, value, lane, clamp, members] = operands else {
            return Err(UNKNOWN);
        };
        let (out, valid) = match to {
            Operand::Pair(out, valid) => {
                let out = if out == "_" {
                    Operand::Sink
                } else {
                    Operand::Name(out.clone())
                };
                (
                    self.names.out_or_sink(Some(&out), false)?,
                    self.pred_or_sink(valid)?,
                )
            }
            single => (self.names.out_or_sink(Some(single), false)?, None),
        };
        let mut source = |operand| self.names.source(Some(operand), Scalar::B32);
        let (value, lane, clamp, members) = (
            source(value)?,
            source(lane)?,
            source(clamp)?,
            source(members)?,
        );
        Ok((
            Op::Shuffle {
                mode,
                out,
                valid,
                value,
                lane,
                clamp,
                members,
            },
            Class::Warp,
        ))
    }

    /// `vote.sync`.
    pub fn vote(&mut self, suffixes: &mut Suffixes, operands: &[Operand]) -> Decoded<(Op, Class)> {
        sync(suffixes)?;
        let [to, condition, members] = operands else {
            return Err(UNKNOWN);
        };
        let condition: Condition = self.names.condition(Some(condition))?;
        let members = self.names.source(Some(members), Scalar::B32)?;
        let vote = match (suffixes.take_one(&["all", "any", "uni", "ballot"]), to) {
            (Some(3), _) => Vote::Ballot(self.names.out(Some(to), false)?),
            (Some(0), Operand::Name(name)) => Vote::All(self.names.pred(name)?),
            (Some(1), Operand::Name(name)) => Vote::Any(self.names.pred(name)?),
            (Some(2), Operand::Name(name)) => Vote::Uniform(self.names.pred(name)?),
            _ => return Err(UNKNOWN),
        };
        Ok((Op::Vote(vote, condition, members), Class::Warp))
    }

    /// `match.any.sync` and `match.all.sync`.
    pub fn matching(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        sync(suffixes)?;
        let all = suffixes.take_one(&["any", "all"]).ok_or(UNKNOWN)? == 1;
        let kind = suffixes.kind(0).ok_or(UNKNOWN)?;
        let [to, value, members] = operands else {
            return Err(UNKNOWN);
        };
        let (out, equal) = match to {
            Operand::Pair(out, equal) => (
                self.names.out(Some(&Operand::Name(out.clone())), false)?,
                self.pred_or_sink(equal)?,
            ),
            single => (self.names.out(Some(single), false)?, None),
        };
        let value = self.names.source(Some(value), kind)?;
        let members = self.names.source(Some(members), Scalar::B32)?;
        Ok((
            Op::Match {
                all,
                out,
                equal,
                value,
                wide: kind.is_wide(),
                members,
            },
            Class::Warp,
        ))
    }

    /// `redux.sync`.
    pub fn reduce(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        const ATOMICS: [Atomic; 6] = [
            Atomic::Add,
            Atomic::Min,
            Atomic::Max,
            Atomic::And,
            Atomic::Or,
            Atomic::Xor,
        ];
        sync(suffixes)?;
        let atomic = ATOMICS[suffixes
            .take_one(&["add", "min", "max", "and", "or", "xor"])
            .ok_or(UNKNOWN)?];
        let kind = suffixes
            .kind(0)
            .filter(|kind| matches!(kind, Scalar::U32 | Scalar::S32 | Scalar::B32))
            .ok_or(UNKNOWN)?;
        let [out, value, members] = operands else {
            return Err(UNKNOWN);
        };
        let out = self.names.out(Some(out), false)?;
        let value = self.names.source(Some(value), kind)?;
        let members = self.names.source(Some(members), Scalar::B32)?;
        Ok((
            Op::Reduce {
                atomic,
                signed: kind.is_signed(),
                out,
                value,
                members,
            },
            Class::Warp,
        ))
    }

    /// `ldmatrix` of 8×8 matrices of 16-bit elements.
    pub fn matrix_load(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        sync(suffixes)?;
        let known = suffixes.take("aligned")
            && suffixes.take("m8n8")
            && suffixes.kind(0) == Some(Scalar::B16);
        let count = [1, 2, 4][suffixes.take_one(&["x1", "x2", "x4"]).ok_or(UNKNOWN)?];
        let shared = suffixes.take("shared") || suffixes.take("shared::cta");
        let transposed = suffixes.take("trans");
        let [to, from] = operands else {
            return Err(UNKNOWN);
        };
        let out = self.registers::<4>(to, count)?;
        if !known || !shared {
            return Err(UNKNOWN);
        }
        let address = self.names.address(Some(from))?;
        Ok((
            Op::MatrixLoad {
                count,
                transposed,
                out,
                address,
            },
            Class::SharedLoad,
        ))
    }

    /// Registers to write, `count` of them.
    fn registers<const N: usize>(&self, operand: &Operand, count: usize) -> Decoded<[Reg; N]> {
        let parts = self.names.parts(Some(operand))?;
        if parts.len() != count || count > N {
            return Err(UNKNOWN);
        }
        let mut out = [Reg(0); N];
        for (place, part) in out.iter_mut().zip(parts) {
            *place = self.names.out(Some(part), false)?;
        }
        Ok(out)
    }

    /// Registers or immediates to read, `count` of them.
    fn sources<const N: usize>(
        &mut self,
        operand: &Operand,
        count: usize,
        kind: Scalar,
    ) -> Decoded<[Reg; N]> {
        let parts = self.names.parts(Some(operand))?;
        if parts.len() != count || count > N {
            return Err(UNKNOWN);
        }
        let mut out = [Reg(0); N];
        for (place, part) in out.iter_mut().zip(parts) {
            *place = self.names.source(Some(part), kind)?;
        }
        Ok(out)
    }

    /// `mma.sync` with f32 accumulation.
    pub fn matrix_product(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        use Scalar::*;
        sync(suffixes)?;
        let layout = suffixes.take("aligned") && suffixes.take("row") && suffixes.take("col");
        let shape = suffixes
            .take_one(&["m16n8k4", "m16n8k8", "m16n8k16"])
            .ok_or(UNKNOWN)?;
        let kinds = [0, 1, 2, 3].map(|index| suffixes.kind(index));
        let factor = match kinds {
            [Some(F32), Some(F16), Some(F16), Some(F32)] => Factor::F16,
            [Some(F32), Some(BF16), Some(BF16), Some(F32)] => Factor::BF16,
            [Some(F32), Some(TF32), Some(TF32), Some(F32)] => Factor::TF32,
            _ => return Err(UNKNOWN),
        };
        let depth = [4, 8, 16][shape];
        let (in_a, in_b) = match (factor, depth) {
            (Factor::TF32, 4) => (2, 1),
            (Factor::TF32, 8) => (4, 2),
            (Factor::F16 | Factor::BF16, 8) => (2, 1),
            (Factor::F16 | Factor::BF16, 16) => (4, 2),
            _ => return Err(UNKNOWN),
        };
        let [d, a, b, c] = operands else {
            return Err(UNKNOWN);
        };
        if !layout {
            return Err(UNKNOWN);
        }
        let out = self.registers(d, 4)?;
        let (a, b, c) = (
            self.sources(a, in_a, B32)?,
            self.sources(b, in_b, B32)?,
            self.sources(c, 4, F32)?,
        );
        Ok((
            Op::MatrixProduct(MatrixProduct {
                factor,
                depth,
                out,
                a,
                b,
                c,
            }),
            Class::Tensor,
        ))
    }
}

/// Warp instructions without `.sync` left the language; their meaning was another.
fn sync(suffixes: &mut Suffixes) -> Decoded<()> {
    if suffixes.take("sync") {
        Ok(())
    } else {
        Err(UNKNOWN)
    }
}
