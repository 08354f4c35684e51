//! What moves the parameters.

use super::{Stage, values};
use crate::Result;
use crate::device::{Device, Gpu, Memory};
use crate::optim::{Average, OptimizerConfig, clip, norm};

pub const ADAMW: OptimizerConfig = OptimizerConfig::AdamW {
    lr: 0.006,
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0.05,
};
pub const SGD: OptimizerConfig = OptimizerConfig::Sgd {
    lr: 0.1,
    momentum: 0.9,
    nesterov: false,
    weight_decay: 1e-4,
};

/// Values of a stage in the memory of the GPU.
fn list(gpu: Gpu, s: Stage, seed: u64) -> Result<Memory> {
    Memory::of(Device::Cuda(gpu), &values(s.points * s.channels, seed))
}

/// One step on a weight as large as the features of the stage.
pub fn optimizer(gpu: Gpu, s: Stage, config: OptimizerConfig) -> Result<()> {
    let (mut weights, gradients) = (list(gpu, s, 1)?, list(gpu, s, 2)?);
    let whole = std::iter::once(0..weights.len()).collect();
    let mut rule = config.build(Device::Cuda(gpu), weights.len(), whole)?;
    rule.step(&mut weights, &gradients, config.base())
}

pub fn gradient_clip(gpu: Gpu, s: Stage) -> Result<()> {
    let mut gradients = list(gpu, s, 1)?;
    let length = norm(&gradients)?;
    clip(&mut gradients, length, 0.5 * length)
}

pub fn average(gpu: Gpu, s: Stage) -> Result<()> {
    let weights = list(gpu, s, 1)?;
    Average::new(&weights, 0.9)?.update(&weights)
}
