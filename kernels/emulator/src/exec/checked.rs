//! Every check of an access to global or shared memory.

use super::block::Worker;
use super::lanes;
use super::stamp::{Actor, Conflict, Kind};
use crate::decode::kernel::Inst;
use crate::lanes::Longs;
use crate::memory::Allocation;
use crate::violation::ViolationKind;

/// Something wrong with one lane's access.
pub struct Problem {
    pub lane: usize,
    pub kind: ViolationKind,
    pub what: Trouble,
}

/// What is wrong, before it is put in words.
pub enum Trouble {
    Text(String),
    /// An address and what collides there.
    Conflict(String, Conflict),
}

impl<'a> Worker<'a> {
    /// Checks a global access and calls `each` with the allocation, lane and offset where it is sound.
    #[allow(clippy::too_many_arguments)] // the parts of one access
    #[inline(always)]
    pub fn global(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        addresses: &Longs,
        bytes: usize,
        kind: Kind,
        mut each: impl FnMut(&Allocation, usize, usize),
    ) {
        self.counts[pc].global(addresses, active, bytes);
        let memory = self.launch.memory;
        let mut problems: Vec<Problem> = Vec::new();
        let mut current: Option<(usize, &Allocation)> = None;
        let mut actor = Actor {
            run: self.run,
            first_run: self.first_run,
            warp: w as u32,
            lane: 0,
            clock: &self.warps[w].clock,
            partial_barriers: self.launch.kernel.partial_barriers,
        };
        let mut repeated = Repeated::default();
        for lane in lanes(active) {
            let address = addresses[lane];
            let mut problem = |kind, what| problems.push(Problem { lane, kind, what });
            if current.is_none_or(|(_, allocation)| !allocation.holds(address, bytes as u64)) {
                current = memory
                    .find(address)
                    .map(|number| (number, memory.allocation(number)));
            }
            let describe =
                || Trouble::Text(format!("{bytes} bytes at {}", memory.describe(address)));
            let Some((number, allocation)) =
                current.filter(|(_, allocation)| allocation.holds(address, bytes as u64))
            else {
                problem(ViolationKind::OutOfBounds, describe());
                continue;
            };
            if !allocation.alive {
                problem(ViolationKind::UseAfterFree, describe());
                continue;
            }
            if !address.is_multiple_of(bytes as u64) {
                problem(ViolationKind::Misaligned, describe());
                continue;
            }
            let offset = (address - allocation.base) as usize;
            if reads(kind) && !allocation.is_written(offset, bytes) {
                problem(ViolationKind::Uninitialised, describe());
            }
            if kind == Kind::Read && repeated.is_known(address) {
                each(allocation, lane, offset);
                continue;
            }
            actor.lane = lane as u32;
            let shadow = self.state.shadow(number);
            if let Some(conflict) = shadow.access(offset as u64, bytes as u64, kind, &actor) {
                problem(
                    ViolationKind::Race,
                    Trouble::Conflict(memory.describe(address), conflict),
                );
            }
            each(allocation, lane, offset);
            if writes(kind) {
                allocation.set_written(offset, bytes);
            }
        }
        if !problems.is_empty() {
            self.report_problems(w, inst, kind, problems);
        }
    }

    /// Checks a shared access and calls `each` with the words, lane and offset where it is sound.
    #[allow(clippy::too_many_arguments)] // the parts of one access
    #[inline(always)]
    pub fn shared(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        offsets: &Longs,
        bytes: usize,
        kind: Kind,
        mut each: impl FnMut(&mut [u32], usize, usize),
    ) {
        self.counts[pc].shared(offsets, active, bytes);
        let mut problems: Vec<Problem> = Vec::new();
        let partial = self.launch.kernel.partial_barriers;
        let mut actor = Actor::in_block(self.run, w, &self.warps[w].clock, partial);
        let shared = &mut self.shared;
        let mut repeated = Repeated::default();
        for lane in lanes(active) {
            let offset = offsets[lane];
            let mut problem = |kind, what| problems.push(Problem { lane, kind, what });
            if let Some((kind, text)) = misplaced(offset, bytes, shared.bytes, "shared") {
                problem(kind, Trouble::Text(text));
                continue;
            }
            let at = offset as usize;
            if kind == Kind::Read && repeated.is_known(offset) {
                each(&mut shared.words, lane, at);
                continue;
            }
            actor.lane = lane as u32;
            let conflict = shared.shadow.access(offset, bytes as u64, kind, &actor);
            if let Some(conflict) = conflict {
                problem(
                    ViolationKind::Race,
                    Trouble::Conflict(format!("shared offset {offset}"), conflict),
                );
            } else if reads(kind) && !is_written(&shared.written, at, bytes) {
                problem(
                    ViolationKind::Uninitialised,
                    Trouble::Text(format!("{bytes} bytes at shared offset {offset}")),
                );
            }
            each(&mut shared.words, lane, at);
            if writes(kind) {
                set_written(&mut shared.written, at, bytes);
            }
        }
        if !problems.is_empty() {
            self.report_problems(w, inst, kind, problems);
        }
    }

