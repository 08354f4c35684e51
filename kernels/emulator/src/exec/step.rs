//! The instructions, one after another.

use super::block::Worker;
use super::calculate::{calculate, compare, extend, logical, read, select, write};
use crate::decode::kernel::{Inst, Op};
use crate::violation::ViolationKind;

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
    /// Executes an instruction in the `active` lanes of the `mask` that is here.
    #[inline(always)]
    pub fn execute(&mut self, w: usize, pc: usize, inst: &'a Inst, active: u32, mask: u32) -> Next {
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
                warp.registers.condition(condition),
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
            Op::Convert(conversion, out, bits, (input, is_wide)) => {
                let values: [u64; 32] = std::array::from_fn(|lane| {
                    let value = if is_wide {
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
}
