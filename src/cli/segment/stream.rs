//! `cairn segment -`: clouds on standard input, labels on standard output, the model loaded once.
//!
//! Requests and answers are those of [`crate::io::frames`]. There is one answer for each request, in order, flushed at once.
//! A cloud that needs more than `--memory` is refused: a compressed one can stand for a thousand times its bytes.
//! The end of the input between two requests ends the program with status 0, inside one with status 2. An interrupt ends
//! it with status 130: at once while it waits for a request, before the answer while a cloud is in work; a request that was
//! read is answered or named on standard error. Standard error has one line per cloud with its latency, from the last byte
//! of the request to the last of the answer.

use super::{Args, Chosen, large};
use crate::cli::{Global, signals};
use crate::infer::LabelMap;
use crate::io::{self, Scan, frames};
use crate::{Error, Result};
use std::io::{ErrorKind, Write};
use std::time::Instant;

/// How messages call the input.
const NAME: &str = "standard input";

/// Fewest bytes of a point in the formats that do not say how many points there are, which are text.
const SHORTEST_LINE: u64 = 6;

/// The cloud of a request, if there is memory for it.
fn read(args: &Args, chosen: &mut Chosen, name: &str, request: Vec<u8>) -> Result<Scan> {
    let bytes = request.len() as u64;
    let reader = io::open_bytes(name, request)?;
    let points = reader.count().unwrap_or(bytes / SHORTEST_LINE);
    let held = bytes + reader.held();
    if !large::is_held(args, chosen, points, reader.schema(), held)? {
        let memory = large::budget(args);
        let fault =
            format!("{points} points need more than {memory} (--memory); send smaller clouds");
        return Err(Error::unusable(name, fault));
    }
    io::collect(reader)
}

/// Serves requests until the input ends.
pub fn run(args: &Args, global: &Global, chosen: &mut Chosen, map: &LabelMap) -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    let mut number = 0u64;
    loop {
        let request = || frames::request(&mut input, NAME, number);
        let Some(request) = signals::waiting("all clouds were answered", request)? else {
            return Ok(());
        };
        let start = Instant::now();
        let name = format!("cloud {number}");
        let labels = read(args, chosen, &name, request)
            .and_then(|scan| chosen.labels(args, global, map, &scan));
        if let Err(Error::Interrupted { .. }) = labels {
            let saved = format!("cloud {number} has no answer, all before it have theirs");
            return Err(Error::Interrupted { saved });
        }
        let answer = frames::answer(&labels)?;
        let sent = output.write_all(&answer).and_then(|()| output.flush());
        match sent {
            // The client has what it wanted.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|e| Error::io("standard output", e))?,
        }
        let seconds = start.elapsed().as_secs_f64();
        global.note(match labels {
            Ok(labels) => format!(
                "cloud {number}: {} points in {seconds:.4} s",
                labels.code.len()
            ),
            Err(error) => format!("cloud {number}: refused in {seconds:.4} s: {error}"),
        });
        number += 1;
    }
}
