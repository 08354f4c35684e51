//! The relation of grouped vector attention: what the weights are computed from.
//!
//! e_ij = Ak_j − Aq_i + M h_ij + c0,   h_ij = ReLU(P · (Δ_ij, 1))
//!
//! This is the first weight-encoding layer A of (k_j − q_i + W2 h_ij + b2) with A moved inside: Ak = k Aᵀ, Aq = q Aᵀ,
//! M = A W2, c0 = A b2 + a, so that nothing per pair is wider than G (Wu et al. 2022, PTv2, section 3.2; design note
//! in the module documentation of `aggregate`).
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | Ak, Aq | [N, G] | keys and queries after A |
//! | P | [C, 4] | position map, from `position_norm`; left out together with M when there is no position bias |
//! | M | [G, C] | A W2 |
//! | c0 | [1, G] | constant |
//! | neighbors | N·K pairs | a missing neighbour has Ak = 0 and Δ = 0, and takes part |
//! | Δ | [N·K, 3] | optional, behind P, M and c0: from `offsets`, for the gradient only |
//! | e | [N·K, G] | relation |
//!
//! Backward: d_Ak over the transposed neighbour list, the rest over the pairs; h is computed again. Saves: nothing.
//! Memory: O(N·K·G). Time: O(N·K·G·C).

pub(super) mod cuda;
mod gradient;
#[cfg(test)]
mod tests;

use gradient::{bias_gradient, gradient_scratch, offset_gradient, query_gradient};

use super::offsets;
use super::pairs::{
    BLOCK, CHUNK, PairRows, Sizes, add_by_neighbor, columns_to_rows, expect_shape, gather_columns,
    hidden_columns, load_deltas,
};
use crate::device::gemm::{Store, View, ViewMut, block_product};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::device::{Device, parallel};
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// The relation; inputs Ak, Aq, P, M, c0 and perhaps Δ, or Ak, Aq, c0 without a position bias.
#[derive(Debug, Clone)]
pub struct Relation {
    /// The pairs.
    pub neighbors: Arc<Neighbors>,
}

/// P and M: what the position bias adds to a relation.
#[derive(Debug, Clone, Copy)]
pub(super) struct PositionBias<'a> {
    /// [C, 4]
    pub position: &'a [f32],
    /// [G, C]
    pub m: &'a [f32],
}

/// What a relation is computed from.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelationInputs<'a> {
    pub neighbors: &'a Neighbors,
    pub sizes: Sizes,
    pub keys: &'a [f32],
    pub queries: &'a [f32],
    pub constant: &'a [f32],
    pub bias: Option<PositionBias<'a>>,
}

/// Words of scratch that [`relation_columns`] needs.
pub(super) fn relation_scratch() -> usize {
    CHUNK * BLOCK
}

/// e of `points` as columns ([G, stride], anything behind the last pair). `deltas` is [3, stride].
#[inline(always)]
pub(super) fn relation_columns<S: Simd>(
    s: S,
    inputs: RelationInputs<'_>,
    points: Range<usize>,
    deltas: &[f32],
    hidden: &mut [f32],
    e: &mut [f32],
) {
    let Sizes { k, groups, .. } = inputs.sizes;
    let stride = e.len() / groups;
    let pairs = points.start * k..points.end * k;
    gather_columns(s, inputs.keys, &inputs.neighbors.index[pairs], groups, e);
    let queries = &inputs.queries[points.start * groups..points.end * groups];
    for (g, column) in e.chunks_exact_mut(stride).enumerate() {
        for (run, queries) in column.chunks_exact_mut(k).zip(queries.chunks_exact(groups)) {
            let shift = s.splat(inputs.constant[g] - queries[g]);
            for part in run.chunks_mut(S::LANES) {
                match part.len() == S::LANES {
                    true => s.store(part, s.add(s.load(part), shift)),
                    false => s.store_partial(part, s.add(s.load_partial(part), shift)),
                }
            }
        }
    }
    let Some(bias) = inputs.bias else { return };
    let channels = inputs.sizes.channels;
    let end = (points.len() * k).next_multiple_of(16);
    for first in (0..end).step_by(BLOCK) {
        let block = first..(first + BLOCK).min(end);
        let width = block.len();
        let pairs = PairRows::new(deltas, block);
        for channel in (0..channels).step_by(CHUNK) {
            let count = CHUNK.min(channels - channel);
            let hidden = &mut hidden[..count * width];
            hidden_columns(s, &bias.position[4 * channel..][..4 * count], pairs, hidden);
            block_product::<S, 6, 4>(
                s,
                ViewMut::strided(&mut e[first..], [groups, width], stride),
                View::strided(&bias.m[channel..], [groups, count], [channels, 1]),
                View::new(hidden, count, width),
                Store::Add,
            );
        }
    }
}

struct ForwardTiles<'a> {
    inputs: RelationInputs<'a>,
    first: usize,
    e: &'a mut [f32],
}

impl Kernel for ForwardTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sizes = self.inputs.sizes;
        let (k, stride, row) = (sizes.k, sizes.stride(), sizes.k * sizes.groups);
        let words = padded(3 * stride) + padded(sizes.groups * stride) + padded(relation_scratch());
        with_workspace(words, |mut rest| {
            let deltas = carve(&mut rest, 3 * stride);
            let columns = carve(&mut rest, sizes.groups * stride);
            let hidden = carve(&mut rest, relation_scratch());
            let mut first = self.first;
            for e in self.e.chunks_mut(sizes.tile() * row) {
                let points = first..first + e.len() / row;
                let pairs = points.start * k..points.end * k;
                s.call(RelationTile {
                    inputs: self.inputs,
                    points: points.clone(),
                    pairs,
                    deltas,
                    columns,
                    hidden,
                    e,
                });
                first = points.end;
            }
        });
    }
}

