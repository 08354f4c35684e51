//! Grouped vector attention: all levels, each with its own neighbours.

use super::{Case, measure, room};
use cairn::geometry::{Hierarchy, Neighbors, partition};
use cairn::graph::Shape;
use cairn::ops::*;
use criterion::{Criterion, Throughput};
use std::sync::Arc;

/// Neighbours, points, channels and groups of the four levels of Point Transformer V2, points in the order of the
/// clusters that they are pooled to.
fn vector_levels() -> Vec<(Arc<Neighbors>, usize, usize, usize)> {
    let coord = room(40_000);
    let clusters = partition::grid(&coord, &[0, coord.len()], 0.1).unwrap();
    let coord: Vec<_> = clusters
        .order()
        .iter()
        .map(|row| coord[*row as usize])
        .collect();
    let offsets = vec![0, coord.len()];
    let mut levels = Hierarchy::new(coord, offsets).unwrap();
    let mut level = 0;
    let mut all = Vec::new();
    for (channels, size) in [(48, 0.1), (96, 0.2), (192, 0.4), (384, 0.8)] {
        let neighbors = levels.neighbors(level, 16).unwrap();
        neighbors.transposed();
        let points = neighbors.queries;
        all.push((neighbors, points, channels, channels / 8));
        level = levels.pool(level, size).unwrap().0;
    }
    all
}

/// Grouped vector attention: the fused form of inference, and the pair of training with the position multiplier.
/// Operations: two a pair for each of 3·C (the hidden layer) and G·C (each product with it), and those per point.
pub fn vector_attention(criterion: &mut Criterion) {
    for (neighbors, n, c, g) in vector_levels() {
        let (m, channels) = (n * 16, Shape::new(1, c));
        let (per_group, per_point) = (Shape::new(n, g), Shape::new(n, c));
        let (position, square) = (Shape::new(c, 4), Shape::new(c, c));
        let (mix, constant) = (Shape::new(g, g), Shape::new(1, g));
        let elements = |flops: usize| Throughput::Elements(2 * flops as u64);
        let (hidden, layer) = (m * 3 * c, m * g * c);
        let (mixed, weighted, projected) = (m * g * g, m * c, n * c * c);
        let case = |inputs: &[Shape], forward, backward| Case {
            size: format!("{n}x{c}"),
            ..Case::new(inputs, elements(forward), elements(backward))
        };

        let bytes = || Throughput::Bytes(4 * (3 * n + 4 * m) as u64);
        let op = Offsets {
            neighbors: neighbors.clone(),
        };
        measure(
            criterion,
            op,
            &Case::new(&[Shape::new(n, 3)], bytes(), bytes()),
        );

        let inputs = [per_group, per_group, position, Shape::new(g, c), constant];
        let relation = case(&inputs, hidden + layer, hidden + 2 * layer + m * 4 * c);
        let op = Relation {
            neighbors: neighbors.clone(),
        };
        measure(criterion, op, &relation);

        let inputs = [
            Shape::new(m, g),
            Shape::new(2, g),
            mix,
            constant,
            per_point,
            position,
            square,
            channels,
        ];
        let attend = mixed + weighted + hidden + layer + projected;
        let backward = hidden + 3 * layer + m * 4 * c + 2 * (mixed + weighted + projected);
        let op = Aggregate {
            neighbors: neighbors.clone(),
            groups: g,
            rate: 0.0,
        };
        measure(criterion, op, &case(&inputs, attend, backward));

        let packed = VectorAttention::packed_shape(c, g);
        let inputs = [
            per_group,
            per_group,
            constant,
            mix,
            constant,
            per_point,
            channels,
            position,
            Shape::new(g, c),
            packed,
            channels,
        ];
        let mut fused = case(&inputs, hidden + layer + attend, 0);
        fused.differentiable = 0;
        let op = VectorAttention {
            neighbors: neighbors.clone(),
            groups: g,
        };
        measure(criterion, op, &fused);

        let inputs = [
            per_point,
            per_point,
            position,
            square,
            channels,
            Shape::new(g, c),
        ];
        let direct = hidden + m * c * c + m * c + layer;
        let multiplied = case(&inputs, direct, direct + 2 * (m * c * c + layer));
        measure(criterion, RelationMultiplier { neighbors }, &multiplied);
    }
}
