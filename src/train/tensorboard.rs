//! Scalar summaries as TensorBoard event files.
//!
//! A file is a sequence of records: length u64, masked CRC-32C of the length, the event, masked CRC-32C of the event, all
//! little endian (TFRecord). An event is a protocol-buffer message of which three fields are needed:
//!
//! | field | number | type |
//! |---|---|---|
//! | wall_time | 1 | double |
//! | step | 2 | varint |
//! | file_version | 3 | string, `brain.Event:2` in the first event |
//! | summary | 5 | message: value = 1 (message: tag = 1, simple_value = 2 float) |
//!
//! Written here because the crate for it (`tensorboard-rs`) was last released in 2022 and brings an image stack and an
//! unmaintained protocol-buffer runtime for these hundred lines.

use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file open for writing.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a new event file in `folder`; TensorBoard shows all files of a folder as one run.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(folder: &Path) -> Result<EventFile> {
        let now = now();
        // Two runs may start within the same second, so the name goes down to the nanosecond.
        let name = format!(
            "events.out.tfevents.{}.{:09}.cairn",
            now.as_secs(),
            now.subsec_nanos()
        );
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(|e| Error::io(&path, e))?;
        let mut events = EventFile { path, file };
        let mut event = wall_time();
        field_bytes(&mut event, 3, b"brain.Event:2");
        events.record(&event)?;
        Ok(events)
    }

    /// Adds the values of one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, number) in values {
            let mut value = Vec::new();
            field_bytes(&mut value, 1, tag.as_bytes());
            value.push(2 << 3 | 5);
            value.extend((*number as f32).to_le_bytes());
            field_bytes(&mut summary, 1, &value);
        }
        let mut event = wall_time();
        event.push(2 << 3);
        varint(&mut event, step);
        field_bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut bytes = length.to_vec();
        bytes.extend(masked(crc32c(&length)).to_le_bytes());
        bytes.extend(event);
        bytes.extend(masked(crc32c(event)).to_le_bytes());
        self.file
            .write_all(&bytes)
            .map_err(|e| Error::io(&self.path, e))
    }
}

fn now() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// An event that holds the time only.
fn wall_time() -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(now().as_secs_f64().to_le_bytes());
    event
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// CRC-32C (Castagnoli), bit by bit: records are a few dozen bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

/// TFRecord stores checksums rotated and offset.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_the_published_vector() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn records_hold_what_was_added() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path()).unwrap();
        events.add(300, &[("loss", 0.5), ("miou", 0.25)]).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let n = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked(crc32c(&rest[..8])));
            assert_eq!(crc(12 + n), masked(crc32c(&rest[12..12 + n])));
            found.push(rest[12..12 + n].to_vec());
            rest = &rest[16 + n..];
        }
        assert_eq!(found.len(), 2);
        assert_eq!(found[0][9..], *b"\x1a\x0dbrain.Event:2");
        // step 300 = varint AC 02, then the summary of two values
        let summary =
            b"\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f\x0a\x0b\x0a\x04miou\x15\x00\x00\x80\x3e";
        assert_eq!(found[1][9..12], [0x10, 0xAC, 0x02]);
        assert_eq!(found[1][12..14], [0x2A, summary.len() as u8]);
        assert_eq!(found[1][14..], *summary);
    }
}
