//! Configuration of Point Transformer V2.

use super::super::{check_depths, check_widths};
use crate::nn::{AttentionConfig, WeightEncoding};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How decoders bring coarse features to fine points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpooling {
    /// Every point takes the feature of its grid cell.
    Map,
    /// Inverse-distance mean of the three nearest coarse points.
    Interp,
}

/// Configuration; the keys are the official constructor's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `PT-v2m2` or `PT-v2m1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Channels of the input features.
    pub in_channels: usize,
    /// Number of classes.
    pub num_classes: usize,
    /// Blocks at full resolution before the first pool.
    pub patch_embed_depth: usize,
    /// Channels at full resolution.
    pub patch_embed_channels: usize,
    /// Attention groups at full resolution.
    pub patch_embed_groups: usize,
    /// Neighbours at full resolution.
    pub patch_embed_neighbours: usize,
    /// Blocks per encoder stage.
    pub enc_depths: Vec<usize>,
    /// Channels per encoder stage.
    pub enc_channels: Vec<usize>,
    /// Attention groups per encoder stage.
    pub enc_groups: Vec<usize>,
    /// Neighbours per encoder stage.
    pub enc_neighbours: Vec<usize>,
    /// Blocks per decoder stage; stage 0 is the finest.
    pub dec_depths: Vec<usize>,
    /// Channels per decoder stage.
    pub dec_channels: Vec<usize>,
    /// Attention groups per decoder stage.
    pub dec_groups: Vec<usize>,
    /// Neighbours per decoder stage.
    pub dec_neighbours: Vec<usize>,
    /// Cell size of the pool of each encoder stage, metres, absolute.
    pub grid_sizes: Vec<f32>,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub attn_qkv_bias: bool,
    /// Whether relative positions multiply the relation.
    #[serde(default)]
    pub pe_multiplier: bool,
    /// Whether relative positions are added to relation and values.
    #[serde(default = "yes")]
    pub pe_bias: bool,
    /// Dropout rate of attention weights.
    #[serde(default)]
    pub attn_drop_rate: f32,
    /// Largest rate of the drop path ramps.
    #[serde(default)]
    pub drop_path_rate: f32,
    /// Recomputes activations in the official code; has no effect here, where little is stored anyway.
    #[serde(default)]
    pub enable_checkpoint: bool,
    /// How decoders upsample.
    #[serde(default = "map")]
    pub unpool_backend: Unpooling,
    /// Heads beside `seg_head` on the same features, each with its number of classes; see [`FurtherHeads`](crate::nn::FurtherHeads).
    #[serde(default)]
    pub heads: BTreeMap<String, usize>,
}

fn yes() -> bool {
    true
}

fn map() -> Unpooling {
    Unpooling::Map
}

impl Config {
    /// Checks that all lists fit each other and every number makes sense.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, fault: String| Err(Error::config(format!("network.{key}"), fault));
        let stages = self.enc_depths.len();
        check_depths("patch_embed_depth", &[self.patch_embed_depth])?;
        check_depths("enc_depths", &self.enc_depths)?;
        check_depths("dec_depths", &self.dec_depths)?;
        let further: Vec<usize> = self.heads.values().copied().collect();
        for (key, widths) in [
            ("in_channels", &[self.in_channels][..]),
            ("num_classes", &[self.num_classes]),
            ("patch_embed_channels", &[self.patch_embed_channels]),
            ("enc_channels", &self.enc_channels),
            ("dec_channels", &self.dec_channels),
            ("heads", &further),
        ] {
            check_widths(key, widths)?;
        }
        for (key, length) in [
            ("enc_channels", self.enc_channels.len()),
            ("enc_groups", self.enc_groups.len()),
            ("enc_neighbours", self.enc_neighbours.len()),
            ("dec_depths", self.dec_depths.len()),
            ("dec_channels", self.dec_channels.len()),
            ("dec_groups", self.dec_groups.len()),
            ("dec_neighbours", self.dec_neighbours.len()),
            ("grid_sizes", self.grid_sizes.len()),
        ] {
            if length != stages {
                return fail(
                    key,
                    format!("has {length} entries, enc_depths has {stages}"),
                );
            }
        }
        if stages == 0 {
            return fail("enc_depths", "needs at least one stage".into());
        }
        if self.in_channels == 0 || self.num_classes == 0 {
            return fail(
                "in_channels",
                "in_channels and num_classes must be at least 1".into(),
            );
        }
        for ([groups_key, neighbours_key], groups, channels, neighbours) in self.attention_sizes() {
            if channels == 0 || groups == 0 || channels % groups != 0 {
                return fail(
                    groups_key,
                    format!("{groups} groups do not divide {channels} channels"),
                );
            }
            if !(1..=128).contains(&neighbours) {
                return fail(
                    neighbours_key,
                    format!("{neighbours} neighbours; 1 to 128 are allowed"),
                );
            }
        }
        if let Some(size) = self
            .grid_sizes
            .iter()
            .find(|s| !(s.is_finite() && **s > 0.0))
        {
            return fail(
                "grid_sizes",
                format!("{size} is not a positive length in metres"),
            );
        }
        for (key, rate) in [
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return fail(key, format!("{rate} is not in [0, 1)"));
            }
        }
        Ok(())
    }

    fn attention_sizes(&self) -> Vec<([&'static str; 2], usize, usize, usize)> {
        let mut sizes = vec![(
            ["patch_embed_groups", "patch_embed_neighbours"],
            self.patch_embed_groups,
            self.patch_embed_channels,
            self.patch_embed_neighbours,
        )];
        for i in 0..self.enc_depths.len() {
            sizes.push((
                ["enc_groups", "enc_neighbours"],
                self.enc_groups[i],
                self.enc_channels[i],
                self.enc_neighbours[i],
            ));
            sizes.push((
                ["dec_groups", "dec_neighbours"],
                self.dec_groups[i],
                self.dec_channels[i],
                self.dec_neighbours[i],
            ));
        }
        sizes
    }

    pub(super) fn attention(&self, channels: usize, groups: usize) -> AttentionConfig {
        AttentionConfig {
            channels,
            groups,
            qkv_bias: self.attn_qkv_bias,
            pe_multiplier: self.pe_multiplier,
            pe_bias: self.pe_bias,
            encoding: if self.kind == "PT-v2m1" {
                WeightEncoding::Grouped
            } else {
                WeightEncoding::Full
            },
            dropout: self.attn_drop_rate,
        }
    }
}
