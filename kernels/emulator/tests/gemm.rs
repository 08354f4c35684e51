//! Tensor cores against f64: `mma.sync` in every shape, `ldmatrix`, pipelined `cp.async`.

mod support;

use cairn_emulator::Options;
use half::{bf16, f16};
use support::{Arg, Bench};

/// Numbers in [−1, 1] without pattern.
fn random(count: usize, mut state: u32) -> Vec<f32> {
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
    .take(count)
    .collect()
}

/// A [m, k]·Bᵀ [k, n] in f64, and the sum of magnitudes that bounds its rounding.
fn product(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<(f64, f64)> {
    let entry = |row: usize, column: usize| {
        let terms = (0..k).map(|i| a[row * k + i] * b[column * k + i]);
        (terms.clone().sum(), terms.map(f64::abs).sum())
    };
    (0..m * n).map(|at| entry(at / n, at % n)).collect()
}

fn assert_close(got: &[f32], want: &[(f64, f64)], added: impl Fn(usize) -> f64) {
    for (at, (got, (sum, magnitude))) in got.iter().zip(want).enumerate() {
        // One rounding to f32 per step of 16.
        let error = (f64::from(*got) - sum - added(at)).abs();
        assert!(
            error <= 1e-6 * (magnitude + 1.0),
            "entry {at}: {got} instead of {sum}"
        );
    }
}

#[test]
fn a_pipelined_gemm_matches_f64_in_any_order_on_any_number_of_threads() {
    let (m, n, k) = (48, 40, 64);
    let (a, b) = (random(m * k, 1), random(n * k, 2));
    for (kernel, is_bf16) in [("gemm_bf16", true), ("gemm_f16", false)] {
        let bits = |x: &f32| {
            if is_bf16 {
                bf16::from_f32(*x).to_bits()
            } else {
                f16::from_f32(*x).to_bits()
            }
        };
        let value = |x: &u16| {
            if is_bf16 {
                bf16::from_bits(*x).to_f64()
            } else {
                f16::from_bits(*x).to_f64()
            }
        };
        let (a, b): (Vec<u16>, Vec<u16>) =
            (a.iter().map(bits).collect(), b.iter().map(bits).collect());
        let want = product(
            &a.iter().map(value).collect::<Vec<_>>(),
            &b.iter().map(value).collect::<Vec<_>>(),
            m,
            n,
            k,
        );
        let mut first: Option<(Vec<f32>, String)> = None;
        for (threads, seed) in [(1, 0), (2, 0), (1, 7), (3, 8)] {
            let mut bench = Bench::with(
                include_str!("gemm.cu"),
                &[],
                Options {
                    threads,
                    seed,
                    ..Options::default()
                },
            );
            let (da, db, dc) = (
                bench.upload(&a),
                bench.upload(&b),
                bench.reserve((m * n * 4) as u64),
            );
            let args = [
                Arg::U64(da),
                Arg::U64(db),
                Arg::U32(n as u32),
                Arg::U32(k as u32),
                Arg::U64(dc),
            ];
            let grid = [n as u32 / 8, m as u32 / 16, 1];
            bench
                .launch_with(kernel, grid, [32, 1, 1], 0, &args)
                .unwrap_or_else(|error| panic!("{error}"));
            let got: Vec<f32> = bench.download(dc, m * n);
            assert_close(&got, &want, |_| 0.0);
            let profile = bench.machine.profile();
            let counts = &profile.kernels[kernel];
            assert_eq!(counts.cost.tensor_operations, (2 * m * n * k) as u64);
            assert_eq!(counts.global_bytes_read, (2 * (m + n) * k) as u64);
            assert_eq!(counts.global_bytes_written, (4 * m * n) as u64);
            let (values, json) = first.get_or_insert_with(|| (got.clone(), profile.to_json()));
            assert_eq!(
                (&got, &profile.to_json()),
                (&*values, &*json),
                "{threads} threads, seed {seed}"
            );
        }
    }
}

#[test]
fn small_tiles_match_f64() {
    let mut bench = Bench::new(include_str!("gemm.cu"));
    let (a, b) = (random(128, 3), random(64, 4));
    let (da, db, dc) = (bench.upload(&a), bench.upload(&b), bench.reserve(512));
    let args = || [Arg::U64(da), Arg::U64(db), Arg::U64(dc)];
    bench.launch("tile_tf32", 1, 32, &args()).unwrap();
    // tf32 keeps 10 bits, ties away from zero.
    let rounded = |x: &f32| f64::from(f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000));
    let want = product(
        &a.iter().map(rounded).collect::<Vec<_>>(),
        &b.iter().map(rounded).collect::<Vec<_>>(),
        16,
        8,
        8,
    );
    let start = |at: usize| (1 + at % 2 + 2 * (at / 64)) as f64;
    assert_close(&bench.download::<f32>(dc, 128), &want, start);

    let half = |x: &f32| f16::from_f32(*x).to_bits();
    let (a, b): (Vec<u16>, Vec<u16>) = (a.iter().map(half).collect(), b.iter().map(half).collect());
    let (da, db) = (bench.upload(&a), bench.upload(&b));
    bench
        .launch(
            "tile_f16",
            1,
            32,
            &[Arg::U64(da), Arg::U64(db), Arg::U64(dc)],
        )
        .unwrap();
    let value = |x: u16| f16::from_bits(x).to_f64();
    // B is [k, n] here: transposed for the reference.
    let transposed: Vec<f64> = (0..64).map(|at| value(b[at % 8 * 8 + at / 8])).collect();
    let want = product(
        &a.iter().map(|x| value(*x)).collect::<Vec<_>>(),
        &transposed,
        16,
        8,
        8,
    );
    assert_close(&bench.download::<f32>(dc, 128), &want, |_| 0.0);
}
