//! Stable radix sort of points by a 64-bit key.

/// Bits per pass: 2048 counters stay in the first-level cache.
const DIGIT: u32 = 11;

/// The order of `0..keys.len()` by key, equal keys in their original order. Linear in the number of keys and in the
/// number of bits that are used.
pub(super) fn order_by_key(keys: &[u64]) -> Vec<u32> {
    let mut pairs: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
    let mut sorted = vec![(0, 0); pairs.len()];
    let used = keys.iter().fold(0, |bits, key| bits | key);
    for shift in (0..u64::BITS - used.leading_zeros()).step_by(DIGIT as usize) {
        let digit = |key: u64| (key >> shift) as usize & ((1 << DIGIT) - 1);
        let mut starts = [0u32; 1 << DIGIT];
        for &(key, _) in &pairs {
            starts[digit(key)] += 1;
        }
        let mut total = 0;
        for start in &mut starts {
            total += std::mem::replace(start, total);
        }
        for &pair in &pairs {
            let slot = &mut starts[digit(pair.0)];
            sorted[*slot as usize] = pair;
            *slot += 1;
        }
        std::mem::swap(&mut pairs, &mut sorted);
    }
    pairs.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::Random;

    #[test]
    fn order_equals_a_stable_sort() {
        let random = Random::new(3, 1);
        for bits in [0, 1, 10, 11, 12, 33, 64] {
            for count in [0, 1, 2, 5000] {
                let keys: Vec<u64> = (0..count)
                    .map(|i| random.bits(i).checked_shr(64 - bits).unwrap_or(0))
                    .collect();
                let mut expected: Vec<u32> = (0..count as u32).collect();
                expected.sort_by_key(|&i| keys[i as usize]);
                assert_eq!(order_by_key(&keys), expected, "{count} keys of {bits} bits");
            }
        }
    }
}
