//! What each step does to a cloud.

use super::{Axis, Step};
use crate::Result;
use crate::cloud::elastic;
use crate::cloud::features::Sample;
use crate::device::random::{Random, Sequence};

/// Applies `steps` in order. A pure function of its arguments.
///
/// # Errors
/// An elastic grid too fine for the cloud's extent.
pub fn apply(steps: &[Step], mut cloud: Sample) -> Result<Sample> {
    for step in steps {
        match *step {
            Step::CenterShift { z } => center_shift(&mut cloud.coord, z),
            Step::Dropout { ratio, noise } => {
                cloud = cloud.select(&kept(cloud.len(), ratio, noise))
            }
            Step::Rotate { axis, radians } => {
                let turn = rotation(axis, radians);
                turn_all(&mut cloud, |p| turned(&turn, p));
            }
            Step::Scale { factor } => {
                for p in &mut cloud.coord {
                    *p = std::array::from_fn(|a| (f64::from(p[a]) * factor[a]) as f32);
                }
            }
            Step::Flip { x, y } => {
                let sign = |flips: bool, v: f32| if flips { -v } else { v };
                turn_all(&mut cloud, |p| [sign(x, p[0]), sign(y, p[1]), p[2]]);
            }
            Step::Jitter { sigma, clip, noise } => {
                add_noise(&mut cloud.coord, noise, |n| (sigma * n).clamp(-clip, clip));
            }
            Step::Elastic {
                granularity,
                magnitude,
                noise,
            } => {
                elastic::distort(&mut cloud.coord, granularity, magnitude, noise)?;
            }
            Step::AutoContrast { blend } => {
                if let Some(color) = &mut cloud.color {
                    auto_contrast(color, blend as f32);
                }
            }
            Step::ColorDrop { value } => {
                for c in cloud.color.iter_mut().flatten() {
                    *c = [value as f32; 3];
                }
            }
            Step::ChromaticTranslation { shift } => {
                for c in cloud.color.iter_mut().flatten() {
                    *c = std::array::from_fn(|a| (c[a] + shift[a] as f32).clamp(0.0, 255.0));
                }
            }
            Step::ChromaticJitter { sigma, noise } => {
                if let Some(color) = &mut cloud.color {
                    add_noise(color, noise, |n| 255.0 * sigma * n);
                    for c in color.iter_mut().flatten() {
                        *c = c.clamp(0.0, 255.0);
                    }
                }
            }
            Step::Shuffle { noise } => {
                let mut rows: Vec<u32> = (0..cloud.len() as u32).collect();
                Sequence::new(Random::new(noise, 0)).shuffle(&mut rows);
                cloud = cloud.select(&rows);
            }
        }
    }
    Ok(cloud)
}

/// Turns or mirrors positions and normals alike.
fn turn_all(cloud: &mut Sample, turn: impl Fn([f32; 3]) -> [f32; 3]) {
    let vectors = cloud.coord.iter_mut();
    for v in vectors.chain(cloud.normal.iter_mut().flatten()) {
        *v = turn(*v);
    }
}

/// Moves the middle of the x and y extent, and with `z` the lowest z, to 0.
pub fn center_shift(coord: &mut [[f32; 3]], z: bool) {
    let mut low = [f32::INFINITY; 3];
    let mut high = [f32::NEG_INFINITY; 3];
    for p in coord.iter() {
        low = std::array::from_fn(|a| low[a].min(p[a]));
        high = std::array::from_fn(|a| high[a].max(p[a]));
    }
    let shift = [
        (low[0] + high[0]) / 2.0,
        (low[1] + high[1]) / 2.0,
        if z { low[2] } else { 0.0 },
    ];
    for p in coord {
        *p = std::array::from_fn(|a| p[a] - shift[a]);
    }
}

/// The rows that a dropout of `ratio` leaves, ascending: those with the smallest random words.
fn kept(rows: usize, ratio: f64, noise: u64) -> Vec<u32> {
    let count = (rows as f64 * (1.0 - ratio)) as usize;
    let random = Random::new(noise, 0);
    let mut order: Vec<(u64, u32)> = (0..rows as u32)
        .map(|row| (random.bits(u64::from(row)), row))
        .collect();
    if count < rows {
        order.select_nth_unstable(count);
    }
    let mut kept: Vec<u32> = order[..count].iter().map(|(_, row)| *row).collect();
    kept.sort_unstable();
    kept
}

/// Rotation matrix, right-handed, rows first.
pub fn rotation(axis: Axis, radians: f64) -> [[f64; 3]; 3] {
    let (s, c) = radians.sin_cos();
    match axis {
        Axis::X => [[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]],
        Axis::Y => [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]],
        Axis::Z => [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]],
    }
}

fn turned(turn: &[[f64; 3]; 3], p: [f32; 3]) -> [f32; 3] {
    let p = p.map(f64::from);
    std::array::from_fn(|a| (turn[a][0] * p[0] + turn[a][1] * p[1] + turn[a][2] * p[2]) as f32)
}

/// Adds `shape(standard normal)` to every value.
fn add_noise(values: &mut [[f32; 3]], noise: u64, shape: impl Fn(f64) -> f64) {
    let random = Random::new(noise, 0);
    for (i, v) in values.iter_mut().flatten().enumerate() {
        *v += shape(random.normal(i as u64)) as f32;
    }
}

/// Stretches every channel to 0–255 and blends with the original; a channel with one value only is not stretched.
pub fn auto_contrast(color: &mut [[f32; 3]], blend: f32) {
    for a in 0..3 {
        let low = color.iter().fold(f32::INFINITY, |m, c| m.min(c[a]));
        let high = color.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c[a]));
        let scale = if high > low {
            255.0 / (high - low)
        } else {
            1.0
        };
        for c in color.iter_mut() {
            c[a] = (1.0 - blend) * c[a] + blend * (c[a] - low) * scale;
        }
    }
}
