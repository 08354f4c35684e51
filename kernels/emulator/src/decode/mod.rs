//! From the tree to [`Kernel`]: names become rows, opcodes become functions, and what is not known is refused.
//!
//! | module | what it holds |
//! |---|---|
//! | [`kernel`] | the decoded form |
//! | `names` | registers, symbols, operands |
//! | `arithmetic` | instructions that touch registers only |
//! | `memory` | loads, stores, atomics, asynchronous copies |
//! | `warp` | shuffles, votes, barriers, tensor cores |

mod arithmetic;
pub mod kernel;
mod memory;
mod names;
mod rows;
mod warp;

pub use kernel::Kernel;

use crate::Error;
use crate::lanes::Suffixes;
use crate::ptx::{Entry, Instruction, Operand, Space, Statement};
use kernel::{Class, Condition, Inst, Op};
use names::Names;
use std::collections::{BTreeMap, HashMap};

/// Addresses of module-scope variables, by symbol.
pub type Symbols = HashMap<String, names::Symbol>;
pub use names::Symbol;

/// Why an instruction cannot be decoded.
enum Trouble {
    /// It is not implemented.
    Unknown(&'static str),
    /// It makes no sense.
    Wrong(String),
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Trouble::Wrong(what)
    }
}

type Decoded<T> = Result<T, Trouble>;

/// The default answer to what nobody knows.
const UNKNOWN: Trouble =
    Trouble::Unknown("this instruction or one of its suffixes is not implemented");

/// Decodes a kernel.
///
/// # Errors
/// [`Error::Refused`] names the first instruction that is not implemented, [`Error::Syntax`] one that makes no sense.
pub fn decode(
    entry: &Entry,
    symbols: &Symbols,
    files: &BTreeMap<u32, String>,
) -> Result<Kernel, Error> {
    let mut decoder = Decoder {
        names: Names::new(entry, symbols),
        code: Vec::new(),
        labels: HashMap::new(),
        jumps: Vec::new(),
    };
    for statement in &entry.body {
        decoder.statement(statement)?;
    }
    decoder.finish(entry, files)
}

struct Decoder<'a> {
    names: Names<'a>,
    code: Vec<Inst>,
    labels: HashMap<String, u32>,
    /// Branches whose target is not known yet: position and label.
    jumps: Vec<(usize, String)>,
}

