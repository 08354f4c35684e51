//! Recording, planning and running ops.
//!
//! A network records its ops for the batch at hand with plain Rust code ([`Graph`]), every value gets an offset in one
//! arena ([`plan`]) and the [`Executor`] walks the list forward and, in training, backward. A graph is cheap and is
//! rebuilt for each batch, so sizes are plain numbers. Backward steps belong to the same timeline as forward steps: an
//! activation simply lives until its last reader.
//!
//! ```
//! use cairn::device::{Array, Device, random::Random};
//! use cairn::graph::{Executor, Graph, Layout, Mode, Params, Shape};
//! use cairn::ops::Relu;
//!
//! let params = Params::initial(Layout::default().into(), Device::Cpu, 0)?;
//! let mut graph = Graph::new(&params, Mode::Inference, Random::new(0, 0));
//! let x = graph.input(Array::from(vec![-1.0, 2.0]), Shape::new(1, 2))?;
//! let y = graph.push(Relu, &[x])?;
//! graph.keep(y);
//! let mut executor = Executor::new(Device::Cpu);
//! let run = executor.run(&graph, None)?;
//! assert_eq!(run.read(y), [0.0, 2.0]);
//! # Ok::<(), cairn::Error>(())
//! ```

pub mod check;
mod exec;
mod io;
mod op;
mod params;
pub mod plan;
mod timeline;

use crate::device::Array;
use crate::device::random::Random;
use crate::{Error, Result};
pub use exec::{Executor, Phase, Run, Timing};
pub use io::{Backward, Forward};
pub use op::{Op, Plan, Shape};
pub use params::{Gradients, Init, Layout, ParamId, ParamKind, ParamSpec, Params, Scope};
use std::collections::HashMap;

/// A value of a [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Var(usize);

/// How layers with several forms record themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, random masks, backward.
    Training,
    /// Running statistics and no masks, yet everything that backward needs.
    Frozen,
    /// Running statistics folded into weights, no backward.
    Inference,
}

#[derive(Debug)]
enum Source {
    Input(Array<f32>),
    Param(ParamId),
    Output { node: usize },
}

#[derive(Debug)]
struct Value {
    shape: Shape,
    source: Source,
    wants_gradient: bool,
    kept: bool,
    /// Kept, and to be read by the host; running statistics are kept and stay on the device.
    read: bool,
    keeps_gradient: bool,
}

#[derive(Debug)]
struct Node {
    op: Box<dyn Op>,
    plan: Plan,
    inputs: Vec<Var>,
    outputs: Vec<Var>,
}

/// A running statistic to be moved towards a value of the batch after the run.
#[derive(Debug, Clone, Copy)]
struct Update {
    param: ParamId,
    value: Var,
    momentum: f32,
}

/// Ops recorded for one batch.
#[derive(Debug)]
pub struct Graph<'p> {
    params: &'p Params,
    mode: Mode,
    random: Random,
    values: Vec<Value>,
    nodes: Vec<Node>,
    param_vars: HashMap<ParamId, Var>,
    seeds: Vec<(Var, Array<f32>)>,
    updates: Vec<Update>,
    counts: Vec<ParamId>,
    taps: Vec<(String, Var)>,
}

impl<'p> Graph<'p> {
    /// An empty graph. `random` is the stream of this step; every node draws from its own fork.
    pub fn new(params: &'p Params, mode: Mode, random: Random) -> Self {
        Graph {
            params,
            mode,
            random,
            values: Vec::new(),
            nodes: Vec::new(),
            param_vars: HashMap::new(),
            seeds: Vec::new(),
            updates: Vec::new(),
            counts: Vec::new(),
            taps: Vec::new(),
        }
    }

    /// How layers record themselves.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Shape of a value.
    pub fn shape(&self, var: Var) -> Shape {
        self.values[var.0].shape
    }

    fn add(&mut self, shape: Shape, source: Source, wants_gradient: bool) -> Var {
        self.values.push(Value {
            shape,
            source,
            wants_gradient: wants_gradient && self.mode != Mode::Inference,
            kept: false,
            read: false,
            keeps_gradient: false,
        });
        Var(self.values.len() - 1)
    }

    /// A value given from outside, without gradient.
    pub fn input(&mut self, values: Array<f32>, shape: Shape) -> Result<Var> {
        if values.len() != shape.len() {
            return Err(Error::shape(
                "input",
                format!("{} values for a shape of {shape}", values.len()),
            ));
        }
        Ok(self.add(shape, Source::Input(values), false))
    }

