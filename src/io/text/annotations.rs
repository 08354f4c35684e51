//! Labels of S3DIS rooms: `room/room.txt` has the points, `room/Annotations/chair_1.txt` the same points by object.
//!
//! A point of the room is found in the annotations by its coordinates. The codes are those of the reference code: ceiling
//! 0, floor 1, wall 2, beam 3, column 4, window 5, door 6, table 7, chair 8, sofa 9, bookcase 10, board 11, clutter 12,
//! and −1 for points of the room that no object has. Objects of other names are clutter, as there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::io::input::Input;
use crate::io::scan::{Warning, WarningKind};
use crate::{Error, Result};

const CLASSES: [&str; 13] = [
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
    "bookcase", "board", "clutter",
];
const CLUTTER: u8 = 12;

/// Class codes by position.
#[derive(Debug)]
pub struct Annotations {
    /// By a hash of the coordinates: two positions of a room share one with a chance below 10⁻⁶.
    codes: HashMap<u64, u8>,
    rows: u64,
    missing: u64,
    warnings: Vec<Warning>,
}

/// The folder of annotations of a room, if the file is one.
fn folder(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    let is_room = path.file_stem()? == folder.file_name()?;
    let annotations = folder.join("Annotations");
    (is_room && annotations.is_dir()).then_some(annotations)
}

fn key(coord: [f64; 3]) -> u64 {
    coord.iter().fold(0u64, |hash, x| {
        let mixed = (hash.rotate_left(23) ^ x.to_bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    })
}

impl Annotations {
    /// Reads the annotations of a room; nothing for other files.
    pub fn beside(path: &Path) -> Result<Option<Annotations>> {
        let Some(folder) = folder(path) else {
            return Ok(None);
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let file = entry.map_err(|e| Error::io(&folder, e))?.path();
            if file.extension().is_some_and(|e| e == "txt") && file.is_file() {
                files.push(file);
            }
        }
        files.sort();
        let mut found = Annotations {
            codes: HashMap::new(),
            rows: 0,
            missing: 0,
            warnings: Vec::new(),
        };
        files.iter().try_for_each(|file| found.add(file))?;
        Ok(Some(found))
    }

    fn warn(&mut self, count: u64, text: String) {
        let warning = Warning::new(WarningKind::Annotations, count, text);
        self.warnings.push(warning);
    }

    /// Reads one object.
    fn add(&mut self, file: &Path) -> Result<()> {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let class = name.rsplit_once('_').map_or(&*name, |(class, _)| class);
        let code = CLASSES.iter().position(|c| *c == class);
        let mut input = Input::open(file)?;
        let (mut rows, mut number) = (0, 0u64);
        while let Some(line) = input.line()? {
            number += 1;
            let text = String::from_utf8_lossy(&line);
            let mut words = text.split_ascii_whitespace();
            let mut coord = [0.0; 3];
            let Some(first) = words.next() else { continue };
            let mut next = Some(first);
            for x in &mut coord {
                let word = next.take().or_else(|| words.next());
                *x = word.and_then(|w| w.parse().ok()).ok_or_else(|| {
                    input.malformed(format!("line {number}"), "x, y and z are expected here")
                })?;
            }
            self.codes
                .insert(key(coord), code.map_or(CLUTTER, |c| c as u8));
            rows += 1;
        }
        self.rows += rows;
        match (rows, code) {
            (0, _) => self.warn(0, format!("{} is empty", file.display())),
            (_, None) => {
                let text = format!(
                    "{}: no class is called `{class}`; taken as clutter",
                    file.display()
                );
                self.warn(rows, text);
            }
            _ => {}
        }
        Ok(())
    }

    /// The class of a point of the room.
    pub fn code(&mut self, coord: [f64; 3]) -> i32 {
        match self.codes.get(&key(coord)) {
            Some(code) => i32::from(*code),
            None => {
                self.missing += 1;
                -1
            }
        }
    }

    /// What is to be said after `points` points.
    pub fn warnings(mut self, points: u64) -> Vec<Warning> {
        if self.missing > 0 || self.rows != points {
            let text = format!(
                "the room has {points} points and its annotations {}; {} points are in no annotation and get the label -1",
                self.rows, self.missing
            );
            self.warn(self.missing, text);
        }
        self.warnings
    }
}
