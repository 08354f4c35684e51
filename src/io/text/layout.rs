//! What the first lines of a text file say about the others: separator, names, types.

use crate::Result;
use crate::cloud::Kind;
use crate::io::input::Input;

use super::columns::{Header, axes, axes_of, guessed, kind_of};
use super::line::{Separator, count, is_comment, is_number};

/// Rows looked at to tell names and types.
const SAMPLE: usize = 200;
/// Bytes looked at, at most: a file of comments is not read twice.
const SAMPLE_BYTES: u64 = 1 << 20;

/// Numbers in the lines of a PTX block behind the first: rows, position, three axes, transform.
pub const PTX_HEADER: [usize; 9] = [1, 3, 3, 3, 3, 4, 4, 4, 4];

/// Kinds of text files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Rows only.
    Table,
    /// Blocks of a count and its rows.
    Pts,
    /// Blocks of a header of ten lines and its rows.
    Ptx,
}

/// One column of the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub name: String,
    /// `None` for columns of words, which are kept and not read.
    pub kind: Option<Kind>,
}

/// How a text file is laid out.
#[derive(Debug, Clone)]
pub struct Layout {
    pub form: Form,
    pub separator: Separator,
    pub newline: &'static str,
    /// Byte mark and lines before the line of names.
    pub head: Vec<u8>,
    /// The line of names with its line end; empty without one.
    pub header: Vec<u8>,
    /// Separator of the line of names.
    pub header_separator: Separator,
    pub columns: Vec<Found>,
    pub axes: [usize; 3],
    /// Byte at which rows, and the comments between them, start.
    pub start: u64,
    /// Number of lines before that byte.
    pub lines_before: u64,
}

/// The start of a file as text.
struct Start {
    rows: Vec<(u64, String)>,
    /// Lines before the first row: number of bytes before, line.
    before: Vec<(u64, Vec<u8>)>,
    mark: usize,
}

impl Layout {
    /// Looks at the first rows; the position of the input afterwards is any.
    pub fn find(input: &mut Input, form: Form) -> Result<Layout> {
        let start = Start::read(input)?;
        let form = match start.rows.first() {
            // Many programs write PTS without the count.
            Some((_, first)) if form == Form::Pts && count(first.as_bytes()).is_none() => {
                Form::Table
            }
            _ => form,
        };
        match form {
            Form::Table => start.table(input),
            _ => start.blocks(input, form),
        }
    }
}

