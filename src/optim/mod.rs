//! Optimizers, learning-rate schedules, gradient clipping and the moving average of weights.
//!
//! Everything runs over flat lists laid out as [`crate::graph::Params::values`], on the device that holds them: in training
//! on a GPU, parameters, gradients, moments and averages stay there. [`Trained`] says which ranges the optimizer may move
//! (running statistics and padding stay out) and at what share of the rate. Work is cut into pieces that depend on the
//! layout only, so results have the same bits on any number of threads.
//!
//! | item | what it does |
//! |---|---|
//! | [`AdamW`], [`Sgd`] | update rules, behind [`Optimizer`] |
//! | [`OptimizerConfig`] | which rule, with its numbers, as written in a configuration |
//! | [`Group`], [`Trained`] | parameters with a rate of their own, and where they lie |
//! | [`Schedule`] | rate and momentum in force at a step |
//! | [`Average`] | exponential moving average of all values |
//! | [`norm`], [`clip`], [`divide`] | length of the gradient, its limit, and the end of its scaling |

mod adamw;
mod average;
mod clip;
mod schedule;
mod sgd;
mod trained;

pub use adamw::AdamW;
pub use average::Average;
pub use clip::{clip, divide, norm};
pub use schedule::Schedule;
pub use sgd::Sgd;
pub use trained::{Group, Trained, check_groups};

use crate::device::{Device, Memory, Pointer};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// Most values in a piece of parallel work.
const PIECE: usize = 1 << 14;

/// What a schedule prescribes for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Learning rate.
    pub lr: f64,
    /// Momentum of SGD, first beta of AdamW.
    pub momentum: f64,
}

/// An update rule with its state.
pub trait Optimizer: Debug + Send {
    /// Moves `values` by one step along `gradients`. Both have the length and lie on the device given at construction.
    ///
    /// # Errors
    /// Faults of a GPU.
    fn step(&mut self, values: &mut Memory, gradients: &Memory, rate: Rate) -> Result<()>;

    /// Number of steps taken.
    fn steps(&self) -> u64;

    /// The state's lists with their names, each as long as the values.
    ///
    /// # Errors
    /// Faults of a GPU.
    fn state(&self) -> Result<Vec<(&'static str, &[f32])>>;

    /// Takes up a state that [`Optimizer::state`] and [`Optimizer::steps`] gave; `find` returns the list of a name.
    ///
    /// # Errors
    /// A list that is missing (the error of `find`) or of another length.
    fn restore(&mut self, steps: u64, find: &dyn Fn(&str) -> Result<Vec<f32>>) -> Result<()>;
}

/// Which optimizer, as written in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Loshchilov and Hutter 2019.
    AdamW {
        /// Base (or, with OneCycle, largest) learning rate.
        lr: f64,
        /// Decay of the first and second moment.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "default_eps")]
        eps: f64,
        /// Decoupled weight decay, on every parameter as in the reference.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Base (or, with OneCycle, largest) learning rate.
        lr: f64,
        /// Share of the last move that is kept.
        #[serde(default)]
        momentum: f64,
        /// Looks ahead by one momentum step.
        #[serde(default)]
        nesterov: bool,
        /// Added to the gradient, times the weight.
        #[serde(default)]
        weight_decay: f64,
    },
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-8
}

impl OptimizerConfig {
    /// Rate and momentum before any schedule.
    pub fn base(&self) -> Rate {
        match *self {
            OptimizerConfig::AdamW { lr, betas, .. } => Rate {
                lr,
                momentum: betas[0],
            },
            OptimizerConfig::Sgd { lr, momentum, .. } => Rate { lr, momentum },
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// A rate that is not positive, a share outside 0–1, a negative decay.
    pub fn check(&self) -> Result<()> {
        let (lr, shares, decay) = match *self {
            OptimizerConfig::AdamW {
                lr,
                betas,
                eps,
                weight_decay,
            } => {
                if !(eps.is_finite() && eps > 0.0) {
                    return Err(Error::config(
                        "optimizer.eps",
                        format!("{eps} must be above 0"),
                    ));
                }
                (lr, betas, weight_decay)
            }
            OptimizerConfig::Sgd {
                lr,
                momentum,
                weight_decay,
                ..
            } => (lr, [momentum; 2], weight_decay),
        };
        if !(lr.is_finite() && lr > 0.0) {
            return Err(Error::config(
                "optimizer.lr",
                format!("{lr} must be above 0"),
            ));
        }
        if shares.iter().any(|b| !(0.0..1.0).contains(b)) {
            return Err(Error::config(
                "optimizer",
                format!("betas and momentum must be at least 0 and below 1, not {shares:?}"),
            ));
        }
        if !(decay.is_finite() && decay >= 0.0) {
            return Err(Error::config(
                "optimizer.weight_decay",
                format!("{decay} must not be negative"),
            ));
        }
        Ok(())
    }

    /// The optimizer for `words` values on `device` of which `trained` are moved.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn build(
        &self,
        device: Device,
        words: usize,
        trained: Trained,
    ) -> Result<Box<dyn Optimizer>> {
        Ok(match *self {
            OptimizerConfig::AdamW {
                betas,
                eps,
                weight_decay,
                ..
            } => Box::new(AdamW::new(
                device,
                words,
                trained,
                betas[1],
                eps,
                weight_decay,
            )?),
            OptimizerConfig::Sgd {
                nesterov,
                weight_decay,
                ..
            } => Box::new(Sgd::new(device, words, trained, nesterov, weight_decay)?),
        })
    }
}

/// A list where it is now, brought to the host.
fn read(list: &Memory) -> Result<&[f32]> {
    list.fetch()?;
    Ok(list.host())
}

/// Address of a list on a GPU, for reading.
fn address(list: &Memory) -> Result<Pointer> {
    Ok(Pointer(list.address()? as u64))
}

/// Address of a list on a GPU, for writing.
fn address_mut(list: &mut Memory) -> Result<Pointer> {
    Ok(Pointer(list.address_mut()? as u64))
}

/// Replaces `slot` by the stored list `name`.
fn restore_list(
    slot: &mut Memory,
    name: &str,
    find: &dyn Fn(&str) -> Result<Vec<f32>>,
) -> Result<()> {
    let stored = find(name)?;
    if stored.len() != slot.len() {
        return Err(Error::weights(
            name,
            format!("{} values where {} are needed", stored.len(), slot.len()),
        ));
    }
    slot.host_mut().copy_from_slice(&stored);
    Ok(())
}

#[cfg(test)]
mod tests;
