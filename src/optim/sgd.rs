//! Stochastic gradient descent with momentum, with the operations of PyTorch's.
//!
//! d = g + λp;  b ← μb + d;  p ← p − lr·(d + μb) with Nesterov's look-ahead, p ← p − lr·b without.

use super::{Optimizer, Rate, Trained, pieces, pieces_mut, restore_list};
use crate::Result;
use rayon::prelude::*;

/// SGD with its momentum.
#[derive(Debug)]
pub struct Sgd {
    trained: Trained,
    factors: Vec<f64>,
    nesterov: bool,
    weight_decay: f64,
    steps: u64,
    velocity: Vec<f32>,
}

impl Sgd {
    /// Momentum zero, for `words` values of which the ranges `trained` are moved.
    pub fn new(words: usize, trained: Trained, nesterov: bool, weight_decay: f64) -> Sgd {
        Sgd {
            factors: trained.factors(),
            trained,
            nesterov,
            weight_decay,
            steps: 0,
            velocity: vec![0.0; words],
        }
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, values: &mut [f32], gradients: &[f32], rate: Rate) {
        self.steps += 1;
        let momentum = rate.momentum as f32;
        let lr = rate.lr;
        let (decay, nesterov) = (self.weight_decay as f32, self.nesterov);
        let gradients = pieces(gradients, &self.trained);
        pieces_mut(values, &self.trained)
            .into_par_iter()
            .zip(gradients)
            .zip(pieces_mut(&mut self.velocity, &self.trained))
            .zip(&self.factors)
            .for_each(|(((p, g), b), factor)| {
                let lr = (lr * factor) as f32;
                for ((p, g), b) in p.iter_mut().zip(g).zip(b) {
                    let d = g + decay * *p;
                    *b = momentum * *b + d;
                    *p -= lr * if nesterov { d + momentum * *b } else { *b };
                }
            });
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Vec<(&'static str, &[f32])> {
        vec![("velocity", &self.velocity)]
    }

    fn restore(&mut self, steps: u64, find: &dyn Fn(&str) -> Result<Vec<f32>>) -> Result<()> {
        restore_list(&mut self.velocity, "velocity", find)?;
        self.steps = steps;
        Ok(())
    }
}