impl Start {
    fn read(input: &mut Input) -> Result<Start> {
        let head = input.bytes(input.size().min(3), "start of the file")?;
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err(input.malformed(
                "byte 0",
                "UTF-16 text; save the file as UTF-8 (or plain ASCII)",
            ));
        }
        let mark = if head == [0xef, 0xbb, 0xbf] { 3 } else { 0 };
        input.seek(mark as u64)?;
        let mut start = Start {
            rows: Vec::new(),
            before: Vec::new(),
            mark,
        };
        let mut number = 0;
        while start.rows.len() < SAMPLE && input.position() < SAMPLE_BYTES {
            let at = input.position();
            let Some(line) = input.line()? else { break };
            number += 1;
            if line.contains(&0) {
                return Err(input.malformed(format!("line {number}"), "not text"));
            }
            let row = line.trim_ascii();
            if row.contains(&b'\r') {
                let fault =
                    "lines that end in carriage returns alone; save the file with line feeds";
                return Err(input.malformed(format!("line {number}"), fault));
            }
            let is_row = !row.is_empty() && !is_comment(row);
            if is_row {
                // Later bytes are checked row by row; the line of names must be readable now.
                let text = String::from_utf8(row.to_vec())
                    .map_err(|_| input.malformed(format!("line {number}"), "not text in UTF-8"))?;
                start.rows.push((number, text));
            }
            if start.rows.is_empty() || start.rows.len() == 1 && is_row {
                start.before.push((at, line));
            }
        }
        Ok(start)
    }

    fn newline(&self) -> &'static str {
        match self.before.first() {
            Some((_, line)) if line.ends_with(b"\r\n") => "\r\n",
            _ => "\n",
        }
    }

    /// The layout of a PTS or PTX file, which has columns in a fixed order.
    fn blocks(self, input: &Input, form: Form) -> Result<Layout> {
        let skipped = match form {
            Form::Ptx => 1 + PTX_HEADER.len(),
            _ => 1,
        };
        let rows = self.rows.get(skipped..).unwrap_or_default();
        let split = |row: &'_ (u64, String)| Separator::Blank.split(&row.1).count();
        let width = rows.first().map_or(4, split);
        if width < 3 {
            let fault = format!("{width} values; a point has at least x, y and z");
            return Err(input.malformed(format!("line {}", rows[0].0), fault));
        }
        // The headers of further blocks are no rows.
        let samples: Vec<Vec<&str>> = (rows.iter().filter(|row| split(row) == width))
            .map(|(_, row)| Separator::Blank.split(row).collect())
            .collect();
        let mut names = guessed(&samples, width, matches!(width, 7 | 9));
        let is_open = names.get(3).is_some_and(|name| name == "column_3");
        if is_open && (width == 4 || form == Form::Ptx) {
            names[3] = "intensity".into();
        }
        Ok(Layout {
            form,
            separator: Separator::Blank,
            newline: self.newline(),
            head: input_mark(self.mark),
            header: Vec::new(),
            header_separator: Separator::Blank,
            columns: (names.into_iter().enumerate())
                .map(|(i, name)| Found {
                    kind: Some(kind_of(&name, &samples, i)),
                    name,
                })
                .collect(),
            axes: [0, 1, 2],
            start: self.mark as u64,
            lines_before: 0,
        })
    }

    fn table(self, input: &Input) -> Result<Layout> {
        let newline = self.newline();
        let named = self.header();
        let first = usize::from(named.as_ref().is_some_and(|h| h.is_row));
        let rows = &self.rows[first.min(self.rows.len())..];
        let Some((line, row)) = rows.first() else {
            return Err(input.malformed(
                format!("line {}", self.before.len()),
                "no row of numbers; a text scan has at least x, y and z in each row",
            ));
        };
        let separator = Separator::of(row);
        let samples: Vec<Vec<&str>> = (rows.iter())
            .map(|(_, row)| separator.split(row).collect())
            .collect();
        let width = samples[0].len();
        let (names, header_separator) = match &named {
            Some(header) => header
                .names(separator, width)
                .map_err(|fault| input.malformed(format!("line {}", header.line + 1), fault))?,
            None => (guessed(&samples, width, false), separator),
        };
        let axes = axes(&names, named.is_some()).map_err(|fault| {
            let place = named.as_ref().map_or(*line, |h| h.line as u64 + 1);
            input.malformed(format!("line {place}"), fault)
        })?;
        let columns = names.into_iter().enumerate().map(|(i, name)| {
            let values = || samples.iter().filter_map(|row| row.get(i));
            let is_words = named.is_some()
                && !axes.contains(&i)
                && values().all(|v| v.is_empty() || !is_number(v))
                && values().any(|v| !v.is_empty());
            Found {
                kind: (!is_words).then(|| kind_of(&name, &samples, i)),
                name,
            }
        });
        let columns = columns.collect();
        let at = named.as_ref().map(|h| h.line);
        let mut head = input_mark(self.mark);
        let before = &self.before[..at.unwrap_or(0)];
        (before.iter()).for_each(|(_, line)| head.extend_from_slice(line));
        let header = at.map_or(Vec::new(), |i| self.before[i].1.clone());
        Ok(Layout {
            form: Form::Table,
            separator,
            newline,
            start: (self.mark as u64).max(head.len() as u64) + header.len() as u64,
            head,
            header,
            header_separator,
            columns,
            axes,
            lines_before: at.map_or(0, |i| i as u64 + 1),
        })
    }

    /// The line of names, if there is one: the first row when no value of it is a number, else the last comment before
    /// the rows that names the three axes.
    fn header(&self) -> Option<Header> {
        let (_, first) = self.rows.first()?;
        // `1,5` is no name but a number with a fault.
        let starts_number =
            |f: &str| f.starts_with(|c: char| c.is_ascii_digit() || "+-.,".contains(c));
        let is_name = |f: &str| f.parse::<f64>().is_err() && !starts_number(f);
        if Separator::of(first).split(first).all(is_name) {
            return Some(Header {
                line: self.before.len() - 1,
                text: first.clone(),
                is_row: true,
            });
        }
        let comments = self.before[..self.before.len() - 1].iter().enumerate();
        comments.rev().find_map(|(i, (_, line))| {
            let text = std::str::from_utf8(line).ok()?;
            let text = text.trim().trim_start_matches(['#', '/', '%']).trim();
            let names: Vec<&str> = Separator::of(text).split(text).collect();
            axes_of(&names)?;
            Some(Header {
                line: i,
                text: text.to_string(),
                is_row: false,
            })
        })
    }
}

fn input_mark(length: usize) -> Vec<u8> {
    [0xef, 0xbb, 0xbf][..length].to_vec()
}
