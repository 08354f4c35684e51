//! Leaky rectified linear unit.
//!
//! y = x where x > 0, slope · x elsewhere        (Maas et al. 2013; slope 0.2 in the stem of Stratified Transformer)
//!
//! | value | shape | meaning |
//! |---|---|---|
//! | x | [N, C] | features |
//! | y | [N, C] | rectified features |
//!
//! Backward: dx = dy where y > 0, slope · dy elsewhere. Saves: nothing, reads its own output, whose sign is that of x.
//! Time and memory: O(N·C). Errors: a slope that is negative or not finite.

use super::elementwise::{self, Given};
use crate::device::cuda::{args, kernels};
use crate::device::simd::{Kernel, Simd, dispatch};
use crate::graph::{Backward, Forward, Op, Plan, Shape};
use crate::{Error, Result};

kernels!("leaky_relu");

/// y = x where x > 0, slope · x elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct LeakyRelu {
    /// Factor of values that are not positive.
    pub slope: f32,
}

struct Rectify<'a> {
    slope: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Rectify<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y = if *x > 0.0 { *x } else { self.slope * x };
        }
    }
}

struct Gradient<'a> {
    slope: f32,
    y: &'a [f32],
    d_y: &'a [f32],
    d_x: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let given = self.y.iter().zip(self.d_y);
        for (d_x, (y, d_y)) in self.d_x.iter_mut().zip(given) {
            *d_x += if *y > 0.0 { *d_y } else { self.slope * d_y };
        }
    }
}

impl Op for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }

    fn plan(&self, inputs: &[Shape]) -> Result<Plan> {
        let x = elementwise::only_input(self, inputs)?;
        if !(self.slope >= 0.0 && self.slope.is_finite()) {
            let fault = format!("slope {} is not a number from 0 on", self.slope);
            return Err(Error::shape(self.name(), fault));
        }
        Ok(Plan {
            reads_outputs: vec![0],
            ..Plan::of(x)
        })
    }

    fn forward(&self, io: &mut Forward<'_>) -> Result<()> {
        let (kernel, slope) = ((&KERNELS, "leaky_relu_forward"), self.slope);
        elementwise::forward(io, kernel, args![slope], |x, y| {
            dispatch(Rectify { slope, x, y });
        })
    }

    fn backward(&self, io: &mut Backward<'_>) -> Result<()> {
        let (kernel, slope) = ((&KERNELS, "leaky_relu_backward"), self.slope);
        elementwise::backward(io, Given::Output, kernel, args![slope], |y, d_y, d_x| {
            dispatch(Gradient { slope, y, d_y, d_x });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::Check;
    use crate::ops::reference::run;

    #[test]
    fn matches_naive() {
        for (rows, slope) in [(0, 0.2), (1, 0.2), (37, 0.2), (2000, 0.01), (37, 0.0)] {
            let wide = f64::from(slope);
            let leak = |x: &f64| if *x > 0.0 { *x } else { wide * x };
            Check::new(LeakyRelu { slope })
                .input(rows, 5)
                .run(|x| vec![x[0].iter().map(leak).collect()]);
        }
    }

    #[test]
    fn a_value_that_is_not_a_number_is_not_hidden() {
        let x = (Shape::new(1, 1), vec![f32::NAN]);
        let (outputs, _) = run(LeakyRelu { slope: 0.2 }, &[x], vec![1.0]);
        assert!(outputs[0][0].is_nan());
    }

    #[test]
    fn slopes_that_lose_the_sign_are_refused() {
        for slope in [-0.1, f32::NAN, f32::INFINITY] {
            assert!(LeakyRelu { slope }.plan(&[Shape::new(1, 1)]).is_err());
        }
    }
}
