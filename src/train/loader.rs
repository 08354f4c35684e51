//! From data set to batches: every batch is a pure function of the configuration and the step number, so there is no
//! position in the data to store and a resumed run sees what the first one would have seen.
//!
//! cloud → augmentation → one random point per voxel → sphere crop → centred in x and y, or moved to a corner → feature rows → batch → Mix3D.
//! Clouds are drawn without replacement within an epoch, in a random order per epoch.

use super::config::{Center, Config};
use crate::Result;
use crate::cloud::augment;
use crate::cloud::batch::Batch;
use crate::cloud::crop::sphere_crop;
use crate::cloud::features::{self, Sample};
use crate::cloud::voxel::Voxels;
use crate::dataset::Dataset;
use crate::device::cuda::Mark;
use crate::device::random::{Random, Sequence};
use crate::device::{Array, Device};
use crate::models::{Geometry, Network};

/// Stream of the epochs' orders, beside the streams of the steps.
const ORDER: u64 = u64::MAX;
/// Forks of an item's stream, beyond the number of any transform.
const PICK: u64 = 1 << 32;
const CENTRE: u64 = PICK + 1;
/// Fork of a step's stream, beyond the number of any cloud of a batch.
const MIX: u64 = PICK + 2;

/// What a network learns from in one step, brought to its device.
#[derive(Debug)]
pub struct Prepared {
    /// Number of points N.
    pub points: usize,
    /// [N, C] features.
    pub feat: Array<f32>,
    /// C.
    pub channels: usize,
    /// \[N\] classes, or [`crate::cloud::batch::IGNORED`].
    pub target: Array<i32>,
    /// Index lists, made by the network that is trained.
    pub geometry: Geometry,
    /// What to wait for before anything of it is used.
    pub ready: Option<Mark>,
}

impl Prepared {
    /// A batch and its index lists on `device`.
    ///
    /// # Errors
    /// Faults of a GPU.
    pub fn new(device: Device, batch: Batch, geometry: Geometry) -> Result<Prepared> {
        let points = batch.len();
        let (feat, target) = (Array::from(batch.feat), Array::from(batch.target));
        if let Device::Cuda(gpu) = device {
            feat.on(gpu)?;
            target.on(gpu)?;
        }
        Ok(Prepared {
            points,
            feat,
            channels: batch.channels,
            target,
            geometry,
            ready: device.mark()?,
        })
    }
}

/// The random stream of step `step` of a run with seed `seed`.
pub fn stream(seed: u64, step: u64) -> Random {
    Random::new(seed, step)
}

/// The batch of step `step`, with geometry for `network` on `device`.
///
/// # Errors
/// Whatever reading, augmenting or voxelising a cloud meets.
pub fn prepare(
    config: &Config,
    data: &dyn Dataset,
    network: &dyn Network,
    device: Device,
    step: u64,
) -> Result<Prepared> {
    let batch = batch(config, data, step)?;
    let geometry = network.geometry(device, &batch.coord, &batch.offsets)?;
    Prepared::new(device, batch, geometry)
}

/// The batch of step `step`.
///
/// # Errors
/// As [`prepare`].
pub fn batch(config: &Config, data: &dyn Dataset, step: u64) -> Result<Batch> {
    let random = stream(config.train.seed, step);
    let size = config.train.batch as u64;
    let mut batch = Batch::new(features::channels(&config.input.features));
    for i in 0..size {
        let number = drawn(config.train.seed, step * size + i, data.len() as u64);
        let cloud = data.cloud(number)?;
        let sample = item(config, &cloud.sample, random.fork(i))?;
        let limit = config.train.batch_points.unwrap_or(usize::MAX);
        if !batch.is_empty() && batch.len() + sample.len() > limit {
            break; // as the reference: the rest of the batch is left out
        }
        let feat = features::matrix(&sample, &config.input.features);
        batch.push(&sample.coord, &feat, &sample.label)?;
    }
    if random.fork(MIX).uniform(0) < config.train.mix_probability {
        batch.mix_pairs();
    }
    Ok(batch)
}

/// Number of the cloud that is drawn as the `draw`-th of a run.
fn drawn(seed: u64, draw: u64, clouds: u64) -> usize {
    let mut order: Vec<usize> = (0..clouds as usize).collect();
    let epoch = Random::new(seed, ORDER).fork(draw / clouds);
    Sequence::new(epoch).shuffle(&mut order);
    order[(draw % clouds) as usize]
}

