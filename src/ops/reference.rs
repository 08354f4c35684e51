//! What tests against the reference files share: one op run through the executor.

use crate::device::random::Random;
use crate::device::{Array, Device};
use crate::graph::{Executor, Gradients, Graph, Layout, Mode, Op, Params, Shape};

/// Outputs of `op`, and the gradients of all inputs when `upstream` flows into the first output.
pub fn run(
    op: impl Op + 'static,
    inputs: &[(Shape, Vec<f32>)],
    upstream: Vec<f32>,
) -> (Vec<Vec<f32>>, Vec<Option<Vec<f32>>>) {
    let params = Params::initial(Layout::default().into(), Device::Cpu, 0).unwrap();
    let mut graph = Graph::new(&params, Mode::Training, Random::new(0, 0));
    let mut vars = Vec::new();
    for (shape, values) in inputs {
        let var = graph.input(Array::from(values.clone()), *shape).unwrap();
        graph.keep_gradient(var);
        vars.push(var);
    }
    let outputs = graph.push_many(op, &vars).unwrap();
    outputs.iter().for_each(|y| graph.keep(*y));
    graph.seed(outputs[0], Array::from(upstream)).unwrap();
    let mut gradients = Gradients::new(params.layout().clone(), Device::Cpu).unwrap();
    let mut executor = Executor::new(Device::Cpu);
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
    op: impl Op + 'static,
    logits: Vec<f32>,
    classes: usize,
) -> (f32, Vec<f32>) {
    let shape = Shape::new(logits.len() / classes, classes);
    let (outputs, mut gradients) = run(op, &[(shape, logits)], vec![1.0]);
    (outputs[0][0], gradients.remove(0).unwrap())
}
