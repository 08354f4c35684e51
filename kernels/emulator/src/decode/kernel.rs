//! Decoded instructions: what [`crate::exec`] executes.

use crate::lanes::Lanes;
use crate::lanes::convert::Conversion;
use crate::ptx::{Location, Param, Space};
use std::collections::BTreeMap;

/// A register: the row of 32-bit lane values where it starts. 64-bit registers take two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reg(pub u32);

/// A predicate register: one bit per lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pred(pub u32);

/// A predicate operand, perhaps negated.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// The register; none reads as true.
    pub pred: Option<Pred>,
    /// Whether it is negated.
    pub negated: bool,
}

/// An address operand: register plus offset, or an absolute one.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// The register, if there is one.
    pub base: Option<Reg>,
    /// Whether it is a 64-bit register.
    pub wide: bool,
    /// Added to it, in bytes.
    pub offset: i64,
}

/// What memory an instruction touches in each lane.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// State space.
    pub space: Space,
    /// Where.
    pub address: Address,
    /// Bytes per element.
    pub bytes: usize,
    /// Elements: 1, 2 or 4.
    pub count: usize,
    /// Volatile, relaxed, acquire or release: may meet other strong accesses without a race.
    pub strong: bool,
}

/// An atomic operation.
#[allow(missing_docs)] // the names are PTX's own
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// How two predicates are joined.
#[allow(missing_docs)] // the names are PTX's own
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// What a barrier instruction does.
#[derive(Debug, Clone, Copy)]
pub enum BarrierKind {
    /// Wait for all participants.
    Sync,
    /// Count as arrived and go on.
    Arrive,
    /// Wait, and combine a predicate of all threads: their number into a register.
    Count(Reg, Condition),
    /// Wait, and combine a predicate of all threads: whether all hold.
    All(Pred, Condition),
    /// Wait, and combine a predicate of all threads: whether any holds.
    Any(Pred, Condition),
}

/// How a shuffle finds its source lane.
#[allow(missing_docs)] // the names are PTX's own
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a vote gives.
#[derive(Debug, Clone, Copy)]
pub enum Vote {
    /// Whether all predicates hold.
    All(Pred),
    /// Whether any holds.
    Any(Pred),
    /// Whether all are equal.
    Uniform(Pred),
    /// The predicates as a mask.
    Ballot(Reg),
}

/// Element type of a matrix product's factors.
#[allow(missing_docs)] // the names are PTX's own
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    F16,
    BF16,
    TF32,
}

/// `mma.sync` m16n8k`depth` with f32 accumulation.
#[derive(Debug, Clone, Copy)]
pub struct MatrixProduct {
    /// Type of A and B.
    pub factor: Factor,
    /// k: 4, 8 or 16.
    pub depth: usize,
    /// D: four registers.
    pub out: [Reg; 4],
    /// A: the first two or all four.
    pub a: [Reg; 4],
    /// B: the first or both.
    pub b: [Reg; 2],
    /// C: four registers.
    pub c: [Reg; 4],
}

impl MatrixProduct {
    /// Registers of A and of B that hold elements.
    pub fn fragments(&self) -> (usize, usize) {
        let full = match self.factor {
            Factor::TF32 => 8,
            Factor::F16 | Factor::BF16 => 16,
        };
        if self.depth == full { (4, 2) } else { (2, 1) }
    }
}

