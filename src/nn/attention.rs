//! Grouped vector attention (Wu et al. 2022, PTv2, section 3.1, as the official code computes it) in factored form.
//!
//! With e_ij = A (k_j − q_i + W2 h_ij + b2) + a, the relation of a pair splits by linearity into A k_j − A q_i, one
//! small product per *point*, and (A W2) h_ij + (A b2 + a), where h_ij is recomputed from the relative position. So no
//! tensor of size N·K·C ever exists. With a position multiplier linearity breaks in one place and a tiled direct form
//! takes over.

use super::dense::{BatchNorm, EPSILON, Linear, LinearNorm};
use super::position::PositionEncoding;
use crate::device::Array;
use crate::geometry::Neighbors;
use crate::graph::{Graph, Init, Mode, ParamId, Scope, Shape, Var};
use crate::ops;
use crate::{Error, Result};
use std::sync::Arc;

/// How the first layer of the weight encoding maps C channels to G groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightEncoding {
    /// A full Linear(C, G) with bias (mode 2).
    Full,
    /// One weight per channel, summed within each group, no bias (mode 1).
    Grouped,
}

/// Options of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Channels C.
    pub channels: usize,
    /// Groups G, a divisor of C.
    pub groups: usize,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether relative positions multiply the relation.
    pub pe_multiplier: bool,
    /// Whether relative positions are added to the relation and to the values.
    pub pe_bias: bool,
    /// First layer of the weight encoding.
    pub encoding: WeightEncoding,
    /// Dropout rate of the attention weights in training.
    pub dropout: f32,
}

/// Grouped vector attention over a neighbour table.
#[derive(Debug, Clone)]
pub struct GroupedVectorAttention {
    config: AttentionConfig,
    query: LinearNorm,
    key: LinearNorm,
    value: Linear,
    multiplier: Option<PositionEncoding>,
    bias: Option<PositionEncoding>,
    /// [G, C], or [1, C] when grouped.
    encode: ParamId,
    encode_bias: Option<ParamId>,
    encode_norm: BatchNorm,
    mix: Linear,
}

impl GroupedVectorAttention {
    /// Registers the layer's tensors in the official order.
    pub fn new(scope: &mut Scope<'_>, config: AttentionConfig) -> Result<Self> {
        let AttentionConfig {
            channels, groups, ..
        } = config;
        if groups == 0 || channels % groups != 0 {
            return Err(Error::config(
                "groups",
                format!("{groups} groups do not divide {channels} channels"),
            ));
        }
        let query = projection(&mut scope.child("linear_q"), config);
        let key = projection(&mut scope.child("linear_k"), config);
        let value = Linear::new(
            &mut scope.child("linear_v"),
            channels,
            channels,
            config.qkv_bias,
        );
        let multiplier = config
            .pe_multiplier
            .then(|| PositionEncoding::new(&mut scope.child("linear_p_multiplier"), channels));
        let bias = config
            .pe_bias
            .then(|| PositionEncoding::new(&mut scope.child("linear_p_bias"), channels));
        let mut encoding = scope.child("weight_encoding");
        let init = Init::Uniform(1.0 / (channels as f32).sqrt());
        let full = config.encoding == WeightEncoding::Full;
        let rows = if full { groups } else { 1 };
        let mut first = encoding.child("0");
        let encode = first.weight("weight", &[rows, channels], init);
        let encode_bias = full.then(|| first.weight("bias", &[groups], init));
        let encode_norm = BatchNorm::new(&mut encoding.child("1"), groups);
        let mix = Linear::new(&mut encoding.child("3"), groups, groups, true);
        Ok(GroupedVectorAttention {
            config,
            query,
            key,
            value,
            multiplier,
            bias,
            encode,
            encode_bias,
            encode_norm,
            mix,
        })
    }

    /// Records attention on x [N, C] followed by `norm` and ReLU → [N, C].
    pub fn record(
        &self,
        graph: &mut Graph<'_>,
        x: Var,
        neighbors: &Arc<Neighbors>,
        norm: &BatchNorm,
    ) -> Result<Var> {
        let q = self.query.record(graph, x)?; // [N, C]
        let k = self.key.record(graph, x)?; // [N, C]
        let v = self.value.record(graph, x)?; // [N, C]
        let y = self.record_direct(graph, [q, k, v], neighbors)?; // [N, C]
        graph.tap("attn_out", y);
        norm.record(graph, y, true)
    }

    /// The first layer of the weight encoding as a full matrix A [G, C].
    fn record_encode(&self, graph: &mut Graph<'_>) -> Result<Var> {
        let weight = graph.param(self.encode);
        match self.config.encoding {
            WeightEncoding::Full => Ok(weight),
            WeightEncoding::Grouped => {
                let groups = self.config.groups;
                graph.push(ops::GroupedWeight { groups }, &[weight])
            }
        }
    }

