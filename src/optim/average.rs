//! Exponential moving average of all values of a network, running statistics included: what is validated and shipped.
//!
//! a ← a + (1 − d)(p − a), with d = min(decay, (1 + t) / (10 + t)) at the t-th update, so that early weights are soon
//! forgotten.

use super::{address, address_mut, read};
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Device, Memory};
use crate::{Error, Result};
use rayon::prelude::*;

kernels!("average");

/// Values averaged over the steps.
#[derive(Debug)]
pub struct Average {
    values: Memory,
    decay: f64,
    updates: u64,
}

impl Average {
    /// Starts at `values`; `decay` is the limit of the share that is kept per update.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn new(values: &Memory, decay: f64) -> Result<Average> {
        Ok(Average {
            values: Memory::of(values.device(), read(values)?)?,
            decay,
            updates: 0,
        })
    }

    /// The averages, laid out as the values.
    ///
    /// # Errors
    /// Faults of a GPU.
    pub fn values(&self) -> Result<&[f32]> {
        read(&self.values)
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Takes up what [`Average::values`] and [`Average::updates`] gave.
    ///
    /// # Errors
    /// Another number of values.
    pub fn restore(&mut self, values: &[f32], updates: u64) -> Result<()> {
        if values.len() != self.values.len() {
            let fault = format!(
                "{} values where {} are needed",
                values.len(),
                self.values.len()
            );
            return Err(Error::weights("average", fault));
        }
        self.values.host_mut().copy_from_slice(values);
        self.updates = updates;
        Ok(())
    }

    /// Moves the average towards `values`, which lie on the same device.
    ///
    /// # Errors
    /// Faults of a GPU.
    pub fn update(&mut self, values: &Memory) -> Result<()> {
        let t = self.updates as f64;
        let toward = (1.0 - self.decay.min((1.0 + t) / (10.0 + t))) as f32;
        self.updates += 1;
        match self.values.device() {
            Device::Cpu => cpu(self.values.host_mut(), values.host(), toward),
            Device::Cuda(gpu) => {
                let words = values.len();
                let moved = address_mut(&mut self.values)?;
                let args = args![address(values)?, toward, words, moved];
                gpu.launch(&KERNELS, "average_update", Grid::strided(words), args)?;
            }
        }
        Ok(())
    }
}

fn cpu(averages: &mut [f32], values: &[f32], toward: f32) {
    averages
        .par_chunks_mut(super::PIECE)
        .zip(values.par_chunks(super::PIECE))
        .for_each(|(average, values)| {
            for (a, p) in average.iter_mut().zip(values) {
                *a += toward * (p - *a);
            }
        });
}
