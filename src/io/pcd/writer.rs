//! Writes PCD: from PCD with everything kept, or from the attributes of any cloud.

use crate::cloud::{Endian, Kind, PointCloud};
use crate::io::atomic::Atomic;
use crate::io::labels::{LABEL, LabelNames};
use crate::io::scan::{Labels, Output, Records, Source as AnySource, Warning, Writer};
use crate::io::{check_batch, check_total, kept_words};
use crate::{Error, Result};

use super::header::{Encoding, Field, Header, type_letter};
use super::lzf;

enum Recipe {
    /// From the rows of a PCD file; false for fields that new labels replace.
    Kept { fields: Vec<Field>, kept: Vec<bool> },
    /// From attributes; false for those that new labels replace.
    Fresh(Vec<bool>),
}

struct PcdWriter {
    output: Atomic,
    recipe: Recipe,
    encoding: Encoding,
    labelled: bool,
    /// Sizes of the fields of a row, in order.
    sizes: Vec<usize>,
    /// Rows of a compressed file: its columns need them all.
    rows: Vec<u8>,
    promised: u64,
    done: u64,
}

/// What the header says about one field.
struct Entry {
    name: String,
    kind: Kind,
    count: usize,
}

fn entry(name: impl Into<String>, kind: Kind) -> Entry {
    Entry {
        name: name.into(),
        kind,
        count: 1,
    }
}

pub(super) fn create(mut output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    let names = LabelNames::of(plan);
    let labelled = names.is_labelled;
    let (mut entries, recipe, source) = match plan.source {
        AnySource::Pcd(source) => {
            let header = &source.header;
            let kept: Vec<bool> = (header.fields.iter())
                .map(|f| !(f.count == 1 && names.replace(&f.name)))
                .collect();
            let written = |f: &Field| match f.count {
                1 => names.written(&f.name).to_string(),
                _ => f.name.clone(),
            };
            let entries = (header.fields.iter().zip(&kept)).filter(|(_, kept)| **kept);
            let entries: Vec<Entry> = entries
                .map(|(f, _)| Entry {
                    name: written(f),
                    kind: f.kind,
                    count: f.count,
                })
                .collect();
            let fields = header.fields.clone();
            (entries, Recipe::Kept { fields, kept }, Some(header))
        }
        _ => {
            let (entries, kept) = fresh(plan);
            (entries, Recipe::Fresh(kept), None)
        }
    };
    if labelled {
        entries.push(entry(LABEL, Kind::I32));
        entries.push(entry(names.confidence, Kind::F32));
    }
    let encoding = source.map_or(Encoding::Binary, |h| h.encoding);
    let head = match source {
        Some(header) => kept_head(header, &entries, plan),
        None => fresh_head(&entries, plan),
    };
    output.put(&head)?;
    Ok(Box::new(PcdWriter {
        output,
        recipe,
        encoding,
        labelled,
        sizes: entries.iter().map(|e| e.kind.size() * e.count).collect(),
        rows: Vec::new(),
        promised: plan.count,
        done: 0,
    }))
}

/// Fields for the attributes of a cloud.
fn fresh(plan: &Output<'_>) -> (Vec<Entry>, Vec<bool>) {
    let mut entries: Vec<Entry> = ["x", "y", "z"].map(|n| entry(n, Kind::F64)).into();
    let mut kept = Vec::new();
    let names = LabelNames::of(plan);
    for a in &plan.schema.attributes {
        let is_kept = !names.replace(&a.name);
        kept.push(is_kept);
        if is_kept {
            let name = unique(names.written(&a.name), &entries);
            entries.push(entry(name, a.column.kind()));
        }
    }
    (entries, kept)
}

/// A name without white space that is not taken.
fn unique(name: &str, taken: &[Entry]) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_whitespace() || c.is_control() {
                '_'
            } else {
                c
            }
        })
        .collect();
    // A lone underscore means padding.
    let plain = if plain.trim_matches('_').is_empty() {
        "unnamed".into()
    } else {
        plain
    };
    let mut found = plain.clone();
    let mut number = 2;
    while taken.iter().any(|e| e.name == found) {
        found = format!("{plain}_{number}");
        number += 1;
    }
    found
}

fn field_lines(entries: &[Entry]) -> [String; 4] {
    let join = |text: fn(&Entry) -> String| entries.iter().map(text).collect::<Vec<_>>().join(" ");
    [
        format!("FIELDS {}", join(|e| e.name.clone())),
        format!("SIZE {}", join(|e| e.kind.size().to_string())),
        format!("TYPE {}", join(|e| type_letter(e.kind).to_string())),
        format!("COUNT {}", join(|e| e.count.to_string())),
    ]
}

fn class_lines(plan: &Output<'_>) -> Vec<String> {
    let classes = plan.classes.unwrap_or_default().iter();
    classes
        .map(|(code, name)| {
            let name: String = name
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            format!("# class {code} {name}")
        })
        .collect()
}

/// True for a line as `class_lines` writes it.
fn is_class_line(words: &[&str]) -> bool {
    matches!(words, ["#", "class", code, _, ..] if code.parse::<i32>().is_ok())
}

