use super::*;
use crate::device::Array;
use crate::device::random::Random;
use crate::graph::check::devices;
use crate::graph::{Layout, Mode, Scope};
use crate::ops::{AddRelu, Relu};

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

#[test]
fn running_statistics_move_towards_the_batch() {
    for device in devices() {
        let mut layout = Layout::default();
        let id = Scope::root(&mut layout).running("mean", &[2], 4.0);
        let count = Scope::root(&mut layout).counter("seen");
        let mut params = Params::initial(layout.into(), device, 0).unwrap();
        let mut executor = Executor::new(device);
        for _ in 0..2 {
            let mut graph = Graph::new(&params, Mode::Training, Random::new(0, 0));
            let batch = Array::from(vec![8.0, 16.0]);
            let batch = graph.input(batch, Shape::new(1, 2)).unwrap();
            let mean = graph.push(Relu, &[batch]).unwrap();
            graph.update_running(id, mean, 0.5);
            graph.count(count);
            let run = executor.run(&graph, None).unwrap();
            drop(graph);
            run.commit(&mut params).unwrap();
        }
        assert_eq!(params.get(id), [7.0, 13.0]);
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
