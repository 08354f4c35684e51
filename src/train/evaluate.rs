//! Scores of a network on labelled clouds: every cloud whole, one point per voxel, predictions spread to all points.

use super::metrics::Confusion;
use super::recipe::argmax;
use crate::Result;
use crate::cloud::features;
use crate::cloud::voxel::Voxels;
use crate::dataset::{Dataset, LabelledCloud};
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::{Executor, Graph, Mode, Params, Shape};
use crate::models::Network;
use crate::weights::InputSpec;

/// Counts of one cloud or of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Over all usable points of the file.
    pub points: Confusion,
    /// Over the one point per voxel that the network saw.
    pub voxels: Confusion,
}

impl Counts {
    /// Nothing counted.
    pub fn new(classes: usize) -> Counts {
        Counts {
            points: Confusion::new(classes),
            voxels: Confusion::new(classes),
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Counts) {
        self.points.merge(&other.points);
        self.voxels.merge(&other.voxels);
    }
}

/// A network that scores.
#[derive(Debug)]
pub struct Evaluator<'a> {
    /// What is computed.
    pub network: &'a dyn Network,
    /// With which numbers.
    pub params: &'a Params,
    /// Where it runs.
    pub executor: &'a mut Executor,
    /// From a cloud to its input.
    pub input: &'a InputSpec,
}

impl Evaluator<'_> {
    /// Counts per cloud of `data`, in order. `watch` is called before every cloud with its number; an error stops.
    ///
    /// # Errors
    /// Whatever reading a cloud or running the network meets.
    pub fn clouds(
        &mut self,
        data: &dyn Dataset,
        watch: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Counts>> {
        (0..data.len())
            .map(|number| {
                watch(number)?;
                self.cloud(&*data.cloud(number)?)
            })
            .collect()
    }

    /// Counts of one cloud.
    ///
    /// # Errors
    /// As [`Evaluator::clouds`].
    pub fn cloud(&mut self, cloud: &LabelledCloud) -> Result<Counts> {
        let voxels = Voxels::new(&cloud.sample.coord, self.input.voxel_size)?;
        let mut seen = cloud.sample.select(&voxels.fragment(0));
        self.input.frame.place(&mut seen.coord);
        let feat = features::matrix(&seen, &self.input.features);
        let geometry =
            self.network
                .geometry(self.params.device(), &seen.coord, &[0, seen.len()])?;
        let mut graph = Graph::new(self.params, Mode::Inference, Random::new(0, 0));
        let shape = Shape::new(seen.len(), self.network.input_channels());
        let feat = graph.input(Array::from(feat), shape)?;
        let logits = self.network.record(&mut graph, &geometry, feat.into())?;
        graph.keep(logits);
        let run = self.executor.run(&graph, None)?;
        let classes = self.network.classes();
        let predicted = argmax(run.read(logits), classes);

        let mut counts = Counts::new(classes);
        counts.voxels.add(&predicted, &seen.label);
        let spread: Vec<u32> = cloud
            .row_of
            .iter()
            .map(|row| predicted[voxels.inverse()[*row as usize] as usize])
            .collect();
        counts.points.add(&spread, &cloud.target);
        Ok(counts)
    }
}
