//! Stratified Transformer for segmentation (Lai et al. 2022, arXiv 2203.14508), as the official code computes it, and its
//! baseline 3D Swin (`swin3d_transformer`), which is the same without sampled keys.
//!
//! ```text
//! feat ─ stem ─ stage 0 ─────────────────────────────── up ─ classifier ─ logits      stem_transformer = true
//!                  └ down ─ stage 1 ─ … ─ stage L-1 ─ up ┘
//! feat ─ stem ─ stem ────────────────────────────────── up ─ classifier ─ logits      stem_transformer = false
//!                  └ down ─ stage 1 ─ … ─ stage L-1 ─ up ┘
//! ```
//!
//! Level i+1 is a farthest point sample of level i; windows double from level to level. Parameter names equal those of
//! official checkpoints without prefix.

mod config;

use super::{Architecture, Input, LevelView, Network, drop_path_ramp};
use crate::device::Array;
use crate::geometry::{
    Hierarchy, Interpolation, Neighbors, Padding, Windows, ratio_counts, stride_counts,
};
use crate::graph::{Graph, Layout, Scope, Var};
use crate::nn::{
    BatchNorm, FurtherHeads, Head, KernelPointBlock, KernelPointResidual, Linear, LinearNorm,
    MOMENTUM, TransitionDown, Upsample, WindowBlock,
};
use crate::{Error, Result};
pub use config::Config;
use serde_json::Value;
use std::sync::Arc;

/// The kernel point layers at full resolution.
#[derive(Debug)]
struct Stem {
    simple: KernelPointBlock,
    /// With the way down to the first stage; without a transformer at full resolution.
    residual: Option<(KernelPointResidual, TransitionDown)>,
}

/// Blocks of one level, and the way down from it.
#[derive(Debug)]
struct Stage {
    blocks: Vec<WindowBlock>,
    down: Option<TransitionDown>,
}

/// The network.
#[derive(Debug)]
pub struct StratifiedTransformer {
    config: Config,
    stem: Stem,
    stages: Vec<Stage>,
    /// From the coarsest to the finest level.
    upsamples: Vec<Upsample>,
    head: Head,
    further: FurtherHeads,
}

/// Index lists of one batch.
#[derive(Debug)]
pub struct Indices {
    levels: Vec<LevelView>,
    ball: Arc<Neighbors>,
    /// Per stage, unshifted and, if there is a block for it, shifted.
    windows: Vec<Vec<Arc<Windows>>>,
    /// Per level but the last: neighbours of the next level's points.
    down: Vec<Arc<Neighbors>>,
    /// Per level but the last: stencil from the next level.
    up: Vec<Arc<Interpolation>>,
}

impl StratifiedTransformer {
    /// Checks the configuration and registers all parameters in the official order.
    pub fn new(config: Config, layout: &mut Layout) -> Result<Self> {
        config.validate()?;
        let mut root = Scope::root(layout);
        let channels = config.channels.clone();
        let last = channels.len() - 1;
        let stem = Self::stem(&config, &mut root);
        let stages = Self::stages(&config, &mut root)?;
        let mut scope = root.child("upsamples");
        let up = |j: usize| {
            Upsample::new(
                &mut scope.child(j),
                channels[last - j],
                channels[last - j - 1],
            )
        };
        let upsamples = (0..last).map(up).collect();
        let head = |scope: &mut Scope<'_>, classes| Head {
            hidden: LinearNorm {
                linear: Linear::normal(&mut scope.child("0"), channels[0], channels[0], true),
                norm: BatchNorm::bare(&mut scope.child("1"), channels[0], MOMENTUM),
                relu: true,
            },
            classify: Linear::normal(&mut scope.child("3"), channels[0], classes, true),
        };
        Ok(StratifiedTransformer {
            head: head(&mut root.child("classifier"), config.num_classes),
            further: FurtherHeads::new(&mut root, &config.heads, head)?,
            config,
            stem,
            stages,
            upsamples,
        })
    }

    /// Parses the configuration and builds the network; the constructor in [`super::NETWORKS`].
    pub fn boxed(config: &Value, layout: &mut Layout) -> Result<Box<dyn Network>> {
        let config: Config = serde_json::from_value(config.clone())
            .map_err(|e| Error::config("network", e.to_string()))?;
        Ok(Box::new(Self::new(config, layout)?))
    }

    fn stem(config: &Config, root: &mut Scope<'_>) -> Stem {
        let influence = (config.grid_size * config.sigma) as f32;
        let (inputs, channels) = (config.in_channels, &config.channels);
        let mut scope = root.child("stem_layer");
        let simple = KernelPointBlock::new(&mut scope.child("0"), inputs, channels[0], influence);
        if config.stem_transformer {
            let residual = None;
            return Stem { simple, residual };
        }
        let mut scope = scope.child("1");
        let residual = KernelPointResidual::new(&mut scope, channels[0], channels[0], influence);
        let mut scope = root.child("downsample");
        let down = TransitionDown::new(&mut scope, channels[0], channels[1]);
        Stem {
            simple,
            residual: Some((residual, down)),
        }
    }

    fn stages(config: &Config, root: &mut Scope<'_>) -> Result<Vec<Stage>> {
        let rates = drop_path_ramp(config.drop_path_rate, &config.depths);
        let mut scope = root.child("layers");
        let first = config.first_stage();
        let stage = |level: usize| {
            let mut scope = scope.child(level - first);
            let mut inner = scope.child("blocks");
            let mut blocks = Vec::new();
            for (b, rate) in rates[level].iter().enumerate() {
                let block = config.block(level, *rate);
                blocks.push(WindowBlock::new(&mut inner.child(b), block)?);
            }
            let next = config.channels.get(level + 1);
            let down = next.map(|next| {
                TransitionDown::new(
                    &mut scope.child("downsample"),
                    config.channels[level],
                    *next,
                )
            });
            Ok(Stage { blocks, down })
        };
        (first..config.channels.len()).map(stage).collect()
    }

    /// The windows of a level's blocks.
    fn windows(&self, points: &mut Hierarchy, level: usize) -> Result<Vec<Arc<Windows>>> {
        let config = &self.config;
        let kinds = config.depths[level].min(2);
        let sampled = match config.is_swin() {
            true => None,
            false => {
                let counts = stride_counts(points.offsets(level), config.downsample_scale);
                Some(points.farthest(level, &counts)?)
            }
        };
        let windows = |shifted: bool| {
            let options = config.window_options(level, shifted);
            points.windows(level, options, sampled.as_ref())
        };
        [false, true].into_iter().take(kinds).map(windows).collect()
    }
}

