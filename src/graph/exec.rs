//! Running a recorded graph: forward in order, then backward in reverse order, all values in one arena.

use super::timeline::Timeline;
use super::{Gradients, Graph, ParamId, Params, Shape, Source, Value, Var};
use crate::device::random::Random;
use crate::device::{Device, Memory, parallel};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// A value at its address on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    pub address: usize,
    pub shape: Shape,
}

impl Binding {
    /// SAFETY: the address is that of `shape.len()` initialised words which nobody writes during 'a.
    unsafe fn read<'a>(self) -> &'a [f32] {
        if self.shape.is_empty() {
            return &[];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.address as *const f32, self.shape.len()) }
    }

    /// SAFETY: the address is that of `shape.len()` initialised words which nobody else touches during 'a.
    unsafe fn write<'a>(self) -> &'a mut [f32] {
        if self.shape.is_empty() {
            return &mut [];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut f32, self.shape.len()) }
    }
}

fn take(slot: &mut Option<Binding>, what: &str) -> Binding {
    slot.take()
        .unwrap_or_else(|| panic!("{what} is not there, or was taken before"))
}

/// What an op sees while it computes its outputs. Every mutable slice can be taken once.
#[derive(Debug)]
pub struct Forward<'a> {
    pub(super) device: Device,
    pub(super) random: Random,
    pub(super) inputs: Vec<Binding>,
    pub(super) outputs: Vec<Option<Binding>>,
    pub(super) saved: Vec<Option<Binding>>,
    pub(super) scratch: Option<Binding>,
    pub(super) arena: PhantomData<&'a mut [f32]>,
}

impl<'a> Forward<'a> {
    /// Where to run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The random stream of this node at this step; backward sees the same one.
    pub fn random(&self) -> Random {
        self.random
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.inputs[i].shape
    }

    /// Number of inputs; ops may take optional ones at the end.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Values of input `i`.
    pub fn input(&self, i: usize) -> &'a [f32] {
        // SAFETY: the timeline keeps inputs apart from everything this node writes; parameters and given inputs lie
        // outside the arena and are borrowed shared by the graph.
        unsafe { self.inputs[i].read() }
    }

    /// Output `i`, to be filled. Can be taken once.
    pub fn output(&mut self, i: usize) -> &'a mut [f32] {
        let slot = take(&mut self.outputs[i], "output");
        // SAFETY: the timeline gives every output its own place, and taking the slot makes the borrow unique.
        unsafe { slot.write() }
    }

    /// True when backward follows, so that what is saved has to be written.
    pub fn saves(&self) -> bool {
        !self.saved.is_empty()
    }

    /// What is saved for backward, slot `i`. Can be taken once, and only when [`Forward::saves`].
    pub fn saved(&mut self, i: usize) -> &'a mut [f32] {
        let slot = take(&mut self.saved[i], "saved value");
        // SAFETY: as for outputs.
        unsafe { slot.write() }
    }

    /// Scratch of the size that the plan asked for. Can be taken once.
    pub fn scratch(&mut self) -> &'a mut [f32] {
        let slot = take(&mut self.scratch, "scratch");
        // SAFETY: as for outputs.
        unsafe { slot.write() }
    }
}

/// What an op sees while it adds up the gradients of its inputs.
#[derive(Debug)]
pub struct Backward<'a> {
    pub(super) device: Device,
    pub(super) random: Random,
    pub(super) shapes: Vec<Shape>,
    pub(super) inputs: Vec<Option<Binding>>,
    pub(super) outputs: Vec<Option<Binding>>,
    pub(super) saved: Vec<Binding>,
    pub(super) d_outputs: Vec<Option<Binding>>,
    pub(super) d_inputs: Vec<Option<Binding>>,
    pub(super) scratch: Option<Binding>,
    pub(super) arena: PhantomData<&'a mut [f32]>,
}

impl<'a> Backward<'a> {
    /// Where to run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The random stream that forward saw.
    pub fn random(&self) -> Random {
        self.random
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.shapes[i]
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.shapes.len()
    }

