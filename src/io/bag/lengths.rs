//! The lengths inside a record, compared with its bytes before the crate `mcap` reads it.
//!
//! The crate bounds records, not the strings in them: it asks for 4 GB for a string before a byte of it is missing. And it
//! panics at an attachment that ends before its check sum.

use mcap::records::op;

/// What a record is made of, as far as lengths go.
enum Part {
    /// So many bytes.
    Fixed(usize),
    /// A length, u32, and a string.
    Text,
    /// A length, u32, and as many bytes of pairs of strings.
    Map,
}
use Part::{Fixed, Map, Text};

/// The parts of the records that are read, and of chunks up to their content; `None` for all others.
fn parts(opcode: u8) -> Option<&'static [Part]> {
    Some(match opcode {
        op::HEADER => &[Text, Text],
        op::SCHEMA => &[Fixed(2), Text, Text, Fixed(4)],
        op::CHANNEL => &[Fixed(4), Text, Text, Map],
        op::MESSAGE => &[Fixed(22)],
        // Times, name, type, and behind them the length of the data, the data and a check sum.
        op::ATTACHMENT => &[Fixed(16), Text, Text, Fixed(12)],
        op::METADATA => &[Text, Map],
        op::CHUNK => &[Fixed(28), Text, Fixed(8)],
        _ => return None,
    })
}

/// Whether a record is one that is read, or a chunk of them.
///
/// # Errors
/// A length in it that runs past its end.
pub fn check(opcode: u8, record: &[u8]) -> Result<bool, String> {
    let Some(parts) = parts(opcode) else {
        return Ok(false);
    };
    let mut rest = record;
    for part in parts {
        match part {
            Fixed(count) => drop(take(&mut rest, *count)?),
            Text => drop(sized(&mut rest)?),
            Map => {
                let mut pairs = sized(&mut rest)?;
                while !pairs.is_empty() {
                    sized(&mut pairs)?;
                    sized(&mut pairs)?;
                }
            }
        }
    }
    Ok(true)
}

/// A length and as many bytes.
fn sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = take(rest, 4)?.try_into().expect("four bytes were taken");
    take(rest, u32::from_le_bytes(length) as usize)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest.split_at_checked(count).ok_or_else(|| {
        let there = rest.len();
        format!("a part of {count} bytes is promised in a record with {there} left")
    })?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_compared_with_the_record() {
        let text = |text: &str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let header = [text("ros2"), text("me")].concat();
        assert_eq!(check(op::HEADER, &header), Ok(true));
        assert!(check(op::HEADER, &header[..13]).is_err());
        assert!(
            check(op::HEADER, &[0xff; 9])
                .unwrap_err()
                .contains("4294967295")
        );
        let map = [text("key"), text("value")].concat();
        let metadata = [text("name"), (map.len() as u32).to_le_bytes().into(), map].concat();
        assert_eq!(check(op::METADATA, &metadata), Ok(true));
        let mut long = metadata.clone();
        long[12] = 0xff;
        assert!(check(op::METADATA, &long).is_err());
        let attachment = [vec![0; 16], text("map"), text("text"), vec![0; 12]].concat();
        assert_eq!(check(op::ATTACHMENT, &attachment), Ok(true));
        assert!(check(op::ATTACHMENT, &attachment[..attachment.len() - 1]).is_err());
        assert_eq!(check(op::CHUNK_INDEX, &[]), Ok(false));
    }
}
