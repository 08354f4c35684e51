//! Optimizers, learning-rate schedules, gradient clipping and the moving average of weights.
//!
//! Everything runs over flat lists laid out as [`crate::graph::Params::values`]; [`Trained`] says which ranges the optimizer
//! may move (running statistics and padding stay out) and at what share of the rate. Work is cut into pieces that depend on the layout only, so results
//! have the same bits on any number of threads.
//!
//! | item | what it does |
//! |---|---|
//! | [`AdamW`], [`Sgd`] | update rules, behind [`Optimizer`] |
//! | [`OptimizerConfig`] | which rule, with its numbers, as written in a configuration |
//! | [`Group`], [`Trained`] | parameters with a rate of their own, and where they lie |
//! | [`Schedule`] | rate and momentum in force at a step |
//! | [`Average`] | exponential moving average of all values |
//! | [`norm`], [`clip`] | length of the gradient, and its limit |

mod adamw;
mod average;
mod clip;
mod schedule;
mod sgd;

pub use adamw::AdamW;
pub use average::Average;
pub use clip::{clip, norm};
pub use schedule::Schedule;
pub use sgd::Sgd;

use crate::graph::{Layout, ParamKind};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::ops::Range;

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

/// Parameters that learn at another rate than the rest, as written in a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Part of the names of the group's parameters.
    pub contains: String,
    /// Factor on the rate.
    pub lr: f64,
}

/// The ranges of a flat list that an optimizer moves, ascending, each with its factor on the rate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained(Vec<(Range<usize>, f64)>);

impl Trained {
    /// The trained tensors of a layout. A tensor that several groups name belongs to the first of them.
    pub fn of(layout: &Layout, groups: &[Group]) -> Trained {
        let mut trained = Vec::new();
        for spec in layout.specs() {
            let id = layout
                .find(&spec.name)
                .filter(|_| spec.kind == ParamKind::Weight);
            let group = groups.iter().find(|g| spec.name.contains(&g.contains));
            trained.extend(id.map(|id| (layout.range(id), group.map_or(1.0, |g| g.lr))));
        }
        Trained(trained)
    }

    /// The factor on the rate of every piece that [`pieces`] gives.
    fn factors(&self) -> Vec<f64> {
        let pieces = |(range, factor): &(Range<usize>, f64)| {
            std::iter::repeat_n(*factor, range.len().div_ceil(PIECE))
        };
        self.0.iter().flat_map(pieces).collect()
    }
}

impl FromIterator<Range<usize>> for Trained {
    fn from_iter<I: IntoIterator<Item = Range<usize>>>(ranges: I) -> Self {
        Trained(ranges.into_iter().map(|range| (range, 1.0)).collect())
    }
}

impl From<Vec<Range<usize>>> for Trained {
    fn from(ranges: Vec<Range<usize>>) -> Self {
        ranges.into_iter().collect()
    }
}

/// Checks the groups of a configuration against the parameters of its network.
///
/// # Errors
/// A factor that is not a positive number, a group that no parameter belongs to.
pub fn check_groups(groups: &[Group], layout: &Layout) -> Result<()> {
    for group in groups {
        if !(group.lr.is_finite() && group.lr > 0.0) {
            return Err(Error::config(
                "groups.lr",
                format!("{} must be above 0", group.lr),
            ));
        }
        if !layout
            .specs()
            .iter()
            .any(|s| s.name.contains(&group.contains))
        {
            let fault = format!("no parameter's name contains {:?}", group.contains);
            return Err(Error::config("groups.contains", fault));
        }
    }
    Ok(())
}

/// An update rule with its state.
pub trait Optimizer: Debug + Send {
    /// Moves `values` by one step along `gradients`. Both have the length given at construction.
    fn step(&mut self, values: &mut [f32], gradients: &[f32], rate: Rate);

    /// Number of steps taken.
    fn steps(&self) -> u64;

    /// The state's lists with their names, each as long as the values.
    fn state(&self) -> Vec<(&'static str, &[f32])>;

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

    /// The optimizer for `words` values of which `trained` are moved.
    pub fn build(&self, words: usize, trained: Trained) -> Box<dyn Optimizer> {
        match *self {
            OptimizerConfig::AdamW {
                betas,
                eps,
                weight_decay,
                ..
            } => Box::new(AdamW::new(words, trained, betas[1], eps, weight_decay)),
            OptimizerConfig::Sgd {
                nesterov,
                weight_decay,
                ..
            } => Box::new(Sgd::new(words, trained, nesterov, weight_decay)),
        }
    }
}

/// Cuts the ranges of `trained` (ascending, apart) out of `list`, in pieces of at most [`PIECE`] values.
fn pieces_mut<'a>(list: &'a mut [f32], trained: &Trained) -> Vec<&'a mut [f32]> {
    let mut pieces = Vec::new();
    let (mut rest, mut start) = (list, 0);
    for (range, _) in &trained.0 {
        let (_, tail) = rest.split_at_mut(range.start - start);
        let (part, tail) = tail.split_at_mut(range.len());
        pieces.extend(part.chunks_mut(PIECE));
        (rest, start) = (tail, range.end);
    }
    pieces
}

/// As [`pieces_mut`], for reading.
fn pieces<'a>(list: &'a [f32], trained: &Trained) -> Vec<&'a [f32]> {
    trained
        .0
        .iter()
        .flat_map(|(range, _)| list[range.clone()].chunks(PIECE))
        .collect()
}

/// Replaces `slot` by the stored list `name`.
fn restore_list(
    slot: &mut Vec<f32>,
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
    *slot = stored;
    Ok(())
}

#[cfg(test)]
mod tests;
