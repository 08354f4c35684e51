//! Point Transformer V2 for segmentation (Wu et al. 2022, arXiv 2210.05666), as the official code computes it.
//!
//! ```text
//! feat ─ patch embed ──────────────────────────────────────────── decoder 0 ─ head ─ logits
//!            └ pool ─ encoder 0 ───────────────────── decoder 1 ────┘
//!                        └ pool ─ encoder 1 ─ … ─ unpool ┘
//! ```
//!
//! Mode 2 (`PT-v2m2`) and mode 1 (`PT-v2m1`) differ in the first layer of the weight encoding only. Parameter names
//! equal those of official checkpoints without prefix.

mod config;

use super::{Architecture, Input, LevelView, Network, drop_path_ramp};
use crate::device::Array;
use crate::geometry::{Hierarchy, Neighbors, Partition};
use crate::graph::{Graph, Layout, Mode, Scope, Var};
use crate::nn::{
    BatchNorm, BlockSequence, FurtherHeads, GridPool, Head, Linear, LinearNorm, Pairs, Unpool,
    Upsampling,
};
use crate::ops;
use crate::{Error, Result};
pub use config::{Config, Unpooling};
use serde_json::Value;
use std::sync::Arc;

#[derive(Debug)]
struct Encoder {
    down: GridPool,
    blocks: BlockSequence,
}

#[derive(Debug)]
struct Decoder {
    up: Unpool,
    blocks: BlockSequence,
}

/// The network.
#[derive(Debug)]
pub struct PointTransformerV2 {
    config: Config,
    embed: LinearNorm,
    embed_blocks: BlockSequence,
    encoders: Vec<Encoder>,
    decoders: Vec<Decoder>,
    head: Head,
    further: FurtherHeads,
}

/// Index lists of one batch.
#[derive(Debug)]
pub struct Indices {
    levels: Vec<LevelView>,
    /// Neighbours at full resolution, for the patch embedding.
    embed: Arc<Neighbors>,
    /// Per encoder stage.
    pools: Vec<Arc<Partition>>,
    encoders: Vec<Arc<Neighbors>>,
    /// Per decoder stage.
    upsampling: Vec<Upsampling>,
    decoders: Vec<Arc<Neighbors>>,
}

impl PointTransformerV2 {
    /// Checks the configuration and registers all parameters in the official order.
    pub fn new(config: Config, layout: &mut Layout) -> Result<Self> {
        config.validate()?;
        let mut root = Scope::root(layout);
        let c0 = config.patch_embed_channels;
        let mut scope = root.child("patch_embed");
        let embed = {
            let mut scope = scope.child("proj");
            LinearNorm {
                linear: Linear::new(&mut scope.child("0"), config.in_channels, c0, false),
                norm: BatchNorm::new(&mut scope.child("1"), c0),
                relu: true,
            }
        };
        let attention = config.attention(c0, config.patch_embed_groups);
        let no_drop = vec![0.0; config.patch_embed_depth];
        let embed_blocks = BlockSequence::new(&mut scope, attention, &no_drop)?;
        let encoders = Self::encoders(&config, &mut root)?;
        let decoders = Self::decoders(&config, &mut root)?;
        let d0 = config.dec_channels[0];
        let head = |scope: &mut Scope<'_>, classes| Head {
            hidden: LinearNorm {
                linear: Linear::new(&mut scope.child("0"), d0, d0, true),
                norm: BatchNorm::new(&mut scope.child("1"), d0),
                relu: true,
            },
            classify: Linear::new(&mut scope.child("3"), d0, classes, true),
        };
        Ok(PointTransformerV2 {
            head: head(&mut root.child("seg_head"), config.num_classes),
            further: FurtherHeads::new(&mut root, &config.heads, head)?,
            config,
            embed,
            embed_blocks,
            encoders,
            decoders,
        })
    }

    /// Parses the configuration and builds the network; the constructor in [`super::NETWORKS`].
    pub fn boxed(config: &Value, layout: &mut Layout) -> Result<Box<dyn Network>> {
        let config: Config = serde_json::from_value(config.clone())
            .map_err(|e| Error::config("network", e.to_string()))?;
        Ok(Box::new(Self::new(config, layout)?))
    }

    fn encoders(config: &Config, root: &mut Scope<'_>) -> Result<Vec<Encoder>> {
        let rates = drop_path_ramp(config.drop_path_rate, &config.enc_depths);
        let mut scope = root.child("enc_stages");
        let mut inputs = config.patch_embed_channels;
        let mut encoders = Vec::new();
        for (i, &channels) in config.enc_channels.iter().enumerate() {
            let mut scope = scope.child(i);
            let attention = config.attention(channels, config.enc_groups[i]);
            encoders.push(Encoder {
                down: GridPool::new(&mut scope.child("down"), inputs, channels),
                blocks: BlockSequence::new(&mut scope, attention, &rates[i])?,
            });
            inputs = channels;
        }
        Ok(encoders)
    }

    /// The coordinates of all levels, if those of the first are given and there is a backward: a coarse point is the mean
    /// of its cell.
    fn record_coordinates(
        graph: &mut Graph<'_>,
        geometry: &Indices,
        coord: Option<Var>,
    ) -> Result<Vec<Option<Var>>> {
        let mut all = vec![coord.filter(|_| graph.mode() != Mode::Inference)];
        for cells in &geometry.pools {
            let mean = |x| graph.push(ops::SegmentMean::new(cells.members.clone()), &[x]);
            let coarse = all[all.len() - 1].map(mean).transpose()?; // [N(i+1), 3]
            all.push(coarse);
        }
        Ok(all)
    }

    fn decoders(config: &Config, root: &mut Scope<'_>) -> Result<Vec<Decoder>> {
        let rates = drop_path_ramp(config.drop_path_rate, &config.dec_depths);
        let stages = config.dec_channels.len();
        let mut scope = root.child("dec_stages");
        let mut decoders = Vec::new();
        for (i, &channels) in config.dec_channels.iter().enumerate() {
            let inputs = match i + 1 < stages {
                true => config.dec_channels[i + 1],
                false => config.enc_channels[i],
            };
            let skip = match i {
                0 => config.patch_embed_channels,
                _ => config.enc_channels[i - 1],
            };
            let mut scope = scope.child(i);
            let attention = config.attention(channels, config.dec_groups[i]);
            decoders.push(Decoder {
                up: Unpool::new(&mut scope.child("up"), inputs, skip, channels),
                blocks: BlockSequence::new(&mut scope, attention, &rates[i])?,
            });
        }
        Ok(decoders)
    }
}

