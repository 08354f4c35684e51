//! Gives registers their rows. NVRTC names a new register for almost every value; a warp's rows should stay in the
//! processor's cache, so values that are never alive at the same time share a row.
//!
//! Liveness is that of one lane, which is enough: lanes of a row never disturb each other, since every write is masked.

use super::kernel::{BarrierKind, Inst, Kernel, Op, Reg, Vote};
use super::names::{Names, Slot};
use crate::lanes::Width;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Whether an operand is read or written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

/// Replaces register numbers by rows and lists the rows of constants and special registers.
pub fn assign(kernel: &mut Kernel, names: &Names) {
    let slots = names.slots();
    let mut rows = vec![0u32; slots.len()];
    let mut next = 0;
    for (number, slot) in slots.iter().enumerate() {
        let row = Reg(next);
        match *slot {
            Slot::Register(_) => continue,
            Slot::Constant(value, wide) => kernel.constants.push((row, value, wide)),
            Slot::Special(special) => kernel.specials.push((row, special)),
        }
        rows[number] = next;
        next += 1 + u32::from(slot.is_wide());
    }
    let spans = spans(&mut kernel.code, slots.len());
    kernel.rows = share(&spans, slots, &mut rows, next) as usize;
    for inst in &mut kernel.code {
        visit(inst, &mut |reg, _| reg.0 = rows[reg.0 as usize]);
    }
}

/// First and last instruction at which each register is alive.
type Spans = Vec<Option<(u32, u32)>>;

/// Linear scan: a row is free again after the last instruction of its value.
fn share(spans: &Spans, slots: &[Slot], rows: &mut [u32], mut next: u32) -> u32 {
    let mut order: Vec<(u32, u32, usize)> = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        if let (Some((first, last)), Slot::Register(_)) = (span, slots[number]) {
            order.push((*first, *last, number));
        }
    }
    order.sort_unstable();
    let mut busy: BinaryHeap<Reverse<(u32, u32, bool)>> = BinaryHeap::new();
    let mut free = [Vec::new(), Vec::new()];
    for (first, last, number) in order {
        while let Some(&Reverse((end, row, wide))) = busy.peek() {
            if end >= first {
                break;
            }
            busy.pop();
            free[usize::from(wide)].push(row);
        }
        let wide = slots[number].is_wide();
        rows[number] = free[usize::from(wide)].pop().unwrap_or_else(|| {
            next += 1 + u32::from(wide);
            next - 1 - u32::from(wide)
        });
        busy.push(Reverse((last, rows[number], wide)));
    }
    next
}

/// Sets of registers, one bit each.
type Set = Vec<u64>;

fn contains(set: &Set, number: usize) -> bool {
    set[number / 64] >> (number % 64) & 1 != 0
}

fn insert(set: &mut Set, number: usize, present: bool) {
    let bit = 1 << (number % 64);
    if present {
        set[number / 64] |= bit;
    } else {
        set[number / 64] &= !bit;
    }
}

fn spans(code: &mut [Inst], registers: usize) -> Spans {
    let mut starts: Vec<usize> = vec![0];
    for (at, inst) in code.iter().enumerate() {
        match inst.op {
            Op::Branch(target) => starts.extend([target as usize, at + 1]),
            Op::Exit => starts.push(at + 1),
            _ => {}
        }
    }
    starts.sort_unstable();
    starts.dedup();
    starts.retain(|start| *start < code.len());
    let block_of = |at: usize| starts.partition_point(|start| *start <= at) - 1;
    let ends: Vec<usize> = (0..starts.len())
        .map(|b| starts.get(b + 1).copied().unwrap_or(code.len()))
        .collect();
    let words = registers.div_ceil(64);
    let mut live_in: Vec<Set> = vec![vec![0; words]; starts.len()];
    let live_out = |live_in: &[Set], code: &[Inst], block: usize| {
        let last = ends[block] - 1;
        let guarded = code[last].guard.pred.is_some();
        let mut next = Vec::new();
        match code[last].op {
            Op::Branch(target) => {
                next.push(block_of(target as usize));
                if guarded {
                    next.push(block + 1);
                }
            }
            Op::Exit if !guarded => {}
            _ => next.push(block + 1),
        }
        let mut set = vec![0u64; words];
        for successor in next
            .into_iter()
            .filter(|successor| *successor < starts.len())
        {
            set.iter_mut()
                .zip(&live_in[successor])
                .for_each(|(a, b)| *a |= b);
        }
        set
    };
    loop {
        let mut changed = false;
        for block in (0..starts.len()).rev() {
            let mut live = live_out(&live_in, code, block);
            for at in (starts[block]..ends[block]).rev() {
                step_back(&mut code[at], &mut live);
            }
            changed |= live != live_in[block];
            live_in[block] = live;
        }
        if !changed {
            break;
        }
    }
    let mut spans: Spans = vec![None; registers];
    let mut extend = |number: usize, at: usize| {
        let at = at as u32;
        let span = spans[number].get_or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    };
    for block in 0..starts.len() {
        let out = live_out(&live_in, code, block);
        for number in 0..registers {
            if contains(&live_in[block], number) {
                extend(number, starts[block]);
            }
            if contains(&out, number) {
                extend(number, ends[block] - 1);
            }
        }
        for at in starts[block]..ends[block] {
            visit(&mut code[at], &mut |reg, _| extend(reg.0 as usize, at));
        }
    }
    spans
}

