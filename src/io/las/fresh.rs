//! LAS 1.4 records made from the attributes of any cloud.
//!
//! Attributes with the name of a LAS field whose type holds them become that field; 8-bit and packed colours are
//! widened to 16 bits; every other attribute becomes an extra-bytes dimension in its own type. The grid step is a
//! power of ten: a millimetre, or finer for clouds of less than a kilometre.

use std::ops::Range;
use std::path::Path;

use crate::cloud::{Attribute, Column, Endian, Kind, PointCloud};
use crate::io::labels::LabelNames;
use crate::io::scan::{Labels, Output, Warning};
use crate::{Error, Result};

use super::header::{Tail, Vlr, header_size, padded};
use super::layout::{self, Extra, Field, Part};
use super::writer::{Frame, put, set_class};

/// Where an attribute goes.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// A field of the point format.
    Field(Field),
    /// Bytes of its own at this offset.
    Extra(usize),
    /// An 8-bit channel, widened.
    Channel(usize),
    /// Three 8-bit channels in one number, widened; red comes first.
    Packed(usize),
    /// Replaced by the new labels.
    Nowhere,
}

pub(super) struct Fresh {
    format: u8,
    record_len: usize,
    scale: [f64; 3],
    offset: [f64; 3],
    places: Vec<Place>,
    confidence: Option<usize>,
}

/// The grid step and origin for coordinates between two corners.
fn grid((low, high): ([f64; 3], [f64; 3])) -> ([f64; 3], [f64; 3]) {
    let span = (0..3).map(|i| high[i] - low[i]).fold(0.0, f64::max);
    // A million steps across the cloud, at most a millimetre, unless 32 bits cannot hold that many.
    let fine = (span / 1e6).log10().floor().clamp(-9.0, -3.0);
    let least = (span / 2e9).log10().ceil();
    let scale = 10f64.powi(fine.max(least) as i32);
    let middle = std::array::from_fn(|i| ((low[i] + high[i]) / 2.0).floor());
    ([scale; 3], middle)
}

impl Fresh {
    pub fn plan(plan: &Output<'_>, path: &Path) -> Result<(Frame, Fresh, Vec<Warning>)> {
        let attributes = &plan.schema.attributes;
        let labels = LabelNames::of(plan);
        let has = |name: &str| attributes.iter().any(|a| a.name == name);
        let colored =
            attributes.iter().any(is_packed) || ["red", "green", "blue"].iter().all(|n| has(n));
        let format = match (colored, has("nir")) {
            (_, true) => 8,
            (true, false) => 7,
            (false, false) => 6,
        };
        let mut extras = Vec::new();
        let mut record_len = layout::record_len(format).expect("formats 6 to 8 exist");
        let fields = layout::fields(format);
        let mut names: Vec<String> = fields.iter().map(|f| f.name.clone()).collect();
        let mut describe = |name: &str, kind: Kind, text: &str| {
            let at = record_len;
            record_len += kind.size();
            let name = unique(name, &names);
            extras.extend(Extra::describe(&name, kind, text));
            names.push(name);
            at
        };
        let places: Vec<Place> = (attributes.iter())
            .map(|a| {
                let name = labels.written(&a.name);
                place(a, &fields, &labels)
                    .unwrap_or_else(|| Place::Extra(describe(name, a.column.kind(), "")))
            })
            .collect();
        let text = "probability of the class";
        let confidence = (labels.is_labelled).then(|| describe(labels.confidence, Kind::F32, text));
        let mut vlrs = Vec::new();
        if extras.len() > usize::from(u16::MAX) {
            let fault = format!(
                "{} attributes do not fit LAS; write PLY instead",
                attributes.len()
            );
            return Err(Error::unusable(path, fault));
        }
        if !extras.is_empty() {
            vlrs.push(Vlr::new("LASF_Spec", 4, "extra bytes", extras));
        }
        if let Some(classes) = plan.classes {
            super::name_classes(&mut vlrs, classes);
        }
        let (scale, offset) = plan.extent.map_or(([1e-3; 3], [0.0; 3]), grid);
        let fresh = Fresh {
            format,
            record_len,
            scale,
            offset,
            places,
            confidence,
        };
        Ok((fresh.frame(&vlrs), fresh, Vec::new()))
    }

    fn frame(&self, vlrs: &[Vlr]) -> Frame {
        let mut header = vec![0; header_size(4)];
        put(&mut header, 0, b"LASF");
        // Formats 6 to 10 demand that coordinate systems, if any, are given as text.
        header[6] = 0x10;
        put(&mut header, 24, &[1, 4]);
        put(&mut header, 26, &padded::<32>("OTHER"));
        put(
            &mut header,
            58,
            &padded::<32>(concat!("cairn ", env!("CARGO_PKG_VERSION"))),
        );
        put(&mut header, 94, &(header_size(4) as u16).to_le_bytes());
        for axis in 0..3 {
            put(&mut header, 131 + 8 * axis, &self.scale[axis].to_le_bytes());
            put(
                &mut header,
                155 + 8 * axis,
                &self.offset[axis].to_le_bytes(),
            );
        }
        let mut bytes = Vec::new();
        vlrs.iter().for_each(|v| v.put(&mut bytes));
        Frame {
            header,
            vlrs: bytes,
            vlr_count: vlrs.len() as u32,
            gap: Vec::new(),
            tail: Tail::default(),
            format: self.format,
            record_len: self.record_len,
            scale: self.scale,
            offset: self.offset,
        }
    }

