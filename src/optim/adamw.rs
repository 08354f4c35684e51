//! AdamW (Loshchilov and Hutter 2019), with the operations of PyTorch's.
//!
//! p ← p·(1 − lr·λ);  m ← m + (1 − β₁)(g − m);  v ← β₂v + (1 − β₂)g²;
//! p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//!
//! β₁ is the one in force at the step (OneCycle moves it), also in the correction. All values f32, factors f64.

use super::trained::{Pieces, pieces, pieces_mut};
use super::{Optimizer, Rate, Trained, address, address_mut, read, restore_list};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Device, Gpu, Memory};
use rayon::prelude::*;

kernels!("adamw");

/// AdamW with its two moments.
#[derive(Debug)]
pub struct AdamW {
    trained: Trained,
    pieces: Pieces,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    mean: Memory,
    square: Memory,
}

/// The numbers of one step, before the factors of groups.
struct Step {
    lr: f64,
    weight_decay: f64,
    correction: f64,
    toward: f32,
    beta2: f32,
    fresh: f32,
    root: f32,
    eps: f32,
}

impl AdamW {
    /// Moments zero, for `words` values on `device` of which the ranges `trained` are moved.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn new(
        device: Device,
        words: usize,
        trained: Trained,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
    ) -> Result<AdamW> {
        Ok(AdamW {
            pieces: Pieces::of(&trained),
            trained,
            beta2,
            eps,
            weight_decay,
            steps: 0,
            mean: Memory::new(device, words)?,
            square: Memory::new(device, words)?,
        })
    }

    fn cpu(&mut self, values: &mut [f32], gradients: &[f32], s: &Step) {
        let gradients = pieces(gradients, &self.trained);
        pieces_mut(values, &self.trained)
            .into_par_iter()
            .zip(gradients)
            .zip(pieces_mut(self.mean.host_mut(), &self.trained))
            .zip(pieces_mut(self.square.host_mut(), &self.trained))
            .zip(self.trained.factors())
            .for_each(|((((p, g), m), v), factor)| {
                let lr = s.lr * factor;
                let keep = (1.0 - lr * s.weight_decay) as f32;
                let step = (lr / s.correction) as f32;
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    *m += s.toward * (g - *m);
                    *v = s.beta2 * *v + s.fresh * g * g;
                    *p = *p * keep - step * *m / (v.sqrt() / s.root + s.eps);
                }
            });
    }

    fn cuda(&mut self, gpu: Gpu, values: &mut Memory, gradients: &Memory, s: &Step) -> Result<()> {
        let pieces = &self.pieces;
        let args = args![
            address(gradients)?,
            pieces.starts.on(gpu)?,
            pieces.lengths.on(gpu)?,
            pieces.factors.on(gpu)?,
            s.lr,
            s.weight_decay,
            s.correction,
            s.toward,
            s.beta2,
            s.fresh,
            s.root,
            s.eps,
            address_mut(values)?,
            address_mut(&mut self.mean)?,
            address_mut(&mut self.square)?,
        ];
        let grid = Grid::new(pieces.starts.len(), 256);
        gpu.launch(&KERNELS, "adamw_step", grid, args)
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, values: &mut Memory, gradients: &Memory, rate: Rate) -> Result<()> {
        self.steps += 1;
        let t = self.steps as f64;
        let step = Step {
            lr: rate.lr,
            weight_decay: self.weight_decay,
            correction: 1.0 - rate.momentum.powf(t),
            toward: (1.0 - rate.momentum) as f32,
            beta2: self.beta2 as f32,
            fresh: (1.0 - self.beta2) as f32,
            root: (1.0 - self.beta2.powf(t)).sqrt() as f32,
            eps: self.eps as f32,
        };
        match self.mean.device() {
            Device::Cpu => self.cpu(values.host_mut(), gradients.host(), &step),
            Device::Cuda(gpu) => self.cuda(gpu, values, gradients, &step)?,
        }
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Result<Vec<(&'static str, &[f32])>> {
        Ok(vec![
            ("mean", read(&self.mean)?),
            ("square", read(&self.square)?),
        ])
    }

    fn restore(&mut self, steps: u64, find: &dyn Fn(&str) -> Result<Vec<f32>>) -> Result<()> {
        restore_list(&mut self.mean, "mean", find)?;
        restore_list(&mut self.square, "square", find)?;
        self.steps = steps;
        Ok(())
    }
}