/// One training cloud, ready for its feature rows.
fn item(config: &Config, sample: &Sample, random: Random) -> Result<Sample> {
    let steps = augment::sample(&config.augment, random);
    let sample = augment::apply(&steps, sample.clone())?;
    let voxels = Voxels::new(&sample.coord, config.input.voxel_size)?;
    let mut sample = sample.select(&voxels.pick(random.fork(PICK)));
    if let Some(count) = config.input.crop_points
        && sample.len() > count
    {
        let centre = centre(config.data.center, &sample.label, random.fork(CENTRE));
        sample = sample.select(&sphere_crop(&sample.coord, centre, count));
    }
    config.input.frame.place(&mut sample.coord);
    Ok(sample)
}

/// Row on which the crop is centred.
fn centre(how: Center, label: &[i32], random: Random) -> usize {
    let mut s = Sequence::new(random);
    if how == Center::Class {
        let mut classes: Vec<i32> = label.iter().copied().filter(|c| *c >= 0).collect();
        classes.sort_unstable();
        classes.dedup();
        if !classes.is_empty() {
            let class = classes[s.below(classes.len() as u64) as usize];
            let rows: Vec<usize> = (0..label.len()).filter(|r| label[*r] == class).collect();
            return rows[s.below(rows.len() as u64) as usize];
        }
    }
    s.below(label.len() as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::LabelledCloud;
    use std::sync::Arc;

    #[test]
    fn every_cloud_is_drawn_once_per_epoch() {
        for epoch in 0..5 {
            let mut drawn: Vec<usize> = (0..7).map(|i| super::drawn(3, epoch * 7 + i, 7)).collect();
            drawn.sort_unstable();
            assert_eq!(drawn, (0..7).collect::<Vec<_>>());
        }
        let order = |seed| {
            (0..20)
                .map(|d| super::drawn(seed, d, 20))
                .collect::<Vec<_>>()
        };
        assert_ne!(order(1), order(2));
    }

    /// Clouds of 100, 200 and 300 points, each in its own voxel.
    struct Lines;

    impl Dataset for Lines {
        fn len(&self) -> usize {
            3
        }

        fn name(&self, _: usize) -> &str {
            "line"
        }

        fn cloud(&self, number: usize) -> Result<Arc<LabelledCloud>> {
            let count = 100 * (number + 1);
            let sample = Sample {
                coord: (0..count).map(|i| [i as f32, 0.0, 0.0]).collect(),
                scalars: vec![vec![0.0; count]],
                label: vec![0; count],
                ..Sample::default()
            };
            Ok(Arc::new(LabelledCloud {
                sample,
                target: vec![0; count],
                row_of: (0..count as u32).collect(),
            }))
        }
    }

    #[test]
    fn batches_end_before_too_many_points() {
        let text = include_str!("example.toml").replacen("batch = 2", "batch = 3", 1);
        let mut config = Config::parse(&text, std::path::Path::new("c.toml")).unwrap();
        config.train.mix_probability = 0.0;
        let sizes = |config: &Config, step| {
            let batch = batch(config, &Lines, step).unwrap();
            let ends = batch.offsets.windows(2);
            ends.map(|w| w[1] - w[0]).collect::<Vec<_>>()
        };
        for step in 0..6 {
            config.train.batch_points = None;
            let all = sizes(&config, step);
            assert_eq!(all.len(), 3);
            for limit in [1, 350, 600] {
                config.train.batch_points = Some(limit);
                let mut total = 0;
                let fits = |size: &&usize| {
                    total += **size;
                    total <= limit
                };
                let kept = all.iter().take_while(fits).count().max(1);
                assert_eq!(sizes(&config, step), all[..kept]);
            }
        }
    }

    #[test]
    fn class_centres_meet_rare_classes_often() {
        let mut label = vec![0; 1000];
        label[17] = 1;
        label[18] = -1;
        let rare = |how| {
            (0..400)
                .filter(|i| centre(how, &label, Random::new(1, *i)) == 17)
                .count()
        };
        assert!(rare(Center::Point) < 10);
        assert!((150..250).contains(&rare(Center::Class)));
        assert!(centre(Center::Class, &[-1, -1], Random::new(1, 1)) < 2);
    }
}