impl Architecture for PointTransformerV2 {
    type Geometry = Indices;

    fn input_channels(&self) -> usize {
        self.config.in_channels
    }

    fn classes(&self) -> usize {
        self.config.num_classes
    }

    fn geometry(&self, points: &mut Hierarchy) -> Result<Indices> {
        let config = &self.config;
        let stages = config.enc_depths.len();
        let mut pools = Vec::with_capacity(stages);
        for (i, &size) in config.grid_sizes.iter().enumerate() {
            let (_, cells) = points.pool(i, size)?; // level i → level i + 1
            pools.push(cells);
        }
        let mut encoders = Vec::with_capacity(stages);
        let mut decoders = Vec::with_capacity(stages);
        let mut upsampling = Vec::with_capacity(stages);
        for i in 0..stages {
            encoders.push(points.neighbors(i + 1, config.enc_neighbours[i])?);
            decoders.push(points.neighbors(i, config.dec_neighbours[i])?);
            upsampling.push(match config.unpool_backend {
                Unpooling::Map => Upsampling::Map {
                    cluster: pools[i].cluster.clone(),
                    members: pools[i].members.clone(),
                },
                Unpooling::Interp => Upsampling::Interpolate(points.interpolation(i, i + 1)?),
            });
        }
        let view = |i: usize| LevelView {
            coord: points.coord(i).clone(),
            offsets: points.offsets(i).to_vec(),
            cluster: match i {
                0 => Array::default(),
                _ => pools[i - 1].cluster.clone(),
            },
        };
        Ok(Indices {
            levels: (0..=stages).map(view).collect(),
            embed: points.neighbors(0, config.patch_embed_neighbours)?,
            pools,
            encoders,
            upsampling,
            decoders,
        })
    }

    fn levels(&self, geometry: &Indices) -> Vec<LevelView> {
        geometry.levels.clone()
    }

    fn record(&self, graph: &mut Graph<'_>, geometry: &Indices, input: Input) -> Result<Var> {
        let coord = Self::record_coordinates(graph, geometry, input.coord)?;
        let mut x = self.embed.record(graph, input.feat)?; // [N0, C0]
        let pairs = Pairs::new(graph, &geometry.embed, coord[0])?;
        x = self.embed_blocks.record(graph, x, &pairs)?; // [N0, C0]
        graph.tap("patch_embed.feat", x);
        let mut skips = vec![x];
        for (i, stage) in self.encoders.iter().enumerate() {
            x = stage.down.record(graph, x, &geometry.pools[i])?; // [N(i+1), E(i+1)]
            let pairs = Pairs::new(graph, &geometry.encoders[i], coord[i + 1])?;
            x = stage.blocks.record(graph, x, &pairs)?; // [N(i+1), E(i+1)]
            graph.tap(&format!("enc{i}.feat"), x);
            skips.push(x);
        }
        for (i, stage) in self.decoders.iter().enumerate().rev() {
            x = stage
                .up
                .record(graph, x, skips[i], &geometry.upsampling[i])?; // [Ni, Di]
            let pairs = Pairs::new(graph, &geometry.decoders[i], coord[i])?;
            x = stage.blocks.record(graph, x, &pairs)?; // [Ni, Di]
            graph.tap(&format!("dec{i}.feat"), x);
        }
        self.further.record(graph, x)?;
        self.head.record(graph, x) // [N0, classes]
    }
}
