//! AdamW (Loshchilov and Hutter 2019), with the operations of PyTorch's.
//!
//! p ← p·(1 − lr·λ);  m ← m + (1 − β₁)(g − m);  v ← β₂v + (1 − β₂)g²;
//! p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//!
//! β₁ is the one in force at the step (OneCycle moves it), also in the correction. All values f32, factors f64.

use super::{Optimizer, Rate, Trained, pieces, pieces_mut, restore_list};
use crate::Result;
use rayon::prelude::*;

/// AdamW with its two moments.
#[derive(Debug)]
pub struct AdamW {
    trained: Trained,
    factors: Vec<f64>,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl AdamW {
    /// Moments zero, for `words` values of which the ranges `trained` are moved.
    pub fn new(words: usize, trained: Trained, beta2: f64, eps: f64, weight_decay: f64) -> AdamW {
        AdamW {
            factors: trained.factors(),
            trained,
            beta2,
            eps,
            weight_decay,
            steps: 0,
            mean: vec![0.0; words],
            square: vec![0.0; words],
        }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, values: &mut [f32], gradients: &[f32], rate: Rate) {
        self.steps += 1;
        let t = self.steps as f64;
        let toward = (1.0 - rate.momentum) as f32;
        let (beta2, fresh) = (self.beta2 as f32, (1.0 - self.beta2) as f32);
        let root = (1.0 - self.beta2.powf(t)).sqrt() as f32;
        let eps = self.eps as f32;
        let (lr, weight_decay) = (rate.lr, self.weight_decay);
        let correction = 1.0 - rate.momentum.powf(t);
        let gradients = pieces(gradients, &self.trained);
        pieces_mut(values, &self.trained)
            .into_par_iter()
            .zip(gradients)
            .zip(pieces_mut(&mut self.mean, &self.trained))
            .zip(pieces_mut(&mut self.square, &self.trained))
            .zip(&self.factors)
            .for_each(|((((p, g), m), v), factor)| {
                let lr = lr * factor;
                let (keep, step) = ((1.0 - lr * weight_decay) as f32, (lr / correction) as f32);
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    *m += toward * (g - *m);
                    *v = beta2 * *v + fresh * g * g;
                    *p = *p * keep - step * *m / (v.sqrt() / root + eps);
                }
            });
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Vec<(&'static str, &[f32])> {
        vec![("mean", &self.mean), ("square", &self.square)]
    }

    fn restore(&mut self, steps: u64, find: &dyn Fn(&str) -> Result<Vec<f32>>) -> Result<()> {
        restore_list(&mut self.mean, "mean", find)?;
        restore_list(&mut self.square, "square", find)?;
        self.steps = steps;
        Ok(())
    }
}
