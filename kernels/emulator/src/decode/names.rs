//! Names of a kernel: registers, special registers, variables; and the operands made of them.

use super::kernel::{Address, BarrierKind, Condition, Op, Pred, Reg, Special};
use super::{Decoded, Symbols, Trouble, UNKNOWN};
use crate::ptx::{Entry, Operand, Param, Scalar, Space, Statement, Variable};
use std::collections::HashMap;

/// A module-scope variable.
#[derive(Debug, Clone, Copy)]
pub enum Symbol {
    /// In device memory, at an address.
    Device(u64),
    /// In shared memory: size and alignment; each kernel gives it an offset.
    #[allow(missing_docs)] // the names are plain
    Shared { bytes: usize, align: usize },
}

/// What a register number stands for until rows are assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// A declared register of 16, 32 or 64 bits.
    Register(u32),
    /// An immediate; the flag says 64 bits.
    Constant(u64, bool),
    /// A special register.
    Special(Special),
}

impl Slot {
    /// Whether it takes two rows.
    pub fn is_wide(self) -> bool {
        matches!(self, Slot::Register(64) | Slot::Constant(_, true))
    }
}

#[derive(Debug, Clone, Copy)]
enum Name {
    Register(Reg),
    Predicate(Pred),
    Value(u64),
}

/// Everything that has a name in one kernel.
pub struct Names<'a> {
    params: &'a [Param],
    scopes: Vec<HashMap<String, Name>>,
    slots: Vec<Slot>,
    pooled: HashMap<Slot, Reg>,
    offsets: HashMap<String, u64>,
    preds: u32,
    shared_bytes: usize,
    local_bytes: usize,
}

impl<'a> Names<'a> {
    /// Lays out the shared and local memory of `entry` and knows the module's symbols.
    pub fn new(entry: &'a Entry, symbols: &Symbols) -> Self {
        let mut names = Names {
            params: &entry.params,
            scopes: vec![HashMap::new()],
            slots: Vec::new(),
            pooled: HashMap::new(),
            offsets: HashMap::new(),
            preds: 0,
            shared_bytes: 0,
            local_bytes: 0,
        };
        let mut shared: Vec<(&String, usize, usize)> = Vec::new();
        for (name, symbol) in symbols {
            match *symbol {
                Symbol::Device(address) => {
                    names.scopes[0].insert(name.clone(), Name::Value(address));
                }
                Symbol::Shared { bytes, align } => shared.push((name, bytes, align)),
            }
        }
        shared.sort();
        for statement in &entry.body {
            if let Statement::Variable(variable) = statement {
                match variable.space {
                    Space::Shared => shared.push((&variable.name, variable.bytes, variable.align)),
                    _ => names.lay_out_local(variable),
                }
            }
        }
        names.lay_out_shared(&shared);
        names
    }

    /// Variables with a size first; dynamic shared memory, which has none, starts behind them.
    fn lay_out_shared(&mut self, variables: &[(&String, usize, usize)]) {
        for &(name, bytes, align) in variables.iter().filter(|variable| variable.1 > 0) {
            let offset = self.shared_bytes.next_multiple_of(align);
            self.shared_bytes = offset + bytes;
            self.offsets.insert(name.clone(), offset as u64);
        }
        let dynamic = || variables.iter().filter(|variable| variable.1 == 0);
        let align = dynamic()
            .map(|variable| variable.2)
            .max()
            .unwrap_or(1)
            .max(16);
        self.shared_bytes = self.shared_bytes.next_multiple_of(align);
        for (name, ..) in dynamic() {
            self.offsets
                .insert((*name).clone(), self.shared_bytes as u64);
        }
        let offsets = self.offsets.clone();
        for (name, ..) in variables {
            self.scopes[0].insert((*name).clone(), Name::Value(offsets[*name]));
        }
    }

    fn lay_out_local(&mut self, variable: &Variable) {
        let offset = self.local_bytes.next_multiple_of(variable.align);
        self.local_bytes = offset + variable.bytes;
        self.offsets.insert(variable.name.clone(), offset as u64);
    }

    /// `{`.
    pub fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// `}`.
    pub fn close(&mut self) {
        self.scopes.pop();
    }