    /// Values of input `i`, which the plan must name in `reads_inputs`.
    pub fn input(&self, i: usize) -> &'a [f32] {
        let slot = self.inputs[i].expect("the plan names every input that backward reads");
        // SAFETY: alive until this step by the timeline, and apart from everything this step writes.
        unsafe { slot.read() }
    }

    /// Values of output `i`, which the plan must name in `reads_outputs`.
    pub fn output(&self, i: usize) -> &'a [f32] {
        let slot = self.outputs[i].expect("the plan names every output that backward reads");
        // SAFETY: as for inputs.
        unsafe { slot.read() }
    }

    /// What forward saved in slot `i`.
    pub fn saved(&self, i: usize) -> &'a [f32] {
        // SAFETY: as for inputs.
        unsafe { self.saved[i].read() }
    }

    /// Gradient of output `i`; `None` when nothing depends on that output.
    pub fn d_output(&self, i: usize) -> Option<&'a [f32]> {
        // SAFETY: as for inputs.
        self.d_outputs[i].map(|slot| unsafe { slot.read() })
    }

    /// True when input `i` wants its gradient.
    pub fn wants(&self, i: usize) -> bool {
        self.d_inputs[i].is_some()
    }

    /// Gradient of input `i`, to be added to; `None` when it is not wanted or was taken before.
    pub fn d_input(&mut self, i: usize) -> Option<&'a mut [f32]> {
        // SAFETY: the timeline gives every gradient its own place (recording refuses the same value twice), and taking
        // the slot makes the borrow unique.
        self.d_inputs[i].take().map(|slot| unsafe { slot.write() })
    }

    /// Scratch of the size that the plan asked for. Can be taken once.
    pub fn scratch(&mut self) -> &'a mut [f32] {
        let slot = take(&mut self.scratch, "scratch");
        // SAFETY: as for outputs of forward.
        unsafe { slot.write() }
    }
}

/// Direction of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Outputs from inputs.
    Forward,
    /// Input gradients from output gradients.
    Backward,
}

/// Time that all nodes of one op took since the executor was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// Number of steps.
    pub steps: usize,
    /// Time of all of them.
    pub time: Duration,
}

/// Runs graphs, one after another, in an arena that grows to the largest.
#[derive(Debug)]
pub struct Executor {
    device: Device,
    arena: Option<Memory>,
    timings: BTreeMap<(&'static str, Phase), Timing>,
}

/// What a run left in the arena. Reading borrows the executor.
#[derive(Debug)]
pub struct Run<'e> {
    values: Vec<Option<Binding>>,
    gradients: Vec<Option<Binding>>,
    updates: Vec<(ParamId, Binding, f32)>,
    counts: Vec<ParamId>,
    executor: PhantomData<&'e mut Executor>,
}

impl Run<'_> {
    /// A value that the graph was asked to keep.
    pub fn read(&self, var: Var) -> &[f32] {
        let slot = self.values[var.0].expect("only kept values can be read after a run");
        // SAFETY: kept values live until the arena is used again, which this borrow of the executor excludes.
        unsafe { slot.read() }
    }

    /// A gradient that the graph was asked to keep; `None` when no seed depends on the value.
    pub fn gradient(&self, var: Var) -> Option<&[f32]> {
        // SAFETY: as for values.
        self.gradients[var.0].map(|slot| unsafe { slot.read() })
    }

    /// Moves the running statistics and counters as the graph asked. Call it once, after the graph is dropped.
    pub fn commit(&self, params: &mut Params) {
        for &(id, batch, momentum) in &self.updates {
            // SAFETY: as for values.
            let batch = unsafe { batch.read() };
            let moved: Vec<f32> = params
                .get(id)
                .iter()
                .zip(batch)
                .map(|(r, b)| (1.0 - momentum) * r + momentum * b)
                .collect();
            params
                .set(id, &moved)
                .expect("the statistic has the length of its parameter");
        }
        for &id in &self.counts {
            params.set_counter(id, params.counter(id) + 1);
        }
    }
}

