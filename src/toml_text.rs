//! TOML from outside. The crate `toml` calls itself for every bracket, so that a file of brackets would end the program: how
//! deep a text goes is looked at first.

use serde::de::DeserializeOwned;

/// Most tables, arrays and parts of names inside each other: far more than any configuration has.
const DEEPEST: usize = 100;

/// What is wrong with a text.
#[derive(Debug)]
pub struct Fault {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub fault: String,
}

/// Reads a value.
///
/// # Errors
/// No TOML, values that do not fit, and anything nested more than a hundred deep.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let line = |byte: usize| {
        text.as_bytes()[..byte]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    };
    if let Some(byte) = too_deep(text) {
        return Err(Fault {
            line: line(byte),
            fault: format!("nested more than {DEEPEST} deep"),
        });
    }
    toml::from_str(text).map_err(|e| Fault {
        line: line(e.span().map_or(0, |s| s.start.min(text.len()))),
        fault: e.message().to_string(),
    })
}

/// Where a text goes too deep. Brackets and dots in strings count, too: nobody has so many of them.
fn too_deep(text: &str) -> Option<usize> {
    let (mut open, mut parts) = (0usize, 0usize);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b'.' => parts += 1,
            _ => {}
        }
        // A name goes on over these; a number has one dot.
        if !(byte.is_ascii_alphanumeric() || b"._-\"' \t".contains(&byte)) {
            parts = 0;
        }
        if open.max(parts) > DEEPEST {
            return Some(i);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_are_refused_before_they_fill_the_stack() {
        for deep in [
            "a = ".to_string() + &"[{a=".repeat(50_000),
            "\na".to_string() + &".a".repeat(50_000) + " = 1",
            format!("[{}]", ["a"; 50_000].join(".")),
        ] {
            let fault = parse::<toml::Table>(&deep).unwrap_err();
            assert_eq!(fault.fault, "nested more than 100 deep");
            assert_eq!(fault.line, 1 + usize::from(deep.starts_with('\n')));
        }
        let wide = format!(
            "a = [{}]\n[[b.c]]\nd.e = {{ f = [[1]] }}",
            "0.5, ".repeat(1000)
        );
        assert_eq!(parse::<toml::Table>(&wide).unwrap().len(), 2);
        let fault = parse::<toml::Table>("a = 1\nb = 2 3\n").unwrap_err();
        assert_eq!(fault.line, 2);
    }
}
