//! Numbering 64-bit keys in the order in which they are first seen: a hash table without deletion.
//!
//! Open addressing with linear probing; 12 bytes per slot, at most three quarters of the slots taken.

/// A key of a grid cell, negative ones included. ([`super::voxel::key`], which the reference prescribes, is only good for cells
/// that are counted from the lowest one.) Two cells share one with a chance of 2^-64.
pub fn of_cell(cell: [i64; 3]) -> u64 {
    cell.iter().fold(0x243f_6a88_85a3_08d3, |hash: u64, axis| {
        let mixed = (hash ^ *axis as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    })
}

/// Numbers of keys.
#[derive(Debug, Clone, Default)]
pub struct KeyNumbers {
    keys: Vec<u64>,
    /// Number of the key in each slot; `EMPTY` marks a free one.
    numbers: Vec<u32>,
    len: u32,
}

const EMPTY: u32 = u32::MAX;
const LEAST_SLOTS: usize = 64;

impl KeyNumbers {
    /// A table that takes `count` keys without growing.
    pub fn with_capacity(count: usize) -> KeyNumbers {
        let mut table = KeyNumbers::default();
        table.resize((count + count / 3 + 1).next_power_of_two());
        table
    }

    /// How many different keys were seen.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True before the first key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of `key`: its own if it was seen before, else the next one.
    ///
    /// # Panics
    /// After 2^32 − 1 different keys.
    pub fn number(&mut self, key: u64) -> u32 {
        if 4 * (self.len as usize + 1) > 3 * self.keys.len() {
            self.resize(2 * self.keys.len());
        }
        let slot = self.slot(key);
        if self.numbers[slot] == EMPTY {
            assert!(self.len < EMPTY, "more keys than numbers");
            self.keys[slot] = key;
            self.numbers[slot] = self.len;
            self.len += 1;
        }
        self.numbers[slot]
    }

    /// The number of a key that was seen before.
    pub fn get(&self, key: u64) -> Option<u32> {
        if self.keys.is_empty() {
            return None;
        }
        let number = self.numbers[self.slot(key)];
        (number != EMPTY).then_some(number)
    }

    /// The slot that holds `key` or takes it.
    fn slot(&self, key: u64) -> usize {
        let mask = self.keys.len() - 1;
        // The upper bits of a product depend on all bits of the key.
        let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let mut slot = spread as usize & mask;
        while self.numbers[slot] != EMPTY && self.keys[slot] != key {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn resize(&mut self, slots: usize) {
        let slots = slots.max(LEAST_SLOTS);
        let keys = std::mem::replace(&mut self.keys, vec![0; slots]);
        let numbers = std::mem::replace(&mut self.numbers, vec![EMPTY; slots]);
        for (key, number) in keys.into_iter().zip(numbers) {
            if number != EMPTY {
                let slot = self.slot(key);
                self.keys[slot] = key;
                self.numbers[slot] = number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Random, Sequence};
    use std::collections::HashMap;

    #[test]
    fn cells_around_the_origin_have_different_keys() {
        let axis = |i: i64| (i % 41 - 20, i / 41);
        let cells = (0..41 * 41 * 41i64).map(|i| {
            let (x, rest) = axis(i);
            let (y, rest) = axis(rest);
            [x, y, rest - 20]
        });
        let keys: std::collections::HashSet<u64> = cells.map(of_cell).collect();
        assert_eq!(keys.len(), 41 * 41 * 41);
    }

    #[test]
    fn numbers_follow_first_sight_and_stay() {
        let mut s = Sequence::new(Random::new(4, 4));
        let mut twin = HashMap::new();
        for capacity in [0, 10_000] {
            twin.clear();
            let mut table = KeyNumbers::with_capacity(capacity);
            assert!(table.is_empty() && table.get(0).is_none());
            for _ in 0..20_000 {
                // Many repetitions, and keys that differ in their upper bits only.
                let key =
                    ((s.uniform() * 5000.0) as u64) << (if twin.len() % 2 == 0 { 0 } else { 48 });
                let next = twin.len() as u32;
                let expected = *twin.entry(key).or_insert(next);
                assert_eq!(table.number(key), expected);
            }
            assert_eq!(table.len(), twin.len());
            assert!(twin.iter().all(|(key, n)| table.get(*key) == Some(*n)));
            assert_eq!(table.get(u64::MAX), None);
        }
    }
}
