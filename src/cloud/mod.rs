//! Point clouds in memory: structure of arrays, ragged batches, voxel sampling, transforms.

pub mod augment;
pub mod batch;
pub mod crop;
pub mod elastic;
pub mod features;
pub mod voxel;

#[cfg(test)]
pub(crate) mod tests;

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

/// Values of one attribute in the type of the file.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are the types they name")]
pub enum Column {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Calls `$body` with `$v` bound to the vector inside a [`Column`], whatever its type.
#[macro_export]
macro_rules! with_column {
    ($column:expr, $v:ident => $body:expr) => {
        match $column {
            $crate::cloud::Column::U8($v) => $body,
            $crate::cloud::Column::I8($v) => $body,
            $crate::cloud::Column::U16($v) => $body,
            $crate::cloud::Column::I16($v) => $body,
            $crate::cloud::Column::U32($v) => $body,
            $crate::cloud::Column::I32($v) => $body,
            $crate::cloud::Column::U64($v) => $body,
            $crate::cloud::Column::I64($v) => $body,
            $crate::cloud::Column::F32($v) => $body,
            $crate::cloud::Column::F64($v) => $body,
        }
    };
}

impl Column {
    /// Number of values.
    pub fn len(&self) -> usize {
        with_column!(self, v => v.len())
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `row` as `f64`; 64-bit integers beyond 2^53 are rounded.
    #[allow(
        clippy::unnecessary_cast,
        reason = "one of the ten types is f64 already"
    )]
    pub fn get(&self, row: usize) -> f64 {
        with_column!(self, v => v[row] as f64)
    }

    /// True for the integer types.
    pub fn is_integer(&self) -> bool {
        !matches!(self, Column::F32(_) | Column::F64(_))
    }

    /// The rows named by `index`, in that order.
    pub fn select(&self, index: &[u32]) -> Column {
        macro_rules! pick {
            ($($t:ident),*) => {
                match self {
                    $(Column::$t(v) => Column::$t(index.iter().map(|&i| v[i as usize]).collect()),)*
                }
            };
        }
        pick!(U8, I8, U16, I16, U32, I32, U64, I64, F32, F64)
    }
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
