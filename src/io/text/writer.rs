//! Writes text: from a text file with every character kept, or a table from the attributes of any cloud.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::cloud::{Column, PointCloud};
use crate::io::atomic::Atomic;
use crate::io::labels::{LABEL, LabelNames};
use crate::io::scan::{Labels, Output, Records, Source as AnySource, Warning, Writer};
use crate::io::{check_batch, check_total};
use crate::with_column;
use crate::{Error, Result};

use super::Source;
use super::gaps::Gaps;
use super::layout::{Form, Layout};
use super::line::Separator;

struct TextWriter {
    output: Atomic,
    /// What stays of a text file; `None` when rows are made from attributes.
    kept: Option<Kept>,
    /// For each attribute whether it is written.
    attributes: Vec<bool>,
    separator: &'static str,
    newline: &'static str,
    labelled: bool,
    promised: u64,
    done: u64,
    /// Lines between rows already written.
    gap: usize,
}

/// The lines between the rows, and for each column whether it stays.
struct Kept {
    gaps: Arc<Gaps>,
    separator: Separator,
    columns: Vec<bool>,
}

/// Says why a scan from elsewhere cannot become PTS or PTX.
pub(super) fn check(source: &AnySource, form: Form) -> std::result::Result<(), String> {
    match source {
        AnySource::Text(source) if source.holds(form) => Ok(()),
        _ => Err(
            "PTS and PTX are only written from files of the same kind; write .xyz or .csv".into(),
        ),
    }
}

pub(super) fn create(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    let form = super::form_of(output.path());
    let source = match plan.source {
        // A table from a PTX file has the transformed points, so it is made afresh.
        AnySource::Text(source) if source.holds(form) => Some(source),
        _ => None,
    };
    let labelled = plan.classes.is_some();
    let mut writer = TextWriter {
        output,
        kept: None,
        attributes: Vec::new(),
        separator: " ",
        newline: "\n",
        labelled,
        promised: plan.count,
        done: 0,
        gap: 0,
    };
    let head = match source {
        Some(source) => writer.keep(source, plan),
        None if form == Form::Table => writer.fresh(plan),
        None => {
            check(plan.source, form)
                .map_err(|fault| Error::unusable(writer.output.path(), fault))?;
            unreachable!("a source of this form was taken above")
        }
    };
    writer.output.put(&head)?;
    Ok(Box::new(writer))
}

impl TextWriter {
    fn keep(&mut self, source: &Source, plan: &Output<'_>) -> Vec<u8> {
        let layout = &source.layout;
        let columns = layout.columns.iter();
        let is_named = !layout.header.is_empty();
        let new = LabelNames::of(plan);
        let replaced = |name: &str| is_named && new.replace(name);
        let kept: Vec<bool> = columns.map(|c| !replaced(&c.name)).collect();
        let mut head = layout.head.clone();
        if is_named {
            let line = String::from_utf8_lossy(&layout.header);
            // Names may stand in a comment.
            let names = line.trim_start_matches(['#', '/', '%', ' ', '\t']);
            head.extend_from_slice(&line.as_bytes()[..line.len() - names.len()]);
            let line = names.trim_end();
            let line = renamed(line, layout, &new);
            let mut names = kept_fields(&line, layout.header_separator, &kept);
            if self.labelled {
                let quote = if line.ends_with('"') { "\"" } else { "" };
                let separator = layout.header_separator.text();
                for name in [LABEL, new.confidence] {
                    let _ = write!(names, "{separator}{quote}{name}{quote}");
                }
            }
            head.extend_from_slice(names.as_bytes());
            head.extend_from_slice(layout.newline.as_bytes());
        }
        self.separator = layout.separator.text();
        self.newline = layout.newline;
        self.kept = Some(Kept {
            gaps: Arc::clone(&source.gaps),
            separator: layout.separator,
            columns: kept,
        });
        head
    }

    /// The line of names of a new table: plain in CSV files, else a comment, which every reader of such tables skips.
    fn fresh(&mut self, plan: &Output<'_>) -> Vec<u8> {
        let is_csv = crate::io::extension(self.output.path()) == "csv";
        self.separator = if is_csv { "," } else { " " };
        let mut names: Vec<String> = ["x", "y", "z"].map(String::from).into();
        let new = LabelNames::of(plan);
        if self.labelled {
            names.extend([LABEL.into(), new.confidence.into()]);
        }
        let own = names.split_off(3);
        for attribute in &plan.schema.attributes {
            let stays = !new.replace(&attribute.name);
            self.attributes.push(stays);
            if stays {
                let name = new.written(&attribute.name);
                let name = unique(name, names.iter().chain(&own));
                names.push(name);
            }
        }
        names.extend(own);
        let mut head = String::new();
        if !is_csv {
            for (code, name) in plan.classes.unwrap_or_default() {
                let name = name.replace(char::is_control, " ");
                let _ = writeln!(head, "# class {code} {name}");
            }
            head.push_str("# ");
        }
        let _ = writeln!(head, "{}", names.join(self.separator));
        head.into_bytes()
    }

