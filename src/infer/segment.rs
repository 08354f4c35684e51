//! From a cloud to a class for every point.

use super::blend::Blend;
use super::tiles::{self, Cut, Tile};
use super::views::Views;
use super::vote::Votes;
use crate::Result;
use crate::cloud::PointCloud;
use crate::cloud::augment::{self, Step, center_shift};
use crate::cloud::features::{self, Feature, Sample};
use crate::cloud::voxel::Voxels;
use crate::weights::InputSpec;

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
    for (number, tile) in tiles.iter().enumerate() {
        let mut watch = |view: usize| watch(number * views + view, tiles.len() * views);
        let votes = decider.votes(&sample, tile, &mut watch)?;
        blend.add(&sample.coord, tile, &votes);
    }
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

/// The points of a tile in the frame of a scan of their own.
fn tile_sample(sample: &Sample, tile: &Tile) -> Sample {
    let mut piece = sample.select(&tile.rows);
    center_shift(&mut piece.coord, true);
    piece
}

/// Lets the network vote on the points of tiles.
pub(super) struct Decider<'a> {
    input: &'a InputSpec,
    /// Steps of each view.
    views: Vec<Vec<Step>>,
    every_point: bool,
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
            every_point: views != Views::Plain,
            classifier,
            passes: 0,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classifier.classes()
    }

    /// Votes on every point of a tile. `watch` is called before every run of the network with the number of
    /// views done.
    pub fn votes(
        &mut self,
        sample: &Sample,
        tile: &Tile,
        watch: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Votes> {
        let piece = tile_sample(sample, tile);
        let mut votes = Votes::new(piece.len(), self.classes());
        for view in 0..self.views.len() {
            self.view(&piece, view, &mut votes, &mut || watch(view))?;
        }
        Ok(votes)
    }

    /// Votes on every point of a tile whose points are one per voxel already, in one view.
    pub fn votes_of_thinned(&mut self, sample: &Sample, tile: &Tile) -> Result<Votes> {
        let probabilities = self.run(tile_sample(sample, tile))?;
        Ok(Votes::of(probabilities, self.classes()))
    }

    /// Adds the votes of one view. Test procedure of the reference: augment, voxelise, and for every fragment centre and
    /// run.
    fn view(
        &mut self,
        piece: &Sample,
        view: usize,
        votes: &mut Votes,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let piece = augment::apply(&self.views[view], piece.clone())?;
        let voxels = Voxels::new(&piece.coord, self.input.voxel_size)?;
        if !self.every_point {
            watch()?;
            let probabilities = self.run(piece.select(&voxels.fragment(0)))?;
            votes.spread(voxels.inverse(), &probabilities);
            return Ok(());
        }
        let classes = self.classes();
        for fragment in 0..voxels.fragment_count().min(FRAGMENTS) {
            watch()?;
            let probabilities = self.run(piece.select(&voxels.fragment(fragment)))?;
            for (voxel, row) in probabilities.chunks_exact(classes).enumerate() {
                let members = voxels.members(voxel);
                let first = fragment % members.len();
                votes.add(members[first] as usize, row);
                for further in members.iter().skip(first + FRAGMENTS).step_by(FRAGMENTS) {
                    votes.add(*further as usize, row);
                }
            }
        }
        Ok(())
    }

    /// Runs the network on points that are one per voxel.
    fn run(&mut self, mut seen: Sample) -> Result<Vec<f32>> {
        let features: &[Feature] = &self.input.features;
        self.input.frame.place(&mut seen.coord);
        self.passes += 1;
        let feat = features::matrix(&seen, features);
        self.classifier.probabilities(&seen.coord, feat)
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
pub(super) mod tests;
