//! Atomic operations, lane after lane, and the issue of asynchronous copies.

use super::block::Worker;
use super::calculate::{read, write};
use super::checked::{Problem, Trouble, misplaced, set_written};
use super::lanes;
use super::stamp::{Actor, Kind};
use super::step::Next;
use crate::decode::kernel::{Access, Address, Atomic, Inst, Reg};
use crate::lanes::half::{from_bf16, from_f16, to_bf16, to_f16};
use crate::ptx::{Scalar, Space};
use crate::violation::ViolationKind;

impl<'a> Worker<'a> {
    /// `atom` and `red`. `values` are the operand and, for compare-and-swap, the new value.
    #[allow(clippy::too_many_arguments)] // the parts of one decoded instruction
    pub fn atomic(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        access: &Access,
        atomic: Atomic,
        kind: Scalar,
        out: Option<Reg>,
        values: [Reg; 2],
    ) -> Next {
        let [value, swap] = values.map(|reg| read(&self.warps[w], reg, kind.is_wide()));
        let bytes = access.bytes;
        let mut old = [0u64; 32];
        let addresses = self.addresses(w, &access.address);
        for (space, addresses, active) in Self::spaces(access.space, addresses, active) {
            if active == 0 {
                continue;
            }
            match space {
                Space::Shared => self.shared(
                    w,
                    pc,
                    inst,
                    active,
                    &addresses,
                    bytes,
                    Kind::Atomic,
                    |words, lane, at| {
                        let before = match bytes {
                            8 => u64::from(words[at / 4]) | u64::from(words[at / 4 + 1]) << 32,
                            4 => u64::from(words[at / 4]),
                            _ => u64::from(words[at / 4] >> (8 * (at % 4)) & 0xffff),
                        };
                        old[lane] = before;
                        let after = apply(atomic, kind, before, value[lane], swap[lane]);
                        match bytes {
                            8 => {
                                (words[at / 4], words[at / 4 + 1]) =
                                    (after as u32, (after >> 32) as u32)
                            }
                            4 => words[at / 4] = after as u32,
                            _ => {
                                let shift = 8 * (at % 4);
                                words[at / 4] = (words[at / 4] & !(0xffff << shift))
                                    | (after as u32 & 0xffff) << shift;
                            }
                        }
                    },
                ),
                Space::Local => self.report(
                    ViolationKind::Refused,
                    w,
                    active.trailing_zeros() as usize,
                    inst,
                    "an atomic on local memory".into(),
                ),
                _ => self.global(
                    w,
                    pc,
                    inst,
                    active,
                    &addresses,
                    bytes,
                    Kind::Atomic,
                    |allocation, lane, at| {
                        let before = match bytes {
                            8 => {
                                u64::from(allocation.word(at))
                                    | u64::from(allocation.word(at + 4)) << 32
                            }
                            4 => u64::from(allocation.word(at)),
                            _ => u64::from(allocation.part(at, 2)),
                        };
                        old[lane] = before;
                        let after = apply(atomic, kind, before, value[lane], swap[lane]);
                        match bytes {
                            8 => {
                                allocation.set_word(at, after as u32);
                                allocation.set_word(at + 4, (after >> 32) as u32);
                            }
                            4 => allocation.set_word(at, after as u32),
                            _ => allocation.set_part(at, 2, after as u32),
                        }
                    },
                ),
            }
        }
        if let Some(out) = out {
            write(&mut self.warps[w], out, kind.is_wide(), active, &old);
        }
        Next::Forward
    }

