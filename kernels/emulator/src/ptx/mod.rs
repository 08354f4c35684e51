//! PTX text as NVRTC writes it: tokens, then a tree of declarations and instructions.
//!
//! Nothing is interpreted here: an instruction is its opcode, its operands and where it came from. What an opcode
//! means, and whether it is known at all, is decided by [`crate::decode`].

mod lexer;
mod parser;
mod scalar;
mod statement;
mod tree;

pub use parser::parse;
pub use scalar::{Scalar, Space};
pub use tree::{Entry, Instruction, Location, Module, Operand, Param, Statement, Variable};
