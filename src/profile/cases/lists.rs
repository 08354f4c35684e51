//! Index lists: everything that coordinates become before features are looked at.

use super::attention::{BIN, WINDOW};
use super::{NEIGHBOURS, Stage, cloud};
use crate::Result;
use crate::device::{Device, Gpu};
use crate::geometry::{Choice, Hierarchy, WindowOptions};

/// Neighbours that take more than one slot of a lane.
const MANY: usize = 48;
/// Edge of a cell that pools, metres: some six points of a floor.
const CELL: f32 = 0.1;
/// Radius of the kernel point layers, metres.
const RADIUS: f32 = 0.1;

/// Neighbours and their lists turned around, a pooled level, the stencil between both, balls, a thinned level and the
/// samples of keys, which are the beginning of its own.
pub fn lists(gpu: Gpu, s: Stage) -> Result<()> {
    // Two blocks of points more, so that the tree of 1024 points gets a second level.
    let count = s.points + 64;
    let mut levels = Hierarchy::on(Device::Cuda(gpu), cloud(count), vec![0, count])?;
    let near = levels.neighbors(0, NEIGHBOURS)?;
    near.try_transposed()?;
    near.moments_on(gpu)?;
    levels.neighbors(0, MANY)?;
    let (coarse, _) = levels.pool(0, CELL)?;
    levels.interpolation(0, coarse)?.transposed();
    for most in [NEIGHBOURS, MANY] {
        levels.ball(0, RADIUS, most, Choice::First)?;
    }
    levels.thin(0, &[count / 4 + 1])?;
    levels.farthest(0, &[count / 8 + 1])?;
    Ok(())
}

/// Windows with sampled keys and windows without.
pub fn windows(gpu: Gpu, s: Stage) -> Result<()> {
    let mut levels = Hierarchy::on(Device::Cuda(gpu), cloud(s.points), vec![0, s.points])?;
    let sampled: Vec<u32> = (0..s.points as u32).step_by(9).collect();
    for keys in [Some(&sampled.into()), None] {
        let options = WindowOptions {
            size: WINDOW,
            step: BIN,
            shifted: true,
        };
        levels.windows(0, options, keys)?;
    }
    Ok(())
}
