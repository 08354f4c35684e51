//! The training log: one JSON object per line, one line per step or validation.
//!
//! ```json
//! {"kind":"step","step":12,"loss":0.61,"accuracy":0.84,"lr":0.002,"grad_norm":1.3,"points":24000,"seconds":0.41}
//! {"kind":"validation","step":100,"miou":0.81,"macc":0.88,"accuracy":0.93,"iou":[0.95,0.8,0.68]}
//! ```
//!
//! `step` counts finished steps. A resumed run drops the lines of steps that its checkpoint does not know, so the log
//! always tells one story.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// One optimizer step.
    Step {
        /// Finished steps, this one included.
        step: u64,
        /// Training loss of the batch.
        loss: f64,
        /// Share of the batch's labelled points that were right, in training mode.
        accuracy: f64,
        /// Learning rate in force.
        lr: f64,
        /// Norm of the gradient before clipping; 0 where the step was skipped.
        grad_norm: f64,
        /// In f16: the gradient was not finite, nothing was learnt, and the loss scale is halved.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
        /// Points in the batch.
        points: usize,
        /// Seconds since the previous step ended, waiting for data included.
        seconds: f64,
    },
    /// One pass over the validation clouds.
    Validation {
        /// Finished steps.
        step: u64,
        /// Mean IoU over all classes, on all original points.
        miou: f64,
        /// Mean accuracy.
        macc: f64,
        /// Overall accuracy.
        accuracy: f64,
        /// IoU per class.
        iou: Vec<f64>,
        /// Mean IoU on one point per voxel.
        miou_voxels: f64,
    },
}

impl Record {
    /// Finished steps.
    pub fn step(&self) -> u64 {
        match self {
            Record::Step { step, .. } | Record::Validation { step, .. } => *step,
        }
    }
}

/// A log file open for appending.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    records: Vec<Record>,
}

impl Log {
    /// Opens the log at `path` and keeps its lines up to step `steps` (none for a fresh start).
    ///
    /// # Errors
    /// The file cannot be read or written, or a line that has to stay is no record.
    pub fn open(path: &Path, steps: u64) -> Result<Log> {
        let mut records = Vec::new();
        if steps > 0 && path.exists() {
            records = read(path)?;
            records.retain(|r| r.step() <= steps);
        }
        let mut text = String::new();
        for record in &records {
            text.push_str(&line(record));
        }
        let mut file = crate::io::Atomic::create(path)?;
        file.put(text.as_bytes())?;
        file.finish()?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(|e| Error::io(path, e))?;
        Ok(Log {
            path: path.to_path_buf(),
            file,
            records,
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, record: Record) -> Result<()> {
        self.file
            .write_all(line(&record).as_bytes())
            .map_err(|e| Error::io(&self.path, e))?;
        self.records.push(record);
        Ok(())
    }

    /// All records so far, those of earlier runs included.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

fn line(record: &Record) -> String {
    let mut text = serde_json::to_string(record).expect("records are plain numbers");
    text.push('\n');
    text
}

/// Reads a log. A last line that an interrupt cut short is left out.
///
/// # Errors
/// The file cannot be read, or another line is no record.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let count = text.lines().count();
    let mut records = Vec::with_capacity(count);
    for (i, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(_) if i + 1 == count => {}
            Err(e) => {
                return Err(Error::malformed(
                    path,
                    format!("line {}", i + 1),
                    e.to_string(),
                ));
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Record {
        Record::Step {
            step,
            loss: 0.1 + step as f64 / 3.0,
            accuracy: 0.5,
            lr: 1e-3,
            grad_norm: 1.0,
            skipped: false,
            points: 10,
            seconds: 0.1,
        }
    }

    #[test]
    fn a_resumed_log_drops_what_its_checkpoint_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path, 0).unwrap();
        for s in 1..=5 {
            log.add(step(s)).unwrap();
        }
        drop(log);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"kind\":\"ste").unwrap();
        let mut log = Log::open(&path, 3).unwrap();
        log.add(step(4)).unwrap();
        let expected: Vec<Record> = (1..=4).map(step).collect();
        assert_eq!(log.records(), expected);
        assert_eq!(read(&path).unwrap(), expected);
        assert!(Log::open(&path, 0).unwrap().records().is_empty());
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, "{}\n{}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
