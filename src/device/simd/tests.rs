//! Every primitive against a scalar twin, at every level that this processor has.

use super::*;

/// Calls every primitive on `a`, `b`, `c` (16 values each) and gives the results of the first vector by name.
struct Primitives<'a> {
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
}

/// About where floats stop to have bits below the point.
const LARGE: f32 = 4_000_000.5;

type Named = Vec<(&'static str, Vec<f32>)>;

impl Kernel for Primitives<'_> {
    type Output = Named;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Named {
        let (a, b, c) = (s.load(self.a), s.load(self.b), s.load(self.c));
        let mut named = Vec::new();
        let results = [
            ("splat", s.splat(3.5)),
            ("zero", s.zero()),
            ("load", a),
            ("add", s.add(a, b)),
            ("sub", s.sub(a, b)),
            ("mul", s.mul(a, b)),
            ("div", s.div(a, b)),
            ("sqrt", s.sqrt(s.mul(a, a))),
            ("fma", s.fma(a, b, c)),
            ("max", s.max(a, b)),
            ("min", s.min(a, b)),
            ("where_positive", s.where_positive(a, b)),
            ("round", s.round(s.mul(a, s.splat(9.5)))),
            ("round_large", s.round(s.mul(a, s.splat(LARGE)))),
            ("scale_by_power", s.scale_by_power(a, s.round(b))),
            ("sum", s.splat(s.sum(a))),
            ("largest", s.splat(s.largest(a))),
        ];
        for (name, v) in results {
            let mut out = vec![f32::NAN; S::LANES];
            s.store(&mut out, v);
            named.push((name, out));
        }
        named
    }
}

fn scalar(name: &str, a: f32, b: f32, c: f32, all: &[f32]) -> f64 {
    let (x, y, z) = (f64::from(a), f64::from(b), f64::from(c));
    match name {
        "splat" => 3.5,
        "zero" => 0.0,
        "load" => x,
        "add" => x + y,
        "sub" => x - y,
        "mul" => x * y,
        "div" => x / y,
        "sqrt" => x.abs(),
        "fma" => x * y + z,
        "max" => x.max(y),
        "min" => x.min(y),
        "where_positive" => {
            if a > 0.0 {
                y
            } else {
                0.0
            }
        }
        "round" => f64::from((a * 9.5).round_ties_even()),
        "round_large" => f64::from((a * LARGE).round_ties_even()),
        "scale_by_power" => x * 2f64.powi(b.round_ties_even() as i32),
        "sum" => all.iter().map(|x| f64::from(*x)).sum(),
        "largest" => f64::from(all.iter().copied().fold(f32::MIN, f32::max)),
        other => panic!("no twin of {other}"),
    }
}

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|l| l.is_available())
}

#[test]
fn primitives_match_their_scalar_twins() {
    let a: Vec<f32> = (0..16)
        .map(|i| ((i * 7 % 16) as f32 - 7.3) * 0.37)
        .collect();
    let b: Vec<f32> = (0..16)
        .map(|i| ((i * 5 % 16) as f32 - 8.2) * 0.91)
        .collect();
    let c: Vec<f32> = (0..16).map(|i| i as f32 - 3.0).collect();
    for level in levels() {
        let results = dispatch_at(
            level,
            Primitives {
                a: &a,
                b: &b,
                c: &c,
            },
        );
        for (name, got) in results {
            for (i, got) in got.iter().enumerate() {
                let want = scalar(name, a[i], b[i], c[i], &a[..got_lanes(level)]);
                let error = (f64::from(*got) - want).abs() / want.abs().max(1.0);
                assert!(error < 4e-7, "{level}: {name}[{i}] = {got}, not {want}");
            }
        }
    }
}

fn got_lanes(level: Level) -> usize {
    if level == Level::Avx512 { 16 } else { 8 }
}

struct Exp<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Exp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
            s.store_partial(y, s.exp(s.load_partial(x)));
        }
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let x: Vec<f32> = (0..=175_600).map(|i| -87.3 + i as f32 * 1e-3).collect();
    for level in levels() {
        let mut y = vec![f32::NAN; x.len()];
        dispatch_at(level, Exp(&x, &mut y));
        for (x, y) in x.iter().zip(&y) {
            let want = f64::from(*x).exp();
            let unit = f64::from((want as f32).next_up() - want as f32);
            let error = (f64::from(*y) - want).abs() / unit;
            assert!(error <= 2.0, "{level}: exp({x}) is {error} units off");
        }
    }
}

#[test]
fn exp_of_extremes_is_finite() {
    let x = [
        -1e30,
        -200.0,
        f32::MIN,
        0.0,
        200.0,
        f32::NEG_INFINITY,
        -88.0,
        1e30,
    ];
    for level in levels() {
        let mut y = [f32::NAN; 8];
        dispatch_at(level, Exp(&x, &mut y));
        assert!(y.iter().all(|y| y.is_finite()), "{level}: {y:?}");
        assert!(y[0] < 2e-38 && y[1] < 2e-38 && y[3] == 1.0);
        dispatch_at(level, Exp(&[f32::NAN; 8], &mut y));
        assert!(y.iter().all(|y| y.is_nan()), "{level}: {y:?}");
    }
}

struct Partial<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Partial<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let v = s.load_partial(self.0);
        s.store_partial(self.1, s.add(v, s.splat(1.0)));
        s.sum(v)
    }
}

#[test]
fn partial_vectors_touch_only_their_values() {
    for level in levels() {
        for count in 0..=8 {
            let x: Vec<f32> = (1..=count).map(|i| i as f32).collect();
            let mut y = [-5.0; 20];
            let sum = dispatch_at(level, Partial(&x, &mut y[..count]));
            assert_eq!(sum, (count * (count + 1) / 2) as f32, "{level} {count}");
            for (i, y) in y.iter().enumerate() {
                let want = if i < count { x[i] + 1.0 } else { -5.0 };
                assert_eq!(*y, want, "{level} {count} {i}");
            }
        }
    }
}

