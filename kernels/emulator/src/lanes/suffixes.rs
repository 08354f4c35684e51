//! The dotted suffixes of an opcode, each of which somebody must account for.

use crate::ptx::Scalar;

/// Rounding of a float result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    NearestAway,
    /// Towards zero.
    Zero,
    /// Down.
    Down,
    /// Up.
    Up,
}

/// Suffixes of one opcode. Whoever understands one takes it; one that is left over means that the instruction does
/// something that is not implemented.
#[derive(Debug)]
pub struct Suffixes<'a> {
    words: Vec<&'a str>,
    kinds: Vec<Scalar>,
}

impl<'a> Suffixes<'a> {
    /// The suffixes of `ld.global.v2.f32` without `ld`; types are kept apart, in order.
    pub fn new(words: impl Iterator<Item = &'a str>) -> Self {
        let (mut rest, mut kinds) = (Vec::new(), Vec::new());
        for word in words {
            match Scalar::parse(word) {
                Some(kind) => kinds.push(kind),
                None => rest.push(word),
            }
        }
        Suffixes { words: rest, kinds }
    }

    /// The `index`-th type.
    pub fn kind(&self, index: usize) -> Option<Scalar> {
        self.kinds.get(index).copied()
    }

    /// Number of types.
    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// Takes a suffix; false if it is not there.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.words.iter().position(|have| *have == word);
        if let Some(at) = found {
            self.words.remove(at);
        }
        found.is_some()
    }

    /// Whether a suffix is there; it stays.
    pub fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    /// Takes the first of `words` that is there and gives its position in `words`.
    pub fn take_one(&mut self, words: &[&str]) -> Option<usize> {
        words.iter().position(|word| self.take(word))
    }

    /// Takes `.rn`, `.rz`, `.rm`, `.rp` or `.rna`.
    pub fn rounding(&mut self) -> Option<Rounding> {
        use Rounding::*;
        let found = self.take_one(&["rn", "rz", "rm", "rp", "rna"])?;
        Some([Nearest, Zero, Down, Up, NearestAway][found])
    }

    /// A suffix that nobody took.
    pub fn left_over(&self) -> Option<&'a str> {
        self.words.first().copied()
    }
}
