//! Scans larger than memory: read once into a temporary file, decided part by part, written in the order of the scan.
//!
//! 1. [`Survey`] takes the scan piece by piece, measures it, and keeps on disk what the network needs of its points, sorted
//!    by place (`spool`);
//! 2. [`Large::segment`] cuts it into blocks by how dense it is and how much memory there is (`blocks`);
//! 3. each block is read with its surroundings, thinned to one point per voxel, and cut into tiles for the network (`block`,
//!    [`super::tiles`]);
//! 4. decisions go to a second temporary file (`results`), from which they come back in the order of the scan;
//! 5. what several blocks see is decided at the end, by the votes that they left (`seams`).
//!
//! One voxel grid lies under the whole scan, so a voxel is seen with the same point in every tile that holds it. Tiles have
//! the same margin of surroundings as for scans in memory, and vote there in the same way (`infer/blend.rs`), within blocks
//! and across. Heights are measured before the cut, over everything that their window reaches.
//!
//! The temporary files have no name: they are gone with the process, however that ends.

mod block;
mod blocks;
mod results;
mod scratch;
mod seams;
mod spool;

use super::memory::Share;
use super::segment::{Classifier, Decider};
use super::tiles::Cut;
use super::views::Views;
use crate::cloud::PointCloud;
use crate::cloud::features::{Feature, Floors, not_finite, not_finite_error};
use crate::weights::InputSpec;
use crate::{Error, Result};
use block::{Outputs, Site};
use seams::Seams;
use spool::{Plan, Spool};
use std::collections::BTreeMap;
use std::path::Path;

pub use results::Results;

/// A scan that is being read.
#[derive(Debug)]
pub struct Survey {
    spool: Spool,
    measured: Measured,
    odd: Odd,
    reads_color: bool,
}

/// What is known about a scan that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Number of points.
    pub points: u64,
    /// Points with NaN or infinite coordinates.
    pub missing: u64,
    /// Points with finite coordinates that are too large to be real.
    pub absurd: u64,
    /// As [`PointCloud::extent`].
    pub extent: Option<([f64; 3], [f64; 3])>,
    /// Lowest z of the points with usable coordinates.
    lowest: f64,
    largest_color: Option<f64>,
}

/// A scan on disk, ready to be segmented.
#[derive(Debug)]
pub struct Large {
    spool: Spool,
    measured: Measured,
    odd: Odd,
}

/// Features that are read from attributes, and the first point whose value is not finite.
type Odd = BTreeMap<String, Option<u64>>;

/// What came out of a segmentation.
#[derive(Debug)]
pub struct Outcome {
    /// Class and confidence of every point.
    pub results: Results,
    /// Parts that were in memory one after another.
    pub blocks: usize,
    /// Number of tiles.
    pub tiles: usize,
    /// Runs of the network.
    pub passes: usize,
}

/// How to segment a large scan.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// What the network reads; one of those that the survey was made for.
    pub input: &'a InputSpec,
    /// Width of the margin of tiles, metres.
    pub margin: f64,
    /// Views whose predictions are summed.
    pub views: Views,
    /// What fits into memory.
    pub share: Share,
}

/// Called before every run of the network with the points done and in all, about; an error stops the work.
pub type Watch<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

impl Survey {
    /// Starts to read a scan of about `points` points for networks that read one of `inputs`. Temporary files lie on the
    /// file system of `folder`; `buffer` is how many bytes of points are collected in memory.
    ///
    /// # Errors
    /// A folder in which no file can be made.
    pub fn new(
        folder: &Path,
        schema: &PointCloud,
        inputs: &[InputSpec],
        points: u64,
        buffer: u64,
    ) -> Result<Survey> {
        let features: Vec<&Feature> = inputs.iter().flat_map(|i| &i.features).collect();
        let mut attributes: Vec<usize> = (features.iter())
            .flat_map(|f| schema.attributes_of(&f.name))
            .collect();
        attributes.sort_unstable();
        attributes.dedup();
        let mut voxels: Vec<f64> = inputs.iter().map(|i| i.voxel_size).collect();
        voxels.sort_unstable_by(f64::total_cmp);
        voxels.dedup();
        let plan = Plan {
            schema,
            attributes: &attributes,
            voxels: &voxels,
            points,
            buffer,
        };
        Ok(Survey {
            spool: Spool::new(folder, &plan)?,
            measured: Measured {
                points: 0,
                missing: 0,
                absurd: 0,
                extent: None,
                lowest: f64::INFINITY,
                largest_color: None,
            },
            reads_color: features.iter().any(|f| f.name == "color"),
            odd: features.iter().map(|f| (f.name.clone(), None)).collect(),
        })
    }

