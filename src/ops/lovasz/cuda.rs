//! Lovász softmax on a GPU: launches of `kernels/lovasz.cu`.

use super::LovaszSoftmax;
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Gpu, Pointer};
use crate::graph::{Backward, Forward, Shape};

kernels!("lovasz");

/// Threads of a block that sorts, and values of a digit.
const THREADS: u32 = 256;
const DIGITS: usize = 256;
/// Rows of a chunk that one block sorts.
const CHUNK: usize = 2048;
/// Rows and classes of a block that makes sort keys.
const KEY_TILE: [usize; 2] = [64, 32];
/// Bits of a sort key that a pass looks at, and of the whole key.
const DIGIT_BITS: u32 = 8;
const KEY_BITS: u32 = 30;

/// Scratch of forward.
struct Scratch {
    p: Pointer,
    d_p: Pointer,
    keys: [Pointer; 2],
    order: [Pointer; 2],
    counts: Pointer,
    losses: Pointer,
    present: Pointer,
    share: Pointer,
}

/// Words of the counts of digits.
fn count_words(x: Shape) -> usize {
    x.cols * DIGITS * x.rows.div_ceil(CHUNK)
}

/// Words of scratch that [`forward`] needs.
pub(super) fn forward_scratch(x: Shape) -> usize {
    6 * x.len() + count_words(x) + 2 * x.cols + 1
}

impl Scratch {
    fn new(first: Pointer, x: Shape) -> Scratch {
        let slot = |i: usize| first.offset(i * x.len());
        let losses = slot(6).offset(count_words(x));
        Scratch {
            p: slot(0),
            d_p: slot(1),
            keys: [slot(2), slot(3)],
            order: [slot(4), slot(5)],
            counts: slot(6),
            losses,
            present: losses.offset(x.cols),
            share: losses.offset(2 * x.cols),
        }
    }
}

pub(super) fn forward(op: &LovaszSoftmax, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let (shape, target) = (io.shape(0), op.target.on(gpu)?);
    let Shape { rows, cols } = shape;
    let width = cols as u32;
    let scratch = Scratch::new(io.scratch_on(), shape);
    let launch = |kernel: &str, grid, args: &_| gpu.launch(&KERNELS, kernel, grid, args);
    let args = args![io.input_on(0), rows, width, scratch.p];
    launch("lovasz_softmax_rows", Grid::warps(rows), args)?;
    let ignore = op.ignore as u32; // the same bits: kernels compare them only
    let args = args![
        scratch.p,
        target,
        rows as u32,
        width,
        ignore,
        scratch.keys[0],
        scratch.order[0]
    ];
    let tiles = [rows.div_ceil(KEY_TILE[0]), cols.div_ceil(KEY_TILE[1])];
    launch("lovasz_keys", Grid::plane(tiles, THREADS), args)?;
    let [keys, order] = sort(gpu, shape, &scratch)?;
    let args = args![
        keys,
        order,
        target,
        rows as u32,
        width,
        scratch.d_p,
        scratch.losses,
        scratch.present
    ];
    launch("lovasz_classes", Grid::new(cols, 1024), args)?;
    let args = args![
        scratch.losses,
        scratch.present,
        width,
        io.output_on(0),
        scratch.share
    ];
    launch("lovasz_total", Grid::new(1, 32), args)?;
    let Some(unit) = io.saved_on(0) else {
        return Ok(());
    };
    let args = args![scratch.p, scratch.d_p, scratch.share, rows, width, unit];
    launch("lovasz_gradient", Grid::warps(rows), args)
}

/// Sorts the list of every class; gives where keys and rows lie then.
fn sort(gpu: Gpu, x: Shape, scratch: &Scratch) -> Result<[Pointer; 2]> {
    let (rows, chunk, chunks) = (x.rows as u32, CHUNK as u32, x.rows.div_ceil(CHUNK));
    let grid = Grid::plane([chunks, x.cols], THREADS);
    let (mut from, mut to) = (0, 1);
    for shift in (0..KEY_BITS).step_by(DIGIT_BITS as usize) {
        let args = args![scratch.keys[from], rows, chunk, shift, scratch.counts];
        gpu.launch(&KERNELS, "lovasz_count", grid, args)?;
        let args = args![(DIGITS * chunks) as u32, scratch.counts];
        gpu.launch(&KERNELS, "lovasz_scan", Grid::new(x.cols, 1024), args)?;
        let args = args![
            scratch.keys[from],
            scratch.order[from],
            scratch.counts,
            rows,
            chunk,
            shift,
            scratch.keys[to],
            scratch.order[to]
        ];
        gpu.launch(&KERNELS, "lovasz_move", grid, args)?;
        (from, to) = (to, from);
    }
    Ok([scratch.keys[from], scratch.order[from]])
}

pub(super) fn backward(gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let (Some(d_loss), Some(d_x)) = (io.d_output_on(0), io.d_input_on(0)) else {
        return Ok(());
    };
    let n = io.shape(0).len();
    let args = args![io.saved_on(0), d_loss, n, d_x];
    gpu.launch(&KERNELS, "lovasz_backward", Grid::strided(n), args)
}
