//! Clouds and labels over a pipe: the requests and answers of `cairn segment -`.
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
//! A length of more than a gibibyte is an error that ends the conversation, since what follows cannot be told from a request.

use std::io::Read;

use super::Labels;
use crate::{Error, Result};

/// Longest request, bytes.
const LONGEST: u32 = 1 << 30;

/// The bytes of the next cloud, or `None` at the end of the input; `name` and `number` are for messages.
///
/// # Errors
/// An input that fails or ends inside a request, and lengths that are none.
pub fn request(input: &mut impl Read, name: &str, number: u64) -> Result<Option<Vec<u8>>> {
    let fault = |e| Error::io(name, e);
    let cut = |what: &str| {
        Error::malformed(
            name,
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
        return Err(Error::malformed(name, format!("cloud {number}"), fault));
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

/// The answer to one request.
///
/// # Errors
/// Labels of more than 4 GiB.
pub fn answer(labels: &Result<Labels>) -> Result<Vec<u8>> {
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
        let read = |bytes: &[u8]| request(&mut &bytes[..], "pipe", 3);
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
