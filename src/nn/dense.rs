//! Linear layers and batch norms, with the norm folded into the linear for inference.
//!
//! `weight` [O, I] and `bias` [O] are stored as in PyTorch.

use crate::Result;
use crate::graph::{Graph, Init, Mode, ParamId, Params, Scope, Shape, Var};
use crate::ops::{self, Statistics};

/// Added to variances before the root, as in PyTorch's default.
pub const EPSILON: f32 = 1e-5;
/// Weight of the newest batch in running statistics, as in PyTorch's default.
pub const MOMENTUM: f32 = 0.1;

/// y = x Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    /// [O, I].
    pub weight: ParamId,
    /// \[O\].
    pub bias: Option<ParamId>,
    inputs: usize,
    outputs: usize,
    /// Full name of the weight, the key of what is derived from it.
    name: String,
}

impl Linear {
    /// Registers `weight` and, if asked, `bias` in `scope`. Both start uniform in ±1/√I.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize, bias: bool) -> Self {
        let init = Init::Uniform(1.0 / (inputs as f32).sqrt());
        Self::start(scope, inputs, outputs, init, bias.then_some(init))
    }

    /// As [`Linear::new`], but weights start normal with deviation 0.02 and biases at 0, as in timm's transformers.
    pub fn normal(scope: &mut Scope<'_>, inputs: usize, outputs: usize, bias: bool) -> Self {
        let zero = bias.then_some(Init::Constant(0.0));
        Self::start(scope, inputs, outputs, Init::Normal(0.02), zero)
    }

    fn start(
        scope: &mut Scope<'_>,
        inputs: usize,
        outputs: usize,
        weight: Init,
        bias: Option<Init>,
    ) -> Self {
        Linear {
            name: scope.name("weight"),
            weight: scope.weight("weight", &[outputs, inputs], weight),
            bias: bias.map(|init| scope.weight("bias", &[outputs], init)),
            inputs,
            outputs,
        }
    }

    /// Records the layer.
    pub fn record(&self, graph: &mut Graph<'_>, x: Var) -> Result<Var> {
        let mut inputs = vec![x, graph.param(self.weight)];
        inputs.extend(self.bias.map(|b| graph.param(b)));
        graph.push(ops::Linear::new(self.bias.is_some()), &inputs)
    }

    /// Weight and bias with every output row scaled and the shift added: (s·W, s·b + t).
    pub fn folded(
        &self,
        graph: &mut Graph<'_>,
        affine: impl Fn(&Params) -> Affine,
    ) -> Result<(Var, Var)> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let weight = graph.derived(
            &format!("{} folded", self.name),
            Shape::new(outputs, inputs),
            |p| scale_rows(p.get(self.weight), &affine(p).scale),
        )?;
        let bias = graph.derived(
            &format!("{} folded bias", self.name),
            Shape::new(1, outputs),
            |p| {
                let Affine { scale, shift } = affine(p);
                let bias = |i: usize| self.bias.map_or(0.0, |b| f64::from(p.get(b)[i]));
                (0..outputs)
                    .map(|i| (scale[i] * bias(i) + shift[i]) as f32)
                    .collect()
            },
        )?;
        Ok((weight, bias))
    }
}

/// Row o of the matrix `weight` times `scale[o]`.
pub fn scale_rows(weight: &[f32], scale: &[f64]) -> Vec<f32> {
    let cols = weight.len() / scale.len().max(1);
    let rows = weight.chunks_exact(cols.max(1)).zip(scale);
    rows.flat_map(|(row, s)| row.iter().map(move |w| (s * f64::from(*w)) as f32))
        .collect()
}

/// A norm with running statistics as y = scale·x + shift per channel.
///
/// In `f64` until it is folded into another tensor: a bias in front of the norm mostly cancels against μ, and what is
/// left would keep the rounding errors of both.
#[derive(Debug, Clone)]
pub struct Affine {
    /// γ / √(σ² + ε).
    pub scale: Vec<f64>,
    /// β − μ·scale.
    pub shift: Vec<f64>,
}

/// Batch norm over rows, per channel (spec: PointBatchNorm).
#[derive(Debug, Clone)]
pub struct BatchNorm {
    weight: ParamId,
    bias: ParamId,
    running_mean: ParamId,
    running_var: ParamId,
    batches: ParamId,
    /// Weight of the newest batch in the running statistics.
    momentum: f32,
    /// Number of channels.
    pub channels: usize,
}

impl BatchNorm {
    /// Registers `norm.weight`, `norm.bias`, `norm.running_mean`, `norm.running_var`, `norm.num_batches_tracked`: PTv2's
    /// norms lie one level down.
    pub fn new(scope: &mut Scope<'_>, channels: usize) -> Self {
        Self::bare(&mut scope.child("norm"), channels, MOMENTUM)
    }

