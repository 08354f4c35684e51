//! Race detection: for every few bytes, who wrote them last and who has read them since.
//!
//! Bytes are tracked four at a time, finer in 4 KiB chunks that are accessed in smaller parts. A stamp names the run
//! of a block, so stamps of earlier launches are simply older than the launch's first run. Readers that nothing orders
//! are merged into one stamp that says how far apart they were (lanes, warps, blocks); atomics and volatile accesses
//! are kept apart, since they race with plain accesses only.

use super::clock::Clock;
use std::collections::HashMap;

/// Bytes per chunk.
const CHUNK: u64 = 4096;

/// Who accessed, when: run of the block (32 bits), time (20), warp (5), lane (5), flags (2).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp(u64);

/// Highest time a stamp can hold.
pub const MAX_TIME: u32 = (1 << 20) - 1;
/// Flag of a write: an asynchronous copy that has not been awaited.
const PENDING: u64 = 1;

impl Stamp {
    fn new(actor: &Actor, flags: u64) -> Self {
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

    fn flags(self) -> u64 {
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

impl Actor<'_> {
    fn knows(&self, stamp: Stamp) -> bool {
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

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Stamp,
    read: Stamp,
}

struct Chunk {
    /// Bytes per cell, as a power of two.
    shift: u32,
    cells: Vec<Cell>,
    /// First run of the last launch that touched it.
    launch: u32,
    /// First run of the last launch that accessed it atomically.
    strong: u32,
}

#[derive(Clone, Copy)]
struct Strong {
    stamp: Stamp,
    wrote: bool,
}

/// Distinct bytes that a launch read and wrote.
#[derive(Clone, Copy, Default, Debug)]
pub struct Distinct {
    /// Bytes read at least once.
    pub read: u64,
    /// Bytes written at least once.
    pub written: u64,
}

/// The records of one allocation, or of a block's shared memory.
#[derive(Default)]
pub struct Shadow {
    chunks: Vec<Option<Box<Chunk>>>,
    strong: HashMap<u64, Strong>,
    readers: HashMap<u64, [u32; 32]>,
    touched: Vec<u32>,
}

impl Shadow {
    /// Starts a launch: side tables and the list of touched chunks belong to one launch only.
    pub fn start(&mut self) {
        self.strong.clear();
        self.readers.clear();
        self.touched.clear();
    }

    /// Whether this launch has accessed it.
    #[inline(always)]
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Notes an access of an aligned range of at most 16 bytes and checks it against earlier ones.
    #[inline]
    pub fn access(
        &mut self,
        offset: u64,
        bytes: u64,
        kind: Kind,
        actor: &Actor,
        distinct: &mut Distinct,
    ) -> Option<Conflict> {
        self.prepare(offset, bytes, actor.first_run);
        let chunk = self.chunks[(offset / CHUNK) as usize].as_mut()?;
        let (first, last) = (
            cell(offset, chunk.shift),
            cell(offset + bytes - 1, chunk.shift),
        );
        let size = 1u64 << chunk.shift;
        if matches!(kind, Kind::StrongRead | Kind::StrongWrite | Kind::Atomic) {
            return self.access_strongly(offset, first..last + 1, kind, actor);
        }
        let strong = chunk.strong == actor.first_run;
        let mut conflict = None;
        for at in first..=last {
            let cell = &mut chunk.cells[at];
            let write = cell.write;
            if write.run() >= actor.first_run {
                if write.run() == actor.run && write.flags() & PENDING != 0 {
                    conflict = Some(Conflict {
                        other: write,
                        was: "an asynchronous copy",
                        pending: true,
                    });
                } else if !actor.knows(write) {
                    conflict = Some(Conflict {
                        other: write,
                        was: "a write",
                        pending: false,
                    });
                }
            } else if kind == Kind::Write {
                distinct.written += size;
            }
            if kind == Kind::Write {
                let read = cell.read;
                if read.run() >= actor.first_run
                    && !knows_readers(read, actor, &self.readers, key(offset, at, size))
                {
                    conflict = Some(Conflict {
                        other: read,
                        was: "a read",
                        pending: false,
                    });
                }
                cell.write = Stamp::new(actor, 0);
            } else {
                if cell.read.run() < actor.first_run {
                    distinct.read += size;
                }
                cell.read = merge(cell.read, actor, &mut self.readers, key(offset, at, size));
            }
        }
        if strong && conflict.is_none() {
            let cells = first..last + 1;
            conflict = self.strong_conflict(offset, cells, size, kind, actor);
        }
        conflict
    }

    /// Marks an aligned range as the destination of an asynchronous copy.
    pub fn begin_copy(&mut self, offset: u64, bytes: u64, actor: &Actor) -> Option<Conflict> {
        let conflict = self.access(offset, bytes, Kind::Write, actor, &mut Distinct::default());
        self.stamp(offset, bytes, actor, PENDING);
        conflict
    }

    /// The copy has been awaited: from now on it is a write by the waiting thread.
    pub fn end_copy(&mut self, offset: u64, bytes: u64, actor: &Actor) {
        self.stamp(offset, bytes, actor, 0);
    }

    fn stamp(&mut self, offset: u64, bytes: u64, actor: &Actor, flags: u64) {
        self.prepare(offset, bytes, actor.first_run);
        let Some(chunk) = &mut self.chunks[(offset / CHUNK) as usize] else {
            return;
        };
        let (first, last) = (
            cell(offset, chunk.shift),
            cell(offset + bytes - 1, chunk.shift),
        );
        chunk.cells[first..=last]
            .iter_mut()
            .for_each(|cell| cell.write = Stamp::new(actor, flags));
    }

    /// Makes the chunk of an offset, fine enough for an access of `bytes`.
    #[inline(always)]
    fn prepare(&mut self, offset: u64, bytes: u64, launch: u32) {
        let number = (offset / CHUNK) as usize;
        if number >= self.chunks.len() {
            self.chunks.resize_with(number + 1, || None);
        }
        let wanted = (offset | bytes).trailing_zeros().min(2);
        let chunk = self.chunks[number].get_or_insert_with(|| {
            let cells = vec![Cell::default(); CHUNK as usize >> 2];
            Box::new(Chunk {
                shift: 2,
                cells,
                launch: 0,
                strong: 0,
            })
        });
        if chunk.launch != launch {
            chunk.launch = launch;
            self.touched.push(number as u32);
        }
        if wanted < chunk.shift {
            let start = number as u64 * CHUNK;
            refine(chunk, wanted, start, &mut self.strong, &mut self.readers);
        }
    }

    #[cold]
    fn access_strongly(
        &mut self,
        offset: u64,
        cells: std::ops::Range<usize>,
        kind: Kind,
        actor: &Actor,
    ) -> Option<Conflict> {
        let chunk = self.chunks[(offset / CHUNK) as usize].as_mut()?;
        let size = 1u64 << chunk.shift;
        chunk.strong = actor.first_run;
        let mut conflict = None;
        for at in cells {
            let (cell, key) = (chunk.cells[at], key(offset, at, size));
            if cell.write.run() >= actor.first_run {
                let pending = cell.write.run() == actor.run && cell.write.flags() & PENDING != 0;
                if pending || !actor.knows(cell.write) {
                    conflict = Some(Conflict {
                        other: cell.write,
                        was: "a plain write",
                        pending,
                    });
                }
            }
            let wrote = kind != Kind::StrongRead;
            if wrote
                && cell.read.run() >= actor.first_run
                && !knows_readers(cell.read, actor, &self.readers, key)
            {
                conflict = Some(Conflict {
                    other: cell.read,
                    was: "a plain read",
                    pending: false,
                });
            }
            let before = self.strong.get(&key).copied().unwrap_or(Strong {
                stamp: Stamp(0),
                wrote: false,
            });
            let merged = merge(before.stamp, actor, &mut HashMap::new(), key);
            self.strong.insert(
                key,
                Strong {
                    stamp: merged,
                    wrote: wrote || before.wrote,
                },
            );
        }
        conflict
    }

    #[cold]
    fn strong_conflict(
        &self,
        offset: u64,
        cells: std::ops::Range<usize>,
        size: u64,
        kind: Kind,
        actor: &Actor,
    ) -> Option<Conflict> {
        cells
            .filter_map(|at| self.strong.get(&key(offset, at, size)))
            .find_map(|strong| {
                let matters = strong.wrote || kind == Kind::Write;
                let ordered =
                    strong.stamp.run() < actor.first_run || knows_merged(strong.stamp, actor);
                (matters && !ordered).then_some(Conflict {
                    other: strong.stamp,
                    was: "an atomic access",
                    pending: false,
                })
            })
    }

    /// Whether a byte was read by plain loads since run `first_run`.
    pub fn has_read(&self, offset: u64, first_run: u32) -> bool {
        let chunk = self
            .chunks
            .get((offset / CHUNK) as usize)
            .and_then(Option::as_ref);
        chunk.is_some_and(|chunk| chunk.cells[cell(offset, chunk.shift)].read.run() >= first_run)
    }

    /// Chunks that both have touched in their current launches, compared byte range by byte range.
    pub fn compare(
        &self,
        first_run: u32,
        other: &Shadow,
        other_first_run: u32,
        report: &mut dyn FnMut(Overlap),
    ) {
        for &number in &self.touched {
            let Some(Some(b)) = other.chunks.get(number as usize) else {
                continue;
            };
            let Some(a) = &self.chunks[number as usize] else {
                continue;
            };
            if b.launch != other_first_run {
                continue;
            }
            let shift = a.shift.min(b.shift);
            for at in 0..(CHUNK >> shift) as usize {
                let (x, y) = (
                    a.cells[at >> (a.shift - shift)],
                    b.cells[at >> (b.shift - shift)],
                );
                let current = |stamp: Stamp, first: u32| (stamp.run() >= first).then_some(stamp);
                report(Overlap {
                    offset: u64::from(number) * CHUNK + ((at as u64) << shift),
                    bytes: 1 << shift,
                    writes: [
                        current(x.write, first_run),
                        current(y.write, other_first_run),
                    ],
                    reads: [current(x.read, first_run), current(y.read, other_first_run)],
                });
            }
        }
    }
}

/// A byte range that two workers may both have accessed.
pub struct Overlap {
    /// Where it is in the allocation.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// Last write of each.
    pub writes: [Option<Stamp>; 2],
    /// Last read of each.
    pub reads: [Option<Stamp>; 2],
}

#[inline(always)]
fn cell(offset: u64, shift: u32) -> usize {
    ((offset % CHUNK) >> shift) as usize
}

/// Names a cell in the side tables.
fn key(offset: u64, at: usize, size: u64) -> u64 {
    offset / CHUNK * CHUNK + at as u64 * size
}

/// Splits cells, each copy with the record of the whole.
fn refine(
    chunk: &mut Chunk,
    shift: u32,
    start: u64,
    strong: &mut HashMap<u64, Strong>,
    readers: &mut HashMap<u64, [u32; 32]>,
) {
    let (old, new) = (1u64 << chunk.shift, 1u64 << shift);
    let copies = (old / new) as usize;
    chunk.cells = chunk
        .cells
        .iter()
        .flat_map(|cell| std::iter::repeat_n(*cell, copies))
        .collect();
    chunk.shift = shift;
    let inside = |key: &u64| (start..start + CHUNK).contains(key);
    let spread: Vec<(u64, Strong)> = strong
        .iter()
        .filter(|(key, _)| inside(key))
        .map(|(key, value)| (*key, *value))
        .collect();
    for (key, value) in spread {
        (1..copies as u64).for_each(|i| {
            strong.insert(key + i * new, value);
        });
    }
    let spread: Vec<(u64, [u32; 32])> = readers
        .iter()
        .filter(|(key, _)| inside(key))
        .map(|(key, value)| (*key, *value))
        .collect();
    for (key, value) in spread {
        (1..copies as u64).for_each(|i| {
            readers.insert(key + i * new, value);
        });
    }
}

/// Whether merged readers are all ordered before now.
fn knows_merged(stamp: Stamp, actor: &Actor) -> bool {
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

fn knows_readers(stamp: Stamp, actor: &Actor, readers: &HashMap<u64, [u32; 32]>, key: u64) -> bool {
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
fn merge(old: Stamp, actor: &Actor, readers: &mut HashMap<u64, [u32; 32]>, key: u64) -> Stamp {
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