impl Architecture for StratifiedTransformer {
    type Geometry = Indices;

    fn input_channels(&self) -> usize {
        self.config.in_channels
    }

    fn classes(&self) -> usize {
        self.config.num_classes
    }

    fn geometry(&self, points: &mut Hierarchy) -> Result<Indices> {
        let config = &self.config;
        let last = config.channels.len() - 1;
        let radius = (config.ball_radius * config.grid_size) as f32;
        let ball = points.ball(0, radius, config.max_num_neighbors, config.ball_choice)?;
        let (mut down, mut up, mut windows) = (Vec::new(), Vec::new(), Vec::new());
        for level in 0..=last {
            if level < last {
                let counts = ratio_counts(points.offsets(level), config.ratio);
                let coarse = points.thin(level, &counts)?; // level → level + 1
                down.push(points.neighbors_between(coarse, level, config.k)?);
                up.push(points.interpolation_padded(level, coarse, Padding::FirstOfElement)?);
            }
            if level >= config.first_stage() {
                windows.push(self.windows(points, level)?);
            }
        }
        let view = |level: usize| LevelView {
            coord: points.coord(level).clone(),
            offsets: points.offsets(level).to_vec(),
            cluster: Array::default(),
        };
        Ok(Indices {
            levels: (0..=last).map(view).collect(),
            ball,
            windows,
            down,
            up,
        })
    }

    fn levels(&self, geometry: &Indices) -> Vec<LevelView> {
        geometry.levels.clone()
    }

    fn record(&self, graph: &mut Graph<'_>, geometry: &Indices, input: Input) -> Result<Var> {
        // Its attention looks positions up in tables.
        let feat = input.features()?;
        let mut x = self.stem.simple.record(graph, feat, &geometry.ball)?; // [N0, C0]
        graph.tap("stem_layer.0.feats", x);
        let mut skips = Vec::new();
        if let Some((residual, down)) = &self.stem.residual {
            x = residual.record(graph, x, &geometry.ball)?; // [N0, C0]
            graph.tap("stem_layer.1.feats", x);
            skips.push(x);
            x = down.record(graph, x, &geometry.down[0])?; // [N1, C1]
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let level = self.config.first_stage() + i;
            for (b, block) in stage.blocks.iter().enumerate() {
                x = block.record(graph, x, &geometry.windows[i][b % 2])?; // [Ni, Ci]
            }
            graph.tap(&format!("layers.{i}.feats"), x);
            if let Some(down) = &stage.down {
                skips.push(x);
                x = down.record(graph, x, &geometry.down[level])?; // [N(i+1), C(i+1)]
                graph.tap(&format!("layers.{i}.downsample.feats"), x);
            }
        }
        for (j, upsample) in self.upsamples.iter().enumerate() {
            let level = skips.len() - 1 - j;
            x = upsample.record(graph, x, skips[level], &geometry.up[level])?; // [Ni, Ci]
            graph.tap(&format!("upsamples.{j}.feats"), x);
        }
        self.further.record(graph, x)?;
        self.head.record(graph, x) // [N0, classes]
    }
}

#[cfg(test)]
mod tests;
