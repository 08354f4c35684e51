//! Attention windows on a GPU: keys, two stable sorts, and running totals of flags that say where lists start.
//!
//! A sort by large window and then one by small window give the order of the points; a third brings the sampled points of
//! every large window together. Two scans count several kinds of flags each. Then the host waits, once, for the lengths of
//! all lists, and the kernels of the second half fill them. See `kernels/window_lists.cu`.

use super::{Cloud, inverse, sorted};
use crate::Result;
use crate::device::cuda::{Buffer, Grid, args, kernels, scan, sort};
use crate::device::{Array, Gpu, Pointer};
use crate::geometry::ragged::check_length;
use crate::geometry::windows::{Grid as Cells, Tiles, WindowOptions};
use crate::geometry::{Extent, Ragged};

kernels!("window_lists");

/// Numbers that the host asks for: lengths, then the frame.
const SIZES: usize = 12;

/// What kernels made of the windows of a cloud; `geometry::Windows` says what the lists are.
pub struct WindowLists {
    pub order: Array<u32>,
    pub place: [Array<f32>; 3],
    pub sampled: Ragged,
    pub tiles: Tiles,
}

/// The windows of a cloud that has points and lies in `extent`, with sparse keys if rows are `sampled`. Errors when windows
/// cannot be numbered.
pub fn window_lists(
    cloud: &Cloud,
    extent: &Extent,
    options: WindowOptions,
    sampled: Option<&Array<u32>>,
) -> Result<WindowLists> {
    let (gpu, n, d) = (cloud.gpu, cloud.coord.len(), sampled.map_or(0, Array::len));
    check_length("points and sampled points", 3 * n + 2 * d)?;
    let windows = Numbering {
        cloud,
        extent,
        options,
    };
    let frame = windows.frame()?;
    let placed = match sampled {
        Some(_) => windows.both(frame.at())?,
        None => windows.small(frame.at())?,
    };
    let counted = placed.count(gpu, sampled, windows.large_bits())?;
    let sizes = Buffer::new::<u32>(gpu, SIZES)?;
    let args = args![
        counted.flags.at(),
        counted.tiles.at(),
        frame.at(),
        n,
        d,
        sizes.at()
    ];
    gpu.launch(&KERNELS, "window_sizes", Grid::new(1, 32), args)?;
    let sizes: Vec<u32> = sizes.read(SIZES)?;
    windows.check(&sizes[6..], sampled.is_some())?;
    let (sampled, tiles) = counted.fill(gpu, &placed, &sizes)?;
    Ok(WindowLists {
        order: Array::of_rows(placed.order, n, n),
        place: placed.place.map(|plane| Array::of_buffer(plane, n)),
        sampled,
        tiles,
    })
}

/// How the points of a cloud are numbered by windows.
struct Numbering<'a> {
    cloud: &'a Cloud,
    extent: &'a Extent,
    options: WindowOptions,
}

