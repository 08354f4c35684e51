//! Labelling a scan from a program: read, segment with a built-in model, look at the result, write.
//!
//!     cargo run --release --example segment_scan

use cairn::device::Device;
use cairn::infer::shipped::Facts;
use cairn::infer::{Options, Segmenter, Shipped};
use cairn::io;

/// Public, so that a test can run the example.
pub fn main() -> cairn::Result<()> {
    // A 50 m tile of a French town, as an airborne scanner saw it. The content decides the format, not the name.
    let tile = "data/scans/ign_urban/test_data_77060_627755_LA93_IGN69.laz";
    let scan = io::read(tile)?;
    println!("{} points, {}", scan.cloud.len(), scan.source.description());

    // A model of your own would be `Segmenter::read("model.safetensors", Device::Cpu)`.
    let (model, why) = Shipped::choose(&Facts::new(&scan)?)?;
    println!("model {}: the scan is {why}", model.name);
    let mut segmenter = Segmenter::shipped(model, Device::Cpu)?;

    // The last argument is called before every run of the network; an error from it stops the work.
    let start = std::time::Instant::now();
    let prediction = segmenter.segment(&scan.cloud, &Options::default(), &mut |_, _| Ok(()))?;
    println!("segmented in {:.2} s", start.elapsed().as_secs_f64());

    // One class and one confidence per point, in the order of the scan.
    for (class, name) in segmenter.metadata().class_names().iter().enumerate() {
        let of_class = || {
            let both = prediction.class.iter().zip(&prediction.confidence);
            both.filter(move |(c, _)| **c == class as i32)
        };
        let count = of_class().count();
        let sure = of_class()
            .filter(|(_, confidence)| **confidence > 0.9)
            .count();
        println!("{name:<12} {count:>6} points, {sure:>6} with a confidence above 0.9");
    }

    // The file knows what its points are: compare.
    if let Some(truth) = scan.cloud.labels() {
        let metadata = segmenter.metadata();
        let classes = truth.code.iter().map(|code| metadata.class_of_code(*code));
        let known = classes
            .zip(&prediction.class)
            .filter_map(|(truth, found)| Some((truth? as i32, *found)));
        let (right, all) = known.fold((0, 0), |(right, all), (truth, found)| {
            (right + usize::from(truth == found), all + 1)
        });
        println!("{right} of {all} labelled points agree");
    }

    // All attributes stay; the classification is replaced and the confidence added. The file appears whole or not at all.
    let output = std::env::temp_dir().join("cairn_labelled.laz");
    io::write(&output, &scan, &segmenter.labels(&prediction))?;
    println!("wrote {}", output.display());
    Ok(())
}
