//! A graph whose values, gradients, parameters and scratch have their addresses: what a step of an op is given.

use super::super::io::{Backward, Binding, Forward};
use super::super::timeline::Timeline;
use super::super::{Gradients, Graph, Shape, Source, Update, Value, Var};
use super::{Executor, KERNELS, Kept, Run};
use crate::device::cuda::{Grid, args};
use crate::device::{Device, Precision, parallel};
use crate::{Error, Result};
use std::marker::PhantomData;

/// A graph with every address known.
pub(super) struct Bound<'g> {
    pub graph: &'g Graph<'g>,
    timeline: Timeline,
    base: usize,
    values: Vec<Binding>,
    gradients: Vec<Option<Binding>>,
    device: Device,
    precision: Precision,
}

impl<'g> Bound<'g> {
    /// Finds a place for everything: values and gradients in the arena at `base`, parameters in their own memory.
    pub fn new(
        graph: &'g Graph<'g>,
        timeline: Timeline,
        base: usize,
        executor: &Executor,
        gradients: &mut Option<&mut Gradients>,
    ) -> Result<Bound<'g>> {
        Ok(Bound {
            graph,
            base,
            values: bind_values(graph, &timeline, base, executor.device)?,
            gradients: bind_gradients(graph, &timeline, base, gradients)?,
            timeline,
            device: executor.device,
            precision: executor.precision,
        })
    }

    fn words(&self, offset: usize, words: usize) -> Binding {
        Binding {
            address: self.base + 4 * offset,
            shape: Shape::new(1, words),
        }
    }

    /// Runs a node forward; false where nothing needs it.
    pub fn forward(&self, i: usize) -> Result<bool> {
        let (node, slots) = (&self.graph.nodes[i], &self.timeline.nodes[i]);
        if !slots.runs_forward {
            return Ok(false);
        }
        let saved = slots.saved.iter().zip(&node.plan.saved);
        let mut io = Forward {
            device: self.device,
            precision: self.precision,
            random: self.graph.random.fork(i as u64),
            inputs: node.inputs.iter().map(|v| self.values[v.0]).collect(),
            outputs: node
                .outputs
                .iter()
                .map(|v| Some(self.values[v.0]))
                .collect(),
            saved: saved.map(|(&o, &w)| Some(self.words(o, w))).collect(),
            scratch: Some(self.words(slots.forward_scratch, node.plan.scratch(self.device)[0])),
            arena: PhantomData,
        };
        node.op.forward(&mut io)?;
        Ok(true)
    }

    /// As [`Bound::forward`], backward.
    pub fn backward(&self, i: usize) -> Result<bool> {
        let (node, slots) = (&self.graph.nodes[i], &self.timeline.nodes[i]);
        if !slots.runs_backward {
            return Ok(false);
        }
        self.zero_first_touched(2 * self.graph.nodes.len() - i)?;
        let reads = |slots: &[usize], vars: &[Var]| -> Vec<Option<Binding>> {
            let read = |(slot, v): (usize, &Var)| slots.contains(&slot).then(|| self.values[v.0]);
            vars.iter().enumerate().map(read).collect()
        };
        let saved = slots.saved.iter().zip(&node.plan.saved);
        let mut io = Backward {
            device: self.device,
            precision: self.precision,
            random: self.graph.random.fork(i as u64),
            shapes: node.inputs.iter().map(|v| self.values[v.0].shape).collect(),
            inputs: reads(&node.plan.reads_inputs, &node.inputs),
            outputs: reads(&node.plan.reads_outputs, &node.outputs),
            saved: saved.map(|(&o, &w)| self.words(o, w)).collect(),
            d_outputs: node.outputs.iter().map(|v| self.gradients[v.0]).collect(),
            d_inputs: node.inputs.iter().map(|v| self.gradients[v.0]).collect(),
            scratch: Some(self.words(slots.backward_scratch, node.plan.scratch(self.device)[1])),
            arena: PhantomData,
        };
        node.op.backward(&mut io)?;
        Ok(true)
    }

    /// Zero-fills the gradients in the arena that step `time` touches first. Parameter gradients accumulate over runs.
    pub fn zero_first_touched(&self, time: usize) -> Result<()> {
        for (v, gradient) in self.gradients.iter().enumerate() {
            let in_arena = self.timeline.gradients[v].is_some();
            if let Some(slot) = gradient
                && in_arena
                && self.timeline.gradient_first[v] == time
            {
                match self.device {
                    Device::Cpu => {
                        // SAFETY: the timeline reserves the place from this step on.
                        let words = unsafe { slot.write() };
                        parallel::for_each_rows(words, 1, 1 << 16, |_, part| part.fill(0.0));
                    }
                    Device::Cuda(gpu) => gpu.open()?.zero(slot.pointer(), slot.shape.len())?,
                }
            }
        }
        Ok(())
    }

    /// Adds the gradients that backward starts from.
    pub fn plant_seeds(&self) -> Result<()> {
        for (var, upstream) in &self.graph.seeds {
            let Some(slot) = self.gradients[var.0] else {
                continue;
            };
            match self.device {
                Device::Cpu => {
                    // SAFETY: the timeline reserves the place from the seeding step on.
                    let gradient = unsafe { slot.write() };
                    let pairs = gradient.iter_mut().zip(upstream.iter());
                    pairs.for_each(|(g, u)| *g += u);
                }
                Device::Cuda(gpu) => {
                    let words = upstream.len();
                    let added = args![upstream.on(gpu)?, words, slot.pointer()];
                    let grid = Grid::strided(words);
                    gpu.launch(&KERNELS, "accumulate", grid, added)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for a GPU and takes what the caller wants to read.
    pub fn into_run<'e>(self) -> Result<Run<'e>> {
        if let Device::Cuda(gpu) = self.device {
            gpu.open()?.synchronize()?;
        }
        let graph = self.graph;
        let kept = |(value, binding): (&Value, &Binding)| {
            let computed = matches!(value.source, Source::Output { .. });
            let kept = (value.read && computed).then(|| Kept::new(self.device, *binding));
            kept.transpose()
        };
        let kept_gradient = |(value, binding): (&Value, &Option<Binding>)| {
            let asked = value.keeps_gradient && !matches!(value.source, Source::Param(_));
            let kept = binding.filter(|_| asked);
            kept.map(|binding| Kept::new(self.device, binding))
                .transpose()
        };
        let update = |u: &Update| (u.param, self.values[u.value.0], u.momentum);
        let gradients = graph.values.iter().zip(&self.gradients);
        Ok(Run {
            device: self.device,
            values: graph
                .values
                .iter()
                .zip(&self.values)
                .map(kept)
                .collect::<Result<_>>()?,
            gradients: gradients.map(kept_gradient).collect::<Result<_>>()?,
            updates: graph.updates.iter().map(update).collect(),
            counts: graph.counts.clone(),
            executor: PhantomData,
        })
    }
}

fn bind_values(
    graph: &Graph<'_>,
    timeline: &Timeline,
    base: usize,
    device: Device,
) -> Result<Vec<Binding>> {
    let bind = |(v, value): (usize, &Value)| {
        let address = match &value.source {
            Source::Input(values) => values.address(device)?,
            Source::Param(id) => graph.params.address(*id)?,
            Source::Output { .. } => base + 4 * timeline.values[v],
        };
        let shape = value.shape;
        Ok(Binding { address, shape })
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
                .address_mut(*id)?,
            (_, Some(offset)) => base + 4 * offset,
            (_, None) => return Ok(None),
        };
        let shape = value.shape;
        Ok(Some(Binding { address, shape }))
    };
    graph.values.iter().enumerate().map(bind).collect()
}
