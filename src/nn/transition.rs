//! How Stratified Transformer goes from level to level: pooling over neighbours on the way down, interpolation and a skip
//! connection on the way up (Lai et al. 2022, section 3.1).

use super::dense::Linear;
use super::window::LayerNorm;
use crate::Result;
use crate::geometry::{Interpolation, Neighbors};
use crate::graph::{Graph, Scope, Var};
use crate::ops;
use std::sync::Arc;

/// Norm and linear at the fine level, then the maximum over the neighbours of every coarse point.
#[derive(Debug, Clone)]
pub struct TransitionDown {
    norm: LayerNorm,
    linear: Linear,
}

impl TransitionDown {
    /// Registers `norm` and `linear`.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize) -> Self {
        TransitionDown {
            norm: LayerNorm::new(&mut scope.child("norm"), inputs),
            linear: Linear::normal(&mut scope.child("linear"), inputs, outputs, false),
        }
    }

    /// Records the pool on x [N, I] → [M, O]; `neighbors` are those of the M coarse points among the fine ones. Norm and
    /// linear act on rows, so they come before the gather and work on N instead of M·K rows.
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, neighbors: &Arc<Neighbors>) -> Result<Var> {
        let y = self.norm.record(graph, x)?; // [N, I]
        let y = self.linear.record(graph, y)?; // [N, O]
        graph.push(ops::NeighborMax::new(neighbors.clone()), &[y]) // [M, O]
    }
}

/// Norm and linear of both levels, the coarse one interpolated, and their sum.
#[derive(Debug, Clone)]
pub struct Upsample {
    skip: (LayerNorm, Linear),
    coarse: (LayerNorm, Linear),
}

impl Upsample {
    /// Registers `linear1` (of the fine level) and `linear2` (of the coarse one), norm and linear of each as `0` and `1`.
    pub fn new(scope: &mut Scope<'_>, coarse: usize, fine: usize) -> Self {
        let mut pair = |name: &str, inputs: usize| {
            let mut scope = scope.child(name);
            let norm = LayerNorm::new(&mut scope.child("0"), inputs);
            (
                norm,
                Linear::normal(&mut scope.child("1"), inputs, fine, true),
            )
        };
        Upsample {
            skip: pair("linear1", fine),
            coarse: pair("linear2", coarse),
        }
    }

    /// Records the layer on coarse x [S, I] and fine skip [N, O] → [N, O].
    pub fn record(
        &self,
        graph: &mut Graph<'_>,
        x: Var,
        skip: Var,
        stencil: &Arc<Interpolation>,
    ) -> Result<Var> {
        let coarse = self.coarse.0.record(graph, x)?; // [S, I]
        let coarse = self.coarse.1.record(graph, coarse)?; // [S, O]
        let raised = graph.push(ops::Interpolate::new(stencil.clone()), &[coarse])?; // [N, O]
        let skip = self.skip.0.record(graph, skip)?; // [N, O]
        let skip = self.skip.1.record(graph, skip)?; // [N, O]
        graph.push(ops::Add, &[skip, raised]) // [N, O]
    }
}
