//! Records made from those of a LAS file: the class and the confidence are new, every other bit stays.

use std::ops::Range;
use std::path::Path;

use crate::cloud::{Kind, PointCloud};
use crate::io::labels::LabelNames;
use crate::io::scan::{Labels, Output, Records, Warning, WarningKind};
use crate::{Error, Result};

use super::Source;
use super::header::{Header, Tail, Vlr};
use super::layout::{self, DESCRIPTOR, Extra};
use super::writer::{Frame, put, set_class};

/// What changes in each record.
pub(super) struct Kept {
    format: u8,
    source_len: usize,
    /// Place of the confidence in the new record, and its type.
    confidence: Option<(usize, Kind)>,
}

impl Kept {
    /// Decides what changes around and in the records.
    pub fn plan(
        source: &Source,
        plan: &Output<'_>,
        path: &Path,
    ) -> Result<(Frame, Kept, Vec<Warning>)> {
        let header = &source.header;
        let mut warnings = Vec::new();
        let mut vlrs: Vec<Vlr> = (source.vlrs.iter())
            .filter(|v| !v.is("laszip encoded", 22204))
            .cloned()
            .collect();
        let mut tail = source.tail.clone();
        if vlrs.iter().any(|v| v.is("copc", 1)) {
            vlrs.retain(|v| !v.is("copc", 1));
            cut_record(&mut tail, "copc", 1000);
            warnings.push(Warning::new(
                WarningKind::NotKept,
                1,
                "the COPC index does not fit the new file and is left out; all points are kept",
            ));
        }
        let mut kept = Kept {
            format: header.format,
            source_len: header.record_len,
            confidence: None,
        };
        if let Some(classes) = plan.classes {
            kept.place_confidence(source, plan.schema, &mut vlrs, &mut tail);
            super::name_classes(&mut vlrs, classes);
        }
        let mut frame = frame(header, tail, kept.record_len());
        for vlr in &vlrs {
            if vlr.data.len() > usize::from(u16::MAX) {
                let fault =
                    "no room left in the record that describes extra bytes; write PLY instead";
                return Err(Error::unusable(path, fault));
            }
            vlr.put(&mut frame.vlrs);
        }
        frame.vlr_count = vlrs.len() as u32;
        frame.gap = source.gap.clone();
        Ok((frame, kept, warnings))
    }

    fn record_len(&self) -> usize {
        let kept = self.source_len;
        (self.confidence).map_or(kept, |(at, kind)| kept.max(at + kind.size()))
    }

    /// Finds or makes the extra-bytes dimension of the confidence, and describes it.
    fn place_confidence(
        &mut self,
        source: &Source,
        schema: &PointCloud,
        vlrs: &mut Vec<Vlr>,
        tail: &mut Tail,
    ) {
        let (extras, _) = source.extras();
        let name = LabelNames::new(schema, true).confidence;
        let old = extras.iter().find(|e| e.name == name);
        if let Some(old) = old.filter(|e| e.is_plain())
            && let Some((kind @ (Kind::F32 | Kind::F64), 1)) = old.kind()
        {
            self.confidence = Some((old.offset, kind));
            return;
        }
        // One that is stored in another way stays, and two of one name would contradict each other.
        let mut names: Vec<String> = extras.iter().map(|e| e.name.clone()).collect();
        let name = &unused(&mut names, name);
        let mut descriptors: Vec<u8> = Vec::new();
        let in_tail = (tail.records.iter()).any(|r| r.user_id == "LASF_Spec" && r.record_id == 4);
        if in_tail {
            // One place for all descriptions; the old one is declared void as the specification says.
            supersede(tail);
            extras
                .iter()
                .for_each(|e| descriptors.extend_from_slice(&e.descriptor));
            vlrs.retain(|v| !layout::is_extra_bytes(v));
        }
        let base = layout::record_len(self.format).expect("the header was checked");
        let described = extras.last().map_or(base, |e| e.offset + e.size);
        // Bytes without a description must get one, or the new one would point at them.
        let mut unknown = self.source_len - described;
        while unknown > 0 {
            // Some readers take bits 3 and 4 of a number of bytes for what they mean beside a type: scale and offset.
            let some = (1..=unknown.min(255) as u8).rfind(|n| n & 0b11000 == 0);
            let some = some.expect("one byte has neither bit");
            let name = unused(&mut names, "undescribed");
            descriptors.extend(Extra::describe_bytes(&name, some));
            unknown -= usize::from(some);
        }
        descriptors.extend(Extra::describe(name, Kind::F32, "probability of the class"));
        let last = vlrs.iter_mut().rfind(|v| {
            layout::is_extra_bytes(v) && v.data.len() + descriptors.len() <= usize::from(u16::MAX)
        });
        match last {
            Some(vlr) => {
                vlr.data.truncate(vlr.data.len() / DESCRIPTOR * DESCRIPTOR);
                vlr.data.append(&mut descriptors);
            }
            None => vlrs.push(Vlr::new("LASF_Spec", 4, "extra bytes", descriptors)),
        }
        self.confidence = Some((self.source_len, Kind::F32));
    }

    /// Appends the new form of some records.
    pub fn records(
        &self,
        records: &Records,
        rows: Range<usize>,
        labels: Option<&Labels>,
        out: &mut Vec<u8>,
    ) -> std::result::Result<(), String> {
        for row in rows {
            let start = out.len();
            out.extend_from_slice(records.row(row));
            out.resize(start + self.record_len(), 0);
            if let (Some(labels), Some((at, kind))) = (labels, self.confidence) {
                let record = &mut out[start..];
                set_class(record, self.format, labels.code[row])?;
                let confidence = labels.confidence[row];
                match kind {
                    Kind::F64 => put(record, at, &f64::from(confidence).to_le_bytes()),
                    _ => put(record, at, &confidence.to_le_bytes()),
                }
            }
        }
        Ok(())
    }
}

/// A name, with a number if it is taken. It is taken then.
fn unused(taken: &mut Vec<String>, name: &str) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    let mut all = std::iter::once(name.to_string()).chain(numbered);
    let free = all.find(|name| !taken.contains(name));
    let free = free.expect("there are more names than dimensions");
    taken.push(free.clone());
    free
}

fn frame(header: &Header, tail: Tail, record_len: usize) -> Frame {
    Frame {
        header: header.bytes.clone(),
        vlrs: Vec::new(),
        vlr_count: 0,
        gap: Vec::new(),
        tail,
        format: header.format,
        record_len,
        scale: header.scale,
        offset: header.offset,
    }
}

/// Removes an extended record from the bytes behind the points.
fn cut_record(tail: &mut Tail, user_id: &str, record_id: u16) {
    let found =
        (tail.records.iter()).position(|r| r.user_id == user_id && r.record_id == record_id);
    if let Some(i) = found {
        let span = tail.records.remove(i).span;
        tail.bytes.drain(span.clone());
        for later in &mut tail.records[i..] {
            later.span = later.span.start - span.len()..later.span.end - span.len();
        }
    }
}

/// Marks the extended extra-bytes records as void (`LASF_Spec` 7, "superseded").
fn supersede(tail: &mut Tail) {
    for record in &mut tail.records {
        if record.user_id == "LASF_Spec" && record.record_id == 4 {
            record.record_id = 7;
            put(&mut tail.bytes, record.span.start + 18, &7u16.to_le_bytes());
        }
    }
}
