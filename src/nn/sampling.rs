//! Partition pooling and unpooling with skip connections (Wu et al. 2022, PTv2, section 3.3).

use super::dense::{BatchNorm, Linear, LinearNorm};
use crate::Result;
use crate::device::Array;
use crate::geometry::{Interpolation, Partition, Ragged};
use crate::graph::{Graph, Scope, Var};
use crate::ops;
use std::sync::Arc;

/// Projection at the fine level, then the maximum over each grid cell.
#[derive(Debug, Clone)]
pub struct GridPool {
    projection: LinearNorm,
}

impl GridPool {
    /// Registers `fc` and `norm`.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize) -> Self {
        let linear = Linear::new(&mut scope.child("fc"), inputs, outputs, false);
        let norm = BatchNorm::new(&mut scope.child("norm"), outputs);
        let projection = LinearNorm {
            linear,
            norm,
            relu: true,
        };
        GridPool { projection }
    }

    /// Records the pool on x [N, I] → [S, O].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, cells: &Arc<Partition>) -> Result<Var> {
        let y = self.projection.record(graph, x)?; // [N, O]
        graph.push(ops::SegmentMax::of_cells(cells), &[y]) // [S, O]
    }
}

/// How coarse features reach the fine points.
#[derive(Debug, Clone)]
pub enum Upsampling {
    /// Every point takes the feature of its cell.
    Map {
        /// Cell of every fine point.
        cluster: Array<u32>,
        /// Fine points of every cell.
        members: Ragged,
    },
    /// Every point takes the inverse-distance mean of its three nearest coarse points.
    Interpolate(Arc<Interpolation>),
}

/// Projection at the coarse level, upsampling, plus a projected skip connection.
#[derive(Debug, Clone)]
pub struct Unpool {
    projection: LinearNorm,
    skip: LinearNorm,
}

impl Unpool {
    /// Registers `proj` and `proj_skip`.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, skip: usize, outputs: usize) -> Self {
        Unpool {
            projection: projection(&mut scope.child("proj"), inputs, outputs),
            skip: projection(&mut scope.child("proj_skip"), skip, outputs),
        }
    }

    /// Records the layer on coarse x [S, I] and fine skip [N, J] → [N, O].
    pub fn record(
        &self,
        graph: &mut Graph<'_>,
        x: Var,
        skip: Var,
        upsampling: &Upsampling,
    ) -> Result<Var> {
        let coarse = self.projection.record(graph, x)?; // [S, O]
        let raised = match upsampling {
            Upsampling::Map { cluster, members } => graph.push(
                ops::Gather::new(cluster.clone(), members.clone()),
                &[coarse],
            )?,
            Upsampling::Interpolate(stencil) => {
                graph.push(ops::Interpolate::new(stencil.clone()), &[coarse])?
            }
        }; // [N, O]
        let skip = self.skip.record(graph, skip)?; // [N, O]
        graph.push(ops::Add, &[raised, skip]) // [N, O]
    }
}

/// Linear with bias, norm and ReLU as `0` and `1`.
pub(crate) fn projection(scope: &mut Scope<'_>, inputs: usize, outputs: usize) -> LinearNorm {
    LinearNorm {
        linear: Linear::new(&mut scope.child("0"), inputs, outputs, true),
        norm: BatchNorm::new(&mut scope.child("1"), outputs),
        relu: true,
    }
}
