//! A trained model, ready to segment scans.

use super::large::{self, Large, Outcome};
use super::memory::{Needs, Share};
use super::passes::{Input, Turn};
use super::predict::{self, Prepared};
use super::segment::{self, Classifier, Options, Prediction, Watch};
use super::shipped::Shipped;
use crate::Result;
use crate::cloud::PointCloud;
use crate::device::{Device, Precision};
use crate::graph::Executor;
use crate::io::Labels;
use crate::models::Model;
use crate::weights::{ModelMetadata, Tensors, load_model, safetensors};
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Cells of the coarsest grid that a tile's margin spans: the reach of the attention at the coarsest level, where most of
/// a point's surroundings come from.
const MARGIN_CELLS: f64 = 6.0;
/// Voxels that the margin spans for networks without grids.
const MARGIN_VOXELS: f64 = 100.0;

/// Points on one side of the square on which the memory of a network is measured.
const PROBE_SIDE: usize = 64;
/// Bytes per voxel outside the arena: neighbour lists, search structures, features and probabilities; measured.
const OUTSIDE_ARENA: u64 = 500;

/// A model with what it needs to know about scans.
///
/// ```no_run
/// use cairn::device::Device;
/// use cairn::infer::{Options, Segmenter};
///
/// let mut scan = cairn::io::read("scan.laz")?;
/// let mut segmenter = Segmenter::read("model.safetensors", Device::Cpu)?;
/// let prediction = segmenter.segment(&scan.cloud, &Options::default(), &mut |_, _| Ok(()))?;
/// cairn::io::write("labelled.laz", &scan, &segmenter.labels(&prediction))?;
/// # Ok::<(), cairn::Error>(())
/// ```
#[derive(Debug)]
pub struct Segmenter {
    model: Model,
    metadata: ModelMetadata,
    executor: Executor,
    /// Bytes that the network takes per voxel, once they are measured.
    per_voxel: Option<u64>,
}

impl Segmenter {
    /// Builds the network that a model file describes and loads its weights; `name` is used in messages only.
    ///
    /// # Errors
    /// No description of a model, one that contradicts itself, or weights that do not fit it.
    pub fn new(tensors: &Tensors, name: impl AsRef<Path>, device: Device) -> Result<Segmenter> {
        let metadata = ModelMetadata::from_tensors(tensors, name)?;
        let model = load_model(&metadata.network, tensors, device)?;
        Ok(Segmenter {
            model,
            metadata,
            executor: Executor::new(device),
            per_voxel: None,
        })
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// As [`Segmenter::new`], and everything that can be wrong with the file.
    pub fn read(path: impl AsRef<Path>, device: Device) -> Result<Segmenter> {
        let path = path.as_ref();
        Segmenter::new(&safetensors::read(path)?, path, device)
    }

    /// A model inside the program.
    ///
    /// # Errors
    /// Only those of the device.
    pub fn shipped(model: &Shipped, device: Device) -> Result<Segmenter> {
        Segmenter::new(&model.tensors()?, format!("model {}", model.name), device)
    }

    /// The segmenter with matrix products in `precision`.
    ///
    /// # Errors
    /// As [`Executor::in_precision`].
    pub fn in_precision(self, precision: Precision) -> Result<Segmenter> {
        Ok(Segmenter {
            executor: self.executor.in_precision(precision)?,
            ..self
        })
    }

    /// Classes, input features and voxel size.
    pub fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    /// Logits [N, C] of a ragged batch of prepared points: `coord` \[N\] in metres, `offsets` B+1 entries, `feat` [N, Cin].
    ///
    /// # Errors
    /// As [`predict::logits`].
    pub fn logits(
        &mut self,
        coord: &[[f32; 3]],
        offsets: &[usize],
        feat: Vec<f32>,
    ) -> Result<Vec<f32>> {
        predict::logits(&self.model, &mut self.executor, coord, offsets, feat)
    }

    /// A class for every point; `watch` is called before every run of the network with the views done and in all.
    ///
    /// # Errors
    /// As [`segment::segment`].
    pub fn segment(
        &mut self,
        cloud: &PointCloud,
        options: &Options,
        watch: Watch<'_>,
    ) -> Result<Prediction> {
        let input = self.metadata.input.clone();
        let margin = self.margin();
        segment::segment(cloud, &input, margin, options, self, watch)
    }

    /// A class for every point of a scan that lies on disk. `folder` takes the temporary file of the results, `watch` is
    /// called before every run of the network with the points done and in all.
    ///
    /// # Errors
    /// As [`Large::segment`].
    pub fn segment_large(
        &mut self,
        scan: &Large,
        folder: &Path,
        options: &Options,
        share: Share,
        watch: large::Watch<'_>,
    ) -> Result<Outcome> {
        let input = self.metadata.input.clone();
        let how = large::How {
            input: &input,
            margin: self.margin(),
            views: options.views,
            share,
        };
        scan.segment(folder, &how, self, watch)
    }

    /// What a segmentation needs of memory; `held` bytes are those of the files. The network is run on a small surface to
    /// see what it takes per voxel.
    ///
    /// # Errors
    /// Those of the device.
    pub fn needs(&mut self, held: u64) -> Result<Needs<'_>> {
        let per_voxel = match self.per_voxel {
            Some(bytes) => bytes,
            None => self.measure()?,
        };
        self.per_voxel = Some(per_voxel);
        Ok(Needs {
            features: &self.metadata.input.features,
            classes: self.metadata.classes.len(),
            per_voxel,
            held,
        })
    }

