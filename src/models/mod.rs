//! Networks: one per file, and the list of them.
//!
//! A network is an [`Architecture`]: what geometry it asks for, and the ops that it records. [`Model`] puts one together
//! with its parameters.

mod point_transformer_v2;
mod stratified_transformer;

use crate::device::{Array, Device};
use crate::geometry::Hierarchy;
use crate::graph::{Graph, Layout, Params, Var};
use crate::{Error, Result};
pub use point_transformer_v2::{Config as PointTransformerV2Config, PointTransformerV2, Unpooling};
use serde_json::Value;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
pub use stratified_transformer::{Config as StratifiedTransformerConfig, StratifiedTransformer};

/// The index lists of one batch, made by the network that records with them.
pub struct Geometry(Box<dyn Any + Send + Sync>);

impl fmt::Debug for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Geometry")
    }
}

/// Point set of one level of a network, for checks and reports.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelView {
    /// Positions, metres.
    pub coord: Array<[f32; 3]>,
    /// B+1 entries, the first is 0.
    pub offsets: Vec<usize>,
    /// Where every point of the level above went; empty at level 0.
    pub cluster: Array<u32>,
}

/// What a network reads besides index lists.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// Features [N, Cin].
    pub feat: Var,
    /// Coordinates [N, 3], if the attention's gradient with respect to them is asked for
    /// ([`Graph::keep_gradient`] first). Neighbours, cells and weights of interpolation are held fixed, and features
    /// that were made of coordinates are [`Input::feat`]'s affair.
    pub coord: Option<Var>,
}

impl Input {
    /// The features, for a network that has no gradient with respect to coordinates.
    ///
    /// # Errors
    /// Coordinates are given: their gradient would stay zero without a word.
    pub fn features(self) -> Result<Var> {
        match self.coord {
            None => Ok(self.feat),
            Some(_) => Err(Error::argument(
                "coordinates",
                "this network has no gradient with respect to them".to_string(),
            )),
        }
    }
}

impl From<Var> for Input {
    /// Features only.
    fn from(feat: Var) -> Input {
        Input { feat, coord: None }
    }
}

/// A network: geometry request and recorded ops.
pub trait Architecture: fmt::Debug + Send + Sync + 'static {
    /// Index lists that recording needs.
    type Geometry: Send + Sync + 'static;

    /// Channels of the input features.
    fn input_channels(&self) -> usize;

    /// Number of classes.
    fn classes(&self) -> usize;

    /// Computes the index lists of one batch. No index depends on a feature.
    fn geometry(&self, points: &mut Hierarchy) -> Result<Self::Geometry>;

    /// The point sets of all levels.
    fn levels(&self, geometry: &Self::Geometry) -> Vec<LevelView>;

    /// Records the network → logits [N, classes].
    fn record(&self, graph: &mut Graph<'_>, geometry: &Self::Geometry, input: Input)
    -> Result<Var>;
}

/// An [`Architecture`] behind a pointer.
pub trait Network: fmt::Debug + Send + Sync {
    /// Channels of the input features.
    fn input_channels(&self) -> usize;

    /// Number of classes.
    fn classes(&self) -> usize;

    /// Computes the index lists of one batch on `device`: `coord` \[N\] in metres, `offsets` with B+1 entries.
    fn geometry(&self, device: Device, coord: &[[f32; 3]], offsets: &[usize]) -> Result<Geometry>;

    /// The point sets of all levels.
    fn levels(&self, geometry: &Geometry) -> Vec<LevelView>;

    /// Records the network → logits [N, classes].
    fn record(&self, graph: &mut Graph<'_>, geometry: &Geometry, input: Input) -> Result<Var>;
}

fn own<A: Architecture>(geometry: &Geometry) -> &A::Geometry {
    geometry
        .0
        .downcast_ref()
        .expect("geometry is made by the network that records with it")
}

impl<A: Architecture> Network for A {
    fn input_channels(&self) -> usize {
        Architecture::input_channels(self)
    }

    fn classes(&self) -> usize {
        Architecture::classes(self)
    }

    fn geometry(&self, device: Device, coord: &[[f32; 3]], offsets: &[usize]) -> Result<Geometry> {
        let mut points = Hierarchy::on(device, coord.to_vec(), offsets.to_vec())?;
        Ok(Geometry(Box::new(Architecture::geometry(
            self,
            &mut points,
        )?)))
    }

