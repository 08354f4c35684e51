//! Length of a gradient, and its limit.

use rayon::prelude::*;

/// Euclidean norm, summed in f64 over fixed pieces.
pub fn norm(gradients: &[f32]) -> f64 {
    let partials: Vec<f64> = gradients
        .par_chunks(super::PIECE)
        .map(|piece| piece.iter().map(|g| f64::from(*g) * f64::from(*g)).sum())
        .collect();
    partials.iter().sum::<f64>().sqrt()
}

/// Shortens `gradients` of norm `length` to at most `limit`, as PyTorch's `clip_grad_norm_`.
pub fn clip(gradients: &mut [f32], length: f64, limit: f64) {
    let factor = limit / (length + 1e-6);
    if factor < 1.0 {
        let factor = factor as f32;
        gradients
            .par_chunks_mut(super::PIECE)
            .for_each(|piece| piece.iter_mut().for_each(|g| *g *= factor));
    }
}
