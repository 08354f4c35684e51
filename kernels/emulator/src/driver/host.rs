//! Pinned host memory, and the copies under way from and to it.
//!
//! A GPU copies from pinned memory at some time between the call and the moment when the host knows that the copy is
//! done. So the bytes of an upload are looked at again at that moment: they must not have changed. The bytes of a download
//! arrive at that moment and not before. Other host memory is pageable: the driver reads it before an upload returns, and
//! a download returns when it is done.

use super::order::{Clock, Place, Turn};
use super::*;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ops::Range;

/// Pinned memory and what happens to it.
#[derive(Default)]
pub struct Pinned {
    blocks: BTreeMap<usize, Layout>,
    pending: Vec<Pending>,
}

/// A copy that the host does not know to be done.
struct Pending {
    range: Range<usize>,
    place: Place,
    copy: Copying,
}

enum Copying {
    /// To the device: a sum of the bytes when the copy was asked for.
    Upload(u64),
    /// From the device: the bytes that will arrive.
    Download(Vec<u8>),
}

impl Pinned {
    /// Page-locked memory of `bytes` bytes; none where there is no room.
    pub fn allocate(&mut self, bytes: usize) -> Option<usize> {
        let layout = Layout::from_size_align(bytes.max(1), 4096).ok()?;
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            return None;
        }
        self.blocks.insert(memory as usize, layout);
        Some(memory as usize)
    }

    /// Frees a block, which no copy may still use; none where there is no such block.
    pub fn free(&mut self, base: usize) -> Option<Result<(), Error>> {
        let layout = self.blocks.remove(&base)?;
        let range = base..base + layout.size();
        let used = self.pending.iter().find(|p| overlap(&p.range, &range));
        let result = match used {
            None => Ok(()),
            Some(pending) => Err(Error::Order(format!(
                "pinned memory is freed while {pending} is under way"
            ))),
        };
        self.pending.retain(|p| !overlap(&p.range, &range));
        // SAFETY: allocated above with the same layout, and taken out of the list.
        unsafe { dealloc(base as *mut u8, layout) };
        Some(result)
    }

    /// Whether host bytes lie in pinned memory.
    pub fn holds(&self, from: usize, bytes: usize) -> bool {
        let block = self.blocks.range(..=from).next_back();
        block.is_some_and(|(base, layout)| from + bytes <= base + layout.size())
    }

    /// The host knows what `clock` knows.
    ///
    /// # Errors
    /// [`Error::Order`] where the host has changed what an upload was to read.
    pub fn settle(&mut self, clock: &Clock) -> Result<(), Error> {
        self.settle_where(|pending| clock.knows(pending.place))
    }

    /// A copy of `turn` is going to read or write the host bytes of `range`: earlier copies there are over before.
    ///
    /// # Errors
    /// [`Error::Order`] where nothing orders the two, or where the host has changed what an earlier upload was to read.
    fn enter(&mut self, range: &Range<usize>, turn: &Turn) -> Result<(), Error> {
        let touching = |p: &Pending| overlap(&p.range, range);
        let both_read = |p: &Pending| matches!(p.copy, Copying::Upload(_));
        let changed = |p: &Pending| touching(p) && p.is_changed();
        if let Some(at) = self.pending.iter().position(changed) {
            return Err(self.pending.swap_remove(at).changed());
        }
        let racing = |p: &&Pending| touching(p) && !both_read(p) && !turn.clock.knows(p.place);
        if let Some(pending) = self.pending.iter().find(racing) {
            let what = format!("a copy in stream {} uses pinned memory", turn.place.stream);
            return Err(Error::Order(format!(
                "race between streams: {what} while {pending} is under way, and nothing orders the two"
            )));
        }
        self.settle_where(|p| touching(p) && turn.clock.knows(p.place))
    }

    /// An upload from `bytes` bytes at `from`, which its device has just read.
    ///
    /// # Errors
    /// As [`Pinned::settle`].
    pub fn upload(&mut self, from: usize, bytes: usize, turn: &Turn) -> Result<(), Error> {
        let range = from..from + bytes;
        self.enter(&range, turn)?;
        let copy = Copying::Upload(sum(&range));
        let place = turn.place;
        self.pending.push(Pending { range, place, copy });
        Ok(())
    }

    /// A download of `data` to `to`: it arrives when the host waits for it.
    ///
    /// # Errors
    /// As [`Pinned::settle`].
    pub fn download(&mut self, to: usize, data: Vec<u8>, turn: &Turn) -> Result<(), Error> {
        let range = to..to + data.len();
        self.enter(&range, turn)?;
        let copy = Copying::Download(data);
        let place = turn.place;
        self.pending.push(Pending { range, place, copy });
        Ok(())
    }

    fn settle_where(&mut self, is_over: impl Fn(&Pending) -> bool) -> Result<(), Error> {
        let mut result = Ok(());
        self.pending.retain(|pending| {
            if !is_over(pending) {
                return true;
            }
            match &pending.copy {
                Copying::Upload(_) if pending.is_changed() => result = Err(pending.changed()),
                Copying::Upload(_) => {}
                // SAFETY: the range lies in a pinned block that is not freed while copies to it are listed.
                Copying::Download(data) => unsafe {
                    let to = pending.range.start as *mut u8;
                    std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
                },
            }
            false
        });
        result
    }
}

impl Pending {
    fn is_changed(&self) -> bool {
        matches!(self.copy, Copying::Upload(before) if sum(&self.range) != before)
    }

    fn changed(&self) -> Error {
        Error::Order(format!(
            "the host changed pinned memory while {self} was under way: wait for an event after the copy before reusing \
             its source"
        ))
    }
}

impl std::fmt::Display for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let what = match self.copy {
            Copying::Upload(_) => "an upload from",
            Copying::Download(_) => "a download to",
        };
        let (bytes, stream) = (self.range.len(), self.place.stream);
        write!(f, "{what} {bytes} bytes of it in stream {stream}")
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// A sum that changes with any byte.
fn sum(range: &Range<usize>) -> u64 {
    // SAFETY: ranges of pending copies lie in pinned blocks, which are alive while copies are listed. The host may write
    // there at the same time from another thread: then the sum is of some of its bytes, and differs, as it should.
    let bytes = unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) };
    let mix = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut chunks = bytes.chunks_exact(8);
    let words = chunks
        .by_ref()
        .map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes")));
    let whole = words.fold(1, mix);
    chunks
        .remainder()
        .iter()
        .fold(whole, |sum, byte| mix(sum, u64::from(*byte)))
}
