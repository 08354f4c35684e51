//! Attention of both networks.

use super::{NEIGHBOURS, Stage, cloud, neighbors, op};
use crate::Result;
use crate::device::Cores;
use crate::geometry::{Quantization, WindowOptions, Windows};
use crate::graph::Shape;
use crate::ops::{
    Aggregate, Offsets, PositionNorm, PositionTables, Relation, RelationMultiplier, Statistics,
    VectorAttention, WindowAttention,
};
use std::sync::Arc;

/// Edges of a window and of a bin of the position tables, metres.
pub(super) const WINDOW: f32 = 0.16;
pub(super) const BIN: f32 = 0.01;

pub fn relation(cores: Cores, s: Stage) -> Result<()> {
    let (n, c, g) = (s.points, s.channels, s.groups);
    let shapes = [[n, g], [n, g], [c, 4], [g, c], [1, g]].map(|[r, c]| Shape::new(r, c));
    let relation = Relation {
        neighbors: neighbors(s)?,
    };
    op(cores, relation, &shapes, 5)
}

pub fn relation_multiplier(cores: Cores, s: Stage) -> Result<()> {
    let (n, c, g) = (s.points, s.channels, s.groups);
    let shapes = [[n, c], [n, c], [c, 4], [c, c], [1, c], [g, c]].map(|[r, c]| Shape::new(r, c));
    let relation = RelationMultiplier {
        neighbors: neighbors(s)?,
    };
    op(cores, relation, &shapes, 6)
}

/// Offsets of all pairs, an input that only asks for their gradient.
fn offsets(s: Stage) -> Shape {
    Shape::new(s.points * NEIGHBOURS, 3)
}

/// The offsets themselves.
pub fn pair_offsets(cores: Cores, s: Stage) -> Result<()> {
    let op = Offsets {
        neighbors: neighbors(s)?,
    };
    super::op(cores, op, &[Shape::new(s.points, 3)], 1)
}

pub fn aggregate(cores: Cores, s: Stage) -> Result<()> {
    aggregate_of(cores, s, None)
}

/// With the gradient of the offsets.
pub fn aggregate_offsets(cores: Cores, s: Stage) -> Result<()> {
    aggregate_of(cores, s, Some(offsets(s)))
}

fn aggregate_of(cores: Cores, s: Stage, offsets: Option<Shape>) -> Result<()> {
    let (n, c, g) = (s.points, s.channels, s.groups);
    let attention = [[n * NEIGHBOURS, g], [2, g], [g, g], [1, g], [n, c]];
    let position = [[c, 4], [c, c], [1, c]];
    let given = attention.into_iter().chain(position);
    let given = given.map(|[r, c]| Shape::new(r, c));
    let shapes: Vec<Shape> = given.chain(offsets).collect();
    let aggregate = Aggregate {
        neighbors: neighbors(s)?,
        groups: g,
        rate: 0.0,
    };
    op(cores, aggregate, &shapes, shapes.len())
}

/// The fused form of inference, which has no backward.
pub fn vector_attention(cores: Cores, s: Stage) -> Result<()> {
    let (n, c, g) = (s.points, s.channels, s.groups);
    let attention = [[n, g], [n, g], [1, g], [g, g], [1, g], [n, c], [1, c]];
    let packed = VectorAttention::packed_shape(c, g);
    let position = [[c, 4], [g, c], [packed.rows, packed.cols], [1, c]];
    let shapes: Vec<Shape> = attention
        .into_iter()
        .chain(position)
        .map(|[r, c]| Shape::new(r, c))
        .collect();
    let attention = VectorAttention {
        neighbors: neighbors(s)?,
        groups: g,
    };
    op(cores, attention, &shapes, 0)
}

pub fn position_norm(cores: Cores, s: Stage) -> Result<()> {
    position_norm_of(cores, s, None)
}

/// With the gradient of the offsets.
pub fn position_norm_offsets(cores: Cores, s: Stage) -> Result<()> {
    position_norm_of(cores, s, Some(offsets(s)))
}

fn position_norm_of(cores: Cores, s: Stage, offsets: Option<Shape>) -> Result<()> {
    let vector = Shape::new(1, s.channels);
    let mut shapes = vec![vector; 6];
    shapes[0] = Shape::new(s.channels, 3);
    shapes.extend(offsets);
    let norm = PositionNorm {
        neighbors: neighbors(s)?,
        statistics: Statistics::Batch,
        epsilon: 1e-5,
    };
    // Running statistics, before the offsets, take no gradient, asked or not.
    let differentiable = offsets.map_or(4, |_| shapes.len());
    op(cores, norm, &shapes, differentiable)
}

/// The windows of Stratified Transformer's first stage: 4 voxels of 4 cm, one point in nine sampled.
pub fn windows(s: Stage) -> Result<Windows> {
    let options = WindowOptions {
        size: WINDOW,
        step: BIN,
        shifted: false,
    };
    let sampled: Vec<u32> = (0..s.points as u32).step_by(9).collect();
    Windows::stratified(&cloud(s.points), &[0, s.points], options, &sampled)
}

/// Attention of heads of `width` channels, of whose inputs the first `differentiable` want gradients.
pub fn window_attention(cores: Cores, s: Stage, width: usize, differentiable: usize) -> Result<()> {
    let rows = Quantization::stratified_rows(f64::from(WINDOW), f64::from(BIN));
    let features = Shape::new(s.points, 3 * s.channels);
    let table = Shape::new(rows, 3 * s.channels);
    let heads = s.channels / width;
    let attention = WindowAttention::new(Arc::new(windows(s)?), heads, PositionTables::ALL);
    op(
        cores,
        attention,
        &[features, table, table, table],
        differentiable,
    )
}
