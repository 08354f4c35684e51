//! PLY, ascii and binary in both byte orders, with any properties, lists and elements.
//!
//! Points are the rows of the element `vertex`. Its numbers become attributes; lists among them and all other elements
//! (faces, edges, cameras) are not interpreted but come back unchanged when the scan is written as PLY again.
//!
//! Labels are the properties `label` (int) and `confidence` (float) behind the others; older ones of these names are
//! replaced. Clouds from other formats are written as little-endian binary with double coordinates.

mod header;
mod writer;

use crate::Result;
use crate::cloud::{Attribute, Column, Endian, Kind, PointCloud};
use std::sync::Arc;

use super::atomic::Atomic;
use super::input::Input;
use super::scan::{
    Chunk, Output, Reader, Records, Source as AnySource, Warning, WarningKind, Writer,
};
use header::{Element, Encoding, Header, Property};

/// PLY in the list of formats.
pub const FORMAT: super::Format = super::Format {
    name: "PLY",
    extensions: &["ply"],
    detect: super::Detect::Content(|head| {
        head.starts_with(b"ply") && head.get(3).is_none_or(u8::is_ascii_whitespace)
    }),
    open,
    create,
    check: super::holds_everything,
};

/// Everything in a PLY file besides the points.
#[derive(Debug, Clone)]
pub struct Source {
    header: Header,
    /// Elements before the points, as stored.
    before: Vec<u8>,
    /// Elements behind the points, as stored; a mesh has more of them than of points.
    behind: Arc<Vec<u8>>,
}

impl Source {
    /// Encoding and elements, such as `binary little-endian, 40 vertex, 12 face`.
    pub fn description(&self) -> String {
        let encoding = match self.header.encoding {
            Encoding::Ascii => "ascii",
            Encoding::Binary(Endian::Little) => "binary little-endian",
            Encoding::Binary(Endian::Big) => "binary big-endian",
        };
        let elements = self.header.elements.iter();
        let elements: Vec<_> = elements
            .map(|e| format!("{} {}", e.count, e.name))
            .collect();
        format!("{encoding}, {}", elements.join(", "))
    }

