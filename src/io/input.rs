//! A file to read, with its length known: no reader asks for more bytes than are there.

use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Longest line of a text header, bytes.
const LONGEST_LINE: usize = 1 << 16;

/// A regular file, or bytes that a program holds, with a position; every read is checked against the bytes that are
/// there.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    file: BufReader<Box<dyn Bytes>>,
    len: u64,
    position: u64,
    in_memory: bool,
}

/// Where bytes come from.
trait Bytes: Read + Seek + Debug + Send {}

impl Bytes for File {}
impl Bytes for Cursor<Vec<u8>> {}

/// Opens a regular file to read it: for every file that a user names.
///
/// # Errors
/// Anything else is refused before it is opened, since opening a pipe waits until somebody writes to it.
pub fn open_regular(path: &Path) -> Result<File> {
    let fault = |e| Error::io(path, e);
    let metadata = std::fs::metadata(path).map_err(fault)?;
    if metadata.is_dir() {
        return Err(Error::unusable(path, "is a folder, not a file"));
    }
    if !metadata.is_file() {
        let fault = "is not a regular file; write what it gives to a file first";
        return Err(Error::unusable(path, fault));
    }
    File::open(path).map_err(fault)
}

/// Reads a regular file of text.
///
/// # Errors
/// As [`open_regular`], and bytes that are no UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    (open_regular(path)?.read_to_string(&mut text)).map_err(|e| Error::io(path, e))?;
    Ok(text)
}

impl Input {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path)?;
        let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
        Ok(Input {
            path: path.to_path_buf(),
            len: metadata.len(),
            file: BufReader::with_capacity(1 << 16, Box::new(file)),
            position: 0,
            in_memory: false,
        })
    }

    /// The bytes of a file that is nowhere on a disk; `name` is for messages.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Input {
            path: name.into(),
            len: bytes.len() as u64,
            file: BufReader::with_capacity(1 << 16, Box::new(Cursor::new(bytes))),
            position: 0,
            in_memory: true,
        }
    }

    /// True when there is no file behind it.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// The name of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Bytes before the next read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes from here to the end.
    pub fn remaining(&self) -> u64 {
        self.len - self.position
    }

    /// A fault in this file.
    pub fn malformed(&self, place: impl Into<String>, fault: impl Into<String>) -> Error {
        Error::malformed(&self.path, place, fault)
    }

    /// An operating-system error on this file; a file that shrank while it was read counts as cut short.
    pub fn io(&self, e: std::io::Error) -> Error {
        if e.kind() == std::io::ErrorKind::UnexpectedEof {
            return self.malformed(format!("byte {}", self.position), "the file ends here");
        }
        Error::io(&self.path, e)
    }

    /// Goes to a byte of the file, at most its end.
    pub fn seek(&mut self, position: u64) -> Result<()> {
        let position = position.min(self.len);
        // A short way inside the buffer must not throw the buffer away: column-wise files hop a lot.
        let hop = position as i64 - self.position as i64;
        self.file.seek_relative(hop).map_err(|e| self.io(e))?;
        self.position = position;
        Ok(())
    }

    /// The next `count` bytes; `what` names them in the error when the file is too short.
    pub fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>> {
        if count > self.remaining() {
            return Err(self.malformed(
                format!("byte {}", self.position),
                format!("{what}: {count} bytes promised, {} there", self.remaining()),
            ));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_exact(&mut bytes).map_err(|e| self.io(e))?;
        self.position += count;
        Ok(bytes)
    }

    /// The next line with its end-of-line bytes, or `None` at the end of the file.
    pub fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let limit = LONGEST_LINE as u64 + 1;
        (&mut self.file)
            .take(limit)
            .read_until(b'\n', &mut line)
            .map_err(|e| self.io(e))?;
        if line.len() > LONGEST_LINE {
            return Err(self.malformed(
                format!("byte {}", self.position),
                format!("line longer than {LONGEST_LINE} bytes"),
            ));
        }
        self.position += line.len() as u64;
        Ok((!line.is_empty()).then_some(line))
    }
}

/// For crates that read files themselves.
impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Input {
    /// As [`Input::seek`]: behind the end is the end.
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let target = match to {
            SeekFrom::Start(byte) => Some(byte),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        let target = target.ok_or(std::io::ErrorKind::InvalidInput)?;
        Input::seek(self, target).map_err(std::io::Error::other)?;
        Ok(self.position)
    }
}

/// Number stored little-endian at `offset`; `bytes` is known to reach that far.
macro_rules! read_le {
    ($bytes:expr, $offset:expr, $t:ty) => {
        <$t>::from_le_bytes(
            $bytes[$offset..$offset + size_of::<$t>()]
                .try_into()
                .expect("the range has the size of the type"),
        )
    };
}
pub(crate) use read_le;
