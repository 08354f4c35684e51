//! Writes NPY tables and records.

use crate::cloud::{Column, Endian, Kind, PointCloud};
use crate::io::atomic::Atomic;
use crate::io::labels::{LABEL, LabelNames};
use crate::io::scan::{Labels, Output, Records, Source as AnySource, Warning, Writer};
use crate::io::{check_batch, check_total};
use crate::{Error, Result};

use super::column_of;
use super::header::{Field, Layout, Stored, header_bytes};

pub(super) fn create(mut output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    let names = LabelNames::of(plan);
    let labelled = names.is_labelled;
    let form = match plan.source {
        AnySource::Npy(source) if source.layout.is_structured => {
            Form::Fields(Kept::new(&source.layout, plan))
        }
        AnySource::Npy(source) => Form::Table(Table::new(&source.layout, labelled)),
        _ => Form::Attributes(
            (plan.schema.attributes.iter())
                .map(|a| !names.replace(&a.name))
                .collect(),
        ),
    };
    let rows = plan.count;
    let (descr, by_column, shape) = match &form {
        Form::Fields(kept) => (kept.descr(plan), false, format!("({rows},)")),
        Form::Table(t) => (
            format!("'{}'", t.descr),
            t.by_column,
            format!("({rows}, {})", t.columns),
        ),
        Form::Attributes(kept) => (attribute_descr(plan, kept), false, format!("({rows},)")),
    };
    let header = header_bytes(&descr, by_column, &shape);
    output.put(&header)?;
    Ok(Box::new(NpyWriter {
        output,
        form,
        labelled,
        start: header.len() as u64,
        promised: rows,
        done: 0,
    }))
}

enum Form {
    /// A plain table like the one that was read.
    Table(Table),
    /// Records like those that were read.
    Fields(Kept),
    /// Records made of the attributes of a cloud from elsewhere; false for those that new labels replace.
    Attributes(Vec<bool>),
}

/// A plain table with two more columns.
struct Table {
    fields: Vec<Field>,
    stride: usize,
    /// Type of the output.
    kind: Kind,
    endian: Endian,
    descr: String,
    by_column: bool,
    columns: usize,
}

impl Table {
    fn new(layout: &Layout, labelled: bool) -> Self {
        let first = &layout.fields[0];
        let (kind, endian) = match first.stored {
            Stored::Number(kind, endian) if !labelled || !kind.is_integer() => (kind, endian),
            Stored::Number(..) => (Kind::F64, Endian::Little),
            // Half floats hold no class code above 2048 and no useful confidence.
            Stored::Half(endian) => (Kind::F32, endian),
            Stored::Opaque => unreachable!("tables of text are refused on reading"),
        };
        Table {
            fields: layout.fields.clone(),
            stride: layout.stride,
            kind,
            endian,
            descr: descr(kind, endian),
            by_column: layout.by_column,
            columns: layout.fields.len() + if labelled { 2 } else { 0 },
        }
    }

    /// The output columns for some rows.
    fn columns(
        &self,
        rows: &[u8],
        labels: Option<&Labels>,
    ) -> std::result::Result<Vec<Column>, String> {
        let mut columns = Vec::new();
        for field in &self.fields {
            let column = column_of(field, 0, rows, self.stride);
            columns.push(if column.kind() == self.kind {
                column
            } else {
                convert(&field.name, &column, self.kind)?
            });
        }
        if let Some(labels) = labels {
            columns.push(convert(
                "label",
                &Column::I32(labels.code.clone()),
                self.kind,
            )?);
            columns.push(convert(
                "confidence",
                &Column::F32(labels.confidence.clone()),
                self.kind,
            )?);
        }
        Ok(columns)
    }
}

/// The column in another type, exact for integers.
fn convert(name: &str, column: &Column, kind: Kind) -> std::result::Result<Column, String> {
    let mut converted = Column::new(kind);
    for i in 0..column.len() {
        let value = column.get(i);
        let exact = !column.is_integer()
            || match kind {
                Kind::F32 => f64::from(value as f32) == value && value.abs() <= 16_777_216.0,
                _ => value.abs() < 9_007_199_254_740_992.0,
            };
        if !exact || !converted.push_f64(value) {
            return Err(format!(
                "value {value} of `{name}` in row {i} does not fit the table's type {kind:?}; write PLY instead"
            ));
        }
    }
    Ok(converted)
}

fn descr(kind: Kind, endian: Endian) -> String {
    let code = match kind {
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => 'u',
        Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => 'i',
        Kind::F32 | Kind::F64 => 'f',
    };
    let order = match (kind.size(), endian) {
        (1, _) => '|',
        (_, Endian::Little) => '<',
        (_, Endian::Big) => '>',
    };
    format!("{order}{code}{}", kind.size())
}

