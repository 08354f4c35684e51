//! Which lanes of a warp run next, and until when.

use super::block::Worker;
use super::launch::MOST_STEPS;
use super::step::Next;
use super::warp::{Split, Status};
use crate::decode::kernel::{Inst, Op};
use crate::violation::ViolationKind;

/// Instructions after which other lanes and warps get a turn, so that one that waits for another by looping ends.
const TURN: u64 = 1 << 18;

impl<'a> Worker<'a> {
    /// Lets a warp run until it waits, ends or has had its turn.
    pub fn run_warp(&mut self, w: usize) {
        let until = self.budget.saturating_sub(TURN);
        while self.warps[w].status == Status::Ready && !self.fatal {
            match self.warps[w].pick() {
                Some(split) => {
                    self.run_split(w, split, until);
                    if self.budget <= until {
                        break;
                    }
                }
                None if self.warps[w].splits.is_empty() => {
                    self.warps[w].status = Status::Done;
                }
                None => self.report_parked(w),
            }
        }
        if self.budget == 0 && !self.fatal {
            let inst = self.current(w);
            self.stop(
                ViolationKind::NoProgress,
                w,
                0,
                inst,
                format!(
                    "{} warp instructions, and no end",
                    self.launch.instruction_limit
                ),
            );
        }
    }

    /// The instruction at which a warp is.
    pub fn current(&self, w: usize) -> &'a Inst {
        let kernel = self.launch.kernel;
        let last = kernel.code.len() - 1;
        self.warps[w]
            .splits
            .first()
            .map_or(&kernel.code[last], |split| {
                &kernel.code[(split.pc as usize).min(last)]
            })
    }

    /// Runs lanes that are together until they part, wait, end, meet others or have had their turn.
    fn run_split(&mut self, w: usize, split: Split, until: u64) {
        let code = &self.launch.kernel.code[..];
        let (mut pc, mask) = (split.pc, split.mask);
        let others = &self.warps[w].splits;
        let meet = others
            .iter()
            .filter(|other| !other.parked && !other.tired)
            .map(|other| other.pc)
            .min()
            .unwrap_or(u32::MAX);
        let someone_waits = others.iter().any(|other| other.parked || other.tired);
        let together = |pc, mask| Split {
            pc,
            mask,
            parked: false,
            tired: false,
        };
        let mut started = false;
        loop {
            if started
                && (pc >= meet
                    || (someone_waits && self.warps[w].splits.iter().any(|other| other.pc == pc)))
            {
                return self.warps[w].join(together(pc, mask));
            }
            if self.budget <= until {
                return self.warps[w].join(Split {
                    pc,
                    mask,
                    parked: false,
                    tired: true,
                });
            }
            started = true;
            self.budget -= 1;
            let inst = &code[pc as usize];
            let active = mask & self.warps[w].registers.condition(inst.guard);
            let count = &mut self.counts[pc as usize];
            count.warps += 1;
            count.lanes += u64::from(active.count_ones());
            if active == 0 {
                pc += 1;
                continue;
            }
            match self.execute(w, pc as usize, inst, active, mask) {
                Next::Forward => pc += 1,
                Next::Jump(target) => pc = target,
                Next::Part { target, taken } => {
                    self.counts[pc as usize].divergent += 1;
                    self.warps[w].join(together(target, taken));
                    return self.warps[w].join(together(pc + 1, mask & !taken));
                }
                Next::Exit(gone) => {
                    let warp = &mut self.warps[w];
                    warp.live &= !gone;
                    warp.splits
                        .iter_mut()
                        .for_each(|other| other.parked = false);
                    if mask != gone {
                        warp.join(together(pc + 1, mask & !gone));
                    }
                    return;
                }
                Next::Park(waiting) => {
                    self.warps[w].join(Split {
                        pc,
                        mask: waiting,
                        parked: true,
                        tired: false,
                    });
                    if mask != waiting {
                        self.warps[w].join(together(pc + 1, mask & !waiting));
                    }
                    return;
                }
                Next::Barrier => return self.warps[w].join(together(pc + 1, mask)),
                Next::Stop => return,
            }
        }
    }

    /// Every lane of a warp waits for lanes that are not there: says which and why.
    fn report_parked(&mut self, w: usize) {
        let splits = self.warps[w].splits.clone();
        let live = self.warps[w].live;
        for split in &splits {
            let inst = &self.launch.kernel.code[split.pc as usize];
            let lane = split.mask.trailing_zeros() as usize;
            let missing = live & !split.mask;
            let (kind, what) = match inst.op {
                Op::Barrier { .. } => (
                    ViolationKind::DivergentBarrier,
                    "the barrier needs the whole warp",
                ),
                _ => (
                    ViolationKind::MissingLanes,
                    "the instruction waits for lanes of its mask that never come",
                ),
            };
            self.report(
                kind,
                w,
                lane,
                inst,
                format!(
                    "{what}: lanes {:08x} are here, {missing:08x} elsewhere",
                    split.mask
                ),
            );
        }
        self.fatal = true;
    }

    /// A step of the warp's clock: a warp has only so many.
    pub fn count_step(&mut self, w: usize, inst: &'a Inst) {
        if self.warps[w].clock.time >= MOST_STEPS {
            self.stop(
                ViolationKind::Refused,
                w,
                0,
                inst,
                format!("more than {MOST_STEPS} barriers in a block are not implemented"),
            );
        }
    }
}
