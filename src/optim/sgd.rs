//! Stochastic gradient descent with momentum, with the operations of PyTorch's.
//!
//! d = g + λp;  b ← μb + d;  p ← p − lr·(d + μb) with Nesterov's look-ahead, p ← p − lr·b without.

use super::trained::{Pieces, pieces, pieces_mut};
use super::{Optimizer, Rate, Trained, address, address_mut, read, restore_list};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Device, Gpu, Memory};
use rayon::prelude::*;

kernels!("sgd");

/// SGD with its momentum.
#[derive(Debug)]
pub struct Sgd {
    trained: Trained,
    pieces: Pieces,
    nesterov: bool,
    weight_decay: f64,
    steps: u64,
    velocity: Memory,
}

impl Sgd {
    /// Momentum zero, for `words` values on `device` of which the ranges `trained` are moved.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn new(
        device: Device,
        words: usize,
        trained: Trained,
        nesterov: bool,
        weight_decay: f64,
    ) -> Result<Sgd> {
        Ok(Sgd {
            pieces: Pieces::of(&trained),
            trained,
            nesterov,
            weight_decay,
            steps: 0,
            velocity: Memory::new(device, words)?,
        })
    }

    fn cpu(&mut self, values: &mut [f32], gradients: &[f32], rate: Rate) {
        let momentum = rate.momentum as f32;
        let (decay, nesterov) = (self.weight_decay as f32, self.nesterov);
        let gradients = pieces(gradients, &self.trained);
        pieces_mut(values, &self.trained)
            .into_par_iter()
            .zip(gradients)
            .zip(pieces_mut(self.velocity.host_mut(), &self.trained))
            .zip(self.trained.factors())
            .for_each(|(((p, g), b), factor)| {
                let lr = (rate.lr * factor) as f32;
                for ((p, g), b) in p.iter_mut().zip(g).zip(b) {
                    let d = g + decay * *p;
                    *b = momentum * *b + d;
                    *p -= lr * if nesterov { d + momentum * *b } else { *b };
                }
            });
    }

    fn cuda(
        &mut self,
        gpu: Gpu,
        values: &mut Memory,
        gradients: &Memory,
        rate: Rate,
    ) -> Result<()> {
        let pieces = &self.pieces;
        let args = args![
            address(gradients)?,
            pieces.starts.on(gpu)?,
            pieces.lengths.on(gpu)?,
            pieces.factors.on(gpu)?,
            rate.lr,
            rate.momentum as f32,
            self.weight_decay as f32,
            self.nesterov,
            address_mut(values)?,
            address_mut(&mut self.velocity)?,
        ];
        let grid = Grid::new(pieces.starts.len(), 256);
        gpu.launch(&KERNELS, "sgd_step", grid, args)
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, values: &mut Memory, gradients: &Memory, rate: Rate) -> Result<()> {
        self.steps += 1;
        match self.velocity.device() {
            Device::Cpu => self.cpu(values.host_mut(), gradients.host(), rate),
            Device::Cuda(gpu) => self.cuda(gpu, values, gradients, rate)?,
        }
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Result<Vec<(&'static str, &[f32])>> {
        Ok(vec![("velocity", read(&self.velocity)?)])
    }

    fn restore(&mut self, steps: u64, find: &dyn Fn(&str) -> Result<Vec<f32>>) -> Result<()> {
        restore_list(&mut self.velocity, "velocity", find)?;
        self.steps = steps;
        Ok(())
    }
}
