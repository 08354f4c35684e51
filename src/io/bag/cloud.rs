//! `sensor_msgs/PointCloud2` as ROS 2 (CDR) and ROS 1 put it into bytes.
//!
//! | field | type |
//! |---|---|
//! | header | ROS 1: sequence u32; stamp 2 × u32; frame, a string |
//! | height, width | u32 each |
//! | fields | list of: name, a string; offset u32; type u8, 1 to 8; count u32 |
//! | is_bigendian | u8 |
//! | point_step, row_step | u32 each, bytes |
//! | data | list of u8: rows of points |
//! | is_dense | u8 |
//!
//! CDR puts four bytes in front (byte order), aligns numbers to their size and ends strings with a zero; ROS 1 is
//! little-endian and does neither. Lists and strings start with their length, u32.

use crate::cloud::{Attribute, Column, Endian, Kind, PointCloud};
use crate::io::labels::{LABEL, LabelNames};

type Parsed<T> = std::result::Result<T, String>;

/// Ways to put a message into bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Cdr,
    Ros1,
}

/// One field of the points.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub offset: u32,
    pub datatype: u8,
    pub count: u32,
}

/// A cloud of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    encoding: Encoding,
    /// Byte order of the message, not of the points.
    endian: Endian,
    /// Everything before the height: byte order, header.
    head: Vec<u8>,
    height: u32,
    width: u32,
    pub fields: Vec<Field>,
    is_bigendian: bool,
    point_step: u32,
    /// The points without the padding of rows.
    data: Vec<u8>,
    is_dense: u8,
}

fn kind_of(datatype: u8) -> Option<Kind> {
    Some(match datatype {
        1 => Kind::I8,
        2 => Kind::U8,
        3 => Kind::I16,
        4 => Kind::U16,
        5 => Kind::I32,
        6 => Kind::U32,
        7 => Kind::F32,
        8 => Kind::F64,
        _ => return None,
    })
}

/// Numbers of a point, at most, all fields together.
const MOST_COLUMNS: u64 = 10_000;
/// How many fields a byte of a point may belong to, on average.
const SHARED: u64 = 4;

const INT32: u8 = 5;
const FLOAT32: u8 = 7;

