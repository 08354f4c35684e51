//! The runs of a network that a segmentation takes: what they see is prepared in one place, what comes of them is voted on
//! in another, in the same order. So the next can be prepared while one runs.

use super::segment::FRAGMENTS;
use super::tiles::Tile;
use super::vote::Votes;
use crate::Result;
use crate::cloud::augment::{self, Step, center_shift};
use crate::cloud::features::{self, Feature, Sample};
use crate::cloud::voxel::Voxels;
use crate::weights::InputSpec;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

/// Points of one cloud as a network sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// \[N\] metres.
    pub coord: Vec<[f32; 3]>,
    /// [N, Cin] features.
    pub feat: Vec<f32>,
}

/// What is done around every run of a network.
pub trait Turn {
    /// Before a run; an error stops all.
    ///
    /// # Errors
    /// Whatever shall stop the work.
    fn before(&mut self) -> Result<()>;

    /// After a run, with the probabilities [N, C] of its input.
    ///
    /// # Errors
    /// As [`Turn::before`].
    fn after(&mut self, probabilities: Vec<f32>) -> Result<()>;
}

/// Which points of a tile are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// All: they are one per voxel already.
    Thinned,
    /// One per voxel, which decides for the others.
    OnePerVoxel,
    /// Every point, in as many passes as that takes.
    Every,
}

/// What has to be known about a run when its result is there.
pub(super) struct Job {
    pub tile: usize,
    pub view: usize,
    fragment: usize,
    /// Points of the tile.
    points: usize,
    /// Of the view; none where points are one per voxel.
    voxels: Option<Arc<Voxels>>,
    /// Whether it is the last of its tile.
    is_last: bool,
}

/// Prepares one input after another, and tells what they are in the same order.
pub(super) struct Inputs<'a> {
    pub sample: &'a Sample,
    pub tiles: &'a [Tile],
    pub input: &'a InputSpec,
    /// Steps of each view.
    pub views: &'a [Vec<Step>],
    pub seen: Seen,
    pub jobs: Sender<Job>,
    /// The next run.
    pub next: Next,
}

/// Where the runs have come to.
#[derive(Default)]
pub(super) struct Next {
    tile: usize,
    view: usize,
    fragment: usize,
    /// The tile's points, and how the view sees them.
    piece: Option<Sample>,
    viewed: Option<(Sample, Arc<Voxels>)>,
}

impl Iterator for Inputs<'_> {
    type Item = Result<Input>;

    fn next(&mut self) -> Option<Result<Input>> {
        let tile = self.tiles.get(self.next.tile)?;
        Some(self.prepare(tile))
    }
}

impl Inputs<'_> {
    fn prepare(&mut self, tile: &Tile) -> Result<Input> {
        let piece = match self.next.piece.take() {
            Some(piece) => piece,
            None => tile_sample(self.sample, tile),
        };
        let (number, points) = (self.next.tile, piece.len());
        if self.seen == Seen::Thinned {
            self.next.tile += 1;
            self.tell(number, (0, 0), points, None, true);
            return Ok(self.input_of(piece));
        }
        let (viewed, voxels) = match self.next.viewed.take() {
            Some(viewed) => viewed,
            None => {
                let viewed = augment::apply(&self.views[self.next.view], piece.clone())?;
                let voxels = Voxels::new(&viewed.coord, self.input.voxel_size)?;
                (viewed, Arc::new(voxels))
            }
        };
        let (view, fragment) = (self.next.view, self.next.fragment);
        let fragments = match self.seen {
            Seen::Every => voxels.fragment_count().min(FRAGMENTS),
            _ => 1,
        };
        let seen = viewed.select(&voxels.fragment(fragment));
        let is_last_of_view = fragment + 1 >= fragments;
        let is_last = is_last_of_view && view + 1 == self.views.len();
        let at = (view, fragment);
        self.tell(number, at, points, Some(voxels.clone()), is_last);
        self.next = match (is_last_of_view, is_last) {
            (_, true) => Next {
                tile: number + 1,
                ..Next::default()
            },
            (true, _) => Next {
                tile: number,
                view: view + 1,
                piece: Some(piece),
                ..Next::default()
            },
            _ => Next {
                tile: number,
                view,
                fragment: fragment + 1,
                piece: Some(piece),
                viewed: Some((viewed, voxels)),
            },
        };
        Ok(self.input_of(seen))
    }

    fn tell(
        &self,
        tile: usize,
        (view, fragment): (usize, usize),
        points: usize,
        voxels: Option<Arc<Voxels>>,
        is_last: bool,
    ) {
        let job = Job {
            tile,
            view,
            fragment,
            points,
            voxels,
            is_last,
        };
        // The other end is gone after an error.
        let _ = self.jobs.send(job);
    }

    /// What the network sees of points that are one per voxel.
    fn input_of(&self, mut seen: Sample) -> Input {
        let features: &[Feature] = &self.input.features;
        self.input.frame.place(&mut seen.coord);
        let feat = features::matrix(&seen, features);
        let coord = seen.coord;
        Input { coord, feat }
    }
}

/// The points of a tile in the frame of a scan of their own.
fn tile_sample(sample: &Sample, tile: &Tile) -> Sample {
    let mut piece = sample.select(&tile.rows);
    center_shift(&mut piece.coord, true);
    piece
}

/// Called before every run with its tile and view.
pub(super) type Before<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;
/// Called with every tile and the votes on its points.
pub(super) type After<'a> = &'a mut dyn FnMut(usize, &Votes) -> Result<()>;

/// Makes votes of what comes of the runs.
pub(super) struct Voting<'a> {
    pub jobs: Receiver<Job>,
    pub job: Option<Job>,
    pub seen: Seen,
    pub classes: usize,
    pub votes: Option<Votes>,
    /// Runs so far.
    pub passes: &'a mut usize,
    pub before: Before<'a>,
    pub after: After<'a>,
}

impl Turn for Voting<'_> {
    fn before(&mut self) -> Result<()> {
        let job = self.jobs.recv().expect("every input is told of before");
        (self.before)(job.tile, job.view)?;
        self.job = Some(job);
        *self.passes += 1;
        Ok(())
    }

    fn after(&mut self, probabilities: Vec<f32>) -> Result<()> {
        let job = self.job.take().expect("a turn begins before it ends");
        let votes = match &job.voxels {
            None => Votes::of(probabilities, self.classes),
            Some(voxels) => {
                let none = || Votes::new(job.points, self.classes);
                let mut votes = self.votes.take().unwrap_or_else(none);
                match self.seen {
                    Seen::Every => self.add(&job, voxels, &probabilities, &mut votes),
                    _ => votes.spread(voxels.inverse(), &probabilities),
                }
                votes
            }
        };
        match job.is_last {
            true => (self.after)(job.tile, &votes)?,
            false => self.votes = Some(votes),
        }
        Ok(())
    }
}

impl Voting<'_> {
    /// Test procedure of the reference: every member of a voxel votes in its turn.
    fn add(&self, job: &Job, voxels: &Voxels, probabilities: &[f32], votes: &mut Votes) {
        for (voxel, row) in probabilities.chunks_exact(self.classes).enumerate() {
            let members = voxels.members(voxel);
            let first = job.fragment % members.len();
            votes.add(members[first] as usize, row);
            for further in members.iter().skip(first + FRAGMENTS).step_by(FRAGMENTS) {
                votes.add(*further as usize, row);
            }
        }
    }
}