    /// What is no attribute of a point and so goes into other PLY files only: lists, faces and other elements.
    pub fn beyond_attributes(&self) -> Option<String> {
        let header = &self.header;
        let lists = header
            .points()
            .properties
            .iter()
            .filter(|p| p.list.is_some());
        let mut parts: Vec<String> = lists.map(|p| format!("the lists `{}`", p.name)).collect();
        let others = header.elements.iter().enumerate();
        let others = others.filter(|(i, e)| *i != header.vertex && e.count > 0);
        parts.extend(others.map(|(_, e)| format!("{} {}", e.count, e.name)));
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

fn create(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    writer::create(output, plan)
}

struct PlyReader {
    input: Input,
    header: Header,
    axes: [usize; 3],
    before: Vec<u8>,
    schema: PointCloud,
    /// Points read.
    done: u64,
    /// Lines read, of text files.
    line: u64,
}

fn open(mut input: Input) -> Result<Box<dyn Reader>> {
    let header = Header::read(&mut input)?;
    let axes = (header.points().axes()).map_err(|fault| input.malformed("header", fault))?;
    let mut reader = PlyReader {
        schema: split(numbers(header.points()), header.points(), axes),
        line: header.lines.len() as u64,
        input,
        header,
        axes,
        before: Vec::new(),
        done: 0,
    };
    for i in 0..reader.header.vertex {
        let element = reader.header.elements[i].clone();
        reader.skip(&element)?;
    }
    if let (Encoding::Binary(_), Some(stride)) =
        (reader.header.encoding, reader.header.points().stride())
    {
        reader.check_body(stride)?;
    }
    Ok(Box::new(reader))
}

/// An empty column for each property that is a number.
fn numbers(element: &Element) -> Vec<Column> {
    let plain = element.properties.iter().filter(|p| p.list.is_none());
    plain.map(|p| Column::new(p.kind)).collect()
}

/// Parts the number columns of an element into coordinates and attributes.
fn split(columns: Vec<Column>, element: &Element, axes: [usize; 3]) -> PointCloud {
    let plain = (element.properties.iter().enumerate()).filter(|(_, p)| p.list.is_none());
    let mut attributes = Vec::new();
    let mut coord: [Column; 3] = std::array::from_fn(|_| Column::F64(Vec::new()));
    for ((i, property), column) in plain.zip(columns) {
        match axes.iter().position(|&a| a == i) {
            Some(axis) => coord[axis] = column,
            None => attributes.push(Attribute {
                name: property.name.clone(),
                column,
            }),
        }
    }
    PointCloud {
        coord: (0..coord[0].len())
            .map(|row| std::array::from_fn(|axis| coord[axis].get(row)))
            .collect(),
        attributes,
    }
}

/// Number of entries in a list, read from its stored length.
fn list_len(kind: Kind, bytes: &[u8], endian: Endian) -> Option<u64> {
    let len = kind.decode(bytes, endian);
    (len >= 0.0).then_some(len as u64)
}

impl PlyReader {
    fn check_body(&self, stride: usize) -> Result<()> {
        let promised = self.header.points().count;
        let there = self.input.remaining();
        let needed = promised.checked_mul(stride as u64);
        if stride > 0 && needed.is_none_or(|n| n > there) {
            return Err(self.input.malformed(
                format!("vertex {}", there / stride as u64),
                format!(
                    "the file ends here, but its header promises {promised} vertices of {stride} bytes; the file is \
                     cut short"
                ),
            ));
        }
        Ok(())
    }

    /// Keeps the bytes of an element before the points.
    fn skip(&mut self, element: &Element) -> Result<()> {
        let what = format!("element {}", element.name);
        match (self.header.encoding, element.stride()) {
            (Encoding::Binary(_), Some(stride)) => {
                let bytes = element.count.saturating_mul(stride as u64);
                let mut bytes = self.input.bytes(bytes, &what)?;
                self.before.append(&mut bytes);
            }
            (Encoding::Binary(endian), None) => {
                for row in 0..element.count {
                    let mut bytes = std::mem::take(&mut self.before);
                    self.binary_row(element, endian, &mut bytes, None)
                        .map_err(|e| at_row(e, &what, row))?;
                    self.before = bytes;
                }
            }
            (Encoding::Ascii, _) => {
                for row in 0..element.count {
                    let Some(line) = self.input.line()? else {
                        let fault = format!("the file ends, {} rows promised", element.count);
                        return Err(self.input.malformed(format!("{what}, row {row}"), fault));
                    };
                    self.line += 1;
                    self.before.extend_from_slice(&line);
                }
            }
        }
        Ok(())
    }

    /// Appends one row of a binary element; the bytes of its numbers also go to `plain`.
    fn binary_row(
        &mut self,
        element: &Element,
        endian: Endian,
        row: &mut Vec<u8>,
        mut plain: Option<&mut Vec<u8>>,
    ) -> Result<()> {
        for property in &element.properties {
            let what = property.name.as_str();
            let bytes = match property.list {
                None => {
                    let bytes = self.input.bytes(property.kind.size() as u64, what)?;
                    if let Some(plain) = plain.as_deref_mut() {
                        plain.extend_from_slice(&bytes);
                    }
                    bytes
                }
                Some(kind) => {
                    let place = format!("byte {}", self.input.position());
                    let length = self.input.bytes(kind.size() as u64, what)?;
                    row.extend_from_slice(&length);
                    let len = list_len(kind, &length, endian).ok_or_else(|| {
                        self.input
                            .malformed(place, format!("list `{what}` of negative length"))
                    })?;
                    let bytes = len.saturating_mul(property.kind.size() as u64);
                    self.input.bytes(bytes, what)?
                }
            };
            row.extend_from_slice(&bytes);
        }
        Ok(())
    }

    fn next_binary(&mut self, endian: Endian, points: usize) -> Result<Chunk> {
        let element = self.header.points().clone();
        let mut columns = numbers(&element);
        let (bytes, records) = match element.stride() {
            Some(stride) => {
                let bytes = self.input.bytes((points * stride) as u64, "vertices")?;
                (None, Records::fixed(bytes, stride))
            }
            None => {
                let (mut plain, mut rows, mut ends) = (Vec::new(), Vec::new(), Vec::new());
                for row in 0..points as u64 {
                    self.binary_row(&element, endian, &mut rows, Some(&mut plain))
                        .map_err(|e| at_row(e, "vertex", self.done + row))?;
                    ends.push(rows.len());
                }
                (Some(plain), Records::varying(rows, ends))
            }
        };
        let bytes = bytes.as_deref().unwrap_or(records.bytes());
        let stride: usize = columns.iter().map(|c| c.kind().size()).sum();
        let mut at = 0;
        for column in &mut columns {
            column.extend_strided(bytes, at, stride, endian);
            at += column.kind().size();
        }
        Ok(Chunk {
            cloud: split(columns, &element, self.axes),
            records,
        })
    }

    fn next_ascii(&mut self, points: usize) -> Result<Chunk> {
        let element = self.header.points().clone();
        let mut columns = numbers(&element);
        let plain = element
            .properties
            .iter()
            .enumerate()
            .filter(|(_, p)| p.list.is_none());
        for (column, (i, property)) in columns.iter_mut().zip(plain) {
            // Text may hold more digits than the declared type: map coordinates keep them.
            if self.axes.contains(&i) && property.kind == Kind::F32 {
                *column = Column::new(Kind::F64);
            }
        }
        let (mut rows, mut ends) = (Vec::new(), Vec::new());
        while ends.len() < points {
            let row = self.done + ends.len() as u64;
            let Some(line) = self.input.line()? else {
                return Err(self.input.malformed(
                    format!("vertex {row}"),
                    format!(
                        "the file ends here, but its header promises {} vertices",
                        element.count
                    ),
                ));
            };
            self.line += 1;
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            ascii_row(line, &element.properties, &mut columns).map_err(|fault| {
                (self.input).malformed(format!("line {}, vertex {row}", self.line), fault)
            })?;
            rows.extend_from_slice(line);
            ends.push(rows.len());
        }
        Ok(Chunk {
            cloud: split(columns, &element, self.axes),
            records: Records::varying(rows, ends),
        })
    }
}

/// Names the row in which a binary element broke.
fn at_row(error: crate::Error, what: &str, row: u64) -> crate::Error {
    match error {
        crate::Error::Malformed { path, place, fault } => crate::Error::Malformed {
            path,
            place: format!("{what}, row {row}, {place}"),
            fault,
        },
        other => other,
    }
}

/// Appends the numbers of a text row to the columns.
fn ascii_row(
    line: &[u8],
    properties: &[Property],
    columns: &mut [Column],
) -> std::result::Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|_| "not text")?;
    let mut words = text.split_ascii_whitespace();
    let mut columns = columns.iter_mut();
    let wanted = properties.len();
    for (i, property) in properties.iter().enumerate() {
        let word = words
            .next()
            .ok_or_else(|| format!("{i} of {wanted} values"))?;
        let bad = || format!("`{word}` is no {:?} for `{}`", property.kind, property.name);
        match property.list {
            None => {
                let column = columns.next().expect("one column per number");
                if !column.push_text(word) {
                    return Err(bad());
                }
            }
            Some(_) => {
                let len: u64 = word
                    .parse()
                    .map_err(|_| format!("`{word}` is no list length"))?;
                let there = (0..len).take_while(|_| words.next().is_some()).count() as u64;
                if there < len {
                    return Err(format!(
                        "{there} of {len} values in list `{}`",
                        property.name
                    ));
                }
            }
        }
    }
    match words.count() {
        0 => Ok(()),
        more => Err(format!("{more} values more than the {wanted} properties")),
    }
}

