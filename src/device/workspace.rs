//! Scratch memory of a thread: kernels that work in tiles take it once per tile, it is allocated once per thread.

use bytemuck::{Pod, Zeroable};
use std::cell::Cell;

/// One cache line, so that the workspace is aligned to it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Calls `run` with `words` values of this thread's scratch memory, aligned to a cache line and holding anything.
pub fn with_workspace<R>(words: usize, run: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out, not borrowed: a nested call then works too, in memory of its own.
    let mut lines = LINES.take();
    let count = words.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line([0.0; 16]));
    }
    let result = run(&mut bytemuck::cast_slice_mut(&mut lines[..])[..words]);
    LINES.set(lines);
    result
}

/// Cuts the first `words` values off `rest`, rounded up to whole cache lines.
pub fn carve<'a>(rest: &mut &'a mut [f32], words: usize) -> &'a mut [f32] {
    let (part, left) = std::mem::take(rest).split_at_mut(padded(words));
    *rest = left;
    &mut part[..words]
}

/// `words` rounded up to whole cache lines: what [`carve`] takes.
pub const fn padded(words: usize) -> usize {
    words.next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_workspaces_do_not_overlap() {
        with_workspace(100, |outer| {
            outer.fill(1.0);
            with_workspace(300, |inner| inner.fill(2.0));
            assert!(outer.iter().all(|x| *x == 1.0));
        });
    }

    #[test]
    fn carved_parts_are_aligned_and_disjoint() {
        with_workspace(padded(5) + padded(20), |mut rest| {
            let a = carve(&mut rest, 5);
            let b = carve(&mut rest, 20);
            assert_eq!((a.len(), b.len(), rest.len()), (5, 20, 0));
            assert_eq!(a.as_ptr() as usize % 64, 0);
            assert_eq!(b.as_ptr() as usize % 64, 0);
        });
    }
}
