//! What the fields of a cloud mean: names, types, positions.

use e57::{RecordDataType, RecordName, RecordValue};

use crate::cloud::{Attribute, Column, Kind, PointCloud};

/// Bytes in memory for a byte of the file, at most. Three bits, the least that can be coordinates, become 24 bytes.
const MOST_MEMORY: u64 = 128;

/// Name of a field as an attribute.
pub fn name_of(name: &RecordName) -> String {
    match name {
        RecordName::CartesianX => "x",
        RecordName::CartesianY => "y",
        RecordName::CartesianZ => "z",
        RecordName::CartesianInvalidState => "cartesian_invalid_state",
        RecordName::SphericalRange => "range",
        RecordName::SphericalAzimuth => "azimuth",
        RecordName::SphericalElevation => "elevation",
        RecordName::SphericalInvalidState => "spherical_invalid_state",
        RecordName::Intensity => "intensity",
        RecordName::IsIntensityInvalid => "is_intensity_invalid",
        RecordName::ColorRed => "red",
        RecordName::ColorGreen => "green",
        RecordName::ColorBlue => "blue",
        RecordName::IsColorInvalid => "is_color_invalid",
        RecordName::RowIndex => "row_index",
        RecordName::ColumnIndex => "column_index",
        RecordName::ReturnCount => "number_of_returns",
        RecordName::ReturnIndex => "return_index",
        RecordName::TimeStamp => "time_stamp",
        RecordName::IsTimeStampInvalid => "is_time_stamp_invalid",
        RecordName::Unknown { name, .. } => name,
    }
    .into()
}

/// The narrowest type that holds a field.
fn kind_of(field: &RecordDataType) -> Kind {
    match *field {
        RecordDataType::Single { .. } => Kind::F32,
        RecordDataType::Double { .. } | RecordDataType::ScaledInteger { .. } => Kind::F64,
        RecordDataType::Integer { min, max } => {
            let holds = |low: i64, high: i64| low <= min && max <= high;
            match () {
                _ if holds(0, u8::MAX.into()) => Kind::U8,
                _ if holds(0, u16::MAX.into()) => Kind::U16,
                _ if holds(i32::MIN.into(), i32::MAX.into()) => Kind::I32,
                _ => Kind::I64,
            }
        }
    }
}

/// Bits that a stored value takes.
pub fn bits(field: &RecordDataType) -> u64 {
    match *field {
        RecordDataType::Single { .. } => 32,
        RecordDataType::Double { .. } => 64,
        RecordDataType::ScaledInteger { min, max, .. } | RecordDataType::Integer { min, max } => {
            let range = (i128::from(max) - i128::from(min)).max(0);
            u64::from(128 - range.leading_zeros())
        }
    }
}

pub fn value_of(value: &RecordValue, field: &RecordDataType) -> f64 {
    match (value, field) {
        (RecordValue::Single(x), _) => f64::from(*x),
        (RecordValue::Double(x), _) => *x,
        (RecordValue::ScaledInteger(n), RecordDataType::ScaledInteger { scale, offset, .. }) => {
            *n as f64 * scale + offset
        }
        (RecordValue::ScaledInteger(n) | RecordValue::Integer(n), _) => *n as f64,
    }
}

/// Where the values of one cloud go.
pub struct Fields {
    pub cloud: e57::PointCloud,
    /// Fields of the coordinates, and whether they are spherical.
    axes: [usize; 3],
    is_spherical: bool,
    invalid: Option<usize>,
    /// For each field the attribute that takes it.
    pub attribute: Vec<Option<usize>>,
}

impl Fields {
    /// Finds the coordinates.
    pub fn new(cloud: e57::PointCloud) -> std::result::Result<Fields, String> {
        let find = |name: RecordName| cloud.prototype.iter().position(|r| r.name == name);
        let three = |names: [RecordName; 3]| -> Option<[usize; 3]> {
            let [a, b, c] = names.map(find);
            Some([a?, b?, c?])
        };
        let cartesian = three([
            RecordName::CartesianX,
            RecordName::CartesianY,
            RecordName::CartesianZ,
        ]);
        let spherical = three([
            RecordName::SphericalRange,
            RecordName::SphericalAzimuth,
            RecordName::SphericalElevation,
        ]);
        let is_spherical = cartesian.is_none();
        let axes = cartesian
            .or(spherical)
            .ok_or("no cartesian and no spherical coordinates")?;
        let invalid = find(match is_spherical {
            true => RecordName::SphericalInvalidState,
            false => RecordName::CartesianInvalidState,
        });
        let attribute = vec![None; cloud.prototype.len()];
        Ok(Fields {
            cloud,
            axes,
            is_spherical,
            invalid,
            attribute,
        })
    }

