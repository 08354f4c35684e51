//! Classes and confidences of a whole scan on disk, written in any order and read in that of the scan.
//!
//! A point takes 6 bytes: class + 1 as u16 (0 for a point without a class), confidence as f32, little-endian.

use super::scratch::Scratch;
use crate::Result;
use std::path::Path;

/// The decision on one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Number of the point in the scan.
    pub point: u64,
    /// Its class.
    pub class: i32,
    /// Probability of that class, 0 to 1.
    pub confidence: f32,
}

const BYTES: usize = 6;
/// Points that are read and written together.
const WINDOW: u64 = 1 << 13;

/// The decisions on all points of a scan; those that were never made have class −1 and confidence 0.
#[derive(Debug)]
pub struct Results {
    scratch: Scratch,
}

impl Results {
    /// No decisions yet, on the file system of `folder`.
    pub fn new(folder: &Path) -> Result<Results> {
        let scratch = Scratch::new(folder)?;
        Ok(Results { scratch })
    }

    /// Keeps decisions. They are sorted by point.
    pub fn put(&mut self, decisions: &mut [Decision]) -> Result<()> {
        decisions.sort_unstable_by_key(|d| d.point);
        let mut bytes = vec![0; WINDOW as usize * BYTES];
        for window in decisions.chunk_by(|a, b| a.point / WINDOW == b.point / WINDOW) {
            let first = window[0].point / WINDOW * WINDOW;
            let at = first * BYTES as u64;
            if (window.len() as u64) < WINDOW {
                self.scratch.read(at, &mut bytes)?;
            }
            for d in window {
                let record = &mut bytes[(d.point - first) as usize * BYTES..][..BYTES];
                let class = u16::try_from(d.class + 1).expect("models have less than 2^16 classes");
                record[..2].copy_from_slice(&class.to_le_bytes());
                record[2..].copy_from_slice(&d.confidence.to_le_bytes());
            }
            self.scratch.write(at, &bytes)?;
        }
        Ok(())
    }

    /// Class and confidence of `count` points from `first`.
    pub fn get(&self, first: u64, count: usize) -> Result<(Vec<i32>, Vec<f32>)> {
        let mut bytes = vec![0; count * BYTES];
        self.scratch.read(first * BYTES as u64, &mut bytes)?;
        let decode = |record: &[u8]| {
            let class = i32::from(u16::from_le_bytes([record[0], record[1]])) - 1;
            (
                class,
                f32::from_le_bytes([record[2], record[3], record[4], record[5]]),
            )
        };
        Ok(bytes.chunks_exact(BYTES).map(decode).unzip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_come_back_in_the_order_of_the_scan() {
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::new(folder.path()).unwrap();
        let all: Vec<Decision> = (0..3 * WINDOW)
            .filter(|i| i % 7 != 3)
            .map(|point| Decision {
                point,
                class: (point % 40) as i32,
                confidence: point as f32 / 1e5,
            })
            .collect();
        // Every third point first, backwards; then the others; the last window is full at once.
        for part in 0..3 {
            let mut some: Vec<Decision> = all.iter().rev().copied().collect();
            some.retain(|d| d.point % 3 == part);
            results.put(&mut some).unwrap();
        }
        let (class, confidence) = results.get(5, 3 * WINDOW as usize).unwrap();
        for (i, (class, confidence)) in class.into_iter().zip(confidence).enumerate() {
            let point = i as u64 + 5;
            let expected = match point < 3 * WINDOW && point % 7 != 3 {
                true => ((point % 40) as i32, point as f32 / 1e5),
                false => (-1, 0.0),
            };
            assert_eq!((class, confidence), expected, "point {point}");
        }
    }
}
