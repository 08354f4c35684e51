//! What instructions compute, against Rust's own arithmetic, on special and on random operands.
//!
//! Each case is one PTX instruction in a kernel of its own, compiled by NVRTC. A signature such as `r:rf` gives the
//! types of result and operands: h 16 bits, r 32, l 64, f f32, d f64. NaN results only need to be NaN.

mod support;

use half::{bf16, f16};
use support::{Arg, Bench};

type Reference = fn(u64, u64, u64) -> u64;

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn bits(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn h(bits: u64) -> f16 {
    f16::from_bits(bits as u16)
}

fn b(bits: u64) -> bf16 {
    bf16::from_bits(bits as u16)
}

fn s(bits: u64) -> i64 {
    i64::from(bits as i32)
}

/// Subnormals as zeros of their sign.
fn z(value: f32) -> f32 {
    if value.is_subnormal() {
        0f32.copysign(value)
    } else {
        value
    }
}

fn word(value: i64) -> u64 {
    u64::from(value as u32)
}

/// The f32 next to the exact sum in a direction, found by search around the nearest one: up if `up`, else down.
fn sum_towards(a: f32, b: f32, up: bool) -> f32 {
    let near = a + b;
    if !near.is_finite() {
        // Too large for f32: the exact sum is finite.
        let finite = a.is_finite() && b.is_finite();
        return if finite && (near > 0.0) != up {
            f32::MAX.copysign(near)
        } else {
            near
        };
    }
    // The error of an f32 addition is an f32 (Dekker), so this is exact unless it is subnormal, where sums are exact.
    let rest = near - a;
    let error = (a - (near - rest)) + (b - rest);
    match (up, error > 0.0, error < 0.0) {
        (true, true, _) => near.next_up(),
        (false, _, true) => near.next_down(),
        (false, false, false) if near == 0.0 && a.is_sign_negative() != b.is_sign_negative() => {
            -0.0
        }
        _ => near,
    }
}

#[rustfmt::skip]
const CASES: &[(&str, &str, Reference)] = &[
    ("add.s32", "r:rr", |a, b, _| word(s(a) + s(b))),
    ("add.sat.s32", "r:rr", |a, b, _| word((a as i32).saturating_add(b as i32).into())),
    ("sub.s64", "l:ll", |a, b, _| a.wrapping_sub(b)),
    ("add.u16", "h:hh", |a, b, _| (a + b) & 0xffff),
    ("mul.lo.s32", "r:rr", |a, b, _| word(s(a).wrapping_mul(s(b)))),
    ("mul.hi.s32", "r:rr", |a, b, _| word((s(a) * s(b)) >> 32)),
    ("mul.hi.u32", "r:rr", |a, b, _| (a * b) >> 32),
    ("mul.hi.u64", "l:ll", |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64),
    ("mul.hi.s64", "l:ll", |a, b, _| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
    ("mul.wide.s32", "l:rr", |a, b, _| (s(a) * s(b)) as u64),
    ("mul.wide.u16", "r:hh", |a, b, _| a * b),
    ("mul.wide.s16", "r:hh", |a, b, _| word(i64::from(a as i16) * i64::from(b as i16))),
    ("mad.lo.u32", "r:rrr", |a, b, c| (a.wrapping_mul(b).wrapping_add(c)) & 0xffff_ffff),
    ("mad.hi.u32", "r:rrr", |a, b, c| ((a * b) >> 32).wrapping_add(c) & 0xffff_ffff),
    ("mad.wide.u32", "l:rrl", |a, b, c| (a * b).wrapping_add(c)),
    ("mul24.lo.u32", "r:rr", |a, b, _| ((a & 0xff_ffff) * (b & 0xff_ffff)) & 0xffff_ffff),
    ("min.s32", "r:rr", |a, b, _| word(s(a).min(s(b)))),
    ("max.u64", "l:ll", |a, b, _| a.max(b)),
    ("abs.s32", "r:r", |a, _, _| word(s(a).abs())),
    ("neg.s16", "h:h", |a, _, _| a.wrapping_neg() & 0xffff),
    ("sad.u32", "r:rrr", |a, b, c| (a.abs_diff(b) + c) & 0xffff_ffff),
    ("shl.b32", "r:rr", |a, n, _| if n > 31 { 0 } else { a << n & 0xffff_ffff }),
    ("shr.s32", "r:rr", |a, n, _| word(s(a) >> n.min(31))),
    ("shr.u64", "l:lr", |a, n, _| if n > 63 { 0 } else { a >> n }),
    ("shf.l.wrap.b32", "r:rrr", |a, b, n| ((a | b << 32) << (n & 31)) >> 32),
    ("shf.r.clamp.b32", "r:rrr", |a, b, n| ((a | b << 32) >> n.min(32)) & 0xffff_ffff),
    ("popc.b64", "r:l", |a, _, _| a.count_ones().into()),
    ("clz.b32", "r:r", |a, _, _| (a as u32).leading_zeros().into()),
    ("brev.b64", "l:l", |a, _, _| a.reverse_bits()),
    ("bfind.u32", "r:r", |a, _, _| (a as u32).checked_ilog2().map_or(0xffff_ffff, u64::from)),
    ("bfe.u32", "r:rrr", |a, at, n| field(a, at & 255, n & 255, 32, false)),
    ("bfe.s32", "r:rrr", |a, at, n| field(a, at & 255, n & 255, 32, true)),
    ("bfe.s64", "l:lrr", |a, at, n| field(a, at & 255, n & 255, 64, true)),
    ("prmt.b32", "r:rrr", |a, b, c| {
        let bytes = (a | b << 32).to_le_bytes();
        let pick = |i: u64| { let n = c >> (4 * i); let byte = bytes[(n & 7) as usize]; if n & 8 != 0 { if byte > 127 { 255 } else { 0 } } else { byte } };
        (0..4).map(|i| u64::from(pick(i)) << (8 * i)).sum()
    }),
    ("lop3.b32 %0, %1, %2, %3, 0xca", "r:rrr", |a, b, c| (a & b) | (!a & c & 0xffff_ffff)),
    ("add.f32", "f:ff", |a, b, _| bits(f(a) + f(b))),
    ("add.ftz.f32", "f:ff", |a, b, _| bits(z(z(f(a)) + z(f(b))))),
    ("add.rm.f32", "f:ff", |a, b, _| bits(sum_towards(f(a), f(b), false))),
    ("add.rp.f32", "f:ff", |a, b, _| bits(sum_towards(f(a), f(b), true))),
    ("sub.f32", "f:ff", |a, b, _| bits(f(a) - f(b))),
    ("mul.f32", "f:ff", |a, b, _| bits(f(a) * f(b))),
    ("mul.ftz.f32", "f:ff", |a, b, _| bits(z(z(f(a)) * z(f(b))))),
    ("add.sat.f32", "f:ff", |a, b, _| { let v = f(a) + f(b); bits(if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) }) }),
    ("fma.rn.f32", "f:fff", |a, b, c| bits(f(a).mul_add(f(b), f(c)))),
    ("fma.rn.ftz.f32", "f:fff", |a, b, c| bits(z(z(f(a)).mul_add(z(f(b)), z(f(c)))))),
    ("div.rn.f32", "f:ff", |a, b, _| bits(f(a) / f(b))),
    ("rcp.rn.f32", "f:f", |a, _, _| bits(1.0 / f(a))),
    ("sqrt.rn.f32", "f:f", |a, _, _| bits(f(a).sqrt())),
    ("neg.f32", "f:f", |a, _, _| bits(-f(a))),
    ("abs.f32", "f:f", |a, _, _| bits(f(a).abs())),
    ("min.f32", "f:ff", |a, b, _| bits(least(f(a), f(b)))),
    ("max.f32", "f:ff", |a, b, _| bits(-least(-f(a), -f(b)))),
    ("copysign.f32", "f:ff", |a, b, _| bits(f(b).copysign(f(a)))),
    ("add.f64", "d:dd", |a, b, _| (d(a) + d(b)).to_bits()),
    ("fma.rn.f64", "d:ddd", |a, b, c| d(a).mul_add(d(b), d(c)).to_bits()),
    ("div.rn.f64", "d:dd", |a, b, _| (d(a) / d(b)).to_bits()),
    ("cvt.rn.f32.s32", "f:r", |a, _, _| bits(a as i32 as f32)),
    ("cvt.rn.f32.u64", "f:l", |a, _, _| bits(a as f32)),
    ("cvt.rz.f32.u32", "f:r", |a, _, _| { let v = a as f32; bits(if v as u64 > a { v.next_down() } else { v }) }),
    ("cvt.rzi.s32.f32", "r:f", |a, _, _| word((f(a) as i32).into())),
    ("cvt.rni.s32.f32", "r:f", |a, _, _| word((f(a).round_ties_even() as i32).into())),
    ("cvt.rmi.s32.f32", "r:f", |a, _, _| word((f(a).floor() as i32).into())),
    ("cvt.rpi.f32.f32", "f:f", |a, _, _| bits(f(a).ceil())),
    ("cvt.rzi.u64.f64", "l:d", |a, _, _| d(a) as u64),
    ("cvt.rn.f32.f64", "f:d", |a, _, _| bits(d(a) as f32)),
    ("cvt.f64.f32", "d:f", |a, _, _| f64::from(f(a)).to_bits()),
    ("cvt.sat.f32.f32", "f:f", |a, _, _| bits(if f(a).is_nan() || f(a) <= 0.0 { 0.0 } else { f(a).min(1.0) })),
    ("cvt.s64.s32", "l:r", |a, _, _| s(a) as u64),
    ("cvt.u32.u64", "r:l", |a, _, _| a & 0xffff_ffff),
    ("cvt.u16.u32", "h:r", |a, _, _| a & 0xffff),
    ("cvt.s32.s16", "r:h", |a, _, _| word((a as i16).into())),
    ("cvt.s32.s8", "r:r", |a, _, _| word((a as i8).into())),
    ("cvt.sat.u8.s32", "r:r", |a, _, _| s(a).clamp(0, 255) as u64),
    ("cvt.rn.f16.f32", "h:f", |a, _, _| f16::from_f32(f(a)).to_bits().into()),
    ("cvt.f32.f16", "f:h", |a, _, _| bits(h(a).to_f32())),
    ("cvt.rn.bf16.f32", "h:f", |a, _, _| bf16::from_f32(f(a)).to_bits().into()),
    ("cvt.rn.f16x2.f32", "r:ff", |a, b, _| u64::from(f16::from_f32(f(a)).to_bits()) << 16 | u64::from(f16::from_f32(f(b)).to_bits())),
    ("cvt.rn.bf16x2.f32", "r:ff", |a, b, _| u64::from(bf16::from_f32(f(a)).to_bits()) << 16 | u64::from(bf16::from_f32(f(b)).to_bits())),
    ("add.f16", "h:hh", |a, b, _| (h(a) + h(b)).to_bits().into()),
    ("mul.f16", "h:hh", |a, b, _| (h(a) * h(b)).to_bits().into()),
    ("fma.rn.bf16", "h:hhh", |x, y, c| bf16_fused(b(x), b(y), b(c))),
    ("max.bf16", "h:hh", |x, y, _| { let v = -least(-b(x).to_f32(), -b(y).to_f32()); bf16::from_f32(v).to_bits().into() }),
];

