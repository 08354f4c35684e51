//! What can go wrong before a kernel runs. What goes wrong while it runs is a [`crate::Violation`].

use crate::Violation;

/// An error of the emulator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The text is not PTX.
    #[error("PTX line {line}: {what}")]
    Syntax {
        /// Line in the PTX text.
        line: u32,
        /// What is wrong.
        what: String,
    },
    /// Correct PTX that is not implemented: refused rather than executed wrongly.
    #[error("PTX line {line}: `{what}` is refused: {why}")]
    Refused {
        /// Line in the PTX text.
        line: u32,
        /// The instruction or declaration.
        what: String,
        /// Why.
        why: String,
    },
    /// A launch with sizes that no GPU would take, or that differ from what the kernel declares.
    #[error("launch of {kernel}: {what}")]
    Launch {
        /// Kernel.
        kernel: String,
        /// What is wrong.
        what: String,
    },
    /// The kernel broke a rule while it ran.
    #[error("{}", list(.0))]
    Violations(Vec<Violation>),
    /// No such kernel or variable in the module.
    #[error("the module has no `{0}`")]
    Missing(String),
    /// A module image that cannot be executed.
    #[error("{0}: the emulator executes PTX only, compile for compute_XX instead of sm_XX")]
    Image(&'static str),
    /// Operations of streams, or the host, on the same memory with nothing that orders them.
    #[error("{0}")]
    Order(String),
    /// A copy or fill outside an allocation.
    #[error("{0}")]
    Memory(String),
}

fn list(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(Violation::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