    /// Takes the next points of the scan.
    ///
    /// # Errors
    /// A full disk.
    pub fn push(&mut self, cloud: &PointCloud) -> Result<()> {
        let m = &mut self.measured;
        for p in &cloud.coord {
            if crate::cloud::is_usable(p) {
                m.lowest = m.lowest.min(p[2]);
            } else if p.iter().all(|x| x.is_finite()) {
                m.absurd += 1;
            } else {
                m.missing += 1;
            }
        }
        if let Some((low, high)) = cloud.extent() {
            let (l, h) = m.extent.unwrap_or((low, high));
            let axes = [0, 1, 2];
            m.extent = Some((
                axes.map(|a: usize| l[a].min(low[a])),
                axes.map(|a: usize| h[a].max(high[a])),
            ));
        }
        if self.reads_color {
            let both = m.largest_color.into_iter().chain(cloud.largest_color());
            m.largest_color = both.reduce(f64::max);
        }
        for (feature, odd) in &mut self.odd {
            let find = || not_finite(cloud, feature).map(|row| m.points + row as u64);
            *odd = odd.or_else(find);
        }
        self.spool.push(cloud, m.points)?;
        m.points += cloud.len() as u64;
        Ok(())
    }

    /// Completes the temporary file.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self) -> Result<Large> {
        self.spool.finish()?;
        Ok(Large {
            spool: self.spool,
            measured: self.measured,
            odd: self.odd,
        })
    }
}

impl Large {
    /// What is known about the scan.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// A class for every point. `folder` takes the temporary file of the results.
    ///
    /// # Errors
    /// Features that the scan does not have or that are not finite, a voxel size that the survey was not made for, a full disk, and whatever
    /// `classifier` and `watch` return.
    pub fn segment(
        &self,
        folder: &Path,
        how: &How<'_>,
        classifier: &mut dyn Classifier,
        watch: Watch<'_>,
    ) -> Result<Outcome> {
        for (feature, odd) in &self.odd {
            let is_read = how.input.features.iter().any(|f| f.name == *feature);
            if let (true, Some(point)) = (is_read, *odd) {
                return Err(not_finite_error(feature, point));
            }
        }
        let which = self
            .spool
            .voxels()
            .iter()
            .position(|v| *v == how.input.voxel_size);
        let which = which.ok_or_else(|| {
            let fault = format!("{} m; the scan was read for others", how.input.voxel_size);
            Error::argument("voxel size", fault)
        })?;
        let grid = self.spool.grid(which);
        let spans = self.spool.spans(which);
        // A column more than the width: a point may lie anywhere in its voxel.
        let columns = |metres: f64| (metres / grid.edge).ceil().min(1e9) as i32 + 1;
        let every_point = how.views != Views::Plain;
        let blocks = blocks::blocks(&spans, columns(how.margin), |size| match every_point {
            true => size.points <= how.share.points,
            false => size.voxels <= how.share.voxels,
        });
        let windows = how.input.features.iter().filter_map(|f| f.window);
        let site = Site {
            spool: &self.spool,
            spans: &spans,
            blocks: &blocks,
            grid,
            input: how.input,
            cut: Cut {
                voxel_size: how.input.voxel_size,
                voxels: how.share.tile_voxels,
                margin: how.margin,
            },
            lowest: self.measured.lowest,
            largest_color: self.measured.largest_color,
            halo: columns(windows.map(Floors::reach).fold(0.0, f64::max)),
            most_voxels: how.share.voxels,
            most_points: how.share.points,
        };
        let mut decider = Decider::new(how.input, how.views, classifier);
        let (mut results, mut tiles) = (Results::new(folder)?, 0);
        let mut seams = Seams::new(folder, blocks.len(), decider.classes())?;
        let mut outputs = Outputs {
            results: &mut results,
            seams: &mut seams,
        };
        // Blocks count by what is read for them.
        let work = |b: &blocks::Block| b.size.points as f64;
        let total: f64 = blocks.iter().map(work).sum();
        let mut done = 0.0;
        for (number, block) in blocks.iter().enumerate() {
            let mut watch = |share: f64| {
                let part = (done + share * work(block)) / total;
                let points = self.spool.points();
                watch((part * points as f64) as u64, points)
            };
            let decide = match every_point {
                true => Site::every_point,
                false => Site::thinned,
            };
            tiles += decide(&site, number, &mut decider, &mut outputs, &mut watch)?;
            done += work(block);
        }
        for number in 0..blocks.len() {
            site.settle(number, every_point, &mut outputs)?;
        }
        Ok(Outcome {
            results,
            blocks: blocks.len(),
            tiles,
            passes: decider.passes,
        })
    }
}

#[cfg(test)]
mod tests;