    fn levels(&self, geometry: &Geometry) -> Vec<LevelView> {
        Architecture::levels(self, own::<A>(geometry))
    }

    fn record(&self, graph: &mut Graph<'_>, geometry: &Geometry, input: Input) -> Result<Var> {
        Architecture::record(self, graph, own::<A>(geometry), input)
    }
}

/// Puts a network together from its configuration and registers its parameters.
type Constructor = fn(&Value, &mut Layout) -> Result<Box<dyn Network>>;

/// All networks, by the `type` of their configuration.
pub const NETWORKS: [(&str, Constructor); 4] = [
    ("PT-v2m2", PointTransformerV2::boxed),
    ("PT-v2m1", PointTransformerV2::boxed),
    ("Stratified", StratifiedTransformer::boxed),
    ("Swin3D", StratifiedTransformer::boxed),
];

/// Evenly spaced rates 0 … `rate`, one per block, cut into stages of the given depths.
fn drop_path_ramp(rate: f32, depths: &[usize]) -> Vec<Vec<f32>> {
    let total: usize = depths.iter().sum();
    let step = if total > 1 {
        rate / (total - 1) as f32
    } else {
        0.0
    };
    let mut next = 0;
    let stage = |depth: &usize| {
        next += depth;
        (next - depth..next).map(|i| step * i as f32).collect()
    };
    depths.iter().map(stage).collect()
}

/// A network with its parameters.
#[derive(Debug)]
pub struct Model {
    /// What it computes.
    pub network: Box<dyn Network>,
    /// With which numbers.
    pub params: Params,
    /// Its configuration, the `network` table of configurations and checkpoints.
    pub config: Value,
}

impl Model {
    /// Builds the network that `config` describes, with initial values for `seed`.
    pub fn new(config: &Value, device: Device, seed: u64) -> Result<Self> {
        let (network, layout) = construct(config)?;
        let params = Params::initial(layout, device, seed)?;
        Ok(Model {
            network,
            params,
            config: config.clone(),
        })
    }
}

/// The network that `config` describes and its parameters' names and shapes, before any memory is taken for them.
///
/// # Errors
/// An unknown type, and whatever the network's configuration does not allow.
pub fn construct(config: &Value) -> Result<(Box<dyn Network>, Arc<Layout>)> {
    let known = || NETWORKS.map(|(name, _)| name).join(", ");
    let name = config
        .get("type")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::config("network.type", format!("is missing; one of {}", known())))?;
    let (_, construct) = NETWORKS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| {
            Error::config(
                "network.type",
                format!("{name} is unknown; one of {}", known()),
            )
        })?;
    let mut layout = Layout::default();
    let network = construct(config, &mut layout)?;
    Ok((network, Arc::new(layout)))
}

/// Most blocks or levels, and most channels, groups, heads or classes, that a configuration may ask for: far more than
/// any network has, and few enough that a wrong number ends in a message instead of in all of the memory.
const MOST_BLOCKS: usize = 1000;
const MOST_CHANNELS: usize = 1 << 16;

/// Refuses numbers of blocks per stage that no network has.
fn check_depths(key: &str, depths: &[usize]) -> Result<()> {
    let total = depths
        .iter()
        .fold(depths.len(), |sum, d| sum.saturating_add(*d));
    if total > MOST_BLOCKS {
        let fault = format!("{total} blocks and stages; at most {MOST_BLOCKS} are possible");
        return Err(Error::config(format!("network.{key}"), fault));
    }
    Ok(())
}

/// Refuses widths that no network has.
fn check_widths(key: &str, widths: &[usize]) -> Result<()> {
    match widths.iter().find(|w| **w > MOST_CHANNELS) {
        None => Ok(()),
        Some(width) => Err(Error::config(
            format!("network.{key}"),
            format!("{width} is too many; at most {MOST_CHANNELS} are possible"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_path_ramps_are_those_of_the_spec() {
        let encoder = drop_path_ramp(0.3, &[2, 6, 2]);
        assert_eq!(encoder[0], [0.0, 0.3 / 9.0]);
        assert!((encoder[1][5] - 0.2333).abs() < 1e-4);
        assert!((encoder[2][1] - 0.3).abs() < 1e-6);
        assert_eq!(drop_path_ramp(0.3, &[1, 1, 1]), [[0.0], [0.15], [0.3]]);
    }
}
