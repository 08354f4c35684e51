//! Grouped vector attention (Wu et al. 2022, PTv2, section 3.1, as the official code computes it) in factored form.
//!
//! With e_ij = A (k_j − q_i + W2 h_ij + b2) + a, the relation of a pair splits by linearity into A k_j − A q_i, one
//! small product per *point*, and (A W2) h_ij + (A b2 + a), where h_ij is recomputed from the relative position. So no
//! tensor of size N·K·C ever exists. With a position multiplier linearity breaks in one place and a tiled direct form
//! takes over.

use super::dense::{Affine, BatchNorm, EPSILON, Linear, LinearNorm, scale_rows};
use super::position::{Pairs, PositionEncoding};
use crate::device::Array;
use crate::graph::{Graph, Init, Mode, ParamId, Params, Scope, Shape, Var};
use crate::ops;
use crate::{Error, Result};

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
    /// Full name of the layer, the key of what is derived from its tensors.
    name: String,
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
            name: scope.name("folded"),
        })
    }

    /// Records attention on x [N, C] followed by `norm` and ReLU → [N, C].
    pub fn record(
        &self,
        graph: &mut Graph<'_>,
        x: Var,
        pairs: &Pairs,
        norm: &BatchNorm,
    ) -> Result<Var> {
        let q = self.query.record(graph, x)?; // [N, C]
        let k = self.key.record(graph, x)?; // [N, C]
        if graph.mode() == Mode::Inference && self.multiplier.is_none() {
            return self.record_folded(graph, x, [q, k], pairs, norm); // [N, C]
        }
        let v = self.value.record(graph, x)?; // [N, C]
        let y = self.record_direct(graph, [q, k, v], pairs)?; // [N, C]
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

    /// The form for inference: both norms folded into the tensors around them, one op for everything per pair.
    fn record_folded(
        &self,
        graph: &mut Graph<'_>,
        x: Var,
        [q, k]: [Var; 2],
        pairs: &Pairs,
        norm: &BatchNorm,
    ) -> Result<Var> {
        let AttentionConfig {
            channels, groups, ..
        } = self.config;
        let (vector, mix) = (Shape::new(1, channels), graph.param(self.mix.weight));
        let a = self.derived(graph, "A", Shape::new(groups, channels), |p| {
            rounded(&self.encoding(p))
        })?;
        let ak = graph.push(ops::Linear::new(false), &[k, a])?; // [N, G]
        let aq = graph.push(ops::Linear::new(false), &[q, a])?; // [N, G]
        let c0 = self.derived(graph, "c0", Shape::new(1, groups), |p| {
            rounded(&self.constant(p))
        })?;
        let mix_bias = graph.param(self.mix.bias.expect("registered with a bias")); // [1, G]
        let scale_only = |p: &Params| Affine {
            shift: vec![0.0; channels],
            ..norm.affine(p)
        };
        let (weight, bias) = self.value.folded(graph, scale_only)?;
        let v = graph.push(ops::Linear::new(true), &[x, weight, bias])?; // [N, C]
        let t = self.derived(graph, "t", vector, |p| rounded(&norm.affine(p).shift))?;
        let mut inputs = vec![ak, aq, c0, mix, mix_bias, v, t];
        if let Some(encoding) = &self.bias {
            let second =
                |p: &Params| scale_rows(p.get(encoding.second.weight), &norm.affine(p).scale);
            let b2 = encoding.second.bias.expect("registered with a bias");
            let shape = ops::VectorAttention::packed_shape(channels, groups);
            inputs.extend([
                encoding.record(graph, pairs)?,
                self.derived(graph, "M", Shape::new(groups, channels), |p| {
                    let second = p.get(encoding.second.weight);
                    rounded(&product(&self.encoding(p), second, channels))
                })?,
                self.derived(graph, "W2", shape, |p| {
                    ops::VectorAttention::pack(&second(p), groups)
                })?,
                self.derived(graph, "b2", vector, |p| {
                    scale_rows(p.get(b2), &norm.affine(p).scale)
                })?,
            ]);
        }
        let op = ops::VectorAttention {
            neighbors: pairs.neighbors.clone(),
            groups,
        };
        graph.push(op, &inputs) // [N, C]
    }

    fn derived(
        &self,
        graph: &mut Graph<'_>,
        what: &str,
        shape: Shape,
        compute: impl FnOnce(&Params) -> Vec<f32>,
    ) -> Result<Var> {
        graph.derived(&format!("{} {what}", self.name), shape, compute)
    }

    /// A as a full matrix [G, C], scaled by the norm of the relation.
    fn encoding(&self, params: &Params) -> Vec<f64> {
        let AttentionConfig {
            channels, groups, ..
        } = self.config;
        let weight = params.get(self.encode).iter().map(|w| f64::from(*w));
        let scale = self.encode_norm.affine(params).scale;
        if self.config.encoding == WeightEncoding::Full {
            let entries = weight.enumerate();
            return entries.map(|(i, w)| scale[i / channels] * w).collect();
        }
        let mut full = vec![0.0; groups * channels];
        for (c, w) in weight.enumerate() {
            let group = c / (channels / groups);
            full[group * channels + c] = scale[group] * w;
        }
        full
    }

    /// What the relation of every pair has in common, behind its norm: [1, G].
    fn constant(&self, params: &Params) -> Vec<f64> {
        let Affine { scale, mut shift } = self.encode_norm.affine(params);
        if let Some(bias) = self.encode_bias {
            let terms = scale.iter().zip(params.get(bias));
            shift
                .iter_mut()
                .zip(terms)
                .for_each(|(t, (s, a))| *t += s * f64::from(*a));
        }
        if let Some(b2) = self.bias.as_ref().and_then(|e| e.second.bias) {
            let part = product(&self.encoding(params), params.get(b2), 1);
            shift.iter_mut().zip(part).for_each(|(t, x)| *t += x);
        }
        shift
    }

    /// The form with every intermediate that backward needs.
    fn record_direct(
        &self,
        graph: &mut Graph<'_>,
        [q, k, v]: [Var; 3],
        pairs: &Pairs,
    ) -> Result<Var> {
        let a = self.record_encode(graph)?; // [G, C]
        let mut position = Vec::new();
        let shared;
        let a_bias = self.encode_bias.map(|b| graph.param(b)); // [1, G]
        if let Some(encoding) = &self.bias {
            let p = encoding.record(graph, pairs)?; // [C, 4]
            let w2 = graph.param(encoding.second.weight); // [C, C]
            let b2 = graph.param(encoding.second.bias.expect("registered with a bias")); // [1, C]
            let m = graph.push(ops::Matmul, &[a, w2])?; // [G, C]
            let mut inputs = vec![b2, a];
            inputs.extend(a_bias);
            let c0 = graph.push(ops::Linear::new(a_bias.is_some()), &inputs)?; // [1, G]
            shared = vec![p, m, c0];
            position.extend([p, w2, b2]);
            position.extend(pairs.offsets);
        } else {
            let none = Shape::new(1, self.config.groups);
            let zero = || graph.input(Array::from(vec![0.0; none.cols]), none);
            shared = vec![a_bias.map_or_else(zero, Ok)?];
        }
        let e = self.record_relation(graph, [q, k, a], &shared, pairs)?; // [N·K, G]
        let st = self.record_coefficients(graph, e)?; // [2, G]
        graph.tap("relation", e);
        graph.tap("coefficients", st);
        let mix = graph.param(self.mix.weight); // [G, G]
        let mix_bias = graph.param(self.mix.bias.expect("registered with a bias")); // [1, G]
        let mut inputs = vec![e, st, mix, mix_bias, v];
        inputs.extend(position);
        let rate = match graph.mode() {
            Mode::Training => self.config.dropout,
            _ => 0.0,
        };
        let op = ops::Aggregate {
            neighbors: pairs.neighbors.clone(),
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
        pairs: &Pairs,
    ) -> Result<Var> {
        let (ak, aq) = match &self.multiplier {
            None => (
                graph.push(ops::Linear::new(false), &[k, a])?, // [N, G]
                graph.push(ops::Linear::new(false), &[q, a])?, // [N, G]
            ),
            Some(_) => {
                let shape = Shape::new(pairs.neighbors.queries, self.config.groups);
                let zero = Array::from(vec![0.0; shape.len()]);
                (graph.input(zero.clone(), shape)?, graph.input(zero, shape)?)
            }
        };
        let mut inputs = vec![ak, aq];
        inputs.extend(shared);
        inputs.extend(pairs.offsets.filter(|_| self.bias.is_some()));
        let op = ops::Relation {
            neighbors: pairs.neighbors.clone(),
        };
        let e = graph.push(op, &inputs)?; // [N·K, G]
        let Some(encoding) = &self.multiplier else {
            return Ok(e);
        };
        let p = encoding.record(graph, pairs)?; // [C, 4]
        let w2 = graph.param(encoding.second.weight); // [C, C]
        let b2 = graph.param(encoding.second.bias.expect("registered with a bias")); // [1, C]
        let op = ops::RelationMultiplier {
            neighbors: pairs.neighbors.clone(),
        };
        let mut inputs = vec![k, q, p, w2, b2, a];
        inputs.extend(pairs.offsets);
        let multiplied = graph.push(op, &inputs)?; // [N·K, G]
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

/// a · b for b with `cols` columns.
fn product(a: &[f64], b: &[f32], cols: usize) -> Vec<f64> {
    let inner = b.len() / cols.max(1);
    let mut out = Vec::with_capacity(a.len() / inner.max(1) * cols);
    for row in a.chunks_exact(inner.max(1)) {
        let mut sums = vec![0.0; cols];
        for (a, b) in row.iter().zip(b.chunks_exact(cols)) {
            let terms = sums.iter_mut().zip(b);
            terms.for_each(|(sum, b)| *sum += a * f64::from(*b));
        }
        out.extend(sums);
    }
    out
}

fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
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
