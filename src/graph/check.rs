//! The op test driver: one description of an op drives agreement, gradient and repeatability tests.
//!
//! [`Check`] takes an op, its inputs and a naive `f64` twin (loops only) and checks that
//! - forward agrees with the twin, with poisoned outputs and scratch,
//! - backward agrees with central differences *of the twin*, adds to what is there, is finite and not all zero,
//! - one thread and three threads give the same bits, twice,
//! - all of that on every device of [`devices`].
//!
//! [`Check::run_half`] does so for half precision, with twins that round.

mod half;

pub use half::Round;

use super::io::{Backward, Binding, Forward};
use super::{Op, Plan, Shape};
use crate::Result;
use crate::device::random::{Random, Sequence};
use crate::device::{Device, Gpu, Memory, Precision};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Devices that tests run on: the CPU and the emulator. `CAIRN_TEST_DEVICE=cuda:0` puts a real GPU in the emulator's
/// place. Without NVRTC or the emulator only the CPU is tested, unless `CAIRN_REQUIRE_EMULATOR` is set, as continuous
/// integration does: then that is a failure.
///
/// # Panics
/// When a device that has to be tested is not there.
pub fn devices() -> Vec<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| match std::env::var("CAIRN_TEST_DEVICE") {
        Ok(name) => Some(name.parse().unwrap_or_else(|e| panic!("{e}"))),
        Err(_) => match Gpu::Emulator.open() {
            Ok(_) => Some(Device::Cuda(Gpu::Emulator)),
            Err(e) if std::env::var_os("CAIRN_REQUIRE_EMULATOR").is_some() => panic!("{e}"),
            Err(e) => {
                eprintln!("kernels are not tested: {e}");
                None
            }
        },
    });
    [Device::Cpu].into_iter().chain(*gpu).collect()
}

/// Largest relative L2 error of a forward result.
pub const FORWARD_LIMIT: f64 = 5e-6;
/// Largest relative L2 error of a gradient.
pub const GRADIENT_LIMIT: f64 = 5e-5;
/// Largest value of a gradient whose exact value is 0, relative to the largest gradient of the case.
pub const ZERO_LIMIT: f64 = 1e-5;
/// Step of the central differences, relative to values of order one.
const STEP: f64 = 1e-5;
/// Entries of one input that are differentiated one by one; larger inputs are sampled.
const ENTRIES: usize = 400;

struct Input {
    shape: Shape,
    values: Vec<f32>,
    differentiable: bool,
}

/// An op with inputs, ready to be checked.
pub struct Check<O> {
    op: O,
    inputs: Vec<Input>,
    forward_limit: f64,
    gradient_limit: f64,
    silent_outputs: Vec<usize>,
}

struct Outcome {
    outputs: Vec<Vec<f32>>,
    gradients: Vec<Option<Vec<f32>>>,
}

/// Values of order one that no two of are close, so that kinks (ReLU, max) stay a step away.
pub fn spread(shape: Shape, seed: u64) -> Vec<f32> {
    let mut random = Sequence::new(Random::new(seed, shape.len() as u64));
    let n = shape.len();
    let mut values: Vec<f32> = (0..n)
        .map(|i| (i as f32 + 0.5 + 0.25 * random.uniform() as f32) * 4.0 / n as f32 - 2.0)
        .collect();
    random.shuffle(&mut values);
    values
}

impl<O: Op> Check<O> {
    /// A check of `op` without inputs yet.
    pub fn new(op: O) -> Self {
        Check {
            op,
            inputs: Vec::new(),
            forward_limit: FORWARD_LIMIT,
            gradient_limit: GRADIENT_LIMIT,
            silent_outputs: Vec::new(),
        }
    }

    /// Adds an input with spread values.
    pub fn input(self, rows: usize, cols: usize) -> Self {
        let shape = Shape::new(rows, cols);
        let values = spread(shape, self.inputs.len() as u64 + 1);
        self.input_values(shape, values)
    }

    /// Adds an input with given values.
    pub fn input_values(mut self, shape: Shape, values: Vec<f32>) -> Self {
        assert_eq!(shape.len(), values.len());
        self.inputs.push(Input {
            shape,
            values,
            differentiable: true,
        });
        self
    }