impl Numbering<'_> {
    /// The small windows, then the large ones. Where they start only the GPU knows.
    fn cells(&self, start: [f32; 3]) -> [Cells; 2] {
        let WindowOptions { size, shifted, .. } = self.options;
        [size, 2.0 * size].map(|size| Cells::new(start, size, shifted))
    }

    fn bits(&self, size: f32) -> u32 {
        let elements = self.cloud.elements();
        self.extent
            .window_bits(size, self.options.shifted, elements)
    }

    fn large_bits(&self) -> u32 {
        self.bits(2.0 * self.options.size)
    }

    /// Lowest and highest coordinates of the batch.
    fn frame(&self) -> Result<Buffer> {
        let gpu = self.cloud.gpu;
        let frame = Buffer::new::<[f32; 6]>(gpu, 1)?;
        let elements = self.cloud.elements() as u32;
        let args = args![self.cloud.bounds(), elements, frame.at()];
        gpu.launch(&KERNELS, "window_frame", Grid::new(1, 192), args)?;
        Ok(frame)
    }

    /// Errors as on the host when the windows of a frame are too many to be numbered.
    fn check(&self, frame: &[u32], has_large: bool) -> Result<()> {
        let corner = |first: usize| [0, 1, 2].map(|axis| f32::from_bits(frame[first + axis]));
        let (start, highest) = (corner(0), corner(3));
        let grids = self.cells(start);
        for grid in &grids[..1 + usize::from(has_large)] {
            grid.extent(grid.cell(&highest), self.cloud.elements())?;
        }
        Ok(())
    }

    /// Numbers of the windows of all points, by row.
    fn keys(&self, frame: Pointer, cells: Cells) -> Result<Buffer> {
        let (cloud, gpu) = (self.cloud, self.cloud.gpu);
        let keys = Buffer::new::<u64>(gpu, cloud.coord.len())?;
        let args = args![
            cloud.coord.on(gpu)?,
            cloud.starts()?,
            frame,
            cells.size,
            cells.shift,
            keys.at()
        ];
        gpu.launch(&KERNELS, "window_keys", cloud.grid(), args)?;
        Ok(keys)
    }

    fn sort(&self, keys: Pointer, size: f32) -> Result<super::Sorted> {
        let sort = sort::Sort {
            count: self.cloud.coord.len(),
            key: sort::Key::Bits64,
            bits: self.bits(size),
        };
        sorted(self.cloud.gpu, keys, sort)
    }

    /// Points in the order of small, then large windows.
    fn both(&self, frame: Pointer) -> Result<Placed> {
        let (gpu, n) = (self.cloud.gpu, self.cloud.coord.len());
        let [small, large] = self.cells([0.0; 3]);
        let rows = self.keys(frame, large)?;
        let by_large = self.sort(rows.at(), large.size)?.order;
        let keys = self.keys(frame, small)?;
        let picked = Buffer::new::<u64>(gpu, n)?;
        let args = args![keys.at(), by_large.at(), n, picked.at()];
        gpu.launch(&KERNELS, "window_pick", Grid::strided(n), args)?;
        let by_small = self.sort(picked.at(), small.size)?;
        let given = Some((by_large.at(), rows.at()));
        self.place(frame, by_small, given)
    }

    /// Points in the order of small windows.
    fn small(&self, frame: Pointer) -> Result<Placed> {
        let [small, _] = self.cells([0.0; 3]);
        let by_small = self.sort(self.keys(frame, small)?.at(), small.size)?;
        self.place(frame, by_small, None)
    }

    /// `large` is the order of the large windows, of which `by_small` sorts the small ones, and their numbers by row.
    fn place(
        &self,
        frame: Pointer,
        by_small: super::Sorted,
        large: Option<(Pointer, Pointer)>,
    ) -> Result<Placed> {
        let (gpu, n) = (self.cloud.gpu, self.cloud.coord.len());
        let plane = || Buffer::new::<f32>(gpu, n);
        let placed = Placed {
            order: Buffer::new::<u32>(gpu, n)?,
            positions: Buffer::new::<u32>(gpu, n)?,
            small: by_small.keys,
            large: large.map(|_| Buffer::new::<u64>(gpu, n)).transpose()?,
            place: [plane()?, plane()?, plane()?],
            points: n,
        };
        let [cells, _] = self.cells([0.0; 3]);
        // Only without large windows are places counted in bins.
        let step = large.map_or(self.options.step, |_| 0.0);
        let args = args![
            self.cloud.coord.on(gpu)?,
            frame,
            by_small.order.at(),
            large.map(|l| l.0),
            large.map(|l| l.1),
            n,
            cells.size,
            cells.shift,
            step,
            placed.order.at(),
            placed.positions.at(),
            placed.large_at(),
            placed.place[0].at(),
            placed.place[1].at(),
            placed.place[2].at()
        ];
        gpu.launch(&KERNELS, "window_places", Grid::strided(n), args)?;
        Ok(placed)
    }
}

/// The points in the order of their windows.
struct Placed {
    order: Buffer,
    /// By row.
    positions: Buffer,
    /// Windows by position.
    small: Buffer,
    large: Option<Buffer>,
    place: [Buffer; 3],
    points: usize,
}

/// Running totals of `count` flags.
fn totals(gpu: Gpu, flags: &Buffer, count: usize) -> Result<Buffer> {
    let totals = Buffer::new::<u32>(gpu, count + 1)?;
    let scratch = Buffer::new::<u32>(gpu, scan::scratch_words(count))?;
    scan::exclusive(gpu, flags.at(), count, scratch.at(), totals.at())?;
    Ok(totals)
}

impl Placed {
    fn large_at(&self) -> Option<Pointer> {
        self.large.as_ref().map(Buffer::at)
    }

    /// Running totals of the positions where groups and windows start, and of the sampled ones.
    fn flags(&self, gpu: Gpu, sampled: Option<&Array<u32>>) -> Result<Buffer> {
        let n = self.points;
        let heads = Buffer::zeroed(gpu, 3 * n)?;
        let args = args![self.small.at(), self.large_at(), n, heads.at()];
        gpu.launch(&KERNELS, "window_heads", Grid::strided(n), args)?;
        if let Some(rows) = sampled {
            let marks = heads.at().offset(2 * n);
            let args = args![rows.on(gpu)?, self.positions.at(), rows.len(), marks];
            gpu.launch(&KERNELS, "window_marks", Grid::strided(rows.len()), args)?;
        }
        totals(gpu, &heads, 3 * n)
    }