    /// Writes the lines before point `done`.
    fn gaps(&mut self) -> Result<()> {
        while let Some(Kept { gaps, .. }) = &self.kept
            && let Some((before, lines)) = gaps.get(self.gap)
            && before <= self.done
        {
            self.output.put(lines)?;
            if !lines.ends_with(b"\n") {
                self.output.put(self.newline.as_bytes())?;
            }
            self.gap += 1;
        }
        Ok(())
    }

    fn row(&self, cloud: &PointCloud, records: &Records, row: usize) -> String {
        let mut text = String::new();
        if let Some(kept) = &self.kept {
            let stored = String::from_utf8_lossy(records.row(row));
            return kept_fields(&stored, kept.separator, &kept.columns);
        }
        let [x, y, z] = cloud.coord[row].map(number);
        let _ = write!(text, "{x}{s}{y}{s}{z}", s = self.separator);
        let attributes = cloud.attributes.iter().zip(&self.attributes);
        for (attribute, _) in attributes.filter(|(_, stays)| **stays) {
            text.push_str(self.separator);
            let _ = match &attribute.column {
                Column::F64(v) => write!(text, "{}", number(v[row])),
                Column::F32(v) if v[row].is_nan() => write!(text, "nan"),
                column => with_column!(column, v => write!(text, "{}", v[row])),
            };
        }
        text
    }
}

fn number(x: f64) -> String {
    if x.is_nan() {
        "nan".into()
    } else {
        x.to_string()
    }
}

/// The values of a line that stay, with what stood between neighbours.
fn kept_fields(line: &str, separator: Separator, kept: &[bool]) -> String {
    if !kept.contains(&false) {
        return line.to_string();
    }
    let fields = separator.split_raw(line).zip(kept);
    let fields: Vec<&str> = (fields.filter(|(_, kept)| **kept))
        .map(|(field, _)| field)
        .collect();
    fields.join(separator.text())
}

/// The line of names with those that give way to new labels.
fn renamed(line: &str, layout: &Layout, new: &LabelNames) -> String {
    let separator = layout.header_separator;
    if layout
        .columns
        .iter()
        .all(|c| new.written(&c.name) == c.name)
    {
        return line.to_string();
    }
    let fields = separator.split_raw(line).zip(&layout.columns);
    let fields: Vec<String> = fields
        .map(|(field, column)| match new.written(&column.name) {
            same if same == column.name => field.to_string(),
            other => field.replacen(field.trim().trim_matches('"'), other, 1),
        })
        .collect();
    fields.join(separator.text())
}

/// A name that no separator cuts and that is not taken.
fn unique<'a>(name: &str, taken: impl Iterator<Item = &'a String> + Clone) -> String {
    let cuts = |c: char| c.is_whitespace() || c.is_control() || ",;\"".contains(c);
    let plain = match name.replace(cuts, "_") {
        name if name.is_empty() || name.parse::<f64>().is_ok() => format!("_{name}"),
        name => name,
    };
    let mut found = plain.clone();
    let mut number = 2;
    while taken.clone().any(|t| *t == found) {
        found = format!("{plain}_{number}");
        number += 1;
    }
    found
}

impl Writer for TextWriter {
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        check_batch(
            cloud,
            self.kept.is_some().then_some(records),
            labels,
            self.labelled,
        )?;
        for row in 0..cloud.len() {
            self.gaps()?;
            let mut text = self.row(cloud, records, row);
            if let Some(labels) = labels {
                let (code, confidence) = (labels.code[row], labels.confidence[row]);
                let _ = write!(text, "{s}{code}{s}{confidence}", s = self.separator);
            }
            text.push_str(self.newline);
            self.output.put(text.as_bytes())?;
            self.done += 1;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Warning>> {
        self.gaps()?;
        check_total(self.output.path(), self.promised, self.done)?;
        self.output.finish()?;
        Ok(Vec::new())
    }
}
