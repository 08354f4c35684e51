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

use crate::cloud::PointCloud;
use crate::{Error, Result};
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

/// What a part of a scan has to know about the whole.
#[derive(Clone, Copy)]
pub struct Whole<'a> {
    /// Where the sample's coordinates start, metres.
    pub origin: [f64; 3],
    /// [`PointCloud::largest_color`] of the scan; only needed for colours.
    pub largest_color: Option<f64>,
    /// The number in the scan of a point of the part, for messages.
    pub number: &'a dyn Fn(usize) -> u64,
}

/// A cloud on its way into a network: what its features need, as f32.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// \[N\] × 3, metres, relative to `origin`; augmentation moves them.
    pub coord: Vec<[f32; 3]>,
    /// What was subtracted from the scan's coordinates, metres.
    pub origin: [f64; 3],
    /// \[N\] × 3, red, green, blue, 0–255.
    pub color: Option<Vec<[f32; 3]>>,
    /// \[N\] × 3.
    pub normal: Option<Vec<[f32; 3]>>,
    /// One list of \[N\] raw values for every feature that is neither `coord`, `color` nor `normal`, in order.
    pub scalars: Vec<Vec<f32>>,
    /// \[N\] classes, or -1; empty when the scan has no labels.
    pub label: Vec<i32>,
}

impl Sample {
    /// Reads from `cloud` what `features` need. The origin is the middle of the x and y extent and the lowest z, so the
    /// sample's coordinates are exact to better than a tenth of a millimetre up to a kilometre around it.
    ///
    /// # Errors
    /// A coordinate or attribute value that is not finite, or an attribute that the scan does not have.
    pub fn new(cloud: &PointCloud, features: &[Feature]) -> Result<Sample> {
        if let Some(row) = cloud
            .coord
            .iter()
            .position(|p| !p.iter().all(|x| x.is_finite()))
        {
            return Err(Error::argument(
                format!("point {row}"),
                "its coordinates are not finite; remove such points first",
            ));
        }
        let (low, high) = cloud.extent().unwrap_or_default();
        let has_color = features.iter().any(|f| f.name == "color");
        let whole = Whole {
            origin: [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0, low[2]],
            largest_color: has_color.then(|| cloud.largest_color()).flatten(),
            number: &|row| row as u64,
        };
        let mut sample = Sample::part(cloud, features, &whole)?;
        sample.set_heights(features, height);
        Ok(sample)
    }

    /// Reads what `features` need from some points of a scan. Heights are not known yet and left empty, for
    /// [`Sample::set_heights`].
    ///
    /// # Errors
    /// As [`Sample::new`]; coordinates are known to be finite.
    pub fn part(cloud: &PointCloud, features: &[Feature], whole: &Whole<'_>) -> Result<Sample> {
        let origin = whole.origin;
        let mut sample = Sample {
            coord: cloud
                .coord
                .iter()
                .map(|p| std::array::from_fn(|axis| (p[axis] - origin[axis]) as f32))
                .collect(),
            origin,
            ..Sample::default()
        };
        for feature in features {
            feature.check()?;
            match feature.name.as_str() {
                "coord" => {}
                "color" => sample.color = Some(colors(cloud, whole)?),
                "normal" => sample.normal = Some(normals(cloud, whole)?),
                "height" => sample.scalars.push(Vec::new()),
                "return_ratio" => sample.scalars.push(return_ratio(cloud)?),
                name => sample.scalars.push(scalar(cloud, name, whole)?),
            }
        }
        Ok(sample)
    }

    /// Sets the heights that `features` ask for: `of` gives them for all coordinates and the feature's window.
    pub fn set_heights(
        &mut self,
        features: &[Feature],
        of: impl Fn(&[[f32; 3]], Option<f64>) -> Vec<f32>,
    ) {
        let is_scalar = |f: &&Feature| !matches!(f.name.as_str(), "coord" | "color" | "normal");
        for (i, feature) in features.iter().filter(is_scalar).enumerate() {
            if feature.name == "height" {
                self.scalars[i] = of(&self.coord, feature.window);
            }
        }
    }

