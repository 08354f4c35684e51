//! NumPy arrays: a table of N rows and at least 3 columns, or records with fields x, y and z.
//!
//! | bytes | holds |
//! |---|---|
//! | 6 | `\x93NUMPY` |
//! | 2 | version |
//! | 2 or 4 | length of the header |
//! | … | header: type, memory order, shape |
//! | … | rows, or columns when `fortran_order` is true |
//!
//! The columns of a plain table have no names: the first three are x, y, z, the others become the attributes
//! `column_3`, `column_4` and on. Labels are appended as two more columns (code, confidence) in the table's own float
//! type; tables of integers or half floats are written as wider floats, since they cannot hold a confidence. Records
//! get the fields `label` and `confidence`, which replace fields of these names. Clouds from other formats become
//! records, so names and types stay.

mod header;
mod writer;

use crate::Result;
use crate::cloud::{Attribute, Column, Endian, PointCloud};

use super::atomic::Atomic;
use super::input::Input;
use super::scan::{
    Chunk, Output, Reader, Records, Source as AnySource, Warning, WarningKind, Writer,
};
use header::{Field, Layout, Stored};

/// NPY in the list of formats.
pub const FORMAT: super::Format = super::Format {
    name: "NPY",
    extensions: &["npy"],
    detect: |head| head.starts_with(b"\x93NUMPY"),
    open,
    create,
    check: super::holds_everything,
};

/// Type and memory order of the array that was read.
#[derive(Debug, Clone)]
pub struct Source {
    layout: Layout,
}

fn open(mut input: Input) -> Result<Box<dyn Reader>> {
    let layout = Layout::read(&mut input)?;
    let axes = (layout.axes()).map_err(|fault| input.malformed("NPY header", fault))?;
    let mut reader = NpyReader {
        start: input.position(),
        input,
        layout,
        axes,
        done: 0,
        schema: PointCloud::default(),
    };
    reader.schema = reader.decode(&[]);
    Ok(Box::new(reader))
}

fn create(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    writer::create(output, plan)
}

struct NpyReader {
    input: Input,
    layout: Layout,
    axes: [usize; 3],
    start: u64,
    done: u64,
    schema: PointCloud,
}

/// Value `i` of a field, for every row.
fn column_of(field: &Field, i: usize, rows: &[u8], stride: usize) -> Column {
    let at = field.offset + i * field.size;
    match field.stored {
        Stored::Number(kind, endian) => {
            let mut column = Column::new(kind);
            column.extend_strided(rows, at, stride, endian);
            column
        }
        Stored::Half(endian) => {
            let half = |row: &[u8]| {
                let b = [row[at], row[at + 1]];
                match endian {
                    Endian::Little => half::f16::from_le_bytes(b),
                    Endian::Big => half::f16::from_be_bytes(b),
                }
            };
            Column::F32(
                rows.chunks_exact(stride)
                    .map(|r| half(r).to_f32())
                    .collect(),
            )
        }
        Stored::Opaque => Column::U8(Vec::new()),
    }
}

impl NpyReader {
    fn decode(&self, rows: &[u8]) -> PointCloud {
        let stride = self.layout.stride.max(1);
        let axes = self
            .axes
            .map(|a| column_of(&self.layout.fields[a], 0, rows, stride));
        let mut attributes: Vec<Attribute> = Vec::new();
        for (i, field) in self.layout.fields.iter().enumerate() {
            if self.axes.contains(&i) || field.stored == Stored::Opaque {
                continue;
            }
            for part in 0..field.count {
                attributes.push(Attribute {
                    name: match field.count {
                        1 => field.name.clone(),
                        _ => format!("{}_{part}", field.name),
                    },
                    column: column_of(field, part, rows, stride),
                });
            }
        }
        PointCloud {
            coord: (0..rows.len() / stride)
                .map(|row| std::array::from_fn(|a| axes[a].get(row)))
                .collect(),
            attributes,
        }
    }

    /// Gathers rows from the columns of the file.
    fn read_columns(&mut self, points: usize) -> Result<Vec<u8>> {
        let stride = self.layout.stride;
        let size = self.layout.fields[0].size;
        let mut rows = vec![0; points * stride];
        for column in 0..self.layout.fields.len() {
            let first = column as u64 * self.layout.rows + self.done;
            self.input.seek(self.start + first * size as u64)?;
            let values = self.input.bytes((points * size) as u64, "array data")?;
            let places = rows.chunks_exact_mut(stride);
            for (row, value) in places.zip(values.chunks_exact(size)) {
                row[column * size..(column + 1) * size].copy_from_slice(value);
            }
        }
        Ok(rows)
    }
}

impl Reader for NpyReader {
    fn schema(&self) -> &PointCloud {
        &self.schema
    }

    fn count(&self) -> Option<u64> {
        Some(self.layout.rows)
    }

    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>> {
        let points = (self.layout.rows - self.done).min(max as u64) as usize;
        if points == 0 {
            return Ok(None);
        }
        let stride = self.layout.stride;
        let rows = if self.layout.by_column {
            self.read_columns(points)?
        } else {
            self.input.bytes((points * stride) as u64, "array data")?
        };
        self.done += points as u64;
        Ok(Some(Chunk {
            cloud: self.decode(&rows),
            records: Records::fixed(rows, stride),
        }))
    }

    fn finish(self: Box<Self>) -> Result<(AnySource, Vec<Warning>)> {
        let end = self.start + self.layout.rows * self.layout.stride as u64;
        let behind = self.input.size() - end;
        let mut warnings = Vec::new();
        if behind > 0 {
            warnings.push(Warning::new(
                WarningKind::LeftOver,
                behind,
                format!("{behind} bytes follow the array and are left out"),
            ));
        }
        let source = Source {
            layout: self.layout,
        };
        Ok((AnySource::Npy(Box::new(source)), warnings))
    }
}

impl Source {
    /// Type and order, such as `<f8, by column`.
    pub fn description(&self) -> String {
        match (self.layout.is_structured, self.layout.by_column) {
            (true, _) => format!("records of {} fields", self.layout.fields.len()),
            (false, true) => format!("{}, by column", self.layout.fields[0].descr),
            (false, false) => format!("{}, by row", self.layout.fields[0].descr),
        }
    }
}
