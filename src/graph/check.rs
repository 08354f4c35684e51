//! The op test driver: one description of an op drives agreement, gradient and repeatability tests.
//!
//! [`Check`] takes an op, its inputs and a naive `f64` twin (loops only) and checks that
//! - forward agrees with the twin, with poisoned outputs and scratch,
//! - backward agrees with central differences *of the twin*, adds to what is there, is finite and not all zero,
//! - one thread and three threads give the same bits, twice.

use super::exec::{Backward, Binding, Forward};
use super::{Op, Shape};
use crate::device::Device;
use crate::device::random::{Random, Sequence};
use std::marker::PhantomData;

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
        let outcome = self.outcome(&upstream);
        for (o, (got, want)) in outcome.outputs.iter().zip(&expected).enumerate() {
            let error = relative_error(got, want);
            assert!(
                error <= self.forward_limit,
                "{}: output {o} is off by {error:.2e} (limit {:.2e})",
                self.op.name(),
                self.forward_limit
            );
        }
        self.check_gradients(&wide, &upstream, &outcome, &naive);
        self.check_repeatable(&upstream, &outcome);
    }

    fn upstream(&self, outputs: &[Vec<f64>]) -> Vec<Option<Vec<f32>>> {
        let one = |(o, y): (usize, &Vec<f64>)| {
            let silent = self.silent_outputs.contains(&o);
            (!silent).then(|| spread(Shape::new(1, y.len()), 77 + o as u64))
        };
        outputs.iter().enumerate().map(one).collect()
    }

    fn check_gradients(
        &self,
        wide: &[Vec<f64>],
        upstream: &[Option<Vec<f32>>],
        outcome: &Outcome,
        naive: &impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>,
    ) {
        let scalar = |inputs: &[Vec<f64>]| -> f64 {
            let outputs = naive(inputs);
            let pairs = outputs.iter().zip(upstream);
            pairs
                .filter_map(|(y, u)| u.as_ref().map(|u| (y, u)))
                .flat_map(|(y, u)| y.iter().zip(u).map(|(y, u)| y * f64::from(*u)))
                .sum()
        };
        let largest = outcome.gradients.iter().flatten().flatten();
        let noise = ZERO_LIMIT * largest.fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
        let mut inputs = wide.to_vec();
        for (i, gradient) in outcome.gradients.iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let stride = gradient.len().div_ceil(ENTRIES).max(1);
            let (mut got, mut want) = (Vec::new(), Vec::new());
            for j in (0..gradient.len()).step_by(stride) {
                let x = inputs[i][j];
                inputs[i][j] = x + STEP;
                let above = scalar(&inputs);
                inputs[i][j] = x - STEP;
                let below = scalar(&inputs);
                inputs[i][j] = x;
                got.push(gradient[j]);
                want.push((above - below) / (2.0 * STEP));
            }
            let silent = want.iter().all(|g| g.abs() < 1e-7);
            if silent {
                let worst = got.iter().fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
                let name = self.op.name();
                assert!(
                    worst <= noise,
                    "{name}: gradient of input {i} is not 0 but {worst:.2e}"
                );
                continue;
            }
            let error = relative_error(&got, &want);
            assert!(
                error <= self.gradient_limit,
                "{}: gradient of input {i} is off by {error:.2e} (limit {:.2e})",
                self.op.name(),
                self.gradient_limit
            );
            assert!(
                got.iter().any(|g| *g != 0.0),
                "{}: gradient of input {i} is all zero",
                self.op.name()
            );
        }
    }

    fn check_repeatable(&self, upstream: &[Option<Vec<f32>>], first: &Outcome) {
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a small thread pool can be built");
            let again = pool.install(|| self.outcome(upstream));
            let same = |a: &[f32], b: &[f32]| {
                a.iter()
                    .map(|x| x.to_bits())
                    .eq(b.iter().map(|x| x.to_bits()))
            };
            let outputs = first.outputs.iter().zip(&again.outputs);
            assert!(
                outputs.clone().all(|(a, b)| same(a, b)),
                "{}: outputs differ with {threads} threads",
                self.op.name()
            );
            let gradients = first.gradients.iter().zip(&again.gradients);
            assert!(
                gradients.clone().all(|(a, b)| match (a, b) {
                    (Some(a), Some(b)) => same(a, b),
                    _ => a.is_none() && b.is_none(),
                }),
                "{}: gradients differ with {threads} threads",
                self.op.name()
            );
        }
    }

    /// Runs the op once, forward and backward, in buffers of its own.
    fn outcome(&self, upstream: &[Option<Vec<f32>>]) -> Outcome {
        let shapes: Vec<Shape> = self.inputs.iter().map(|i| i.shape).collect();
        let plan = self
            .op
            .plan(&shapes)
            .expect("the shape rule accepts the case");
        let poison = |words: usize| vec![f32::NAN; words];
        let mut outputs: Vec<Vec<f32>> = plan.outputs.iter().map(|s| poison(s.len())).collect();
        let mut saved: Vec<Vec<f32>> = plan.saved.iter().map(|w| poison(*w)).collect();
        let mut scratch = poison(plan.forward_scratch);
        let inputs: Vec<Binding> = self
            .inputs
            .iter()
            .map(|i| bind(&i.values, i.shape))
            .collect();
        let bind_outputs = |outputs: &mut [Vec<f32>]| -> Vec<Binding> {
            let pairs = outputs.iter_mut().zip(&plan.outputs);
            pairs.map(|(v, s)| bind_mut(v, *s)).collect()
        };
        let mut forward = Forward {
            device: Device::Cpu,
            random: Random::new(5, 0),
            inputs: inputs.clone(),
            outputs: bind_outputs(&mut outputs).into_iter().map(Some).collect(),
            saved: saved.iter_mut().map(|v| Some(bind_words(v))).collect(),
            scratch: Some(bind_words(&mut scratch)),
            arena: PhantomData,
        };
        self.op.forward(&mut forward).expect("forward runs");

        if self.inputs.iter().all(|input| !input.differentiable) {
            let gradients = vec![None; self.inputs.len()];
            return Outcome { outputs, gradients };
        }
        // Small, so that adding to it costs the gradients few digits.
        let base = |i: usize, s: Shape| -> Vec<f32> {
            spread(s, 900 + i as u64).iter().map(|x| 0.01 * x).collect()
        };
        let mut d_inputs: Vec<Option<Vec<f32>>> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, input)| input.differentiable.then(|| base(i, input.shape)))
            .collect();
        let mut scratch = poison(plan.backward_scratch);
        let output_bindings = bind_outputs(&mut outputs);
        let named = |list: &[usize], all: &[Binding]| -> Vec<Option<Binding>> {
            let one = |(i, b): (usize, &Binding)| list.contains(&i).then_some(*b);
            all.iter().enumerate().map(one).collect()
        };
        let upstream_of = |o: usize, shape: Shape| {
            let given = upstream.get(o).and_then(Option::as_ref);
            given.map(|u| bind(u, shape))
        };
        let mut backward = Backward {
            device: Device::Cpu,
            random: Random::new(5, 0),
            shapes: shapes.clone(),
            inputs: named(&plan.reads_inputs, &inputs),
            outputs: named(&plan.reads_outputs, &output_bindings),
            saved: saved.iter_mut().map(|v| bind_words(v)).collect(),
            d_outputs: (0..plan.outputs.len())
                .map(|o| upstream_of(o, plan.outputs[o]))
                .collect(),
            d_inputs: d_inputs
                .iter_mut()
                .zip(&shapes)
                .map(|(d, s)| d.as_mut().map(|d| bind_mut(d, *s)))
                .collect(),
            scratch: Some(bind_words(&mut scratch)),
            arena: PhantomData,
        };
        self.op.backward(&mut backward).expect("backward runs");
        let gradients = d_inputs
            .into_iter()
            .enumerate()
            .map(|(i, d)| {
                let base = base(i, shapes[i]);
                d.map(|d| d.iter().zip(&base).map(|(d, b)| d - b).collect())
            })
            .collect();
        Outcome { outputs, gradients }
    }
}

fn bind(values: &[f32], shape: Shape) -> Binding {
    Binding {
        address: values.as_ptr() as usize,
        shape,
    }
}

fn bind_mut(values: &mut [f32], shape: Shape) -> Binding {
    Binding {
        address: values.as_mut_ptr() as usize,
        shape,
    }
}

fn bind_words(values: &mut [f32]) -> Binding {
    let shape = Shape::new(1, values.len());
    bind_mut(values, shape)
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