    /// Compares what is promised with the size of the file.
    pub fn check(&self, size: u64) -> std::result::Result<(), String> {
        let each: u64 = self
            .cloud
            .prototype
            .iter()
            .map(|r| bits(&r.data_type))
            .sum();
        let points = self.cloud.records;
        if points > 0 && each == 0 {
            return Err(format!(
                "{points} points promised whose fields take no bits"
            ));
        }
        match points.checked_mul(each).map(|bits| bits / 8) {
            Some(bytes) if bytes <= size => Ok(()),
            _ => Err(format!(
                "{points} points of {each} bits promised, but the file has {size} bytes; it is cut short"
            )),
        }
    }

    fn is_attribute(&self, field: usize) -> bool {
        !self.axes.contains(&field) && Some(field) != self.invalid
    }

    /// The position of a point in the frame of the whole scan.
    pub fn position(&self, values: &[RecordValue]) -> [f64; 3] {
        let value = |i: usize| value_of(&values[i], &self.cloud.prototype[i].data_type);
        if self.invalid.is_some_and(|i| value(i) != 0.0) {
            return [f64::NAN; 3];
        }
        let [a, b, c] = self.axes.map(value);
        let p = match self.is_spherical {
            true => [a * c.cos() * b.cos(), a * c.cos() * b.sin(), a * c.sin()],
            false => [a, b, c],
        };
        match &self.cloud.transform {
            Some(pose) => moved(p, pose),
            None => p,
        }
    }
}

/// Refuses points that would take far more memory than their file has bytes: fields that take no bits, and fields of other
/// clouds, cost nothing there.
pub fn check_memory(
    schema: &PointCloud,
    points: u64,
    size: u64,
) -> std::result::Result<(), String> {
    let attributes = schema.attributes.iter();
    let each = attributes.fold(24, |sum, a| sum + a.column.kind().size() as u64);
    match points.checked_mul(each) {
        Some(bytes) if bytes <= size.saturating_mul(MOST_MEMORY) => Ok(()),
        _ => Err(format!(
            "{points} points with {} attributes in a file of {size} bytes: no scanner writes such files",
            schema.attributes.len()
        )),
    }
}

/// A point rotated by a quaternion (of any length but 0) and shifted.
fn moved(p: [f64; 3], pose: &e57::Transform) -> [f64; 3] {
    let q = &pose.rotation;
    let length = (q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z).sqrt();
    let [w, x, y, z] = match length > 0.0 {
        true => [q.w, q.x, q.y, q.z].map(|v| v / length),
        false => [1.0, 0.0, 0.0, 0.0],
    };
    let rotation = [
        [
            1.0 - 2.0 * (y * y + z * z),
            2.0 * (x * y - z * w),
            2.0 * (x * z + y * w),
        ],
        [
            2.0 * (x * y + z * w),
            1.0 - 2.0 * (x * x + z * z),
            2.0 * (y * z - x * w),
        ],
        [
            2.0 * (x * z - y * w),
            2.0 * (y * z + x * w),
            1.0 - 2.0 * (x * x + y * y),
        ],
    ];
    let t = &pose.translation;
    let shift = [t.x, t.y, t.z];
    std::array::from_fn(|i| (0..3).map(|j| rotation[i][j] * p[j]).sum::<f64>() + shift[i])
}

/// The attributes of all clouds together; tells each field its attribute.
pub fn union(clouds: &mut [Fields]) -> PointCloud {
    let mut found: Vec<(String, Kind, usize)> = Vec::new();
    for cloud in clouds.iter_mut() {
        let mut mine: Vec<usize> = Vec::new();
        for i in 0..cloud.cloud.prototype.len() {
            if !cloud.is_attribute(i) {
                continue;
            }
            let field = &cloud.cloud.prototype[i];
            let (name, kind) = (name_of(&field.name), kind_of(&field.data_type));
            // Two name spaces may use one name within a cloud.
            let same =
                |(at, f): &(usize, &(String, Kind, usize))| f.0 == name && !mine.contains(at);
            let at = match found.iter().enumerate().find(same) {
                Some((at, _)) => at,
                None => {
                    found.push((name, kind, 0));
                    found.len() - 1
                }
            };
            if found[at].1 != kind {
                found[at].1 = Kind::F64;
            }
            found[at].2 += 1;
            mine.push(at);
            cloud.attribute[i] = Some(at);
        }
    }
    let attributes = found.into_iter().map(|(name, kind, in_clouds)| Attribute {
        name,
        // A value that a cloud lacks is NaN.
        column: Column::new(if in_clouds < clouds.len() {
            Kind::F64
        } else {
            kind
        }),
    });
    PointCloud {
        coord: Vec::new(),
        attributes: attributes.collect(),
    }
}