/// The header of the source with the new fields.
fn kept_head(header: &Header, entries: &[Entry], plan: &Output<'_>) -> Vec<u8> {
    let labelled = plan.classes.is_some();
    let [fields, size, kind, count] = field_lines(entries);
    let whole = plan.count == header.points;
    let mut head = Vec::new();
    let mut has_count = false;
    for line in &header.lines {
        let text = String::from_utf8_lossy(line);
        let words: Vec<&str> = text.split_whitespace().collect();
        let newline = if line.ends_with(b"\r\n") {
            "\r\n"
        } else {
            "\n"
        };
        let mut push = |line: &str| head.extend_from_slice(format!("{line}{newline}").as_bytes());
        match words.first() {
            Some(&("FIELDS" | "COLUMNS")) if labelled => {
                class_lines(plan).iter().for_each(|line| push(line));
                push(&fields);
            }
            Some(&"SIZE") if labelled => push(&size),
            Some(&"TYPE") if labelled => push(&kind),
            Some(&"COUNT") if labelled => {
                push(&count);
                has_count = true;
            }
            Some(&"DATA") if labelled && !has_count => {
                push(&count);
                head.extend_from_slice(line);
            }
            Some(&("WIDTH" | "POINTS")) if !whole => {
                push(&format!("{} {}", words[0], plan.count));
            }
            Some(&"HEIGHT") if !whole => push("HEIGHT 1"),
            _ if labelled && is_class_line(&words) => {}
            _ => head.extend_from_slice(line),
        }
    }
    head
}

fn fresh_head(entries: &[Entry], plan: &Output<'_>) -> Vec<u8> {
    let mut lines = vec!["# .PCD v0.7 - Point Cloud Data file format".to_string()];
    lines.extend(class_lines(plan));
    lines.push("VERSION 0.7".into());
    lines.extend(field_lines(entries));
    lines.push(format!(
        "WIDTH {}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0",
        plan.count
    ));
    lines.push(format!("POINTS {}\nDATA binary\n", plan.count));
    lines.join("\n").into_bytes()
}

impl PcdWriter {
    fn row(&self, cloud: &PointCloud, records: &Records, row: usize, out: &mut Vec<u8>) {
        match &self.recipe {
            Recipe::Kept { fields, kept } if self.encoding == Encoding::Ascii => {
                let stored = records.row(row);
                let keep: Vec<bool> = (fields.iter().zip(kept))
                    .flat_map(|(f, &kept)| std::iter::repeat_n(kept, f.count))
                    .collect();
                out.extend_from_slice(&kept_words(stored, &keep).join(&b" "[..]));
            }
            Recipe::Kept { fields, kept } => {
                let stored = records.row(row);
                for (f, _) in fields.iter().zip(kept).filter(|(_, kept)| **kept) {
                    out.extend_from_slice(&stored[f.offset..f.offset + f.size()]);
                }
            }
            Recipe::Fresh(kept) => {
                for x in cloud.coord[row] {
                    out.extend_from_slice(&x.to_le_bytes());
                }
                for (a, _) in cloud.attributes.iter().zip(kept).filter(|(_, kept)| **kept) {
                    a.column.put(row, Endian::Little, out);
                }
            }
        }
    }

    /// The rows column by column, compressed, behind their sizes.
    fn compressed(&self) -> Result<Vec<u8>> {
        let stride: usize = self.sizes.iter().sum();
        let mut columns = Vec::with_capacity(self.rows.len());
        let mut at = 0;
        for size in &self.sizes {
            for row in self.rows.chunks_exact(stride) {
                columns.extend_from_slice(&row[at..at + size]);
            }
            at += size;
        }
        let packed = lzf::pack(&columns);
        let size = |n: usize| {
            u32::try_from(n).map_err(|_| {
                let fault = "compressed PCD holds at most 4 GiB; write another format";
                Error::unusable(self.output.path(), fault)
            })
        };
        let mut bytes = size(packed.len())?.to_le_bytes().to_vec();
        bytes.extend(size(columns.len())?.to_le_bytes());
        bytes.extend(packed);
        Ok(bytes)
    }
}

impl Writer for PcdWriter {
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        let is_kept = matches!(self.recipe, Recipe::Kept { .. });
        check_batch(cloud, is_kept.then_some(records), labels, self.labelled)?;
        let is_text = self.encoding == Encoding::Ascii;
        let mut bytes = Vec::new();
        for row in 0..cloud.len() {
            bytes.clear();
            self.row(cloud, records, row, &mut bytes);
            if let Some(labels) = labels {
                let (code, confidence) = (labels.code[row], labels.confidence[row]);
                if is_text {
                    bytes.extend_from_slice(format!(" {code} {confidence}").as_bytes());
                } else {
                    bytes.extend_from_slice(&code.to_le_bytes());
                    bytes.extend_from_slice(&confidence.to_le_bytes());
                }
            }
            if is_text {
                bytes.push(b'\n');
            }
            match self.encoding {
                Encoding::Compressed => self.rows.extend_from_slice(&bytes),
                _ => self.output.put(&bytes)?,
            }
        }
        self.done += cloud.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Warning>> {
        check_total(self.output.path(), self.promised, self.done)?;
        if self.encoding == Encoding::Compressed {
            let bytes = self.compressed()?;
            self.output.put(&bytes)?;
        }
        self.output.finish()?;
        Ok(Vec::new())
    }
}