/// A position in the bytes of a message.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
    endian: Endian,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, what: &str) -> Parsed<&'a [u8]> {
        let end = self
            .at
            .checked_add(count)
            .filter(|e| *e <= self.bytes.len());
        let end = end.ok_or_else(|| {
            let there = self.bytes.len() - self.at;
            format!(
                "byte {}: {what}: {count} bytes promised, {there} there",
                self.at
            )
        })?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self, what: &str) -> Parsed<u8> {
        Ok(self.take(1, what)?[0])
    }

    fn number(&mut self, what: &str) -> Parsed<u32> {
        if self.encoding == Encoding::Cdr {
            // Counted from behind the four bytes in front, which are a multiple of four themselves.
            self.take(self.at.next_multiple_of(4) - self.at, what)?;
        }
        let bytes = self
            .take(4, what)?
            .try_into()
            .expect("four bytes were taken");
        Ok(match self.endian {
            Endian::Little => u32::from_le_bytes(bytes),
            Endian::Big => u32::from_be_bytes(bytes),
        })
    }

    fn text(&mut self, what: &str) -> Parsed<String> {
        let length = self.number(what)? as usize;
        let bytes = self.take(length, what)?;
        let bytes = match self.encoding {
            Encoding::Cdr => bytes.strip_suffix(&[0]).unwrap_or(bytes),
            Encoding::Ros1 => bytes,
        };
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

impl Message {
    /// Reads a message.
    pub fn read(bytes: &[u8], encoding: Encoding) -> Parsed<Message> {
        let mut cursor = Cursor {
            bytes,
            at: 0,
            encoding,
            endian: Endian::Little,
        };
        match encoding {
            Encoding::Cdr => match cursor.take(4, "byte order")? {
                [0, 0, ..] => cursor.endian = Endian::Big,
                [0, 1, ..] => {}
                other => return Err(format!("byte 0: {other:?} is no plain CDR")),
            },
            Encoding::Ros1 => {
                cursor.number("sequence")?;
            }
        }
        cursor.number("stamp")?;
        cursor.number("stamp")?;
        cursor.text("frame")?;
        // The height is aligned; what is between belongs to it.
        let head = bytes[..cursor.at].to_vec();
        let height = cursor.number("height")?;
        let width = cursor.number("width")?;
        let count = cursor.number("number of fields")?;
        let mut fields = Vec::new();
        for i in 0..count {
            fields.push(Field {
                name: cursor.text("name of a field")?,
                offset: cursor.number("offset of a field")?,
                datatype: cursor.byte("type of a field")?,
                count: cursor.number("count of a field")?,
            });
            if i >= 1000 {
                return Err(format!("{count} fields"));
            }
        }
        let is_bigendian = cursor.byte("byte order")? != 0;
        let point_step = cursor.number("point_step")?;
        let row_step = cursor.number("row_step")?;
        let length = cursor.number("length of the data")? as usize;
        let data = cursor.take(length, "data")?;
        let is_dense = cursor.byte("is_dense")?;
        let data = rows(data, [height, width], [point_step, row_step])?;
        let message = Message {
            encoding,
            endian: cursor.endian,
            head,
            height,
            width,
            fields,
            is_bigendian,
            point_step,
            data,
            is_dense,
        };
        message.fields.iter().try_for_each(|f| message.check(f))?;
        message.check_columns()?;
        Ok(message)
    }

    /// Fields may share bytes, but not so that a message turns into far more numbers than it has bytes.
    fn check_columns(&self) -> Parsed<()> {
        let columns = self.fields.iter().map(|f| u64::from(f.count.max(1)));
        let bytes = self.fields.iter().map(|f| {
            let size = kind_of(f.datatype).map_or(0, Kind::size) as u64;
            size * u64::from(f.count.max(1))
        });
        let (columns, bytes) = (columns.sum::<u64>(), bytes.sum::<u64>());
        match columns <= MOST_COLUMNS && bytes <= SHARED * u64::from(self.point_step).max(1) {
            true => Ok(()),
            false => Err(format!(
                "fields of {columns} numbers with {bytes} bytes in points of {} bytes",
                self.point_step
            )),
        }
    }

    /// A field must lie inside a point.
    fn check(&self, field: &Field) -> Parsed<()> {
        let size = kind_of(field.datatype).map(Kind::size).ok_or_else(|| {
            format!(
                "field `{}`: type {}; 1 to 8 exist",
                field.name, field.datatype
            )
        })?;
        let end = u64::from(field.offset) + size as u64 * u64::from(field.count.max(1));
        match end <= u64::from(self.point_step) {
            true => Ok(()),
            false => Err(format!(
                "field `{}` ends at byte {end} of points of {} bytes",
                field.name, self.point_step
            )),
        }
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.data.len() / (self.point_step as usize).max(1)
    }

    /// The points with all their fields.
    pub fn cloud(&self) -> Parsed<PointCloud> {
        let endian = match self.is_bigendian {
            true => Endian::Big,
            false => Endian::Little,
        };
        let column = |field: &Field, part: u32| {
            let kind = kind_of(field.datatype).expect("types were checked on reading");
            let mut column = Column::new(kind);
            let at = field.offset as usize + part as usize * kind.size();
            let step = (self.point_step as usize).max(1);
            column.extend_strided(&self.data, at, step, endian);
            column
        };
        let mut axes = Vec::new();
        for name in ["x", "y", "z"] {
            let field = self.fields.iter().find(|f| f.name == name && f.count <= 1);
            let field = field.ok_or_else(|| {
                let names: Vec<&str> = self.fields.iter().map(|f| f.name.as_str()).collect();
                format!(
                    "no field `{name}` of one number, only: {}",
                    names.join(", ")
                )
            })?;
            axes.push(column(field, 0));
        }
        let others = self
            .fields
            .iter()
            .filter(|f| !["x", "y", "z"].contains(&f.name.as_str()));
        let attributes = others.flat_map(|field| {
            let parts = field.count.max(1);
            (0..parts).map(move |part| Attribute {
                name: match parts {
                    1 => field.name.clone(),
                    _ => format!("{}_{part}", field.name),
                },
                column: column(field, part),
            })
        });
        Ok(PointCloud {
            coord: (0..self.len())
                .map(|row| std::array::from_fn(|a| axes[a].get(row)))
                .collect(),
            attributes: attributes.collect(),
        })
    }

    /// Adds the fields `label` (i32) and `confidence` (f32), or fills those that an earlier run added. Labels and
    /// confidences that are the scan's own stay under other names, as [`LabelNames`] says.
    pub fn label(&mut self, codes: &[i32], confidences: &[f32]) {
        let empty = |field: &Field| Attribute {
            name: field.name.clone(),
            column: Column::new(kind_of(field.datatype).expect("types were checked on reading")),
        };
        let schema = PointCloud {
            attributes: self.fields.iter().map(empty).collect(),
            ..PointCloud::default()
        };
        let names = LabelNames::new(&schema, true);
        for field in &mut self.fields {
            field.name = names.written(&field.name).to_string();
        }
        let label = self.place(LABEL, INT32);
        let confidence = self.place(names.confidence, FLOAT32);
        let big = self.is_bigendian;
        let points = self
            .data
            .chunks_exact_mut((self.point_step as usize).max(1));
        for ((point, code), value) in points.zip(codes).zip(confidences) {
            let bytes = [
                (label, code.to_le_bytes(), code.to_be_bytes()),
                (confidence, value.to_le_bytes(), value.to_be_bytes()),
            ];
            for (at, little, big_endian) in bytes {
                point[at..at + 4].copy_from_slice(if big { &big_endian } else { &little });
            }
        }
    }

    /// Offset of a field of four bytes; points grow when there is none of this type.
    fn place(&mut self, name: &str, datatype: u8) -> usize {
        let is_mine = |f: &&Field| f.name == name && f.datatype == datatype && f.count == 1;
        if let Some(field) = self.fields.iter().find(is_mine) {
            return field.offset as usize;
        }
        // The bytes of a field of another type stay, without a name.
        self.fields.retain(|f| f.name != name);
        let step = self.point_step as usize;
        let mut wider = Vec::with_capacity(self.len() * (step + 4));
        for point in self.data.chunks_exact(step.max(1)) {
            wider.extend_from_slice(point);
            wider.extend_from_slice(&[0; 4]);
        }
        self.data = wider;
        self.fields.push(Field {
            name: name.into(),
            offset: self.point_step,
            datatype,
            count: 1,
        });
        self.point_step += 4;
        step
    }

    /// The message as bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = self.head.clone();
        let number = |out: &mut Vec<u8>, x: u32| {
            if self.encoding == Encoding::Cdr {
                out.resize(out.len().next_multiple_of(4), 0);
            }
            out.extend_from_slice(&match self.endian {
                Endian::Little => x.to_le_bytes(),
                Endian::Big => x.to_be_bytes(),
            });
        };
        number(&mut out, self.height);
        number(&mut out, self.width);
        number(&mut out, self.fields.len() as u32);
        for field in &self.fields {
            let end: &[u8] = match self.encoding {
                Encoding::Cdr => &[0],
                Encoding::Ros1 => &[],
            };
            number(&mut out, (field.name.len() + end.len()) as u32);
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(end);
            number(&mut out, field.offset);
            out.push(field.datatype);
            number(&mut out, field.count);
        }
        out.push(u8::from(self.is_bigendian));
        number(&mut out, self.point_step);
        number(&mut out, self.point_step.wrapping_mul(self.width));
        number(&mut out, self.data.len() as u32);
        out.extend_from_slice(&self.data);
        out.push(self.is_dense);
        out
    }
}

/// The points of all rows, without the padding behind rows.
fn rows(data: &[u8], [height, width]: [u32; 2], [step, row_step]: [u32; 2]) -> Parsed<Vec<u8>> {
    if height == 0 || width == 0 {
        return Ok(Vec::new());
    }
    let row = u64::from(width) * u64::from(step);
    let row_step = match height {
        // Many drivers leave the step of a single row empty.
        1 => row,
        _ => u64::from(row_step),
    };
    let needed = (u64::from(height) - 1)
        .checked_mul(row_step)
        .and_then(|n| n.checked_add(row));
    if step == 0 || row_step < row || needed.is_none_or(|n| n > data.len() as u64) {
        return Err(format!(
            "{height} rows of {row_step} bytes with {width} points of {step} bytes promised, {} bytes there",
            data.len()
        ));
    }
    let row = row as usize;
    let starts = (0..height as usize).map(|r| r * row_step as usize);
    Ok(starts.flat_map(|s| &data[s..s + row]).copied().collect())
}

#[cfg(test)]
pub(super) use tests::message as tests_message;

#[cfg(test)]
#[path = "cloud_tests.rs"]
mod tests;
