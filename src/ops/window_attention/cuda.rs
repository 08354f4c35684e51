//! Forward and backward on a GPU: what is launched. The device code is `window_attention.cu` and
//! `window_attention_queries.cu` and `window_attention_keys.cu`.

use super::{Sizes, WindowAttention};
use crate::Result;
use crate::device::cuda::{Arg, Grid, args, kernels};
use crate::device::{Gpu, Pointer};
use crate::geometry::Windows;
use crate::geometry::windows::{Quantization, TILE, Tiles};
use crate::graph::{Backward, Forward};

kernels!("window_attention");
kernels!(BY_QUERIES = "window_attention_queries");
kernels!(BY_KEYS = "window_attention_keys");

/// Threads of a block, its warps, and rows of a batch, as in `windows.cuh`.
const THREADS: u32 = 256;
const WARPS: usize = 8;
const BATCH: usize = 32;
/// Blocks to aim at, over all heads.
const BLOCKS: usize = 512;
/// Fewest tiles of a block: its tables are loaded for them.
const TILES: usize = 8;

/// How heads are laid out on a GPU.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Channels of a chunk: 16 for narrow heads, 32 for wide ones.
    width: usize,
    /// Chunks of a head.
    chunks: usize,
    heads: usize,
    /// T
    rows: usize,
}

impl Layout {
    fn new(sizes: Sizes) -> Layout {
        let width = if sizes.width() <= 16 { 16 } else { 32 };
        Layout {
            width,
            chunks: sizes.width().div_ceil(width),
            heads: sizes.heads,
            rows: sizes.rows,
        }
    }

    /// Words between rows in shared memory.
    fn row(self) -> usize {
        self.width + 4
    }

    /// Words of the packed tables of a head.
    fn table_words(self) -> usize {
        self.chunks * 3 * self.rows * (3 * self.width + 4)
    }

    /// Words of all packed tables.
    fn packed_words(self) -> usize {
        self.heads * self.table_words()
    }

    /// Words of a block's gradients of the tables.
    fn gradient_words(self) -> usize {
        9 * self.rows * self.width
    }

    /// Blocks that share the tiles of one chunk of a head.
    fn blocks(self, tiles: usize) -> usize {
        let most = BLOCKS / (self.heads * self.chunks);
        most.min(tiles.div_ceil(TILES)).max(1)
    }

    /// The grid of a kernel over `tiles` with `fixed` words of shared memory and `wanted` ones, and whether the latter
    /// fit on `gpu`.
    fn grid(self, gpu: Gpu, tiles: usize, fixed: usize, wanted: usize) -> Result<(Grid, bool)> {
        let fits = 4 * (fixed + wanted) <= gpu.open()?.shared_memory()?;
        let shared = 4 * (fixed + if fits { wanted } else { 0 });
        let blocks = if tiles == 0 { 0 } else { self.blocks(tiles) };
        let grid = Grid::plane([blocks, self.heads * self.chunks], THREADS);
        Ok((grid.shared(shared), fits))
    }

    fn pick(self, narrow: &'static str, wide: &'static str) -> &'static str {
        if self.width == 16 { narrow } else { wide }
    }
}

/// Words of scratch that forward needs: the packed tables.
pub(super) fn forward_scratch(sizes: Sizes) -> usize {
    Layout::new(sizes).packed_words()
}

/// Words of scratch that backward needs: packed tables, dy·y per query and head, gradients of the tables per block.
pub(super) fn backward_scratch(windows: &Windows, sizes: Sizes) -> usize {
    let layout = Layout::new(sizes);
    let blocks = layout.blocks(windows.query_tiles()) * layout.heads * layout.chunks;
    layout.packed_words() + sizes.heads * windows.points() + blocks * layout.gradient_words()
}

/// Packs the tables.
fn pack(gpu: Gpu, sizes: Sizes, tables: [Option<Pointer>; 3], packed: Pointer) -> Result<()> {
    let layout = Layout::new(sizes);
    let words = layout.packed_words();
    let [query, key, value] = tables;
    let args = args![
        query,
        key,
        value,
        words,
        sizes.rows as u32,
        sizes.heads as u32,
        sizes.width() as u32,
        layout.width as u32,
        packed
    ];
    gpu.launch(
        &KERNELS,
        "window_attention_pack",
        Grid::strided(words),
        args,
    )
}

/// Order and places of all positions.
fn places(windows: &Windows, gpu: Gpu) -> Result<Vec<Arg>> {
    let [x, y, z] = &windows.place;
    let order = windows.order.on(gpu)?;
    Ok(args![order, x.on(gpu)?, y.on(gpu)?, z.on(gpu)?].to_vec())
}

/// Tiles of queries and their keys.
fn query_lists(windows: &Windows, tiles: &Tiles, gpu: Gpu) -> Result<Vec<Arg>> {
    Ok(args![
        tiles.groups.on(gpu)?,
        tiles.queries.on(gpu)?,
        windows.sampled.offsets.on(gpu)?,
        windows.sampled.index.on(gpu)?,
        (tiles.queries.len() / 2) as u32
    ]
    .to_vec())
}

/// Number of points, sizes, quantization, and whether the tables fit.
fn options(windows: &Windows, sizes: Sizes, fits: bool) -> Vec<Arg> {
    let (reach, step, in_cells) = match windows.quantization {
        Quantization::Offset { reach, step } => (reach, step, false),
        Quantization::Cell { center } => (center, 1.0, true),
    };
    args![
        windows.points(),
        sizes.channels as u32,
        sizes.heads as u32,
        reach,
        step,
        in_cells,
        sizes.rows as u32,
        fits
    ]
    .to_vec()
}