/// A name inside the header; numpy would escape quotes, which no reader of ours takes.
fn quoted(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| {
            if c == '\'' || c == '\\' || c.is_control() {
                '_'
            } else {
                c
            }
        })
        .collect();
    format!("'{clean}'")
}

/// The fields of new labels, if there are any.
fn label_fields(plan: &Output<'_>) -> Option<String> {
    let names = LabelNames::of(plan);
    (names.is_labelled).then(|| format!("('{LABEL}', '<i4'), ('{}', '<f4')", names.confidence))
}

/// Records whose fields stay, but for old labels.
struct Kept {
    fields: Vec<Field>,
}

impl Kept {
    fn new(layout: &Layout, plan: &Output<'_>) -> Self {
        let names = LabelNames::of(plan);
        Kept {
            fields: (layout.fields.iter())
                .filter(|f| !names.replace(&f.name))
                .cloned()
                .collect(),
        }
    }

    fn descr(&self, plan: &Output<'_>) -> String {
        let names = LabelNames::of(plan);
        let mut parts: Vec<String> = (self.fields.iter())
            .map(|f| {
                let shape: String = f.shape.iter().map(|d| format!("{d}, ")).collect();
                let name = quoted(names.written(&f.name));
                match f.shape.is_empty() {
                    true => format!("({name}, '{}')", f.descr),
                    false => format!("({name}, '{}', ({shape}))", f.descr),
                }
            })
            .collect();
        parts.extend(label_fields(plan));
        format!("[{}]", parts.join(", "))
    }
}

fn attribute_descr(plan: &Output<'_>, kept: &[bool]) -> String {
    let names = LabelNames::of(plan);
    let mut parts: Vec<String> = ["x", "y", "z"].map(|n| format!("('{n}', '<f8')")).into();
    for (a, _) in plan
        .schema
        .attributes
        .iter()
        .zip(kept)
        .filter(|(_, kept)| **kept)
    {
        let kind = descr(a.column.kind(), Endian::Little);
        parts.push(format!("({}, '{kind}')", quoted(names.written(&a.name))));
    }
    parts.extend(label_fields(plan));
    format!("[{}]", parts.join(", "))
}

struct NpyWriter {
    output: Atomic,
    form: Form,
    labelled: bool,
    start: u64,
    promised: u64,
    done: u64,
}

fn put_label(labels: Option<&Labels>, row: usize, out: &mut Vec<u8>) {
    if let Some(labels) = labels {
        out.extend_from_slice(&labels.code[row].to_le_bytes());
        out.extend_from_slice(&labels.confidence[row].to_le_bytes());
    }
}

impl NpyWriter {
    fn write_table(&mut self, records: &Records, labels: Option<&Labels>) -> Result<()> {
        let Form::Table(table) = &self.form else {
            unreachable!("called for tables only")
        };
        let points = records.len();
        let mut rows = Vec::with_capacity(points * table.stride);
        (0..points).for_each(|i| rows.extend_from_slice(records.row(i)));
        let columns = (table.columns(&rows, labels))
            .map_err(|fault| Error::unusable(self.output.path(), fault))?;
        let mut bytes = Vec::new();
        if table.by_column {
            for (i, column) in columns.iter().enumerate() {
                bytes.clear();
                (0..points).for_each(|row| column.put(row, table.endian, &mut bytes));
                let value = i as u64 * self.promised + self.done;
                self.output
                    .go(self.start + value * table.kind.size() as u64)?;
                self.output.put(&bytes)?;
            }
        } else {
            for row in 0..points {
                columns
                    .iter()
                    .for_each(|c| c.put(row, table.endian, &mut bytes));
            }
            self.output.put(&bytes)?;
        }
        Ok(())
    }

    fn write_rows(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        for row in 0..cloud.len() {
            match &self.form {
                Form::Fields(kept) => {
                    let stored = records.row(row);
                    for f in &kept.fields {
                        bytes.extend_from_slice(&stored[f.offset..f.offset + f.size * f.count]);
                    }
                }
                Form::Attributes(kept) => {
                    for x in cloud.coord[row] {
                        bytes.extend_from_slice(&x.to_le_bytes());
                    }
                    for (a, _) in cloud.attributes.iter().zip(kept).filter(|(_, kept)| **kept) {
                        a.column.put(row, Endian::Little, &mut bytes);
                    }
                }
                Form::Table(_) => unreachable!("tables are written by `write_table`"),
            }
            put_label(labels, row, &mut bytes);
        }
        self.output.put(&bytes)
    }
}

impl Writer for NpyWriter {
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        let native = !matches!(self.form, Form::Attributes(_));
        check_batch(cloud, native.then_some(records), labels, self.labelled)?;
        match self.form {
            Form::Table(_) => self.write_table(records, labels)?,
            _ => self.write_rows(cloud, records, labels)?,
        }
        self.done += cloud.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Warning>> {
        check_total(self.output.path(), self.promised, self.done)?;
        self.output.finish()?;
        Ok(Vec::new())
    }
}
