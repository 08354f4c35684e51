//! From a scan to the network's input: which columns make a feature row, and the rows themselves.
//!
//! A [`Sample`] is a scan reduced to what a list of [`Feature`]s asks for, with coordinates shifted in f64 and then kept
//! in f32. Augmentation, voxel sampling and cropping work on samples; [`matrix`] writes the rows.
//!
//! | name | channels | raw value |
//! |---|---|---|
//! | `coord` | 3 | position in the network's frame, metres |
//! | `color` | 3 | red, green, blue, 0–255 |
//! | `normal` | 3 | unit normal |
//! | `height` | 1 | metres above the lowest point of the cloud, or of the neighbourhood (`window`) |
//! | `return_ratio` | 1 | return number / number of returns |
//! | any attribute, such as `intensity` | 1 | as stored |
//!
//! feature = min(raw / divisor + offset, max). The reference's inputs are `coord`, `color` (/255; the original
//! repository: /127.5 − 1) and `normal`.
//! Errors: an attribute that the scan does not have, or that holds values that are not finite; the message says which.

mod height;
mod sample;

use crate::{Error, Result};
pub use height::Floors;
pub use sample::{Sample, Whole, not_finite, not_finite_error};
use serde::{Deserialize, Serialize};

/// One entry of a network's feature list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Detailed")]
pub struct Feature {
    /// What is read: `coord`, `color`, `normal`, `height`, `return_ratio` or the name of an attribute.
    pub name: String,
    /// The raw value is divided by this.
    pub divisor: f32,
    /// Added after the division.
    pub offset: f32,
    /// Upper limit of the result, if any.
    pub max: Option<f32>,
    /// Only for `height`: half the edge, in metres, of the horizontal square in which the lowest point is searched; without
    /// it, height is measured from the lowest point of the whole cloud.
    pub window: Option<f64>,
}

/// A feature as written in a file: a bare name or a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    Detailed(Detailed),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detailed {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    divisor: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<f64>,
}

impl From<Written> for Feature {
    fn from(written: Written) -> Self {
        let d = match written {
            Written::Name(name) => return Feature::new(&name),
            Written::Detailed(d) => d,
        };
        let plain = Feature::new(&d.name);
        Feature {
            divisor: d.divisor.unwrap_or(plain.divisor),
            offset: d.offset.unwrap_or(0.0),
            max: d.max,
            window: d.window,
            ..plain
        }
    }
}

impl From<Feature> for Detailed {
    fn from(f: Feature) -> Self {
        Detailed {
            name: f.name,
            divisor: Some(f.divisor),
            offset: (f.offset != 0.0).then_some(f.offset),
            max: f.max,
            window: f.window,
        }
    }
}

impl Feature {
    /// A feature in its usual scale: colours are divided by 255, everything else is taken as it is.
    pub fn new(name: &str) -> Feature {
        Feature {
            name: name.to_string(),
            divisor: if name == "color" { 255.0 } else { 1.0 },
            offset: 0.0,
            max: None,
            window: None,
        }
    }

    /// Number of values that it adds to a feature row.
    pub fn channels(&self) -> usize {
        match self.name.as_str() {
            "coord" | "color" | "normal" => 3,
            _ => 1,
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// A divisor of 0, values that are not finite, a window that is not positive or not of `height`.
    pub fn check(&self) -> Result<()> {
        let key = || format!("feature {}", self.name);
        if !(self.divisor.is_finite() && self.divisor != 0.0 && self.offset.is_finite()) {
            return Err(Error::config(
                key(),
                format!(
                    "divisor {} and offset {} must be finite, the divisor not 0",
                    self.divisor, self.offset
                ),
            ));
        }
        if self.max.is_some_and(|m| !m.is_finite()) {
            return Err(Error::config(key(), "max must be finite"));
        }
        match self.window {
            Some(_) if self.name != "height" => {
                Err(Error::config(key(), "only height has a window"))
            }
            Some(w) if !(w.is_finite() && w > 0.0) => Err(Error::config(
                key(),
                format!("window {w} is not a positive number of metres"),
            )),
            _ => Ok(()),
        }
    }

    fn scaled(&self, raw: f32) -> f32 {
        let value = raw / self.divisor + self.offset;
        self.max.map_or(value, |m| value.min(m))
    }
}

/// Width of a feature row.
pub fn channels(features: &[Feature]) -> usize {
    features.iter().map(Feature::channels).sum()
}

/// The feature rows of `sample`: [N, C] row-major. `features` is the list that the sample was made with.
///
/// # Panics
/// If it is another list.
pub fn matrix(sample: &Sample, features: &[Feature]) -> Vec<f32> {
    let width = channels(features);
    let mut feat = vec![0.0; sample.len() * width];
    let (mut column, mut scalar) = (0, 0);
    for feature in features {
        let triples = match feature.name.as_str() {
            "coord" => Some(&sample.coord),
            "color" => sample.color.as_ref(),
            "normal" => sample.normal.as_ref(),
            _ => None,
        };
        let rows = feat.chunks_exact_mut(width);
        match triples {
            Some(values) => {
                for (row, value) in rows.zip(values) {
                    for axis in 0..3 {
                        row[column + axis] = feature.scaled(value[axis]);
                    }
                }
            }
            None => {
                for (row, value) in rows.zip(&sample.scalars[scalar]) {
                    row[column] = feature.scaled(*value);
                }
                scalar += 1;
            }
        }
        column += feature.channels();
    }
    feat
}

#[cfg(test)]
mod tests;
