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
mod literal;
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
    detect: super::Detect::Content(|head| head.starts_with(b"\x93NUMPY")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::Kind;
    use crate::io::{Labels, read, write};

    fn array(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = header::header_bytes(descr, order == "F", shape);
        bytes.extend_from_slice(data);
        bytes
    }

    fn labels() -> Labels {
        Labels {
            code: vec![3, -1],
            confidence: vec![0.5, 0.25],
            classes: Vec::new(),
        }
    }

    /// Reads the array, labels it, reads it back: coordinates, names and the last two columns of both rows.
    fn labelled(bytes: &[u8]) -> (Vec<[f64; 3]>, Vec<String>, [[f64; 2]; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        std::fs::write(&path, bytes).unwrap();
        let scan = read(&path).unwrap();
        write(&path, &scan, &labels()).unwrap();
        let back = read(&path).unwrap().cloud;
        assert_eq!(back.coord, scan.cloud.coord);
        let last = &back.attributes[back.attributes.len() - 2..];
        let values = [0, 1].map(|row| [last[0].column.get(row), last[1].column.get(row)]);
        let names = back.attributes.iter().map(|a| a.name.clone()).collect();
        (back.coord, names, values)
    }

    #[test]
    fn every_number_type_and_order_is_read_and_labelled() {
        let want = vec![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        for (code, kind) in [
            ("u1", Kind::U8),
            ("i1", Kind::I8),
            ("u2", Kind::U16),
            ("i2", Kind::I16),
            ("u4", Kind::U32),
            ("i4", Kind::I32),
            ("u8", Kind::U64),
            ("i8", Kind::I64),
            ("f4", Kind::F32),
            ("f8", Kind::F64),
        ] {
            for (sign, endian) in [('<', Endian::Little), ('>', Endian::Big)] {
                for (order, values) in [("C", [1, 2, 3, 4, 5, 6]), ("F", [1, 4, 2, 5, 3, 6])] {
                    let mut column = Column::new(kind);
                    let mut data = Vec::new();
                    for (i, v) in values.into_iter().enumerate() {
                        assert!(column.push_f64(f64::from(v)));
                        column.put(i, endian, &mut data);
                    }
                    let bytes = array(&format!("'{sign}{code}'"), order, "(2, 3)", &data);
                    let (coord, names, values) = labelled(&bytes);
                    assert_eq!(coord, want, "{sign}{code} {order}");
                    assert_eq!(names, ["column_3", "column_4"]);
                    assert_eq!(values, [[3.0, 0.5], [-1.0, 0.25]]);
                }
            }
        }
    }

    #[test]
    fn half_floats_become_floats() {
        let data: Vec<u8> = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
            .iter()
            .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
            .collect();
        let (coord, _, values) = labelled(&array("'<f2'", "C", "(2, 3)", &data));
        assert_eq!(coord[1], [4.0, 5.0, 6.0]);
        assert_eq!(values[1], [-1.0, 0.25]);
    }

    #[test]
    fn records_keep_text_inner_arrays_and_their_own_labels() {
        let descr = "[('name', 'S2'), ('X', '>f4'), ('y', '<f4'), ('z', '<i2'), ('label', 'u1'), ('n', '<u2', (2,))]";
        let descr = descr.replace("'S2'", "'|S2'").replace("'u1'", "'|u1'");
        let row = |x: f32, label: u8| {
            let mut row = b"ab".to_vec();
            row.extend(x.to_be_bytes());
            row.extend(2f32.to_le_bytes());
            row.extend(3i16.to_le_bytes());
            row.push(label);
            row.extend([7, 0, 8, 0]);
            row
        };
        let data = [row(1.0, 9), row(4.0, 8)].concat();
        let (coord, names, values) = labelled(&array(&descr, "C", "(2,)", &data));
        assert_eq!(coord, [[1.0, 2.0, 3.0], [4.0, 2.0, 3.0]]);
        let want = ["original_label", "n_0", "n_1", "label", "confidence"];
        assert_eq!(names, want);
        assert_eq!(values, [[3.0, 0.5], [-1.0, 0.25]]);
    }

    #[test]
    fn integers_that_no_float_holds_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let data: Vec<u8> = [1i64, 2, (1 << 53) + 1]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        std::fs::write(&path, array("'<i8'", "C", "(1, 3)", &data)).unwrap();
        let scan = read(&path).unwrap();
        let labels = labels().slice(0..1);
        let fault = write(&path, &scan, &labels).unwrap_err().to_string();
        assert!(fault.contains("does not fit"), "{fault}");
    }
}
