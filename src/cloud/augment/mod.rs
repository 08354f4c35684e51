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

mod apply;

pub use apply::{apply, auto_contrast, center_shift, rotation};

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

#[cfg(test)]
mod tests;
