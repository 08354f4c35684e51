//! Transformer block of Stratified Transformer: attention within windows with contextual relative positions, then a
//! two-layer perceptron, both behind a layer norm and beside a residual (Lai et al. 2022, sections 3.2 and 3.3).
//!
//! x ← x + DropPath(proj(attention(LN(x))));  x ← x + DropPath(W2 GELU(W1 LN(x) + b1) + b2)

use super::dense::{EPSILON, Linear};
use crate::geometry::Windows;
use crate::graph::{Graph, Init, Mode, ParamId, Scope, Var};
use crate::ops::{self, PositionTables};
use crate::{Error, Result};
use std::sync::Arc;

/// Deviation of the position tables at the start.
const TABLE: f32 = 0.02;
/// Width of the perceptron's hidden layer over the block's.
const EXPANSION: usize = 4;

/// Layer norm over channels, with its scale and shift.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: ParamId,
    bias: ParamId,
}

impl LayerNorm {
    /// Registers `weight` and `bias`.
    pub fn new(scope: &mut Scope<'_>, channels: usize) -> Self {
        LayerNorm {
            weight: scope.weight("weight", &[channels], Init::Constant(1.0)),
            bias: scope.weight("bias", &[channels], Init::Constant(0.0)),
        }
    }

    /// Records the norm on x [N, C] → [N, C].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var) -> Result<Var> {
        let inputs = [x, graph.param(self.weight), graph.param(self.bias)];
        graph.push(ops::LayerNorm { epsilon: EPSILON }, &inputs)
    }
}

/// Options of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowBlockConfig {
    /// Channels C.
    pub channels: usize,
    /// Heads H, a divisor of C.
    pub heads: usize,
    /// Rows of each position table.
    pub bins: usize,
    /// Whether queries, keys and values meet a position table.
    pub tables: PositionTables,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Probability that a row of a branch is dropped in training.
    pub drop_path: f32,
}

/// One block.
#[derive(Debug, Clone)]
pub struct WindowBlock {
    config: WindowBlockConfig,
    norm1: LayerNorm,
    tables: [Option<ParamId>; 3],
    qkv: Linear,
    projection: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl WindowBlock {
    /// Registers `norm1`, `attn`, `norm2` and `mlp` in the official order. Errors when the heads do not divide the
    /// channels.
    pub fn new(scope: &mut Scope<'_>, config: WindowBlockConfig) -> Result<Self> {
        let WindowBlockConfig {
            channels,
            heads,
            bins,
            ..
        } = config;
        if heads == 0 || channels % heads != 0 {
            let fault = format!("{heads} heads do not divide {channels} channels");
            return Err(Error::config("network.num_heads", fault));
        }
        let norm1 = LayerNorm::new(&mut scope.child("norm1"), channels);
        let mut attention = scope.child("attn");
        let dims = [bins, heads, channels / heads, 3];
        let PositionTables { query, key, value } = config.tables;
        let tables = [("query", query), ("key", key), ("value", value)].map(|(name, is_there)| {
            let name = format!("relative_pos_{name}_table");
            is_there.then(|| attention.weight(&name, &dims, Init::Normal(TABLE)))
        });
        let qkv = Linear::normal(
            &mut attention.child("qkv"),
            channels,
            3 * channels,
            config.qkv_bias,
        );
        let projection = Linear::normal(&mut attention.child("proj"), channels, channels, true);
        let norm2 = LayerNorm::new(&mut scope.child("norm2"), channels);
        let mut mlp = scope.child("mlp");
        let hidden = EXPANSION * channels;
        Ok(WindowBlock {
            config,
            norm1,
            tables,
            qkv,
            projection,
            norm2,
            fc1: Linear::normal(&mut mlp.child("fc1"), channels, hidden, true),
            fc2: Linear::normal(&mut mlp.child("fc2"), hidden, channels, true),
        })
    }

    /// Records the block on x [N, C] → [N, C].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, windows: &Arc<Windows>) -> Result<Var> {
        let h = self.norm1.record(graph, x)?; // [N, C]
        let h = self.record_attention(graph, h, windows)?; // [N, C]
        graph.tap("attention", h);
        let x = self.record_residual(graph, x, h)?; // [N, C]
        let h = self.norm2.record(graph, x)?; // [N, C]
        let h = self.record_perceptron(graph, h)?; // [N, C]
        self.record_residual(graph, x, h) // [N, C]
    }

    fn record_attention(
        &self,
        graph: &mut Graph<'_>,
        x: Var,
        windows: &Arc<Windows>,
    ) -> Result<Var> {
        let qkv = self.qkv.record(graph, x)?; // [N, 3C]
        let mut inputs = vec![qkv];
        inputs.extend(self.tables.into_iter().flatten().map(|t| graph.param(t)));
        let op = ops::WindowAttention::new(windows.clone(), self.config.heads, self.config.tables);
        let y = graph.push(op, &inputs)?; // [N, C]
        self.projection.record(graph, y) // [N, C]
    }

    fn record_perceptron(&self, graph: &mut Graph<'_>, x: Var) -> Result<Var> {
        let mut inputs = vec![x];
        for layer in [&self.fc1, &self.fc2] {
            inputs.push(graph.param(layer.weight));
            inputs.extend(layer.bias.map(|b| graph.param(b)));
        }
        graph.push(ops::Perceptron, &inputs) // [N, C], through [N, 4C]
    }

    /// Records x + DropPath(branch); rows are dropped in training only.
    fn record_residual(&self, graph: &mut Graph<'_>, x: Var, branch: Var) -> Result<Var> {
        let rate = self.config.drop_path;
        let branch = match graph.mode() {
            Mode::Training if rate > 0.0 => graph.push(ops::DropPath { rate }, &[branch])?,
            _ => branch,
        };
        graph.push(ops::Add, &[x, branch])
    }
}
