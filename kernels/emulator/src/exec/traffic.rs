//! What an access costs the memory system, counted exactly.
//!
//! **Global memory** moves in sectors of 32 bytes: an instruction of a warp requests the distinct sectors that its
//! lanes touch, and could not request fewer than its distinct bytes fill.
//!
//! **Shared memory** has 32 banks of 4 bytes. Accesses of 4 bytes or fewer are served for the whole warp at once, of 8
//! bytes for half a warp, of 16 for a quarter; each such part takes as many wavefronts as the busiest bank has
//! distinct words, at least one. What is above one per part is a bank conflict.

use crate::lanes::Longs;

/// Exact counts of one instruction of a kernel.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    /// Times a warp executed it.
    pub warps: u64,
    /// Lanes that took part, in sum.
    pub lanes: u64,
    /// Times a branch sent lanes of one warp two ways.
    pub divergent: u64,
    /// Global sectors requested.
    pub sectors: u64,
    /// Fewest sectors that could hold the same bytes.
    pub least_sectors: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Wavefronts of shared memory.
    pub wavefronts: u64,
    /// Wavefronts without bank conflicts.
    pub least_wavefronts: u64,
}

impl Count {
    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Count) {
        self.warps += other.warps;
        self.lanes += other.lanes;
        self.divergent += other.divergent;
        self.sectors += other.sectors;
        self.least_sectors += other.least_sectors;
        self.bytes += other.bytes;
        self.wavefronts += other.wavefronts;
        self.least_wavefronts += other.least_wavefronts;
    }

    /// Counts a global access of `bytes` per lane.
    pub fn global(&mut self, addresses: &Longs, active: u32, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes += bytes * u64::from(active.count_ones());
        let first = addresses[0];
        if active == u32::MAX
            && (1..32).all(|lane| addresses[lane] == first.wrapping_add(bytes * lane as u64))
        {
            let (start, end) = (first / 32, (first.wrapping_add(32 * bytes - 1)) / 32);
            self.sectors += end - start + 1;
            self.least_sectors += bytes;
            return;
        }
        if active == u32::MAX && addresses.iter().all(|address| *address == first) {
            self.sectors += 1;
            self.least_sectors += 1;
            return;
        }
        let mut sorted = [0; 32];
        let mut count = 0;
        for lane in super::lanes(active) {
            sorted[count] = addresses[lane];
            count += 1;
        }
        let sorted = &mut sorted[..count];
        sorted.sort_unstable();
        let (mut distinct, mut sectors) = (0, 0);
        for (at, address) in sorted.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| sorted[before]);
            distinct += u64::from(before != Some(*address));
            sectors += u64::from(before.map(|before| before / 32) != Some(address / 32));
        }
        self.sectors += sectors;
        self.least_sectors += (distinct * bytes).div_ceil(32);
    }

    /// Counts a shared access of `bytes` per lane at byte offsets.
    pub fn shared(&mut self, offsets: &Longs, active: u32, bytes: usize) {
        self.bytes += bytes as u64 * u64::from(active.count_ones());
        let words = bytes.div_ceil(4).max(1);
        let first = offsets[0];
        let in_line =
            |step: u64| (1..32).all(|lane| offsets[lane] == first.wrapping_add(step * lane as u64));
        if active == u32::MAX && (in_line(0) || (bytes >= 4 && in_line(bytes as u64))) {
            self.wavefronts += words as u64;
            self.least_wavefronts += words as u64;
            return;
        }
        let lanes_at_once = 32 / words;
        for part in 0..words {
            let mask = if words == 1 {
                u32::MAX
            } else {
                ((1u64 << lanes_at_once) - 1) as u32
            } << (part * lanes_at_once % 32);
            if active & mask != 0 {
                self.least_wavefronts += 1;
                self.wavefronts += wavefronts(offsets, active & mask, words as u64);
            }
        }
    }
}

/// Distinct words in the busiest bank.
fn wavefronts(offsets: &Longs, lanes: u32, words: u64) -> u64 {
    let mut first = [u64::MAX; 32];
    let mut clash = false;
    for lane in super::lanes(lanes) {
        for word in offsets[lane] / 4..offsets[lane] / 4 + words {
            let bank = &mut first[word as usize % 32];
            clash |= *bank != u64::MAX && *bank != word;
            *bank = word;
        }
    }
    if !clash {
        return 1;
    }
    // A part of a warp asks for 32 words at most.
    let (mut all, mut count) = ([0u64; 32], 0);
    for lane in super::lanes(lanes) {
        for word in offsets[lane] / 4..offsets[lane] / 4 + words {
            all[count] = word;
            count += 1;
        }
    }
    let all = &mut all[..count];
    all.sort_unstable();
    let mut busy = [0u64; 32];
    for (at, word) in all.iter().enumerate() {
        let repeated = at > 0 && all[at - 1] == *word;
        busy[*word as usize % 32] += u64::from(!repeated);
    }
    busy.into_iter().max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(stride: u64) -> Longs {
        std::array::from_fn(|lane| 64 + stride * lane as u64)
    }

    #[test]
    fn sectors_are_distinct_and_least_is_by_bytes() {
        for (stride, bytes, sectors, least) in [
            (4, 4, 4, 4),
            (8, 4, 8, 4),
            (32, 4, 32, 4),
            (0, 4, 1, 1),
            (16, 16, 16, 16),
            (64, 16, 32, 16),
        ] {
            let mut count = Count::default();
            count.global(&strided(stride), u32::MAX, bytes);
            assert_eq!(
                (count.sectors, count.least_sectors),
                (sectors, least),
                "stride {stride} bytes {bytes}"
            );
        }
    }

    #[test]
    fn bank_conflicts_follow_the_stride() {
        for (stride, bytes, wavefronts, least) in [
            (4, 4, 1, 1),
            (8, 4, 2, 1),
            (128, 4, 32, 1),
            (132, 4, 1, 1),
            (0, 4, 1, 1),
            (8, 8, 2, 2),
            (16, 16, 4, 4),
            (32, 16, 8, 4),
        ] {
            let mut count = Count::default();
            count.shared(&strided(stride), u32::MAX, bytes);
            assert_eq!(
                (count.wavefronts, count.least_wavefronts),
                (wavefronts, least),
                "stride {stride} bytes {bytes}"
            );
        }
    }
}
