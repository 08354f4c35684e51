//! Decodes the points of chunks so that damaged bytes cannot end the program.
//!
//! Point formats 0 to 5 go through the crate `laz`, on a stack that is watched; the layers of formats 6 to 10 through
//! [`Layered`].

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use laz::LazItem;
use laz::record::{RecordDecompressor, SequentialPointRecordDecompressor};

use super::layered::Layered;

/// A decoder of the points of a chunk.
pub(super) enum Decoder {
    Sequential(Box<dyn RecordDecompressor<Source> + Send>),
    Layered(Box<Layered>),
}

/// Stack on which points are decoded, bytes. It is only taken as far as it is used.
const STACK: usize = 64 << 20;
/// Stack that may be in use when the decoder asks for a byte.
const DEEP: usize = 16 << 20;

/// The bytes of a chunk.
///
/// Points may switch between several series of times, and the crate calls itself for each switch: damaged bytes can ask for
/// any number of them in one point. A switch takes as little as 1/36 000 of a byte, so the depth is looked at whenever a
/// byte is read; until the next one, the stack grows by less than 10 MiB.
pub(super) struct Source {
    bytes: Cursor<Vec<u8>>,
    /// Where the stack of the decoder starts.
    top: usize,
}

impl Source {
    fn new(bytes: Vec<u8>) -> Source {
        Source {
            bytes: Cursor::new(bytes),
            top: stack(),
        }
    }
}

/// About where the stack ends now.
fn stack() -> usize {
    let here = 0u8;
    std::hint::black_box(&raw const here).addr()
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.top.abs_diff(stack()) < DEEP {
            true => self.bytes.read(out),
            false => Err(io::Error::other("a point has thousands of times")),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

/// Runs code of the crate, which indexes tables with numbers from the file. All counts and sizes are checked before;
/// this is the last net for faults inside its arithmetic decoder, which would otherwise end the program.
pub(super) fn guarded<T>(run: impl FnOnce() -> io::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err("the compressed data end too early".into())
        }
        Ok(Err(e)) => Err(format!("the compressed data are damaged: {e}")),
        Err(_) => Err("the compressed data are damaged".into()),
    }
}

impl Decoder {
    /// Decodes a whole chunk of points that were compressed one after the other.
    pub fn sequential(items: &Vec<LazItem>, chunk: Vec<u8>) -> Result<Decoder, String> {
        let mut decoder = SequentialPointRecordDecompressor::new(Source::new(chunk));
        (decoder.set_fields_from(items)).map_err(|e| e.to_string())?;
        Ok(Decoder::Sequential(Box::new(decoder)))
    }

    /// Decodes whole records of `record` bytes. The outer error is the machine's, the inner one that of damaged bytes.
    pub fn read(&mut self, rows: &mut [u8], record: usize) -> io::Result<Result<(), String>> {
        match self {
            Decoder::Sequential(decoder) => on_a_stack(decoder.as_mut(), rows),
            Decoder::Layered(decoder) => Ok(decoder.read(rows, record).map_err(String::from)),
        }
    }
}

/// Decodes points on a stack of their own.
fn on_a_stack(
    decoder: &mut (dyn RecordDecompressor<Source> + Send),
    rows: &mut [u8],
) -> io::Result<Result<(), String>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("laz".into()).stack_size(STACK);
        let done = thread.spawn_scoped(scope, || {
            decoder.get_mut().top = stack();
            guarded(|| decoder.decompress_many(rows))
        })?;
        Ok(done.join().expect("panics are caught inside"))
    })
}
