//! Farthest points on a GPU: one block of threads per element of the batch, see `kernels/farthest_point.cu`.

use super::cloud::starts_of;
use super::{Cloud, Tree};
use crate::Result;
use crate::device::Array;
use crate::device::cuda::{Buffer, Grid, args, kernels};
use crate::geometry::farthest_point::{Request, ends_of};

kernels!("farthest_point");

/// Fewest warps of a block, and most: all of them share the candidates and the buckets of a round.
const WARPS: [usize; 2] = [8, 32];
/// Most buckets of a warp: 32 nodes of 32.
const MOST: usize = 1024;
/// 32-bit words that the kernel keeps of a bucket; as `Buckets` there.
const STATE: usize = 13;
/// Bytes of shared memory that the kernel has beside.
const BESIDE: usize = 6144;

/// Samples that a warp takes of those that are known.
const PREFIX: usize = 256;

/// Rows of the farthest points, `counts` per element, one element after another. Errors as
/// [`farthest_of_tree`](crate::geometry::farthest_of_tree).
pub fn farthest(tree: &Tree, counts: &[usize]) -> Result<Array<u32>> {
    in_buckets(tree, counts, 1)
}

/// As [`farthest`], with `width` blocks to a bucket, or the next power of two that does with the warps there are.
pub(super) fn in_buckets(tree: &Tree, counts: &[usize], width: usize) -> Result<Array<u32>> {
    let (cloud, gpu) = (&tree.cloud, tree.cloud.gpu);
    let request = Request::new(&cloud.offsets, counts)?;
    let rows = Buffer::new::<u32>(gpu, request.samples)?;
    if request.samples > 0 {
        let blocks = Tree::blocks_of(request.longest);
        let mut width = width;
        while blocks.div_ceil(width) > MOST * WARPS[1] {
            width *= 2;
        }
        let buckets = blocks.div_ceil(width);
        let warps = buckets.clamp(WARPS[0], WARPS[1]);
        let shared = size_of::<u32>() * STATE * buckets;
        let is_shared = shared + BESIDE <= gpu.open()?.shared_memory()?;
        let state = Buffer::new::<[u32; STATE]>(gpu, if is_shared { 0 } else { tree.blocks })?;
        let squared = Buffer::new::<f32>(gpu, tree.places())?;
        let samples = starts_of(&ends_of(counts));
        let args = args![
            cloud.coord.on(gpu)?,
            tree.points.at(),
            tree.boxes.at(),
            tree.first_blocks()?,
            cloud.starts()?,
            samples.on(gpu)?,
            tree.blocks as u32,
            width as u32,
            request.threads().ilog2(),
            is_shared,
            squared.at(),
            state.at(),
            rows.at()
        ];
        let grid = Grid::new(cloud.elements(), 32 * warps as u32);
        let grid = grid.shared(if is_shared { shared } else { 0 });
        gpu.launch(&KERNELS, "farthest_point_samples", grid, args)?;
    }
    Ok(Array::of_rows(rows, request.samples, cloud.coord.len()))
}

/// The first `counts` of the samples of every element, of which `known` are in `rows`.
pub fn prefix(
    cloud: &Cloud,
    rows: &Array<u32>,
    known: &[usize],
    counts: &[usize],
) -> Result<Array<u32>> {
    let gpu = cloud.gpu;
    let ends = ends_of(counts);
    let count = ends[counts.len()];
    let taken = Buffer::new::<u32>(gpu, count)?;
    let (from, to) = (starts_of(&ends_of(known)), starts_of(&ends));
    let args = args![
        rows.on(gpu)?,
        from.on(gpu)?,
        to.on(gpu)?,
        counts.len() as u32,
        count,
        taken.at()
    ];
    gpu.launch(
        &KERNELS,
        "farthest_point_prefix",
        Grid::warps(count.div_ceil(PREFIX)),
        args,
    )?;
    Ok(Array::of_rows(taken, count, cloud.coord.len()))
}

/// Coordinates of the samples `rows`.
pub fn coord(cloud: &Cloud, rows: &Array<u32>) -> Result<Array<[f32; 3]>> {
    let (gpu, count) = (cloud.gpu, rows.len());
    let sampled = Buffer::new::<[f32; 3]>(gpu, count)?;
    let args = args![cloud.coord.on(gpu)?, rows.on(gpu)?, count, sampled.at()];
    gpu.launch(&KERNELS, "farthest_point_coord", Grid::strided(count), args)?;
    Ok(Array::of_buffer(sampled, count))
}
