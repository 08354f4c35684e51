//! Who has seen what: the order that barriers make between accesses.
//!
//! Each warp counts time in steps, one per barrier it takes part in. `seen[v]` is the last step of warp `v` whose
//! accesses are ordered before this warp's next ones; within the warp, lanes are ordered by `bar.warp.sync` only,
//! since a GPU may run them one after another.

use super::stamp::Stamp;

/// The knowledge of one warp.
#[derive(Clone)]
pub struct Clock {
    /// Current step, from 1.
    pub time: u32,
    /// Steps up to here are ordered between all lanes of the warp.
    pub lanes: u32,
    /// This warp's own step at the last barrier of the whole block.
    pub block: u32,
    /// Per warp, the steps that are ordered before now.
    pub seen: [u32; 32],
    /// Per pair of lanes, the same, once a `bar.warp.sync` for a part of the warp has run.
    pairs: Option<Box<[[u32; 32]; 32]>>,
}

impl Clock {
    /// A warp that has seen nothing.
    pub fn new() -> Self {
        Clock {
            time: 1,
            lanes: 0,
            block: 0,
            seen: [0; 32],
            pairs: None,
        }
    }

    /// `bar.warp.sync` by `members` of the lanes that are still alive.
    pub fn sync_lanes(&mut self, members: u32, live: u32) {
        if members == live {
            self.lanes = self.time;
            self.pairs = None;
        } else {
            let lanes = self.lanes;
            let pairs = self
                .pairs
                .get_or_insert_with(|| Box::new([[lanes; 32]; 32]));
            let each = || (0..32).filter(|lane| members >> lane & 1 != 0);
            let mut joined = [0; 32];
            for lane in each() {
                for other in 0..32 {
                    joined[other] = pairs[lane][other].max(joined[other]);
                }
            }
            for lane in each() {
                joined[lane] = self.time;
            }
            for lane in each() {
                pairs[lane] = joined;
            }
        }
        self.time += 1;
    }

    /// Whether an earlier access in this block is ordered before one by `lane` of `warp` now.
    #[inline(always)]
    pub fn knows(&self, stamp: Stamp, warp: u32, lane: u32) -> bool {
        if stamp.warp() != warp {
            return self.seen[stamp.warp() as usize] >= stamp.time();
        }
        stamp.lane() == lane || stamp.time() <= self.lanes || self.knows_lane(stamp, lane)
    }

    /// The same through a partial `bar.warp.sync`.
    fn knows_lane(&self, stamp: Stamp, lane: u32) -> bool {
        self.pairs
            .as_ref()
            .is_some_and(|pairs| pairs[lane as usize][stamp.lane() as usize] >= stamp.time())
    }

    /// Whether accesses by several lanes of a warp, of which `stamp` is the last, are ordered before now.
    pub fn knows_lanes(&self, stamp: Stamp, warp: u32, lane: u32) -> bool {
        if stamp.warp() != warp {
            return self.seen[stamp.warp() as usize] >= stamp.time();
        }
        stamp.time() <= self.lanes || self.knows_lane(stamp, lane)
    }

    /// Whether accesses by several warps, of which `stamp` is the last, are ordered before now by a barrier of all.
    pub fn knows_warps(&self, stamp: Stamp, warp: u32) -> bool {
        if stamp.warp() == warp {
            stamp.time() <= self.block
        } else {
            self.seen[stamp.warp() as usize] >= stamp.time()
        }
    }
}
