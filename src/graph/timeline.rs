//! When every value of a graph is written first and read last.
//!
//! With n nodes, forward of node i is step i, the seeds of backward are step n, backward of node i is step 2n − i.

use super::plan::{Lifetime, Placement, place};
use super::{Graph, Source};
use crate::device::Device;

/// Where a node's buffers lie in the arena, in words.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeBuffers {
    pub runs_forward: bool,
    pub runs_backward: bool,
    pub saved: Vec<usize>,
    pub forward_scratch: usize,
    pub backward_scratch: usize,
}

/// The planned arena of a graph.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub nodes: Vec<NodeBuffers>,
    /// Offset of every node output; unused for inputs and parameters.
    pub values: Vec<usize>,
    /// Offset of the gradient of every value that has one in the arena.
    pub gradients: Vec<Option<usize>>,
    /// Step that touches each gradient first.
    pub gradient_first: Vec<usize>,
    /// Values whose gradient is computed, parameters included.
    pub has_gradient: Vec<bool>,
    pub words: usize,
}

#[derive(Default)]
struct Buffers(Vec<Lifetime>);

impl Buffers {
    fn add(&mut self, words: usize, first: usize, last: usize) -> usize {
        self.0.push(Lifetime { words, first, last });
        self.0.len() - 1
    }
}

impl Timeline {
    /// Finds the nodes that have to run and places everything they touch.
    pub fn new(graph: &Graph<'_>, device: Device) -> Self {
        let mut timeline = Timeline {
            nodes: vec![NodeBuffers::default(); graph.nodes.len()],
            values: vec![0; graph.values.len()],
            gradients: vec![None; graph.values.len()],
            gradient_first: vec![0; graph.values.len()],
            has_gradient: vec![false; graph.values.len()],
            words: 0,
        };
        timeline.find_active(graph);
        let mut buffers = Buffers::default();
        timeline.values_live(graph, &mut buffers);
        timeline.gradients_live(graph, &mut buffers);
        timeline.scratch_lives(graph, device, &mut buffers);
        let Placement { offsets, words } = place(&buffers.0);
        timeline.resolve(graph, &offsets);
        timeline.words = words;
        timeline
    }

    fn find_active(&mut self, graph: &Graph<'_>) {
        let mut needed: Vec<bool> = graph.values.iter().map(|v| v.kept).collect();
        for (var, _) in &graph.seeds {
            needed[var.0] = true;
            self.has_gradient[var.0] = graph.values[var.0].wants_gradient;
        }
        for (i, node) in graph.nodes.iter().enumerate().rev() {
            if !node.outputs.iter().any(|v| needed[v.0]) {
                continue;
            }
            self.nodes[i].runs_forward = true;
            node.inputs.iter().for_each(|v| needed[v.0] = true);
            if node.outputs.iter().any(|v| self.has_gradient[v.0]) {
                for v in &node.inputs {
                    if graph.values[v.0].wants_gradient {
                        self.has_gradient[v.0] = true;
                        self.nodes[i].runs_backward = true;
                    }
                }
            }
        }
    }

    fn values_live(&mut self, graph: &Graph<'_>, buffers: &mut Buffers) {
        let n = graph.nodes.len();
        let mut last: Vec<usize> = vec![0; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            let buffers = &self.nodes[i];
            if !buffers.runs_forward {
                continue;
            }
            for v in node.inputs.iter().chain(&node.outputs) {
                last[v.0] = last[v.0].max(i);
            }
            if buffers.runs_backward {
                for &slot in &node.plan.reads_inputs {
                    let v = node.inputs[slot];
                    last[v.0] = last[v.0].max(2 * n - i);
                }
                for &slot in &node.plan.reads_outputs {
                    let v = node.outputs[slot];
                    last[v.0] = last[v.0].max(2 * n - i);
                }
            }
        }
        for (v, value) in graph.values.iter().enumerate() {
            if let Source::Output { node } = value.source
                && self.nodes[node].runs_forward
            {
                let end = if value.kept { 2 * n + 1 } else { last[v] };
                self.values[v] = buffers.add(value.shape.len(), node, end);
            }
        }
    }

    fn gradients_live(&mut self, graph: &Graph<'_>, buffers: &mut Buffers) {
        let n = graph.nodes.len();
        let mut first = vec![usize::MAX; graph.values.len()];
        for (var, _) in &graph.seeds {
            first[var.0] = n;
        }
        for (i, node) in graph.nodes.iter().enumerate().rev() {
            if self.nodes[i].runs_backward {
                for v in &node.inputs {
                    first[v.0] = first[v.0].min(2 * n - i);
                }
            }
        }
        for (v, value) in graph.values.iter().enumerate() {
            if !self.has_gradient[v] {
                continue;
            }
            self.gradient_first[v] = first[v];
            let last = match value.source {
                Source::Output { node } if !value.keeps_gradient => 2 * n - node,
                Source::Param(_) => continue,
                _ => 2 * n + 1,
            };
            self.gradients[v] = Some(buffers.add(value.shape.len(), first[v], last.max(first[v])));
        }
    }

    fn scratch_lives(&mut self, graph: &Graph<'_>, device: Device, buffers: &mut Buffers) {
        let n = graph.nodes.len();
        for (i, node) in graph.nodes.iter().enumerate() {
            let slots = &mut self.nodes[i];
            let [forward, backward] = node.plan.scratch(device);
            if slots.runs_forward {
                slots.forward_scratch = buffers.add(forward, i, i);
            }
            if slots.runs_backward {
                let back = 2 * n - i;
                slots.backward_scratch = buffers.add(backward, back, back);
                for &words in &node.plan.saved {
                    slots.saved.push(buffers.add(words, i, back));
                }
            }
        }
    }

    /// Replaces buffer numbers by offsets.
    fn resolve(&mut self, graph: &Graph<'_>, offsets: &[usize]) {
        for slots in &mut self.nodes {
            if slots.runs_forward {
                slots.forward_scratch = offsets[slots.forward_scratch];
            }
            if slots.runs_backward {
                slots.backward_scratch = offsets[slots.backward_scratch];
                slots.saved.iter_mut().for_each(|s| *s = offsets[*s]);
            }
        }
        for (v, value) in graph.values.iter().enumerate() {
            if let Source::Output { node } = value.source
                && self.nodes[node].runs_forward
            {
                self.values[v] = offsets[self.values[v]];
            }
            if let Some(slot) = &mut self.gradients[v] {
                *slot = offsets[*slot];
            }
        }
    }
}
