//! The sixteen barriers of a block (PTX ISA 9.7.13, `bar` and `barrier`).

use super::block::Worker;
use super::calculate::first;
use super::lanes;
use super::step::Next;
use super::warp::Status;
use crate::decode::kernel::{BarrierKind, Inst, Reg};
use crate::violation::ViolationKind;

/// A barrier, counted in warps.
#[derive(Clone, Default)]
pub struct Barrier {
    /// Warps it waits for; 0 while nobody has arrived.
    expected: u32,
    /// Warps that have arrived.
    arrived: u32,
    /// Those of them that wait.
    waiting: u32,
    /// What the arrived have done and seen.
    seen: [u32; 32],
    /// Threads that take part in a reduction, and those whose predicate holds.
    threads: u32,
    holding: u32,
    /// Last instruction that arrived, and that of each warp.
    pc: usize,
    pcs: [usize; 32],
}

impl<'a> Worker<'a> {
    /// `bar.sync`, `bar.arrive`, `bar.red`.
    #[allow(clippy::too_many_arguments)] // the parts of one decoded instruction
    pub fn barrier(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        mask: u32,
        kind: BarrierKind,
        id: Reg,
        count: Option<Reg>,
    ) -> Next {
        let warp = &self.warps[w];
        if active != warp.live {
            // The rest of the warp may still come; if it does not, that is the divergent barrier.
            if active == mask {
                return Next::Park(mask);
            }
            let what = format!(
                "lanes {active:08x} execute the barrier, {:08x} pass it by",
                mask & !active
            );
            self.stop(
                ViolationKind::DivergentBarrier,
                w,
                first(mask & !active),
                inst,
                what,
            );
            return Next::Stop;
        }
        if warp.live != warp.all {
            let gone = warp.all & !warp.live;
            let what = format!("lanes {gone:08x} of the warp have exited and cannot take part");
            self.report(
                ViolationKind::ExitedBeforeBarrier,
                w,
                first(gone),
                inst,
                what,
            );
        }
        let Some((id, expected)) = self.barrier_operands(w, inst, id, count) else {
            return Next::Stop;
        };
        let holding = match kind {
            BarrierKind::Count(_, condition)
            | BarrierKind::All(_, condition)
            | BarrierKind::Any(_, condition) => {
                self.warps[w].registers.condition(condition) & active
            }
            _ => 0,
        };
        let barrier = &mut self.barriers[id];
        let me = 1u32 << w;
        if barrier.arrived != 0 && (barrier.expected != expected || barrier.arrived & me != 0) {
            let what = if barrier.arrived & me != 0 {
                format!(
                    "the warp arrives at barrier {id} a second time while others are still missing"
                )
            } else {
                format!(
                    "barrier {id} is for {} threads here and for {} elsewhere",
                    32 * expected,
                    32 * barrier.expected
                )
            };
            self.stop(ViolationKind::BarrierMismatch, w, 0, inst, what);
            return Next::Stop;
        }
        let clock = &mut self.warps[w].clock;
        (0..32).for_each(|other| barrier.seen[other] = barrier.seen[other].max(clock.seen[other]));
        barrier.seen[w] = clock.time;
        barrier.expected = expected;
        barrier.arrived |= me;
        barrier.threads += active.count_ones();
        barrier.holding += holding.count_ones();
        barrier.pc = pc;
        barrier.pcs[w] = pc;
        let waits = !matches!(kind, BarrierKind::Arrive);
        if waits {
            clock.sync_lanes(active, active);
            barrier.waiting |= me;
            self.warps[w].status = Status::Waiting(id as u32);
        } else {
            clock.time += 1;
        }
        self.count_step(w, inst);
        if self.barriers[id].arrived.count_ones() == expected {
            self.complete(id);
        }
        if waits { Next::Barrier } else { Next::Forward }
    }