impl Executor {
    /// An executor without an arena yet.
    pub fn new(device: Device) -> Self {
        Executor {
            device,
            arena: None,
            timings: BTreeMap::new(),
        }
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, |a| 4 * a.len())
    }

    /// Time per op and phase since the executor was made.
    pub fn timings(&self) -> &BTreeMap<(&'static str, Phase), Timing> {
        &self.timings
    }

    /// Runs `graph` forward and, when it has seeds, backward. Parameter gradients are added to `gradients`, which has
    /// to be given when there are seeds.
    pub fn run(
        &mut self,
        graph: &Graph<'_>,
        mut gradients: Option<&mut Gradients>,
    ) -> Result<Run<'_>> {
        let timeline = Timeline::new(graph);
        if self.arena.as_ref().is_none_or(|a| a.len() < timeline.words) {
            self.arena = None;
            self.arena = Some(Memory::new(self.device, timeline.words)?);
        }
        let base = self.arena.as_ref().map_or(0, Memory::address);
        let bound = Bound {
            graph,
            base,
            values: bind_values(graph, &timeline, base),
            gradients: bind_gradients(graph, &timeline, base, &mut gradients)?,
            timeline,
            device: self.device,
        };
        for i in 0..graph.nodes.len() {
            self.timed(graph, i, Phase::Forward, || bound.forward(i))?;
        }
        if !graph.seeds.is_empty() {
            bound.zero_first_touched(graph.nodes.len());
            bound.plant_seeds();
            for i in (0..graph.nodes.len()).rev() {
                self.timed(graph, i, Phase::Backward, || bound.backward(i))?;
            }
        }
        Ok(bound.into_run())
    }

    fn timed(
        &mut self,
        graph: &Graph<'_>,
        node: usize,
        phase: Phase,
        step: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        if step()? {
            let name = graph.nodes[node].op.name();
            let timing = self.timings.entry((name, phase)).or_default();
            timing.steps += 1;
            timing.time += start.elapsed();
        }
        Ok(())
    }
}

fn bind_values(graph: &Graph<'_>, timeline: &Timeline, base: usize) -> Vec<Binding> {
    let bind = |(v, value): (usize, &Value)| Binding {
        address: match &value.source {
            Source::Input(values) => values.as_ptr() as usize,
            Source::Param(id) => graph.params.address(*id),
            Source::Output { .. } => base + 4 * timeline.values[v],
        },
        shape: value.shape,
    };
    graph.values.iter().enumerate().map(bind).collect()
}

fn bind_gradients(
    graph: &Graph<'_>,
    timeline: &Timeline,
    base: usize,
    gradients: &mut Option<&mut Gradients>,
) -> Result<Vec<Option<Binding>>> {
    let bind = |(v, value): (usize, &Value)| {
        if !timeline.has_gradient[v] {
            return Ok(None);
        }
        let address = match (&value.source, timeline.gradients[v]) {
            (Source::Param(id), _) => gradients
                .as_mut()
                .ok_or_else(|| Error::argument("gradients", "a graph with seeds needs them"))?
                .address(*id),
            (_, Some(offset)) => base + 4 * offset,
            (_, None) => return Ok(None),
        };
        let shape = value.shape;
        Ok(Some(Binding { address, shape }))
    };
    graph.values.iter().enumerate().map(bind).collect()
}

/// A graph with every address known.
struct Bound<'g> {
    graph: &'g Graph<'g>,
    timeline: Timeline,
    base: usize,
    values: Vec<Binding>,
    gradients: Vec<Option<Binding>>,
    device: Device,
}

