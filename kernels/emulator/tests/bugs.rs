//! Seeded bugs: each must be caught, and by its name. Their sound twins must pass.

mod support;

use cairn_emulator::{Options, ViolationKind as Kind};
use support::{Arg, Bench};

fn bench() -> Bench {
    Bench::new(include_str!("bugs.cu"))
}

/// A kernel that takes one buffer of `floats` zeros.
fn caught(kernel: &str, blocks: u32, threads: u32, floats: usize, kind: Kind) {
    let mut bench = bench();
    let y = bench.upload(&vec![0f32; floats]);
    let violation = bench.assert_caught(kernel, blocks, threads, &[Arg::U64(y)], kind);
    assert_eq!(violation.kernel, kernel);
    let named = !violation.instruction.is_empty() && violation.source.1 > 0;
    assert!(named || kernel == "blocks_race", "no place: {violation:?}");
}

fn sound(kernel: &str, blocks: u32, threads: u32, floats: usize) -> Vec<f32> {
    let mut bench = bench();
    let y = bench.upload(&vec![0f32; floats]);
    bench
        .launch(kernel, blocks, threads, &[Arg::U64(y)])
        .unwrap_or_else(|error| panic!("{error}"));
    bench.download(y, floats)
}

#[test]
fn a_barrier_that_a_part_of_a_warp_reaches() {
    caught("divergent_barrier", 1, 64, 64, Kind::DivergentBarrier);
    caught("barrier_of_a_part", 1, 64, 64, Kind::ExitedBeforeBarrier);
}

#[test]
fn warps_that_exit_before_a_barrier() {
    caught("early_exit", 1, 64, 64, Kind::ExitedBeforeBarrier);
}

#[test]
fn a_shuffle_that_a_part_of_its_mask_executes() {
    caught("partial_shuffle", 1, 32, 32, Kind::MissingLanes);
}

#[test]
fn a_shuffle_by_lanes_outside_its_mask() {
    caught("wrong_mask", 1, 32, 32, Kind::WrongMask);
}

#[test]
fn a_shuffle_from_a_lane_that_is_not_there() {
    caught("inactive_source", 1, 32, 32, Kind::InactiveLane);
}

#[test]
fn reads_of_what_nobody_wrote() {
    caught("uninitialised_shared", 1, 64, 64, Kind::Uninitialised);
    let mut bench = bench();
    let (y, t) = (bench.upload(&[0f32; 32]), bench.reserve(128));
    bench.assert_caught(
        "uninitialised_global",
        1,
        32,
        &[Arg::U64(y), Arg::U64(t)],
        Kind::Uninitialised,
    );
    bench.assert_caught(
        "uninitialised_local",
        1,
        32,
        &[Arg::U64(y), Arg::U32(3)],
        Kind::Uninitialised,
    );
    bench
        .launch("uninitialised_local", 1, 32, &[Arg::U64(y), Arg::U32(16)])
        .unwrap();
}

#[test]
fn blocks_that_write_the_same() {
    caught("blocks_race", 2, 32, 32, Kind::Race);
    caught("blocks_race", 7, 32, 32, Kind::Race);
    assert_eq!(sound("blocks_race", 1, 32, 32), [1.0; 32]);
}

#[test]
fn races_between_blocks_are_found_on_any_number_of_threads_and_in_any_order() {
    for threads in [1, 2, 3] {
        for seed in [0, 1, 99] {
            let options = Options {
                threads,
                seed,
                ..Options::default()
            };
            let mut bench = Bench::with(include_str!("bugs.cu"), &[], options);
            let y = bench.upload(&[0f32; 32]);
            bench.assert_caught("blocks_race", 5, 32, &[Arg::U64(y)], Kind::Race);
        }
    }
}

#[test]
fn misaligned_vectors() {
    caught("misaligned", 1, 4, 64, Kind::Misaligned);
}

#[test]
fn accesses_outside() {
    caught("outside_shared", 1, 64, 64, Kind::OutOfBounds);
    let mut bench = bench();
    let y = bench.upload(&[0f32; 40]);
    for (from, kernel_is_sound) in [
        (8, true),
        (9, false),
        (1 << 12, false),
        (u32::MAX - 40, false),
    ] {
        if kernel_is_sound {
            bench
                .launch("outside_global", 1, 32, &[Arg::U64(y), Arg::U32(from)])
                .unwrap();
        } else {
            let args = [Arg::U64(y), Arg::U32(from)];
            bench.assert_caught("outside_global", 1, 32, &args, Kind::OutOfBounds);
        }
    }
}