    /// Counts all lists.
    fn count(&self, gpu: Gpu, sampled: Option<&Array<u32>>, large_bits: u32) -> Result<Counted> {
        let (n, d) = (self.points, sampled.map_or(0, Array::len));
        let flags = self.flags(gpu, sampled)?;
        let list = |length: usize| Buffer::new::<u32>(gpu, length);
        let (group_starts, window_starts, window) = (list(n + 1)?, list(n + 1)?, list(n)?);
        let (entries, keys) = (list(d)?, Buffer::new::<u64>(gpu, d)?);
        let args = args![
            flags.at(),
            self.large_at(),
            n,
            d,
            group_starts.at(),
            window_starts.at(),
            window.at(),
            entries.at(),
            keys.at()
        ];
        let grid = Grid::strided(n.max(d));
        gpu.launch(&KERNELS, "window_starts", grid, args)?;
        let sort = sort::Sort {
            count: d,
            key: sort::Key::Bits64,
            bits: large_bits,
        };
        let by_large = sorted(gpu, keys.at(), sort)?;
        let heads = list(2 * n + 2 * d)?;
        let args = args![
            flags.at(),
            group_starts.at(),
            window_starts.at(),
            window.at(),
            by_large.keys.at(),
            n,
            d,
            heads.at()
        ];
        gpu.launch(&KERNELS, "window_tile_heads", grid, args)?;
        Ok(Counted {
            tiles: totals(gpu, &heads, 2 * n + 2 * d)?,
            flags,
            group_starts,
            window_starts,
            window,
            entries,
            by_large,
            asked: d,
        })
    }
}

/// Where all lists start; `kernels/window_lists.cu` says how flags and tiles are laid out.
struct Counted {
    flags: Buffer,
    tiles: Buffer,
    group_starts: Buffer,
    window_starts: Buffer,
    window: Buffer,
    /// Sampled positions, and what sorts them by large window.
    entries: Buffer,
    by_large: super::Sorted,
    /// D: rows that were sampled, some perhaps twice.
    asked: usize,
}

impl Counted {
    /// The lists of sampled points and the tiles, whose lengths are known by now.
    fn fill(self, gpu: Gpu, placed: &Placed, sizes: &[u32]) -> Result<(Ragged, Tiles)> {
        let n = placed.points;
        let [groups, different, queries, dense, lists, sparse] =
            [0, 1, 2, 3, 4, 5].map(|i: usize| sizes[i] as usize);
        let lists_at = self.tiles.at().offset(2 * n);
        let tiles_at = lists_at.offset(self.asked);
        let group_lists = Buffer::new::<[u32; 4]>(gpu, groups)?;
        let args = args![
            self.group_starts.at(),
            self.window_starts.at(),
            self.window.at(),
            placed.large_at(),
            self.by_large.keys.at(),
            lists_at,
            different as u32,
            groups,
            group_lists.at()
        ];
        gpu.launch(&KERNELS, "window_groups", Grid::strided(groups), args)?;
        let query_tiles = Buffer::new::<[u32; 2]>(gpu, queries)?;
        let dense_tiles = Buffer::new::<[u32; 4]>(gpu, dense)?;
        let list_of = Buffer::new::<u32>(gpu, n)?;
        let offsets = Buffer::new::<u32>(gpu, lists + 2)?;
        let index = Buffer::new::<u32>(gpu, different)?;
        let args = args![
            self.flags.at(),
            self.tiles.at(),
            group_lists.at(),
            self.entries.at(),
            self.by_large.order.at(),
            n,
            different,
            query_tiles.at(),
            dense_tiles.at(),
            list_of.at(),
            offsets.at(),
            index.at()
        ];
        gpu.launch(&KERNELS, "window_tiles", Grid::strided(n), args)?;
        let list_of = Array::of_rows(list_of, n, lists + 1);
        let members = inverse(gpu, &list_of, lists + 1, Some(0))?;
        let sparse_tiles = Buffer::new::<[u32; 4]>(gpu, sparse)?;
        let args = args![
            lists_at,
            tiles_at,
            offsets.at(),
            members.offsets.on(gpu)?,
            different,
            sparse_tiles.at()
        ];
        let grid = Grid::strided(different);
        gpu.launch(&KERNELS, "window_sparse_tiles", grid, args)?;
        let sampled = Ragged {
            offsets: Array::of_rows(offsets, lists + 2, different + 1),
            index: Array::of_rows(index, different, n),
        };
        let tiles = Tiles {
            groups: Array::of_buffer(group_lists, 4 * groups),
            queries: Array::of_buffer(query_tiles, 2 * queries),
            window: Array::of_buffer(self.window, n),
            members,
            dense: Array::of_buffer(dense_tiles, 4 * dense),
            sparse: Array::of_buffer(sparse_tiles, 4 * sparse),
        };
        Ok((sampled, tiles))
    }
}
