//! Kernel point layers of Stratified Transformer's stem (Thomas et al. 2019, KPConv; torch_points3d's modules).
//!
//! The norms keep their tensors under an extra `.batch_norm.` level and follow slowly (momentum 0.02); the activation is
//! a leaky ReLU of slope 0.2.

use super::dense::{BatchNorm, Linear, LinearNorm};
use crate::Result;
use crate::geometry::Neighbors;
use crate::graph::{Graph, Init, ParamId, Scope, Var};
use crate::ops;
use std::sync::Arc;

/// Weight of the newest batch in running statistics.
const MOMENTUM: f32 = 0.02;
/// Slope of the activation below 0.
const SLOPE: f32 = 0.2;
/// The kernel's radius, in influence distances.
const RADIUS: f32 = 1.5;
/// Deviation of the noise on kernel points, in radii.
const NOISE: f32 = 0.01;

/// Places of the fifteen kernel points in a unit sphere, the first in the centre: those that minimise a repulsion
/// potential under a weak pull to the centre (file `k_015_center` of torch_points3d 1.3.0).
static DISPOSITION: [[f32; 3]; 15] = [
    [0.0, 0.0, 0.0],
    [0.864_457, 0.494_802, -0.104_618],
    [0.165_496, 0.971_781, 0.176_955],
    [-0.472_986, 0.582_775, 0.663_112],
    [0.212_458, -0.881_124, -0.426_077],
    [0.491_135, 0.229_973, 0.829_227],
    [-0.998_1, -0.054_974, 0.061_918],
    [0.924_833, -0.371_198, 0.099_78],
    [-0.559_744, -0.830_331, 0.017_211],
    [-0.664_316, 0.669_542, -0.336_835],
    [0.546_346, -0.156_559, -0.824_654],
    [0.107_898, 0.618_755, -0.780_103],
    [0.286_258, -0.760_248, 0.585_781],
    [-0.412_599, -0.283_22, 0.867_53],
    [-0.491_135, -0.229_973, -0.829_227],
];

/// Convolution whose weights sit on fifteen points around every point; rigid, with linear influence.
#[derive(Debug, Clone)]
pub struct KernelPointConv {
    /// [15, 3], metres; not trained.
    points: ParamId,
    /// [15, I, O].
    weight: ParamId,
    outputs: usize,
    influence: f32,
}

impl KernelPointConv {
    /// Registers `K_points` and `weight`. `influence` is the distance at which a kernel point's influence ends, metres.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize, influence: f32) -> Self {
        let count = DISPOSITION.len();
        let radius = RADIUS * influence;
        // Xavier's rule as PyTorch applies it to three dimensions: [15, I, O] has fans I·O and 15·O.
        let fans = (inputs * outputs + count * outputs) as f32;
        let weight = Init::Normal((2.0 / fans).sqrt());
        let points = Init::Rotated {
            points: &DISPOSITION,
            scale: radius,
            noise: NOISE * radius,
        };
        KernelPointConv {
            weight: scope.weight("weight", &[count, inputs, outputs], weight),
            points: scope.fixed("K_points", &[count, 3], points),
            outputs,
            influence,
        }
    }

    /// Records the convolution of x [N, I] → [N, O].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, ball: &Arc<Neighbors>) -> Result<Var> {
        let inputs = [x, graph.param(self.points), graph.param(self.weight)];
        let op = ops::KernelPointConv {
            neighbors: ball.clone(),
            influence: self.influence,
            outputs: self.outputs,
        };
        graph.push(op, &inputs)
    }
}

/// Registers a norm under `batch_norm`.
fn norm(scope: &mut Scope<'_>, channels: usize) -> BatchNorm {
    BatchNorm::bare(&mut scope.child("batch_norm"), channels, MOMENTUM)
}

/// Records the activation.
fn activate(graph: &mut Graph<'_>, x: Var) -> Result<Var> {
    graph.push(ops::LeakyRelu { slope: SLOPE }, &[x])
}

/// Convolution, norm, activation.
#[derive(Debug, Clone)]
pub struct KernelPointBlock {
    conv: KernelPointConv,
    norm: BatchNorm,
}

impl KernelPointBlock {
    /// Registers `kpconv` and `bn`.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize, influence: f32) -> Self {
        KernelPointBlock {
            conv: KernelPointConv::new(&mut scope.child("kpconv"), inputs, outputs, influence),
            norm: norm(&mut scope.child("bn"), outputs),
        }
    }

    /// Records the block on x [N, I] → [N, O].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, ball: &Arc<Neighbors>) -> Result<Var> {
        let y = self.conv.record(graph, x, ball)?; // [N, O]
        graph.tap("kpconv", y);
        let y = self.norm.record(graph, y, false)?; // [N, O]
        activate(graph, y)
    }
}

/// Bottleneck with a residual: linear, convolution, linear, each but the convolution with norm and activation; nothing
/// follows the sum.
#[derive(Debug, Clone)]
pub struct KernelPointResidual {
    enter: LinearNorm,
    conv: KernelPointConv,
    leave: LinearNorm,
    shortcut: Option<LinearNorm>,
}

impl KernelPointResidual {
    /// Registers `unary_1`, `unary_2`, `kpconv`, `bn` (which the reference keeps but never uses) and, when the widths
    /// differ, `shortcut_op`.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize, influence: f32) -> Self {
        let narrow = outputs / 4;
        let enter = unary(&mut scope.child("unary_1"), inputs, narrow);
        let leave = unary(&mut scope.child("unary_2"), narrow, outputs);
        let shortcut =
            (inputs != outputs).then(|| unary(&mut scope.child("shortcut_op"), inputs, outputs));
        let conv = KernelPointConv::new(&mut scope.child("kpconv"), narrow, narrow, influence);
        BatchNorm::unused(&mut scope.child("bn").child("batch_norm"), outputs);
        KernelPointResidual {
            enter,
            conv,
            leave,
            shortcut,
        }
    }

    /// Records the block on x [N, I] → [N, O].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var, ball: &Arc<Neighbors>) -> Result<Var> {
        let y = self.enter.record(graph, x)?; // [N, O/4]
        let y = activate(graph, y)?;
        let y = self.conv.record(graph, y, ball)?; // [N, O/4]
        let y = self.leave.record(graph, y)?; // [N, O]
        let y = activate(graph, y)?;
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.record(graph, x)?, // [N, O]
            None => x,
        };
        graph.push(ops::Add, &[y, residual])
    }
}

/// Linear without bias as `0`, norm as `1`.
fn unary(scope: &mut Scope<'_>, inputs: usize, outputs: usize) -> LinearNorm {
    LinearNorm {
        linear: Linear::normal(&mut scope.child("0"), inputs, outputs, false),
        norm: norm(&mut scope.child("1"), outputs),
        relu: false,
    }
}
