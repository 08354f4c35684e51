//! Grouped vector attention in one pass, for inference: relation, weights, weighted sum, norm and ReLU.
//!
//! e_ij = Ak_j − Aq_i + M h_ij + c0,  h_ij = ReLU(P · (Δ_ij, 1))
//! w_ij = m_ij · softmax_j(B ReLU(e_ij) + b)
//! y_ic = ReLU(Σ_j w_ij,g(c) (v_jc + b2_c) + W2[c, :] · Σ_j w_ij,g(c) h_ij + t_c)      g(c) = c / (C / G)
//!
//! What `relation`, `norm_coefficients`, `aggregate` and `batch_norm` compute one after another, with the scales and
//! shifts of both norms folded into the tensors beforehand (Wu et al. 2022, PTv2, section 3.2; the factored form is
//! derived in the documentation of those ops). Nothing per pair leaves the cache.
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | Ak, Aq | [N, G] | keys and queries after A, scaled by the norm of the relation |
//! | c0 | [1, G] | its constant and shift |
//! | B, b | [G, G], [1, G] | second weight-encoding layer |
//! | v | [N, C] | values, scaled by the norm of the result |
//! | t | [1, C] | shift of that norm |
//! | P, M, W2, b2 | [C, 4], [G, C], packed, [1, C] | position bias, W2 and b2 scaled as v; left out together if there is none |
//! | neighbors | N·K pairs | a missing neighbour has Ak = 0 and Δ = 0, and takes part in the softmax |
//! | y | [N, C] | attended features after norm and ReLU |
//!
//! W2 is packed once by [`VectorAttention::pack`]. There is no backward: training records the ops named above.
//! Memory: O(N·C). Time: O(N·(K·G·C + C²)).

mod cuda;
#[cfg(test)]
mod tests;

use super::aggregate::cpu::{
    AttendBuffers, Attention, ValueBias, add_constants, attend, attention_weights, mask_missing,
    start,
};
use super::pairs::{Sizes, expect_shape, load_deltas, pack_planes, pack_projection};
use super::relation::{PositionBias, RelationInputs, relation_columns, relation_scratch};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::device::workspace::{carve, padded, with_workspace};
use crate::device::{Device, parallel};
use crate::geometry::Neighbors;
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// Fused attention; inputs Ak, Aq, c0, B, b, v, t and, with a position bias, P, M, W2, b2.
#[derive(Debug, Clone)]
pub struct VectorAttention {
    /// The pairs.
    pub neighbors: Arc<Neighbors>,
    /// G, which divides C.
    pub groups: usize,
}

/// True when positions take part.
fn has_bias(inputs: usize) -> bool {
    inputs == 11
}

impl VectorAttention {
    /// Shape of the packed W2: per group, inner channels padded to whole vectors by channels of the group padded to
    /// whole short ones.
    pub fn packed_shape(channels: usize, groups: usize) -> Shape {
        let sizes = Sizes {
            k: 1,
            groups,
            channels,
        };
        let rows = groups * sizes.padded_channels();
        Shape::new(rows, sizes.padded_width())
    }

    /// W2 ([C, C], C a multiple of G) in the form that the op reads.
    pub fn pack(w2: &[f32], groups: usize) -> Vec<f32> {
        let channels = w2.len().isqrt();
        let mut packed = vec![0.0; Self::packed_shape(channels, groups).len()];
        let sizes = Sizes {
            k: 1,
            groups,
            channels,
        };
        pack_projection(w2, sizes, &mut packed);
        packed
    }

