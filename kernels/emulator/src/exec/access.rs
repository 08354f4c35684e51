//! Loads and stores, with every check.

use super::block::Worker;
use super::shadow::{Conflict, Kind};
use super::step::{Next, extend, write};
use super::{LOCAL_WINDOW, SHARED_WINDOW, lanes};
use crate::decode::kernel::{Access, Address, Inst, Reg};
use crate::lanes::{Longs, Words};
use crate::memory::Allocation;
use crate::ptx::Space;
use crate::violation::ViolationKind;

/// Up to 16 bytes per lane, as rows of words.
pub type Data = [Words; 4];

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
    /// Addresses of an operand in all lanes.
    #[inline(always)]
    pub fn addresses(&self, w: usize, address: &Address) -> Longs {
        let registers = &self.warps[w].registers;
        match address.base {
            None => [address.offset as u64; 32],
            Some(reg) if address.wide => {
                let base = registers.long(reg);
                std::array::from_fn(|lane| base[lane].wrapping_add(address.offset as u64))
            }
            Some(reg) => {
                let base = registers.word(reg);
                std::array::from_fn(|lane| {
                    u64::from(base[lane].wrapping_add(address.offset as u32))
                })
            }
        }
    }

    /// Splits generic addresses by the space they lie in: lanes and their addresses in each.
    pub fn spaces(space: Space, addresses: Longs, active: u32) -> [(Space, Longs, u32); 3] {
        let mut masks = [0; 3];
        match space {
            Space::Generic => {
                for lane in lanes(active) {
                    let window = usize::from(addresses[lane] >= SHARED_WINDOW)
                        + usize::from(addresses[lane] >= LOCAL_WINDOW);
                    masks[window] |= 1 << lane;
                }
            }
            Space::Shared => masks[1] = active,
            Space::Local => masks[2] = active,
            _ => masks[0] = active,
        }
        let generic = space == Space::Generic;
        let within = |window: u64| {
            if generic {
                addresses.map(|address| address.wrapping_sub(window))
            } else {
                addresses
            }
        };
        [
            (Space::Global, addresses, masks[0]),
            (Space::Shared, within(SHARED_WINDOW), masks[1]),
            (Space::Local, within(LOCAL_WINDOW), masks[2]),
        ]
    }

    /// `ld`.
    #[allow(clippy::too_many_arguments)] // the parts of one decoded instruction
    pub fn load(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        access: &Access,
        out: &[Option<Reg>; 4],
        bits: u32,
        signed: bool,
    ) -> Next {
        let mut data: Data = [[0; 32]; 4];
        let total = access.bytes * access.count;
        let kind = if access.strong {
            Kind::StrongRead
        } else {
            Kind::Read
        };
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
                    total,
                    kind,
                    |words, lane, offset| {
                        gather(&mut data, lane, offset, total, |at| words[at / 4]);
                    },
                ),
                Space::Local => self.load_local(w, inst, active, &addresses, total, &mut data),
                _ => self.global(
                    w,
                    pc,
                    inst,
                    active,
                    &addresses,
                    total,
                    kind,
                    |allocation, lane, offset| {
                        gather(&mut data, lane, offset, total, |at| allocation.word(at));
                    },
                ),
            }
        }
        let warp = &mut self.warps[w];
        for (element, out) in out[..access.count].iter().enumerate() {
            let Some(out) = out else { continue };
            if access.bytes == 4 && bits == 32 {
                warp.registers.set_word(*out, active, &data[element]);
            } else if access.bytes == 8 {
                let (low, high) = (&data[2 * element], &data[2 * element + 1]);
                let values =
                    std::array::from_fn(|lane| u64::from(low[lane]) | u64::from(high[lane]) << 32);
                warp.registers.set_long(*out, active, &values);
            } else {
                let row = element_of(&data, element, access.bytes);
                let values = row.map(|value| extend(u64::from(value), access.bytes, signed, bits));
                write(warp, *out, bits == 64, active, &values);
            }
        }
        Next::Forward
    }

    /// `st`.
    #[allow(clippy::too_many_arguments)] // the parts of one decoded instruction
    pub fn store(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        access: &Access,
        values: &[Reg; 4],
        wide: bool,
    ) -> Next {
        let data = self.stored(w, access, values, wide);
        let total = access.bytes * access.count;
        let kind = if access.strong {
            Kind::StrongWrite
        } else {
            Kind::Write
        };
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
                    total,
                    kind,
                    |words, lane, offset| {
                        scatter(&data, lane, offset, total, |at, mask, value| {
                            words[at / 4] = (words[at / 4] & !mask) | (value & mask);
                        });
                    },
                ),
                Space::Local => self.store_local(w, inst, active, &addresses, total, &data),
                _ => self.global(
                    w,
                    pc,
                    inst,
                    active,
                    &addresses,
                    total,
                    kind,
                    |allocation, lane, offset| {
                        if total < 4 {
                            allocation.set_part(offset, total, data[0][lane]);
                        } else {
                            scatter(&data, lane, offset, total, |at, _, value| {
                                allocation.set_word(at, value)
                            });
                        }
                    },
                ),
            }
        }
        Next::Forward
    }

    /// The values of a store as up to 16 bytes per lane.
    fn stored(&self, w: usize, access: &Access, values: &[Reg; 4], wide: bool) -> Data {
        let registers = &self.warps[w].registers;
        let low = |reg: Reg| match wide {
            true => registers.long(reg).map(|value| value as u32),
            false => *registers.word(reg),
        };
        let mut data: Data = [[0; 32]; 4];
        for (element, value) in values[..access.count].iter().enumerate() {
            match access.bytes {
                8 => {
                    let row = registers.long(*value);
                    data[2 * element] = row.map(|value| value as u32);
                    data[2 * element + 1] = row.map(|value| (value >> 32) as u32);
                }
                4 => data[element] = low(*value),
                bytes => {
                    let (place, shift) = (element * bytes / 4, 8 * (element * bytes % 4));
                    let mask = (1u32 << (8 * bytes)) - 1;
                    let row = low(*value);
                    for lane in 0..32 {
                        data[place][lane] |= (row[lane] & mask) << shift;
                    }
                }
            }
        }
        data
    }

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
        let mut actor = super::shadow::Actor {
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
            if let Some(conflict) = shadow.access(
                offset as u64,
                bytes as u64,
                kind,
                &actor,
                &mut self.distinct,
            ) {
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
        let mut actor = super::shadow::Actor {
            run: self.run,
            first_run: self.run, // a block's shared memory is its own
            warp: w as u32,
            lane: 0,
            clock: &self.warps[w].clock,
            partial_barriers: self.launch.kernel.partial_barriers,
        };
        let shared = &mut self.shared;
        let mut repeated = Repeated::default();
        for lane in lanes(active) {
            let offset = offsets[lane];
            let mut problem = |kind, what| problems.push(Problem { lane, kind, what });
            if offset
                .checked_add(bytes as u64)
                .is_none_or(|end| end > shared.bytes)
            {
                let what = format!(
                    "{bytes} bytes at shared offset {offset}, the block has {}",
                    shared.bytes
                );
                problem(ViolationKind::OutOfBounds, Trouble::Text(what));
                continue;
            }
            if !offset.is_multiple_of(bytes as u64) {
                problem(
                    ViolationKind::Misaligned,
                    Trouble::Text(format!("{bytes} bytes at shared offset {offset}")),
                );
                continue;
            }
            let at = offset as usize;
            if kind == Kind::Read && repeated.is_known(offset) {
                each(&mut shared.words, lane, at);
                continue;
            }
            actor.lane = lane as u32;
            let conflict =
                shared
                    .shadow
                    .access(offset, bytes as u64, kind, &actor, &mut Default::default());
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

    fn load_local(
        &mut self,
        w: usize,
        inst: &'a Inst,
        active: u32,
        offsets: &Longs,
        bytes: usize,
        data: &mut Data,
    ) {
        let active = self.check_local(w, inst, active, offsets, bytes);
        for lane in lanes(active) {
            let local = &self.warps[w].local;
            let at = offsets[lane] as usize;
            let first = at / 4;
            let complete = if bytes < 4 {
                let mask = ((1u8 << bytes) - 1) << (at % 4);
                local.written[first][lane] & mask == mask
            } else {
                (first..first + bytes / 4).all(|word| local.written[word][lane] == 15)
            };
            gather(data, lane, at, bytes, |at| local.words[at / 4][lane]);
            if !complete {
                self.report(
                    ViolationKind::Uninitialised,
                    w,
                    lane,
                    inst,
                    format!("{bytes} bytes at local offset {at}"),
                );
            }
        }
    }

    fn store_local(
        &mut self,
        w: usize,
        inst: &'a Inst,
        active: u32,
        offsets: &Longs,
        bytes: usize,
        data: &Data,
    ) {
        let active = self.check_local(w, inst, active, offsets, bytes);
        let local = &mut self.warps[w].local;
        for lane in lanes(active) {
            let at = offsets[lane] as usize;
            scatter(data, lane, at, bytes, |at, mask, value| {
                let word = &mut local.words[at / 4][lane];
                *word = (*word & !mask) | (value & mask);
            });
            if bytes < 4 {
                local.written[at / 4][lane] |= ((1 << bytes) - 1) << (at % 4);
            } else {
                (at / 4..at / 4 + bytes / 4).for_each(|word| local.written[word][lane] = 15);
            }
        }
    }

    /// Lanes whose local access is inside and aligned.
    fn check_local(
        &mut self,
        w: usize,
        inst: &'a Inst,
        active: u32,
        offsets: &Longs,
        bytes: usize,
    ) -> u32 {
        let room = self.launch.kernel.local_bytes as u64;
        let mut sound = active;
        for lane in lanes(active) {
            let offset = offsets[lane];
            let outside = offset
                .checked_add(bytes as u64)
                .is_none_or(|end| end > room);
            if outside || !offset.is_multiple_of(bytes as u64) {
                let kind = if outside {
                    ViolationKind::OutOfBounds
                } else {
                    ViolationKind::Misaligned
                };
                self.report(
                    kind,
                    w,
                    lane,
                    inst,
                    format!("{bytes} bytes at local offset {offset}, the thread has {room}"),
                );
                sound &= !(1 << lane);
            }
        }
        sound
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

/// Element `element` of `bytes` (1 or 2, or 4) from packed rows.
fn element_of(data: &Data, element: usize, bytes: usize) -> Words {
    let (place, shift) = (element * bytes / 4, 8 * (element * bytes % 4));
    data[place].map(|word| word >> shift)
}

/// Reads an aligned range into one lane of packed rows.
#[inline(always)]
fn gather(data: &mut Data, lane: usize, offset: usize, bytes: usize, word: impl Fn(usize) -> u32) {
    if bytes < 4 {
        data[0][lane] = word(offset & !3) >> (8 * (offset % 4));
    } else {
        for place in 0..bytes / 4 {
            data[place][lane] = word(offset + 4 * place);
        }
    }
}

/// Writes one lane of packed rows to an aligned range: offset of the word, bits to change, their values.
#[inline(always)]
fn scatter(
    data: &Data,
    lane: usize,
    offset: usize,
    bytes: usize,
    mut word: impl FnMut(usize, u32, u32),
) {
    if bytes < 4 {
        let shift = 8 * (offset % 4);
        word(
            offset & !3,
            ((1u32 << (8 * bytes)) - 1) << shift,
            data[0][lane] << shift,
        );
    } else {
        for place in 0..bytes / 4 {
            word(offset + 4 * place, u32::MAX, data[place][lane]);
        }
    }
}
