//! Splits PTX text into words, marks and strings, each with its line.

use crate::Error;

/// A piece of PTX text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'a> {
    /// Identifiers, numbers, opcodes and directives, with the dots and `::` inside them.
    Word(&'a str),
    /// A single mark such as `;`.
    Mark(char),
    /// A string without its quotes.
    Text(&'a str),
}

/// A token, its line and where it starts.
#[derive(Debug, Clone, Copy)]
pub struct Spanned<'a> {
    /// The token.
    pub token: Token<'a>,
    /// Line, from 1.
    pub line: u32,
    /// First byte.
    pub start: usize,
}

/// Splits `source` into tokens; comments and white space are dropped.
pub fn tokens(source: &str) -> Result<Vec<Spanned<'_>>, Error> {
    let bytes = source.as_bytes();
    let (mut out, mut at, mut line) = (Vec::new(), 0, 1u32);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..]
                    .iter()
                    .position(|&b| b == b'\n')
                    .unwrap_or(bytes.len() - at);
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let length = source[at..].find("*/").ok_or(Error::Syntax {
                    line,
                    what: "an unclosed comment".into(),
                })?;
                line += source[at..at + length].matches('\n').count() as u32;
                at += length + 2;
            }
            b'"' => {
                let unclosed = Error::Syntax {
                    line,
                    what: "an unclosed string".into(),
                };
                let length = source[at + 1..].find('"').ok_or(unclosed)?;
                at += length + 2;
                out.push(Spanned {
                    token: Token::Text(&source[start + 1..at - 1]),
                    line,
                    start,
                });
            }
            byte if is_word(byte) => {
                at = word_end(bytes, at);
                out.push(Spanned {
                    token: Token::Word(&source[start..at]),
                    line,
                    start,
                });
            }
            byte if byte.is_ascii() => {
                at += 1;
                out.push(Spanned {
                    token: Token::Mark(byte as char),
                    line,
                    start,
                });
            }
            _ => {
                return Err(Error::Syntax {
                    line,
                    what: "a character outside ASCII".into(),
                });
            }
        }
    }
    Ok(out)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// A word runs over `::` (as in `shared::cta`) but not over the single `:` after a label.
fn word_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        if at < bytes.len() && is_word(bytes[at]) {
            at += 1;
        } else if bytes[at..].starts_with(b"::") {
            at += 2;
        } else {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_end_at_a_colon_and_opcodes_run_over_two() {
        let words: Vec<Token> = tokens("$L1: cp.async.ca.shared::cta.global [%r1], 16; // end\n")
            .unwrap()
            .iter()
            .map(|spanned| spanned.token)
            .collect();
        assert_eq!(words[0], Token::Word("$L1"));
        assert_eq!(words[1], Token::Mark(':'));
        assert_eq!(words[2], Token::Word("cp.async.ca.shared::cta.global"));
        assert_eq!(words.len(), 9);
    }

    #[test]
    fn an_unclosed_comment_is_an_error() {
        assert!(tokens("/* no end").is_err());
    }
}
