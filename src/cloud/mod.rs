//! Point clouds in memory: structure of arrays, ragged batches, voxel sampling, transforms.
//!
//! A [`PointCloud`] holds `f64` positions and any number of named [`Column`]s in the types of the file they came from.
//! [`PointCloud::colors`] and its siblings find what networks ask for under the names that scanners give it.

pub mod augment;
pub mod batch;
mod column;
pub mod crop;
pub mod elastic;
pub mod features;
pub mod frame;
pub mod keys;
mod lookup;
pub mod voxel;

#[cfg(test)]
pub(crate) mod tests;

pub use column::{Column, Endian, Kind};
pub use lookup::{CLASS, ClassColumn};

use crate::{Error, Result};

/// A cloud of points with any number of named attributes, as one structure of arrays.
///
/// Coordinates are metres in the scan's own frame and stay `f64`: map coordinates lose millimetres in `f32`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PointCloud {
    /// Positions, metres.
    pub coord: Vec<[f64; 3]>,
    /// Per-point attributes; each column is as long as `coord`.
    pub attributes: Vec<Attribute>,
}

/// One named per-point attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// Conventional names are lower case: `red`, `green`, `blue`, `intensity`, `nx`, `ny`, `nz`, `return_number`,
    /// `number_of_returns`, `classification`, `label`; others are as in the file.
    pub name: String,
    /// The values as the file stores them.
    pub column: Column,
}

/// Largest coordinate that is taken for real, metres: 10^12 holds any map frame and earth-centred millimetres, and
/// its voxel numbers fit 64 bits at any cell size over a tenth of a micrometre.
pub const COORDINATE_LIMIT: f64 = 1e12;

/// True when a position is finite and at most [`COORDINATE_LIMIT`] in size.
pub fn is_usable(coord: &[f64; 3]) -> bool {
    coord.iter().all(|x| x.abs() <= COORDINATE_LIMIT)
}

impl PointCloud {
    /// Number of points.
    pub fn len(&self) -> usize {
        self.coord.len()
    }

    /// True when there is no point.
    pub fn is_empty(&self) -> bool {
        self.coord.is_empty()
    }

    /// The attribute called `name`, if there is one.
    pub fn attribute(&self, name: &str) -> Option<&Column> {
        self.attributes
            .iter()
            .find(|a| a.name == name)
            .map(|a| &a.column)
    }

    /// Sets or replaces an attribute. Errors when its length is not the number of points.
    pub fn set_attribute(&mut self, name: &str, column: Column) -> Result<()> {
        if column.len() != self.len() {
            return Err(Error::argument(
                format!("attribute {name}"),
                format!("{} values for {} points", column.len(), self.len()),
            ));
        }
        match self.attributes.iter_mut().find(|a| a.name == name) {
            Some(a) => a.column = column,
            None => self.attributes.push(Attribute {
                name: name.to_string(),
                column,
            }),
        }
        Ok(())
    }

    /// The points named by `index`, in that order, with all their attributes.
    pub fn select(&self, index: &[u32]) -> PointCloud {
        PointCloud {
            coord: index.iter().map(|&i| self.coord[i as usize]).collect(),
            attributes: self
                .attributes
                .iter()
                .map(|a| Attribute {
                    name: a.name.clone(),
                    column: a.column.select(index),
                })
                .collect(),
        }
    }

    /// Appends the points of `other`, which must have the same attributes in the same order.
    pub fn append(&mut self, other: &PointCloud) -> Result<()> {
        let same = self.attributes.len() == other.attributes.len()
            && (self.attributes.iter())
                .zip(&other.attributes)
                .all(|(a, b)| a.name == b.name && a.column.kind() == b.column.kind());
        if !same {
            let names = |c: &PointCloud| -> Vec<String> {
                (c.attributes.iter())
                    .map(|a| format!("{} {:?}", a.name, a.column.kind()))
                    .collect()
            };
            return Err(Error::argument(
                "attributes of the clouds to join",
                format!("{:?} and {:?} differ", names(self), names(other)),
            ));
        }
        self.coord.extend_from_slice(&other.coord);
        for (a, b) in self.attributes.iter_mut().zip(&other.attributes) {
            assert!(a.column.append(&b.column), "kinds were compared above");
        }
        Ok(())
    }

    /// Rows whose coordinates can be used: finite, and at most [`COORDINATE_LIMIT`] in size. Scans mark missing
    /// returns with NaN, and damaged files hold absurd numbers; neither may reach a neighbour search.
    pub fn usable_rows(&self) -> Vec<u32> {
        (0..self.len() as u32)
            .filter(|&i| is_usable(&self.coord[i as usize]))
            .collect()
    }

    /// Smallest and largest coordinate per axis over the points with finite coordinates; `None` without any.
    pub fn extent(&self) -> Option<([f64; 3], [f64; 3])> {
        let mut finite = self
            .coord
            .iter()
            .filter(|p| p.iter().all(|x| x.is_finite()))
            .peekable();
        finite.peek()?;
        Some(finite.fold(
            ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]),
            |(low, high), p| {
                (
                    std::array::from_fn(|i| low[i].min(p[i])),
                    std::array::from_fn(|i| high[i].max(p[i])),
                )
            },
        ))
    }
}

#[cfg(test)]
mod point_cloud_tests {
    use super::*;

    fn cloud() -> PointCloud {
        PointCloud {
            coord: vec![[0.0; 3], [f64::NAN, 0.0, 0.0], [1e13, 0.0, 0.0], [3.0; 3]],
            attributes: vec![Attribute {
                name: "label".into(),
                column: Column::U8(vec![1, 2, 3, 4]),
            }],
        }
    }

    #[test]
    fn missing_and_absurd_points_are_not_usable() {
        assert_eq!(cloud().usable_rows(), [0, 3]);
    }

    #[test]
    fn appending_doubles_every_column() {
        let mut a = cloud();
        a.append(&cloud()).unwrap();
        assert_eq!((a.len(), a.attributes[0].column.len()), (8, 8));
    }

    #[test]
    fn clouds_with_other_attributes_do_not_join() {
        let mut a = cloud();
        let mut b = cloud();
        b.attributes[0].column = Column::F32(vec![0.0; 4]);
        let fault = a.append(&b).unwrap_err().to_string();
        assert!(
            fault.contains("label U8") && fault.contains("label F32"),
            "{fault}"
        );
        assert_eq!(a.len(), 4);
    }
}
