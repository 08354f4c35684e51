//! Loss scaling: what keeps small gradients from becoming 0 where products are taken in f16.
//!
//! The loss is multiplied by a factor, a power of two, before backward, and the gradients are divided by it afterwards. A
//! step whose gradients are not finite is skipped and halves the factor; many good steps in a row double it (Micikevicius
//! et al. 2018, section 3.2). bf16 has the range of f32 and needs none of it.

use crate::device::Precision;
use serde::{Deserialize, Serialize};

/// The factor and its history.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    factor: f32,
    good_steps: u32,
}

impl LossScale {
    /// The first factor.
    pub const START: f32 = 65536.0;
    /// Good steps in a row after which the factor doubles.
    pub const GROWTH_STEPS: u32 = 2000;
    /// Smallest factor: gradients that are not finite even so are no matter of scale.
    pub const SMALLEST: f32 = 1.0 / 65536.0;
    /// Largest factor; twice as much and it would soon be infinite.
    pub const LARGEST: f32 = 1e30;

    /// The scale that training in `precision` starts with, if it needs one.
    pub fn of(precision: Precision) -> Option<LossScale> {
        (precision == Precision::F16).then(|| LossScale::new(Self::START))
    }

    /// A scale that starts with `factor`.
    pub fn new(factor: f32) -> LossScale {
        LossScale {
            factor,
            good_steps: 0,
        }
    }

    /// What the loss is multiplied by.
    pub fn factor(self) -> f32 {
        self.factor
    }

    /// The scale after a step whose gradients were finite or not; none where it would become smaller than the smallest.
    pub fn after(self, finite: bool) -> Option<LossScale> {
        if !finite {
            let halved = LossScale::new(self.factor / 2.0);
            return (halved.factor >= Self::SMALLEST).then_some(halved);
        }
        let good_steps = self.good_steps + 1;
        let grows = good_steps >= Self::GROWTH_STEPS && self.factor < Self::LARGEST;
        Some(match grows {
            true => LossScale::new(2.0 * self.factor),
            false => LossScale { good_steps, ..self },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_f16_is_scaled() {
        assert_eq!(LossScale::of(Precision::F32), None);
        assert_eq!(LossScale::of(Precision::Bf16), None);
        assert_eq!(LossScale::of(Precision::F16).unwrap().factor(), 65536.0);
    }

    #[test]
    fn many_good_steps_double_it_and_a_bad_one_halves_it() {
        let mut scale = LossScale::new(LossScale::START);
        for step in 1..=2 * LossScale::GROWTH_STEPS {
            scale = scale.after(true).unwrap();
            assert_eq!(
                scale.factor(),
                LossScale::START * (1 << (step / LossScale::GROWTH_STEPS)) as f32
            );
        }
        let scale = scale.after(true).unwrap().after(false).unwrap();
        assert_eq!(
            scale,
            LossScale::new(2.0 * LossScale::START),
            "good steps are counted anew"
        );
    }

    #[test]
    fn it_stays_within_bounds() {
        let mut scale = LossScale::new(LossScale::START);
        for _ in 0..32 {
            scale = scale.after(false).unwrap();
        }
        assert_eq!(scale.factor(), LossScale::SMALLEST);
        assert_eq!(scale.after(false), None);
        let mut large = LossScale::new(LossScale::LARGEST);
        for _ in 0..LossScale::GROWTH_STEPS + 1 {
            large = large.after(true).unwrap();
        }
        assert_eq!(large.factor(), LossScale::LARGEST);
    }
}
