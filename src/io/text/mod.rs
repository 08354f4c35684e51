//! Points as rows of text: XYZ, TXT, ASC and CSV tables, the S3DIS room form, PTS and PTX.
//!
//! | form | before the rows | a row |
//! |---|---|---|
//! | table | comments, perhaps a line of names (plain, quoted, or as a comment: `//X Y Z`) | numbers between blanks, commas or semicolons |
//! | PTS | the number of points; several such blocks may follow each other | `x y z [intensity [r g b]]` |
//! | PTX | columns, rows, scanner position and axes, 4 × 4 transform | `x y z intensity [r g b]`, in the scanner's frame |
//!
//! The points of an S3DIS room (`room/room.txt` beside `room/Annotations`) have the attribute `label` from there
//! (`annotations.rs`).
//!
//! Names, separators and types are found in the first rows (`layout.rs`). Columns without a name are called as their
//! place and their values suggest (`red green blue` for three whole numbers from 0 to 255 behind the coordinates, as in
//! S3DIS), else `column_3` and on. A decimal comma is refused, never read as two columns. Points of PTX files are moved by their
//! transform; `0 0 0` there means that the scanner saw nothing and has no coordinates here.
//!
//! Rows, comments, headers and line ends stay as they are; labels are two more columns, code and confidence, in the
//! separator of the file, named where the columns have names (older ones of these names are replaced). Clouds from
//! other formats become tables with a line of names; PTS and PTX are only written from files of their own kind.

mod annotations;
mod columns;
mod gaps;
mod layout;
mod line;
mod writer;

use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::cloud::{Attribute, Column, Kind, PointCloud};

use super::atomic::Atomic;
use super::input::Input;
use super::scan::{
    Chunk, Output, Reader, Records, Source as AnySource, Warning, WarningKind, Writer,
};
use super::{Detect, Format};
use annotations::Annotations;
use gaps::{Gaps, MOST};
use layout::{Form, Layout};
use line::Separator;

/// Tables of numbers in the list of formats.
pub const TABLE: Format = Format {
    name: "text",
    extensions: &["xyz", "txt", "csv", "asc"],
    detect: Detect::Name,
    open: |input| open(input, Form::Table),
    create,
    check: super::holds_everything,
};

/// PTS in the list of formats.
pub const PTS: Format = Format {
    name: "PTS",
    extensions: &["pts"],
    detect: Detect::Name,
    open: |input| open(input, Form::Pts),
    create,
    check: |scan, _| writer::check(&scan.source, Form::Pts),
};

/// PTX in the list of formats.
pub const PTX: Format = Format {
    name: "PTX",
    extensions: &["ptx"],
    detect: Detect::Name,
    open: |input| open(input, Form::Ptx),
    create,
    check: |scan, _| writer::check(&scan.source, Form::Ptx),
};

/// The form that a file name asks for.
fn form_of(path: &Path) -> Form {
    match super::extension(path).as_str() {
        "pts" => Form::Pts,
        "ptx" => Form::Ptx,
        _ => Form::Table,
    }
}

fn create(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    writer::create(output, plan)
}

/// Everything in a text file besides its rows.
#[derive(Debug, Clone)]
pub struct Source {
    layout: Layout,
    gaps: Arc<Gaps>,
}

impl Source {
    /// Separator and number of columns, such as `6 columns between commas`.
    pub fn description(&self) -> String {
        format!(
            "{} columns between {}",
            self.layout.columns.len(),
            self.layout.separator.plural()
        )
    }

    /// True when a file of this form can be written with every character kept.
    fn holds(&self, form: Form) -> bool {
        // Many programs write PTS without its count, which is then a table.
        let has_blanks = matches!(self.layout.separator, Separator::Blank | Separator::Tab);
        let is_plain = has_blanks && self.layout.header.is_empty();
        self.layout.form == form || self.layout.form == Form::Table && form == Form::Pts && is_plain
    }

    /// Name of the format.
    pub fn format_name(&self) -> &'static str {
        match self.layout.form {
            Form::Table => TABLE.name,
            Form::Pts => PTS.name,
            Form::Ptx => PTX.name,
        }
    }
}

struct TextReader {
    input: Input,
    layout: Layout,
    schema: PointCloud,
    gaps: Gaps,
    /// Lines between rows that are not kept.
    lost: u64,
    done: u64,
    line: u64,
    /// Points that the current block of a PTS or PTX file still holds; `None` for tables.
    left: Option<u64>,
    /// Row-vector transform of the current PTX block.
    transform: Option<[[f64; 4]; 4]>,
    /// True once a block has begun.
    is_started: bool,
    /// Rows behind the last promised point.
    left_over: u64,
    /// Labels of S3DIS rooms.
    annotations: Option<Annotations>,
}

