//! What a kernel can do wrong while it runs.

use std::fmt;

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationKind {
    /// An access outside every allocation, or outside the block's shared or the thread's local memory.
    OutOfBounds,
    /// An access to memory that was freed.
    UseAfterFree,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of memory that nobody wrote.
    Uninitialised,
    /// Two accesses to the same bytes, at least one a write, with nothing between them that orders them.
    Race,
    /// An access to the destination of an asynchronous copy before its wait.
    CopyNotAwaited,
    /// A block barrier that only a part of a warp reaches.
    DivergentBarrier,
    /// A barrier that cannot complete because participants have exited.
    ExitedBeforeBarrier,
    /// A barrier whose participants do not agree, or that nobody completes.
    BarrierMismatch,
    /// A warp instruction executed by lanes outside its mask, or with masks that differ.
    WrongMask,
    /// A warp instruction that waits for lanes which never come.
    MissingLanes,
    /// A shuffle from a lane that does not take part.
    InactiveLane,
    /// The kernel's own `trap`.
    Trap,
    /// The kernel runs on and on.
    NoProgress,
    /// Something that cannot be emulated faithfully was met while running.
    Refused,
}

/// One broken rule, with where and by whom.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Violation {
    /// The rule.
    pub kind: ViolationKind,
    /// Kernel.
    pub kernel: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// The instruction's text; empty where the violation belongs to none.
    pub instruction: String,
    /// Source file and line, where NVRTC was asked for line information; line 0 otherwise.
    pub source: (String, u32),
    /// Line in the PTX.
    pub ptx_line: u32,
    /// Address, allocation, the other party, and so on.
    pub detail: String,
    /// How often the same rule was broken by the same instruction.
    pub times: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "{}: kernel {}, block ({bx},{by},{bz}), thread ({tx},{ty},{tz})",
            self.kind, self.kernel
        )?;
        if self.source.1 > 0 {
            write!(f, ", {}:{}", self.source.0, self.source.1)?;
        }
        if !self.instruction.is_empty() {
            write!(f, ", PTX line {} `{}`", self.ptx_line, self.instruction)?;
        }
        write!(f, ": {}", self.detail)?;
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        Ok(())
    }
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            ViolationKind::OutOfBounds => "out of bounds",
            ViolationKind::UseAfterFree => "use after free",
            ViolationKind::Misaligned => "misaligned",
            ViolationKind::Uninitialised => "uninitialised read",
            ViolationKind::Race => "race",
            ViolationKind::CopyNotAwaited => "asynchronous copy not awaited",
            ViolationKind::DivergentBarrier => "divergent barrier",
            ViolationKind::ExitedBeforeBarrier => "exited before a barrier",
            ViolationKind::BarrierMismatch => "barrier mismatch",
            ViolationKind::WrongMask => "wrong member mask",
            ViolationKind::MissingLanes => "missing lanes",
            ViolationKind::InactiveLane => "inactive source lane",
            ViolationKind::Trap => "trap",
            ViolationKind::NoProgress => "no progress",
            ViolationKind::Refused => "refused",
        })
    }
}
