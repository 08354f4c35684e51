//! Configuration of the Stratified Transformer.

use super::super::{check_depths, check_widths};
use crate::geometry::{Choice, WindowOptions, windows::Quantization};
use crate::nn::WindowBlockConfig;
use crate::ops::PositionTables;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The `type` of configurations without sampled keys.
const SWIN: &str = "Swin3D";

/// Most rows of a position table.
const MOST_BINS: usize = 1 << 16;

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
    /// Heads beside `classifier` on the same features, each with its number of classes; see
    /// [`FurtherHeads`](crate::nn::FurtherHeads).
    #[serde(default)]
    pub heads: BTreeMap<String, usize>,
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
        check_depths("depths", &self.depths)?;
        let further: Vec<usize> = self.heads.values().copied().collect();
        for (key, widths) in [
            ("in_channels", &[self.in_channels][..]),
            ("num_classes", &[self.num_classes]),
            ("channels", &self.channels),
            ("heads", &further),
        ] {
            check_widths(key, widths)?;
        }
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
        if self.bins() > MOST_BINS {
            return fail(
                "quant_size",
                format!("{} m cuts a window into too many bins", self.quant_size),
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

    pub(super) fn is_swin(&self) -> bool {
        self.kind == SWIN
    }

    /// Edge of a small window at the first level, metres.
    pub(super) fn window(&self) -> f64 {
        self.grid_size * self.window_size
    }

    /// Rows of every position table: windows and bins double together.
    pub(super) fn bins(&self) -> usize {
        match self.is_swin() {
            true => Quantization::swin_rows(self.window(), self.quant_size),
            false => Quantization::stratified_rows(self.window(), self.quant_size),
        }
    }

    /// The first level with a transformer stage.
    pub(super) fn first_stage(&self) -> usize {
        usize::from(!self.stem_transformer)
    }

    pub(super) fn window_options(&self, level: usize, shifted: bool) -> WindowOptions {
        let doubled = f64::from(1 << level);
        WindowOptions {
            size: (self.window() * doubled) as f32,
            step: (self.quant_size * doubled) as f32,
            shifted,
        }
    }

    pub(super) fn block(&self, level: usize, drop_path: f32) -> WindowBlockConfig {
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
