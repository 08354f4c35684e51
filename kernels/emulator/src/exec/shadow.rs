//! Race detection: for every few bytes, who wrote them last and who has read them since.
//!
//! Bytes are tracked four at a time, finer in 4 KiB chunks that are accessed in smaller parts. A stamp names the run
//! of a block, so stamps of earlier launches are simply older than the launch's first run. Readers that nothing orders
//! are merged into one stamp that says how far apart they were (lanes, warps, blocks); atomics and volatile accesses
//! are kept apart, since they race with plain accesses only.

use super::stamp::{
    Actor, Conflict, Kind, PENDING, Readers, Stamp, knows_merged, knows_readers, merge,
};
use std::collections::HashMap;

/// Bytes per chunk.
const CHUNK: u64 = 4096;

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

/// Bytes of a sector, the least that memory moves.
const SECTOR: u64 = 32;

/// Sectors of a chunk that a launch touched, one bit each.
#[derive(Clone, Copy, Default)]
pub struct Sectors {
    /// Read at least once.
    pub read: u128,
    /// Written at least once; an atomic access counts as a write.
    pub written: u128,
}

/// The records of one allocation, or of a block's shared memory.
#[derive(Default)]
pub struct Shadow {
    chunks: Vec<Option<Box<Chunk>>>,
    strong: HashMap<u64, Strong>,
    readers: Readers,
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
        let conflict = self.access(offset, bytes, Kind::Write, actor);
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
                stamp: Stamp::default(),
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

    /// Adds the sectors touched since run `first_run`, the first of the current launch, by number of their chunk.
    pub fn add_sectors(&self, first_run: u32, all: &mut HashMap<u64, Sectors>) {
        for &number in &self.touched {
            let Some(chunk) = &self.chunks[number as usize] else {
                continue;
            };
            let sectors = all.entry(u64::from(number)).or_default();
            for (at, cell) in chunk.cells.iter().enumerate() {
                let bit = 1 << (((at as u64) << chunk.shift) / SECTOR);
                sectors.read |= if cell.read.run() >= first_run { bit } else { 0 };
                sectors.written |= if cell.write.run() >= first_run {
                    bit
                } else {
                    0
                };
            }
        }
        for (key, strong) in &self.strong {
            let sectors = all.entry(key / CHUNK).or_default();
            let bit = 1 << (key % CHUNK / SECTOR);
            if strong.wrote {
                sectors.written |= bit;
            } else {
                sectors.read |= bit;
            }
        }
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
                let writes = [
                    current(x.write, first_run),
                    current(y.write, other_first_run),
                ];
                let reads = [current(x.read, first_run), current(y.read, other_first_run)];
                if (0..2).any(|side| writes[side].is_none() && reads[side].is_none()) {
                    continue; // the usual case where blocks work on neighbouring memory
                }
                report(Overlap {
                    offset: u64::from(number) * CHUNK + ((at as u64) << shift),
                    writes,
                    reads,
                });
            }
        }
    }
}

/// A byte range that two workers may both have accessed.
pub struct Overlap {
    /// Where it is in the allocation.
    pub offset: u64,
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
    readers: &mut Readers,
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
