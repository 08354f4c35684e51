//! What an op is: a shape rule, a forward and a backward.

use crate::Result;
use crate::device::Device;
use std::fmt;

/// Shape of a value: a row-major matrix of `f32`. A vector \[C\] is one row of C; pair tensors are [N·K, G].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Number of rows.
    pub rows: usize,
    /// Number of values in a row.
    pub cols: usize,
}

impl Shape {
    /// `rows` rows of `cols` values.
    pub const fn new(rows: usize, cols: usize) -> Self {
        Shape { rows, cols }
    }

    /// Number of values.
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// True when there is no value.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.rows, self.cols)
    }
}

/// What the shape rule of an op finds out: everything that has to be allocated for it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Shape of every output.
    pub outputs: Vec<Shape>,
    /// Sizes, in 32-bit words, of what forward saves for backward. Not allocated when no backward follows.
    pub saved: Vec<usize>,
    /// Scratch words of forward on the CPU.
    pub forward_scratch: usize,
    /// Scratch words of backward on the CPU.
    pub backward_scratch: usize,
    /// Scratch words of forward on a GPU.
    pub forward_scratch_cuda: usize,
    /// Scratch words of backward on a GPU.
    pub backward_scratch_cuda: usize,
    /// Inputs that backward reads. Everything not named is freed early.
    pub reads_inputs: Vec<usize>,
    /// Outputs that backward reads.
    pub reads_outputs: Vec<usize>,
}

impl Plan {
    /// Scratch words of forward and backward on `device`.
    pub(super) fn scratch(&self, device: Device) -> [usize; 2] {
        match device {
            Device::Cpu => [self.forward_scratch, self.backward_scratch],
            Device::Cuda(_) => [self.forward_scratch_cuda, self.backward_scratch_cuda],
        }
    }

    /// A plan with one output and nothing else.
    pub fn of(output: Shape) -> Self {
        Plan {
            outputs: vec![output],
            ..Plan::default()
        }
    }
}

/// One step of a network on every device.
///
/// The shape rule checks everything; kernels assume that it passed. Gradients accumulate: backward adds to `d_input`,
/// which the executor zero-fills at first touch. Same inputs, same bits: no float atomics, no dependence on the number
/// of threads. Zero rows is a valid size everywhere.
pub trait Op: fmt::Debug + Send + Sync {
    /// Name used in errors and profiles.
    fn name(&self) -> &'static str;

    /// The shape rule: checks `inputs` and says what has to be allocated.
    fn plan(&self, inputs: &[Shape]) -> Result<Plan>;

    /// Computes the outputs. Outputs and scratch hold arbitrary values before.
    fn forward(&self, io: &mut super::Forward<'_>) -> Result<()>;

    /// Adds the gradients of the inputs that want one.
    fn backward(&self, io: &mut super::Backward<'_>) -> Result<()>;
}
