//! The gradient of the offsets, if it is asked for: d_h = w d_u with d_u_ig = Σ_{c of g} W2[c, :] d_y_ic.

use super::super::offsets::{HiddenOn, add_offset_gradient, add_offset_gradient_on, sums_on};
use super::super::pairs::{PairsOn, Sizes, dropout_factor};
use super::{Aggregate, offsets_input};
use crate::Result;
use crate::device::Gpu;
use crate::device::gemm::{Store, View, ViewMut, product};
use crate::geometry::MISSING;
use crate::graph::Backward;

/// Words of d_u at once on a GPU.
const CHUNK_WORDS: usize = 1 << 22;

/// Points whose d_u is held at once on a GPU.
fn chunk_points(sizes: Sizes) -> usize {
    (CHUNK_WORDS / (sizes.groups * sizes.channels)).max(1)
}

/// Words of scratch that [`backward_on`] needs.
pub(super) fn scratch_on(points: usize, sizes: Sizes) -> usize {
    chunk_points(sizes).min(points) * sizes.groups * sizes.channels
}

/// Adds to dΔ on the host.
pub(super) fn backward(op: &Aggregate, io: &mut Backward<'_>) {
    let d_offsets = offsets_input(io.inputs()).and_then(|i| io.d_input(i));
    let (Some(d_y), Some(d_offsets)) = (io.d_output(0), d_offsets) else {
        return;
    };
    let sizes = op.sizes(io.shape(4));
    let Sizes {
        k,
        groups,
        channels,
    } = sizes;
    let (w2, soft, random, width) = (io.input(6), io.saved(0), io.random(), sizes.width());
    let weight = |pair: usize, g: usize| match op.neighbors.index[pair] {
        MISSING => 0.0,
        _ if op.rate > 0.0 => {
            soft[pair * groups + g] * dropout_factor(random, op.rate, groups, pair, g)
        }
        _ => soft[pair * groups + g],
    };
    add_offset_gradient(&op.neighbors, io.input(5), d_offsets, |point, d_h| {
        let mut d_u = vec![0.0; groups * channels];
        for (g, d_u) in d_u.chunks_exact_mut(channels).enumerate() {
            let own = g * width;
            product(
                ViewMut::new(d_u, 1, channels),
                View::new(&d_y[point * channels + own..][..width], 1, width),
                View::new(&w2[own * channels..][..width * channels], width, channels),
                Store::Replace,
            );
        }
        let pairs = point * k..(point + 1) * k;
        let w: Vec<f32> = pairs
            .flat_map(|pair| (0..groups).map(move |g| (pair, g)))
            .map(|(pair, g)| weight(pair, g))
            .collect();
        product(
            ViewMut::new(d_h, k, channels),
            View::new(&w, k, groups),
            View::new(&d_u, groups, channels),
            Store::Replace,
        );
    });
}

/// Adds to dΔ on a GPU.
pub(super) fn backward_on(op: &Aggregate, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let d_offsets = offsets_input(io.inputs()).and_then(|i| io.d_input_on(i));
    let (Some(d_y), Some(d_offsets)) = (io.d_output_on(0), d_offsets) else {
        return Ok(());
    };
    let sizes = op.sizes(io.shape(4));
    let pairs = PairsOn::new(&op.neighbors, gpu)?;
    let [seed, stream] = io.random().words();
    let (points, chunk, d_u) = (op.neighbors.queries, chunk_points(sizes), io.scratch_on());
    for first in (0..points).step_by(chunk) {
        let count = chunk.min(points - first);
        sums_on(gpu, sizes, [d_y, io.input_on(6)], (first, count), d_u)?;
        let hidden = HiddenOn {
            a: io.saved_on(0).offset(first * sizes.k * sizes.groups),
            drop: Some((seed, stream, op.rate)),
            b: d_u,
            is_per_point: true,
            position: io.input_on(5),
        };
        let range = (first * sizes.k, count * sizes.k);
        add_offset_gradient_on(gpu, (pairs, sizes), hidden, range, d_offsets)?;
    }
    Ok(())
}