fn open(mut input: Input, form: Form) -> Result<Box<dyn Reader>> {
    let layout = Layout::find(&mut input, form)?;
    input.seek(layout.start)?;
    let columns = layout.empty_columns();
    let mut schema = layout.cloud(columns, None);
    let annotations = match schema.attribute("label") {
        None => Annotations::beside(input.path())?,
        Some(_) => None,
    };
    if annotations.is_some() {
        schema.attributes.push(label(Vec::new()));
    }
    Ok(Box::new(TextReader {
        left: (layout.form != Form::Table).then_some(0),
        line: layout.lines_before,
        input,
        schema,
        layout,
        gaps: Gaps::default(),
        lost: 0,
        done: 0,
        transform: None,
        is_started: false,
        left_over: 0,
        annotations,
    }))
}

fn label(codes: Vec<i32>) -> Attribute {
    Attribute {
        name: "label".into(),
        column: Column::I32(codes),
    }
}

impl Layout {
    fn empty_columns(&self) -> Vec<Column> {
        let kinds = self.columns.iter().map(|c| c.kind.unwrap_or(Kind::U8));
        kinds.map(Column::new).collect()
    }

    /// Parts the columns into coordinates and attributes.
    fn cloud(&self, columns: Vec<Column>, transform: Option<[[f64; 4]; 4]>) -> PointCloud {
        let mut attributes = Vec::new();
        let mut axes: [Column; 3] = std::array::from_fn(|_| Column::F64(Vec::new()));
        for (i, (found, column)) in self.columns.iter().zip(columns).enumerate() {
            if let Some(axis) = self.axes.iter().position(|a| *a == i) {
                axes[axis] = column;
            } else if found.kind.is_some() {
                attributes.push(Attribute {
                    name: found.name.clone(),
                    column,
                });
            }
        }
        let coord = (0..axes[0].len()).map(|row| {
            let p: [f64; 3] = std::array::from_fn(|axis| axes[axis].get(row));
            transform.map_or(p, |t| place(p, &t))
        });
        PointCloud {
            coord: coord.collect(),
            attributes,
        }
    }
}

/// A point of a PTX file in the frame of the whole scan.
fn place(p: [f64; 3], t: &[[f64; 4]; 4]) -> [f64; 3] {
    if p == [0.0; 3] {
        return [f64::NAN; 3];
    }
    std::array::from_fn(|c| p[0] * t[0][c] + p[1] * t[1][c] + p[2] * t[2][c] + t[3][c])
}

impl TextReader {
    fn fault(&self, fault: impl Into<String>) -> crate::Error {
        let place = format!("line {}, point {}", self.line, self.done);
        self.input.malformed(place, fault)
    }

    /// Keeps a line that holds no point. Comments and blank lines of a table can be done without, the headers of blocks
    /// cannot.
    fn keep(&mut self, line: &[u8]) -> Result<()> {
        if !self.gaps.add(self.done, line) {
            if self.layout.form != Form::Table {
                let fault = format!("headers and comments before here have {} MiB", MOST >> 20);
                return Err(self.fault(fault + "; split the file, or remove the comments"));
            }
            self.lost += 1;
        }
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        let line = self.input.line()?;
        self.line += u64::from(line.is_some());
        Ok(line)
    }

    /// Starts the next block of a PTS or PTX file, whose first line is `line`.
    fn start_block(&mut self, line: Vec<u8>) -> Result<()> {
        let first = line::count(&line)
            .ok_or_else(|| self.fault("a number of points or columns is expected here"))?;
        self.is_started = true;
        self.keep(&line)?;
        if self.layout.form == Form::Pts {
            self.left = Some(first);
            return self.check_room(first);
        }
        let mut numbers = Vec::new();
        for wanted in layout::PTX_HEADER {
            let line = self
                .next_line()?
                .ok_or_else(|| self.fault("the file ends inside the header of a PTX block"))?;
            let row = line::numbers(&line, wanted).map_err(|fault| {
                self.input
                    .malformed(format!("line {}, PTX header", self.line), fault)
            })?;
            numbers.push(row);
            self.keep(&line)?;
        }
        let rows = numbers[0][0];
        let points = (rows >= 0.0 && rows.fract() == 0.0 && rows < 1e18)
            .then(|| first.checked_mul(rows as u64))
            .flatten()
            .ok_or_else(|| self.fault(format!("{rows} is no number of rows")))?;
        self.transform = Some(std::array::from_fn(|r| {
            std::array::from_fn(|c| numbers[5 + r][c])
        }));
        self.left = Some(points);
        self.check_room(points)
    }

