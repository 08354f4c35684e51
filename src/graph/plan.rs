//! Placing buffers with known lifetimes into one arena.
//!
//! Greedy by size (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference"): the largest
//! buffer first, each at the lowest offset where it overlaps no buffer that lives at the same time. Within a few per
//! cent of the lower bound on our graphs, and quick enough to be done for every batch.

use crate::device::ALIGN;

/// A buffer and the steps at which it is in use, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Size in 32-bit words.
    pub words: usize,
    /// Step that writes it first.
    pub first: usize,
    /// Step that uses it last.
    pub last: usize,
}

/// Where every buffer starts, in words, and the size of the arena.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// One offset per buffer, aligned to a cache line.
    pub offsets: Vec<usize>,
    /// Words needed in all.
    pub words: usize,
}

/// Places all buffers. Buffers of zero words get offset 0.
pub fn place(buffers: &[Lifetime]) -> Placement {
    let mut order: Vec<usize> = (0..buffers.len())
        .filter(|&i| buffers[i].words > 0)
        .collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].words), buffers[i].first, i));
    let mut placement = Placement {
        offsets: vec![0; buffers.len()],
        words: 0,
    };
    // Sorted by offset, so that one sweep finds the lowest gap.
    let mut placed: Vec<(usize, usize, Lifetime)> = Vec::with_capacity(order.len());
    for i in order {
        let buffer = buffers[i];
        let words = buffer.words.next_multiple_of(ALIGN / 4);
        let mut offset = 0;
        for &(start, end, other) in &placed {
            if other.last < buffer.first || buffer.last < other.first {
                continue;
            }
            if start >= offset + words {
                break;
            }
            offset = offset.max(end);
        }
        placement.offsets[i] = offset;
        placement.words = placement.words.max(offset + words);
        let at = placed.partition_point(|p| p.0 < offset);
        placed.insert(at, (offset, offset + words, buffer));
    }
    placement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Random, Sequence};

    #[test]
    fn living_buffers_never_overlap_and_memory_is_shared() {
        let mut random = Sequence::new(Random::new(3, 0));
        let buffers: Vec<Lifetime> = (0..300)
            .map(|_| {
                let first = random.below(200) as usize;
                Lifetime {
                    words: random.below(5000) as usize,
                    first,
                    last: first + random.below(20) as usize,
                }
            })
            .collect();
        let placement = place(&buffers);
        for (i, a) in buffers.iter().enumerate() {
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let apart = a.last < b.first || b.last < a.first;
                let (x, y) = (placement.offsets[i], placement.offsets[j]);
                assert!(
                    apart || a.words == 0 || b.words == 0 || x + a.words <= y || y + b.words <= x
                );
            }
        }
        let peak = (0..220)
            .map(|t| {
                let live = buffers.iter().filter(|b| b.first <= t && t <= b.last);
                live.map(|b| b.words).sum::<usize>()
            })
            .max()
            .unwrap();
        assert!(placement.words < peak * 5 / 4, "{} {peak}", placement.words);
    }

    #[test]
    fn nothing_needs_no_memory() {
        assert_eq!(place(&[]).words, 0);
    }
}
