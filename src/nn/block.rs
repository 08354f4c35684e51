//! Residual bottleneck block of PTv2 and sequences of it.
//!
//! y = ReLU(x + DropPath(BN(ReLU(BN(GVA(ReLU(BN(x W1ᵀ))))) W3ᵀ)))

use super::attention::{AttentionConfig, GroupedVectorAttention};
use super::dense::{BatchNorm, Linear, LinearNorm};
use super::position::Pairs;
use crate::Result;
use crate::graph::{Graph, Scope, Var};

/// One residual block.
#[derive(Debug, Clone)]
pub struct Block {
    attention: GroupedVectorAttention,
    enter: LinearNorm,
    attention_norm: BatchNorm,
    leave: LinearNorm,
    drop_path: f32,
}

impl Block {
    /// Registers `attn`, `fc1`, `fc3`, `norm1`, `norm2`, `norm3` in the official order.
    pub fn new(scope: &mut Scope<'_>, config: AttentionConfig, drop_path: f32) -> Result<Self> {
        let channels = config.channels;
        let attention = GroupedVectorAttention::new(&mut scope.child("attn"), config)?;
        let fc1 = Linear::new(&mut scope.child("fc1"), channels, channels, false);
        let fc3 = Linear::new(&mut scope.child("fc3"), channels, channels, false);
        let norm1 = BatchNorm::new(&mut scope.child("norm1"), channels);
        let attention_norm = BatchNorm::new(&mut scope.child("norm2"), channels);
        let norm3 = BatchNorm::new(&mut scope.child("norm3"), channels);
        Ok(Block {
            attention,
            enter: LinearNorm {
                linear: fc1,
                norm: norm1,
                relu: true,
            },
            attention_norm,
            leave: LinearNorm {
                linear: fc3,
                norm: norm3,
                relu: false,
            },
            drop_path,
        })
    }

    /// Records the block on x [N, C] → [N, C].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, pairs: &Pairs) -> Result<Var> {
        let h = self.enter.record(graph, x)?; // [N, C]
        graph.tap("attn_in", h);
        let h = self
            .attention
            .record(graph, h, pairs, &self.attention_norm)?; // [N, C]
        self.leave.record_residual(graph, h, x, self.drop_path) // [N, C]
    }
}

/// Blocks that share their pairs.
#[derive(Debug, Clone)]
pub struct BlockSequence {
    blocks: Vec<Block>,
}

impl BlockSequence {
    /// Registers `blocks.0`, `blocks.1`, …; one drop path rate per block.
    pub fn new(scope: &mut Scope<'_>, config: AttentionConfig, drop_paths: &[f32]) -> Result<Self> {
        let mut scope = scope.child("blocks");
        let mut scope = scope.child("blocks");
        let mut block = |(i, rate): (usize, &f32)| Block::new(&mut scope.child(i), config, *rate);
        let blocks = drop_paths
            .iter()
            .enumerate()
            .map(&mut block)
            .collect::<Result<_>>()?;
        Ok(BlockSequence { blocks })
    }

    /// Records all blocks on x [N, C] → [N, C].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, pairs: &Pairs) -> Result<Var> {
        self.blocks
            .iter()
            .try_fold(x, |x, block| block.record(graph, x, pairs))
    }
}
