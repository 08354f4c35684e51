//! Both layers on a GPU, one after the other, by the kernels of the linear layer and of GELU.

use super::super::gelu;
use super::super::linear::{
    add_input_gradient_on, add_weight_gradient_on, product_on, weight_gradient_words,
};
use super::super::statistics::{ColumnChunks, add_column_sums_on};
use super::Sizes;
use crate::Result;
use crate::device::Gpu;
use crate::graph::{Backward, Forward, Shape};

/// z and h.
pub(super) fn forward_scratch(sizes: Sizes) -> usize {
    2 * sizes.rows * sizes.hidden
}

/// z, h, dh and dz, and what the sums over rows need.
pub(super) fn backward_scratch(sizes: Sizes) -> usize {
    let Sizes {
        rows,
        inputs,
        hidden,
        outputs,
    } = sizes;
    let weights = [(hidden, inputs), (outputs, hidden)];
    let weights = weights.map(|(o, i)| weight_gradient_words(rows, Shape::new(o, i)));
    let columns = |cols| ColumnChunks::new(Shape::new(rows, cols)).count * cols;
    let columns = columns(hidden).max(columns(outputs));
    4 * rows * hidden + weights[0].max(weights[1]).max(columns)
}

pub(super) fn forward(gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let sizes = Sizes::new(|i| io.shape(i));
    let words = sizes.rows * sizes.hidden;
    let [x, w1, b1, w2, b2] = [0, 1, 2, 3, 4].map(|i| io.input_on(i));
    let (z, h) = (io.scratch_on(), io.scratch_on().offset(words));
    let (rows, cores) = (sizes.rows, io.cores(gpu));
    product_on(cores, (x, w1, Some(b1)), (rows, io.shape(1)), z)?;
    gelu::gate_on(gpu, z, words, h)?;
    product_on(
        cores,
        (h, w2, Some(b2)),
        (rows, io.shape(3)),
        io.output_on(0),
    )
}

pub(super) fn backward(gpu: Gpu, io: &Backward<'_>) -> Result<()> {
    let Some(d_y) = io.d_output_on(0) else {
        return Ok(());
    };
    let sizes = Sizes::new(|i| io.shape(i));
    let Sizes {
        rows,
        hidden,
        outputs,
        ..
    } = sizes;
    let words = rows * hidden;
    let [x, w1, b1, w2] = [0, 1, 2, 3].map(|i| io.input_on(i));
    let [z, h, d_h, d_z, sums] = [0, 1, 2, 3, 4].map(|i| io.scratch_on().offset(i * words));
    let (first, second) = ((rows, io.shape(1)), (rows, io.shape(3)));
    let cores = io.cores(gpu);
    product_on(cores, (x, w1, Some(b1)), first, z)?;
    gelu::gate_on(gpu, z, words, h)?;
    // dh and dz, side by side
    gpu.open()?.zero(d_h, 2 * words)?;
    add_input_gradient_on(cores, (w2, None, d_y), second, d_h)?;
    gelu::add_gradient_on(gpu, (z, d_h), words, d_z)?;
    if let Some(d_x) = io.d_input_on(0) {
        add_input_gradient_on(cores, (w1, None, d_z), first, d_x)?;
    }
    if let Some(d_w1) = io.d_input_on(1) {
        add_weight_gradient_on(cores, (x, None, d_z), first, sums, d_w1)?;
    }
    if let Some(d_b1) = io.d_input_on(2) {
        add_column_sums_on(gpu, (d_z, None, Shape::new(rows, hidden)), sums, d_b1)?;
    }
    if let Some(d_w2) = io.d_input_on(3) {
        add_weight_gradient_on(cores, (h, None, d_y), second, sums, d_w2)?;
    }
    if let Some(d_b2) = io.d_input_on(4) {
        add_column_sums_on(gpu, (d_y, None, Shape::new(rows, outputs)), sums, d_b2)?;
    }
    Ok(())
}
