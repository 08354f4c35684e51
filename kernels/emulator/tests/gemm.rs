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

    for kernel in ["tile_bf16", "tile_f16"] {
        let (a, b): (Vec<u16>, Vec<u16>) = (
            a.iter().map(|x| half(kernel, *x)).collect(),
            b.iter().map(|x| half(kernel, *x)).collect(),
        );
        let (da, db) = (bench.upload(&a), bench.upload(&b));
        let args = [Arg::U64(da), Arg::U64(db), Arg::U64(dc)];
        bench.launch(kernel, 1, 32, &args).unwrap();
        // B is [k, n] here: transposed for the reference.
        let transposed: Vec<f64> = (0..64)
            .map(|at| wide(kernel, b[at % 8 * 8 + at / 8]))
            .collect();
        let a: Vec<f64> = a.iter().map(|x| wide(kernel, *x)).collect();
        let want = product(&a, &transposed, 16, 8, 8);
        assert_close(&bench.download::<f32>(dc, 128), &want, |_| 0.0);
    }
}

/// Bits of a number in the kind that a kernel multiplies.
fn half(kernel: &str, x: f32) -> u16 {
    match kernel {
        "tile_bf16" => bf16::from_f32(x).to_bits(),
        _ => f16::from_f32(x).to_bits(),
    }
}

fn wide(kernel: &str, bits: u16) -> f64 {
    match kernel {
        "tile_bf16" => bf16::from_bits(bits).to_f64(),
        _ => f16::from_bits(bits).to_f64(),
    }
}

/// What halves have besides ordinary numbers: the smallest, what is too large for f16, infinities, NaN.
#[test]
fn small_tiles_know_every_number() {
    let mut bench = Bench::new(include_str!("gemm.cu"));
    let dc = bench.reserve(512);
    for (kernel, x, is_finite) in [
        ("tile_f16", 6e-8, true),
        ("tile_bf16", 1e-39, true),
        ("tile_bf16", 65536.0, true),
        ("tile_f16", 65520.0, false),
        ("tile_bf16", 3.4e38, false),
        ("tile_f16", f32::NEG_INFINITY, false),
        ("tile_f16", f32::NAN, false),
        ("tile_bf16", f32::NAN, false),
    ] {
        // x in one corner of A against a column of B: 1 where it is met, 0 elsewhere.
        let (mut a, mut b) = (vec![0; 128], vec![0; 64]);
        a[0] = half(kernel, x);
        b[3] = half(kernel, 1.0);
        let (da, db) = (bench.upload(&a), bench.upload(&b));
        let args = [Arg::U64(da), Arg::U64(db), Arg::U64(dc)];
        bench.launch(kernel, 1, 32, &args).unwrap();
        let got = bench.download::<f32>(dc, 128);
        let want = wide(kernel, a[0]);
        assert_eq!(want.is_finite(), is_finite, "{kernel} {x}");
        let same = f64::from(got[3]) == want || got[3].is_nan() && want.is_nan();
        assert!(same, "{kernel}: {} instead of {want}", got[3]);
        // infinity times 0 is not 0
        assert_eq!(got[0].is_nan(), !want.is_finite(), "{kernel} {x}");
        assert_eq!(got[8 + 3], 0.0);
    }
}
