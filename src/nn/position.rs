//! Encoding of relative positions: Linear(3, C), norm, ReLU, Linear(C, C).
//!
//! The first linear and its norm act on the relative position alone, so they reduce to one affine map per channel, P
//! [C, 4], whatever the statistics: h = ReLU(P · [Δ; 1]).

use super::dense::{BatchNorm, EPSILON, Linear};
use crate::Result;
use crate::geometry::Neighbors;
use crate::graph::{Graph, Mode, Scope, Shape, Var};
use crate::ops;
use std::sync::Arc;

/// `linear_p_bias` and `linear_p_multiplier` of the official code.
#[derive(Debug, Clone)]
pub struct PositionEncoding {
    first: Linear,
    norm: BatchNorm,
    /// Linear(C, C) with bias.
    pub second: Linear,
    name: String,
}

impl PositionEncoding {
    /// Registers `0`, `1.norm` and `3`.
    pub fn new(scope: &mut Scope<'_>, channels: usize) -> Self {
        PositionEncoding {
            name: scope.name("folded"),
            first: Linear::new(&mut scope.child("0"), 3, channels, true),
            norm: BatchNorm::new(&mut scope.child("1"), channels),
            second: Linear::new(&mut scope.child("3"), channels, channels, true),
        }
    }

    /// Records P [C, 4] for the relative positions of `neighbors`.
    pub fn record(&self, graph: &mut Graph<'_>, neighbors: &Arc<Neighbors>) -> Result<Var> {
        let bias = self.first.bias.expect("registered with a bias in new");
        if graph.mode() == Mode::Inference {
            let shape = Shape::new(self.norm.channels, 4);
            return graph.derived(&self.name, shape, |p| {
                let affine = self.norm.affine(p);
                let (weight, bias) = (p.get(self.first.weight), p.get(bias));
                let rows = weight.chunks_exact(3).zip(bias).enumerate();
                rows.flat_map(|(c, (w, b))| {
                    let (s, t) = (affine.scale[c], affine.shift[c]);
                    [s * w[0], s * w[1], s * w[2], s * b + t]
                })
                .collect()
            });
        }
        let op = ops::PositionNorm {
            neighbors: neighbors.clone(),
            statistics: BatchNorm::statistics(graph),
            epsilon: EPSILON,
        };
        let mut inputs = vec![graph.param(self.first.weight), graph.param(bias)];
        inputs.extend(self.norm.inputs(graph));
        let outputs = graph.push_many(op, &inputs)?;
        Ok(self.norm.finish(graph, &outputs))
    }
}
