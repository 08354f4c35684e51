//! What the profiler counts. The emulator counts all that a process launches, so these tests have a process of their own
//! and go one after the other.

use cairn::device::{Device, Gpu};
use cairn::graph::check::devices;
use cairn::profile::{attention, network};
use std::sync::{Mutex, MutexGuard};

/// The right to count, if there is an emulator to count with.
fn emulator() -> Option<MutexGuard<'static, ()>> {
    static COUNTS: Mutex<()> = Mutex::new(());
    let is_there = devices().contains(&Device::Cuda(Gpu::Emulator));
    is_there.then(|| COUNTS.lock().unwrap_or_else(|e| e.into_inner()))
}

/// At 10 000 points a level, so that weights are small beside what the points move. The goal is a tenth at all widths; at
/// 384 channels the position tables of windows weigh too much for it.
#[test]
fn attention_moves_a_tenth_of_the_official_bytes_but_for_the_widest_windows() {
    let Some(_alone) = emulator() else { return };
    for layer in attention::grouped([10_000; 4]).unwrap() {
        assert!(10 * layer.least < layer.official, "{layer:?}");
        assert!(layer.least < layer.requested && layer.requested < layer.official);
    }
    for layer in attention::windows([10_000; 4]).unwrap() {
        let share = if layer.channels < 384 { 10 } else { 6 };
        assert!(share * layer.least < layer.official, "{layer:?}");
        assert!(layer.least < layer.requested && layer.requested < layer.official);
    }
}

#[test]
fn the_network_is_bound_far_below_the_official_code() {
    let Some(_alone) = emulator() else { return };
    let found = network::forecast(200, 6000).unwrap();
    assert_eq!(found.levels[0], 6000);
    assert!(found.levels.is_sorted_by(|fine, coarse| fine > coarse));
    let bytes: u64 = found.features.values().map(|s| s.work.bytes).sum();
    // Features and logits at least, and not a fifth of what the official operators move.
    assert!(bytes > 4 * 6000 * 19, "{bytes}");
    let official = found.official_features.work.bytes;
    assert!(5 * bytes < official, "{bytes} of {official}");
    for kernel in ["aggregate_forward", "linear_forward_tensor"] {
        let times = found.features[kernel].times;
        let [a100, h100, _, orin] = times;
        assert!(0.0 < h100 && h100 < a100 && a100 < orin, "{times:?}");
    }
    assert!(found.lists.contains_key("knn_narrow"));
}