    fn check(&self, inputs: &[Shape]) -> Result<Sizes> {
        let name = self.name();
        if inputs.len() != 7 && inputs.len() != 11 {
            let fault = "needs Ak, Aq, c0, B, b, v, t and P, M, W2, b2 if there is a position bias";
            return Err(Error::shape(name, fault));
        }
        let channels = inputs[5].cols;
        let sizes = Sizes::new(name, &self.neighbors, self.groups, channels)?;
        let Neighbors {
            points, queries, ..
        } = *self.neighbors;
        let groups = |rows| Shape::new(rows, self.groups);
        expect_shape(name, "Ak", inputs[0], groups(points))?;
        expect_shape(name, "Aq", inputs[1], groups(queries))?;
        expect_shape(name, "c0", inputs[2], groups(1))?;
        expect_shape(name, "B", inputs[3], groups(self.groups))?;
        expect_shape(name, "b", inputs[4], groups(1))?;
        expect_shape(name, "v", inputs[5], Shape::new(points, channels))?;
        expect_shape(name, "t", inputs[6], Shape::new(1, channels))?;
        if has_bias(inputs.len()) {
            expect_shape(name, "P", inputs[7], Shape::new(channels, 4))?;
            expect_shape(name, "M", inputs[8], Shape::new(self.groups, channels))?;
            let packed = Self::packed_shape(channels, self.groups);
            expect_shape(name, "packed W2", inputs[9], packed)?;
            expect_shape(name, "b2", inputs[10], Shape::new(1, channels))?;
        }
        Ok(sizes)
    }

    fn cpu_forward(&self, io: &mut Forward<'_>) {
        let sizes = Sizes {
            k: self.neighbors.k,
            groups: self.groups,
            channels: io.shape(5).cols,
        };
        let has_bias = has_bias(io.inputs());
        let scratch = io.scratch();
        if has_bias {
            pack_planes(io.input(7), sizes.padded_channels(), scratch);
        }
        let inputs = Inputs {
            relation: RelationInputs {
                neighbors: &self.neighbors,
                sizes,
                keys: io.input(0),
                queries: io.input(1),
                constant: io.input(2),
                bias: has_bias.then(|| PositionBias {
                    position: io.input(7),
                    m: io.input(8),
                }),
            },
            attention: Attention {
                neighbors: &self.neighbors,
                sizes,
                weight: io.input(3),
                constant: io.input(4),
                values: io.input(5),
                bias: has_bias.then(|| ValueBias {
                    planes: scratch,
                    projection: io.input(9),
                    constant: io.input(10),
                }),
            },
            shift: io.input(6),
        };
        let chunk = 8 * sizes.tile();
        parallel::for_each_rows(io.output(0), sizes.channels, chunk, |first, y| {
            dispatch(Tiles { inputs, first, y });
        });
    }
}

impl Op for VectorAttention {
    fn name(&self) -> &'static str {
        "vector_attention"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let sizes = self.check(inputs)?;
        let y = Shape::new(self.neighbors.queries, sizes.channels);
        Ok(Plan {
            forward_scratch: if has_bias(inputs.len()) {
                4 * sizes.padded_channels()
            } else {
                0
            },
            forward_scratch_cuda: 2 * self.neighbors.index.len() * self.groups,
            ..Plan::of(y)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cuda(gpu) => cuda::forward(self, gpu, io)?,
            Device::Cpu => self.cpu_forward(io),
        }
        Ok(())
    }

    fn backward(&self, _: &mut Backward<'_>) -> Result<()> {
        let fault = "is for inference and has no backward; training records relation and aggregate";
        Err(Error::shape(self.name(), fault))
    }
}

/// What every tile reads.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    relation: RelationInputs<'a>,
    attention: Attention<'a>,
    shift: &'a [f32],
}

impl Inputs<'_> {
    /// The shift, and b2 where the weights of every point add up to 1.
    fn fill_start(&self, start: &mut [f32]) {
        start.copy_from_slice(self.shift);
        if let Some(bias) = &self.attention.bias
            && self.relation.neighbors.is_complete()
        {
            start
                .iter_mut()
                .zip(bias.constant)
                .for_each(|(y, x)| *y += x);
        }
    }
}

/// The tiles of a chunk of points.
struct Tiles<'a> {
    inputs: Inputs<'a>,
    first: usize,
    y: &'a mut [f32],
}

