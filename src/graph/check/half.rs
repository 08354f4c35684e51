//! Ops in half precision against twins that round the operands of matrix products themselves.

use super::{Check, Outcome, ZERO_LIMIT, devices, relative_error};
use crate::device::{Device, Precision};
use crate::graph::Op;

/// Rounds an operand of a matrix product.
pub type Round = fn(f64) -> f64;

/// Largest relative L2 error of a twin's gradient against central differences, without rounding.
const TWIN_LIMIT: f64 = 1e-6;

fn identity(x: f64) -> f64 {
    x
}

/// How operands are rounded in a precision.
fn round(precision: Precision) -> Round {
    match precision {
        Precision::F32 => identity,
        // From f32, which is what kernels round; the conversions from f64 look at its upper bits only.
        Precision::Bf16 => |x| half::bf16::from_f32(x as f32).to_f64(),
        Precision::F16 => |x| half::f16::from_f32(x as f32).to_f64(),
    }
}

impl<O: Op> Check<O> {
    /// Checks the op on every GPU with products in bf16 and in f16. `forward` maps inputs to outputs, `backward` inputs and
    /// the gradient of the first output to the gradients of all inputs; both round the operands of products with the
    /// function they get. Without rounding, `backward` is checked against central differences of `forward` first. Inputs
    /// without gradient may have an empty one. The results must be those of rounded operands, and not of others.
    pub fn run_half(
        &self,
        forward: impl Fn(Round, &[Vec<f64>]) -> Vec<Vec<f64>>,
        backward: impl Fn(Round, &[Vec<f64>], &[f64]) -> Vec<Vec<f64>>,
    ) {
        let wide: Vec<Vec<f64>> = self.inputs.iter().map(|i| wide(&i.values)).collect();
        let exact = forward(identity, &wide);
        let upstream = self.upstream(&exact);
        let given = wide_gradient(&upstream);
        self.check_twin(
            &wide,
            &upstream,
            &forward,
            backward(identity, &wide, &given),
        );
        for (device, precision) in forms() {
            let what = format!("{} on {device} in {precision}", self.op.name());
            let round = round(precision);
            let expected = forward(round, &wide);
            let outcome = self.outcome((device, precision), &upstream);
            let outcome = outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
            for (o, got) in outcome.outputs.iter().enumerate() {
                let (error, limit) = (relative_error(got, &expected[o]), self.forward_limit);
                assert!(
                    error <= limit,
                    "{what}: output {o} is off by {error:.2e} (limit {limit:.2e})"
                );
                let other = relative_error(got, &exact[o]);
                assert!(
                    got.is_empty() || other > limit,
                    "{what}: output {o} is that of operands which are not rounded"
                );
            }
            self.check_half_gradients(&what, &backward(round, &wide, &given), &outcome);
            self.check_repeatable((device, precision), &upstream, &outcome);
        }
    }

    fn check_half_gradients(&self, what: &str, expected: &[Vec<f64>], outcome: &Outcome) {
        let largest = largest(expected.iter().flatten().copied());
        for (i, got) in outcome.gradients.iter().enumerate() {
            let Some(got) = got.as_ref().filter(|_| !expected[i].is_empty()) else {
                continue;
            };
            if is_silent(expected[i].iter().copied()) {
                let worst = got.iter().fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
                assert!(
                    worst <= ZERO_LIMIT * largest,
                    "{what}: gradient of input {i} is not 0 but {worst:.2e}"
                );
                continue;
            }
            let (error, limit) = (relative_error(got, &expected[i]), self.gradient_limit);
            assert!(
                error <= limit,
                "{what}: gradient of input {i} is off by {error:.2e} (limit {limit:.2e})"
            );
        }
    }

    /// The gradients of a twin without rounding, against central differences.
    fn check_twin(
        &self,
        wide: &[Vec<f64>],
        upstream: &[Option<Vec<f32>>],
        forward: &impl Fn(Round, &[Vec<f64>]) -> Vec<Vec<f64>>,
        gradients: Vec<Vec<f64>>,
    ) {
        let differences = self.differences(wide, upstream, &|x| forward(identity, x));
        for (i, differences) in differences.iter().enumerate() {
            let Some(differences) = differences.as_ref().filter(|_| !gradients[i].is_empty())
            else {
                continue;
            };
            if is_silent(differences.iter().map(|(_, d)| *d)) {
                assert!(
                    is_silent(gradients[i].iter().copied()),
                    "{}: input {i}",
                    self.op.name()
                );
                continue;
            }
            let square = |x: f64| x * x;
            let error: f64 = differences
                .iter()
                .map(|(j, d)| square(gradients[i][*j] - d))
                .sum();
            let norm: f64 = differences.iter().map(|(_, d)| square(*d)).sum();
            let error = error.sqrt() / norm.sqrt().max(1e-3);
            assert!(
                error <= TWIN_LIMIT,
                "{}: the twin's gradient of input {i} is off by {error:.2e}",
                self.op.name()
            );
        }
    }
}

/// The GPUs to test on with the half precisions that each of them has.
fn forms() -> Vec<(Device, Precision)> {
    let mut forms = Vec::new();
    for device in devices() {
        let Device::Cuda(gpu) = device else { continue };
        let capability = gpu.open().expect("it was opened").capability();
        let half = [Precision::Bf16, Precision::F16].into_iter();
        let has = half.filter(|precision| capability >= precision.capability());
        forms.extend(has.map(|precision| (device, precision)));
    }
    forms
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |most, x| most.max(x.abs()))
}

/// True for a gradient whose exact value is 0.
fn is_silent(gradient: impl Iterator<Item = f64>) -> bool {
    largest(gradient) < 1e-7
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// The gradient of the first output.
fn wide_gradient(upstream: &[Option<Vec<f32>>]) -> Vec<f64> {
    let first = upstream.first().and_then(Option::as_ref);
    first.map_or(Vec::new(), |u| wide(u))
}