    /// Something computed once from the parameters, such as a weight with a norm folded in; see [`Params::derived`].
    pub fn derived(
        &mut self,
        key: &str,
        shape: Shape,
        compute: impl FnOnce(&Params) -> Vec<f32>,
    ) -> Result<Var> {
        let values = self.params.derived(key, compute);
        self.input(values, shape)
    }

    /// A parameter; asking twice gives the same value.
    pub fn param(&mut self, id: ParamId) -> Var {
        if let Some(&var) = self.param_vars.get(&id) {
            return var;
        }
        let spec = self.params.layout().spec(id);
        let (shape, trained) = (spec.shape(), spec.kind == ParamKind::Weight);
        let var = self.add(shape, Source::Param(id), trained);
        self.param_vars.insert(id, var);
        var
    }

    /// Asks for the gradient of an input or an intermediate value, to be read from the [`Run`]. For an input, call
    /// it before the first op that uses it.
    pub fn keep_gradient(&mut self, var: Var) {
        self.values[var.0].wants_gradient = self.mode != Mode::Inference;
        self.values[var.0].keeps_gradient = true;
    }

    /// Keeps a value until the end of the run, to be read from the [`Run`].
    pub fn keep(&mut self, var: Var) {
        self.values[var.0].kept = true;
        self.values[var.0].read = true;
    }

    /// Records an op with a single output.
    pub fn push(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Var> {
        let outputs = self.push_many(op, inputs)?;
        assert_eq!(outputs.len(), 1, "push is for ops with one output");
        Ok(outputs[0])
    }

    /// Records an op. The inputs must be different values when they want gradients.
    pub fn push_many(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Vec<Var>> {
        let node = self.nodes.len();
        let shapes: Vec<Shape> = inputs.iter().map(|v| self.shape(*v)).collect();
        let plan = op.plan(&shapes).map_err(|e| match e {
            Error::Shape { op, fault } => Error::shape(format!("{op} (node {node})"), fault),
            other => other,
        })?;
        let wants: Vec<&Var> = inputs
            .iter()
            .filter(|v| self.values[v.0].wants_gradient)
            .collect();
        if (1..wants.len()).any(|i| wants[..i].contains(&wants[i])) {
            return Err(Error::shape(
                format!("{} (node {node})", op.name()),
                "the same value is given twice as an input that wants a gradient",
            ));
        }
        let wants_gradient = !wants.is_empty();
        let outputs = plan
            .outputs
            .clone()
            .into_iter()
            .map(|shape| self.add(shape, Source::Output { node }, wants_gradient))
            .collect::<Vec<_>>();
        self.nodes.push(Node {
            op: Box::new(op),
            plan,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
        });
        Ok(outputs)
    }

    /// The recorded ops in order: their names and the shapes of their inputs, then of their outputs.
    pub fn nodes(&self) -> impl Iterator<Item = (&'static str, Vec<Shape>)> {
        self.nodes.iter().map(|node| {
            let values = node.inputs.iter().chain(&node.outputs);
            (node.op.name(), values.map(|v| self.shape(*v)).collect())
        })
    }

    /// Starts backward at `var` with the gradient `upstream` (same length). Several seeds add up.
    pub fn seed(&mut self, var: Var, upstream: Array<f32>) -> Result<()> {
        if upstream.len() != self.shape(var).len() {
            return Err(Error::shape(
                "seed",
                format!("{} values for {}", upstream.len(), self.shape(var)),
            ));
        }
        if self.mode == Mode::Inference {
            return Err(Error::shape("seed", "inference records no backward"));
        }
        self.seeds.push((var, upstream));
        Ok(())
    }

    /// After the run, moves the running statistic `param` towards `value`: r ← (1 − momentum)·r + momentum·value.
    pub fn update_running(&mut self, param: ParamId, value: Var, momentum: f32) {
        self.values[value.0].kept = true;
        self.updates.push(Update {
            param,
            value,
            momentum,
        });
    }

    /// Gives an intermediate value a name, so that checks can ask for it. Names may repeat.
    pub fn tap(&mut self, name: &str, var: Var) {
        self.taps.push((name.to_string(), var));
    }

    /// The first value called `name`.
    pub fn tapped(&self, name: &str) -> Option<Var> {
        self.taps.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    /// After the run, adds one to the counter `param`.
    pub fn count(&mut self, param: ParamId) {
        self.counts.push(param);
    }
}
