//! PCD 0.5 to 0.7 of the Point Cloud Library: ascii, binary and compressed, organised clouds with NaN holes.
//!
//! Fields with several numbers become attributes with numbered names; padding is kept but has no name. Labels are the
//! fields `label` (I 4) and `confidence` (F 4) behind the others; older ones are replaced. The encoding, the width,
//! the height and the viewpoint stay. Clouds from other formats are written as binary with double coordinates.
//!
//! Compressed files hold all points column by column in one LZF stream, so they are expanded as a whole; everything
//! else is read piece by piece.

mod header;
mod lzf;
mod writer;

use crate::Result;
use crate::cloud::{Attribute, Column, Endian, Kind, PointCloud};

use super::atomic::Atomic;
use super::input::{Input, read_le};
use super::scan::{
    Chunk, Output, Reader, Records, Source as AnySource, Warning, WarningKind, Writer,
};
use header::{Encoding, Field, Header};

/// PCD in the list of formats.
pub const FORMAT: super::Format = super::Format {
    name: "PCD",
    extensions: &["pcd"],
    detect: super::Detect::Content(header::is_pcd),
    open,
    create,
    check: super::holds_everything,
};

/// The header of the file that was read.
#[derive(Debug, Clone)]
pub struct Source {
    header: Header,
}

impl Source {
    /// Encoding, such as `binary_compressed`.
    pub fn description(&self) -> String {
        match self.header.encoding {
            Encoding::Ascii => "ascii",
            Encoding::Binary => "binary",
            Encoding::Compressed => "binary_compressed",
        }
        .into()
    }
}

fn create(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    writer::create(output, plan)
}

struct PcdReader {
    input: Input,
    header: Header,
    axes: [usize; 3],
    schema: PointCloud,
    /// Sizes of a compressed file, packed and plain, until its rows are asked for.
    packed: Option<[u32; 2]>,
    /// The rows of a compressed file.
    expanded: Vec<u8>,
    done: u64,
    line: u64,
}

fn open(mut input: Input) -> Result<Box<dyn Reader>> {
    let header = Header::read(&mut input)?;
    let axes = header
        .axes()
        .map_err(|fault| input.malformed("header", fault))?;
    let bytes = header.points.checked_mul(header.stride as u64);
    if header.encoding == Encoding::Binary && bytes.is_none_or(|n| n > input.remaining()) {
        return Err(input.malformed(
            format!("point {}", input.remaining() / header.stride as u64),
            format!(
                "the file ends here, but its header promises {} points of {} bytes; the file is cut short",
                header.points, header.stride
            ),
        ));
    }
    let packed = match header.encoding {
        Encoding::Compressed => Some(packed_sizes(&mut input, &header)?),
        _ => None,
    };
    Ok(Box::new(PcdReader {
        schema: split(numbers(&header), &header.fields, axes),
        line: header.lines.len() as u64,
        input,
        header,
        axes,
        packed,
        expanded: Vec::new(),
        done: 0,
    }))
}

/// Reads the sizes in front of the columns of a compressed file, packed and plain, and compares them with what is there.
fn packed_sizes(input: &mut Input, header: &Header) -> Result<[u32; 2]> {
    let place = format!("byte {}", input.position());
    let sizes = input.bytes(8, "sizes of the compressed points")?;
    let (packed, plain) = (read_le!(sizes, 0, u32), read_le!(sizes, 4, u32));
    if header.points.checked_mul(header.stride as u64) != Some(u64::from(plain)) {
        return Err(input.malformed(
            place,
            format!(
                "{plain} bytes are said to be compressed, but {} points of {} bytes are promised",
                header.points, header.stride
            ),
        ));
    }
    let is_there = u64::from(packed) <= input.remaining();
    if is_there && u64::from(plain) > u64::from(packed) * lzf::DENSEST {
        let fault = format!("{plain} bytes cannot be compressed to {packed}");
        return Err(input.malformed(place, fault));
    }
    Ok([packed, plain])
}

/// Expands the columns of a compressed file and turns them into rows.
fn expand(input: &mut Input, header: &Header, [packed, plain]: [u32; 2]) -> Result<Vec<u8>> {
    let place = format!("byte {}", input.position() - 8);
    let packed = input.bytes(packed.into(), "compressed points")?;
    let columns =
        lzf::unpack(&packed, plain as usize).map_err(|fault| input.malformed(place, fault))?;
    let mut rows = vec![0; columns.len()];
    let mut from = 0;
    for field in &header.fields {
        let size = field.size();
        for row in rows.chunks_exact_mut(header.stride) {
            row[field.offset..field.offset + size].copy_from_slice(&columns[from..from + size]);
            from += size;
        }
    }
    Ok(rows)
}

/// An empty column for each number of a row.
fn numbers(header: &Header) -> Vec<Column> {
    let all = header.fields.iter();
    all.flat_map(|f| (0..f.count).map(|_| Column::new(f.kind)))
        .collect()
}

