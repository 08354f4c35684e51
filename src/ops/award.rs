//! The gradient of a maximum: it goes to the one that attained it.

use crate::device::simd::{Kernel, Simd};

/// d_x of one row from one maximum per channel that it took part in: the gradient of every channel that it won.
pub(super) struct Award<'a> {
    /// What the winners call this row.
    pub name: u32,
    /// Who won each channel.
    pub winners: &'a [u32],
    pub d_y: &'a [f32],
    pub d_x: &'a mut [f32],
}

impl Kernel for Award<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let pooled = self.winners.iter().zip(self.d_y);
        for (d_x, (winner, d_y)) in self.d_x.iter_mut().zip(pooled) {
            *d_x += if *winner == self.name { *d_y } else { 0.0 };
        }
    }
}
