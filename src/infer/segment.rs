//! From a cloud to a class for every point.

use super::blend::Blend;
use super::passes::{After, Before, Input, Inputs, Next, Seen, Turn, Voting};
use super::tiles::{self, Cut, Tile};
use super::views::Views;
use crate::Result;
use crate::cloud::PointCloud;
use crate::cloud::augment::Step;
use crate::cloud::features::Sample;
use crate::weights::InputSpec;
use std::sync::mpsc::channel;

/// Voxels of a tile when nothing else is asked for: about half a gigabyte for the largest shipped configuration.
pub const TILE_VOXELS: usize = 200_000;

/// Passes over one view at most. A voxel with more points, such as the thousands of missing returns that some scanners
/// put into one place, lets member m vote through member m mod this.
pub const FRAGMENTS: usize = 32;

/// How to segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Views whose predictions are summed. With [`Views::Plain`] one point per voxel is seen and decides for the others;
    /// otherwise every point is seen in every view.
    pub views: Views,
    /// Most voxels that the network sees at once; larger scans are cut into overlapping tiles.
    pub tile_voxels: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            views: Views::Plain,
            tile_voxels: TILE_VOXELS,
        }
    }
}

/// A class for every point of a cloud.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prediction {
    /// Class of every point, −1 for points without usable coordinates.
    pub class: Vec<i32>,
    /// Probability of that class, 0 to 1; 0 for points without usable coordinates.
    pub confidence: Vec<f32>,
    /// Number of points without usable coordinates.
    pub skipped: usize,
    /// Number of tiles.
    pub tiles: usize,
    /// Number of runs of the network.
    pub passes: usize,
}

/// What decides about prepared points: a network, or a rule in tests.
pub trait Classifier {
    /// Number of classes.
    fn classes(&self) -> usize;

    /// Probabilities [N, C] for one cloud: `coord` \[N\] in metres, `feat` [N, Cin].
    fn probabilities(&mut self, coord: &[[f32; 3]], feat: Vec<f32>) -> Result<Vec<f32>>;

    /// Probabilities for one cloud after another. Whoever can prepare one while another runs may do so.
    ///
    /// # Errors
    /// The first of `inputs`, of `turn` or of a run, which ends it.
    fn each(
        &mut self,
        inputs: &mut (dyn Iterator<Item = Result<Input>> + Send),
        turn: &mut dyn Turn,
    ) -> Result<()> {
        for input in inputs {
            let Input { coord, feat } = input?;
            turn.before()?;
            let probabilities = self.probabilities(&coord, feat)?;
            turn.after(probabilities)?;
        }
        Ok(())
    }
}

/// Called before every run of the network with the views done and the views in all; an error stops the work.
pub type Watch<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// Segments a cloud: cut into tiles, voxelised, run, voted back to every point.
///
/// # Errors
/// A feature that the cloud cannot give, coordinates too far apart for voxels, and whatever `classifier` and `watch`
/// return.
pub fn segment(
    cloud: &PointCloud,
    input: &InputSpec,
    margin: f64,
    options: &Options,
    classifier: &mut dyn Classifier,
    watch: Watch<'_>,
) -> Result<Prediction> {
    let rows = cloud.usable_rows();
    let sample = if rows.len() == cloud.len() {
        Sample::new(cloud, &input.features)?
    } else {
        let number = |row: usize| u64::from(rows[row]);
        Sample::of_rows(&cloud.select(&rows), &input.features, &number)?
    };
    let tiles = tiles::cut(
        &sample.coord,
        Cut {
            voxel_size: input.voxel_size,
            voxels: options.tile_voxels,
            margin,
        },
    )?;
    let mut decider = Decider::new(input, options.views, classifier);
    let mut blend = Blend::new(&sample.coord, &tiles, decider.classes(), []);
    let views = decider.views.len();
    decider.votes(
        (&sample, &tiles),
        false,
        &mut |tile, view| watch(tile * views + view, tiles.len() * views),
        &mut |tile, votes| {
            blend.add(&sample.coord, &tiles[tile], votes);
            Ok(())
        },
    )?;
    let mut result = Prediction {
        class: vec![-1; cloud.len()],
        confidence: vec![0.0; cloud.len()],
        skipped: cloud.len() - rows.len(),
        tiles: tiles.len(),
        passes: decider.passes,
    };
    let (class, confidence) = blend.decide();
    for (row, decision) in rows.iter().zip(class.into_iter().zip(confidence)) {
        let row = *row as usize;
        (result.class[row], result.confidence[row]) = decision;
    }
    Ok(result)
}

/// Lets the network vote on the points of tiles.
pub(super) struct Decider<'a> {
    input: &'a InputSpec,
    /// Steps of each view.
    views: Vec<Vec<Step>>,
    seen: Seen,
    classifier: &'a mut dyn Classifier,
    /// Runs of the network so far.
    pub passes: usize,
}

impl<'a> Decider<'a> {
    pub fn new(
        input: &'a InputSpec,
        views: Views,
        classifier: &'a mut dyn Classifier,
    ) -> Decider<'a> {
        Decider {
            input,
            views: views.steps(),
            seen: match views {
                Views::Plain => Seen::OnePerVoxel,
                _ => Seen::Every,
            },
            classifier,
            passes: 0,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classifier.classes()
    }

    /// Votes on every point of tiles of a sample, tile after tile. Points that are `thinned` are one per voxel already and
    /// are seen in one view.
    pub fn votes(
        &mut self,
        (sample, tiles): (&Sample, &[Tile]),
        thinned: bool,
        before: Before<'_>,
        after: After<'_>,
    ) -> Result<()> {
        let seen = if thinned { Seen::Thinned } else { self.seen };
        let classes = self.classes();
        let (sender, jobs) = channel();
        let mut inputs = Inputs {
            sample,
            tiles,
            input: self.input,
            views: &self.views,
            seen,
            jobs: sender,
            next: Next::default(),
        };
        let mut voting = Voting {
            jobs,
            job: None,
            seen,
            classes,
            votes: None,
            passes: &mut self.passes,
            before,
            after,
        };
        self.classifier.each(&mut inputs, &mut voting)
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
pub(super) mod tests;