/// What an instruction does.
#[allow(missing_docs)] // the fields of a variant are named for what they hold
#[derive(Debug, Clone, Copy)]
pub enum Op {
    /// Go to an instruction.
    Branch(u32),
    /// The thread ends.
    Exit,
    /// The kernel reports an error.
    Trap,
    /// Orders memory; nothing to do here but to count it.
    Fence,
    /// Arithmetic on rows.
    Lanes(Lanes, Reg, [Reg; 4]),
    /// A conversion without a lane function: result, its bits, operand and whether its register has 64 bits, of which a
    /// narrower type is the low ones.
    Convert(Conversion, Reg, u32, (Reg, bool)),
    /// Copies a register; the flag says 64 bits.
    Move(Reg, Reg, bool),
    /// Joins `count` registers of `bits` each.
    Pack {
        out: Reg,
        wide: bool,
        parts: [Reg; 4],
        count: usize,
        bits: u32,
    },
    /// Splits a register into `count` of `bits` each.
    Unpack {
        out: [Option<Reg>; 4],
        input: Reg,
        wide: bool,
        count: usize,
        bits: u32,
    },
    /// `setp`, `testp`: the comparison, its operands, where it goes and where its negation goes.
    Compare {
        lanes: Lanes,
        inputs: [Reg; 2],
        out: Option<Pred>,
        negation: Option<Pred>,
        joined: Option<(Logic, Condition)>,
    },
    /// `selp`; the flag says 64 bits.
    Select {
        out: Reg,
        yes: Reg,
        no: Reg,
        condition: Condition,
        wide: bool,
    },
    /// Predicate arithmetic.
    Logic(Logic, Pred, Condition, Condition),
    /// A predicate copied or negated.
    SetPred(Pred, Condition),
    /// `ld`: results, bits of a result register, whether small integers are sign-extended.
    Load {
        access: Access,
        out: [Option<Reg>; 4],
        bits: u32,
        signed: bool,
    },
    /// `st`; `wide` says that the values are in 64-bit registers.
    Store {
        access: Access,
        values: [Reg; 4],
        wide: bool,
    },
    /// `ld.param`: from the launch's parameters.
    Param {
        offset: usize,
        bytes: usize,
        count: usize,
        out: [Option<Reg>; 4],
        bits: u32,
        signed: bool,
    },
    /// `atom`, `red`.
    Atomic {
        access: Access,
        atomic: Atomic,
        kind: crate::ptx::Scalar,
        out: Option<Reg>,
        value: Reg,
        swap: Reg,
    },
    /// `cp.async`: bytes to write, and those of them to read where fewer.
    Copy {
        to: Address,
        from: Address,
        bytes: usize,
        read: Option<Reg>,
    },
    /// `cp.async.commit_group`.
    CopyCommit,
    /// `cp.async.wait_group n`: all but the last n groups; none for `wait_all`.
    CopyWait(Option<u32>),
    /// `bar`, `barrier`: its number, and how many threads take part where it is not all.
    Barrier {
        kind: BarrierKind,
        id: Reg,
        count: Option<Reg>,
    },
    /// `bar.warp.sync`.
    WarpBarrier(Reg),
    /// `shfl.sync`.
    Shuffle {
        mode: Shuffle,
        out: Option<Reg>,
        valid: Option<Pred>,
        value: Reg,
        lane: Reg,
        clamp: Reg,
        members: Reg,
    },
    /// `vote.sync`.
    Vote(Vote, Condition, Reg),
    /// `match.any.sync`, `match.all.sync`: the predicate says all are equal.
    Match {
        all: bool,
        out: Reg,
        equal: Option<Pred>,
        value: Reg,
        wide: bool,
        members: Reg,
    },
    /// `redux.sync`.
    Reduce {
        atomic: Atomic,
        signed: bool,
        out: Reg,
        value: Reg,
        members: Reg,
    },
    /// `activemask`.
    ActiveMask(Reg),
    /// `ldmatrix`: 1, 2 or 4 matrices.
    MatrixLoad {
        count: usize,
        transposed: bool,
        out: [Reg; 4],
        address: Address,
    },
    /// `mma.sync`.
    MatrixProduct(MatrixProduct),
}

/// Kinds of instructions that the profile counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Integer arithmetic and logic.
    Integer,
    /// f32 arithmetic.
    Float32,
    /// f64 arithmetic.
    Float64,
    /// f16 and bf16 arithmetic.
    Half,
    /// Approximate functions, divisions and square roots.
    Special,
    /// Conversions.
    Conversion,
    /// Moves and selections.
    Move,
    /// Comparisons and predicates.
    Predicate,
    /// Branches and exits.
    Branch,
    /// Global loads.
    GlobalLoad,
    /// Global stores.
    GlobalStore,
    /// Shared loads, matrix loads among them.
    SharedLoad,
    /// Shared stores.
    SharedStore,
    /// Local loads and stores: spilled or indexed arrays.
    Local,
    /// Constants and parameters.
    Constant,
    /// Atomic operations.
    Atomic,
    /// Asynchronous copies.
    AsyncCopy,
    /// Shuffles, votes, matches, reductions within a warp.
    Warp,
    /// Barriers and fences.
    Barrier,
    /// Tensor-core products.
    Tensor,
}

/// One decoded instruction.
#[derive(Debug, Clone)]
pub struct Inst {
    /// What it does.
    pub op: Op,
    /// Lanes in which it does so.
    pub guard: Condition,
    /// How it is counted.
    pub class: Class,
    /// Where it came from.
    pub location: Location,
    /// As written.
    pub text: String,
}

/// A value that depends on the thread, in a row of its own.
#[allow(missing_docs)] // the names are PTX's own
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    WarpCount,
    MaskEqual,
    MaskLess,
    MaskLessEqual,
    MaskGreater,
    MaskGreaterEqual,
    DynamicShared,
}

/// A decoded kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its symbol.
    pub name: String,
    /// Instructions; branch targets are positions here.
    pub code: Vec<Inst>,
    /// Rows a warp's registers take.
    pub rows: usize,
    /// Predicate registers of a warp.
    pub preds: usize,
    /// Rows that hold an immediate; the flag says 64 bits.
    pub constants: Vec<(Reg, u64, bool)>,
    /// Rows that hold a special register.
    pub specials: Vec<(Reg, Special)>,
    /// Parameters.
    pub params: Vec<Param>,
    /// Bytes of static shared memory; dynamic shared memory starts here.
    pub shared_bytes: usize,
    /// Bytes of local memory per thread.
    pub local_bytes: usize,
    /// Most threads a block may have.
    pub max_threads: u32,
    /// Source files by number.
    pub files: BTreeMap<u32, String>,
    /// Whether blocks may influence each other: atomics or strong accesses to memory that is not known to be shared.
    pub blocks_communicate: bool,
    /// Whether some barrier is not for the whole block.
    pub partial_barriers: bool,
}

impl Kernel {
    /// Size of the parameter buffer in bytes.
    pub fn param_bytes(&self) -> usize {
        self.params
            .last()
            .map_or(0, |param| param.offset + param.bytes)
    }
}