    /// Appends some records.
    pub fn records(
        &self,
        cloud: &PointCloud,
        rows: Range<usize>,
        labels: Option<&Labels>,
        out: &mut Vec<u8>,
    ) -> std::result::Result<(), String> {
        for row in rows {
            let start = out.len();
            out.resize(start + self.record_len, 0);
            let record = &mut out[start..];
            for axis in 0..3 {
                let x = cloud.coord[row][axis];
                let step = ((x - self.offset[axis]) / self.scale[axis]).round();
                if step.is_nan() || step.abs() > f64::from(i32::MAX) {
                    return Err(format!(
                        "point {row} has the coordinate {x}, which LAS cannot hold; write PLY or PCD instead"
                    ));
                }
                put(record, 4 * axis, &(step as i32).to_le_bytes());
            }
            for (attribute, place) in cloud.attributes.iter().zip(&self.places) {
                place.put(attribute, row, record)?;
            }
            if let (Some(labels), Some(at)) = (labels, self.confidence) {
                set_class(record, self.format, labels.code[row])?;
                put(record, at, &labels.confidence[row].to_le_bytes());
            }
        }
        Ok(())
    }
}

fn is_packed(attribute: &Attribute) -> bool {
    matches!(attribute.name.as_str(), "rgb" | "rgba")
        && matches!(attribute.column.kind(), Kind::U32 | Kind::I32 | Kind::F32)
}

/// A name of at most 32 bytes that is not taken.
fn unique(name: &str, taken: &[String]) -> String {
    let cut = |n: usize| {
        let end = (0..=n.min(name.len())).rfind(|&i| name.is_char_boundary(i));
        &name[..end.expect("0 is a boundary")]
    };
    let mut found = cut(32).to_string();
    let mut number = 2;
    while taken.contains(&found) {
        found = format!("{}_{number}", cut(27));
        number += 1;
    }
    found
}

/// The field of the point format that holds an attribute, if there is one.
fn place(attribute: &Attribute, fields: &[Field], labels: &LabelNames) -> Option<Place> {
    let name = attribute.name.as_str();
    if labels.replace(name) {
        return Some(Place::Nowhere);
    }
    // The class field is for the new labels.
    if labels.is_labelled && name == "classification" {
        return None;
    }
    let kind = attribute.column.kind();
    let red = fields.iter().find(|f| f.name == "red").map(|f| f.offset);
    if is_packed(attribute) {
        return red.map(Place::Packed);
    }
    let field = fields.iter().find(|f| f.name == name)?;
    if matches!(name, "red" | "green" | "blue") && kind == Kind::U8 {
        return Some(Place::Channel(field.offset));
    }
    let holds = match field.part {
        Part::Whole(wide) => {
            kind == wide
                || (kind, wide) == (Kind::F32, Kind::F64)
                || (kind, wide) == (Kind::U8, Kind::U16)
        }
        Part::Bits { .. } => kind == Kind::U8,
        Part::Scaled { .. } => false,
    };
    holds.then(|| Place::Field(field.clone()))
}

fn widened(level: u8) -> [u8; 2] {
    (u16::from(level) * 257).to_le_bytes()
}

impl Place {
    fn put(
        &self,
        attribute: &Attribute,
        row: usize,
        record: &mut [u8],
    ) -> std::result::Result<(), String> {
        let column = &attribute.column;
        match self {
            Place::Nowhere => {}
            Place::Extra(at) => {
                let mut bytes = Vec::with_capacity(8);
                column.put(row, Endian::Little, &mut bytes);
                put(record, *at, &bytes);
            }
            Place::Channel(at) => put(record, *at, &widened(column.get(row) as u8)),
            Place::Packed(at) => {
                let bits = match column {
                    Column::F32(v) => v[row].to_bits(),
                    Column::I32(v) => v[row] as u32,
                    other => other.get(row) as u32,
                };
                for (i, shift) in [16, 8, 0].into_iter().enumerate() {
                    put(record, at + 2 * i, &widened((bits >> shift) as u8));
                }
            }
            Place::Field(field) => put_field(field, column.get(row), row, record)?,
        }
        Ok(())
    }
}

fn put_field(
    field: &Field,
    value: f64,
    row: usize,
    record: &mut [u8],
) -> std::result::Result<(), String> {
    match field.part {
        Part::Bits { shift, width } => {
            let most = (1u8 << width) - 1;
            if value > f64::from(most) {
                return Err(format!(
                    "`{}` of point {row} is {value}; LAS holds at most {most}; write PLY instead",
                    field.name
                ));
            }
            record[field.offset] |= (value as u8) << shift;
        }
        Part::Whole(kind) | Part::Scaled { kind, .. } => {
            let mut column = Column::new(kind);
            assert!(column.push_f64(value), "the kinds were compared in `place`");
            let mut bytes = Vec::with_capacity(8);
            column.put(0, Endian::Little, &mut bytes);
            put(record, field.offset, &bytes);
        }
    }
    Ok(())
}
