//! Grid partition on a GPU: keys, sort, run boundaries, means.

use super::{Cloud, sorted};
use crate::Result;
use crate::device::Array;
use crate::device::cuda::{Buffer, Grid, args, kernels, scan, sort};
use crate::geometry::partition::{Cells, Partition};
use crate::geometry::{Extent, Ragged};

kernels!("partition");

/// Groups the points of `cloud` by cells of `size` metres. `extent` bounds the coordinates. The host waits once, for the
/// number of pooled points of each element.
pub fn partition(cloud: &Cloud, size: f32, extent: &Extent) -> Result<Partition> {
    let (gpu, n, elements) = (cloud.gpu, cloud.coord.len(), cloud.elements());
    let (coord, starts, bounds) = (cloud.coord.on(gpu)?, cloud.starts()?, cloud.bounds());
    let extents = Buffer::zeroed(gpu, 3)?;
    let args = args![coord, starts, bounds, size, extents.at()];
    gpu.launch(&KERNELS, "partition_extents", cloud.grid(), args)?;
    let keys = Buffer::new::<u64>(gpu, n)?;
    let args = args![coord, starts, bounds, extents.at(), size, keys.at()];
    gpu.launch(&KERNELS, "partition_keys", cloud.grid(), args)?;
    let sort = sort::Sort {
        count: n,
        key: sort::Key::Bits64,
        bits: extent.key_bits(size, elements),
    };
    let cells = sorted(gpu, keys.at(), sort)?;
    let heads = Buffer::new::<u32>(gpu, n)?;
    let args = args![cells.keys.at(), n, heads.at()];
    gpu.launch(&KERNELS, "partition_heads", Grid::strided(n), args)?;
    let before = Buffer::new::<u32>(gpu, n + 1)?;
    let scratch = Buffer::new::<u32>(gpu, scan::scratch_words(n))?;
    scan::exclusive(gpu, heads.at(), n, scratch.at(), before.at())?;
    let sizes = Buffer::new::<u32>(gpu, elements + 4)?;
    let args = args![before.at(), starts, extents.at(), elements, sizes.at()];
    gpu.launch(
        &KERNELS,
        "partition_sizes",
        Grid::strided(elements + 4),
        args,
    )?;
    let sizes: Vec<u32> = sizes.read(elements + 4)?;
    Cells::new([0, 1, 2].map(|a| f32::from_bits(sizes[a])), elements, size)?;
    let offsets: Vec<usize> = sizes[3..].iter().map(|&s| s as usize).collect();
    let pooled = offsets[elements];
    let cluster = Buffer::new::<u32>(gpu, n)?;
    let lists = Buffer::new::<u32>(gpu, pooled + 1)?;
    let args = args![before.at(), cells.order.at(), n, cluster.at(), lists.at()];
    gpu.launch(
        &KERNELS,
        "partition_clusters",
        Grid::strided(n.max(1)),
        args,
    )?;
    let means = Buffer::new::<[f32; 3]>(gpu, pooled)?;
    let args = args![coord, lists.at(), cells.order.at(), pooled, means.at()];
    gpu.launch(&KERNELS, "partition_means", Grid::strided(pooled), args)?;
    Ok(Partition {
        cluster: Array::of_rows(cluster, n, pooled),
        members: Ragged {
            offsets: Array::of_rows(lists, pooled + 1, n + 1),
            index: Array::of_rows(cells.order, n, n),
        },
        coord: Array::of_buffer(means, pooled),
        offsets,
    })
}
