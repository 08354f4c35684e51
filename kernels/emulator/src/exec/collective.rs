//! Instructions of the lanes of a warp together: shuffles, votes, matches, reductions, `bar.warp.sync`.

use super::block::Worker;
use super::calculate::{first, read};
use super::lanes;
use super::step::Next;
use crate::decode::kernel::{Atomic, Inst, Op, Reg, Shuffle, Vote};
use crate::violation::ViolationKind;

impl<'a> Worker<'a> {
    /// Executes a warp instruction once all lanes of its mask are here.
    pub fn collective(&mut self, w: usize, inst: &'a Inst, active: u32) -> Next {
        let members = match inst.op {
            Op::WarpBarrier(members)
            | Op::Shuffle { members, .. }
            | Op::Vote(_, _, members)
            | Op::Match { members, .. }
            | Op::Reduce { members, .. } => members,
            _ => unreachable!("every other instruction has been executed"),
        };
        let masks = *self.warps[w].registers.word(members);
        if let Some(lane) = lanes(active).find(|lane| masks[*lane] >> lane & 1 == 0) {
            let what = format!(
                "the lane executes it and is not in its mask {:08x}",
                masks[lane]
            );
            self.report(ViolationKind::WrongMask, w, lane, inst, what);
        }
        let (all, live) = (self.warps[w].all, self.warps[w].live);
        let needed = lanes(active).fold(0, |needed, lane| needed | masks[lane]) & all;
        if needed & live & !active != 0 {
            return Next::Park(active);
        }
        if needed & !live != 0 {
            let what = format!("lanes {:08x} of its mask have exited", needed & !live);
            self.report(ViolationKind::MissingLanes, w, first(active), inst, what);
        }
        // Lanes with different masks are different groups, each on its own.
        let mut left = active;
        while left != 0 {
            let mask = masks[first(left)];
            let group = lanes(left)
                .filter(|lane| masks[*lane] == mask)
                .fold(0, |group, lane| group | 1u32 << lane);
            left &= !group;
            if mask & active & !group != 0 {
                let lane = first(mask & active & !group);
                let what = format!(
                    "masks {mask:08x} and {:08x} overlap and differ",
                    masks[lane]
                );
                self.report(ViolationKind::WrongMask, w, lane, inst, what);
            }
            self.group(w, inst, group);
            if self.fatal {
                return Next::Stop;
            }
        }
        Next::Forward
    }

    fn group(&mut self, w: usize, inst: &'a Inst, group: u32) {
        let warp = &mut self.warps[w];
        match inst.op {
            Op::WarpBarrier(_) => {
                let live = warp.live;
                warp.clock.sync_lanes(group, live);
                self.count_step(w, inst);
            }
            Op::Shuffle { .. } => self.shuffle(w, inst, group),
            Op::Vote(vote, condition, _) => {
                let holds = warp.registers.condition(condition) & group;
                let bits = |holds: bool| if holds { u32::MAX } else { 0 };
                match vote {
                    Vote::All(out) => warp.registers.set_pred(out, group, bits(holds == group)),
                    Vote::Any(out) => warp.registers.set_pred(out, group, bits(holds != 0)),
                    Vote::Uniform(out) => {
                        warp.registers
                            .set_pred(out, group, bits(holds == group || holds == 0))
                    }
                    Vote::Ballot(out) => warp.registers.set_word(out, group, &[holds; 32]),
                }
            }
            Op::Match {
                all,
                out,
                equal,
                value,
                wide,
                ..
            } => {
                let values = read(warp, value, wide);
                let same = |lane: usize| {
                    lanes(group)
                        .filter(|other| values[*other] == values[lane])
                        .fold(0, |mask, other| mask | 1u32 << other)
                };
                let mut masks = [0; 32];
                for lane in lanes(group) {
                    masks[lane] = same(lane);
                }
                let uniform = masks[first(group)] == group;
                if all {
                    masks = [if uniform { group } else { 0 }; 32];
                }
                warp.registers.set_word(out, group, &masks);
                if let Some(equal) = equal {
                    warp.registers
                        .set_pred(equal, group, if uniform { u32::MAX } else { 0 });
                }
            }
            Op::Reduce {
                atomic,
                signed,
                out,
                value,
                ..
            } => {
                let values = *warp.registers.word(value);
                let total = lanes(group)
                    .map(|lane| values[lane])
                    .reduce(|a, b| combine(atomic, signed, a, b));
                warp.registers
                    .set_word(out, group, &[total.unwrap_or(0); 32]);
            }
            _ => unreachable!("only warp instructions come here"),
        }
    }

    fn shuffle(&mut self, w: usize, inst: &'a Inst, group: u32) {
        let Op::Shuffle {
            mode,
            out,
            valid,
            value,
            lane: by,
            clamp,
            ..
        } = inst.op
        else {
            return;
        };
        let registers = &self.warps[w].registers;
        let row = |reg: Reg| *registers.word(reg);
        let (values, by, clamp) = (row(value), row(by), row(clamp));
        let (mut result, mut inside) = ([0; 32], 0u32);
        let mut inactive = 0;
        for lane in lanes(group) {
            let (from, ok) = source(mode, lane as u32, by[lane], clamp[lane]);
            inside |= u32::from(ok) << lane;
            inactive |= u32::from(group >> from & 1 == 0) << lane;
            result[lane] = values[from as usize];
        }
        if inactive != 0 {
            let lane = first(inactive);
            let from = source(mode, lane as u32, by[lane], clamp[lane]).0;
            self.report(
                ViolationKind::InactiveLane,
                w,
                lane,
                inst,
                format!("reads lane {from}, which does not take part"),
            );
        }
        let warp = &mut self.warps[w];
        if let Some(out) = out {
            warp.registers.set_word(out, group, &result);
        }
        if let Some(valid) = valid {
            warp.registers.set_pred(valid, group, inside);
        }
    }
}

/// The lane a shuffle reads, and whether it lies inside the segment (PTX ISA 9.7.9.6).
fn source(mode: Shuffle, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
    let (by, segment, clamp) = (by & 31, clamp >> 8 & 31, clamp & 31);
    let most = (lane & segment) | (clamp & !segment & 31);
    let least = lane & segment;
    let (from, inside) = match mode {
        Shuffle::Up => (
            lane.wrapping_sub(by),
            lane as i32 - by as i32 >= most as i32,
        ),
        Shuffle::Down => (lane + by, lane + by <= most),
        Shuffle::Butterfly => (lane ^ by, (lane ^ by) <= most),
        Shuffle::Index => {
            let from = least | (by & !segment & 31);
            (from, from <= most)
        }
    };
    if inside { (from, true) } else { (lane, false) }
}

fn combine(atomic: Atomic, signed: bool, a: u32, b: u32) -> u32 {
    match atomic {
        Atomic::Add => a.wrapping_add(b),
        Atomic::Min if signed => (a as i32).min(b as i32) as u32,
        Atomic::Max if signed => (a as i32).max(b as i32) as u32,
        Atomic::Min => a.min(b),
        Atomic::Max => a.max(b),
        Atomic::And => a & b,
        Atomic::Or => a | b,
        _ => a ^ b,
    }
}
