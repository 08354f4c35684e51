//! Runs the decoder of the crate `laz` so that damaged bytes cannot end the program, but for what [`Source`] says of layers.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use laz::record::RecordDecompressor;

/// A decoder of the points of a chunk.
pub(super) type Decoder = Box<dyn RecordDecompressor<Source> + Send>;

/// Stack on which points are decoded, bytes. It is only taken as far as it is used.
const STACK: usize = 64 << 20;
/// Stack that may be in use when the decoder asks for a byte.
const DEEP: usize = 16 << 20;

/// The bytes of a chunk.
///
/// Points may switch between several series of times, and the crate calls itself for each switch: damaged bytes can ask for
/// any number of them in one point. A switch takes as little as 1/36 000 of a byte, so the depth is looked at whenever a
/// byte is read; until the next one, the stack grows by less than 10 MiB.
///
/// The layers of formats 6 to 10 are in the crate's hands before they are decoded, so there only the size of the stack
/// helps: a layer of times made for it can still overflow the stack.
pub(super) struct Source {
    bytes: Cursor<Vec<u8>>,
    /// Where the stack of the decoder starts.
    top: usize,
}

impl Source {
    pub fn new(bytes: Vec<u8>) -> Source {
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

/// Decodes points on a stack of their own.
pub(super) fn decode(decoder: &mut Decoder, rows: &mut [u8]) -> io::Result<Result<(), String>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("laz".into()).stack_size(STACK);
        let done = thread.spawn_scoped(scope, || {
            decoder.get_mut().top = stack();
            guarded(|| decoder.decompress_many(rows))
        })?;
        Ok(done.join().expect("panics are caught inside"))
    })
}
