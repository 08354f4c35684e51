//! Exponential moving average of all values of a network, running statistics included: what is validated and shipped.
//!
//! a ← a + (1 − d)(p − a), with d = min(decay, (1 + t) / (10 + t)) at the t-th update, so that early weights are soon
//! forgotten.

use rayon::prelude::*;

/// Values averaged over the steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Average {
    /// The averages, laid out as the values.
    pub values: Vec<f32>,
    /// Limit of the share that is kept per update.
    pub decay: f64,
    /// Updates so far.
    pub updates: u64,
}

impl Average {
    /// Starts at `values`.
    pub fn new(values: &[f32], decay: f64) -> Average {
        Average {
            values: values.to_vec(),
            decay,
            updates: 0,
        }
    }

    /// Moves the average towards `values`.
    pub fn update(&mut self, values: &[f32]) {
        let t = self.updates as f64;
        let toward = (1.0 - self.decay.min((1.0 + t) / (10.0 + t))) as f32;
        self.updates += 1;
        self.values
            .par_chunks_mut(super::PIECE)
            .zip(values.par_chunks(super::PIECE))
            .for_each(|(average, values)| {
                for (a, p) in average.iter_mut().zip(values) {
                    *a += toward * (p - *a);
                }
            });
    }
}
