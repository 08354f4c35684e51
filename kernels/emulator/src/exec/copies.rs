//! Asynchronous copies that have been issued and not yet awaited: their bytes are nowhere to be seen until then.

use super::lanes;
use std::collections::VecDeque;

/// One lane's copy.
#[derive(Clone, Copy)]
pub struct Pending {
    /// The lane that issued it.
    pub lane: u8,
    /// Bytes: 4, 8 or 16.
    pub bytes: u8,
    /// Offset in shared memory.
    pub offset: u32,
    /// What will be there.
    pub data: [u32; 4],
    group: u32,
}

/// Copies of a warp, oldest first.
#[derive(Default)]
pub struct Copies {
    queue: VecDeque<Pending>,
    /// Groups committed by each lane.
    committed: [u32; 32],
}

impl Copies {
    /// Issues a copy into the lane's open group.
    pub fn issue(&mut self, lane: usize, offset: u32, bytes: usize, data: [u32; 4]) {
        let group = self.committed[lane];
        self.queue.push_back(Pending {
            lane: lane as u8,
            bytes: bytes as u8,
            offset,
            data,
            group,
        });
    }

    /// Closes the open group of each lane.
    pub fn commit(&mut self, active: u32) {
        lanes(active).for_each(|lane| self.committed[lane] += 1);
    }

    /// Takes the copies that a wait completes: all groups but the last `keep`, or everything for none.
    pub fn wait(&mut self, active: u32, keep: Option<u32>, mut done: impl FnMut(Pending)) {
        let committed = self.committed;
        self.queue.retain(|copy| {
            let lane = copy.lane as usize;
            let complete = active >> lane & 1 != 0
                && keep.is_none_or(|keep| {
                    copy.group < committed[lane] && committed[lane] - copy.group > keep
                });
            if complete {
                done(*copy);
            }
            !complete
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_leaves_the_last_groups() {
        let mut copies = Copies::default();
        for group in 0..3 {
            copies.issue(0, group, 4, [0; 4]);
            if group < 2 {
                copies.commit(1);
            }
        }
        let mut seen = Vec::new();
        copies.wait(1, Some(1), |copy| seen.push(copy.offset));
        assert_eq!(seen, [0]);
        copies.wait(1, Some(0), |copy| seen.push(copy.offset));
        assert_eq!(seen, [0, 1], "the open group is not committed");
        copies.wait(1, None, |copy| seen.push(copy.offset));
        assert_eq!(seen, [0, 1, 2]);
    }
}
