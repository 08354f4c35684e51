//! Writes PLY: from PLY with everything kept, or from the attributes of any cloud.

use crate::Result;
use crate::cloud::{Endian, Kind, PointCloud};
use crate::io::atomic::Atomic;
use crate::io::labels::{LABEL, LabelNames};
use crate::io::scan::{Labels, Output, Records, Source as AnySource, Warning, WarningKind, Writer};
use crate::io::{check_batch, check_total, kept_words};
use std::sync::Arc;

use super::Source;
use super::header::{Encoding, Meaning, Property, kind_name};
use super::list_len;

enum Recipe {
    /// From the rows of a PLY file.
    Kept {
        properties: Vec<Property>,
        /// Which properties new labels replace.
        replaced: Vec<bool>,
        encoding: Encoding,
        newline: &'static str,
        behind: Arc<Vec<u8>>,
    },
    /// From attributes; false for those that new labels replace.
    Fresh(Vec<bool>),
}

struct PlyWriter {
    output: Atomic,
    recipe: Recipe,
    labelled: bool,
    promised: u64,
    done: u64,
    /// 64-bit integers that a double rounded.
    rounded: u64,
}

pub(super) fn create(mut output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    let (head, recipe) = match plan.source {
        AnySource::Ply(source) => kept(source, plan),
        _ => fresh(plan),
    };
    output.put(&head)?;
    Ok(Box::new(PlyWriter {
        output,
        recipe,
        labelled: plan.classes.is_some(),
        promised: plan.count,
        done: 0,
        rounded: 0,
    }))
}

/// Comment lines that name the classes.
fn class_lines(plan: &Output<'_>) -> Vec<String> {
    let classes = plan.classes.unwrap_or_default().iter();
    classes
        .map(|(code, name)| {
            let name: String = name
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            format!("comment class {code} {name}")
        })
        .collect()
}

fn label_lines(plan: &Output<'_>) -> Vec<String> {
    let names = LabelNames::of(plan);
    match names.is_labelled {
        false => Vec::new(),
        true => vec![
            format!("property int {LABEL}"),
            format!("property float {}", names.confidence),
        ],
    }
}

/// The header of the source with the new properties, and the elements before the points.
fn kept(source: &Source, plan: &Output<'_>) -> (Vec<u8>, Recipe) {
    let header = &source.header;
    let points = header.points();
    let newline = header.newline();
    let names = LabelNames::of(plan);
    let replaced: Vec<bool> = (points.properties.iter())
        .map(|p| p.list.is_none() && names.replace(&p.name))
        .collect();
    let mut head: Vec<u8> = Vec::new();
    let mut pending = label_lines(plan);
    for (line, meaning) in &header.lines {
        let text = String::from_utf8_lossy(line);
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_past = match meaning {
            Meaning::Element(e) | Meaning::Property(e, _) => *e > header.vertex,
            Meaning::Other => words == ["end_header"],
        };
        if is_past {
            pending
                .drain(..)
                .for_each(|line| push(&mut head, &line, newline));
        }
        match meaning {
            Meaning::Element(e) if *e == header.vertex => {
                push(
                    &mut head,
                    &format!("element vertex {}", plan.count),
                    newline,
                );
            }
            Meaning::Property(e, p) if *e == header.vertex && replaced[*p] => {}
            Meaning::Property(e, p) if *e == header.vertex => {
                let property = &points.properties[*p];
                let name = match property.list {
                    None => names.written(&property.name),
                    Some(_) => &property.name,
                };
                match name == property.name {
                    true => head.extend_from_slice(line),
                    false => push(&mut head, &format!("property {} {name}", words[1]), newline),
                }
            }
            _ if names.is_labelled && is_class_line(&words) => {}
            _ => head.extend_from_slice(line),
        }
        if words.first() == Some(&"format") {
            (class_lines(plan).iter()).for_each(|line| push(&mut head, line, newline));
        }
    }
    head.extend_from_slice(&source.before);
    let recipe = Recipe::Kept {
        properties: points.properties.clone(),
        replaced,
        encoding: header.encoding,
        newline,
        behind: source.behind.clone(),
    };
    (head, recipe)
}

fn push(head: &mut Vec<u8>, line: &str, newline: &str) {
    head.extend_from_slice(line.as_bytes());
    head.extend_from_slice(newline.as_bytes());
}

/// True for a line as `class_lines` writes it; old names would contradict the new ones.
fn is_class_line(words: &[&str]) -> bool {
    matches!(words, ["comment", "class", code, _, ..] if code.parse::<i32>().is_ok())
}

/// A header for the attributes of a cloud.
fn fresh(plan: &Output<'_>) -> (Vec<u8>, Recipe) {
    let new = LabelNames::of(plan);
    let kept: Vec<bool> = (plan.schema.attributes.iter())
        .map(|a| !new.replace(&a.name))
        .collect();
    let mut lines = vec!["ply".to_string(), "format binary_little_endian 1.0".into()];
    lines.extend(class_lines(plan));
    lines.push(format!("element vertex {}", plan.count));
    let mut names: Vec<String> = ["x", "y", "z"].map(String::from).into();
    lines.extend(names.iter().map(|n| format!("property double {n}")));
    if new.is_labelled {
        names.extend([LABEL.into(), new.confidence.into()]);
    }
    for (a, _) in plan
        .schema
        .attributes
        .iter()
        .zip(&kept)
        .filter(|(_, kept)| **kept)
    {
        let name = unique(new.written(&a.name), &names);
        lines.push(format!("property {} {name}", kind_name(a.column.kind())));
        names.push(name);
    }
    lines.extend(label_lines(plan));
    lines.push("end_header".into());
    let mut head = Vec::new();
    lines.iter().for_each(|line| push(&mut head, line, "\n"));
    (head, Recipe::Fresh(kept))
}

