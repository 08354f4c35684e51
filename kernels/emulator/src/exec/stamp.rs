//! Who accessed memory, and when; whether something orders it before now.

use super::clock::Clock;
use std::collections::HashMap;

/// Times of the readers of each warp, for cells whose merged readers have to be told apart.
pub type Readers = HashMap<u64, [u32; 32]>;

/// Who accessed, when: run of the block (32 bits), time (20), warp (5), lane (5), flags (2).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp(u64);

/// Highest time a stamp can hold.
pub const MAX_TIME: u32 = (1 << 20) - 1;
/// Flag of a write: an asynchronous copy that has not been awaited.
pub const PENDING: u64 = 1;

impl Stamp {
    /// The actor, now.
    pub fn new(actor: &Actor, flags: u64) -> Self {
        let thread = u64::from(actor.warp) << 7 | u64::from(actor.lane) << 2;
        Stamp(u64::from(actor.run) << 32 | u64::from(actor.clock.time) << 12 | thread | flags)
    }

    /// Run of the block.
    pub fn run(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Step of the warp.
    #[inline(always)]
    pub fn time(self) -> u32 {
        (self.0 >> 12) as u32 & MAX_TIME
    }

    /// Warp in the block.
    #[inline(always)]
    pub fn warp(self) -> u32 {
        (self.0 >> 7) as u32 & 31
    }

    /// Lane in the warp.
    #[inline(always)]
    pub fn lane(self) -> u32 {
        (self.0 >> 2) as u32 & 31
    }

    /// Pending, or how far apart merged readers were.
    pub fn flags(self) -> u64 {
        self.0 & 3
    }
}

/// How far apart merged readers were.
const LANES: u64 = 1;
const WARPS: u64 = 2;
const BLOCKS: u64 = 3;

/// Who accesses now.
#[derive(Clone, Copy)]
pub struct Actor<'a> {
    /// Run of the block.
    pub run: u32,
    /// First run of the launch.
    pub first_run: u32,
    /// Warp in the block.
    pub warp: u32,
    /// Lane in the warp.
    pub lane: u32,
    /// What the warp has seen.
    pub clock: &'a Clock,
    /// Whether some barriers leave out warps: merged readers are then kept one by one.
    pub partial_barriers: bool,
}

impl<'a> Actor<'a> {
    /// The first lane of a warp in shared memory, which a block has to itself.
    #[inline(always)]
    pub fn in_block(run: u32, warp: usize, clock: &'a Clock, partial_barriers: bool) -> Self {
        Actor {
            run,
            first_run: run,
            warp: warp as u32,
            lane: 0,
            clock,
            partial_barriers,
        }
    }

    /// Whether a single access is ordered before now.
    pub fn knows(&self, stamp: Stamp) -> bool {
        stamp.run() < self.first_run
            || (stamp.run() == self.run && self.clock.knows(stamp, self.warp, self.lane))
    }
}

/// How memory is accessed.
#[allow(missing_docs)] // the names are plain
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    StrongRead,
    StrongWrite,
    Atomic,
}

/// An earlier access that the current one collides with.
#[derive(Clone, Copy)]
pub struct Conflict {
    /// The earlier access.
    pub other: Stamp,
    /// What it was.
    pub was: &'static str,
    /// Whether it is an asynchronous copy that nobody awaited.
    pub pending: bool,
}

/// Whether merged readers are all ordered before now.
pub fn knows_merged(stamp: Stamp, actor: &Actor) -> bool {
    if stamp.run() != actor.run {
        return false;
    }
    match stamp.flags() {
        0 => actor.clock.knows(stamp, actor.warp, actor.lane),
        LANES => actor.clock.knows_lanes(stamp, actor.warp, actor.lane),
        WARPS => actor.clock.knows_warps(stamp, actor.warp),
        _ => false,
    }
}

/// As [`knows_merged`], with the readers that are kept apart.
pub fn knows_readers(stamp: Stamp, actor: &Actor, readers: &Readers, key: u64) -> bool {
    if stamp.flags() == WARPS
        && stamp.run() == actor.run
        && actor.partial_barriers
        && let Some(times) = readers.get(&key)
    {
        let others = (0..32).filter(|warp| *warp != actor.warp as usize);
        return others
            .into_iter()
            .all(|warp| actor.clock.seen[warp] >= times[warp]);
    }
    knows_merged(stamp, actor)
}

/// The stamp of all readers since the last write that nothing orders before `actor`.
#[inline(always)]
pub fn merge(old: Stamp, actor: &Actor, readers: &mut Readers, key: u64) -> Stamp {
    if old.run() < actor.first_run {
        return Stamp::new(actor, 0);
    }
    if old.run() != actor.run {
        return Stamp::new(actor, BLOCKS);
    }
    if old.warp() == actor.warp && old.time() == actor.clock.time && old.flags() <= LANES {
        // The frequent case: lanes of one warp read the same bytes.
        let flags = if old.lane() == actor.lane {
            old.flags()
        } else {
            LANES
        };
        return Stamp::new(actor, flags);
    }
    if old.flags() != BLOCKS && knows_readers(old, actor, readers, key) {
        readers.remove(&key);
        return Stamp::new(actor, 0);
    }
    let level = if old.warp() == actor.warp {
        LANES
    } else {
        WARPS
    };
    let level = level.max(old.flags());
    if level == WARPS && actor.partial_barriers {
        let times = readers.entry(key).or_insert([0; 32]);
        times[old.warp() as usize] = times[old.warp() as usize].max(old.time());
        times[actor.warp as usize] = actor.clock.time;
    }
    Stamp::new(actor, level)
}