struct RelationTile<'a> {
    inputs: RelationInputs<'a>,
    points: Range<usize>,
    pairs: Range<usize>,
    deltas: &'a mut [f32],
    columns: &'a mut [f32],
    hidden: &'a mut [f32],
    e: &'a mut [f32],
}

impl Kernel for RelationTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        load_deltas(self.inputs.neighbors, self.pairs, self.deltas);
        relation_columns(
            s,
            self.inputs,
            self.points,
            self.deltas,
            self.hidden,
            self.columns,
        );
        columns_to_rows(s, self.columns, self.inputs.sizes.groups, self.e);
    }
}

/// True when positions take part: then P and M are among the inputs.
fn has_bias(inputs: usize) -> bool {
    inputs >= 5
}

/// Which input Δ is, if it is given.
fn offsets_input(inputs: usize) -> Option<usize> {
    (inputs == 6).then_some(5)
}

impl Relation {
    fn check(&self, inputs: &[Shape]) -> Result<Sizes> {
        let name = self.name();
        let (keys, queries, constant) = match inputs {
            [a, b, _, _, c] | [a, b, _, _, c, _] | [a, b, c] => (a, b, c),
            _ => {
                let fault = "needs Ak, Aq, P, M, c0 and perhaps Δ, or Ak, Aq, c0";
                return Err(Error::shape(name, fault));
            }
        };
        let groups = keys.cols;
        let has_bias = has_bias(inputs.len());
        let channels = if has_bias { inputs[3].cols } else { groups };
        let rows = |rows| Shape::new(rows, groups);
        expect_shape(name, "Ak", *keys, rows(self.neighbors.points))?;
        expect_shape(name, "Aq", *queries, rows(self.neighbors.queries))?;
        expect_shape(name, "c0", *constant, rows(1))?;
        if has_bias {
            expect_shape(name, "P", inputs[2], Shape::new(channels, 4))?;
            expect_shape(name, "M", inputs[3], Shape::new(groups, channels))?;
        }
        if let Some(i) = offsets_input(inputs.len()) {
            expect_shape(name, "Δ", inputs[i], offsets::shape(&self.neighbors))?;
        }
        Sizes::new(name, &self.neighbors, groups, channels)
    }

    /// The sizes, from shapes that were checked.
    fn sizes(&self, inputs: usize, shape: impl Fn(usize) -> Shape) -> Sizes {
        let groups = shape(0).cols;
        Sizes {
            k: self.neighbors.k,
            groups,
            channels: if has_bias(inputs) {
                shape(3).cols
            } else {
                groups
            },
        }
    }

    fn cpu_forward(&self, io: &mut Forward<'_>, sizes: Sizes) {
        let has_bias = has_bias(io.inputs());
        let inputs = RelationInputs {
            neighbors: &self.neighbors,
            sizes,
            keys: io.input(0),
            queries: io.input(1),
            constant: io.input(if has_bias { 4 } else { 2 }),
            bias: has_bias.then(|| PositionBias {
                position: io.input(2),
                m: io.input(3),
            }),
        };
        let row = sizes.k * sizes.groups;
        parallel::for_each_rows(io.output(0), row, 8 * sizes.tile(), |first, e| {
            dispatch(ForwardTiles { inputs, first, e });
        });
    }

    fn cpu_backward(&self, io: &mut Backward<'_>, sizes: Sizes) {
        let has_bias = has_bias(io.inputs());
        let Some(d_e) = io.d_output(0) else { return };
        let scratch = io.scratch();
        if let Some(d_keys) = io.d_input(0) {
            add_by_neighbor(&self.neighbors, d_e, sizes.groups, d_keys);
        }
        let d_constant = io.d_input(if has_bias { 4 } else { 2 });
        query_gradient(sizes, d_e, [io.d_input(1), d_constant], scratch);
        if has_bias {
            let bias = PositionBias {
                position: io.input(2),
                m: io.input(3),
            };
            let gradients = [io.d_input(2), io.d_input(3)];
            bias_gradient(&self.neighbors, sizes, (bias, d_e), gradients, scratch);
            if let Some(d_offsets) = offsets_input(io.inputs()).and_then(|i| io.d_input(i)) {
                offset_gradient(&self.neighbors, sizes, (bias, d_e), d_offsets);
            }
        }
    }
}

impl Op for Relation {
    fn name(&self) -> &'static str {
        "relation"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let sizes = self.check(inputs)?;
        Ok(Plan {
            backward_scratch: gradient_scratch(sizes, self.neighbors.queries),
            backward_scratch_cuda: cuda::backward_scratch(sizes, self.neighbors.index.len()),
            reads_inputs: if has_bias(inputs.len()) {
                vec![2, 3]
            } else {
                Vec::new()
            },
            ..Plan::of(Shape::new(self.neighbors.index.len(), sizes.groups))
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let sizes = self.sizes(io.inputs(), |i| io.shape(i));
        match io.device() {
            Device::Cuda(gpu) => cuda::forward(self, gpu, io, sizes)?,
            Device::Cpu => self.cpu_forward(io, sizes),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let sizes = self.sizes(io.inputs(), |i| io.shape(i));
        match io.device() {
            Device::Cuda(gpu) => cuda::backward(self, gpu, io, sizes)?,
            Device::Cpu => self.cpu_backward(io, sizes),
        }
        Ok(())
    }
}
