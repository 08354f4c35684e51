//! The instructions, one after another.

use super::block::Worker;
use super::lanes;
use super::launch::MOST_STEPS;
use super::warp::{Split, Status, Warp};
use crate::decode::kernel::{Inst, Logic, Op, Reg};
use crate::lanes::Lanes;
use crate::violation::ViolationKind;

/// Instructions after which other lanes and warps get a turn, so that one that waits for another by looping ends.
const TURN: u64 = 1 << 18;

/// What an instruction means for the lanes that executed it.
pub enum Next {
    /// On to the next instruction.
    Forward,
    /// All to another one.
    Jump(u32),
    /// Some to one, the others to the next.
    Part { target: u32, taken: u32 },
    /// These have exited, the others go on.
    Exit(u32),
    /// These wait here for other lanes; the others go on.
    Park(u32),
    /// The warp has arrived at a barrier: on to the next instruction once it is complete.
    Barrier,
    /// The block cannot go on.
    Stop,
}

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

    /// Executes an instruction in the `active` lanes of the `mask` that is here.
    #[inline(always)]
    fn execute(&mut self, w: usize, pc: usize, inst: &'a Inst, active: u32, mask: u32) -> Next {
        let warp = &mut self.warps[w];
        match inst.op {
            Op::Lanes(function, out, inputs) => calculate(warp, function, out, &inputs, active),
            Op::Move(out, input, false) => {
                let values = *warp.registers.word(input);
                warp.registers.set_word(out, active, &values);
            }
            Op::Move(out, input, true) => {
                let values = *warp.registers.long(input);
                warp.registers.set_long(out, active, &values);
            }
            Op::Compare {
                lanes,
                inputs,
                out,
                negation,
                joined,
            } => {
                let holds = compare(warp, lanes, &inputs);
                let (mut yes, mut no) = (holds, !holds);
                if let Some((logic, condition)) = joined {
                    let other = warp.registers.condition(condition);
                    (yes, no) = (logical(logic, yes, other), logical(logic, no, other));
                }
                if let Some(out) = out {
                    warp.registers.set_pred(out, active, yes);
                }
                if let Some(negation) = negation {
                    warp.registers.set_pred(negation, active, no);
                }
            }
            Op::Branch(target) if active == mask => return Next::Jump(target),
            Op::Branch(target) => {
                return Next::Part {
                    target,
                    taken: active,
                };
            }
            Op::Load {
                access,
                out,
                bits,
                signed,
            } => return self.load(w, pc, inst, active, &access, &out, bits, signed),
            Op::Store {
                access,
                values,
                wide,
            } => {
                return self.store(w, pc, inst, active, &access, &values, wide);
            }
            Op::Select {
                out,
                yes,
                no,
                condition,
                wide,
            } => select(
                warp,
                [out, yes, no],
                condition_mask(warp, condition),
                wide,
                active,
            ),
            Op::Logic(logic, out, a, b) => {
                let value = logical(
                    logic,
                    warp.registers.condition(a),
                    warp.registers.condition(b),
                );
                warp.registers.set_pred(out, active, value);
            }
            Op::SetPred(out, condition) => {
                let value = warp.registers.condition(condition);
                warp.registers.set_pred(out, active, value);
            }
            _ => return self.execute_rarer(w, pc, inst, active, mask),
        }
        Next::Forward
    }

    fn execute_rarer(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        mask: u32,
    ) -> Next {
        let warp = &mut self.warps[w];
        match inst.op {
            Op::Exit => return Next::Exit(active),
            Op::Trap => {
                let lane = active.trailing_zeros() as usize;
                self.stop(
                    ViolationKind::Trap,
                    w,
                    lane,
                    inst,
                    "the kernel traps".into(),
                );
                return Next::Stop;
            }
            Op::Fence => {}
            Op::Convert(conversion, out, bits, input) => {
                let wide_in = conversion.from.is_wide();
                let values: [u64; 32] = std::array::from_fn(|lane| {
                    let value = if wide_in {
                        warp.registers.long(input)[lane]
                    } else {
                        u64::from(warp.registers.word(input)[lane])
                    };
                    conversion.convert(value, bits)
                });
                write(warp, out, bits == 64, active, &values);
            }
            Op::Pack {
                out,
                wide,
                parts,
                count,
                bits,
            } => {
                let mut values = [0; 32];
                for (place, part) in parts[..count].iter().enumerate() {
                    let row = warp.registers.word(*part);
                    for lane in 0..32 {
                        values[lane] |=
                            (u64::from(row[lane]) & ((1 << bits) - 1)) << (bits as usize * place);
                    }
                }
                write(warp, out, wide, active, &values);
            }
            Op::Unpack {
                out,
                input,
                wide,
                count,
                bits,
            } => {
                let values = read(warp, input, wide);
                for (place, part) in out[..count].iter().enumerate() {
                    if let Some(part) = part {
                        let words = values.map(|value| {
                            (value >> (bits as usize * place)) as u32 & (u32::MAX >> (32 - bits))
                        });
                        warp.registers.set_word(*part, active, &words);
                    }
                }
            }
            Op::Param {
                offset,
                bytes,
                count,
                out,
                bits,
                signed,
            } => {
                for (element, out) in out[..count].iter().enumerate() {
                    if let Some(out) = out {
                        let start = offset + element * bytes;
                        let mut raw = [0; 8];
                        raw[..bytes].copy_from_slice(&self.launch.params[start..start + bytes]);
                        let value = extend(u64::from_le_bytes(raw), bytes, signed, bits);
                        write(warp, *out, bits == 64, active, &[value; 32]);
                    }
                }
            }
            Op::Atomic {
                access,
                atomic,
                kind,
                out,
                value,
                swap,
            } => {
                return self.atomic(
                    w,
                    pc,
                    inst,
                    active,
                    &access,
                    atomic,
                    kind,
                    out,
                    [value, swap],
                );
            }
            Op::Copy {
                to,
                from,
                bytes,
                read,
            } => return self.copy(w, pc, inst, active, [to, from], bytes, read),
            Op::CopyCommit => warp.copies.commit(active),
            Op::CopyWait(keep) => self.await_copies(w, active, keep),
            Op::ActiveMask(out) => warp.registers.set_word(out, active, &[active; 32]),
            Op::Barrier { kind, id, count } => {
                return self.barrier(w, pc, inst, active, mask, kind, id, count);
            }
            Op::MatrixLoad {
                count,
                transposed,
                out,
                address,
            } => {
                return self.matrix_load(w, pc, inst, active, count, transposed, &out, address);
            }
            Op::MatrixProduct(ref product) => return self.matrix_product(w, inst, active, product),
            _ => return self.collective(w, inst, active),
        }
        Next::Forward
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

fn condition_mask(warp: &Warp, condition: crate::decode::kernel::Condition) -> u32 {
    warp.registers.condition(condition)
}

fn logical(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

fn select(warp: &mut Warp, [out, yes, no]: [Reg; 3], holds: u32, wide: bool, active: u32) {
    if wide {
        let (yes, no) = (warp.registers.long(yes), warp.registers.long(no));
        let values = std::array::from_fn(|lane| {
            if holds >> lane & 1 != 0 {
                yes[lane]
            } else {
                no[lane]
            }
        });
        warp.registers.set_long(out, active, &values);
    } else {
        let (yes, no) = (warp.registers.word(yes), warp.registers.word(no));
        let values = std::array::from_fn(|lane| {
            if holds >> lane & 1 != 0 {
                yes[lane]
            } else {
                no[lane]
            }
        });
        warp.registers.set_word(out, active, &values);
    }
}

/// A register as 64-bit values.
pub fn read(warp: &Warp, reg: Reg, wide: bool) -> [u64; 32] {
    if wide {
        *warp.registers.long(reg)
    } else {
        warp.registers.word(reg).map(u64::from)
    }
}

/// Writes 64-bit values to a register of either width.
pub fn write(warp: &mut Warp, reg: Reg, wide: bool, active: u32, values: &[u64; 32]) {
    if wide {
        warp.registers.set_long(reg, active, values);
    } else {
        warp.registers
            .set_word(reg, active, &values.map(|value| value as u32));
    }
}

/// A loaded value of `bytes`, sign- or zero-extended to a register of `bits`.
#[inline(always)]
pub fn extend(value: u64, bytes: usize, signed: bool, bits: u32) -> u64 {
    let unused = 64 - 8 * bytes as u32;
    let value = if signed {
        ((value << unused) as i64 >> unused) as u64
    } else {
        value << unused >> unused
    };
    if bits < 64 {
        value & ((1 << bits) - 1)
    } else {
        value
    }
}

#[inline(always)]
fn compare(warp: &Warp, function: Lanes, inputs: &[Reg; 2]) -> u32 {
    let registers = &warp.registers;
    let [a, b] = *inputs;
    // SAFETY: decoding made the function for this processor.
    unsafe {
        match function {
            Lanes::WWtoP(f) => f(registers.word(a), registers.word(b)),
            Lanes::DDtoP(f) => f(registers.long(a), registers.long(b)),
            Lanes::WtoP(f) => f(registers.word(a)),
            Lanes::DtoP(f) => f(registers.long(a)),
            _ => unreachable!("a comparison gives a predicate"),
        }
    }
}

/// Applies a lane function.
#[inline(always)]
fn calculate(warp: &mut Warp, function: Lanes, out: Reg, inputs: &[Reg; 4], active: u32) {
    let registers = &mut warp.registers;
    let [a, b, c, d] = *inputs;
    let (mut words, mut longs) = ([0u32; 32], [0u64; 32]);
    // SAFETY: decoding made the function for this processor.
    unsafe {
        match function {
            Lanes::WWtoW(f) => f(registers.word(a), registers.word(b), &mut words),
            Lanes::WWWtoW(f) => f(
                registers.word(a),
                registers.word(b),
                registers.word(c),
                &mut words,
            ),
            Lanes::WtoW(f) => f(registers.word(a), &mut words),
            Lanes::DtoW(f) => f(registers.long(a), &mut words),
            Lanes::WWWWtoW(f) => f(
                registers.word(a),
                registers.word(b),
                registers.word(c),
                registers.word(d),
                &mut words,
            ),
            Lanes::WtoD(f) => f(registers.word(a), &mut longs),
            Lanes::DtoD(f) => f(registers.long(a), &mut longs),
            Lanes::WWtoD(f) => f(registers.word(a), registers.word(b), &mut longs),
            Lanes::DDtoD(f) => f(registers.long(a), registers.long(b), &mut longs),
            Lanes::DWtoD(f) => f(registers.long(a), registers.word(b), &mut longs),
            Lanes::WWDtoD(f) => f(
                registers.word(a),
                registers.word(b),
                registers.long(c),
                &mut longs,
            ),
            Lanes::DWWtoD(f) => f(
                registers.long(a),
                registers.word(b),
                registers.word(c),
                &mut longs,
            ),
            Lanes::DDDtoD(f) => f(
                registers.long(a),
                registers.long(b),
                registers.long(c),
                &mut longs,
            ),
            Lanes::DDWWtoD(f) => f(
                registers.long(a),
                registers.long(b),
                registers.word(c),
                registers.word(d),
                &mut longs,
            ),
            Lanes::WtoP(_) | Lanes::DtoP(_) | Lanes::WWtoP(_) | Lanes::DDtoP(_) => {
                unreachable!("arithmetic gives a register")
            }
        }
    }
    match function {
        Lanes::WWtoW(_)
        | Lanes::WWWtoW(_)
        | Lanes::WtoW(_)
        | Lanes::DtoW(_)
        | Lanes::WWWWtoW(_) => {
            registers.set_word(out, active, &words);
        }
        _ => registers.set_long(out, active, &longs),
    }
}

/// The first lane of a mask.
pub fn first(mask: u32) -> usize {
    lanes(mask).next().unwrap_or(0)
}
