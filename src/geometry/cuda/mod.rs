//! Index steps on a GPU: coordinates go in, index lists stay there.
//!
//! The results are those of the CPU, number by number: cells, their order, neighbours and ties are decided by the same
//! f32 operations. The host learns sizes only, once per pooled level and once per set of windows; all else
//! is queued.
//!
//! | step | kernels |
//! |---|---|
//! | [`Cloud`]: points of a level, bounds of its elements | `bounds.cu` |
//! | grid partition | `partition.cu`, [`sort`](crate::device::cuda::sort), [`scan`](crate::device::cuda::scan) |
//! | [`Tree`]: points along a Morton curve under boxes of 32 | `tree.cu`, sort |
//! | K nearest neighbours, neighbours within a radius | `knn.cu`, `radius.cu` |
//! | farthest points | `farthest_point.cu` |
//! | inverse lists | `inverse.cu`, sort |
//! | attention windows | `window_lists.cu`, sort, scan, `inverse.cu` |
//! | interpolation stencils | `interpolation.cu` |
//! | moments of the offsets to neighbours | `moments.cu` |

mod cloud;
mod farthest_point;
mod interpolation;
mod inverse;
mod knn;
mod moments;
mod partition;
mod radius;
mod table;
mod tree;
mod window_lists;

pub(super) use cloud::Cloud;
pub(super) use farthest_point::{coord as sampled_coord, farthest, prefix};
pub(super) use interpolation::stencil;
pub(super) use inverse::inverse;
pub(super) use knn::{nearest, neighbors};
pub(super) use moments::moments;
pub(super) use partition::partition;
pub(super) use radius::radius;
pub(super) use table::Table;
pub(super) use tree::Tree;
pub(super) use window_lists::window_lists;

use crate::device::cuda::{Buffer, sort};
use crate::device::{Gpu, Pointer};
use crate::{Error, Result};

/// Sorted keys and where they stood.
struct Sorted {
    keys: Buffer,
    order: Buffer,
}

/// Sorts the keys at `source`, each of `words` 32-bit words.
fn sorted(gpu: Gpu, source: Pointer, sort: sort::Sort) -> Result<Sorted> {
    let words = match sort.key {
        sort::Key::Bits32 => 1,
        sort::Key::Bits64 => 2,
    };
    let place = |words: usize| Buffer::new::<u32>(gpu, sort.count * words);
    let keys = [place(words)?, place(words)?];
    let order = [place(1)?, place(1)?];
    let scratch = Buffer::new::<u32>(gpu, sort.scratch_words())?;
    let at = |pair: &[Buffer; 2]| [pair[0].at(), pair[1].at()];
    sort.run(gpu, source, at(&keys), at(&order), scratch.at())?;
    let result = |[first, second]: [Buffer; 2]| match sort.result() {
        0 => first,
        _ => second,
    };
    Ok(Sorted {
        keys: result(keys),
        order: result(order),
    })
}

/// Errors unless the elements of a batch can be told apart by 16 bits.
fn check_elements(count: usize) -> Result<()> {
    if count > 1 << 16 {
        return Err(Error::argument(
            "batch offsets",
            format!("{count} elements, but a GPU takes 65536 at most; use smaller batches"),
        ));
    }
    Ok(())
}

#[cfg(all(test, feature = "cuda"))]
mod tests;
