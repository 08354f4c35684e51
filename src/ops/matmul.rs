//! Product of two small matrices, both with gradients: weights times weights.
//!
//! y = a b
//!
//! | value | shape |
//! |---|---|
//! | a | [M, K] |
//! | b | [K, N] |
//! | y | [M, N] |
//!
//! Backward: da = dy bᵀ, db = aᵀ dy. Reads a and b. Time: O(M·K·N), sequential: the matrices are parameters.

use crate::device::cuda::{Grid, args, kernels};
use crate::device::gemm::{Store, View, ViewMut, product};
use crate::device::{Device, Gpu, Pointer};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

kernels!("matmul");

/// y = a b.
#[derive(Debug, Clone, Copy)]
pub struct Matmul;

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        match inputs {
            [a, b] if a.cols == b.rows => Ok(Plan {
                reads_inputs: vec![0, 1],
                ..Plan::of(Shape::new(a.rows, b.cols))
            }),
            [a, b] => Err(Error::shape("matmul", format!("{a} times {b}"))),
            _ => Err(Error::shape("matmul", "needs two inputs")),
        }
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let (a, b) = (io.shape(0), io.shape(1));
        match io.device() {
            Device::Cuda(gpu) => {
                let (left, right) = (
                    Strided::of(io.input_on(0), a),
                    Strided::of(io.input_on(1), b),
                );
                left.times(right, Store::Replace, gpu, io.output_on(0))?;
            }
            Device::Cpu => product(
                ViewMut::new(io.output(0), a.rows, b.cols),
                View::new(io.input(0), a.rows, a.cols),
                View::new(io.input(1), b.rows, b.cols),
                Store::Replace,
            ),
        }
        Ok(())
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let (a, b) = (io.shape(0), io.shape(1));
        match io.device() {
            Device::Cuda(gpu) => {
                let Some(d_y) = io.d_output_on(0) else {
                    return Ok(());
                };
                let d_y = Strided::of(d_y, Shape::new(a.rows, b.cols));
                if let Some(d_a) = io.d_input_on(0) {
                    let b = Strided::of(io.input_on(1), b).transposed();
                    d_y.times(b, Store::Add, gpu, d_a)?;
                }
                if let Some(d_b) = io.d_input_on(1) {
                    let a = Strided::of(io.input_on(0), a).transposed();
                    a.times(d_y, Store::Add, gpu, d_b)?;
                }
            }
            Device::Cpu => {
                let Some(d_y) = io.d_output(0) else {
                    return Ok(());
                };
                let d_y = View::new(d_y, a.rows, b.cols);
                if let Some(d_a) = io.d_input(0) {
                    let b = View::new(io.input(1), b.rows, b.cols).transposed();
                    product(ViewMut::new(d_a, a.rows, a.cols), d_y, b, Store::Add);
                }
                if let Some(d_b) = io.d_input(1) {
                    let a = View::new(io.input(0), a.rows, a.cols).transposed();
                    product(ViewMut::new(d_b, b.rows, b.cols), a, d_y, Store::Add);
                }
            }
        }
        Ok(())
    }
}

/// A matrix on a GPU with steps between rows and between columns.
#[derive(Clone, Copy)]
struct Strided {
    base: Pointer,
    shape: Shape,
    row: usize,
    col: usize,
}

impl Strided {
    fn of(base: Pointer, shape: Shape) -> Strided {
        let (row, col) = (shape.cols, 1);
        Strided {
            base,
            shape,
            row,
            col,
        }
    }

    fn transposed(self) -> Strided {
        Strided {
            shape: Shape::new(self.shape.cols, self.shape.rows),
            row: self.col,
            col: self.row,
            ..self
        }
    }

    fn times(self, other: Strided, store: Store, gpu: Gpu, y: Pointer) -> Result<()> {
        let (a, b, cols) = (self, other, other.shape.cols);
        let n = a.shape.rows * cols;
        let args = args![
            a.base,
            a.row as u32,
            a.col as u32,
            b.base,
            b.row as u32,
            b.col as u32,
            a.shape.cols as u32,
            cols as u32,
            n,
            store == Store::Add,
            y
        ];
        gpu.launch(&KERNELS, "matmul", Grid::strided(n), args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::Check;

    #[test]
    fn matches_naive() {
        for [m, k, n] in [[1, 1, 1], [6, 24, 24], [5, 7, 3]] {
            Check::new(Matmul).input(m, k).input(k, n).run(|x| {
                let dot =
                    |i: usize, j: usize| (0..k).map(|l| x[0][i * k + l] * x[1][l * n + j]).sum();
                vec![(0..m * n).map(|e| dot(e / n, e % n)).collect()]
            });
        }
    }
}