#[test]
fn memory_that_was_freed() {
    let mut bench = bench();
    let (x, y) = (bench.upload(&[0f32; 32]), bench.upload(&[0f32; 32]));
    bench
        .launch("read_it", 1, 32, &[Arg::U64(x), Arg::U64(y)])
        .unwrap();
    bench.machine.free(x).unwrap();
    bench.upload(&[0f32; 32]);
    bench.assert_caught(
        "read_it",
        1,
        32,
        &[Arg::U64(x), Arg::U64(y)],
        Kind::UseAfterFree,
    );
}

#[test]
fn missing_barriers() {
    caught("missing_syncthreads", 1, 64, 64, Kind::Race);
    caught("missing_second_syncthreads", 1, 64, 64, Kind::Race);
    caught("missing_syncwarp", 1, 32, 32, Kind::Race);
    sound("sound_reduction", 3, 64, 192);
}

#[test]
fn atomics_that_meet_plain_writes() {
    caught("atomic_and_plain", 1, 64, 1, Kind::Race);
    assert_eq!(sound("sound_atomics", 3, 64, 1), [192.0]);
}

#[test]
fn halves_of_a_word_are_told_apart() {
    caught("same_half_word", 1, 64, 64, Kind::Race);
    sound("sound_half_words", 1, 64, 64);
}

#[test]
fn copies_that_are_not_awaited() {
    let mut bench = bench();
    let x: Vec<f32> = (0..512).map(|i| i as f32).collect();
    let (x, y) = (bench.upload(&x), bench.upload(&[0f32; 512]));
    let args = || [Arg::U64(x), Arg::U64(y)];
    bench.assert_caught("missing_copy_wait", 1, 32, &args(), Kind::CopyNotAwaited);
    bench.assert_caught("copy_wait_too_weak", 1, 32, &args(), Kind::CopyNotAwaited);
    // The other warp's copy: it is pending or unordered, depending on who runs first.
    let violations = bench.violations("copy_without_barrier", 1, 64, &args());
    assert!(violations.iter().all(|v| matches!(
        v.kind,
        Kind::CopyNotAwaited | Kind::Race | Kind::Uninitialised
    )));
    bench.launch("sound_copy", 1, 64, &args()).unwrap();
    let y: Vec<f32> = bench.download(y, 512);
    assert!((0..64).all(|i| y[4 * i] == (4 * (63 - i)) as f32 && y[4 * (i + 64)] == (4 * (127 - i)) as f32));
}

#[test]
fn named_barriers_order_their_participants_only() {
    let y = sound("sound_named", 1, 128, 96);
    assert!((0..96).all(|i| y[i] == (31 - i % 32 + i / 32) as f32));
    caught("named_too_early", 1, 128, 96, Kind::Race);
}

#[test]
fn barriers_whose_participants_disagree() {
    caught("named_mismatch", 1, 96, 96, Kind::BarrierMismatch);
    caught("named_never_complete", 1, 64, 64, Kind::BarrierMismatch);
    caught(
        "arrival_nobody_awaits",
        1,
        64,
        64,
        Kind::ExitedBeforeBarrier,
    );
}

#[test]
fn kernels_that_never_end_or_trap() {
    let options = Options {
        instruction_limit: 1 << 20,
        ..Options::default()
    };
    let mut bench = Bench::with(include_str!("bugs.cu"), &[], options);
    let y = bench.upload(&[0f32; 32]);
    bench.assert_caught("endless", 1, 32, &[Arg::U64(y)], Kind::NoProgress);
    caught("trapped", 1, 32, 32, Kind::Trap);
}

#[test]
fn traffic_is_counted_exactly() {
    let mut bench = bench();
    let (x, y) = (bench.upload(&[0f32; 256]), bench.upload(&[0f32; 32]));
    bench.launch("conflicts", 1, 32, &[Arg::U64(y)]).unwrap();
    bench.launch("padded", 1, 32, &[Arg::U64(y)]).unwrap();
    bench
        .launch("strided", 1, 32, &[Arg::U64(x), Arg::U64(y)])
        .unwrap();
    let kernels = &bench.machine.profile().kernels;
    let conflicts = &kernels["conflicts"].cost;
    assert_eq!(
        (conflicts.shared_wavefronts, conflicts.bank_conflicts),
        (64, 62)
    );
    assert_eq!(
        (
            kernels["padded"].cost.shared_wavefronts,
            kernels["padded"].cost.bank_conflicts
        ),
        (2, 0)
    );
    let strided = &kernels["strided"];
    assert_eq!(
        (
            strided.cost.global_sectors,
            strided.cost.global_sectors_least
        ),
        (32 + 4, 4 + 4)
    );
    assert_eq!(
        (strided.global_bytes_read, strided.global_bytes_written),
        (32 * 32, 128)
    );
    let line = strided
        .lines
        .iter()
        .find(|line| line.cost.global_sectors > 0)
        .unwrap();
    assert!(
        line.file.ends_with("default_program") && line.line > 0,
        "{line:?}"
    );
}