    /// Appends the points of `other`, made with the same features and origin.
    pub fn append(&mut self, mut other: Sample) {
        if self.is_empty() {
            *self = other;
            return;
        }
        fn join<T>(a: &mut Option<Vec<T>>, b: Option<Vec<T>>) {
            if let (Some(a), Some(mut b)) = (a.as_mut(), b) {
                a.append(&mut b);
            }
        }
        debug_assert_eq!(self.origin, other.origin);
        self.coord.append(&mut other.coord);
        join(&mut self.color, other.color);
        join(&mut self.normal, other.normal);
        for (a, b) in self.scalars.iter_mut().zip(&mut other.scalars) {
            a.append(b);
        }
        self.label.append(&mut other.label);
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.coord.len()
    }

    /// True without points.
    pub fn is_empty(&self) -> bool {
        self.coord.is_empty()
    }

    /// The points of `rows`, in that order.
    pub fn select(&self, rows: &[u32]) -> Sample {
        fn pick<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|r| values[*r as usize]).collect()
        }
        Sample {
            coord: pick(&self.coord, rows),
            origin: self.origin,
            color: self.color.as_ref().map(|v| pick(v, rows)),
            normal: self.normal.as_ref().map(|v| pick(v, rows)),
            scalars: self.scalars.iter().map(|v| pick(v, rows)).collect(),
            label: if self.label.is_empty() {
                Vec::new()
            } else {
                pick(&self.label, rows)
            },
        }
    }
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

fn missing(feature: &str, attribute: &str, cloud: &PointCloud) -> Error {
    let have: Vec<&str> = cloud.attributes.iter().map(|a| a.name.as_str()).collect();
    let have = if have.is_empty() {
        "no attributes at all".to_string()
    } else {
        format!("only {}", have.join(", "))
    };
    Error::argument(
        format!("feature {feature}"),
        format!(
            "the network reads it, but the scan has no attribute {attribute} ({have}); use weights trained without \
             this feature, or add the attribute to the scan"
        ),
    )
}

/// Attribute `name` as f32.
fn scalar(cloud: &PointCloud, name: &str, whole: &Whole<'_>) -> Result<Vec<f32>> {
    let values = match name {
        "intensity" => cloud.intensity(),
        _ => cloud.find(&[&name.to_ascii_lowercase()]).map(|a| {
            let column = &a.column;
            (0..column.len()).map(|i| column.get(i) as f32).collect()
        }),
    };
    let values = values.ok_or_else(|| missing(name, name, cloud))?;
    finite(name, values.iter().copied(), whole)?;
    Ok(values)
}

fn finite(feature: &str, mut values: impl Iterator<Item = f32>, whole: &Whole<'_>) -> Result<()> {
    match values.position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(row) => Err(Error::NotFinite {
            what: format!("feature {feature}"),
            fault: format!(
                "of point {}; remove such points from the scan first",
                (whole.number)(row)
            ),
        }),
    }
}

fn normals(cloud: &PointCloud, whole: &Whole<'_>) -> Result<Vec<[f32; 3]>> {
    let normals = cloud
        .normals()
        .ok_or_else(|| missing("normal", "nx, ny, nz", cloud))?;
    finite("normal", normals.iter().map(|n| n.iter().sum()), whole)?;
    Ok(normals)
}

/// Colours 0–255.
fn colors(cloud: &PointCloud, whole: &Whole<'_>) -> Result<Vec<[f32; 3]>> {
    let colors = (whole.largest_color)
        .and_then(|largest| cloud.colors_up_to(largest))
        .ok_or_else(|| missing("color", "red, green, blue with a colour in it", cloud))?;
    Ok(colors.into_iter().map(|c| c.map(|v| v * 255.0)).collect())
}

