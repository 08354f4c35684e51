//! What tests against the reference files share: one op run through the executor.

use crate::device::random::Random;
use crate::device::{Array, Device};
use crate::graph::check::{FORWARD_LIMIT, GRADIENT_LIMIT, assert_close, devices};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Op, Params, Shape};

/// Outputs of `op`, and the gradients of all inputs when `upstream` flows into the first output: those of the CPU. Other
/// devices must agree with it.
pub fn run(
    op: impl Op + Clone + 'static,
    inputs: &[(Shape, Vec<f32>)],
    upstream: Vec<f32>,
) -> (Vec<Vec<f32>>, Vec<Option<Vec<f32>>>) {
    let want = run_on(Device::Cpu, op.clone(), inputs, &upstream);
    for device in devices() {
        let name = op.name();
        if device == Device::Cpu {
            continue;
        }
        let got = run_on(device, op.clone(), inputs, &upstream);
        for (o, (got, want)) in got.0.iter().zip(&want.0).enumerate() {
            assert_same(
                got,
                want,
                FORWARD_LIMIT,
                &format!("{name} on {device}: output {o}"),
            );
        }
        for (i, pair) in got.1.iter().zip(&want.1).enumerate() {
            let (got, want) = (pair.0.as_ref(), pair.1.as_ref());
            let (got, want) = (got.unwrap(), want.unwrap());
            assert_same(
                got,
                want,
                GRADIENT_LIMIT,
                &format!("{name} on {device}: gradient {i}"),
            );
        }
    }
    want
}

/// Close, or the same values that are not finite.
fn assert_same(got: &[f32], want: &[f32], limit: f64, what: &str) {
    if want.iter().all(|x| x.is_finite()) {
        return assert_close(got, want, limit, what);
    }
    let finite = |values: &[f32]| values.iter().map(|x| x.is_finite()).collect::<Vec<_>>();
    assert_eq!(finite(got), finite(want), "{what}");
}

/// As [`run`] on one device alone.
pub fn run_on(
    device: Device,
    op: impl Op + 'static,
    inputs: &[(Shape, Vec<f32>)],
    upstream: &[f32],
) -> (Vec<Vec<f32>>, Vec<Option<Vec<f32>>>) {
    let params = Params::initial(Layout::default().into(), device, 0).unwrap();
    let mut graph = Graph::new(&params, Mode::Training, Random::new(0, 0));
    let mut vars = Vec::new();
    for (shape, values) in inputs {
        let var = graph.input(Array::from(values.clone()), *shape).unwrap();
        graph.keep_gradient(var);
        vars.push(var);
    }
    let outputs = graph.push_many(op, &vars).unwrap();
    outputs.iter().for_each(|y| graph.keep(*y));
    graph
        .seed(outputs[0], Array::from(upstream.to_vec()))
        .unwrap();
    let mut gradients = Gradients::new(params.layout().clone(), device).unwrap();
    let mut executor = Executor::new(device);
    let run = executor.run(&graph, Some(&mut gradients)).unwrap();
    (
        outputs.iter().map(|y| run.read(*y).to_vec()).collect(),
        vars.iter()
            .map(|x| run.gradient(*x).map(<[f32]>::to_vec))
            .collect(),
    )
}

/// Loss and gradient of the logits.
pub fn loss_and_gradient(
    op: impl Op + Clone + 'static,
    logits: Vec<f32>,
    classes: usize,
) -> (f32, Vec<f32>) {
    let shape = Shape::new(logits.len() / classes, classes);
    let (outputs, mut gradients) = run(op, &[(shape, logits)], vec![1.0]);
    (outputs[0][0], gradients.remove(0).unwrap())
}