    /// `cp.async`: the source is read now, the destination shows nothing until the wait.
    #[allow(clippy::too_many_arguments)] // the parts of one decoded instruction
    pub fn copy(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        [to, from]: [Address; 2],
        bytes: usize,
        read: Option<Reg>,
    ) -> Next {
        let (targets, sources) = (self.addresses(w, &to), self.addresses(w, &from));
        let lengths = read.map_or([bytes as u32; 32], |reg| *self.warps[w].registers.word(reg));
        let mut data = [[0u32; 4]; 32];
        for length in [4, 8, 16] {
            let reading = lanes(active)
                .filter(|lane| lengths[*lane] == length)
                .fold(0, |mask, lane| mask | 1 << lane);
            if reading != 0 && length as usize <= bytes {
                self.global(
                    w,
                    pc,
                    inst,
                    reading,
                    &sources,
                    length as usize,
                    Kind::Read,
                    |allocation, lane, offset| {
                        for place in 0..length as usize / 4 {
                            data[lane][place] = allocation.word(offset + 4 * place);
                        }
                    },
                );
            }
        }
        if let Some(lane) = lanes(active).find(|lane| {
            !(matches!(lengths[*lane], 0 | 4 | 8 | 16) && lengths[*lane] as usize <= bytes)
        }) {
            let what = format!(
                "a source size of {} bytes is not implemented",
                lengths[lane]
            );
            self.stop(ViolationKind::Refused, w, lane, inst, what);
            return Next::Stop;
        }
        self.counts[pc].shared(&targets, active, bytes);
        let room = self.shared.bytes;
        for lane in lanes(active) {
            let offset = targets[lane];
            if let Some((kind, text)) = misplaced(offset, bytes, room, "shared") {
                self.report(kind, w, lane, inst, text);
                continue;
            }
            let partial = self.launch.kernel.partial_barriers;
            let mut actor = Actor::in_block(self.run, w, &self.warps[w].clock, partial);
            actor.lane = lane as u32;
            if let Some(conflict) = self.shared.shadow.begin_copy(offset, bytes as u64, &actor) {
                let problem = Problem {
                    lane,
                    kind: ViolationKind::Race,
                    what: Trouble::Conflict(format!("shared offset {offset}"), conflict),
                };
                self.report_problems(w, inst, Kind::Write, vec![problem]);
            }
            self.warps[w]
                .copies
                .issue(lane, offset as u32, bytes, data[lane]);
        }
        Next::Forward
    }

    /// `cp.async.wait_group` and `wait_all`: the bytes appear.
    pub fn await_copies(&mut self, w: usize, active: u32, keep: Option<u32>) {
        let mut copies = std::mem::take(&mut self.warps[w].copies);
        let shared = &mut self.shared;
        let partial = self.launch.kernel.partial_barriers;
        let mut actor = Actor::in_block(self.run, w, &self.warps[w].clock, partial);
        copies.wait(active, keep, |copy| {
            actor.lane = u32::from(copy.lane);
            shared
                .shadow
                .end_copy(u64::from(copy.offset), u64::from(copy.bytes), &actor);
            let (at, words) = (copy.offset as usize / 4, copy.bytes as usize / 4);
            shared.words[at..at + words].copy_from_slice(&copy.data[..words]);
            set_written(
                &mut shared.written,
                copy.offset as usize,
                copy.bytes as usize,
            );
        });
        self.warps[w].copies = copies;
    }
}

fn signed(value: u64, kind: Scalar) -> i64 {
    if kind.is_wide() {
        value as i64
    } else {
        i64::from(value as i32)
    }
}

/// The value an atomic leaves behind.
fn apply(atomic: Atomic, kind: Scalar, old: u64, value: u64, swap: u64) -> u64 {
    let smaller = if kind.is_signed() {
        signed(value, kind) < signed(old, kind)
    } else {
        value < old
    };
    match atomic {
        Atomic::Add => add(kind, old, value),
        Atomic::Min => {
            if smaller {
                value
            } else {
                old
            }
        }
        Atomic::Max => {
            if smaller {
                old
            } else {
                value
            }
        }
        Atomic::And => old & value,
        Atomic::Or => old | value,
        Atomic::Xor => old ^ value,
        Atomic::Exch => value,
        Atomic::Cas => {
            if old == value {
                swap
            } else {
                old
            }
        }
        Atomic::Inc => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        Atomic::Dec => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
    }
}

fn add(kind: Scalar, old: u64, value: u64) -> u64 {
    let (a, b) = (old as u32, value as u32);
    let f16 = |a: u32, b: u32| to_f16(from_f16(a & 0xffff) + from_f16(b & 0xffff));
    let bf16 = |a: u32, b: u32| to_bf16(from_bf16(a & 0xffff) + from_bf16(b & 0xffff));
    match kind {
        Scalar::F32 => u64::from(crate::lanes::float::bits32(
            f32::from_bits(a) + f32::from_bits(b),
        )),
        Scalar::F64 => (f64::from_bits(old) + f64::from_bits(value)).to_bits(),
        Scalar::F16 => u64::from(f16(a, b)),
        Scalar::F16x2 => u64::from(f16(a, b) | f16(a >> 16, b >> 16) << 16),
        Scalar::BF16 => u64::from(bf16(a, b)),
        Scalar::BF16x2 => u64::from(bf16(a, b) | bf16(a >> 16, b >> 16) << 16),
        kind if kind.is_wide() => old.wrapping_add(value),
        _ => u64::from(a.wrapping_add(b)),
    }
}
