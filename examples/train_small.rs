//! Training from a program: scenes made on the spot, a tiny network, seconds of work, and a scan that it has not seen.
//!
//!     cargo run --release --example train_small

use cairn::Result;
use cairn::cloud::PointCloud;
use cairn::dataset::{Dataset, Duplicates, LabelledCloud};
use cairn::device::Device;
use cairn::device::random::{Random, Sequence};
use cairn::infer::{Options, Segmenter};
use cairn::train::log::Record;
use cairn::train::{Config, Session, Start, Watch};
use std::path::Path;
use std::sync::Arc;

/// What `cairn train` reads from a file.
const CONFIGURATION: &str = include_str!("train_small.toml");

/// Rough ground with cars and posts, somewhere on a map, and the class of every point.
fn scene(seed: u64) -> (PointCloud, Vec<i32>) {
    let mut s = Sequence::new(Random::new(seed, 0));
    let mut points = Vec::new();
    for _ in 0..3000 {
        let p = [
            s.between(0.0, 16.0),
            s.between(0.0, 16.0),
            s.between(0.0, 0.1),
        ];
        points.push((p, 0));
    }
    for (count, class, [long, wide, high]) in [(4, 1, [4.0, 1.8, 1.5]), (6, 2, [0.2, 0.2, 3.5])] {
        for _ in 0..count {
            let corner = [s.between(0.0, 12.0), s.between(0.0, 14.0)];
            for _ in 0..300 {
                let p = [long * s.uniform(), wide * s.uniform(), high * s.uniform()];
                points.push(([corner[0] + p[0], corner[1] + p[1], p[2]], class));
            }
        }
    }
    let (coord, class) = points
        .into_iter()
        .map(|([x, y, z], class)| ([x + 652_000.0, y + 6_861_000.0, z], class))
        .unzip();
    (
        PointCloud {
            coord,
            ..PointCloud::default()
        },
        class,
    )
}

/// A data set is whatever gives labelled clouds by number; `cairn::dataset::folder` is the one that reads files.
struct Scenes(Vec<Arc<LabelledCloud>>);

impl Scenes {
    fn new(seeds: std::ops::Range<u64>, config: &Config) -> Result<Scenes> {
        let cloud = |seed| {
            let (cloud, class) = scene(seed);
            LabelledCloud::new(&cloud, &class, &config.input.features, Duplicates::Keep)
                .map(Arc::new)
        };
        seeds.map(cloud).collect::<Result<Vec<_>>>().map(Scenes)
    }
}

impl Dataset for Scenes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, _: usize) -> &str {
        "made scene"
    }

    fn cloud(&self, number: usize) -> Result<Arc<LabelledCloud>> {
        Ok(self.0[number].clone())
    }
}

/// Sees every step, and could stop the run; it would go on from its checkpoint with `Start::Resume`.
struct Print;

impl Watch for Print {
    fn record(&mut self, record: &Record, total: u64) {
        if let Record::Validation { step, miou, .. } = record {
            println!("step {step} of {total}: validation mIoU {miou:.3}");
        }
    }

    fn stop(&self) -> bool {
        false
    }
}

/// Public, so that a test can run the example.
pub fn main() -> Result<()> {
    let config = Config::parse(CONFIGURATION, Path::new("train_small"))?;
    let (train, validate) = (Scenes::new(0..6, &config)?, Scenes::new(6..8, &config)?);
    let output = std::env::temp_dir().join("cairn_train_small");
    let session = Session {
        config: &config,
        text: CONFIGURATION, // kept in the checkpoint
        train: &train,
        validate: &validate,
        output: &output,
        device: Device::Cpu,
    };
    let summary = session.run(Start::Again, &mut Print)?;

    // The model file says everything about itself. Here it labels a scene that nobody has chosen it for.
    let mut segmenter = Segmenter::read(&summary.model, Device::Cpu)?;
    let (cloud, class) = scene(99);
    let prediction = segmenter.segment(&cloud, &Options::default(), &mut |_, _| Ok(()))?;
    let right = prediction
        .class
        .iter()
        .zip(&class)
        .filter(|(a, b)| a == b)
        .count();
    println!(
        "{right} of {} points of a new scene are right; {} holds the model",
        class.len(),
        summary.model.display()
    );
    assert!(
        right * 10 > class.len() * 9,
        "the network has learnt too little"
    );
    Ok(())
}