/// Runs forward on a GPU.
pub(super) fn forward(op: &WindowAttention, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let sizes = op.sizes(|i| io.shape(i));
    let (layout, windows, tiles) = (Layout::new(sizes), &*op.windows, op.windows.tiles());
    let tables = op.tables.inputs().map(|t| t.map(|i| io.input_on(i)));
    pack(gpu, sizes, tables, io.scratch_on())?;
    let fixed = (2 * BATCH + TILE) * layout.row() + 3 * TILE + BATCH + TILE;
    let count = windows.query_tiles();
    let (grid, fits) = layout.grid(gpu, count, fixed, layout.table_words())?;
    let kernel = layout.pick(
        "window_attention_forward_narrow",
        "window_attention_forward_wide",
    );
    let args = [
        args![io.input_on(0), io.scratch_on()].to_vec(),
        places(windows, gpu)?,
        query_lists(windows, tiles, gpu)?,
        options(windows, sizes, fits),
        args![io.output_on(0), io.saved_on(0)].to_vec(),
    ];
    gpu.launch(&KERNELS, kernel, grid, &args.concat())
}

/// Runs backward on a GPU.
pub(super) fn backward(op: &WindowAttention, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let Some(d_y) = io.d_output_on(0) else {
        return Ok(());
    };
    let sizes = op.sizes(|i| io.shape(i));
    let (layout, windows) = (Layout::new(sizes), &*op.windows);
    let tables = op.tables.inputs();
    let packed = io.scratch_on();
    let flow = packed.offset(layout.packed_words());
    let partials = flow.offset(sizes.heads * windows.points());
    pack(
        gpu,
        sizes,
        tables.map(|t| t.map(|i| io.input_on(i))),
        packed,
    )?;
    let args = args![
        io.output_on(0),
        d_y,
        windows.order.on(gpu)?,
        windows.points(),
        sizes.channels as u32,
        sizes.heads as u32,
        flow
    ];
    let grid = Grid::warps(windows.points() * sizes.heads);
    gpu.launch(&BY_QUERIES, "window_attention_flow", grid, args)?;
    let given = args![io.input_on(0), packed, d_y, io.saved_on(0), flow].to_vec();
    let d_qkv = io.d_input_on(0);
    backward_queries(windows, gpu, sizes, &given, (d_qkv, partials))?;
    if let Some(d_qkv) = d_qkv {
        backward_keys(windows, gpu, sizes, &given, d_qkv)?;
    }
    let n = layout.heads * layout.chunks * layout.gradient_words() / 3; // three axes
    let [query, key, value] = tables.map(|t| t.and_then(|i| io.d_input_on(i)));
    let count = windows.query_tiles();
    if count == 0 {
        return Ok(());
    }
    let args = args![
        partials,
        n,
        layout.blocks(count) as u32,
        sizes.rows as u32,
        sizes.heads as u32,
        sizes.width() as u32,
        layout.width as u32,
        query,
        key,
        value
    ];
    let kernel = "window_attention_add_tables";
    gpu.launch(&BY_QUERIES, kernel, Grid::strided(n), args)
}

/// dq, and every block's gradients of the tables.
fn backward_queries(
    windows: &Windows,
    gpu: Gpu,
    sizes: Sizes,
    given: &[Arg],
    (d_qkv, partials): (Option<Pointer>, Pointer),
) -> Result<()> {
    let layout = Layout::new(sizes);
    let pairs = TILE * BATCH;
    let fixed = (2 * BATCH + 2 * TILE) * layout.row() + 5 * pairs + 3 * TILE + BATCH + TILE;
    let wanted = layout.table_words() + layout.gradient_words();
    let (grid, fits) = layout.grid(gpu, windows.query_tiles(), fixed, wanted)?;
    let kernel = layout.pick(
        "window_attention_backward_queries_narrow",
        "window_attention_backward_queries_wide",
    );
    let args = [
        given.to_vec(),
        places(windows, gpu)?,
        query_lists(windows, windows.tiles(), gpu)?,
        options(windows, sizes, fits),
        args![d_qkv, partials].to_vec(),
    ];
    gpu.launch(&BY_QUERIES, kernel, grid, &args.concat())
}

/// dk and dv: of dense keys, then of sparse ones.
fn backward_keys(
    windows: &Windows,
    gpu: Gpu,
    sizes: Sizes,
    given: &[Arg],
    d_qkv: Pointer,
) -> Result<()> {
    let (layout, tiles) = (Layout::new(sizes), windows.tiles());
    let pass = WARPS * 32 / layout.width;
    let fixed = (2 * BATCH + 2 * pass) * layout.row() + 3 * pass + BATCH + 2 * pass;
    let kernel = layout.pick(
        "window_attention_backward_keys_narrow",
        "window_attention_backward_keys_wide",
    );
    let sparse = [windows.sampled.index.on(gpu)?, tiles.members.index.on(gpu)?];
    for (list, entries) in [(&tiles.dense, None), (&tiles.sparse, Some(sparse))] {
        let count = list.len() / 4;
        let (grid, fits) = layout.grid(gpu, count, fixed, layout.table_words())?;
        let [keys, queries] = [0, 1].map(|i| entries.map(|e| e[i]));
        let args = [
            given.to_vec(),
            places(windows, gpu)?,
            args![
                tiles.window.on(gpu)?,
                list.on(gpu)?,
                keys,
                queries,
                count as u32
            ]
            .to_vec(),
            options(windows, sizes, fits),
            args![d_qkv].to_vec(),
        ];
        gpu.launch(&BY_KEYS, kernel, grid, &args.concat())?;
    }
    Ok(())
}
