//! What instructions compute, against Rust's own arithmetic, on special and on random operands.
//!
//! Each case is one PTX instruction in a kernel of its own, compiled by NVRTC. A signature such as `r:rf` gives the
//! types of result and operands: h 16 bits, r 32, l 64, f f32, d f64. NaN results only need to be NaN.

#[path = "arithmetic/cases.rs"]
mod cases;
mod support;

use cases::{CASES, bits, d, f, h};
use half::bf16;
use support::{Arg, Bench};

/// Special values of every type, then random bits.
fn operands(seed: u64, count: usize) -> Vec<u64> {
    let special = [
        0,
        1,
        2,
        31,
        32,
        33,
        0x7f,
        0x80,
        0xff,
        0x3c00,
        0x7bff,
        0x7c00,
        0x7e00,
        0x8000,
        0x8001,
        0xffff,
        0x3f80_0000,
        0xbf80_0000,
        0x3f00_0000,
        0x4000_0000,
        0x0000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x8000_0000,
        0x7fff_ffff,
        0xffff_ffff,
        0x4f00_0000,
        0x3e99_999a,
        0x3ff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0x8000_0000_0000_0000,
        u64::MAX,
        0x0000_0010,
        0x4120_0000,
        0xc123_4567,
        0x3380_0000,
    ];
    let mut state = seed;
    (0..count)
        .map(|at| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let random = state ^ state >> 29;
            // Pairs of specials, floats near one another in size, and plain noise.
            match at % 4 {
                0 | 1 => special[(random >> 20) as usize % special.len()],
                2 => (random & 0x80ff_ffff) | 0x3d00_0000 | (random >> 32 & 7) << 23,
                _ => random,
            }
        })
        .collect()
}

