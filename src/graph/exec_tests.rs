use super::*;
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::check::devices;
use crate::graph::{Layout, Mode, Scope, Shape};
use crate::ops::{AddRelu, DropPath, Relu};

fn params(device: Device) -> Params {
    Params::initial(Layout::default().into(), device, 0).unwrap()
}

#[test]
fn gradients_of_shared_values_add_up() {
    for device in devices() {
        let params = params(device);
        let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
        let shape = Shape::new(1, 3);
        let x = graph
            .input(Array::from(vec![1.0, -2.0, 3.0]), shape)
            .unwrap();
        graph.keep_gradient(x);
        let a = graph.push(Relu, &[x]).unwrap();
        let b = graph.push(Relu, &[x]).unwrap();
        let y = graph.push(AddRelu, &[a, b]).unwrap();
        graph.keep(y);
        graph.seed(y, Array::from(vec![1.0, 1.0, 10.0])).unwrap();
        let mut gradients = Gradients::new(params.layout().clone(), device).unwrap();
        let mut executor = Executor::new(device);
        for _ in 0..2 {
            let run = executor.run(&graph, Some(&mut gradients)).unwrap();
            assert_eq!(run.read(y), [2.0, 0.0, 6.0]);
            assert_eq!(run.gradient(x).unwrap(), [2.0, 0.0, 20.0]);
        }
    }
}

/// Three statistics, of which one moves twice in a run, in the order of the graph.
#[test]
fn running_statistics_move_towards_the_batch() {
    for device in devices() {
        let mut layout = Layout::default();
        let mut scope = Scope::root(&mut layout);
        let ids = ["mean", "other", "last"].map(|name| scope.running(name, &[2], 4.0));
        let count = scope.counter("seen");
        let mut params = Params::initial(layout.into(), device, 0).unwrap();
        let mut executor = Executor::new(device);
        for _ in 0..2 {
            let mut graph = Graph::new(&params, Mode::Training, Random::new(0, 0));
            let batch = Array::from(vec![8.0, 16.0]);
            let batch = graph.input(batch, Shape::new(1, 2)).unwrap();
            let mean = graph.push(Relu, &[batch]).unwrap();
            for (id, momentum) in [(ids[0], 0.5), (ids[1], 0.25), (ids[2], 0.5), (ids[1], 1.0)] {
                graph.update_running(id, mean, momentum);
            }
            graph.count(count);
            let run = executor.run(&graph, None).unwrap();
            drop(graph);
            run.commit(&mut params).unwrap();
        }
        assert_eq!(params.get(ids[0]), [7.0, 13.0]);
        assert_eq!(params.get(ids[1]), [8.0, 16.0]);
        assert_eq!(params.get(ids[2]), [7.0, 13.0]);
        assert_eq!(params.counter(count), 2);
    }
}

#[test]
fn parameters_on_another_device_are_refused() {
    for device in devices().into_iter().skip(1) {
        let params = params(device);
        let graph = Graph::new(&params, Mode::Inference, Random::new(0, 0));
        let error = Executor::new(Device::Cpu).run(&graph, None).unwrap_err();
        assert!(error.to_string().contains(&device.to_string()), "{error}");
    }
}

#[test]
fn nodes_that_nothing_needs_do_not_run() {
    let params = params(Device::Cpu);
    let mut graph = Graph::new(&params, Mode::Inference, Random::new(0, 0));
    let x = graph
        .input(Array::from(vec![1.0]), Shape::new(1, 1))
        .unwrap();
    let _unused = graph.push(Relu, &[x]).unwrap();
    let y = graph.push(Relu, &[x]).unwrap();
    graph.keep(y);
    let mut executor = Executor::new(Device::Cpu);
    executor.run(&graph, None).unwrap();
    assert_eq!(executor.timings()[&("relu", Phase::Forward)].steps, 1);
}

#[test]
fn the_same_input_twice_is_refused_when_it_wants_a_gradient() {
    let params = params(Device::Cpu);
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let x = graph
        .input(Array::from(vec![1.0]), Shape::new(1, 1))
        .unwrap();
    assert!(graph.push(AddRelu, &[x, x]).is_ok());
    graph.keep_gradient(x);
    assert!(graph.push(AddRelu, &[x, x]).is_err());
}

/// y = drop(relu(x)) and its gradient, of `rows` rows that start with `first`, in step `step`.
fn dropped(executor: &mut Executor, rows: usize, first: f32, step: u64) -> [Vec<f32>; 2] {
    let params = params(executor.device);
    let mut graph = Graph::new(&params, Mode::Training, Random::new(3, step));
    let shape = Shape::new(rows, 4);
    let values: Vec<f32> = (0..shape.len()).map(|i| first + i as f32).collect();
    let x = graph.input(Array::from(values), shape).unwrap();
    graph.keep_gradient(x);
    let y = graph.push(Relu, &[x]).unwrap();
    let y = graph.push(DropPath { rate: 0.5 }, &[y]).unwrap();
    graph.keep(y);
    let ones = Array::from(vec![1.0; shape.len()]);
    graph.seed(y, ones).unwrap();
    let mut gradients = Gradients::new(params.layout().clone(), executor.device).unwrap();
    let run = executor.run(&graph, Some(&mut gradients)).unwrap();
    [run.read(y).to_vec(), run.gradient(x).unwrap().to_vec()]
}

#[test]
fn replayed_runs_have_the_bits_of_runs_that_are_launched_as_they_come() {
    for device in devices().into_iter().skip(1) {
        let mut executor = Executor::new(device);
        // Other values, places and random numbers each time; two shapes in turn; at last more shapes than are kept.
        let runs = (0..8).map(|step| (20 + step % 2, step as f32 - 4.0, step as u64));
        let runs = runs.chain([30, 31, 32, 33, 20].map(|rows| (rows, 1.0, 9)));
        for (rows, first, step) in runs {
            let expected = dropped(&mut Executor::new(device), rows, first, step);
            assert!(expected[0].contains(&0.0) && expected[0].iter().any(|y| *y > 0.0));
            let found = dropped(&mut executor, rows, first, step);
            assert_eq!(found, expected, "{rows} rows, step {step}");
        }
        #[cfg(feature = "cuda")]
        assert_eq!(
            executor.replay.replayed, 6,
            "all but the first of each shape"
        );
    }
}