    /// Declares a register.
    pub fn declare(&mut self, kind: Scalar, name: &str) {
        let declared = if kind == Scalar::Pred {
            self.preds += 1;
            Name::Predicate(Pred(self.preds - 1))
        } else {
            Name::Register(self.add(Slot::Register(8 * kind.bytes().max(2) as u32)))
        };
        self.insert(name, declared);
    }

    /// Declares a variable that [`Names::new`] has given an offset.
    pub fn declare_variable(&mut self, variable: &Variable) {
        let offset = self.offsets[&variable.name];
        self.insert(&variable.name, Name::Value(offset));
    }

    fn insert(&mut self, name: &str, value: Name) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.into(), value);
        }
    }

    fn add(&mut self, slot: Slot) -> Reg {
        self.slots.push(slot);
        Reg(self.slots.len() as u32 - 1)
    }

    /// A register of its own for each immediate and special register.
    fn pool(&mut self, slot: Slot) -> Reg {
        if let Some(&reg) = self.pooled.get(&slot) {
            return reg;
        }
        let reg = self.add(slot);
        self.pooled.insert(slot, reg);
        reg
    }

    /// What a register number stands for.
    pub fn slot(&self, reg: Reg) -> Slot {
        self.slots[reg.0 as usize]
    }

    /// All register numbers with what they stand for.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Number of predicates.
    pub fn preds(&self) -> usize {
        self.preds as usize
    }

    /// Bytes of static shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// Bytes of local memory per thread.
    pub fn local_bytes(&self) -> usize {
        self.local_bytes.next_multiple_of(4)
    }

    /// A parameter by its symbol.
    pub fn param(&self, name: &str) -> Option<&'a Param> {
        self.params.iter().find(|param| param.name == name)
    }

    fn find(&self, name: &str) -> Option<Name> {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.get(name).copied())
    }

    /// A predicate register.
    pub fn pred(&self, name: &str) -> Decoded<Pred> {
        match self.find(name) {
            Some(Name::Predicate(pred)) => Ok(pred),
            _ => Err(Trouble::Wrong(format!("`{name}` is no predicate"))),
        }
    }

    /// A predicate operand: `%p`, `!%p`, 0 or another number.
    pub fn condition(&self, operand: Option<&Operand>) -> Decoded<Condition> {
        Ok(match operand {
            Some(Operand::Name(name)) => Condition {
                pred: Some(self.pred(name)?),
                negated: false,
            },
            Some(Operand::Not(name)) => Condition {
                pred: Some(self.pred(name)?),
                negated: true,
            },
            Some(Operand::Immediate(value)) => Condition {
                pred: None,
                negated: *value == 0,
            },
            _ => return Err(UNKNOWN),
        })
    }

    /// A register to write; `wide` says whether it must have 64 bits.
    pub fn out(&self, operand: Option<&Operand>, wide: bool) -> Decoded<Reg> {
        self.out_or_sink(operand, wide)?.ok_or(UNKNOWN)
    }

    /// A register to write, or none for `_`.
    pub fn out_or_sink(&self, operand: Option<&Operand>, wide: bool) -> Decoded<Option<Reg>> {
        match operand {
            Some(Operand::Sink) => Ok(None),
            Some(Operand::Name(name)) => match self.find(name) {
                Some(Name::Register(reg)) if self.slot(reg).is_wide() == wide => Ok(Some(reg)),
                Some(Name::Register(_)) => {
                    Err(Trouble::Wrong(format!("`{name}` has the wrong width")))
                }
                _ => Err(Trouble::Wrong(format!("`{name}` is no register"))),
            },
            _ => Err(UNKNOWN),
        }
    }

    /// Bits of a declared register.
    pub fn bits(&self, reg: Reg) -> u32 {
        match self.slot(reg) {
            Slot::Register(bits) => bits,
            other => 32 + 32 * u32::from(other.is_wide()),
        }
    }

    /// Whether an operand is a register of 64 bits.
    pub fn is_wide(&self, operand: Option<&Operand>) -> bool {
        matches!(operand, Some(Operand::Name(name))
            if matches!(self.find(name), Some(Name::Register(reg)) if self.slot(reg).is_wide()))
    }

    /// A register to read: declared, special, a symbol's address, or an immediate of `kind`.
    pub fn source(&mut self, operand: Option<&Operand>, kind: Scalar) -> Decoded<Reg> {
        let wide = kind.is_wide();
        let truncated = |value: u64| {
            if wide {
                value
            } else {
                value & ((1 << (8 * kind.bytes())) - 1)
            }
        };
        match operand {
            Some(Operand::Immediate(value)) => {
                Ok(self.pool(Slot::Constant(truncated(*value), wide)))
            }
            Some(Operand::Name(name)) => match self.find(name) {
                Some(Name::Register(reg)) if self.slot(reg).is_wide() == wide => Ok(reg),
                Some(Name::Register(_)) => {
                    Err(Trouble::Wrong(format!("`{name}` has the wrong width")))
                }
                Some(Name::Value(value)) => Ok(self.pool(Slot::Constant(truncated(value), wide))),
                Some(Name::Predicate(_)) => Err(Trouble::Wrong(format!("`{name}` is a predicate"))),
                None if wide => Err(Trouble::Unknown(
                    "a parameter's address or an unknown name as a value",
                )),
                None => special(name).map(|found| self.pool(Slot::Special(found))),
            },
            _ => Err(UNKNOWN),
        }
    }

    /// An immediate as a register, for operands that are always there.
    pub fn constant(&mut self, value: u64, wide: bool) -> Reg {
        self.pool(Slot::Constant(value, wide))
    }

    /// `[register + offset]`, `[symbol + offset]` or an absolute address.
    pub fn address(&self, operand: Option<&Operand>) -> Decoded<Address> {
        match operand {
            Some(Operand::Address(Some(name), offset)) => match self.find(name) {
                Some(Name::Register(reg)) => Ok(Address {
                    base: Some(reg),
                    wide: self.slot(reg).is_wide(),
                    offset: *offset,
                }),
                Some(Name::Value(value)) => Ok(Address {
                    base: None,
                    wide: true,
                    offset: (value as i64).wrapping_add(*offset),
                }),
                _ => Err(Trouble::Wrong(format!("`{name}` is no address"))),
            },
            Some(Operand::Address(None, offset)) => Ok(Address {
                base: None,
                wide: true,
                offset: *offset,
            }),
            _ => Err(UNKNOWN),
        }
    }

    /// The parts of `{a, b}`, or the operand alone.
    pub fn parts<'b>(&self, operand: Option<&'b Operand>) -> Decoded<&'b [Operand]> {
        match operand {
            Some(Operand::Vector(parts)) => Ok(parts),
            Some(single) => Ok(std::slice::from_ref(single)),
            None => Err(UNKNOWN),
        }
    }

    /// Whether a barrier may leave out some of the block's warps.
    pub fn is_partial_barrier(&self, op: &Op) -> bool {
        matches!(
            op,
            Op::Barrier {
                kind: BarrierKind::Arrive,
                ..
            } | Op::Barrier { count: Some(_), .. }
        )
    }
}

fn special(name: &str) -> Decoded<Special> {
    let axis = |prefix: &str| {
        let axis = name.strip_prefix(prefix)?.strip_prefix('.')?;
        ["x", "y", "z"]
            .iter()
            .position(|have| *have == axis)
            .map(|found| found as u8)
    };
    if let Some(axis) = axis("%tid") {
        return Ok(Special::Tid(axis));
    }
    if let Some(axis) = axis("%ntid") {
        return Ok(Special::Ntid(axis));
    }
    if let Some(axis) = axis("%ctaid") {
        return Ok(Special::Ctaid(axis));
    }
    if let Some(axis) = axis("%nctaid") {
        return Ok(Special::Nctaid(axis));
    }
    Ok(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::WarpCount,
        "%lanemask_eq" => Special::MaskEqual,
        "%lanemask_lt" => Special::MaskLess,
        "%lanemask_le" => Special::MaskLessEqual,
        "%lanemask_gt" => Special::MaskGreater,
        "%lanemask_ge" => Special::MaskGreaterEqual,
        "%dynamic_smem_size" => Special::DynamicShared,
        _ => {
            return Err(Trouble::Unknown(
                "a name that is not declared or a special register that is not implemented",
            ));
        }
    })
}
