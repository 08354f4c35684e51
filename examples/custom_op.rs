//! Writing an op of your own: swish, y = x·σ(x) with σ(x) = 1 / (1 + exp(−x)).
//!
//! An op is a struct that holds sizes and options (none here) and says four things: its name, its shape rule, how to
//! compute forward, how to send gradients back. Shapes, memory, order and lifetimes are the graph's business.
//!
//!     cargo run --release --example custom_op

use cairn::device::cuda::{Grid, Kernels};
use cairn::device::random::Random;
use cairn::device::{Array, Device, parallel};
use cairn::graph::check::Check;
use cairn::graph::{Backward, Executor, Forward, Graph, Layout, Mode, Op, Params, Plan, Shape};
use cairn::{Error, Result};

#[derive(Debug)]
struct Swish;

/// The same on a GPU: compiled when it is first used. Arguments are checked against the kernel's declaration.
static KERNELS: Kernels = Kernels {
    name: "custom_op",
    source: include_str!("custom_op.cu"),
};

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Values per parallel piece. Pieces are fixed, so results do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

impl Op for Swish {
    fn name(&self) -> &'static str {
        "swish"
    }

    /// The shape rule checks everything; forward and backward rely on it. It also says what backward reads: values that
    /// no backward reads are freed early, and reading more than is named here is a bug that panics.
    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let [x] = inputs else {
            let fault = format!("takes one input, {} were given", inputs.len());
            return Err(Error::shape(self.name(), fault));
        };
        Ok(Plan {
            reads_inputs: vec![0],
            ..Plan::of(*x)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => {
                let x = io.input(0);
                parallel::for_each_rows(io.output(0), 1, CHUNK, |first, y| {
                    for (y, x) in y.iter_mut().zip(&x[first..]) {
                        *y = x * sigmoid(*x);
                    }
                });
                Ok(())
            }
            Device::Cuda(gpu) => {
                let n = io.shape(0).len();
                let args = [io.input_on(0).into(), n.into(), io.output_on(0).into()];
                gpu.launch(&KERNELS, "swish_forward", Grid::strided(n), &args)
            }
        }
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        match io.device() {
            Device::Cpu => {
                // Nobody may want this gradient, or there may be none to pass on.
                let (Some(d_x), Some(d_y)) = (io.d_input(0), io.d_output(0)) else {
                    return Ok(());
                };
                let x = io.input(0);
                parallel::for_each_rows(d_x, 1, CHUNK, |first, d_x| {
                    let pairs = x[first..].iter().zip(&d_y[first..]);
                    for (d_x, (x, d_y)) in d_x.iter_mut().zip(pairs) {
                        let s = sigmoid(*x);
                        // Gradients are added, never overwritten: another reader of x may have been here before.
                        *d_x += d_y * s * (1.0 + x * (1.0 - s));
                    }
                });
                Ok(())
            }
            Device::Cuda(gpu) => {
                let (Some(d_x), Some(d_y)) = (io.d_input_on(0), io.d_output_on(0)) else {
                    return Ok(());
                };
                let n = io.shape(0).len();
                let args = [io.input_on(0).into(), d_y.into(), n.into(), d_x.into()];
                gpu.launch(&KERNELS, "swish_backward", Grid::strided(n), &args)
            }
        }
    }
}

/// Public, so that a test can run the example.
pub fn main() -> Result<()> {
    // First the proof. The driver runs forward against a plain f64 version, backward against central differences of that
    // version, everything twice to see the same bits, and all of it on the GPU's emulator too where that can be loaded.
    for rows in [0, 1, 37, 5000] {
        Check::new(Swish)
            .input(rows, 3)
            .run(|x| vec![x[0].iter().map(|x| x / (1.0 + (-x).exp())).collect()]);
    }
    println!("swish: forward and gradient match the plain version");

    // Then the use: record, plan and run. `Mode::Frozen` records a backward without random masks.
    let params = Params::initial(Layout::default().into(), Device::Cpu, 0)?;
    let mut graph = Graph::new(&params, Mode::Frozen, Random::new(0, 0));
    let x = graph.input(Array::from(vec![-2.0, 0.0, 2.0]), Shape::new(3, 1))?;
    graph.keep_gradient(x);
    let y = graph.push(Swish, &[x])?;
    graph.keep(y);
    graph.seed(y, Array::from(vec![1.0; 3]))?;

    let mut gradients = cairn::graph::Gradients::new(params.layout().clone(), Device::Cpu)?;
    let mut executor = Executor::new(Device::Cpu);
    let run = executor.run(&graph, Some(&mut gradients))?;
    println!("y    = {:.4?}", run.read(y));
    println!("dy/dx = {:.4?}", run.gradient(x).unwrap_or_default());
    Ok(())
}