    /// Adds an input without gradient. An op that has no others is checked forward only.
    pub fn constant(mut self, shape: Shape, values: Vec<f32>) -> Self {
        self = self.input_values(shape, values);
        self.inputs.last_mut().expect("just pushed").differentiable = false;
        self
    }

    /// Names an output that nothing depends on (a statistic), so that no gradient flows into it.
    pub fn silent_output(mut self, output: usize) -> Self {
        self.silent_outputs.push(output);
        self
    }

    /// Replaces the limits. The caller says why beside the numbers.
    pub fn limits(mut self, forward: f64, gradient: f64) -> Self {
        self.forward_limit = forward;
        self.gradient_limit = gradient;
        self
    }

    /// Runs all checks against `naive`, which maps inputs to outputs. Panics with a description on a failure.
    pub fn run(&self, naive: impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>) {
        let wide: Vec<Vec<f64>> = self
            .inputs
            .iter()
            .map(|i| i.values.iter().map(|x| f64::from(*x)).collect())
            .collect();
        let expected = naive(&wide);
        let upstream = self.upstream(&expected);
        let differences = self.differences(&wide, &upstream, &naive);
        for device in devices() {
            let what = format!("{} on {device}", self.op.name());
            let outcome = self.outcome((device, Precision::F32), &upstream);
            let outcome = outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
            for (o, (got, want)) in outcome.outputs.iter().zip(&expected).enumerate() {
                let (error, limit) = (relative_error(got, want), self.forward_limit);
                assert!(
                    error <= limit,
                    "{what}: output {o} is off by {error:.2e} (limit {limit:.2e})"
                );
            }
            self.check_gradients(&what, &differences, &outcome);
            self.check_repeatable((device, Precision::F32), &upstream, &outcome);
        }
    }

    fn upstream(&self, outputs: &[Vec<f64>]) -> Vec<Option<Vec<f32>>> {
        let one = |(o, y): (usize, &Vec<f64>)| {
            let silent = self.silent_outputs.contains(&o);
            (!silent).then(|| spread(Shape::new(1, y.len()), 77 + o as u64))
        };
        outputs.iter().enumerate().map(one).collect()
    }

