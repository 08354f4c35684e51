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

use super::{Architecture, LevelView, Network, drop_path_ramp};
use crate::device::Array;
use crate::geometry::{
    Choice, Hierarchy, Interpolation, Neighbors, Padding, WindowOptions, Windows, ratio_counts,
    stride_counts, windows::Quantization,
};
use crate::graph::{Graph, Layout, Scope, Var};
use crate::nn::{
    BatchNorm, KernelPointBlock, KernelPointResidual, Linear, LinearNorm, MOMENTUM, TransitionDown,
    Upsample, WindowBlock, WindowBlockConfig,
};
use crate::ops::PositionTables;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// The `type` of configurations without sampled keys.
const SWIN: &str = "Swin3D";

/// Configuration; the keys are the official configuration's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `Stratified` or `Swin3D`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Channels of the input features.
    pub in_channels: usize,
    /// Number of classes.
    pub num_classes: usize,
    /// Whether the first level has a transformer stage; otherwise it has a second kernel point layer.
    pub stem_transformer: bool,
    /// Blocks per level; the first is not used without `stem_transformer`, but counts in the drop path ramp.
    pub depths: Vec<usize>,
    /// Channels per level.
    pub channels: Vec<usize>,
    /// Heads per level.
    pub num_heads: Vec<usize>,
    /// Edge of the voxels that the network is made for, metres: kernel points reach 1.5 σ of it.
    pub grid_size: f64,
    /// Edge of a small window at the first level, in voxels; doubles per level.
    pub window_size: f64,
    /// Edge of a bin of the position tables at the first level, metres; doubles per level.
    pub quant_size: f64,
    /// One point in this many, plus one, is a sampled key; not used by `Swin3D`.
    #[serde(default = "eight")]
    pub downsample_scale: usize,
    /// Whether queries meet a position table. The official code demands it.
    #[serde(default = "yes")]
    pub rel_query: bool,
    /// Whether keys meet a position table. The official code demands it.
    #[serde(default = "yes")]
    pub rel_key: bool,
    /// Whether values meet a position table.
    #[serde(default = "yes")]
    pub rel_value: bool,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Largest rate of the drop path ramp.
    #[serde(default)]
    pub drop_path_rate: f32,
    /// Share of the points that the next level keeps.
    #[serde(default = "quarter")]
    pub ratio: f64,
    /// Neighbours that the way down pools over.
    #[serde(default = "sixteen")]
    pub k: usize,
    /// Distance at which a kernel point's influence ends, in voxels.
    #[serde(default = "one")]
    pub sigma: f64,
    /// Radius of the kernel point layers' neighbourhoods, in voxels.
    #[serde(default = "reach")]
    pub ball_radius: f64,
    /// Most neighbours of the kernel point layers.
    #[serde(default = "most")]
    pub max_num_neighbors: usize,
    /// Which neighbours stay where there are more: `first` in row order, as the official test procedure, or `nearest`.
    #[serde(default)]
    pub ball_choice: Choice,
}

fn yes() -> bool {
    true
}

fn eight() -> usize {
    8
}

fn quarter() -> f64 {
    0.25
}

fn sixteen() -> usize {
    16
}

fn one() -> f64 {
    1.0
}

fn reach() -> f64 {
    2.5
}

fn most() -> usize {
    34
}