impl Decoder<'_> {
    fn statement(&mut self, statement: &Statement) -> Result<(), Error> {
        match statement {
            Statement::Open => self.names.open(),
            Statement::Close => self.names.close(),
            Statement::Label(label) => {
                self.labels.insert(label.clone(), self.code.len() as u32);
            }
            Statement::Registers(kind, names) => names
                .iter()
                .for_each(|name| self.names.declare(*kind, name)),
            Statement::RegisterRange(kind, name, count) => {
                (0..*count).for_each(|index| self.names.declare(*kind, &format!("{name}{index}")));
            }
            Statement::Variable(variable) => self.names.declare_variable(variable),
            Statement::Instruction(instruction) => {
                let decoded = self.instruction(instruction);
                let line = instruction.location.ptx_line;
                decoded.map_err(|trouble| match trouble {
                    Trouble::Unknown(why) => Error::Refused {
                        line,
                        what: instruction.text.clone(),
                        why: why.into(),
                    },
                    Trouble::Wrong(what) => Error::Syntax {
                        line,
                        what: format!("{what} in `{}`", instruction.text),
                    },
                })?;
            }
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &Instruction) -> Decoded<()> {
        let mut words = instruction.opcode.split('.');
        let op = words.next().unwrap_or_default();
        let mut suffixes = Suffixes::new(words);
        let operands = &instruction.operands[..];
        let guard = match &instruction.guard {
            Some((name, negated)) => Condition {
                pred: Some(self.names.pred(name)?),
                negated: *negated,
            },
            None => Condition {
                pred: None,
                negated: false,
            },
        };
        let (op, class) = self.operation(op, &mut suffixes, operands)?;
        if suffixes.left_over().is_some() {
            return Err(UNKNOWN);
        }
        self.code.push(Inst {
            op,
            guard,
            class,
            location: instruction.location,
            text: instruction.text.clone(),
        });
        Ok(())
    }

    fn operation(
        &mut self,
        op: &str,
        suffixes: &mut Suffixes,
        operands: &[Operand],
    ) -> Decoded<(Op, Class)> {
        match op {
            "bra" => self.branch(suffixes, operands),
            "ret" | "exit" if operands.is_empty() => {
                suffixes.take("uni");
                Ok((Op::Exit, Class::Branch))
            }
            "trap" => Ok((Op::Trap, Class::Branch)),
            "ld" | "ldu" => self.load(suffixes, operands),
            "st" => self.store(suffixes, operands),
            "atom" | "red" => self.atomic(op, suffixes, operands),
            "cp" => self.copy(suffixes, operands),
            "membar" | "fence" => self.fence(op, suffixes),
            "bar" | "barrier" => self.barrier(op, suffixes, operands),
            "shfl" => self.shuffle(suffixes, operands),
            "vote" => self.vote(suffixes, operands),
            "match" => self.matching(suffixes, operands),
            "redux" => self.reduce(suffixes, operands),
            "activemask" => Ok((
                Op::ActiveMask(self.names.out(operands.first(), false)?),
                Class::Warp,
            )),
            "ldmatrix" => self.matrix_load(suffixes, operands),
            "mma" => self.matrix_product(suffixes, operands),
            "mov" => self.movement(suffixes, operands),
            "cvt" => self.conversion(suffixes, operands),
            "cvta" => self.address_conversion(suffixes, operands),
            "setp" | "testp" => self.comparison(op, suffixes, operands),
            "selp" => self.selection(suffixes, operands),
            _ => self.arithmetic(op, suffixes, operands),
        }
    }

    fn branch(&mut self, suffixes: &mut Suffixes, operands: &[Operand]) -> Decoded<(Op, Class)> {
        suffixes.take("uni");
        let [Operand::Name(label)] = operands else {
            return Err(UNKNOWN);
        };
        self.jumps.push((self.code.len(), label.clone()));
        Ok((Op::Branch(0), Class::Branch))
    }

    fn finish(mut self, entry: &Entry, files: &BTreeMap<u32, String>) -> Result<Kernel, Error> {
        for (at, label) in &self.jumps {
            let Some(&target) = self.labels.get(label) else {
                let line = self.code[*at].location.ptx_line;
                return Err(Error::Syntax {
                    line,
                    what: format!("no label {label}"),
                });
            };
            self.code[*at].op = Op::Branch(target);
        }
        // A label may stand at the very end.
        let location = self
            .code
            .last()
            .map_or_else(Default::default, |inst| inst.location);
        let guard = Condition {
            pred: None,
            negated: false,
        };
        self.code.push(Inst {
            op: Op::Exit,
            guard,
            class: Class::Branch,
            location,
            text: "}".into(),
        });
        let blocks_communicate = self.code.iter().any(|inst| communicates(&inst.op));
        let partial_barriers = self
            .code
            .iter()
            .any(|inst| self.names.is_partial_barrier(&inst.op));
        let mut kernel = Kernel {
            name: entry.name.clone(),
            code: self.code,
            rows: 0,
            preds: self.names.preds(),
            constants: Vec::new(),
            specials: Vec::new(),
            params: entry.params.clone(),
            shared_bytes: self.names.shared_bytes(),
            local_bytes: self.names.local_bytes(),
            max_threads: entry.max_threads.unwrap_or(1024),
            files: files.clone(),
            blocks_communicate,
            partial_barriers,
        };
        rows::assign(&mut kernel, &self.names);
        Ok(kernel)
    }
}

fn communicates(op: &Op) -> bool {
    match op {
        Op::Atomic { access, .. } => access.space != Space::Shared,
        Op::Load { access, .. } | Op::Store { access, .. } => {
            access.strong && !matches!(access.space, Space::Shared | Space::Local)
        }
        _ => false,
    }
}