    /// Central differences of the twin: for every differentiable input the entries looked at, and their derivatives.
    fn differences(
        &self,
        wide: &[Vec<f64>],
        upstream: &[Option<Vec<f32>>],
        naive: &impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>,
    ) -> Vec<Option<Vec<(usize, f64)>>> {
        let scalar = |inputs: &[Vec<f64>]| -> f64 {
            let outputs = naive(inputs);
            let pairs = outputs.iter().zip(upstream);
            pairs
                .filter_map(|(y, u)| u.as_ref().map(|u| (y, u)))
                .flat_map(|(y, u)| y.iter().zip(u).map(|(y, u)| y * f64::from(*u)))
                .sum()
        };
        let mut inputs = wide.to_vec();
        let mut all = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            if !input.differentiable {
                all.push(None);
                continue;
            }
            let stride = wide[i].len().div_ceil(ENTRIES).max(1);
            let mut one = Vec::new();
            for j in (0..wide[i].len()).step_by(stride) {
                let x = inputs[i][j];
                inputs[i][j] = x + STEP;
                let above = scalar(&inputs);
                inputs[i][j] = x - STEP;
                let below = scalar(&inputs);
                inputs[i][j] = x;
                one.push((j, (above - below) / (2.0 * STEP)));
            }
            all.push(Some(one));
        }
        all
    }

    fn check_gradients(
        &self,
        what: &str,
        differences: &[Option<Vec<(usize, f64)>>],
        outcome: &Outcome,
    ) {
        let largest = outcome.gradients.iter().flatten().flatten();
        let noise = ZERO_LIMIT * largest.fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
        for (i, gradient) in outcome.gradients.iter().enumerate() {
            let (Some(gradient), Some(differences)) = (gradient, &differences[i]) else {
                continue;
            };
            let got: Vec<f32> = differences.iter().map(|(j, _)| gradient[*j]).collect();
            let want: Vec<f64> = differences.iter().map(|(_, d)| *d).collect();
            let silent = want.iter().all(|g| g.abs() < 1e-7);
            if silent {
                let worst = got.iter().fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
                assert!(
                    worst <= noise,
                    "{what}: gradient of input {i} is not 0 but {worst:.2e}"
                );
                continue;
            }
            let (error, limit) = (relative_error(&got, &want), self.gradient_limit);
            assert!(
                error <= limit,
                "{what}: gradient of input {i} is off by {error:.2e} (limit {limit:.2e})"
            );
            assert!(
                got.iter().any(|g| *g != 0.0),
                "{what}: gradient of input {i} is all zero"
            );
        }
    }

    fn check_repeatable(
        &self,
        (device, precision): (Device, Precision),
        upstream: &[Option<Vec<f32>>],
        first: &Outcome,
    ) {
        let threads: &[usize] = if device == Device::Cpu { &[1, 3] } else { &[1] };
        for &threads in threads {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a small thread pool can be built");
            let again = pool.install(|| self.outcome((device, precision), upstream));
            let again = again.unwrap_or_else(|e| panic!("{}: {e}", self.op.name()));
            let same = |a: &[f32], b: &[f32]| {
                a.iter()
                    .map(|x| x.to_bits())
                    .eq(b.iter().map(|x| x.to_bits()))
            };
            let outputs = first.outputs.iter().zip(&again.outputs);
            assert!(
                outputs.clone().all(|(a, b)| same(a, b)),
                "{} on {device}: outputs differ with {threads} threads",
                self.op.name()
            );
            let gradients = first.gradients.iter().zip(&again.gradients);
            assert!(
                gradients.clone().all(|(a, b)| match (a, b) {
                    (Some(a), Some(b)) => same(a, b),
                    _ => a.is_none() && b.is_none(),
                }),
                "{} on {device}: gradients differ with {threads} threads",
                self.op.name()
            );
        }
    }

    /// Runs the op once, forward and backward, in buffers of its own.
    fn outcome(
        &self,
        (device, precision): (Device, Precision),
        upstream: &[Option<Vec<f32>>],
    ) -> Result<Outcome> {
        let shapes: Vec<Shape> = self.inputs.iter().map(|i| i.shape).collect();
        let plan = self
            .op
            .plan(&shapes)
            .expect("the shape rule accepts the case");
        let mut forward = Buffers::forward(device, &plan, &self.inputs)?;
        self.op.forward(&mut Forward {
            device,
            precision,
            random: Random::new(5, 0),
            inputs: bind(&mut forward.inputs, &shapes)?,
            outputs: bind(&mut forward.outputs, &plan.outputs)?
                .into_iter()
                .map(Some)
                .collect(),
            saved: bind_words(&mut forward.saved)?
                .into_iter()
                .map(Some)
                .collect(),
            scratch: bind_words(&mut forward.scratch)?.pop(),
            arena: PhantomData,
        })?;
        if self.inputs.iter().all(|input| !input.differentiable) {
            return Ok(Outcome {
                outputs: values(&forward.outputs)?,
                gradients: vec![None; self.inputs.len()],
            });
        }
        // Small, so that adding to it costs the gradients few digits.
        let base = |i: usize| -> Vec<f32> {
            let spread = spread(shapes[i], 900 + i as u64);
            spread.iter().map(|x| 0.01 * x).collect()
        };
        let mut d_inputs = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            d_inputs.push(if input.differentiable {
                Some(Memory::of(device, &base(i))?)
            } else {
                None
            });
        }
        let mut d_outputs = Vec::new();
        for o in 0..plan.outputs.len() {
            let given = upstream.get(o).and_then(Option::as_ref);
            d_outputs.push(given.map(|u| Memory::of(device, u)).transpose()?);
        }
        let mut scratch = [poison(device, plan.scratch(device)[1])?];
        let named = |list: &[usize], all: Vec<Binding>| -> Vec<Option<Binding>> {
            let one = |(i, b): (usize, Binding)| list.contains(&i).then_some(b);
            all.into_iter().enumerate().map(one).collect()
        };
        self.op.backward(&mut Backward {
            device,
            precision,
            random: Random::new(5, 0),
            shapes: shapes.clone(),
            inputs: named(&plan.reads_inputs, bind(&mut forward.inputs, &shapes)?),
            outputs: named(
                &plan.reads_outputs,
                bind(&mut forward.outputs, &plan.outputs)?,
            ),
            saved: bind_words(&mut forward.saved)?,
            d_outputs: bind_some(&mut d_outputs, &plan.outputs)?,
            d_inputs: bind_some(&mut d_inputs, &shapes)?,
            scratch: bind_words(&mut scratch)?.pop(),
            arena: PhantomData,
        })?;
        let mut gradients = Vec::new();
        for (i, d) in d_inputs.iter().enumerate() {
            let Some(d) = d else {
                gradients.push(None);
                continue;
            };
            d.fetch()?;
            let pairs = d.host().iter().zip(base(i));
            gradients.push(Some(pairs.map(|(d, b)| d - b).collect()));
        }
        let outputs = values(&forward.outputs)?;
        Ok(Outcome { outputs, gradients })
    }
}