/// Parts the number columns into coordinates and attributes.
fn split(columns: Vec<Column>, fields: &[Field], axes: [usize; 3]) -> PointCloud {
    let names =
        (fields.iter().enumerate()).flat_map(|(i, f)| (0..f.count).map(move |part| (i, f, part)));
    let mut attributes = Vec::new();
    let mut coord: [Column; 3] = std::array::from_fn(|_| Column::F64(Vec::new()));
    for ((i, field, part), column) in names.zip(columns) {
        if let Some(axis) = axes.iter().position(|&a| a == i) {
            coord[axis] = column;
        } else if field.name != "_" {
            attributes.push(Attribute {
                name: match field.count {
                    1 => field.name.clone(),
                    _ => format!("{}_{part}", field.name),
                },
                column,
            });
        }
    }
    PointCloud {
        coord: (0..coord[0].len())
            .map(|row| std::array::from_fn(|axis| coord[axis].get(row)))
            .collect(),
        attributes,
    }
}

impl PcdReader {
    fn decode_rows(&self, rows: Vec<u8>) -> Chunk {
        let mut columns = numbers(&self.header);
        let places = (self.header.fields.iter())
            .flat_map(|f| (0..f.count).map(|part| f.offset + part * f.kind.size()));
        for (column, at) in columns.iter_mut().zip(places) {
            column.extend_strided(&rows, at, self.header.stride, Endian::Little);
        }
        Chunk {
            cloud: split(columns, &self.header.fields, self.axes),
            records: Records::fixed(rows, self.header.stride),
        }
    }

    fn next_ascii(&mut self, points: usize) -> Result<Chunk> {
        let mut columns = numbers(&self.header);
        let mut index = 0;
        for (i, field) in self.header.fields.iter().enumerate() {
            // Text may hold more digits than the declared type: map coordinates keep them.
            if self.axes.contains(&i) && field.kind == Kind::F32 {
                columns[index] = Column::new(Kind::F64);
            }
            index += field.count;
        }
        let (mut rows, mut ends) = (Vec::new(), Vec::new());
        while ends.len() < points {
            let row = self.done + ends.len() as u64;
            let Some(line) = self.input.line()? else {
                let fault = format!(
                    "the file ends here, but its header promises {} points",
                    self.header.points
                );
                return Err(self.input.malformed(format!("point {row}"), fault));
            };
            self.line += 1;
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            ascii_row(line, &mut columns).map_err(|fault| {
                (self.input).malformed(format!("line {}, point {row}", self.line), fault)
            })?;
            rows.extend_from_slice(line);
            ends.push(rows.len());
        }
        Ok(Chunk {
            cloud: split(columns, &self.header.fields, self.axes),
            records: Records::varying(rows, ends),
        })
    }
}

fn ascii_row(line: &[u8], columns: &mut [Column]) -> std::result::Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|_| "not text")?;
    let mut words = text.split_ascii_whitespace();
    let wanted = columns.len();
    for (i, column) in columns.iter_mut().enumerate() {
        let word = words
            .next()
            .ok_or_else(|| format!("{i} of {wanted} values"))?;
        if !column.push_text(word) {
            return Err(format!("`{word}` is no {:?}", column.kind()));
        }
    }
    match words.count() {
        0 => Ok(()),
        more => Err(format!(
            "{more} values more than the {wanted} of the fields"
        )),
    }
}

impl Reader for PcdReader {
    fn schema(&self) -> &PointCloud {
        &self.schema
    }

    fn count(&self) -> Option<u64> {
        Some(self.header.points)
    }

    fn held(&self) -> u64 {
        match self.header.encoding {
            // Packed columns, columns, rows; a writer of the same form holds rows and columns as well.
            Encoding::Compressed => {
                let rows = self.header.points.saturating_mul(self.header.stride as u64);
                rows.saturating_mul(3)
            }
            _ => 0,
        }
    }

    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>> {
        if let Some(sizes) = self.packed.take() {
            self.expanded = expand(&mut self.input, &self.header, sizes)?;
        }
        let points = (self.header.points - self.done).min(max as u64) as usize;
        if points == 0 {
            return Ok(None);
        }
        let stride = self.header.stride;
        let chunk = match self.header.encoding {
            Encoding::Compressed => {
                let start = self.done as usize * stride;
                self.decode_rows(self.expanded[start..start + points * stride].to_vec())
            }
            Encoding::Ascii => self.next_ascii(points)?,
            Encoding::Binary => {
                let rows = self.input.bytes((points * stride) as u64, "points")?;
                self.decode_rows(rows)
            }
        };
        self.done += points as u64;
        Ok(Some(chunk))
    }

    fn finish(mut self: Box<Self>) -> Result<(AnySource, Vec<Warning>)> {
        let rest = self
            .input
            .bytes(self.input.remaining(), "rest of the file")?;
        let (count, text) = match self.header.encoding {
            Encoding::Ascii => {
                let rows = rest
                    .split(|&b| b == b'\n')
                    .filter(|l| !l.trim_ascii().is_empty());
                (rows.count(), "rows follow the last promised point")
            }
            _ => (rest.len(), "bytes follow the last point"),
        };
        let mut warnings = Vec::new();
        if count > 0 {
            let text = format!("{count} {text} and are left out");
            warnings.push(Warning::new(WarningKind::LeftOver, count as u64, text));
        }
        let source = Source {
            header: self.header,
        };
        Ok((AnySource::Pcd(Box::new(source)), warnings))
    }
}