/// What is alive before an instruction, from what is alive after it. A guarded write leaves the old value in some lanes.
fn step_back(inst: &mut Inst, live: &mut Set) {
    let guarded = inst.guard.pred.is_some();
    visit(inst, &mut |reg, used| {
        if used == Use::Write && !guarded {
            insert(live, reg.0 as usize, false);
        }
    });
    visit(inst, &mut |reg, used| {
        if used == Use::Read {
            insert(live, reg.0 as usize, true);
        }
    });
}

/// Calls `see` for every register of an instruction.
fn visit(inst: &mut Inst, see: &mut dyn FnMut(&mut Reg, Use)) {
    use Use::{Read, Write};
    match &mut inst.op {
        Op::Branch(_)
        | Op::Exit
        | Op::Trap
        | Op::Fence
        | Op::Logic(..)
        | Op::SetPred(..)
        | Op::CopyCommit
        | Op::CopyWait(_) => {}
        Op::Lanes(lanes, out, inputs) => {
            for index in 0..lanes.inputs().len() {
                see(&mut inputs[index], Read);
            }
            debug_assert!(
                lanes
                    .output()
                    .is_some_and(|width| matches!(width, Width::Word | Width::Long))
            );
            see(out, Write);
        }
        Op::Convert(_, out, _, (input, _)) | Op::Move(out, input, _) => {
            see(input, Read);
            see(out, Write);
        }
        Op::Pack {
            out, parts, count, ..
        } => {
            parts[..*count].iter_mut().for_each(|part| see(part, Read));
            see(out, Write);
        }
        Op::Unpack { out, input, .. } => {
            see(input, Read);
            out.iter_mut().flatten().for_each(|part| see(part, Write));
        }
        Op::Compare { lanes, inputs, .. } => {
            for index in 0..lanes.inputs().len() {
                see(&mut inputs[index], Read);
            }
        }
        Op::Select { out, yes, no, .. } => {
            see(yes, Read);
            see(no, Read);
            see(out, Write);
        }
        Op::Load { access, out, .. } => {
            access
                .address
                .base
                .iter_mut()
                .for_each(|base| see(base, Read));
            out.iter_mut().flatten().for_each(|part| see(part, Write));
        }
        Op::Store { access, values, .. } => {
            access
                .address
                .base
                .iter_mut()
                .for_each(|base| see(base, Read));
            values[..access.count]
                .iter_mut()
                .for_each(|value| see(value, Read));
        }
        Op::Param { out, .. } => out.iter_mut().flatten().for_each(|part| see(part, Write)),
        Op::Atomic {
            access,
            out,
            value,
            swap,
            ..
        } => {
            access
                .address
                .base
                .iter_mut()
                .for_each(|base| see(base, Read));
            see(value, Read);
            see(swap, Read);
            out.iter_mut().for_each(|out| see(out, Write));
        }
        Op::Copy { to, from, read, .. } => {
            to.base
                .iter_mut()
                .chain(&mut from.base)
                .chain(read)
                .for_each(|reg| see(reg, Read));
        }
        Op::Barrier { kind, id, count } => {
            see(id, Read);
            count.iter_mut().for_each(|count| see(count, Read));
            if let BarrierKind::Count(out, _) = kind {
                see(out, Write);
            }
        }
        Op::WarpBarrier(members) => see(members, Read),
        Op::Shuffle {
            out,
            value,
            lane,
            clamp,
            members,
            ..
        } => {
            [value, lane, clamp, members]
                .into_iter()
                .for_each(|reg| see(reg, Read));
            out.iter_mut().for_each(|out| see(out, Write));
        }
        Op::Vote(vote, _, members) => {
            see(members, Read);
            if let Vote::Ballot(out) = vote {
                see(out, Write);
            }
        }
        Op::Match {
            out,
            value,
            members,
            ..
        }
        | Op::Reduce {
            out,
            value,
            members,
            ..
        } => {
            see(value, Read);
            see(members, Read);
            see(out, Write);
        }
        Op::ActiveMask(out) => see(out, Write),
        Op::MatrixLoad {
            count,
            out,
            address,
            ..
        } => {
            address.base.iter_mut().for_each(|base| see(base, Read));
            out[..*count].iter_mut().for_each(|out| see(out, Write));
        }
        Op::MatrixProduct(product) => {
            let (in_a, in_b) = product.fragments();
            product.a[..in_a]
                .iter_mut()
                .chain(&mut product.b[..in_b])
                .chain(&mut product.c)
                .for_each(|reg| see(reg, Read));
            product.out.iter_mut().for_each(|out| see(out, Write));
        }
    }
}