impl Config {
    /// Checks that all lists fit each other and every number makes sense.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, fault: String| Err(Error::config(format!("network.{key}"), fault));
        let levels = self.channels.len();
        for (key, length) in [
            ("depths", self.depths.len()),
            ("num_heads", self.num_heads.len()),
        ] {
            if length != levels {
                return fail(key, format!("has {length} entries, channels has {levels}"));
            }
        }
        if levels < 2 {
            return fail("channels", "needs at least two levels".into());
        }
        for (key, count) in [
            ("in_channels", self.in_channels),
            ("num_classes", self.num_classes),
            ("downsample_scale", self.downsample_scale),
        ] {
            if count == 0 {
                return fail(key, "must be at least 1".into());
            }
        }
        let stages = self.channels.iter().zip(&self.num_heads);
        for (channels, heads) in stages.skip(self.first_stage()) {
            if *channels == 0 || *heads == 0 || channels % heads != 0 {
                return fail(
                    "num_heads",
                    format!("{heads} heads do not divide {channels} channels"),
                );
            }
        }
        if !self.stem_transformer && (self.channels[0] == 0 || !self.channels[0].is_multiple_of(4))
        {
            return fail(
                "channels",
                format!(
                    "{} of the first level are not divisible by 4",
                    self.channels[0]
                ),
            );
        }
        for (key, length) in [
            ("grid_size", self.grid_size),
            ("window_size", self.window_size),
            ("quant_size", self.quant_size),
            ("sigma", self.sigma),
            ("ball_radius", self.ball_radius),
        ] {
            if !(length.is_finite() && length > 0.0) {
                return fail(key, format!("{length} is not a positive number"));
            }
        }
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return fail(
                "ratio",
                format!("{} is not above 0 and at most 1", self.ratio),
            );
        }
        for (key, count) in [("k", self.k), ("max_num_neighbors", self.max_num_neighbors)] {
            if !(1..=128).contains(&count) {
                return fail(key, format!("{count} neighbours; 1 to 128 are allowed"));
            }
        }
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            return fail(
                "drop_path_rate",
                format!("{} is not in [0, 1)", self.drop_path_rate),
            );
        }
        if self.bins() == 0 {
            return fail(
                "quant_size",
                format!("{} m is larger than a window", self.quant_size),
            );
        }
        Ok(())
    }

    fn is_swin(&self) -> bool {
        self.kind == SWIN
    }

    /// Edge of a small window at the first level, metres.
    fn window(&self) -> f64 {
        self.grid_size * self.window_size
    }

    /// Rows of every position table: windows and bins double together.
    fn bins(&self) -> usize {
        match self.is_swin() {
            true => Quantization::swin_rows(self.window(), self.quant_size),
            false => Quantization::stratified_rows(self.window(), self.quant_size),
        }
    }

    /// The first level with a transformer stage.
    fn first_stage(&self) -> usize {
        usize::from(!self.stem_transformer)
    }

    fn window_options(&self, level: usize, shifted: bool) -> WindowOptions {
        let doubled = f64::from(1 << level);
        WindowOptions {
            size: (self.window() * doubled) as f32,
            step: (self.quant_size * doubled) as f32,
            shifted,
        }
    }

    fn block(&self, level: usize, drop_path: f32) -> WindowBlockConfig {
        WindowBlockConfig {
            channels: self.channels[level],
            heads: self.num_heads[level],
            bins: self.bins(),
            tables: PositionTables {
                query: self.rel_query,
                key: self.rel_key,
                value: self.rel_value,
            },
            qkv_bias: self.qkv_bias,
            drop_path,
        }
    }
}

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
    head: LinearNorm,
    classify: Linear,
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
        let mut scope = root.child("classifier");
        let head = LinearNorm {
            linear: Linear::normal(&mut scope.child("0"), channels[0], channels[0], true),
            norm: BatchNorm::bare(&mut scope.child("1"), channels[0], MOMENTUM),
            relu: true,
        };
        let classify = Linear::normal(&mut scope.child("3"), channels[0], config.num_classes, true);
        Ok(StratifiedTransformer {
            config,
            stem,
            stages,
            upsamples,
            head,
            classify,
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
            true => Vec::new(),
            false => {
                let counts = stride_counts(points.offsets(level), config.downsample_scale);
                points.farthest(level, &counts)?
            }
        };
        let (coord, offsets) = (points.coord(level), points.offsets(level));
        let windows = |shifted: bool| {
            let options = config.window_options(level, shifted);
            let windows = match config.is_swin() {
                true => Windows::swin(coord, offsets, options)?,
                false => Windows::stratified(coord, offsets, options, &sampled)?,
            };
            Ok(Arc::new(windows))
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

    fn record(&self, graph: &mut Graph<'_>, geometry: &Indices, feat: Var) -> Result<Var> {
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
        x = self.head.record(graph, x)?; // [N0, C0]
        self.classify.record(graph, x) // [N0, classes]
    }
}

#[cfg(test)]
#[path = "stratified_transformer_tests.rs"]
mod tests;