    /// Compares a promise with the bytes that are there: a row has three digits, two separators and a line end.
    fn check_room(&self, points: u64) -> Result<()> {
        let needed = points.checked_mul(6).map(|n| n.saturating_sub(1));
        if needed.is_none_or(|n| n > self.input.remaining()) {
            return Err(self.fault(format!(
                "{points} points promised, but only {} bytes follow",
                self.input.remaining()
            )));
        }
        Ok(())
    }

    /// The next row, without the blanks around it.
    fn next_row(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let Some(line) = self.next_line()? else {
                if let Some(left) = self.left.filter(|left| *left > 0) {
                    return Err(self.fault(format!(
                        "the file ends here, but its header promises {left} more points"
                    )));
                }
                return Ok(None);
            };
            let row = line.trim_ascii();
            if row.is_empty() || line::is_comment(row) {
                self.keep(&line)?;
                continue;
            }
            match self.left {
                Some(0) if self.is_started && line::count(row).is_none() => self.left_over += 1,
                Some(0) => self.start_block(line)?,
                _ => return Ok(Some(row.to_vec())),
            }
        }
    }

    fn parse(&self, row: &[u8], columns: &mut [Column]) -> std::result::Result<(), String> {
        let text = std::str::from_utf8(row).map_err(|_| "not text in UTF-8")?;
        line::check_quotes(text)?;
        let wanted = columns.len();
        let mut fields = self.layout.separator.split(text);
        for (i, (column, found)) in columns.iter_mut().zip(&self.layout.columns).enumerate() {
            let field = fields
                .next()
                .ok_or_else(|| format!("{i} of {wanted} values"))?;
            let is_number = match (found.kind, field) {
                (None, _) => true,
                (Some(Kind::F64), "") => column.push_text("nan"),
                _ => column.push_text(field),
            };
            if !is_number {
                return Err(line::not_a_number(field, &found.name));
            }
        }
        match fields.count() {
            0 => Ok(()),
            more => Err(format!("{more} values more than the {wanted} columns")),
        }
    }
}

impl Reader for TextReader {
    fn schema(&self) -> &PointCloud {
        &self.schema
    }

    fn count(&self) -> Option<u64> {
        None
    }

    fn held(&self) -> u64 {
        // How much lies between the rows shows when they are read.
        2 * self.layout.head.len() as u64 + self.gaps.size() as u64
    }

    fn next_chunk(&mut self, max: usize) -> Result<Option<Chunk>> {
        let mut columns = self.layout.empty_columns();
        let (mut rows, mut ends) = (Vec::new(), Vec::new());
        while ends.len() < max {
            // Points of two PTX blocks have two transforms: a chunk ends with its block.
            if self.layout.form == Form::Ptx && self.left == Some(0) && !ends.is_empty() {
                break;
            }
            let Some(row) = self.next_row()? else { break };
            self.parse(&row, &mut columns)
                .map_err(|fault| self.fault(fault))?;
            rows.extend_from_slice(&row);
            ends.push(rows.len());
            self.done += 1;
            self.left = self.left.map(|left| left - 1);
        }
        if ends.is_empty() {
            return Ok(None);
        }
        let mut cloud = self.layout.cloud(columns, self.transform);
        if let Some(annotations) = &mut self.annotations {
            let codes = cloud.coord.iter().map(|p| annotations.code(*p)).collect();
            cloud.attributes.push(label(codes));
        }
        Ok(Some(Chunk {
            cloud,
            records: Records::varying(rows, ends),
        }))
    }

    fn finish(self: Box<Self>) -> Result<(AnySource, Vec<Warning>)> {
        let mut warnings = Vec::new();
        if self.left_over > 0 {
            let text = format!(
                "{} rows follow the last promised point and are left out",
                self.left_over
            );
            warnings.push(Warning::new(WarningKind::LeftOver, self.left_over, text));
        }
        if self.lost > 0 {
            let text = format!(
                "{} comments and blank lines behind the first {} MiB of them are left out",
                self.lost,
                MOST >> 20
            );
            warnings.push(Warning::new(WarningKind::NotKept, self.lost, text));
        }
        let words = self.layout.columns.iter().filter(|c| c.kind.is_none());
        warnings.extend(words.map(|column| {
            let text = format!(
                "the column `{}` holds words; only another text file keeps it",
                column.name
            );
            Warning::new(WarningKind::NotKept, self.done, text)
        }));
        if let Some(annotations) = self.annotations {
            warnings.extend(annotations.warnings(self.done));
        }
        let source = Source {
            layout: self.layout,
            gaps: Arc::new(self.gaps),
        };
        Ok((AnySource::Text(Box::new(source)), warnings))
    }
}

#[cfg(test)]
mod tests;
