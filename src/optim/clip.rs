//! Length of a gradient, and its limit.

use super::{PIECE, address, address_mut};
use crate::Result;
use crate::device::cuda::{Buffer, Grid, args, kernels};
use crate::device::{Device, Gpu, Memory};
use rayon::prelude::*;

kernels!("clip");

/// Threads of a block in `kernels/clip.cu`.
const THREADS: u32 = 256;

/// Euclidean norm, summed in f64 over fixed pieces. On a GPU only the norm itself comes to the host.
///
/// # Errors
/// Faults of a GPU.
pub fn norm(gradients: &Memory) -> Result<f64> {
    match gradients.device() {
        Device::Cpu => Ok(norm_on_cpu(gradients.host())),
        Device::Cuda(gpu) => norm_on(gpu, gradients),
    }
}

fn norm_on_cpu(gradients: &[f32]) -> f64 {
    let partials: Vec<f64> = gradients
        .par_chunks(PIECE)
        .map(|piece| piece.iter().map(|g| f64::from(*g) * f64::from(*g)).sum())
        .collect();
    partials.iter().sum::<f64>().sqrt()
}

fn norm_on(gpu: Gpu, gradients: &Memory) -> Result<f64> {
    let words = gradients.len();
    let count = words.div_ceil(PIECE);
    let squares = Buffer::new::<f64>(gpu, count)?;
    let length = Buffer::new::<f64>(gpu, 1)?;
    let args = args![address(gradients)?, words, PIECE, squares.at()];
    gpu.launch(&KERNELS, "clip_squares", Grid::new(count, THREADS), args)?;
    let args = args![squares.at(), count, length.at()];
    gpu.launch(&KERNELS, "clip_length", Grid::new(1, THREADS), args)?;
    Ok(length.read::<f64>(1)?[0])
}

/// Shortens `gradients` of norm `length` to at most `limit`, as PyTorch's `clip_grad_norm_`.
///
/// # Errors
/// Faults of a GPU.
pub fn clip(gradients: &mut Memory, length: f64, limit: f64) -> Result<()> {
    let factor = limit / (length + 1e-6);
    let is_longer = factor < 1.0;
    if !is_longer {
        return Ok(());
    }
    multiply(gradients, factor as f32)
}

/// Divides `gradients` by the factor, a power of two, that the loss was scaled by.
///
/// # Errors
/// Faults of a GPU.
pub fn divide(gradients: &mut Memory, factor: f32) -> Result<()> {
    match factor {
        1.0 => Ok(()),
        _ => multiply(gradients, 1.0 / factor),
    }
}

fn multiply(gradients: &mut Memory, factor: f32) -> Result<()> {
    let words = gradients.len();
    match gradients.device() {
        Device::Cpu => gradients
            .host_mut()
            .par_chunks_mut(PIECE)
            .for_each(|piece| piece.iter_mut().for_each(|g| *g *= factor)),
        Device::Cuda(gpu) => {
            let args = args![factor, words, address_mut(gradients)?];
            gpu.launch(&KERNELS, "clip_shorten", Grid::strided(words), args)?;
        }
    }
    Ok(())
}
