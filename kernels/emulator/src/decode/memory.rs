//! Loads, stores, atomics and asynchronous copies.

use super::kernel::{Access, Atomic, Class, Op, Reg};
use super::{Decoded, Decoder, Trouble, UNKNOWN};
use crate::exec::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::lanes::{Lanes, Suffixes, lanes};
use crate::ptx::{Operand, Scalar, Space};

/// Cache operators and eviction hints: they change speed, never values.
const HINTS: [&str; 16] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::no_allocate",
    "L1::evict_normal",
    "L1::evict_first",
    "L1::evict_last",
    "L1::evict_unchanged",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

fn drop_hints(suffixes: &mut Suffixes) {
    for hint in HINTS {
        suffixes.take(hint);
    }
}

/// Takes ordering and scope; true for accesses that may meet others of their kind without a race.
fn strong(suffixes: &mut Suffixes) -> bool {
    let strong = suffixes
        .take_one(&["volatile", "relaxed", "acquire", "release", "acq_rel"])
        .is_some();
    suffixes.take("weak");
    suffixes.take_one(&["cta", "cluster", "gpu", "sys"]);
    strong
}

fn space(suffixes: &mut Suffixes) -> Space {
    match suffixes.take_one(&["global", "shared", "shared::cta", "local", "param", "const"]) {
        Some(0) => Space::Global,
        Some(1 | 2) => Space::Shared,
        Some(3) => Space::Local,
        Some(4) => Space::Param,
        Some(5) => Space::Const,
        _ => Space::Generic,
    }
}

/// Elements of a vector access: the suffix and the operand must agree.
fn count(suffixes: &mut Suffixes, parts: usize) -> Decoded<usize> {
    let count = match suffixes.take_one(&["v2", "v4"]) {
        Some(0) => 2,
        Some(_) => 4,
        None => 1,
    };
    if count == parts {
        Ok(count)
    } else {
        Err(Trouble::Wrong("a vector of the wrong length".into()))
    }
}

fn is_memory_type(kind: Scalar) -> bool {
    !matches!(
        kind,
        Scalar::Pred | Scalar::F16x2 | Scalar::BF16x2 | Scalar::TF32
    )
}