    /// Puts problems in words.
    pub fn report_problems(
        &mut self,
        w: usize,
        inst: &'a Inst,
        kind: Kind,
        problems: Vec<Problem>,
    ) {
        let verb = match kind {
            Kind::Read => "reads",
            Kind::Write => "writes",
            Kind::StrongRead | Kind::StrongWrite | Kind::Atomic => "accesses atomically",
        };
        for Problem { lane, kind, what } in problems {
            match what {
                Trouble::Text(text) => self.report(kind, w, lane, inst, text),
                Trouble::Conflict(place, conflict) => {
                    let who = self.whose(conflict.other);
                    if conflict.pending {
                        let text = format!(
                            "{verb} {place}, where {} of {who} is still under way",
                            conflict.was
                        );
                        self.report(ViolationKind::CopyNotAwaited, w, lane, inst, text);
                    } else {
                        let text = format!(
                            "{verb} {place} after {} by {who}, and nothing orders the two",
                            conflict.was
                        );
                        self.report(kind, w, lane, inst, text);
                    }
                }
            }
        }
    }
}

/// Lanes that read the same address one after another: the second makes it a read by several lanes, further ones add
/// nothing to what is recorded or reported.
#[derive(Default)]
struct Repeated {
    address: Option<u64>,
    times: u32,
}

impl Repeated {
    #[inline(always)]
    fn is_known(&mut self, address: u64) -> bool {
        if self.address == Some(address) {
            self.times += 1;
        } else {
            *self = Repeated {
                address: Some(address),
                times: 0,
            };
        }
        self.times > 1
    }
}

/// What is wrong with the place of an access in shared or local memory of `room` bytes.
#[inline(always)]
pub fn misplaced(
    offset: u64,
    bytes: usize,
    room: u64,
    memory: &str,
) -> Option<(ViolationKind, String)> {
    let end = offset.checked_add(bytes as u64);
    let kind = if end.is_none_or(|end| end > room) {
        ViolationKind::OutOfBounds
    } else if !offset.is_multiple_of(bytes as u64) {
        ViolationKind::Misaligned
    } else {
        return None;
    };
    let text = format!("{bytes} bytes at {memory} offset {offset}, there are {room}");
    Some((kind, text))
}

fn reads(kind: Kind) -> bool {
    matches!(kind, Kind::Read | Kind::StrongRead | Kind::Atomic)
}

fn writes(kind: Kind) -> bool {
    matches!(kind, Kind::Write | Kind::StrongWrite | Kind::Atomic)
}

/// Whether all of an aligned range has been written.
pub fn is_written(written: &[u8], at: usize, bytes: usize) -> bool {
    if bytes < 4 {
        let mask = ((1u8 << bytes) - 1) << (at % 4);
        return written[at / 4] & mask == mask;
    }
    written[at / 4..at / 4 + bytes / 4]
        .iter()
        .all(|flags| *flags == 15)
}

/// Notes that an aligned range is written.
pub fn set_written(written: &mut [u8], at: usize, bytes: usize) {
    if bytes < 4 {
        written[at / 4] |= ((1 << bytes) - 1) << (at % 4);
    } else {
        written[at / 4..at / 4 + bytes / 4].fill(15);
    }
}
