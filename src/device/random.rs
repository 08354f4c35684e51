//! Counter-based random numbers: Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//!
//! A number is a pure function of (seed, stream, index), so every device, thread count and resumed run draws the same
//! numbers. Nothing has to be stored but the counters themselves.

/// A stream of random numbers, addressed by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random {
    seed: u64,
    stream: u64,
}

const MULTIPLY: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

impl Random {
    /// The stream number `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        Random { seed, stream }
    }

    /// Seed and stream, for kernels that draw the same numbers.
    pub fn words(&self) -> [u64; 2] {
        [self.seed, self.stream]
    }

    /// A stream derived from this one, for instance one per step, then one per node.
    pub fn fork(&self, stream: u64) -> Self {
        let [a, b, c, d] = self.block(stream ^ 0x5DEE_CE66_D1CE_4E5B);
        Random {
            seed: u64::from(a) << 32 | u64::from(b),
            stream: u64::from(c) << 32 | u64::from(d),
        }
    }

    /// Four 32-bit words for one counter value.
    pub fn block(&self, index: u64) -> [u32; 4] {
        let mut key = [self.seed as u32, (self.seed >> 32) as u32];
        let mut x = [
            index as u32,
            (index >> 32) as u32,
            self.stream as u32,
            (self.stream >> 32) as u32,
        ];
        for _ in 0..10 {
            let p0 = u64::from(MULTIPLY[0]) * u64::from(x[0]);
            let p1 = u64::from(MULTIPLY[1]) * u64::from(x[2]);
            x = [
                (p1 >> 32) as u32 ^ x[1] ^ key[0],
                p1 as u32,
                (p0 >> 32) as u32 ^ x[3] ^ key[1],
                p0 as u32,
            ];
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        x
    }

    /// A 64-bit word.
    pub fn bits(&self, index: u64) -> u64 {
        let [a, b, ..] = self.block(index);
        u64::from(a) << 32 | u64::from(b)
    }

    /// Uniform in [0, 1), with 53 bits.
    pub fn uniform(&self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [0, 1), with 24 bits: the value that masks are drawn with on every device.
    pub fn uniform_f32(&self, index: u64) -> f32 {
        (self.block(index)[0] >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// Uniform integer in `0..bound` (bound > 0), without measurable bias for bounds below 2^48.
    pub fn below(&self, index: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(index)) * u128::from(bound)) >> 64) as u64
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&self, index: u64) -> f64 {
        let [a, b, c, d] = self.block(index);
        let unit = |hi: u32, lo: u32| {
            ((u64::from(hi) << 32 | u64::from(lo)) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
        };
        let radius = (-2.0 * (1.0 - unit(a, b)).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * unit(c, d)).cos()
    }
}

/// Draws one number after another from a [`Random`] stream.
#[derive(Debug, Clone)]
pub struct Sequence {
    random: Random,
    next: u64,
}

impl Sequence {
    /// Starts at index 0 of the stream.
    pub fn new(random: Random) -> Self {
        Sequence { random, next: 0 }
    }

    fn step(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        let i = self.step();
        self.random.uniform(i)
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let i = self.step();
        self.random.normal(i)
    }

    /// Uniform integer in `0..bound` (bound > 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        let i = self.step();
        self.random.below(i, bound)
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            values.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_match_the_published_test_vectors() {
        // Random123, kat_vectors, philox4x32-10
        let zero = Random::new(0, 0).block(0);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Random::new(u64::MAX, u64::MAX).block(u64::MAX);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut s = Sequence::new(Random::new(7, 3));
        let n = 100_000;
        let (mut u, mut g, mut g2) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            u += s.uniform();
            let x = s.normal();
            g += x;
            g2 += x * x;
        }
        let n = f64::from(n);
        assert!((u / n - 0.5).abs() < 0.005);
        assert!((g / n).abs() < 0.02);
        assert!((g2 / n - 1.0).abs() < 0.02);
    }

    #[test]
    fn shuffling_keeps_every_value() {
        let mut v: Vec<u32> = (0..100).collect();
        Sequence::new(Random::new(1, 1)).shuffle(&mut v);
        assert_ne!(v, (0..100).collect::<Vec<_>>());
        v.sort_unstable();
        assert_eq!(v, (0..100).collect::<Vec<_>>());
    }
}