impl Decoder<'_> {
    /// `ld`, among it `ld.param`.
    pub fn load(&mut self, suffixes: &mut Suffixes, operands: &[Operand]) -> Decoded<(Op, Class)> {
        let kind = suffixes
            .kind(0)
            .filter(|kind| is_memory_type(*kind))
            .ok_or(UNKNOWN)?;
        drop_hints(suffixes);
        let (strong, space) = (strong(suffixes), space(suffixes));
        let [to, from] = operands else {
            return Err(UNKNOWN);
        };
        let parts = self.names.parts(Some(to))?;
        let count = count(suffixes, parts.len())?;
        let (mut out, mut bits) = ([None; 4], 32);
        for (place, part) in out.iter_mut().zip(parts) {
            let wide = self.names.is_wide(Some(part)) || (kind.is_wide() && *part != Operand::Sink);
            *place = self.names.out_or_sink(Some(part), wide)?;
            if let Some(reg) = *place {
                bits = self.names.bits(reg);
            }
        }
        if parts
            .iter()
            .any(|part| *part != Operand::Sink && self.names.is_wide(Some(part)) != (bits == 64))
        {
            return Err(Trouble::Wrong("registers of different widths".into()));
        }
        let (bytes, signed) = (kind.bytes(), kind.is_signed());
        if space == Space::Param {
            let Operand::Address(Some(name), offset) = from else {
                return Err(UNKNOWN);
            };
            let param = self
                .names
                .param(name)
                .ok_or(Trouble::Unknown("only named parameters are implemented"))?;
            if *offset < 0 || *offset as usize + bytes * count > param.bytes {
                return Err(Trouble::Wrong("an offset outside the parameter".into()));
            }
            let offset = param.offset + *offset as usize;
            return Ok((
                Op::Param {
                    offset,
                    bytes,
                    count,
                    out,
                    bits,
                    signed,
                },
                Class::Constant,
            ));
        }
        let access = Access {
            space,
            address: self.names.address(Some(from))?,
            bytes,
            count,
            strong,
        };
        let class = match space {
            Space::Shared => Class::SharedLoad,
            Space::Local => Class::Local,
            Space::Const => Class::Constant,
            _ => Class::GlobalLoad,
        };
        Ok((
            Op::Load {
                access,
                out,
                bits,
                signed,
            },
            class,
        ))
    }

    /// `st`.
    pub fn store(&mut self, suffixes: &mut Suffixes, operands: &[Operand]) -> Decoded<(Op, Class)> {
        let kind = suffixes
            .kind(0)
            .filter(|kind| is_memory_type(*kind))
            .ok_or(UNKNOWN)?;
        drop_hints(suffixes);
        let (strong, space) = (strong(suffixes), space(suffixes));
        let [to, from] = operands else {
            return Err(UNKNOWN);
        };
        let parts = self.names.parts(Some(from))?;
        let count = count(suffixes, parts.len())?;
        let mut values = [Reg(0); 4];
        // A narrow store may take the low bits of a 64-bit register.
        let wide = kind.is_wide() || parts.iter().any(|part| self.names.is_wide(Some(part)));
        let stored = if wide && !kind.is_wide() {
            Scalar::B64
        } else {
            kind
        };
        for (place, part) in values.iter_mut().zip(parts) {
            *place = self.names.source(Some(part), stored)?;
        }
        let access = Access {
            space,
            address: self.names.address(Some(to))?,
            bytes: kind.bytes(),
            count,
            strong,
        };
        let class = match space {
            Space::Shared => Class::SharedStore,
            Space::Local => Class::Local,
            Space::Param | Space::Const => return Err(UNKNOWN),
            _ => Class::GlobalStore,
        };
        Ok((
            Op::Store {
                access,
                values,
                wide,
            },
            class,
        ))
    }

    /// `atom` and `red`.
    pub fn atomic(
        &mut self,
        op: &str,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        const NAMES: [&str; 10] = [
            "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec",
        ];
        const ATOMICS: [Atomic; 10] = [
            Atomic::Add,
            Atomic::Min,
            Atomic::Max,
            Atomic::And,
            Atomic::Or,
            Atomic::Xor,
            Atomic::Exch,
            Atomic::Cas,
            Atomic::Inc,
            Atomic::Dec,
        ];
        let kind = suffixes.kind(0).ok_or(UNKNOWN)?;
        strong(suffixes);
        let space = space(suffixes);
        let atomic = ATOMICS[suffixes.take_one(&NAMES).ok_or(UNKNOWN)?];
        let half = matches!(
            kind,
            Scalar::F16 | Scalar::F16x2 | Scalar::BF16 | Scalar::BF16x2
        );
        if half && !suffixes.take("noftz")
            || !atomic_is_known(atomic, kind)
            || suffixes.kinds() != 1
        {
            return Err(UNKNOWN);
        }
        if !matches!(space, Space::Global | Space::Shared | Space::Generic) {
            return Err(UNKNOWN);
        }
        let operands = match op {
            "atom" => operands,
            _ => &[&[Operand::Sink], operands].concat()[..],
        };
        if operands.len() != 3 + usize::from(atomic == Atomic::Cas) {
            return Err(UNKNOWN);
        }
        let out = self.names.out_or_sink(operands.first(), kind.is_wide())?;
        let address = self.names.address(operands.get(1))?;
        let value = self.names.source(operands.get(2), kind)?;
        let swap = if atomic == Atomic::Cas {
            self.names.source(operands.get(3), kind)?
        } else {
            value
        };
        let access = Access {
            space,
            address,
            bytes: kind.bytes(),
            count: 1,
            strong: true,
        };
        Ok((
            Op::Atomic {
                access,
                atomic,
                kind,
                out,
                value,
                swap,
            },
            Class::Atomic,
        ))
    }

    /// `cp.async` and its groups.
    pub fn copy(&mut self, suffixes: &mut Suffixes, operands: &[Operand]) -> Decoded<(Op, Class)> {
        if !suffixes.take("async") {
            return Err(UNKNOWN);
        }
        let op = if suffixes.take("commit_group") {
            Op::CopyCommit
        } else if suffixes.take("wait_all") {
            Op::CopyWait(None)
        } else if suffixes.take("wait_group") {
            let [Operand::Immediate(groups)] = operands else {
                return Err(UNKNOWN);
            };
            Op::CopyWait(Some(*groups as u32))
        } else {
            drop_hints(suffixes);
            let shared = suffixes.take("shared") || suffixes.take("shared::cta");
            if !shared || !suffixes.take("global") {
                return Err(UNKNOWN);
            }
            let Some(&Operand::Immediate(bytes @ (4 | 8 | 16))) = operands.get(2) else {
                return Err(UNKNOWN);
            };
            let read = match operands.get(3) {
                None => None,
                Some(Operand::Not(_)) => return Err(UNKNOWN),
                Some(Operand::Name(name)) if self.names.pred(name).is_ok() => return Err(UNKNOWN),
                size => Some(self.names.source(size, Scalar::U32)?),
            };
            let (to, from) = (
                self.names.address(operands.first())?,
                self.names.address(operands.get(1))?,
            );
            if operands.len() > 4 {
                return Err(UNKNOWN);
            }
            Op::Copy {
                to,
                from,
                bytes: bytes as usize,
                read,
            }
        };
        Ok((op, Class::AsyncCopy))
    }

    /// `membar` and `fence`.
    pub fn fence(&mut self, op: &str, suffixes: &mut Suffixes) -> Decoded<(Op, Class)> {
        if op == "fence" {
            suffixes.take_one(&["sc", "acq_rel"]);
        }
        suffixes
            .take_one(&["cta", "cluster", "gl", "gpu", "sys"])
            .ok_or(UNKNOWN)?;
        Ok((Op::Fence, Class::Barrier))
    }

    /// `cvta`: between a space's own addresses and generic ones.
    pub fn address_conversion(
        &mut self,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        let to_space = suffixes.take("to");
        let space = space(suffixes);
        let [to, from] = operands else {
            return Err(UNKNOWN);
        };
        if suffixes.kind(0) != Some(Scalar::U64) {
            return Err(UNKNOWN);
        }
        let out = self.names.out(Some(to), true)?;
        let input = self.names.source(Some(from), Scalar::U64)?;
        let window = match space {
            Space::Global | Space::Const => return Ok((Op::Move(out, input, true), Class::Move)),
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            _ => return Err(UNKNOWN),
        };
        let lanes: Lanes = if to_space {
            lanes!(DDtoD, |a, b| a.wrapping_sub(b))
        } else {
            lanes!(DDtoD, |a, b| a.wrapping_add(b))
        };
        let window = self.names.constant(window, true);
        Ok((
            Op::Lanes(lanes, out, [input, window, Reg(0), Reg(0)]),
            Class::Move,
        ))
    }
}

fn atomic_is_known(atomic: Atomic, kind: Scalar) -> bool {
    use Scalar::*;
    match atomic {
        Atomic::Add => matches!(
            kind,
            U32 | S32 | U64 | S64 | F32 | F64 | F16 | F16x2 | BF16 | BF16x2
        ),
        Atomic::Min | Atomic::Max => matches!(kind, U32 | S32 | U64 | S64),
        Atomic::And | Atomic::Or | Atomic::Xor | Atomic::Exch => matches!(kind, B32 | B64),
        Atomic::Cas => matches!(kind, B16 | B32 | B64),
        Atomic::Inc | Atomic::Dec => kind == U32,
    }
}
