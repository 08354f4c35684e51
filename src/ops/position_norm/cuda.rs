//! The position map on a GPU: launches of `kernels/position_norm.cu`.

use super::super::pairs::PairsOn;
use super::{PositionNorm, Statistics, offsets_input};
use crate::Result;
use crate::device::cuda::{Grid, args, kernels};
use crate::device::{Gpu, Pointer};
use crate::graph::{Backward, Forward};

kernels!("position_norm");

/// Words of the gradients of nine moments in f64: scratch of backward where offsets get a gradient.
pub(super) const MOMENT_WORDS: usize = 18;

impl PositionNorm {
    pub(super) fn cuda_forward(&self, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
        let channels = io.shape(0).rows;
        let moments = self.neighbors.moments_on(gpu)?;
        let pairs = self.neighbors.index.len();
        let [w, b, gamma, beta, mean, variance] = [0, 1, 2, 3, 4, 5].map(|i| io.input_on(i));
        let batch = self.statistics == Statistics::Batch;
        let out = |i: usize| batch.then(|| io.output_on(i));
        let args = args![
            w,
            b,
            gamma,
            beta,
            mean,
            variance,
            moments,
            channels,
            pairs,
            batch,
            self.epsilon,
            io.output_on(0),
            out(1),
            out(2)
        ];
        gpu.launch(
            &KERNELS,
            "position_norm_forward",
            Grid::strided(channels),
            args,
        )
    }

    pub(super) fn cuda_backward(&self, gpu: Gpu, io: &Backward<'_>) -> Result<()> {
        let Some(d_position) = io.d_output_on(0) else {
            return Ok(());
        };
        let channels = io.shape(0).rows;
        let moments = self.neighbors.moments_on(gpu)?;
        let [w, b, gamma, mean, variance] = [0, 1, 2, 4, 5].map(|i| io.input_on(i));
        let [d_w, d_b, d_gamma, d_beta] = [0, 1, 2, 3].map(|i| io.d_input_on(i));
        let batch = self.statistics == Statistics::Batch;
        let args = args![
            w,
            b,
            gamma,
            mean,
            variance,
            moments,
            d_position,
            channels,
            batch,
            self.epsilon,
            d_w,
            d_b,
            d_gamma,
            d_beta
        ];
        gpu.launch(
            &KERNELS,
            "position_norm_backward",
            Grid::strided(channels),
            args,
        )?;
        if let (true, Some(i)) = (batch, offsets_input(io.inputs()))
            && let Some(d_offsets) = io.d_input_on(i)
        {
            self.cuda_offsets(gpu, io, d_position, d_offsets)?;
        }
        Ok(())
    }

    /// Adds to dΔ what flows through the moments.
    fn cuda_offsets(
        &self,
        gpu: Gpu,
        io: &Backward<'_>,
        d_position: Pointer,
        d_offsets: Pointer,
    ) -> Result<()> {
        let moments = self.neighbors.moments_on(gpu)?;
        let d_moments = io.scratch_on();
        let args = args![
            io.input_on(0),
            io.input_on(1),
            io.input_on(2),
            moments,
            d_position,
            io.shape(0).rows,
            self.epsilon,
            d_moments
        ];
        let kernel = "position_norm_backward_moments";
        gpu.launch(&KERNELS, kernel, Grid::new(1, 32), args)?;
        let PairsOn { delta, count, .. } = PairsOn::new(&self.neighbors, gpu)?;
        let [x, y, z] = delta;
        let args = args![moments, d_moments, x, y, z, count, d_offsets];
        let kernel = "position_norm_backward_offsets";
        gpu.launch(&KERNELS, kernel, Grid::strided(count), args)
    }
}
