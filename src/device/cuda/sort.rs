//! Stable sort of unsigned keys on a GPU, which also gives the order that sorts them.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | source | N | the keys, 32 or 64 bits; they stay as they are |
//! | keys | N, twice | places for sorted keys; `source` may be the first |
//! | order | N, twice | where each sorted key stood; equal keys stay in their order |
//!
//! Passes over one digit of 8 bits take turns between the two places; as many as the used bits need, at least one. Keys
//! that are floats ≥ 0 sort by their bits; the complement of the bits sorts them from large to small.
//! Time: O(N) per pass, three launches. Memory: the places and [`Sort::scratch_words`].

use super::{Gpu, Grid, Pointer, args, kernels};
use crate::Result;

/// Bits of a digit.
const DIGIT: u32 = 8;
/// Keys of one tile; as in the kernels.
const TILE: usize = 2048;

kernels!("sort");

/// Width of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `u32`
    Bits32,
    /// `u64`
    Bits64,
}

/// A sort of keys of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Sort {
    /// N, less than 2^32 − 1.
    pub count: usize,
    /// What a key is.
    pub key: Key,
    /// Low bits that differ between keys; all higher ones are equal.
    pub bits: u32,
}

impl Sort {
    /// Words of scratch memory that [`Sort::run`] needs.
    pub fn scratch_words(&self) -> usize {
        self.count.div_ceil(TILE) << DIGIT
    }

    fn passes(&self) -> usize {
        self.bits.div_ceil(DIGIT).max(1) as usize
    }

    /// Which of the two places holds the result: 0 or 1.
    pub fn result(&self) -> usize {
        self.passes() % 2
    }

    /// Queues the sort of the keys at `source`. Sorted keys and their order are then at place [`Sort::result`].
    ///
    /// # Errors
    /// As [`Gpu::launch`].
    ///
    /// # Panics
    /// When places of keys cannot be numbered with 32 bits.
    pub fn run(
        &self,
        gpu: Gpu,
        source: Pointer,
        keys: [Pointer; 2],
        order: [Pointer; 2],
        scratch: Pointer,
    ) -> Result<()> {
        let n = u32::try_from(self.count).expect("keys are numbered with 32 bits");
        let tiles = self.count.div_ceil(TILE);
        let (count, move_) = match self.key {
            Key::Bits32 => ("sort_counts_32", "sort_moves_32"),
            Key::Bits64 => ("sort_counts_64", "sort_moves_64"),
        };
        let grid = Grid::new(tiles, 256);
        // Without keys there is nothing to place either.
        let one = Grid::new(tiles.min(1), 1024);
        for pass in 0..self.passes() {
            let (from, to) = (pass % 2, 1 - pass % 2);
            let shift = pass as u32 * DIGIT;
            let unsorted = if pass == 0 { source } else { keys[from] };
            let args = args![unsorted, n, shift, scratch];
            gpu.launch(&KERNELS, count, grid, args)?;
            gpu.launch(&KERNELS, "sort_places", one, args![tiles as u32, scratch])?;
            let numbered = (pass > 0).then_some(order[from]);
            let args = args![unsorted, numbered, n, shift, scratch, keys[to], order[to]];
            gpu.launch(&KERNELS, move_, grid, args)?;
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::device::cuda::Buffer;
    use crate::device::{Device, random::Random};
    use crate::graph::check::devices;
    use bytemuck::Pod;

    /// Sorted keys and their order.
    fn sorted<T: Pod>(gpu: Gpu, key: Key, keys: &[T], bits: u32) -> (Vec<T>, Vec<u32>) {
        let count = keys.len();
        let sort = Sort { count, key, bits };
        let source = Buffer::copied(gpu, keys).unwrap();
        let given = keys;
        let keys = [(); 2].map(|()| Buffer::new::<T>(gpu, count).unwrap());
        let order = [(); 2].map(|()| Buffer::new::<u32>(gpu, count).unwrap());
        let scratch = Buffer::new::<u32>(gpu, sort.scratch_words()).unwrap();
        let places = |pair: &[Buffer; 2]| [pair[0].at(), pair[1].at()];
        sort.run(
            gpu,
            source.at(),
            places(&keys),
            places(&order),
            scratch.at(),
        )
        .unwrap();
        assert!(
            bytemuck::cast_slice::<T, u8>(&source.read::<T>(count).unwrap())
                == bytemuck::cast_slice::<T, u8>(given)
        );
        let at = sort.result();
        (
            keys[at].read(count).unwrap(),
            order[at].read(count).unwrap(),
        )
    }

    fn check<T: Pod + Ord + std::fmt::Debug>(key: Key, keys: &[T], bits: u32) {
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by_key(|&i| keys[i as usize]);
        let expected: Vec<T> = order.iter().map(|&i| keys[i as usize]).collect();
        for device in devices() {
            let Device::Cuda(gpu) = device else { continue };
            let found = sorted(gpu, key, keys, bits);
            assert!(
                found == (expected.clone(), order.clone()),
                "{} {key:?} of {bits} bits",
                keys.len()
            );
        }
    }

    #[test]
    fn order_equals_a_stable_sort() {
        let random = Random::new(3, 1);
        for count in [0, 1, 31, 2048, 2049, 9000] {
            for bits in [0, 1, 8, 9, 33, 64] {
                let wide: Vec<u64> = (0..count)
                    .map(|i| random.bits(i).checked_shr(64 - bits).unwrap_or(0))
                    .collect();
                check(Key::Bits64, &wide, bits);
                let bits = bits.min(32);
                let narrow: Vec<u32> = (0..count)
                    .map(|i| (random.bits(i) as u32).checked_shr(32 - bits).unwrap_or(0))
                    .collect();
                check(Key::Bits32, &narrow, bits);
            }
        }
    }

    #[test]
    fn keys_of_many_tiles_and_few_values_keep_their_order() {
        let random = Random::new(4, 1);
        let keys: Vec<u32> = (0..70_000).map(|i| random.bits(i) as u32 % 3).collect();
        check(Key::Bits32, &keys, 2);
        check(Key::Bits64, &[7u64; 5000], 0);
        let falling: Vec<u64> = (0..5000u64).rev().collect();
        check(Key::Bits64, &falling, 13);
    }
}
