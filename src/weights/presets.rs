//! The published configurations: what the tensors of an official checkpoint do not tell.
//!
//! Values of the reference configurations (Pointcept, and the older PointTransformerV2 repository where it differs; the
//! Stratified Transformer repository).

use serde_json::{Map, Value, json};

use super::architecture::Family;
use super::metadata::{ClassInfo, InputSpec};
use crate::cloud::features::Feature;
use crate::cloud::frame::Frame;

/// Which training code a checkpoint comes from: they feed the network differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conventions {
    /// Pointcept: colours 0 to 1, ignore label −1, S3DIS at 0.04 m.
    Pointcept,
    /// The original PointTransformerV2 repository: colours −1 to 1, normals before colours, ignore label 255, S3DIS at
    /// 0.05 m (the released weights; its configuration file says 0.04).
    Original,
    /// The Stratified Transformer repository: colours before coordinates, 0 to 1 for S3DIS and −1 to 1 for ScanNet,
    /// coordinates from the corner, ignore label 255.
    Stratified,
}

impl Conventions {
    /// All of them.
    pub const ALL: [Conventions; 3] = [
        Conventions::Pointcept,
        Conventions::Original,
        Conventions::Stratified,
    ];

    /// The networks that the training code is for.
    pub fn family(self) -> Family {
        match self {
            Conventions::Pointcept | Conventions::Original => Family::PointTransformerV2,
            Conventions::Stratified => Family::Stratified,
        }
    }

    /// Name on the command line and in model files.
    pub fn name(self) -> &'static str {
        match self {
            Conventions::Pointcept => "pointcept",
            Conventions::Original => "original",
            Conventions::Stratified => "stratified",
        }
    }

    /// The conventions called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Conventions::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Label of points that count for nothing in training.
    pub fn ignore_label(self) -> i64 {
        match self {
            Conventions::Pointcept => -1,
            Conventions::Original | Conventions::Stratified => 255,
        }
    }

    fn color(self, preset: Preset) -> Feature {
        let mut color = Feature::new("color");
        let signed = match self {
            Conventions::Pointcept => false,
            Conventions::Original => true,
            Conventions::Stratified => preset == Preset::Scannet,
        };
        if signed {
            (color.divisor, color.offset) = (127.5, -1.0);
        }
        color
    }
}

/// A published configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// S3DIS: 13 classes, coordinates and colours.
    S3dis,
    /// ScanNet v2: 20 classes, coordinates, colours and normals.
    Scannet,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 2] = [Preset::S3dis, Preset::Scannet];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::S3dis => "s3dis",
            Preset::Scannet => "scannet",
        }
    }

    /// The preset called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Preset::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The preset with the depths, inputs and classes of `config`, if there is one. Channels may differ: the paper's
    /// ScanNet network is narrower than the released one.
    pub fn matching(family: Family, config: &Map<String, Value>) -> Option<Self> {
        Preset::ALL.into_iter().find(|p| {
            p.shape(family)
                .iter()
                .all(|(key, value)| config.get(key) == Some(value))
        })
    }

    /// What marks networks of this configuration.
    fn shape(self, family: Family) -> Map<String, Value> {
        object(match (family, self) {
            (Family::PointTransformerV2, Preset::S3dis) => json!({
                "in_channels": 6, "num_classes": 13, "patch_embed_depth": 2,
                "enc_depths": [2, 6, 2], "dec_depths": [1, 1, 1],
            }),
            (Family::PointTransformerV2, Preset::Scannet) => json!({
                "in_channels": 9, "num_classes": 20, "patch_embed_depth": 1,
                "enc_depths": [2, 2, 6, 2], "dec_depths": [1, 1, 1, 1],
            }),
            (Family::Stratified, Preset::S3dis) => json!({
                "in_channels": 6, "num_classes": 13, "stem_transformer": true, "depths": [2, 2, 6, 2],
            }),
            (Family::Stratified, Preset::Scannet) => json!({
                "in_channels": 6, "num_classes": 20, "stem_transformer": false, "depths": [3, 3, 9, 3, 3],
            }),
        })
    }

    /// The constructor arguments that cannot be seen in the tensors.
    pub fn untold(self, family: Family) -> Map<String, Value> {
        object(match (family, self) {
            (Family::PointTransformerV2, Preset::S3dis) => json!({
                "patch_embed_neighbours": 16,
                "enc_neighbours": [16, 16, 16],
                "dec_neighbours": [16, 16, 16],
                "grid_sizes": [0.1, 0.2, 0.4],
                "attn_drop_rate": 0.0,
                "drop_path_rate": 0.3,
                "enable_checkpoint": false,
                "unpool_backend": "interp",
            }),
            (Family::PointTransformerV2, Preset::Scannet) => json!({
                "patch_embed_neighbours": 8,
                "enc_neighbours": [16, 16, 16, 16],
                "dec_neighbours": [16, 16, 16, 16],
                "grid_sizes": [0.06, 0.15, 0.375, 0.9375],
                "attn_drop_rate": 0.0,
                "drop_path_rate": 0.3,
                "enable_checkpoint": false,
                "unpool_backend": "map",
            }),
            (Family::Stratified, Preset::S3dis) => json!({
                "grid_size": 0.04,
                "window_size": 4.0,
                "quant_size": 0.01,
                "downsample_scale": 8,
                "drop_path_rate": 0.3,
            }),
            (Family::Stratified, Preset::Scannet) => json!({
                "grid_size": 0.02,
                "window_size": 5.0,
                "quant_size": 0.005,
                "downsample_scale": 4,
                "drop_path_rate": 0.3,
            }),
        })
    }

    /// The classes in the order of the logits.
    pub fn classes(self) -> Vec<ClassInfo> {
        let names: &[&str] = match self {
            Preset::S3dis => &[
                "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair",
                "sofa", "bookcase", "board", "clutter",
            ],
            Preset::Scannet => &[
                "wall",
                "floor",
                "cabinet",
                "bed",
                "chair",
                "sofa",
                "table",
                "door",
                "window",
                "bookshelf",
                "picture",
                "counter",
                "desk",
                "curtain",
                "refrigerator",
                "shower curtain",
                "toilet",
                "sink",
                "bathtub",
                "other furniture",
            ],
        };
        names.iter().map(|name| ClassInfo::named(name)).collect()
    }

    /// How a scan becomes the network's input.
    pub fn input(self, conventions: Conventions) -> InputSpec {
        let (coord, color, normal) = (
            Feature::new("coord"),
            conventions.color(self),
            Feature::new("normal"),
        );
        let (voxel_size, features, crop_points) = match (self, conventions) {
            (Preset::S3dis, Conventions::Pointcept) => (0.04, vec![coord, color], 80_000),
            (Preset::S3dis, Conventions::Original) => (0.05, vec![coord, color], 100_000),
            (Preset::Scannet, Conventions::Pointcept) => {
                (0.02, vec![coord, color, normal], 100_000)
            }
            (Preset::Scannet, Conventions::Original) => (0.02, vec![coord, normal, color], 100_000),
            (Preset::S3dis, Conventions::Stratified) => (0.04, vec![color, coord], 80_000),
            (Preset::Scannet, Conventions::Stratified) => (0.02, vec![color, coord], 120_000),
        };
        InputSpec {
            voxel_size,
            features,
            frame: match conventions {
                Conventions::Stratified => Frame::Corner,
                Conventions::Pointcept | Conventions::Original => Frame::Center,
            },
            crop_points: Some(crop_points),
        }
    }
}

/// The map of a literal object.
///
/// # Panics
/// If it is none: the literals of this module and of `architecture` are.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}
