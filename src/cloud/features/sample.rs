//! A scan reduced to what features need, and how each attribute is read.

use super::Feature;
use super::height::height;
use crate::cloud::{PointCloud, is_usable};
use crate::{Error, Result};

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
        Sample::of_rows(cloud, features, &|row| row as u64)
    }

    /// [`Sample::new`] of points that have other numbers in their scan.
    ///
    /// # Errors
    /// As [`Sample::new`].
    pub fn of_rows(
        cloud: &PointCloud,
        features: &[Feature],
        number: &dyn Fn(usize) -> u64,
    ) -> Result<Sample> {
        if let Some(row) = cloud
            .coord
            .iter()
            .position(|p| !p.iter().all(|x| x.is_finite()))
        {
            return Err(Error::argument(
                format!("point {}", number(row)),
                "its coordinates are not finite; remove such points first",
            ));
        }
        let (low, high) = cloud.extent().unwrap_or_default();
        let has_color = features.iter().any(|f| f.name == "color");
        let whole = Whole {
            origin: [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0, low[2]],
            largest_color: has_color.then(|| cloud.largest_color()).flatten(),
            number,
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
    let values = attribute(cloud, name).ok_or_else(|| missing(name, name, cloud))?;
    finite(name, values.iter().copied(), whole)?;
    Ok(values)
}

fn attribute(cloud: &PointCloud, name: &str) -> Option<Vec<f32>> {
    match name {
        "intensity" => cloud.intensity(),
        _ => cloud.find(&[&name.to_ascii_lowercase()]).map(|a| {
            let column = &a.column;
            (0..column.len()).map(|i| column.get(i) as f32).collect()
        }),
    }
}

/// First point with coordinates whose `feature` is read from an attribute and is not finite. Networks cannot take such a
/// scan.
pub fn not_finite(cloud: &PointCloud, feature: &str) -> Option<usize> {
    let values = match feature {
        "coord" | "color" | "height" | "return_ratio" => return None,
        "normal" => cloud.normals()?.iter().map(|n| n.iter().sum()).collect(),
        name => attribute(cloud, name)?,
    };
    let mut points = values.iter().zip(&cloud.coord);
    points.position(|(v, p)| !v.is_finite() && is_usable(p))
}

/// The error of [`not_finite`] points.
pub fn not_finite_error(feature: &str, point: u64) -> Error {
    Error::argument(
        format!("point {point}"),
        format!("its {feature} is not a finite number; remove such points from the scan first"),
    )
}

fn finite(feature: &str, mut values: impl Iterator<Item = f32>, whole: &Whole<'_>) -> Result<()> {
    match values.position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(row) => Err(not_finite_error(feature, (whole.number)(row))),
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