fn kernel(index: usize, op: &str, signature: &str) -> String {
    let (out, inputs) = signature.split_once(':').unwrap();
    let cast = |kind: char, name: &str| match kind {
        'h' => format!("\"h\"((unsigned short){name}[i])"),
        'r' => format!("\"r\"((unsigned){name}[i])"),
        'f' => format!("\"f\"(__uint_as_float((unsigned){name}[i]))"),
        'd' => format!("\"d\"(__longlong_as_double({name}[i]))"),
        _ => format!("\"l\"({name}[i])"),
    };
    let casts: Vec<String> = inputs
        .chars()
        .zip(["a", "b", "c"])
        .map(|(kind, name)| cast(kind, name))
        .collect();
    let (declared, constraint, result) = match out {
        "h" => ("unsigned short", "=h", "r"),
        "r" => ("unsigned", "=r", "r"),
        "f" => ("float", "=f", "__float_as_uint(r)"),
        "d" => ("double", "=d", "__double_as_longlong(r)"),
        _ => ("unsigned long long", "=l", "r"),
    };
    let places: Vec<String> = (0..=casts.len()).map(|place| format!("%{place}")).collect();
    let text = if op.contains(' ') {
        op.to_string()
    } else {
        format!("{op} {}", places.join(", "))
    };
    format!(
        "extern \"C\" __global__ void case{index}(const unsigned long long* a, const unsigned long long* b, const unsigned long long* c, unsigned long long* y) {{
            int i = blockIdx.x * blockDim.x + threadIdx.x; {declared} r;
            asm volatile(\"{text};\" : \"{constraint}\"(r) : {}); y[i] = {result}; }}\n",
        casts.join(", ")
    )
}

#[test]
fn instructions_compute_what_rust_does() {
    let count = 4096;
    let source: String = CASES
        .iter()
        .enumerate()
        .map(|(index, (op, signature, _))| kernel(index, op, signature))
        .collect();
    // `add.bf16` and others that a newer architecture has are not in the table, `fma.rn.bf16` is as old as sm_80.
    let mut bench = Bench::new(&source);
    let inputs = [operands(1, count), operands(2, count), operands(3, count)];
    let [a, b, c] = [0, 1, 2].map(|index| bench.upload(&inputs[index]));
    let y = bench.reserve(8 * count as u64);
    for (index, (op, signature, reference)) in CASES.iter().enumerate() {
        let args = [a, b, c, y].map(Arg::U64);
        bench
            .launch(&format!("case{index}"), count as u32 / 128, 128, &args)
            .unwrap_or_else(|error| panic!("{op}: {error}"));
        let got: Vec<u64> = bench.download(y, count);
        let mask = |at: usize| match signature.as_bytes()[2..].get(at) {
            Some(b'h') => 0xffff,
            Some(b'r' | b'f') => 0xffff_ffff,
            _ => u64::MAX,
        };
        for i in 0..count {
            let [x, y, z] = [0, 1, 2].map(|at| inputs[at][i] & mask(at));
            let want = reference(x, y, z);
            let is_nan = |bits: u64| match (signature.as_bytes()[0], op) {
                (b'f', _) => f(bits).is_nan(),
                (b'd', _) => d(bits).is_nan(),
                (b'h', op) if op.contains("bf16") => bf16::from_bits(bits as u16).is_nan(),
                (b'h', op) if op.contains("f16") => h(bits).is_nan(),
                // Packed pairs: a NaN in either half leaves its bits open.
                (_, op) if op.contains("f16x2") => h(bits).is_nan() || h(bits >> 16).is_nan(),
                _ => false,
            };
            let same = got[i] == want || (is_nan(got[i]) && is_nan(want));
            assert!(
                same,
                "{op} of {x:#x}, {y:#x}, {z:#x} is {:#x}, not {want:#x}",
                got[i]
            );
        }
    }
}

#[test]
fn approximations_stay_within_what_ptx_states() {
    type Case = (&'static str, fn(f64) -> f64);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("ex2.approx.ftz.f32", f64::exp2), ("lg2.approx.f32", f64::log2), ("rcp.approx.f32", |x| 1.0 / x),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()), ("sqrt.approx.f32", f64::sqrt), ("sin.approx.f32", f64::sin),
        ("cos.approx.f32", f64::cos), ("tanh.approx.f32", f64::tanh),
    ];
    let source: String = cases
        .iter()
        .enumerate()
        .map(|(index, (op, _))| kernel(index, op, "f:f"))
        .collect();
    let mut bench = Bench::new(&source);
    let inputs: Vec<f32> = (1..=1024).map(|i| i as f32 * 0.003).collect();
    let wide: Vec<u64> = inputs.iter().map(|x| bits(*x)).collect();
    let (x, y) = (bench.upload(&wide), bench.reserve(8192));
    for (index, (op, function)) in cases.iter().enumerate() {
        bench
            .launch(&format!("case{index}"), 8, 128, &[x, x, x, y].map(Arg::U64))
            .unwrap();
        for (x, got) in inputs.iter().zip(bench.download::<u64>(y, 1024)) {
            let want = function(f64::from(*x));
            assert!(
                (f64::from(f(got)) - want).abs() <= 3e-7 * want.abs().max(0.25),
                "{op} of {x}: {} instead of {want}",
                f(got)
            );
        }
    }
}

/// The compiler's own library: long instruction sequences with tables in memory, local arrays and loops.
#[test]
fn functions_of_the_library_match_f64() {
    let source = r#"
extern "C" __global__ void functions(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    y[i] = sinf(v * 1e6f);
    y[n + i] = powf(v, 1.7f);
    y[2 * n + i] = expf(v);
    y[3 * n + i] = logf(v);
    y[4 * n + i] = tanhf(v);
    y[5 * n + i] = erff(v);
    y[6 * n + i] = fmodf(v * 17.0f, 0.3f);
    y[7 * n + i] = (float)(exp(log((double)v)) / 3.0) + (float)(i % 7) + (float)((long long)i * 1000003ll % 97);
}"#;
    let mut bench = Bench::new(source);
    let n = 300;
    let x: Vec<f32> = (0..n).map(|i| 0.01 + i as f32 * 0.013).collect();
    let (dx, dy) = (bench.upload(&x), bench.reserve(32 * n as u64));
    bench
        .launch(
            "functions",
            3,
            128,
            &[Arg::U64(dx), Arg::U64(dy), Arg::U32(n as u32)],
        )
        .unwrap_or_else(|error| panic!("{error}"));
    let y: Vec<f32> = bench.download(dy, 8 * n);
    let error_function = |x: f64| {
        // Series of erf, quick enough below 4.
        let term = |k: usize| {
            let sign = [1.0, -1.0][k % 2];
            let factorial: f64 = (1..=k).map(|j| j as f64).product();
            sign * x.powi(2 * k as i32 + 1) / (factorial * (2 * k + 1) as f64)
        };
        (0..80).map(term).sum::<f64>() * std::f64::consts::FRAC_2_SQRT_PI
    };
    for (i, &x) in x.iter().enumerate() {
        let v = f64::from(x);
        let integers = (i % 7) as f64 + (i as i64 * 1_000_003 % 97) as f64;
        let want = [
            f64::from(x * 1e6).sin(),
            v.powf(f64::from(1.7f32)),
            v.exp(),
            v.ln(),
            v.tanh(),
            error_function(v),
            f64::from((x * 17.0) % 0.3),
            v / 3.0 + integers,
        ];
        for (at, want) in want.into_iter().enumerate() {
            let got = f64::from(y[at * n + i]);
            let close = (got - want).abs() <= 2e-6 * want.abs().max(1.0);
            assert!(close, "function {at} of {x}: {got} instead of {want}");
        }
    }
}

#[test]
fn lanes_exchange_values() {
    let source = r#"
extern "C" __global__ void exchange(unsigned* y) {
    const unsigned all = 0xffffffffu, lane = threadIdx.x;
    y[lane] = __shfl_up_sync(all, lane, 3);
    y[32 + lane] = __shfl_down_sync(all, lane, 5, 16);
    y[64 + lane] = __shfl_xor_sync(all, lane, 6, 8);
    y[96 + lane] = __shfl_sync(all, lane, 9, 8);
    y[128 + lane] = __ballot_sync(all, lane % 3 == 0);
    y[160 + lane] = __match_any_sync(all, lane / 5);
    y[192 + lane] = __reduce_add_sync(all, lane) + __reduce_max_sync(all, lane);
    y[224 + lane] = __all_sync(all, lane < 32) + 2 * __any_sync(all, lane == 40) + 4 * __syncthreads_count(lane < 7) + 64 * __syncthreads_or(lane == 9);
    unsigned part = 0;
    if (lane < 12) { part = __activemask(); __syncwarp(0xfff); part += __shfl_sync(0xfffu, lane, 11); }
    y[256 + lane] = part;
}"#;
    let mut bench = Bench::new(source);
    let y = bench.reserve(4 * 288);
    bench.launch("exchange", 1, 32, &[Arg::U64(y)]).unwrap();
    let y: Vec<u32> = bench.download(y, 288);
    for lane in 0..32u32 {
        let at = |row: usize| y[32 * row + lane as usize];
        assert_eq!(at(0), if lane < 3 { lane } else { lane - 3 });
        assert_eq!(at(1), if lane % 16 + 5 < 16 { lane + 5 } else { lane });
        assert_eq!(at(2), lane ^ 6);
        assert_eq!(at(3), lane / 8 * 8 + 1);
        assert_eq!(
            at(4),
            (0..32)
                .filter(|l| l % 3 == 0)
                .map(|l| 1u32 << l)
                .sum::<u32>()
        );
        assert_eq!(
            at(5),
            (0..32)
                .filter(|l| l / 5 == lane / 5)
                .map(|l| 1u32 << l)
                .sum::<u32>()
        );
        assert_eq!(at(6), 496 + 31);
        assert_eq!(at(7), 1 + 4 * 7 + 64);
        assert_eq!(at(8), if lane < 12 { 0xfff + 11 } else { 0 });
    }
}
