//! `cairn segment -`: clouds on standard input, labels on standard output, the model loaded once.
//!
//! | request | bytes |
//! |---|---|
//! | length | u32, little-endian: bytes of the cloud |
//! | cloud | a whole file in a format that is recognised by its content: NPY is the simplest, PLY, PCD, LAS and LAZ do |
//!
//! | answer | bytes |
//! |---|---|
//! | length | u32, little-endian: bytes that follow |
//! | state | u8: 0 done, 1 refused |
//! | done | i32 × N class codes, then f32 × N confidences, little-endian, in the order of the points |
//! | refused | the reason as UTF-8; the next request is served as if nothing had happened |
//!
//! There is one answer for each request, in order, flushed at once. The end of the input between two requests ends the
//! program with status 0, inside one with status 2. Standard error has one line per cloud with its latency, from the last
//! byte of the request to the last of the answer. A length of more than a gibibyte is refused and ends the program, since what
//! follows cannot be told from a request.

use super::map::LabelMap;
use super::{Args, Chosen};
use crate::cli::{Global, signals};
use crate::io;
use crate::{Error, Result};
use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

/// Longest request, bytes.
const LONGEST: u32 = 1 << 30;
/// How messages call the input.
const NAME: &str = "standard input";

/// Serves requests until the input ends.
pub fn run(args: &Args, global: &Global, chosen: &mut Chosen, map: &LabelMap) -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    let mut number = 0u64;
    while let Some(request) = next_request(&mut input, number)? {
        signals::check("all answers so far were sent")?;
        let start = Instant::now();
        let name = format!("cloud {number}");
        let labels =
            io::read_bytes(&name, request).and_then(|scan| chosen.labels(args, global, map, &scan));
        if let Err(error @ Error::Interrupted { .. }) = labels {
            return Err(error);
        }
        let answer = answer(&labels)?;
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
    Ok(())
}

/// The next cloud, or `None` at the end of the input.
fn next_request(input: &mut impl Read, number: u64) -> Result<Option<Vec<u8>>> {
    let fault = |e| Error::io(NAME, e);
    let cut = |what: &str| {
        Error::malformed(
            NAME,
            format!("cloud {number}"),
            format!("the input ends inside {what}"),
        )
    };
    let mut length = Vec::new();
    input.take(4).read_to_end(&mut length).map_err(fault)?;
    if length.is_empty() {
        return Ok(None);
    }
    let length: [u8; 4] = length
        .try_into()
        .map_err(|_| cut("the length of a cloud"))?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        let fault = format!(
            "{length} bytes promised; at most {LONGEST} are taken. Is the length little-endian?"
        );
        return Err(Error::malformed(NAME, format!("cloud {number}"), fault));
    }
    // The buffer grows with what arrives, not with what is promised.
    let mut bytes = Vec::new();
    input
        .take(length.into())
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    match bytes.len() == length as usize {
        true => Ok(Some(bytes)),
        false => Err(cut(&format!("a cloud of {length} bytes"))),
    }
}

fn answer(labels: &Result<io::Labels>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    match labels {
        Ok(labels) => {
            body.push(0);
            labels
                .code
                .iter()
                .for_each(|c| body.extend(c.to_le_bytes()));
            labels
                .confidence
                .iter()
                .for_each(|c| body.extend(c.to_le_bytes()));
        }
        Err(error) => {
            body.push(1);
            body.extend_from_slice(error.to_string().as_bytes());
        }
    }
    let length = u32::try_from(body.len())
        .map_err(|_| Error::argument("answer", "more than 4 GiB of labels; send smaller clouds"))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.append(&mut body);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_between_clouds_or_are_cut() {
        let read = |bytes: &[u8]| next_request(&mut &bytes[..], 3);
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[2, 0, 0, 0, 8, 9, 7]).unwrap(), Some(vec![8, 9]));
        assert_eq!(read(&[0, 0, 0, 0]).unwrap(), Some(Vec::new()));
        for (bytes, part) in [
            (&[2, 0][..], "inside the length"),
            (&[2, 0, 0, 0, 8], "inside a cloud of 2 bytes"),
            (&[0, 0, 0, 64, 1], "inside a cloud of 1073741824"),
            (&[1, 0, 0, 64], "at most"),
        ] {
            let fault = read(bytes).unwrap_err();
            assert!(fault.to_string().contains(part), "{fault}");
            assert!(fault.to_string().contains("cloud 3"), "{fault}");
            assert_eq!(fault.exit_code(), 2);
        }
    }
}
