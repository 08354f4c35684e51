//! Test-time augmentation: the views of a scan whose predictions are summed.
//!
//! | name | views |
//! |---|---|
//! | `scale-flip` | scale 0.9, 0.95, 1, 1.05, 1.1, each without and with x and y negated: 10, as the reference does for S3DIS |
//! | `rotate` | 0, 90, 180, 270 degrees about z × scale 1, 0.95, 1.05, and one flip: 13, as it does for ScanNet |

use crate::cloud::augment::{Axis, Step};
use crate::{Error, Result};
use std::f64::consts::FRAC_PI_2;
use std::fmt;
use std::str::FromStr;

/// A list of views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Views {
    /// The scan as it is.
    #[default]
    Plain,
    /// Five scales, each also flipped.
    ScaleFlip,
    /// Four quarter turns at three scales, and a flip.
    Rotate,
}

const NAMES: [(&str, Views); 3] = [
    ("none", Views::Plain),
    ("scale-flip", Views::ScaleFlip),
    ("rotate", Views::Rotate),
];

impl fmt::Display for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = NAMES.iter().find(|(_, v)| v == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

impl FromStr for Views {
    type Err = Error;

    fn from_str(name: &str) -> Result<Views> {
        let found = NAMES.iter().find(|(n, _)| *n == name);
        found.map(|(_, v)| *v).ok_or_else(|| {
            let known = NAMES.map(|(n, _)| n).join(", ");
            Error::argument("views", format!("`{name}` is none of {known}"))
        })
    }
}

impl Views {
    /// What happens to the scan in each view, in the order of the reference.
    pub fn steps(self) -> Vec<Vec<Step>> {
        let scale = |factor: f64| Step::Scale {
            factor: [factor; 3],
        };
        let flip = Step::Flip { x: true, y: true };
        match self {
            Views::Plain => vec![Vec::new()],
            Views::ScaleFlip => [0.9, 0.95, 1.0, 1.05, 1.1]
                .into_iter()
                .flat_map(|s| [vec![scale(s)], vec![scale(s), flip]])
                .collect(),
            Views::Rotate => {
                let turn = |quarters: i32| Step::Rotate {
                    axis: Axis::Z,
                    radians: f64::from(quarters) * FRAC_PI_2,
                };
                [1.0, 0.95, 1.05]
                    .into_iter()
                    .flat_map(|s| (0..4).map(move |q| vec![turn(q), scale(s)]))
                    .chain([vec![flip]])
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn lists_have_the_views_of_the_reference() {
        for (views, count) in [
            (Views::Plain, 1),
            (Views::ScaleFlip, 10),
            (Views::Rotate, 13),
        ] {
            let steps = views.steps();
            let distinct: BTreeSet<String> = steps.iter().map(|s| format!("{s:?}")).collect();
            assert_eq!((steps.len(), distinct.len()), (count, count), "{views}");
            assert_eq!(views.to_string().parse::<Views>().unwrap(), views);
        }
        assert!("flips".parse::<Views>().is_err());
    }
}
