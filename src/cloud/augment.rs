//! Augmentation as plain data: [`Transform`]s say what may happen, [`Step`]s what does, [`apply`] makes it happen.
//!
//! A transform comes from a configuration and draws steps from a random stream; a step holds every sampled parameter and
//! can be stored, sent and applied again, with the same result on every machine. Noise per point is named by the key of
//! its counter-based random stream instead of being written out. A transform that does not strike draws no step.
//!
//! | transform | effect | reference name |
//! |---|---|---|
//! | `center_shift` | middle of the x and y extent (and lowest z) to 0 | CenterShift |
//! | `dropout` | a random share of the points leaves | RandomDropout |
//! | `rotate` | about an axis through the origin, normals too | RandomRotate |
//! | `scale` | one factor, or one per axis | RandomScale |
//! | `flip` | x and y change sign, each by its own draw, normals too | RandomFlip |
//! | `jitter` | clipped normal noise on every coordinate | RandomJitter |
//! | `elastic` | smooth noise moves neighbourhoods together | ElasticDistortion |
//! | `auto_contrast` | colours stretched to 0–255, blended with the original | ChromaticAutoContrast |
//! | `chromatic_translation` | one colour shift for all points | ChromaticTranslation |
//! | `chromatic_jitter` | normal noise on every colour | ChromaticJitter |
//! | `color_drop` | all points get one colour | RandomDropColor |
//! | `shuffle` | rows in random order | ShufflePoint |
//!
//! Lengths are metres, angles radians (in configurations: units of π), colours 0–255. Transforms of colours pass clouds
//! without colours by. Random draws are not those of NumPy: distributions agree with the reference, values do not.

use crate::cloud::elastic;
use crate::cloud::features::Sample;
use crate::device::random::{Random, Sequence};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A coordinate axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the variants are the axes they name")]
pub enum Axis {
    X,
    Y,
    Z,
}

/// Something that may happen to a training cloud, as written in a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// Moves the middle of the x and y extent to 0.
    CenterShift {
        /// Moves the lowest z to 0 as well.
        z: bool,
    },
    /// Removes points at random.
    Dropout {
        /// How often it happens.
        probability: f64,
        /// Share of the points that leaves.
        ratio: f64,
    },
    /// Turns the cloud.
    Rotate {
        /// Axis through the origin.
        axis: Axis,
        /// Smallest and largest angle in units of π, uniform between.
        angle: [f64; 2],
        /// How often it happens.
        probability: f64,
    },
    /// Scales the cloud about the origin.
    Scale {
        /// Smallest and largest factor, uniform between.
        range: [f64; 2],
        /// One factor per axis instead of one for all.
        #[serde(default)]
        anisotropic: bool,
    },
    /// Mirrors the cloud.
    Flip {
        /// How often x changes sign, and, drawn separately, y.
        probability: f64,
    },
    /// Moves every point on its own.
    Jitter {
        /// Standard deviation per coordinate, metres.
        sigma: f64,
        /// Largest move per coordinate, metres.
        clip: f64,
    },
    /// Moves neighbourhoods together.
    Elastic {
        /// Pairs of grid spacing and magnitude, metres, applied in order.
        layers: Vec<[f64; 2]>,
        /// How often all of it happens.
        probability: f64,
    },
    /// Stretches colours to the full range.
    AutoContrast {
        /// How often it happens.
        probability: f64,
        /// Share of the stretched colour; drawn from 0–1 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blend: Option<f64>,
    },
    /// Shifts all colours.
    ChromaticTranslation {
        /// How often it happens.
        probability: f64,
        /// Largest shift as a share of 255.
        ratio: f64,
    },
    /// Shifts every colour on its own.
    ChromaticJitter {
        /// How often it happens.
        probability: f64,
        /// Standard deviation as a share of 255.
        sigma: f64,
    },
    /// Takes the colours away.
    ColorDrop {
        /// How often it happens.
        probability: f64,
        /// What every channel becomes, 0–255.
        #[serde(default)]
        value: f64,
    },
    /// Puts the rows into random order.
    Shuffle,
}

/// One thing that happens to a cloud: a transform with its sampled parameters. `noise` is the seed of a random stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the transforms")]
pub enum Step {
    CenterShift {
        z: bool,
    },
    Dropout {
        ratio: f64,
        noise: u64,
    },
    Rotate {
        axis: Axis,
        radians: f64,
    },
    Scale {
        factor: [f64; 3],
    },
    Flip {
        x: bool,
        y: bool,
    },
    Jitter {
        sigma: f64,
        clip: f64,
        noise: u64,
    },
    Elastic {
        granularity: f64,
        magnitude: f64,
        noise: u64,
    },
    AutoContrast {
        blend: f64,
    },
    ChromaticTranslation {
        shift: [f64; 3],
    },
    ChromaticJitter {
        sigma: f64,
        noise: u64,
    },
    ColorDrop {
        value: f64,
    },
    Shuffle {
        noise: u64,
    },
}