    /// Number of the barrier, and for how many warps it is.
    fn barrier_operands(
        &mut self,
        w: usize,
        inst: &'a Inst,
        id: Reg,
        count: Option<Reg>,
    ) -> Option<(usize, u32)> {
        let registers = &self.warps[w].registers;
        let lane = first(self.warps[w].live);
        let (ids, counts) = (
            *registers.word(id),
            count.map(|count| *registers.word(count)),
        );
        let uniform = lanes(self.warps[w].live).all(|other| {
            ids[other] == ids[lane] && counts.is_none_or(|counts| counts[other] == counts[lane])
        });
        let warps = self.warps.len() as u32;
        let threads = counts.map_or(32 * warps, |counts| counts[lane]);
        let wrong = if !uniform {
            "its operands differ within the warp".to_string()
        } else if ids[lane] > 15 {
            format!("there is no barrier {}", ids[lane])
        } else if threads == 0 || threads % 32 != 0 || threads > 32 * warps {
            format!("it is for {threads} threads, which must be whole warps of the block's {warps}")
        } else {
            return Some((ids[lane] as usize, threads / 32));
        };
        self.stop(ViolationKind::BarrierMismatch, w, lane, inst, wrong);
        None
    }

    /// All have arrived: those who wait go on, and have seen what all have done.
    fn complete(&mut self, id: usize) {
        let barrier = std::mem::take(&mut self.barriers[id]);
        let whole = barrier.expected as usize == self.warps.len();
        for w in lanes(barrier.waiting) {
            let warp = &mut self.warps[w];
            (0..32).for_each(|other| {
                warp.clock.seen[other] = warp.clock.seen[other].max(barrier.seen[other])
            });
            if whole {
                warp.clock.block = warp.clock.lanes;
            }
            warp.status = Status::Ready;
            let at = barrier.pcs[w];
            if let crate::decode::kernel::Op::Barrier { kind, .. } = self.launch.kernel.code[at].op
            {
                let (threads, holding) = (barrier.threads, barrier.holding);
                let bits = |holds: bool| if holds { u32::MAX } else { 0 };
                match kind {
                    BarrierKind::Count(out, _) => {
                        warp.registers.set_word(out, warp.live, &[holding; 32])
                    }
                    BarrierKind::All(out, _) => {
                        warp.registers
                            .set_pred(out, warp.live, bits(holding == threads))
                    }
                    BarrierKind::Any(out, _) => {
                        warp.registers.set_pred(out, warp.live, bits(holding > 0))
                    }
                    BarrierKind::Sync | BarrierKind::Arrive => {}
                }
            }
        }
    }

    /// Nobody can go on: names each barrier that waits, and for whom.
    pub fn report_stuck_barriers(&mut self) {
        let done = self
            .warps
            .iter()
            .filter(|warp| warp.status == Status::Done)
            .count();
        for id in 0..self.barriers.len() {
            let barrier = self.barriers[id].clone();
            if barrier.arrived == 0 {
                continue;
            }
            let here = barrier.arrived.count_ones();
            let what = format!(
                "barrier {id} waits for {} warps: {here} have arrived, {done} have exited",
                barrier.expected
            );
            let missing = self.warps.len() as u32 - done as u32;
            let kind = if missing < barrier.expected {
                ViolationKind::ExitedBeforeBarrier
            } else {
                ViolationKind::BarrierMismatch
            };
            let inst = &self.launch.kernel.code[barrier.pc];
            self.report(kind, first(barrier.arrived), 0, inst, what);
        }
        self.fatal = true;
    }

    /// All warps have exited: no barrier may be half complete.
    pub fn check_barriers_at_end(&mut self) {
        for id in 0..self.barriers.len() {
            let barrier = self.barriers[id].clone();
            if barrier.arrived != 0 {
                let here = barrier.arrived.count_ones();
                let what = format!(
                    "the block has ended and barrier {id} has {here} of {} warps",
                    barrier.expected
                );
                let inst = &self.launch.kernel.code[barrier.pc];
                self.report(
                    ViolationKind::ExitedBeforeBarrier,
                    first(barrier.arrived),
                    0,
                    inst,
                    what,
                );
            }
        }
    }
}