impl Reader for PlyReader {
    fn schema(&self) -> &PointCloud {
        &self.schema
    }

    fn count(&self) -> Option<u64> {
        Some(self.header.points().count)
    }

    fn held(&self) -> u64 {
        let rows = match (self.header.encoding, self.header.points().stride()) {
            (Encoding::Binary(_), Some(stride)) => (self.header.points().count)
                .saturating_sub(self.done)
                .saturating_mul(stride as u64),
            // How long the rows are shows when they are read.
            _ => 0,
        };
        let is_last = self.header.vertex + 1 == self.header.elements.len();
        let behind = match is_last {
            true => 0,
            false => self.input.remaining().saturating_sub(rows),
        };
        // A writer puts what is before the points together with its header.
        2 * self.before.len() as u64 + behind
    }

    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>> {
        let left = self.header.points().count - self.done;
        let points = left.min(max as u64) as usize;
        if points == 0 {
            return Ok(None);
        }
        let chunk = match self.header.encoding {
            Encoding::Ascii => self.next_ascii(points)?,
            Encoding::Binary(endian) => self.next_binary(endian, points)?,
        };
        self.done += points as u64;
        Ok(Some(chunk))
    }

    fn finish(mut self: Box<Self>) -> Result<(AnySource, Vec<Warning>)> {
        let mut behind = self
            .input
            .bytes(self.input.remaining(), "rest of the file")?;
        let mut warnings = Vec::new();
        if self.header.vertex + 1 == self.header.elements.len() {
            let (count, text) = match self.header.encoding {
                Encoding::Ascii => {
                    let rows = behind
                        .split(|&b| b == b'\n')
                        .filter(|l| !l.trim_ascii().is_empty());
                    (rows.count(), "rows follow the last promised vertex")
                }
                Encoding::Binary(_) => (behind.len(), "bytes follow the last vertex"),
            };
            if count > 0 {
                let text = format!("{count} {text} and are left out");
                warnings.push(Warning::new(WarningKind::LeftOver, count as u64, text));
            }
            behind.clear();
        }
        let source = Source {
            header: self.header,
            before: self.before,
            behind: Arc::new(behind),
        };
        Ok((AnySource::Ply(Box::new(source)), warnings))
    }
}
