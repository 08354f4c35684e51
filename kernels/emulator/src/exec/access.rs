//! Loads and stores.

use super::block::Worker;
use super::calculate::{extend, write};
use super::stamp::Kind;
use super::step::Next;
use super::{LOCAL_WINDOW, SHARED_WINDOW, lanes};
use crate::decode::kernel::{Access, Address, Inst, Reg};
use crate::lanes::{Longs, Words};
use crate::ptx::Space;

/// Up to 16 bytes per lane, as rows of words.
pub type Data = [Words; 4];

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
}

/// Element `element` of `bytes` (1 or 2, or 4) from packed rows.
fn element_of(data: &Data, element: usize, bytes: usize) -> Words {
    let (place, shift) = (element * bytes / 4, 8 * (element * bytes % 4));
    data[place].map(|word| word >> shift)
}

/// Reads an aligned range into one lane of packed rows.
#[inline(always)]
pub fn gather(
    data: &mut Data,
    lane: usize,
    offset: usize,
    bytes: usize,
    word: impl Fn(usize) -> u32,
) {
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
pub fn scatter(
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