    /// The form with every intermediate that backward needs.
    fn record_direct(
        &self,
        graph: &mut Graph<'_>,
        [q, k, v]: [Var; 3],
        neighbors: &Arc<Neighbors>,
    ) -> Result<Var> {
        let a = self.record_encode(graph)?; // [G, C]
        let mut position = None;
        let shared;
        let a_bias = self.encode_bias.map(|b| graph.param(b)); // [1, G]
        if let Some(encoding) = &self.bias {
            let p = encoding.record(graph, neighbors)?; // [C, 4]
            let w2 = graph.param(encoding.second.weight); // [C, C]
            let b2 = graph.param(encoding.second.bias.expect("registered with a bias")); // [1, C]
            let m = graph.push(ops::Matmul, &[a, w2])?; // [G, C]
            let mut inputs = vec![b2, a];
            inputs.extend(a_bias);
            let c0 = graph.push(ops::Linear::new(a_bias.is_some()), &inputs)?; // [1, G]
            shared = vec![p, m, c0];
            position = Some([p, w2, b2]);
        } else {
            let none = Shape::new(1, self.config.groups);
            let zero = || graph.input(Array::from(vec![0.0; none.cols]), none);
            shared = vec![a_bias.map_or_else(zero, Ok)?];
        }
        let e = self.record_relation(graph, [q, k, a], &shared, neighbors)?; // [N·K, G]
        let st = self.record_coefficients(graph, e)?; // [2, G]
        graph.tap("relation", e);
        graph.tap("coefficients", st);
        let mix = graph.param(self.mix.weight); // [G, G]
        let mix_bias = graph.param(self.mix.bias.expect("registered with a bias")); // [1, G]
        let mut inputs = vec![e, st, mix, mix_bias, v];
        inputs.extend(position.into_iter().flatten());
        let rate = match graph.mode() {
            Mode::Training => self.config.dropout,
            _ => 0.0,
        };
        let op = ops::Aggregate {
            neighbors: neighbors.clone(),
            groups: self.config.groups,
            rate,
        };
        graph.push(op, &inputs) // [N, C]
    }

    /// The relation of every pair, before its norm. With a multiplier it is the sum of the multiplied part and of what
    /// positions add on their own.
    fn record_relation(
        &self,
        graph: &mut Graph<'_>,
        [q, k, a]: [Var; 3],
        shared: &[Var],
        neighbors: &Arc<Neighbors>,
    ) -> Result<Var> {
        let (ak, aq) = match &self.multiplier {
            None => (
                graph.push(ops::Linear::new(false), &[k, a])?, // [N, G]
                graph.push(ops::Linear::new(false), &[q, a])?, // [N, G]
            ),
            Some(_) => {
                let shape = Shape::new(neighbors.queries, self.config.groups);
                let zero = Array::from(vec![0.0; shape.len()]);
                (graph.input(zero.clone(), shape)?, graph.input(zero, shape)?)
            }
        };
        let mut inputs = vec![ak, aq];
        inputs.extend(shared);
        let op = ops::Relation {
            neighbors: neighbors.clone(),
        };
        let e = graph.push(op, &inputs)?; // [N·K, G]
        let Some(encoding) = &self.multiplier else {
            return Ok(e);
        };
        let p = encoding.record(graph, neighbors)?; // [C, 4]
        let w2 = graph.param(encoding.second.weight); // [C, C]
        let b2 = graph.param(encoding.second.bias.expect("registered with a bias")); // [1, C]
        let op = ops::RelationMultiplier {
            neighbors: neighbors.clone(),
        };
        let multiplied = graph.push(op, &[k, q, p, w2, b2, a])?; // [N·K, G]
        graph.push(ops::Add, &[e, multiplied])
    }

    /// Scale and shift of the norm over all pairs, missing slots included.
    fn record_coefficients(&self, graph: &mut Graph<'_>, e: Var) -> Result<Var> {
        let [weight, bias, mean, variance] = self.encode_norm.inputs(graph);
        let op = ops::NormCoefficients {
            statistics: BatchNorm::statistics(graph),
            epsilon: EPSILON,
        };
        let outputs = graph.push_many(op, &[e, weight, bias, mean, variance])?;
        Ok(self.encode_norm.finish(graph, &outputs))
    }
}

/// Linear(C, C), norm and ReLU: how queries and keys are made.
fn projection(scope: &mut Scope<'_>, config: AttentionConfig) -> LinearNorm {
    let channels = config.channels;
    LinearNorm {
        linear: Linear::new(&mut scope.child("0"), channels, channels, config.qkv_bias),
        norm: BatchNorm::new(&mut scope.child("1"), channels),
        relu: true,
    }
}
