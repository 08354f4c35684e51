//! Ops of Stratified Transformer.

use super::{Case, measure, points, room};
use cairn::geometry::{
    Choice, Neighbors, SearchTree, WindowOptions, Windows, farthest_points, radius_neighbors,
    ratio_counts, stride_counts,
};
use cairn::graph::Shape;
use cairn::ops::*;
use criterion::{Criterion, Throughput};
use std::sync::Arc;

/// Points and channels of the four levels of Stratified Transformer, from 40 000 points.
const STRATIFIED: [(usize, usize); 4] = [(40_000, 48), (10_001, 96), (2_501, 192), (626, 384)];

/// The ops of a transformer block, but for attention, and of the step to the next level.
pub fn blocks(criterion: &mut Criterion) {
    for (n, c) in STRATIFIED {
        let (x, vector) = (Shape::new(n, c), Shape::new(1, c));
        let norm = LayerNorm { epsilon: 1e-5 };
        measure(criterion, norm, &Case::passes(&[x, vector, vector], 2, 4));
        measure(
            criterion,
            Gelu,
            &Case::passes(&[Shape::new(n, 4 * c)], 2, 4),
        );
        // backward computes the hidden layer again
        let flops = |products: usize| Throughput::Elements((products * 8 * n * c * c) as u64);
        let (up, down) = (Shape::new(4 * c, c), Shape::new(c, 4 * c));
        let shapes = [x, up, Shape::new(1, 4 * c), down, vector];
        measure(
            criterion,
            Perceptron,
            &Case::new(&shapes, flops(2), flops(5)),
        );
    }
    let x = Shape::new(40_000, 48);
    measure(
        criterion,
        LeakyRelu { slope: 0.2 },
        &Case::passes(&[x], 2, 4),
    );
    for pair in STRATIFIED.windows(2) {
        let ((n, _), (m, c)) = (pair[0], pair[1]);
        let (fine, coarse) = (points(n, 1), points(m, 2));
        let tree = SearchTree::new(&fine, &[0, n]).unwrap();
        let found = tree
            .nearest(&SearchTree::new(&coarse, &[0, m]).unwrap(), 16)
            .unwrap();
        let table = Neighbors::from_index(16, &found.index, &coarse, &fine).unwrap();
        table.transposed();
        let bytes = |rows: usize| Throughput::Bytes(4 * (rows * c) as u64);
        // forward reads a row for every neighbour; backward adds to each point what its queries say
        let case = Case::new(
            &[Shape::new(n, c)],
            bytes(16 * m + m),
            bytes(32 * m + 2 * n),
        );
        measure(criterion, NeighborMax::new(Arc::new(table)), &case);
    }
}

pub fn convolutions(criterion: &mut Criterion) {
    let coord = room(40_000);
    for (inputs, outputs) in [(6, 48), (12, 12)] {
        let table = radius_neighbors(&coord, &[0, coord.len()], 0.1, 34, Choice::Nearest).unwrap();
        let pairs = table.transposed().index.len();
        // influences (11 a pair and kernel point), their sums, and the products with the weights
        let flops = |channels: usize| {
            let products = 2 * coord.len() * 15 * inputs * outputs;
            15 * pairs * (11 + 2 * channels) + products
        };
        let (forward, backward) = (flops(inputs), flops(outputs) + flops(inputs));
        let shapes = [
            Shape::new(coord.len(), inputs),
            Shape::new(15, 3),
            Shape::new(15, inputs * outputs),
        ];
        let elements = |flops: usize| Throughput::Elements(flops as u64);
        let case = Case::new(&shapes, elements(forward), elements(backward));
        let op = KernelPointConv {
            neighbors: Arc::new(table),
            influence: 0.04,
            outputs,
        };
        measure(criterion, op, &case);
    }
}

/// Attention of the four stages in the S3DIS configuration, plain and shifted. Operations a pair and channel: 14 for
/// the score (three products with six table rows), 5 for the value; in backward 14 for the score, 8 for d_p, 23 for the
/// gradients.
pub fn attention(criterion: &mut Criterion) {
    let mut coord = room(40_000);
    for (level, (n, c)) in STRATIFIED.into_iter().enumerate() {
        assert_eq!(coord.len(), n);
        let size = 0.16 * (1 << level) as f32;
        let sampled = farthest_points(&coord, &[0, n], &stride_counts(&[0, n], 8)).unwrap();
        for shifted in [false, true] {
            let options = WindowOptions {
                size,
                step: size / 16.0,
                shifted,
            };
            let windows = Windows::stratified(&coord, &[0, n], options, &sampled).unwrap();
            let flops = |times: usize| Throughput::Elements((times * windows.pairs() * c) as u64);
            let table = Shape::new(64, 3 * c);
            let shapes = [Shape::new(n, 3 * c), table, table, table];
            let mut case = Case::new(&shapes, flops(19), flops(45));
            case.size = format!("{n}x{c}/{}", if shifted { "shifted" } else { "plain" });
            let op = WindowAttention::new(Arc::new(windows), c / 16, PositionTables::ALL);
            measure(criterion, op, &case);
        }
        let keep = farthest_points(&coord, &[0, n], &ratio_counts(&[0, n], 0.25)).unwrap();
        coord = keep.iter().map(|row| coord[*row as usize]).collect();
    }
}
