//! Learning rate and momentum in force at a step, as pure functions of the step: nothing to store, nothing to resume.
//!
//! | schedule | rate |
//! |---|---|
//! | constant | the base rate |
//! | multi_step | × gamma at every milestone, given as a share of all steps; before, an optional linear warm-up |
//! | one_cycle | base/div up to base and down to base/div/final_div along half cosines (Smith and Topin 2019, as PyTorch's `OneCycleLR`); momentum 0.95 → 0.85 → 0.95 against it |
//! | cosine | linear warm-up from 0, then half a cosine down to `floor` × base |

use super::Rate;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A schedule, as written in a configuration. Shares are of the total number of steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always the base rate.
    #[default]
    Constant,
    /// Drops by a factor.
    MultiStep {
        /// When, as ascending shares of all steps; the step is rounded down.
        milestones: Vec<f64>,
        /// By how much.
        #[serde(default = "default_gamma")]
        gamma: f64,
        /// Steps of the linear warm-up; none when 0.
        #[serde(default)]
        warm_up_steps: u64,
        /// First rate as a share of the base rate.
        #[serde(default = "default_warm_up_ratio")]
        warm_up_ratio: f64,
    },
    /// Up, then far down.
    OneCycle {
        /// Share of the steps on the way up.
        #[serde(default = "default_warm_up")]
        warm_up: f64,
        /// First rate = base / div.
        #[serde(default = "default_div")]
        div: f64,
        /// Last rate = first / final_div.
        #[serde(default = "default_final_div")]
        final_div: f64,
        /// Lowest and highest momentum; the lowest where the rate is highest.
        #[serde(default = "default_momentum")]
        momentum: [f64; 2],
    },
    /// Half a cosine.
    Cosine {
        /// Share of the steps of the linear warm-up.
        #[serde(default)]
        warm_up: f64,
        /// Last rate as a share of the base rate.
        #[serde(default)]
        floor: f64,
    },
}

fn default_gamma() -> f64 {
    0.1
}

fn default_warm_up_ratio() -> f64 {
    1e-6
}

fn default_warm_up() -> f64 {
    0.05
}

fn default_div() -> f64 {
    10.0
}

fn default_final_div() -> f64 {
    1000.0
}

fn default_momentum() -> [f64; 2] {
    [0.85, 0.95]
}

/// Half a cosine from `start` (share 0) to `end` (share 1).
fn anneal(start: f64, end: f64, share: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (PI * share).cos())
}

impl Schedule {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Shares outside 0–1 or out of order, factors that are not positive.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, rule: &str| Err(Error::config(format!("schedule.{key}"), rule));
        let share = |v: &f64| (0.0..=1.0).contains(v);
        let positive = |v: &f64| v.is_finite() && *v > 0.0;
        match self {
            Schedule::Constant => Ok(()),
            Schedule::MultiStep {
                milestones,
                gamma,
                warm_up_ratio,
                ..
            } => {
                if !share(warm_up_ratio) {
                    return wrong("warm_up_ratio", "must be between 0 and 1");
                }
                if !milestones.iter().all(share) || milestones.windows(2).any(|w| w[0] > w[1]) {
                    return wrong("milestones", "must be shares between 0 and 1, ascending");
                }
                if !positive(gamma) {
                    return wrong("gamma", "must be above 0");
                }
                Ok(())
            }
            Schedule::OneCycle {
                warm_up,
                div,
                final_div,
                momentum,
            } => {
                if !share(warm_up) {
                    return wrong("warm_up", "must be a share between 0 and 1");
                }
                if !positive(div) || !positive(final_div) {
                    return wrong("div", "and final_div must be above 0");
                }
                if momentum.iter().any(|m| !(0.0..1.0).contains(m)) {
                    return wrong("momentum", "must be two numbers of at least 0 and below 1");
                }
                Ok(())
            }
            Schedule::Cosine { warm_up, floor } => {
                if !share(warm_up) || !share(floor) {
                    return wrong("warm_up", "and floor must be shares between 0 and 1");
                }
                Ok(())
            }
        }
    }

    /// What is in force at `step` (from 0) of `total` steps, given what the optimizer asks for.
    pub fn at(&self, step: u64, total: u64, base: Rate) -> Rate {
        let (s, t) = (step as f64, total as f64);
        match self {
            Schedule::Constant => base,
            Schedule::MultiStep {
                milestones,
                gamma,
                warm_up_steps,
                warm_up_ratio,
            } => {
                let warm = match s / *warm_up_steps as f64 {
                    share if step < *warm_up_steps => 1.0 - (1.0 - share) * (1.0 - warm_up_ratio),
                    _ => 1.0,
                };
                let passed = milestones
                    .iter()
                    .filter(|share| step >= (**share * t) as u64)
                    .count();
                Rate {
                    lr: base.lr * warm * gamma.powi(passed as i32),
                    ..base
                }
            }
            Schedule::OneCycle {
                warm_up,
                div,
                final_div,
                momentum: [low, high],
            } => {
                let top = warm_up * t - 1.0;
                let first = base.lr / div;
                if s <= top {
                    let share = if top > 0.0 { s / top } else { 1.0 };
                    return Rate {
                        lr: anneal(first, base.lr, share),
                        momentum: anneal(*high, *low, share),
                    };
                }
                let share = ((s - top) / (t - 1.0 - top)).clamp(0.0, 1.0);
                Rate {
                    lr: anneal(base.lr, first / final_div, share),
                    momentum: anneal(*low, *high, share),
                }
            }
            Schedule::Cosine { warm_up, floor } => {
                let warm = warm_up * t;
                let lr = if s < warm {
                    base.lr * (s + 1.0) / warm.max(1.0)
                } else {
                    let share = ((s - warm) / (t - warm).max(1.0)).min(1.0);
                    anneal(base.lr, base.lr * floor, share)
                };
                Rate { lr, ..base }
            }
        }
    }
}
