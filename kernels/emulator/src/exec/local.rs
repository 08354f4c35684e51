//! Local memory: each thread's own.

use super::access::{Data, gather, scatter};
use super::block::Worker;
use super::checked::misplaced;
use super::lanes;
use crate::decode::kernel::Inst;
use crate::lanes::Longs;
use crate::violation::ViolationKind;

impl<'a> Worker<'a> {
    /// `ld` from local memory.
    pub fn load_local(
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

    /// `st` to local memory.
    pub fn store_local(
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
            if let Some((kind, text)) = misplaced(offsets[lane], bytes, room, "local") {
                self.report(kind, w, lane, inst, text);
                sound &= !(1 << lane);
            }
        }
        sound
    }
}