/// What forward reads and writes, every value in memory of its own: a step past its end is then one out of bounds.
struct Buffers {
    inputs: Vec<Memory>,
    outputs: Vec<Memory>,
    saved: Vec<Memory>,
    scratch: [Memory; 1],
}

impl Buffers {
    fn forward(device: Device, plan: &Plan, inputs: &[Input]) -> Result<Buffers> {
        let inputs = inputs.iter().map(|i| Memory::of(device, &i.values));
        let outputs = plan.outputs.iter().map(|s| poison(device, s.len()));
        let saved = plan.saved.iter().map(|w| poison(device, *w));
        Ok(Buffers {
            inputs: inputs.collect::<Result<_>>()?,
            outputs: outputs.collect::<Result<_>>()?,
            saved: saved.collect::<Result<_>>()?,
            scratch: [poison(device, plan.scratch(device)[0])?],
        })
    }
}

fn poison(device: Device, words: usize) -> Result<Memory> {
    Memory::of(device, &vec![f32::NAN; words])
}

/// What the memories hold, read back.
fn values(memories: &[Memory]) -> Result<Vec<Vec<f32>>> {
    let one = |m: &Memory| {
        m.fetch()?;
        Ok(m.host().to_vec())
    };
    memories.iter().map(one).collect()
}

fn bind_one(memory: &mut Memory, shape: Shape) -> Result<Binding> {
    let address = memory.address_mut()?;
    Ok(Binding { address, shape })
}

fn bind(values: &mut [Memory], shapes: &[Shape]) -> Result<Vec<Binding>> {
    let pairs = values.iter_mut().zip(shapes);
    pairs.map(|(m, s)| bind_one(m, *s)).collect()
}

fn bind_words(values: &mut [Memory]) -> Result<Vec<Binding>> {
    let one = |m: &mut Memory| bind_one(m, Shape::new(1, m.len()));
    values.iter_mut().map(one).collect()
}

fn bind_some(values: &mut [Option<Memory>], shapes: &[Shape]) -> Result<Vec<Option<Binding>>> {
    let pairs = values.iter_mut().zip(shapes);
    pairs
        .map(|(m, s)| m.as_mut().map(|m| bind_one(m, *s)).transpose())
        .collect()
}

/// ‖got − want‖ / ‖want‖, infinite when something is not finite or the lengths differ; absolute below a norm of 1e-3.
pub fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() || got.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = got
        .iter()
        .zip(want)
        .map(|(g, w)| square(f64::from(*g) - w))
        .sum();
    let norm: f64 = want.iter().map(|w| square(*w)).sum();
    difference.sqrt() / norm.sqrt().max(1e-3)
}

/// Asserts that two results agree to the forward limit, relative L2.
pub fn assert_close(got: &[f32], want: &[f32], limit: f64, what: &str) {
    let want: Vec<f64> = want.iter().map(|x| f64::from(*x)).collect();
    let error = relative_error(got, &want);
    assert!(
        error <= limit,
        "{what} is off by {error:.2e} (limit {limit:.2e})"
    );
}
