//! What GPUs can do at most: bounds on the time of a kernel, and how many of its warps fit.

use crate::device::cuda::Resources;

/// A kind of GPU: NVIDIA's figures at boost clock, without sparsity.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    /// What people call it.
    pub name: &'static str,
    /// Multiprocessors.
    pub multiprocessors: f64,
    /// Clock, GHz.
    pub clock: f64,
    /// Memory bandwidth, GB/s.
    pub bandwidth: f64,
    /// TF32 products on tensor cores, 10¹² operations/s.
    pub tensor: f64,
}

/// The GPUs that bounds are printed for.
pub const CARDS: [Card; 4] = [
    Card {
        name: "A100", // SXM, 80 GB
        multiprocessors: 108.0,
        clock: 1.41,
        bandwidth: 2039.0,
        tensor: 156.0,
    },
    Card {
        name: "H100", // SXM
        multiprocessors: 132.0,
        clock: 1.98,
        bandwidth: 3350.0,
        tensor: 494.7,
    },
    Card {
        name: "RTX 4090",
        multiprocessors: 128.0,
        clock: 2.52,
        bandwidth: 1008.0,
        tensor: 82.6,
    },
    Card {
        name: "Orin", // Jetson AGX Orin 64 GB; TF32 taken as half its rate for f16
        multiprocessors: 16.0,
        clock: 1.3,
        bandwidth: 204.8,
        tensor: 21.3,
    },
];

/// What a kernel cannot be faster than, and which of the four it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Microseconds.
    pub time: f64,
    /// `memory`, `issue`, `shared` or `tensor`.
    pub by: &'static str,
}

/// What a bound is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Bytes of the distinct sectors of global memory read and written.
    pub bytes: u64,
    /// Instructions of warps.
    pub instructions: u64,
    /// Wavefronts of shared memory.
    pub wavefronts: u64,
    /// Multiplications and additions on tensor cores, in time of TF32: those of half precision, twice as fast on all of
    /// [`CARDS`], count half.
    pub tensor: u64,
}

impl Work {
    /// What it becomes where `fixed` bytes are moved at any size and everything else grows by `ratio`.
    pub fn scaled(self, fixed: u64, ratio: f64) -> Work {
        let times = |count: u64| (count as f64 * ratio).round() as u64;
        let fixed = fixed.min(self.bytes);
        Work {
            bytes: fixed + times(self.bytes - fixed),
            instructions: times(self.instructions),
            wavefronts: times(self.wavefronts),
            tensor: times(self.tensor),
        }
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.bytes += other.bytes;
        self.instructions += other.instructions;
        self.wavefronts += other.wavefronts;
        self.tensor += other.tensor;
    }
}

impl Card {
    /// The longest of: moving the distinct sectors once; issuing the instructions, four a clock and multiprocessor;
    /// serving shared memory, one wavefront a clock and multiprocessor; the products.
    pub fn bound(&self, work: Work) -> Bound {
        let clocks = self.multiprocessors * self.clock * 1e3; // per microsecond
        let times = [
            ("memory", work.bytes as f64 / (self.bandwidth * 1e3)),
            ("issue", work.instructions as f64 / (4.0 * clocks)),
            ("shared", work.wavefronts as f64 / clocks),
            ("tensor", work.tensor as f64 / (self.tensor * 1e6)),
        ];
        let (by, time) =
            times.into_iter().fold(
                ("memory", 0.0),
                |most, next| if next.1 > most.1 { next } else { most },
            );
        Bound { time, by }
    }
}

/// Limits of a multiprocessor: threads, blocks, bytes of shared memory for blocks.
fn limits(capability: u32) -> [u32; 3] {
    match capability {
        75 => [1024, 16, 64 << 10],
        80 => [2048, 32, 164 << 10],
        86 => [1536, 16, 100 << 10],
        87 => [1536, 16, 164 << 10],
        89 => [1536, 24, 100 << 10],
        90..=103 => [2048, 32, 228 << 10],
        _ => [1536, 24, 100 << 10],
    }
}

/// Share of the warps that a multiprocessor of `capability` holds, with blocks of `threads` threads and `shared` bytes
/// of shared memory. Registers are given out to warps in units of 256, 65 536 in all.
pub fn occupancy(capability: u32, resources: &Resources, threads: u32, shared: u32) -> f64 {
    let [most_threads, most_blocks, most_shared] = limits(capability);
    let warps = threads.div_ceil(32).max(1);
    let registers = (32 * resources.registers).next_multiple_of(256).max(256) * warps;
    // The system keeps 1 KiB of each block's share.
    let reserved = if capability >= 80 { 1 << 10 } else { 0 };
    let blocks = (most_threads / (32 * warps))
        .min(most_blocks)
        .min(65_536 / registers)
        .min(most_shared / (shared + reserved).max(1));
    f64::from(blocks * warps) / f64::from(most_threads / 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_thing_bounds() {
        let a100 = &CARDS[0];
        let copy = Work {
            bytes: 2_039_000,
            instructions: 1000,
            ..Work::default()
        };
        let bound = a100.bound(copy);
        assert_eq!(bound.by, "memory");
        assert!((bound.time - 1.0).abs() < 1e-9, "{}", bound.time);
        let product = Work {
            tensor: 312_000_000,
            ..copy
        };
        let bound = a100.bound(product);
        assert_eq!(bound.by, "tensor");
        assert!((bound.time - 2.0).abs() < 1e-9);
        let talk = Work {
            instructions: 4 * 108 * 1410 * 3,
            ..Work::default()
        };
        assert_eq!(a100.bound(talk).by, "issue");
        assert!((a100.bound(talk).time - 3.0).abs() < 1e-9);
    }

    #[test]
    fn occupancy_is_what_nvidias_calculator_says() {
        let with = |registers| Resources {
            registers,
            ..Resources::default()
        };
        for (capability, registers, threads, shared, share) in [
            (80, 32, 256, 0, 1.0),
            (80, 64, 256, 0, 0.5),
            (80, 128, 256, 9216, 0.25),
            (80, 33, 256, 0, 0.75),          // 40 registers: 6 blocks
            (80, 16, 32, 0, 0.5),            // 32 blocks of one warp
            (80, 16, 128, 48 << 10, 0.1875), // 3 blocks of 49 KiB
            (75, 32, 256, 0, 1.0),
            (86, 32, 1024, 0, 2.0 / 3.0),
            (90, 255, 256, 0, 0.125),
        ] {
            let found = occupancy(capability, &with(registers), threads, shared);
            assert!(
                (found - share).abs() < 1e-9,
                "{capability} {registers}: {found}"
            );
        }
    }
}