impl Transform {
    /// Checks the numbers.
    ///
    /// # Errors
    /// A probability or share outside 0–1, a range upside down, a length that is negative or not finite.
    pub fn check(&self) -> Result<()> {
        use Transform::*;
        let share =
            |name: &str, v: f64| require((0.0..=1.0).contains(&v), name, v, "between 0 and 1");
        let length = |name: &str, v: f64| {
            require(
                v.is_finite() && v >= 0.0,
                name,
                v,
                "a finite number, not negative",
            )
        };
        let range = |name: &str, [low, high]: [f64; 2]| {
            require(
                low.is_finite() && high.is_finite() && low <= high,
                name,
                low,
                "finite and not above the second number",
            )
        };
        match self {
            CenterShift { .. } | Shuffle => Ok(()),
            Dropout { probability, ratio } => {
                share("dropout.probability", *probability)?;
                share("dropout.ratio", *ratio)
            }
            Rotate {
                angle, probability, ..
            } => {
                range("rotate.angle", *angle)?;
                share("rotate.probability", *probability)
            }
            Scale { range: r, .. } => {
                range("scale.range", *r)?;
                require(r[0] > 0.0, "scale.range", r[0], "above 0")
            }
            Flip { probability } => share("flip.probability", *probability),
            Jitter { sigma, clip } => {
                length("jitter.sigma", *sigma)?;
                length("jitter.clip", *clip)
            }
            Elastic {
                layers,
                probability,
            } => {
                for [granularity, magnitude] in layers {
                    length("elastic.layers", *granularity)?;
                    require(
                        *granularity > 0.0,
                        "elastic.layers",
                        *granularity,
                        "above 0",
                    )?;
                    length("elastic.layers", *magnitude)?;
                }
                share("elastic.probability", *probability)
            }
            AutoContrast { probability, blend } => {
                share("auto_contrast.blend", blend.unwrap_or(0.0))?;
                share("auto_contrast.probability", *probability)
            }
            ColorDrop { probability, value } => {
                length("color_drop.value", *value)?;
                share("color_drop.probability", *probability)
            }
            ChromaticTranslation { probability, ratio } => {
                length("chromatic_translation.ratio", *ratio)?;
                share("chromatic_translation.probability", *probability)
            }
            ChromaticJitter { probability, sigma } => {
                length("chromatic_jitter.sigma", *sigma)?;
                share("chromatic_jitter.probability", *probability)
            }
        }
    }

    /// Draws what happens this time: no step, one, or (elastic) one per layer.
    pub fn sample(&self, random: Random) -> Vec<Step> {
        use Transform::*;
        let mut s = Sequence::new(random);
        // Noise streams are keyed by a counter value that the sequence below never reaches.
        let noise = |layer: u64| random.bits(u64::MAX - layer);
        match *self {
            CenterShift { z } => vec![Step::CenterShift { z }],
            Dropout { probability, ratio } => once(
                s.chance(probability),
                Step::Dropout {
                    ratio,
                    noise: noise(0),
                },
            ),
            Rotate {
                axis,
                angle,
                probability,
            } => {
                let strikes = s.chance(probability);
                let radians = s.between(angle[0], angle[1]) * std::f64::consts::PI;
                once(strikes, Step::Rotate { axis, radians })
            }
            Scale {
                range: [low, high],
                anisotropic,
            } => {
                let one = s.between(low, high);
                let factor = if anisotropic {
                    [one, s.between(low, high), s.between(low, high)]
                } else {
                    [one; 3]
                };
                vec![Step::Scale { factor }]
            }
            Flip { probability } => {
                let (x, y) = (s.chance(probability), s.chance(probability));
                once(x || y, Step::Flip { x, y })
            }
            Jitter { sigma, clip } => vec![Step::Jitter {
                sigma,
                clip,
                noise: noise(0),
            }],
            Elastic {
                ref layers,
                probability,
            } => {
                let strikes = s.chance(probability);
                let layer = |(i, &[granularity, magnitude]): (usize, &[f64; 2])| Step::Elastic {
                    granularity,
                    magnitude,
                    noise: noise(i as u64),
                };
                layers
                    .iter()
                    .enumerate()
                    .filter(|_| strikes)
                    .map(layer)
                    .collect()
            }
            AutoContrast { probability, blend } => {
                let strikes = s.chance(probability);
                let drawn = s.uniform();
                once(
                    strikes,
                    Step::AutoContrast {
                        blend: blend.unwrap_or(drawn),
                    },
                )
            }
            ColorDrop { probability, value } => {
                once(s.chance(probability), Step::ColorDrop { value })
            }
            ChromaticTranslation { probability, ratio } => {
                let strikes = s.chance(probability);
                let shift = std::array::from_fn(|_| s.between(-1.0, 1.0) * 255.0 * ratio);
                once(strikes, Step::ChromaticTranslation { shift })
            }
            ChromaticJitter { probability, sigma } => once(
                s.chance(probability),
                Step::ChromaticJitter {
                    sigma,
                    noise: noise(0),
                },
            ),
            Shuffle => vec![Step::Shuffle { noise: noise(0) }],
        }
    }
}

fn once(strikes: bool, step: Step) -> Vec<Step> {
    if strikes { vec![step] } else { Vec::new() }
}

fn require(holds: bool, name: &str, value: f64, rule: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::config(
        format!("augment.{name}"),
        format!("{value} must be {rule}"),
    ))
}

/// Draws the steps of all `transforms` for one cloud; each transform has its own stream of `random`.
pub fn sample(transforms: &[Transform], random: Random) -> Vec<Step> {
    transforms
        .iter()
        .enumerate()
        .flat_map(|(i, transform)| transform.sample(random.fork(i as u64)))
        .collect()
}

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
                for p in cloud
                    .coord
                    .iter_mut()
                    .chain(cloud.normal.iter_mut().flatten())
                {
                    *p = turned(&turn, *p);
                }
            }
            Step::Scale { factor } => {
                for p in &mut cloud.coord {
                    *p = std::array::from_fn(|a| (f64::from(p[a]) * factor[a]) as f32);
                }
            }
            Step::Flip { x, y } => {
                for p in cloud
                    .coord
                    .iter_mut()
                    .chain(cloud.normal.iter_mut().flatten())
                {
                    *p = [
                        if x { -p[0] } else { p[0] },
                        if y { -p[1] } else { p[1] },
                        p[2],
                    ];
                }
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

#[cfg(test)]
#[path = "augment_tests.rs"]
mod tests;