/// a·b + c of bf16 values, rounded once: of the neighbours of the f64 sum the nearest, ties by what f64 lost.
fn bf16_fused(x: bf16, y: bf16, c: bf16) -> u64 {
    let (product, c) = (x.to_f64() * y.to_f64(), c.to_f64());
    let sum = product + c;
    let near = bf16::from_f32(sum as f32);
    if !sum.is_finite() || near.is_infinite() {
        return near.to_bits().into();
    }
    let rest = sum - product;
    let error = (product - (sum - rest)) + (c - rest);
    let middle = near.to_bits();
    let around = [middle, middle.wrapping_sub(1), middle.wrapping_add(1)].map(bf16::from_bits);
    let distance = |candidate: &bf16| (candidate.to_f64() - sum).abs();
    let sound = around.into_iter().filter(|candidate| candidate.is_finite());
    let least = sound
        .clone()
        .map(|candidate| distance(&candidate))
        .fold(f64::INFINITY, f64::min);
    let mut nearest = sound.filter(|candidate| distance(candidate) == least);
    let (first, second) = (nearest.next(), nearest.next());
    let (Some(first), Some(second)) = (first, second) else {
        return first.unwrap_or(near).to_bits().into();
    };
    let upper = if first.to_f64() > second.to_f64() {
        first
    } else {
        second
    };
    let lower = if first.to_f64() > second.to_f64() {
        second
    } else {
        first
    };
    let even = if first.to_bits() % 2 == 0 {
        first
    } else {
        second
    };
    let right = if error > 0.0 {
        upper
    } else if error < 0.0 {
        lower
    } else {
        even
    };
    right.to_bits().into()
}

fn least(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

/// `bfe` bit by bit, as the PTX manual writes it.
fn field(a: u64, at: u64, length: u64, width: u64, signed: bool) -> u64 {
    let last = width - 1;
    let sign = signed && length > 0 && a >> (at + length - 1).min(last) & 1 != 0;
    let bit = |i: u64| {
        if i < length && at + i <= last {
            a >> (at + i) & 1 != 0
        } else {
            sign
        }
    };
    (0..width)
        .map(|i| u64::from(bit(i)) << i)
        .fold(0, |all, bit| all | bit)
}

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
