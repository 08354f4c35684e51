//! Whole-network benches: PTv2 and Stratified Transformer in their S3DIS configurations on a synthetic room, inference
//! and training step.
//!
//! `cargo bench --bench network` prints seconds and points per second; the names are `<network>/<job>/<points>`.
//! `cairn bench` does the same without Criterion.

use cairn::device::Device;
use cairn::measure::{Inference, Job, Training, scene};
use cairn::models::Model;
use cairn::train::Config;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::path::Path;

/// A network in the configuration `data/configs/<name>.toml`.
fn model(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/configs");
    let config = Config::read(&folder.join(name).with_extension("toml")).expect("it is valid");
    Model::new(&config.network, Device::Cpu, 1).expect("it is valid")
}

fn network(criterion: &mut Criterion) {
    let smoke = std::env::args().any(|a| a == "--test");
    let sizes: &[usize] = if smoke {
        &[2_000]
    } else {
        &[10_000, 40_000, 80_000]
    };
    for name in ["s3dis_ptv2", "s3dis_stratified"] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        for &points in sizes {
            group.throughput(Throughput::Elements(points as u64));
            let batch = || {
                let network = model(name).network;
                scene(points, network.input_channels(), network.classes()).expect("it fits")
            };
            let mut inference = Inference::new(model(name), batch(), Device::Cpu);
            group.bench_function(format!("inference/{points}"), |b| {
                b.iter(|| inference.once().expect("it runs"));
            });
            drop(inference);
            let mut training = Training::new(model(name), batch(), Device::Cpu).expect("memory");
            group.bench_function(format!("training step/{points}"), |b| {
                b.iter(|| training.once().expect("it runs"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, network);
criterion_main!(benches);
