//! A temporary file without a name: it is gone with the process, however that ends.

use crate::{Error, Result};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes on disk that nobody else sees.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    folder: PathBuf,
    len: u64,
}

impl Scratch {
    /// An empty file on the file system of `folder`.
    ///
    /// # Errors
    /// A folder in which no file can be made.
    pub fn new(folder: &Path) -> Result<Scratch> {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let file = tempfile::tempfile_in(folder).map_err(|e| fault(folder, e))?;
        Ok(Scratch {
            file,
            folder: folder.to_path_buf(),
            len: 0,
        })
    }

    /// Bytes up to the last one written.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Writes bytes at a position; what lies between the end and there becomes 0.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut file = &self.file;
        (file.seek(SeekFrom::Start(at)))
            .and_then(|_| file.write_all(bytes))
            .map_err(|e| fault(&self.folder, e))?;
        self.len = self.len.max(at + bytes.len() as u64);
        Ok(())
    }

    /// Reads bytes from a position; behind the end there are zeros.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let there = self.len.saturating_sub(at).min(bytes.len() as u64) as usize;
        let (there, behind) = bytes.split_at_mut(there);
        behind.fill(0);
        let mut file = &self.file;
        (file.seek(SeekFrom::Start(at)))
            .and_then(|_| file.read_exact(there))
            .map_err(|e| fault(&self.folder, e))
    }
}

fn fault(folder: &Path, e: io::Error) -> Error {
    let text = format!("temporary points cannot be kept here: {}", e.kind());
    Error::io(folder, io::Error::new(e.kind(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_gaps_are_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::new(folder.path()).unwrap();
        scratch.write(6, &[1, 2, 3]).unwrap();
        scratch.write(7, &[9]).unwrap();
        let mut bytes = [7; 12];
        scratch.read(2, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 1, 9, 3, 0, 0, 0, 0, 0]);
        assert_eq!(scratch.len(), 9);
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 0, "the file has no name");
        let missing = folder.path().join("no/such");
        let text = Scratch::new(&missing).unwrap_err().to_string();
        assert!(
            text.contains("no/such") && text.contains("temporary points"),
            "{text}"
        );
    }
}