/// Memory of a tile, all of it in cache.
struct Buffers<'a> {
    /// What every point starts at, [C].
    start: &'a mut [f32],
    /// [3, stride]
    deltas: &'a mut [f32],
    /// Relation, [G, stride].
    r: &'a mut [f32],
    /// Weights, [G, stride].
    w: &'a mut [f32],
    /// A block of the hidden layer.
    hidden: &'a mut [f32],
    /// Result, [points, G, padded I].
    short: &'a mut [f32],
    attend: AttendBuffers<'a>,
}

impl Kernel for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sizes = self.inputs.relation.sizes;
        let (stride, tile) = (sizes.stride(), sizes.tile());
        let columns = sizes.groups * stride;
        let short = tile * sizes.groups * sizes.padded_width();
        let words = padded(sizes.channels)
            + padded(3 * stride)
            + 2 * padded(columns)
            + padded(relation_scratch())
            + padded(short)
            + AttendBuffers::words(sizes);
        with_workspace(words, |mut rest| {
            let mut buffers = Buffers {
                start: carve(&mut rest, sizes.channels),
                deltas: carve(&mut rest, 3 * stride),
                r: carve(&mut rest, columns),
                w: carve(&mut rest, columns),
                hidden: carve(&mut rest, relation_scratch()),
                short: carve(&mut rest, short),
                attend: AttendBuffers::carve(&mut rest, sizes),
            };
            self.inputs.fill_start(buffers.start);
            let mut first = self.first;
            for y in self.y.chunks_mut(tile * sizes.channels) {
                let points = first..first + y.len() / sizes.channels;
                first = points.end;
                s.call(Tile {
                    inputs: &self.inputs,
                    points,
                    buffers: &mut buffers,
                    y,
                });
            }
        });
    }
}

struct Tile<'a, 'b> {
    inputs: &'a Inputs<'a>,
    points: Range<usize>,
    buffers: &'a mut Buffers<'b>,
    y: &'a mut [f32],
}

impl Kernel for Tile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Inputs {
            relation,
            attention,
            ..
        } = self.inputs;
        let (sizes, neighbors) = (relation.sizes, relation.neighbors);
        let pairs = self.points.start * sizes.k..self.points.end * sizes.k;
        let b = self.buffers;
        let index = &neighbors.index[pairs.clone()];
        load_deltas(neighbors, pairs, b.deltas);
        relation_columns(s, *relation, self.points.clone(), b.deltas, b.hidden, b.r);
        rectify(s, b.r);
        attention_weights(s, attention, self.points.len(), b.r, b.w);
        if !neighbors.is_complete() {
            mask_missing(index, b.w, sizes.stride());
        }
        let is_padded = sizes.padded_width() != sizes.width();
        let short = self.points.len() * sizes.groups * sizes.padded_width();
        let y = match is_padded {
            true => &mut b.short[..short],
            false => &mut *self.y,
        };
        start(sizes, b.start, y);
        if let Some(bias) = &attention.bias
            && !neighbors.is_complete()
        {
            add_constants(s, sizes, bias.constant, b.w, b.attend.sums, y);
        }
        attend(s, attention, self.points, b.deltas, b.w, &mut b.attend, y);
        match is_padded {
            true => finish(sizes, &b.short[..short], self.y),
            false => rectify(s.narrow(), self.y),
        }
    }
}

/// ReLU in place; NaN stays NaN. The number of values is a multiple of the lanes.
#[inline(always)]
fn rectify<S: Simd>(s: S, values: &mut [f32]) {
    for x in values.chunks_exact_mut(S::LANES) {
        s.store(x, s.max(s.zero(), s.load(x)));
    }
}

/// Rows of C values, rectified, from y ([points, G, padded I]). NaN stays NaN.
#[inline(always)]
fn finish(sizes: Sizes, y: &[f32], out: &mut [f32]) {
    let (short, width) = (sizes.padded_width(), sizes.width());
    for (y, out) in y.chunks_exact(short).zip(out.chunks_exact_mut(width)) {
        for (out, y) in out.iter_mut().zip(y) {
            *out = if *y < 0.0 { 0.0 } else { *y };
        }
    }
}