    /// Bytes that the network takes per voxel.
    fn measure(&mut self) -> Result<u64> {
        let size = self.metadata.input.voxel_size;
        let count = PROBE_SIDE * PROBE_SIDE;
        let coord: Vec<[f32; 3]> = (0..count)
            .map(|i| {
                let (x, y) = ((i % PROBE_SIDE) as f64, (i / PROBE_SIDE) as f64);
                // A step every sixteen points: surfaces of scans are not flat.
                [x, y, 2.0 * (x / 16.0).floor()].map(|v| (v * size) as f32)
            })
            .collect();
        let feat = vec![0.0; count * self.model.network.input_channels()];
        self.logits(&coord, &[0, count], feat)?;
        let arena = self.executor.arena_bytes() as u64 / count as u64;
        Ok(arena + arena / 8 + OUTSIDE_ARENA)
    }

    /// What a writer adds to the scan: codes and names of the classes. Points without a class get the code
    /// [`Segmenter::no_class`].
    pub fn labels(&self, prediction: &Prediction) -> Labels {
        let codes = self.codes();
        let code = |class: &i32| match usize::try_from(*class) {
            Ok(class) => codes[class],
            Err(_) => self.no_class(),
        };
        Labels {
            code: prediction.class.iter().map(code).collect(),
            confidence: prediction.confidence.clone(),
            classes: codes
                .iter()
                .copied()
                .zip(self.metadata.class_names())
                .collect(),
        }
    }

    /// Code of points without a class: 0, or −1 where a class has the code 0.
    pub fn no_class(&self) -> i32 {
        if self.codes().contains(&0) { -1 } else { 0 }
    }

    fn codes(&self) -> Vec<i32> {
        let codes = self.metadata.class_codes();
        codes.into_iter().map(|c| c as i32).collect()
    }

    /// Width of the margin of tiles, metres.
    fn margin(&self) -> f64 {
        let grids = self.metadata.network.get("grid_sizes");
        let coarsest = grids
            .and_then(|g| {
                g.as_array()?
                    .iter()
                    .map(|x| x.as_f64())
                    .collect::<Option<Vec<_>>>()
            })
            .and_then(|g| g.into_iter().reduce(f64::max));
        coarsest.map_or(MARGIN_VOXELS * self.metadata.input.voxel_size, |g| {
            MARGIN_CELLS * g
        })
    }
}

impl Classifier for Segmenter {
    fn classes(&self) -> usize {
        self.metadata.classes.len()
    }

    fn probabilities(&mut self, coord: &[[f32; 3]], feat: Vec<f32>) -> Result<Vec<f32>> {
        let offsets = [0, coord.len()];
        let mut rows = self.logits(coord, &offsets, feat)?;
        predict::softmax(&mut rows, self.classes());
        Ok(rows)
    }

    /// On a GPU, a thread of its own prepares the next input beside the run of one: points become features and index
    /// lists, which it brings to the GPU.
    fn each(
        &mut self,
        inputs: &mut (dyn Iterator<Item = Result<Input>> + Send),
        turn: &mut dyn Turn,
    ) -> Result<()> {
        let (device, classes) = (self.model.params.device(), self.classes());
        let Segmenter {
            model, executor, ..
        } = self;
        let mut run = |prepared: Result<Prepared>| -> Result<()> {
            let prepared = prepared?;
            turn.before()?;
            let mut rows = predict::logits_of(model, executor, prepared)?;
            predict::softmax(&mut rows, classes);
            turn.after(rows)
        };
        let network = &*model.network;
        let mut prepared = inputs.map(|input| {
            let Input { coord, feat } = input?;
            predict::prepare(network, device, &coord, &[0, coord.len()], feat)
        });
        if device == Device::Cpu {
            return prepared.try_for_each(run);
        }
        // One waits while another is prepared.
        let (sender, ready) = sync_channel(0);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ahead = match device.ahead() {
                    Ok(ahead) => ahead,
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        return;
                    }
                };
                for prepared in prepared {
                    // The other end is gone after an error.
                    if sender.send(prepared).is_err() {
                        return;
                    }
                }
            });
            ready.into_iter().try_for_each(&mut run)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::graph::check::devices;
    use crate::infer::Views;
    use crate::measure::room;

    /// A segmenter that prepares nothing ahead.
    struct OneByOne(Segmenter);

    impl Classifier for OneByOne {
        fn classes(&self) -> usize {
            Classifier::classes(&self.0)
        }

        fn probabilities(&mut self, coord: &[[f32; 3]], feat: Vec<f32>) -> Result<Vec<f32>> {
            self.0.probabilities(coord, feat)
        }
    }

    #[test]
    fn inputs_that_are_prepared_ahead_give_the_same_bits() {
        let (coord, _) = room(700, 1);
        let cloud = PointCloud {
            coord: coord.iter().map(|p| p.map(f64::from)).collect(),
            attributes: Vec::new(),
        };
        let options = Options {
            views: Views::Plain,
            tile_voxels: 400,
        };
        for device in devices() {
            let model = Shipped::named("robot_cell").unwrap();
            let segmenter = || Segmenter::shipped(model, device).unwrap();
            let input = segmenter().metadata.input;
            let of = |classifier: &mut dyn Classifier, last: usize| {
                let mut watch = |done, _| match done {
                    done if done <= last => Ok(()),
                    _ => Err(Error::argument("watch", "stops")),
                };
                segment::segment(&cloud, &input, 0.1, &options, classifier, &mut watch)
            };
            let expected = of(&mut OneByOne(segmenter()), usize::MAX).unwrap();
            assert!(expected.tiles > 1, "one tile has no next");
            let found = of(&mut segmenter(), usize::MAX).unwrap();
            assert_eq!(found, expected, "{device}");
            assert!(of(&mut segmenter(), 0).is_err(), "{device} does not stop");
        }
    }
}