impl Bound<'_> {
    fn words(&self, offset: usize, words: usize) -> Binding {
        Binding {
            address: self.base + 4 * offset,
            shape: Shape::new(1, words),
        }
    }

    fn forward(&self, i: usize) -> Result<bool> {
        let (node, slots) = (&self.graph.nodes[i], &self.timeline.nodes[i]);
        if !slots.runs_forward {
            return Ok(false);
        }
        let saved = slots.saved.iter().zip(&node.plan.saved);
        let mut io = Forward {
            device: self.device,
            random: self.graph.random.fork(i as u64),
            inputs: node.inputs.iter().map(|v| self.values[v.0]).collect(),
            outputs: node
                .outputs
                .iter()
                .map(|v| Some(self.values[v.0]))
                .collect(),
            saved: saved.map(|(&o, &w)| Some(self.words(o, w))).collect(),
            scratch: Some(self.words(slots.forward_scratch, node.plan.forward_scratch)),
            arena: PhantomData,
        };
        node.op.forward(&mut io)?;
        Ok(true)
    }

    fn backward(&self, i: usize) -> Result<bool> {
        let (node, slots) = (&self.graph.nodes[i], &self.timeline.nodes[i]);
        if !slots.runs_backward {
            return Ok(false);
        }
        self.zero_first_touched(2 * self.graph.nodes.len() - i);
        let reads = |slots: &[usize], vars: &[Var]| -> Vec<Option<Binding>> {
            let read = |(slot, v): (usize, &Var)| slots.contains(&slot).then(|| self.values[v.0]);
            vars.iter().enumerate().map(read).collect()
        };
        let saved = slots.saved.iter().zip(&node.plan.saved);
        let mut io = Backward {
            device: self.device,
            random: self.graph.random.fork(i as u64),
            shapes: node.inputs.iter().map(|v| self.values[v.0].shape).collect(),
            inputs: reads(&node.plan.reads_inputs, &node.inputs),
            outputs: reads(&node.plan.reads_outputs, &node.outputs),
            saved: saved.map(|(&o, &w)| self.words(o, w)).collect(),
            d_outputs: node.outputs.iter().map(|v| self.gradients[v.0]).collect(),
            d_inputs: node.inputs.iter().map(|v| self.gradients[v.0]).collect(),
            scratch: Some(self.words(slots.backward_scratch, node.plan.backward_scratch)),
            arena: PhantomData,
        };
        node.op.backward(&mut io)?;
        Ok(true)
    }

    /// Zero-fills the gradients in the arena that step `time` touches first. Parameter gradients accumulate over runs.
    fn zero_first_touched(&self, time: usize) {
        for (v, gradient) in self.gradients.iter().enumerate() {
            let in_arena = self.timeline.gradients[v].is_some();
            if let Some(slot) = gradient
                && in_arena
                && self.timeline.gradient_first[v] == time
            {
                // SAFETY: the timeline reserves the place from this step on.
                let words = unsafe { slot.write() };
                parallel::for_each_rows(words, 1, 1 << 16, |_, part| part.fill(0.0));
            }
        }
    }

    fn plant_seeds(&self) {
        for (var, upstream) in &self.graph.seeds {
            if let Some(slot) = self.gradients[var.0] {
                // SAFETY: the timeline reserves the place from the seeding step on.
                let gradient = unsafe { slot.write() };
                gradient
                    .iter_mut()
                    .zip(upstream.iter())
                    .for_each(|(g, u)| *g += u);
            }
        }
    }

    fn into_run<'e>(self) -> Run<'e> {
        let graph = self.graph;
        let kept = |(value, binding): (&Value, &Binding)| {
            let computed = matches!(value.source, Source::Output { .. });
            (value.kept && computed).then_some(*binding)
        };
        let kept_gradient = |(value, binding): (&Value, &Option<Binding>)| {
            binding.filter(|_| value.keeps_gradient && !matches!(value.source, Source::Param(_)))
        };
        let update = |u: &super::Update| (u.param, self.values[u.value.0], u.momentum);
        Run {
            values: graph.values.iter().zip(&self.values).map(kept).collect(),
            gradients: graph
                .values
                .iter()
                .zip(&self.gradients)
                .map(kept_gradient)
                .collect(),
            updates: graph.updates.iter().map(update).collect(),
            counts: graph.counts.clone(),
            executor: PhantomData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Array;
    use crate::graph::{Layout, Mode};
    use crate::ops::{AddRelu, Relu};

    fn params() -> Params {
        Params::initial(Layout::default().into(), Device::Cpu, 0).unwrap()
    }

    #[test]
    fn gradients_of_shared_values_add_up() {
        let params = params();
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
        let mut gradients = Gradients::new(params.layout().clone(), Device::Cpu).unwrap();
        let mut executor = Executor::new(Device::Cpu);
        for _ in 0..2 {
            let run = executor.run(&graph, Some(&mut gradients)).unwrap();
            assert_eq!(run.read(y), [2.0, 0.0, 6.0]);
            assert_eq!(run.gradient(x).unwrap(), [2.0, 0.0, 20.0]);
        }
    }

    #[test]
    fn nodes_that_nothing_needs_do_not_run() {
        let params = params();
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
        let params = params();
        let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
        let x = graph
            .input(Array::from(vec![1.0]), Shape::new(1, 1))
            .unwrap();
        assert!(graph.push(AddRelu, &[x, x]).is_ok());
        graph.keep_gradient(x);
        assert!(graph.push(AddRelu, &[x, x]).is_err());
    }
}
