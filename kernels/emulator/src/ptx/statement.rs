//! Bodies of kernels: labels, instructions, declarations of registers and variables.

use super::lexer::Token;
use super::parser::Parser;
use super::{Instruction, Location, Operand, Scalar, Statement};
use crate::Error;

impl<'a> Parser<'a> {
    /// Everything up to the brace that closes a kernel.
    pub fn body(&mut self) -> Result<Vec<Statement>, Error> {
        let (mut body, mut depth) = (Vec::new(), 1);
        while depth > 0 {
            if self.take('{') {
                depth += 1;
                body.push(Statement::Open);
            } else if self.take('}') {
                depth -= 1;
                if depth > 0 {
                    body.push(Statement::Close);
                }
            } else if !self.take(';')
                && let Some(statement) = self.statement()?
            {
                body.push(statement);
            }
        }
        Ok(body)
    }

    fn statement(&mut self) -> Result<Option<Statement>, Error> {
        let first = self.at;
        let guard = if self.take('@') {
            let negated = self.take('!');
            Some((self.word()?.to_string(), negated))
        } else {
            None
        };
        let word = self.word()?;
        if guard.is_none() {
            if self.take(':') {
                return Ok(Some(Statement::Label(word.into())));
            }
            if word.starts_with('.') {
                return self.directive(word);
            }
        }
        let ptx_line = self.tokens[first].line;
        let mut operands = Vec::new();
        while !self.take(';') {
            operands.push(self.operand()?);
            self.take(',');
        }
        let text = &self.source[self.tokens[first].start..self.tokens[self.at - 1].start];
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let location = Location {
            ptx_line,
            ..self.location
        };
        Ok(Some(Statement::Instruction(Instruction {
            guard,
            opcode: word.into(),
            operands,
            text,
            location,
        })))
    }

    fn directive(&mut self, word: &str) -> Result<Option<Statement>, Error> {
        match word {
            ".loc" => {
                let rest = self.rest_of_line();
                if let [Token::Word(file), Token::Word(line), ..] = rest[..] {
                    self.location.file = file.parse().unwrap_or(0);
                    self.location.line = line.parse().unwrap_or(0);
                }
                Ok(None)
            }
            ".pragma" => {
                while !self.take(';') {
                    self.next()?;
                }
                Ok(None)
            }
            ".reg" => {
                let kind = self.word()?;
                self.registers(kind).map(Some)
            }
            // Inline assembly may leave out the space.
            word if word.starts_with(".reg.") => self.registers(&word[4..]).map(Some),
            ".shared" | ".local" => Ok(Some(Statement::Variable(self.variable(word)?))),
            other => self.refuse(other, "this directive is not implemented"),
        }
    }

    fn registers(&mut self, kind: &str) -> Result<Statement, Error> {
        let Some(scalar) = kind.strip_prefix('.').and_then(Scalar::parse) else {
            return self.refuse(kind, "unknown register type");
        };
        let name = self.word()?;
        if self.take('<') {
            let count = self.number()? as u32;
            self.expect('>')?;
            self.expect(';')?;
            return Ok(Statement::RegisterRange(scalar, name.into(), count));
        }
        let mut names = vec![name.to_string()];
        while self.take(',') {
            names.push(self.word()?.into());
        }
        self.expect(';')?;
        Ok(Statement::Registers(scalar, names))
    }

    fn operand(&mut self) -> Result<Operand, Error> {
        if self.take('{') {
            let mut parts = Vec::new();
            while !self.take('}') {
                parts.push(self.operand()?);
                self.take(',');
            }
            return Ok(Operand::Vector(parts));
        }
        if self.take('[') {
            let operand = self.address()?;
            self.expect(']')?;
            return Ok(operand);
        }
        if self.take('!') {
            return Ok(Operand::Not(self.word()?.into()));
        }
        if self.take('-') {
            self.at -= 1;
            return Ok(Operand::Immediate(self.number()?));
        }
        let word = self.word()?;
        if word == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(value) = immediate(word) {
            return Ok(Operand::Immediate(value));
        }
        if self.take('|') {
            return Ok(Operand::Pair(word.into(), self.word()?.into()));
        }
        if self.take('+') {
            return self.refuse(
                &format!("{word}+…"),
                "an address as a value with an offset is not implemented",
            );
        }
        Ok(Operand::Name(word.into()))
    }

    fn address(&mut self) -> Result<Operand, Error> {
        let word = self.word()?;
        if let Some(absolute) = immediate(word) {
            return Ok(Operand::Address(None, absolute as i64));
        }
        let offset = if self.take('+') || self.peek() == Some(Token::Mark('-')) {
            self.number()? as i64
        } else {
            0
        };
        Ok(Operand::Address(Some(word.into()), offset))
    }
}

/// The bits of a literal: `12`, `0x1F`, `017`, `0b101`, `0f3F800000`, `0d…`, `WARP_SZ`.
pub(super) fn immediate(word: &str) -> Option<u64> {
    if word == "WARP_SZ" {
        return Some(32);
    }
    if !word.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    if let Some(bits) = lower.strip_prefix("0f") {
        return u32::from_str_radix(bits, 16).ok().map(u64::from);
    }
    if let Some(bits) = lower.strip_prefix("0d") {
        return u64::from_str_radix(bits, 16).ok();
    }
    let digits = lower.trim_end_matches('u');
    if let Some(bits) = digits.strip_prefix("0x") {
        return u64::from_str_radix(bits, 16).ok();
    }
    if let Some(bits) = digits.strip_prefix("0b") {
        return u64::from_str_radix(bits, 2).ok();
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return u64::from_str_radix(&digits[1..], 8).ok();
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_keep_their_bits() {
        assert_eq!(immediate("0f3F800000"), Some(0x3f80_0000));
        assert_eq!(immediate("0d3FF0000000000000"), Some(0x3ff0_0000_0000_0000));
        assert_eq!(immediate("0x1fU"), Some(31));
        assert_eq!(immediate("017"), Some(15));
        assert_eq!(immediate("%r1"), None);
    }
}