struct Quotients<'a>(&'a [f32], f32, &'a mut [f32]);

impl Kernel for Quotients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (b, inverse) = (s.splat(self.1), s.splat(1.0 / self.1));
        let parts = self.0.chunks_exact(S::LANES);
        for (a, y) in parts.zip(self.2.chunks_exact_mut(S::LANES)) {
            s.store(y, s.quotient(s.load(a), b, inverse));
        }
    }
}

#[test]
fn quotients_are_rounded_like_divisions() {
    let random = crate::device::random::Random::new(7, 0);
    let mut a: Vec<f32> = (0..160_000)
        .map(|i| (random.bits(i) % (1 << 24)) as f32)
        .collect();
    a.extend((0..160_000).map(|i| i as f32 - 80_000.0));
    for b in [
        100_000.0,
        0.01,
        0.02,
        0.04,
        0.08,
        0.005,
        0.3,
        1.2,
        3.0,
        0.999_999_94,
        1.999_999_9,
    ] {
        for scale in [1.0, 1.0 / 100_000.0] {
            let a: Vec<f32> = a.iter().map(|a| a * scale).collect();
            for level in levels() {
                let mut y = vec![f32::NAN; a.len()];
                dispatch_at(level, Quotients(&a, b, &mut y));
                let wrong = a.iter().zip(&y).position(|(a, y)| a / b != *y);
                assert_eq!(wrong.map(|i| (a[i], y[i])), None, "{level}: / {b}");
            }
        }
    }
}

struct FourSums<'a>(&'a [f32], &'a mut [f32; 4], &'a mut [u32]);

impl Kernel for FourSums<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let vector = |i: usize| s.load(&self.0[i * S::LANES..]);
        s.sums_of_four([vector(0), vector(1), vector(2), vector(3)], self.1);
        s.store_truncated(self.2, vector(0));
        S::LANES
    }
}

#[test]
fn four_vectors_are_summed_and_lanes_are_truncated() {
    let x: Vec<f32> = (0..64).map(|i| (i * 29 % 64) as f32 * 1.375).collect();
    for level in levels() {
        let (mut sums, mut whole) = ([f32::NAN; 4], vec![9; 17]);
        let lanes = dispatch_at(level, FourSums(&x, &mut sums, &mut whole));
        let want: Vec<f32> = x.chunks(lanes).take(4).map(|v| v.iter().sum()).collect();
        assert_eq!(sums[..], want, "{level}"); // multiples of 1/8: exact in any order
        assert!(
            whole[..lanes].iter().zip(&x).all(|(w, x)| *w == *x as u32),
            "{level}"
        );
        assert!(whole[lanes..].iter().all(|w| *w == 9), "{level}");
    }
}

struct Columns<'a>(&'a [f32], &'a [usize], &'a mut [f32], &'a mut [f32]);

impl Kernel for Columns<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let columns = s.load_columns(self.0, self.1);
        for (v, out) in columns.iter().zip(self.2.chunks_exact_mut(S::LANES)) {
            s.store(out, *v);
        }
        s.store_columns(self.3, self.1, columns);
        S::LANES
    }
}

#[test]
fn columns_are_loaded_and_stored_transposed() {
    let x: Vec<f32> = (0..120).map(|i| i as f32).collect();
    let starts: Vec<usize> = (0..16).map(|l| (l * 37 % 19) * 6).collect();
    for level in levels() {
        let (mut loaded, mut back) = (vec![f32::NAN; 64], vec![-1.0; 120]);
        let lanes = dispatch_at(level, Columns(&x, &starts, &mut loaded, &mut back));
        let mut want = vec![-1.0; 120];
        for lane in 0..lanes {
            for column in 0..4 {
                let at = starts[lane] + column;
                assert_eq!(loaded[column * lanes + lane], x[at], "{level}");
                want[at] = x[at];
            }
        }
        assert_eq!(back, want, "{level}");
    }
}

struct Pack<'a>(&'a [f32], &'a [u32], f32, &'a mut [f32], &'a mut [u32]);

impl Kernel for Pack<'_> {
    type Output = (u32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (u32, usize) {
        let v = s.load(self.0);
        let chosen = s.at_most(v, s.splat(self.2));
        s.pack(chosen, v, self.1, self.3, self.4);
        (chosen, S::LANES)
    }
}

#[test]
fn chosen_lanes_are_packed_in_order() {
    let mut x: Vec<f32> = (0..16).map(|i| (i * 5 % 16) as f32).collect();
    x[3] = f32::NAN;
    let index: Vec<u32> = (100..116).collect();
    for (level, limit) in levels().flat_map(|l| (-1..17).map(move |limit| (l, limit as f32))) {
        let (mut y, mut rows) = ([-1.0; 16], [0; 16]);
        let (chosen, lanes) = dispatch_at(level, Pack(&x, &index, limit, &mut y, &mut rows));
        let expected: Vec<usize> = (0..lanes).filter(|i| x[*i] <= limit).collect();
        assert_eq!(
            chosen,
            expected.iter().map(|i| 1 << i).sum::<u32>(),
            "{level} {limit}"
        );
        for (slot, lane) in expected.into_iter().enumerate() {
            assert_eq!(
                (y[slot], rows[slot]),
                (x[lane], index[lane]),
                "{level} {limit}"
            );
        }
    }
}

#[test]
fn the_level_in_use_is_one_of_this_processor() {
    assert!(level().is_available());
    assert!(Level::Portable.is_available());
}
