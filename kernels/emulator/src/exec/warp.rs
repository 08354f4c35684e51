//! A warp: its registers, and which of its lanes are where.

use super::clock::Clock;
use super::copies::Copies;
use crate::decode::kernel::{Condition, Pred, Reg, Special};
use crate::lanes::{Longs, Words};

/// One row of registers: a 32-bit value for each lane.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Row(Words);

/// Registers of a warp.
pub struct Registers {
    rows: Vec<Row>,
    preds: Vec<u32>,
}

impl Registers {
    /// All zero.
    pub fn new(rows: usize, preds: usize) -> Self {
        Registers {
            rows: vec![Row([0; 32]); rows],
            preds: vec![0; preds],
        }
    }

    /// A 32-bit register.
    #[inline(always)]
    pub fn word(&self, reg: Reg) -> &Words {
        &self.rows[reg.0 as usize].0
    }

    /// A 64-bit register.
    #[inline(always)]
    pub fn long(&self, reg: Reg) -> &Longs {
        let at = reg.0 as usize;
        let rows: &[Row; 2] = self.rows[at..at + 2].try_into().expect("two rows");
        bytemuck::cast_ref(rows)
    }

    /// Writes a 32-bit register in the lanes of `mask`.
    #[inline(always)]
    pub fn set_word(&mut self, reg: Reg, mask: u32, values: &Words) {
        let row = &mut self.rows[reg.0 as usize].0;
        if mask == u32::MAX {
            *row = *values;
        } else {
            for lane in 0..32 {
                row[lane] = if mask >> lane & 1 != 0 {
                    values[lane]
                } else {
                    row[lane]
                };
            }
        }
    }

    /// Writes a 64-bit register in the lanes of `mask`.
    #[inline(always)]
    pub fn set_long(&mut self, reg: Reg, mask: u32, values: &Longs) {
        let at = reg.0 as usize;
        let rows: &mut [Row; 2] = (&mut self.rows[at..at + 2]).try_into().expect("two rows");
        let row: &mut Longs = bytemuck::cast_mut(rows);
        if mask == u32::MAX {
            *row = *values;
        } else {
            for lane in 0..32 {
                row[lane] = if mask >> lane & 1 != 0 {
                    values[lane]
                } else {
                    row[lane]
                };
            }
        }
    }

    /// Lanes in which a condition holds.
    #[inline(always)]
    pub fn condition(&self, condition: Condition) -> u32 {
        let mask = condition
            .pred
            .map_or(u32::MAX, |pred| self.preds[pred.0 as usize]);
        if condition.negated { !mask } else { mask }
    }

    /// Writes a predicate in the lanes of `mask`.
    #[inline(always)]
    pub fn set_pred(&mut self, pred: Pred, mask: u32, values: u32) {
        let bits = &mut self.preds[pred.0 as usize];
        *bits = (*bits & !mask) | (values & mask);
    }
}

/// Lanes that are at the same instruction.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// The instruction.
    pub pc: u32,
    /// The lanes.
    pub mask: u32,
    /// Waits for other lanes of the warp.
    pub parked: bool,
    /// Has just had a long turn; others go first.
    pub tired: bool,
}

/// Whether a warp can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It can.
    Ready,
    /// It waits at a barrier.
    Waiting(u32),
    /// All its lanes have exited.
    Done,
}

/// Local memory of a warp's lanes: a word of all lanes, then the next.
pub struct Local {
    /// Words by offset / 4.
    pub words: Vec<Words>,
    /// Per word and lane, one bit for each byte that has been written.
    pub written: Vec<[u8; 32]>,
}

/// A warp.
pub struct Warp {
    /// Its registers.
    pub registers: Registers,
    /// Its lanes, grouped by where they are.
    pub splits: Vec<Split>,
    /// Lanes that exist.
    pub all: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Whether it can go on.
    pub status: Status,
    /// What is ordered before its next access.
    pub clock: Clock,
    /// Copies under way.
    pub copies: Copies,
    /// Local memory.
    pub local: Local,
}

impl Warp {
    /// A warp of `lanes` lanes with room for a kernel's registers.
    pub fn new(rows: usize, preds: usize, lanes: u32, local_bytes: usize) -> Self {
        let words = local_bytes / 4;
        Warp {
            registers: Registers::new(rows, preds),
            splits: Vec::new(),
            all: if lanes == 32 {
                u32::MAX
            } else {
                (1 << lanes) - 1
            },
            live: 0,
            status: Status::Done,
            clock: Clock::new(),
            copies: Copies::default(),
            local: Local {
                words: vec![[0; 32]; words],
                written: vec![[0; 32]; words],
            },
        }
    }

    /// Starts a block.
    pub fn start(&mut self) {
        self.live = self.all;
        self.splits.clear();
        self.splits.push(Split {
            pc: 0,
            mask: self.all,
            parked: false,
            tired: false,
        });
        self.status = Status::Ready;
        self.clock = Clock::new();
        self.copies = Copies::default();
        self.local
            .written
            .iter_mut()
            .for_each(|flags| *flags = [0; 32]);
    }

    /// Fills the row of a special register.
    pub fn set_special(&mut self, reg: Reg, value: impl Fn(usize) -> u32) {
        self.registers
            .set_word(reg, u32::MAX, &std::array::from_fn(value));
    }

    /// Adds lanes at an instruction, joining those that are there already; who waited there looks again.
    pub fn join(&mut self, split: Split) {
        match self.splits.iter_mut().find(|have| have.pc == split.pc) {
            Some(have) => {
                have.parked = have.parked && split.parked && have.mask & split.mask == split.mask;
                have.mask |= split.mask;
                have.tired |= split.tired;
            }
            None => self.splits.push(split),
        }
    }

    /// Takes the lanes that go next: those furthest behind, so that lanes that parted meet again.
    pub fn pick(&mut self) -> Option<Split> {
        if self.splits.iter().all(|split| split.parked || split.tired) {
            self.splits.iter_mut().for_each(|split| split.tired = false);
        }
        let ready = self
            .splits
            .iter()
            .enumerate()
            .filter(|(_, split)| !split.parked && !split.tired);
        let (at, _) = ready.min_by_key(|(_, split)| split.pc)?;
        Some(self.splits.swap_remove(at))
    }
}

/// The value of a special register in a lane. `thread` is the linear thread index.
pub fn special(
    special: Special,
    thread: u32,
    block: [u32; 3],
    dim: [u32; 3],
    grid: [u32; 3],
    dynamic: u32,
) -> u32 {
    let lane = thread % 32;
    match special {
        Special::Tid(0) => thread % dim[0],
        Special::Tid(1) => thread / dim[0] % dim[1],
        Special::Tid(_) => thread / (dim[0] * dim[1]),
        Special::Ntid(axis) => dim[axis as usize],
        Special::Ctaid(axis) => block[axis as usize],
        Special::Nctaid(axis) => grid[axis as usize],
        Special::LaneId => lane,
        Special::WarpId => thread / 32,
        Special::WarpCount => (dim[0] * dim[1] * dim[2]).div_ceil(32),
        Special::MaskEqual => 1 << lane,
        Special::MaskLess => (1 << lane) - 1,
        Special::MaskLessEqual => u32::MAX >> (31 - lane),
        Special::MaskGreater => !(u32::MAX >> (31 - lane)),
        Special::MaskGreaterEqual => !((1 << lane) - 1),
        Special::DynamicShared => dynamic,
    }
}
