//! What the parser makes of PTX text.

use super::{Scalar, Space};
use std::collections::BTreeMap;

/// One PTX file.
#[derive(Debug, Default)]
pub struct Module {
    /// Source files named by `.file`, by their number.
    pub files: BTreeMap<u32, String>,
    /// Variables at module scope.
    pub variables: Vec<Variable>,
    /// Kernels.
    pub entries: Vec<Entry>,
}

/// A variable in global, constant, shared or local memory.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its symbol.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Alignment in bytes.
    pub align: usize,
    /// Size in bytes; 0 for dynamic shared memory, whose size the launch gives.
    pub bytes: usize,
    /// Initial bytes; shorter than `bytes` where the rest is zero.
    pub init: Vec<u8>,
}

/// A kernel parameter.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its symbol.
    pub name: String,
    /// Offset in the parameter buffer, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its symbol.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Most threads a block may have, from `.maxntid`.
    pub max_threads: Option<u32>,
    /// Declarations and instructions in order.
    pub body: Vec<Statement>,
}

/// One statement of a kernel.
#[derive(Debug)]
pub enum Statement {
    /// `{`: names declared from here are local.
    Open,
    /// `}`.
    Close,
    /// A branch target.
    Label(String),
    /// `.reg`: each name with the type of all.
    Registers(Scalar, Vec<String>),
    /// `.reg .b32 %r<9>`: the names `%r0` … `%r8`.
    RegisterRange(Scalar, String, u32),
    /// A variable in shared or local memory.
    Variable(Variable),
    /// An instruction.
    Instruction(Instruction),
}

/// Where an instruction came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Number of the source file, 0 where there is no line information.
    pub file: u32,
    /// Line in that file, from 1.
    pub line: u32,
    /// Line in the PTX text, from 1.
    pub ptx_line: u32,
}

/// An instruction as written.
#[derive(Debug)]
pub struct Instruction {
    /// Guard predicate and whether it is negated (`@!%p1`).
    pub guard: Option<(String, bool)>,
    /// Opcode with all suffixes, such as `ld.global.v4.f32`.
    pub opcode: String,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// The statement's text, for messages.
    pub text: String,
    /// Where it came from.
    pub location: Location,
}

/// An operand as written.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register, special register, label or symbol.
    Name(String),
    /// An immediate's bits: integers as two's complement, floats as they are stored.
    Immediate(u64),
    /// `!name`.
    Not(String),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`; no base for an absolute address.
    Address(Option<String>, i64),
    /// `p|q`.
    Pair(String, String),
    /// `_`: the result is dropped.
    Sink,
}
