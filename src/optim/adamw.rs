//! AdamW (Loshchilov and Hutter 2019), with the operations of PyTorch's.
//!
//! p ← p·(1 − lr·λ);  m ← m + (1 − β₁)(g − m);  v ← β₂v + (1 − β₂)g²;
//! p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//!
//! β₁ is the one in force at the step (OneCycle moves it), also in the correction. All values f32, factors f64.

use super::{Optimizer, Rate, pieces, pieces_mut, restore_list};
use crate::Result;
use rayon::prelude::*;
use std::ops::Range;

/// AdamW with its two moments.
#[derive(Debug)]
pub struct AdamW {
    trained: Vec<Range<usize>>,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl AdamW {
    /// Moments zero, for `words` values of which the ranges `trained` are moved.
    pub fn new(
        words: usize,
        trained: Vec<Range<usize>>,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
    ) -> AdamW {
        AdamW {
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
        let keep = (1.0 - rate.lr * self.weight_decay) as f32;
        let toward = (1.0 - rate.momentum) as f32;
        let (beta2, fresh) = (self.beta2 as f32, (1.0 - self.beta2) as f32);
        let step = (rate.lr / (1.0 - rate.momentum.powf(t))) as f32;
        let root = (1.0 - self.beta2.powf(t)).sqrt() as f32;
        let eps = self.eps as f32;
        let gradients = pieces(gradients, &self.trained);
        pieces_mut(values, &self.trained)
            .into_par_iter()
            .zip(gradients)
            .zip(pieces_mut(&mut self.mean, &self.trained))
            .zip(pieces_mut(&mut self.square, &self.trained))
            .for_each(|(((p, g), m), v)| {
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