    /// As [`BatchNorm::new`], right in `scope`.
    pub fn bare(scope: &mut Scope<'_>, channels: usize, momentum: f32) -> Self {
        BatchNorm {
            weight: scope.weight("weight", &[channels], Init::Constant(1.0)),
            bias: scope.weight("bias", &[channels], Init::Constant(0.0)),
            running_mean: scope.running("running_mean", &[channels], 0.0),
            running_var: scope.running("running_var", &[channels], 1.0),
            batches: scope.counter("num_batches_tracked"),
            momentum,
            channels,
        }
    }

    /// Registers the tensors of a norm that no forward pass uses, as one of the reference's layers has it: they are
    /// kept, and never change.
    pub fn unused(scope: &mut Scope<'_>, channels: usize) {
        scope.fixed("weight", &[channels], Init::Constant(1.0));
        scope.fixed("bias", &[channels], Init::Constant(0.0));
        scope.running("running_mean", &[channels], 0.0);
        scope.running("running_var", &[channels], 1.0);
        scope.counter("num_batches_tracked");
    }

    /// The statistics that the graph's mode normalises with.
    pub fn statistics(graph: &Graph<'_>) -> Statistics {
        match graph.mode() {
            Mode::Training => Statistics::Batch,
            Mode::Frozen | Mode::Inference => Statistics::Running,
        }
    }

    /// γ, β, running mean and running variance, in the order that the norm ops take them.
    pub fn inputs(&self, graph: &mut Graph<'_>) -> [Var; 4] {
        [self.weight, self.bias, self.running_mean, self.running_var].map(|id| graph.param(id))
    }

    /// Asks for the running statistics to follow the batch statistics `mean` and `variance` (unbiased).
    pub fn follow(&self, graph: &mut Graph<'_>, mean: Var, variance: Var) {
        graph.update_running(self.running_mean, mean, self.momentum);
        graph.update_running(self.running_var, variance, self.momentum);
        graph.count(self.batches);
    }

    /// Splits the outputs of a norm op into the first and, with batch statistics, the ones to follow.
    pub fn finish(&self, graph: &mut Graph<'_>, outputs: &[Var]) -> Var {
        if let [_, mean, variance] = *outputs {
            self.follow(graph, mean, variance);
        }
        outputs[0]
    }

    /// Records the norm over rows, with a ReLU behind it if asked.
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, relu: bool) -> Result<Var> {
        let [weight, bias, mean, variance] = self.inputs(graph);
        let op = ops::BatchNorm {
            statistics: Self::statistics(graph),
            relu,
            epsilon: EPSILON,
        };
        let outputs = graph.push_many(op, &[x, weight, bias, mean, variance])?;
        Ok(self.finish(graph, &outputs))
    }

    /// The norm with running statistics as scale and shift.
    pub fn affine(&self, params: &Params) -> Affine {
        let statistics = params
            .get(self.running_mean)
            .iter()
            .zip(params.get(self.running_var));
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        for (i, (mean, variance)) in statistics.enumerate() {
            let s = f64::from(params.get(self.weight)[i])
                / (f64::from(*variance) + f64::from(EPSILON)).sqrt();
            scale.push(s);
            shift.push(f64::from(params.get(self.bias)[i]) - f64::from(*mean) * s);
        }
        Affine { scale, shift }
    }
}

/// Linear layer, batch norm and an optional ReLU; one op in inference.
#[derive(Debug, Clone)]
pub struct LinearNorm {
    /// The linear layer.
    pub linear: Linear,
    /// The norm over its outputs.
    pub norm: BatchNorm,
    /// Whether a ReLU follows.
    pub relu: bool,
}

impl LinearNorm {
    /// Records the three.
    pub fn record(&self, graph: &mut Graph<'_>, x: Var) -> Result<Var> {
        if graph.mode() != Mode::Inference {
            let y = self.linear.record(graph, x)?;
            return self.norm.record(graph, y, self.relu);
        }
        let (weight, bias) = self.linear.folded(graph, |p| self.norm.affine(p))?;
        let op = if self.relu {
            ops::Linear::with_relu(true)
        } else {
            ops::Linear::new(true)
        };
        graph.push(op, &[x, weight, bias])
    }

    /// Records ReLU(residual + branch) where the branch is this layer, with each row of the branch dropped with
    /// probability `drop_path` in training.
    pub fn record_residual(
        &self,
        graph: &mut Graph<'_>,
        x: Var,
        residual: Var,
        drop_path: f32,
    ) -> Result<Var> {
        if graph.mode() == Mode::Inference {
            let (weight, bias) = self.linear.folded(graph, |p| self.norm.affine(p))?;
            return graph.push(
                ops::Linear::with_add_relu(true),
                &[x, weight, bias, residual],
            );
        }
        let mut y = self.linear.record(graph, x)?;
        y = self.norm.record(graph, y, self.relu)?;
        if graph.mode() == Mode::Training && drop_path > 0.0 {
            y = graph.push(ops::DropPath { rate: drop_path }, &[y])?;
        }
        graph.push(ops::AddRelu, &[residual, y])
    }
}