/// A name without white space that is not taken.
fn unique(name: &str, taken: &[String]) -> String {
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
    let plain = if plain.is_empty() {
        "unnamed".into()
    } else {
        plain
    };
    let mut found = plain.clone();
    let mut number = 2;
    while taken.contains(&found) {
        found = format!("{plain}_{number}");
        number += 1;
    }
    found
}

/// The parts of a stored row that no new label replaces.
fn kept_parts<'a>(
    row: &'a [u8],
    properties: &[Property],
    replaced: &[bool],
    encoding: Encoding,
) -> Vec<&'a [u8]> {
    if !replaced.contains(&true) {
        return vec![row];
    }
    match encoding {
        Encoding::Ascii => {
            let mut words = row.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
            let mut keep = Vec::new();
            for (property, replaced) in properties.iter().zip(replaced) {
                let first = words.next().expect("rows were checked on reading");
                let text = String::from_utf8_lossy(first);
                let more = property.list.map_or(0, |_| text.parse().unwrap_or(0));
                let more = words.by_ref().take(more).count();
                keep.resize(keep.len() + 1 + more, !replaced);
            }
            kept_words(row, &keep)
        }
        Encoding::Binary(endian) => {
            let mut at = 0;
            let mut parts = Vec::new();
            for (property, replaced) in properties.iter().zip(replaced) {
                let start = at;
                let size = property.kind.size();
                at += match property.list {
                    None => size,
                    Some(kind) => {
                        let len = list_len(kind, &row[at..at + kind.size()], endian);
                        kind.size() + len.unwrap_or(0) as usize * size
                    }
                };
                if !replaced {
                    parts.push(&row[start..at]);
                }
            }
            parts
        }
    }
}

impl PlyWriter {
    fn row(&mut self, cloud: &PointCloud, stored: Option<&[u8]>, row: usize, out: &mut Vec<u8>) {
        match (&self.recipe, stored) {
            (
                Recipe::Kept {
                    properties,
                    replaced,
                    encoding,
                    ..
                },
                Some(stored),
            ) => {
                let parts = kept_parts(stored, properties, replaced, *encoding);
                let gap: &[u8] = if *encoding == Encoding::Ascii {
                    b" "
                } else {
                    b""
                };
                out.extend_from_slice(&parts.join(gap));
            }
            (Recipe::Fresh(kept), _) => {
                for x in cloud.coord[row] {
                    out.extend_from_slice(&x.to_le_bytes());
                }
                for (a, _) in cloud.attributes.iter().zip(kept).filter(|(_, kept)| **kept) {
                    match a.column.kind() {
                        Kind::U64 | Kind::I64 => {
                            let x = a.column.get(row);
                            self.rounded += u64::from(x.abs() >= 9_007_199_254_740_992.0);
                            out.extend_from_slice(&x.to_le_bytes());
                        }
                        _ => a.column.put(row, Endian::Little, out),
                    }
                }
            }
            (Recipe::Kept { .. }, None) => {
                unreachable!("`check_batch` asks for one record per point")
            }
        }
    }

    fn label(&self, labels: &Labels, row: usize, out: &mut Vec<u8>) {
        let (code, confidence) = (labels.code[row], labels.confidence[row]);
        match &self.recipe {
            Recipe::Kept {
                encoding: Encoding::Ascii,
                ..
            } => out.extend_from_slice(format!(" {code} {confidence}").as_bytes()),
            Recipe::Kept {
                encoding: Encoding::Binary(Endian::Big),
                ..
            } => {
                out.extend_from_slice(&code.to_be_bytes());
                out.extend_from_slice(&confidence.to_be_bytes());
            }
            _ => {
                out.extend_from_slice(&code.to_le_bytes());
                out.extend_from_slice(&confidence.to_le_bytes());
            }
        }
    }
}

impl Writer for PlyWriter {
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        let is_kept = matches!(self.recipe, Recipe::Kept { .. });
        check_batch(cloud, is_kept.then_some(records), labels, self.labelled)?;
        let end_of_row = match &self.recipe {
            Recipe::Kept {
                encoding: Encoding::Ascii,
                newline,
                ..
            } => newline,
            _ => "",
        };
        let mut bytes = Vec::new();
        for row in 0..cloud.len() {
            bytes.clear();
            self.row(cloud, is_kept.then(|| records.row(row)), row, &mut bytes);
            if let Some(labels) = labels {
                self.label(labels, row, &mut bytes);
            }
            bytes.extend_from_slice(end_of_row.as_bytes());
            self.output.put(&bytes)?;
        }
        self.done += cloud.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Warning>> {
        check_total(self.output.path(), self.promised, self.done)?;
        if let Recipe::Kept { behind, .. } = &self.recipe {
            self.output.put(behind)?;
        }
        self.output.finish()?;
        let text = "64-bit integers beyond 2^53 were rounded, since PLY has no such type";
        let rounded = Warning::new(
            WarningKind::NotKept,
            self.rounded,
            format!("{} {text}", self.rounded),
        );
        Ok((self.rounded > 0).then_some(rounded).into_iter().collect())
    }
}