fn return_ratio(cloud: &PointCloud) -> Result<Vec<f32>> {
    let of = |name: &str, column: Option<Vec<f32>>| {
        column.ok_or_else(|| missing("return_ratio", name, cloud))
    };
    let number = of("return_number", cloud.return_number())?;
    let count = of("number_of_returns", cloud.number_of_returns())?;
    // Files with 0 of 0 returns exist; they count as single returns.
    Ok(number
        .iter()
        .zip(&count)
        .map(|(n, c)| if *c > 0.0 { n / c } else { 1.0 })
        .collect())
}

/// Metres above the lowest point of the cloud, or of the square of half-edge `window` around each point.
fn height(coord: &[[f32; 3]], window: Option<f64>) -> Vec<f32> {
    let Some(window) = window else {
        let lowest = coord.iter().fold(f32::INFINITY, |a, p| a.min(p[2]));
        return coord.iter().map(|p| p[2] - lowest).collect();
    };
    let mut floors = Floors::new(window);
    coord.iter().for_each(|p| floors.see(*p));
    floors.settle();
    floors.heights(coord)
}

/// The lowest point around any place: in the square of half-edge `window` around it, to the precision of a grid of a fifth
/// of the window.
#[derive(Debug, Clone)]
pub struct Floors {
    edge: f64,
    /// A sparse grid: memory follows the occupied cells, not the extent.
    cells: Floor,
    /// The cell of the last point, which is most often that of the next one too.
    last: Option<((i64, i64), f32)>,
}

impl Floors {
    /// Steps of the grid in half the square's edge.
    const STEPS: i64 = 5;

    /// Nothing seen yet; `window` in metres.
    pub fn new(window: f64) -> Floors {
        Floors {
            edge: window / Floors::STEPS as f64,
            cells: Floor::new(),
            last: None,
        }
    }

    /// How far away a point can be and still count, metres.
    pub fn reach(window: f64) -> f64 {
        window * (1.0 + 1.0 / Floors::STEPS as f64)
    }

    fn cell(&self, p: [f32; 3]) -> (i64, i64) {
        (
            (f64::from(p[0]) / self.edge).floor() as i64,
            (f64::from(p[1]) / self.edge).floor() as i64,
        )
    }

    /// Takes a point, metres.
    pub fn see(&mut self, p: [f32; 3]) {
        let cell = self.cell(p);
        match &mut self.last {
            Some((last, low)) if *last == cell => *low = p[2].min(*low),
            _ => {
                self.put_last();
                self.last = Some((cell, p[2]));
            }
        }
    }

    fn put_last(&mut self) {
        if let Some((cell, z)) = self.last.take() {
            let low = self.cells.entry(cell).or_insert(f32::INFINITY);
            *low = z.min(*low);
        }
    }

    /// Spreads what was seen over the squares; to be called once, after the last point.
    pub fn settle(&mut self) {
        self.put_last();
        // The minimum over a square is the minimum over y of the minimum over x.
        let along_x = spread(&self.cells, Floors::STEPS, |(x, y), d| (x + d, y));
        self.cells = spread(&along_x, Floors::STEPS, |(x, y), d| (x, y + d));
    }

    /// Metres of each point above the lowest one around it.
    pub fn heights(&self, coord: &[[f32; 3]]) -> Vec<f32> {
        let mut last = None;
        let mut low = |p: &[f32; 3]| {
            let cell = self.cell(*p);
            let found = match last {
                Some((same, low)) if same == cell => low,
                _ => self.cells.get(&cell).copied(),
            };
            last = Some((cell, found));
            found.unwrap_or(p[2])
        };
        coord.iter().map(|p| p[2] - low(p)).collect()
    }
}

type Floor = std::collections::BTreeMap<(i64, i64), f32>;

/// Every cell within `steps` of an occupied one along one axis, with the lowest value it can see.
fn spread(floor: &Floor, steps: i64, shift: impl Fn((i64, i64), i64) -> (i64, i64)) -> Floor {
    let mut out = Floor::new();
    for (cell, z) in floor {
        for d in -steps..=steps {
            let low = out.entry(shift(*cell, d)).or_insert(f32::INFINITY);
            *low = z.min(*low);
        }
    }
    out
}

#[cfg(test)]
#[path = "features_tests.rs"]
mod tests;
