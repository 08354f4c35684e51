//! Bytes that the attention of both networks moves in inference, beside the operators of the official code.
//!
//! Each width C is counted on the emulator at few points. What grows with the points is scaled to the asked number, weights
//! and position tables count once. *Requested* are all sectors that warps ask for, most of which caches serve: rows of
//! neighbours and weights, again and again; for the official code only the fewest bytes are counted.

use super::cases::{self, NEIGHBOURS, Stage};
use super::gpus::Work;
use super::official::{self, Chain};
use super::{Counts, KernelCost};
use crate::Result;
use crate::device::{Gpu, Precision};
use crate::graph::Shape;
use crate::ops::{Linear, VectorAttention};

/// Channels and points of a stage of the S3DIS networks, at which it is counted.
const STAGES: [[usize; 2]; 4] = [[48, 1024], [96, 512], [192, 256], [384, 128]];
/// Channels of a head of Stratified Transformer.
const HEAD: usize = 16;

/// What one attention layer moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bytes {
    /// C
    pub channels: usize,
    /// N
    pub points: usize,
    /// Bytes of the distinct sectors of each kernel.
    pub least: u64,
    /// Bytes that requests moved.
    pub requested: u64,
    /// Fewest bytes of the official operators.
    pub official: u64,
}

/// Grouped vector attention of Point Transformer V2 with the norm and the ReLU behind it, from q, k and v on, at the
/// points of four levels.
///
/// # Errors
/// What is missing (NVRTC, the emulator), or what a kernel does wrong.
pub fn grouped(levels: [usize; 4]) -> Result<Vec<Bytes>> {
    let layer = |([channels, counted], points): ([usize; 2], usize)| {
        let groups = channels / 8;
        let s = Stage {
            points: counted,
            channels,
            groups,
        };
        let encode = [Shape::new(counted, channels), Shape::new(groups, channels)];
        let found = moved(|| {
            // A k and A q
            cases::op(Gpu::Emulator.into(), Linear::new(false), &encode, 0)?;
            cases::op(Gpu::Emulator.into(), Linear::new(false), &encode, 0)?;
            cases::vector_attention(Gpu::Emulator.into(), s)
        })?;
        let mut chain = Chain::default();
        chain.attention(official::Attention {
            points: points as u64,
            neighbours: NEIGHBOURS as u64,
            channels: channels as u64,
            groups: groups as u64,
        });
        chain.norm_relu((points * channels) as u64);
        let weights = 2 * groups * channels // A, twice
            + groups * (groups + channels) + 4 * channels // B, M, P
            + VectorAttention::packed_shape(channels, groups).len();
        Ok(scaled(found, 4 * weights, s, points, &chain))
    };
    STAGES.into_iter().zip(levels).map(layer).collect()
}

/// Window attention of Stratified Transformer from q, k and v on, at the points of four levels.
///
/// # Errors
/// As [`grouped`].
pub fn windows(levels: [usize; 4]) -> Result<Vec<Bytes>> {
    let layer = |([channels, counted], points): ([usize; 2], usize)| {
        let (heads, groups) = (channels / HEAD, 1);
        let s = Stage {
            points: counted,
            channels,
            groups,
        };
        let found = moved(|| cases::window_attention(Gpu::Emulator.into(), s, HEAD, 0))?;
        let pairs = cases::windows(s)?.pairs() * points / counted;
        let mut chain = Chain::default();
        let sizes = [points, pairs, channels, heads].map(|n| n as u64);
        chain.window_attention(sizes[0], sizes[1], sizes[2], sizes[3]);
        // Tables of 64 rows, given and packed.
        let tables = 2 * 3 * 64 * 3 * channels;
        Ok(scaled(found, 4 * tables, s, points, &chain))
    };
    STAGES.into_iter().zip(levels).map(layer).collect()
}

/// Distinct sectors and requested ones of what `run` launches.
fn moved(run: impl FnOnce() -> Result<()>) -> Result<[u64; 2]> {
    Gpu::Emulator.open()?;
    Counts::take()?;
    run()?;
    let kernels = Counts::take()?.kernels;
    let sum = |of: fn(&KernelCost) -> u64| kernels.values().map(of).sum();
    Ok([
        sum(|kernel| kernel.work(Precision::F32).bytes),
        sum(|kernel| 32 * kernel.cost.global_sectors),
    ])
}

/// The bytes of `counted.points` points at `points`; `weights` bytes do not grow.
fn scaled(
    [least, requested]: [u64; 2],
    weights: usize,
    counted: Stage,
    points: usize,
    chain: &Chain,
) -> Bytes {
    let ratio = points as f64 / counted.points as f64;
    let grown = |bytes: u64, fixed: usize| {
        let work = Work {
            bytes,
            ..Work::default()
        };
        work.scaled(fixed as u64, ratio).bytes
    };
    Bytes {
        channels: counted.channels,
        points,
        least: grown(least, weights),
        requested: grown(requested, 0),
        official: 4 * chain.words(),
    }
}
