//! Tokens to [`Module`]. Covers what NVRTC writes for kernels whose device functions are all inlined.

use super::lexer::{Spanned, Token, tokens};
use super::{
    Entry, Instruction, Location, Module, Operand, Param, Scalar, Space, Statement, Variable,
};
use crate::Error;

/// Parses a PTX file.
///
/// # Errors
/// [`Error::Syntax`] where the text is not PTX, [`Error::Refused`] for declarations that are not implemented, such
/// as functions that are called.
pub fn parse(source: &str) -> Result<Module, Error> {
    let mut parser = Parser {
        source,
        tokens: tokens(source)?,
        at: 0,
        location: Location::default(),
    };
    let mut module = Module::default();
    while parser.at < parser.tokens.len() {
        parser.top_level(&mut module)?;
    }
    Ok(module)
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Spanned<'a>>,
    at: usize,
    location: Location,
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens
            .get(self.at)
            .or(self.tokens.last())
            .map_or(0, |spanned| spanned.line)
    }

    fn syntax<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::Syntax {
            line: self.line(),
            what: what.into(),
        })
    }

    fn refuse<T>(&self, what: &str, why: &'static str) -> Result<T, Error> {
        Err(Error::Refused {
            line: self.line(),
            what: what.into(),
            why: why.into(),
        })
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|spanned| spanned.token)
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        match self.peek() {
            Some(token) => {
                self.at += 1;
                Ok(token)
            }
            None => self.syntax("the file ends too early"),
        }
    }

    fn word(&mut self) -> Result<&'a str, Error> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => {
                self.at -= 1;
                self.syntax(format!("a word is missing before {other:?}"))
            }
        }
    }

    fn take(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), Error> {
        if self.take(mark) {
            Ok(())
        } else {
            self.syntax(format!("`{mark}` is missing"))
        }
    }

    fn number(&mut self) -> Result<u64, Error> {
        let negative = self.take('-');
        let word = self.word()?;
        match immediate(word) {
            Some(value) => Ok(if negative {
                value.wrapping_neg()
            } else {
                value
            }),
            None => {
                self.at -= 1;
                self.syntax(format!("`{word}` is not a number"))
            }
        }
    }

    /// The tokens left on the line of the one before: `.loc` and `.file` end where their line does.
    fn rest_of_line(&mut self) -> Vec<Token<'a>> {
        let line = self.tokens[self.at - 1].line;
        let mut out = Vec::new();
        while self
            .tokens
            .get(self.at)
            .is_some_and(|spanned| spanned.line == line)
        {
            out.push(self.tokens[self.at].token);
            self.at += 1;
        }
        out
    }

    fn top_level(&mut self, module: &mut Module) -> Result<(), Error> {
        let word = self.word()?;
        match word {
            ".version" | ".target" | ".address_size" => {
                self.rest_of_line();
            }
            ".file" => {
                if let [Token::Word(number), Token::Text(name), ..] = self.rest_of_line()[..]
                    && let Ok(number) = number.parse()
                {
                    module.files.insert(number, name.into());
                }
            }
            ".section" => {
                self.word()?;
                self.expect('{')?;
                while !self.take('}') {
                    self.at += 1;
                    if self.at >= self.tokens.len() {
                        return self.syntax("a section without end");
                    }
                }
            }
            ".visible" | ".weak" | ".extern" => {}
            ".entry" => {
                let entry = self.entry()?;
                module.entries.push(entry);
            }
            ".func" => {
                let name = self.called_name();
                return self.refuse(
                    &format!(".func {name}"),
                    "calls are not implemented: mark device functions __forceinline__",
                );
            }
            ".global" | ".const" | ".shared" => {
                let variable = self.variable(word)?;
                module.variables.push(variable);
            }
            ".pragma" => while !self.take(';') && self.next().is_ok() {},
            other => {
                self.at -= 1;
                return self.refuse(other, "this declaration is not implemented");
            }
        }
        Ok(())
    }

    /// The name of a function: the word before its parameters, which come last.
    fn called_name(&self) -> &'a str {
        let header = self.tokens[self.at..]
            .split(|spanned| matches!(spanned.token, Token::Mark('{' | ';')))
            .next();
        let mut pairs = header.unwrap_or_default().windows(2).filter_map(|pair| {
            match (pair[0].token, pair[1].token) {
                (Token::Word(word), Token::Mark('(')) => Some(word),
                _ => None,
            }
        });
        pairs.next_back().unwrap_or("")
    }

    /// `.align 4 .b8 name[16] = {...};` after its space.
    fn variable(&mut self, space: &str) -> Result<Variable, Error> {
        let space = match space {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            _ => Space::Local,
        };
        let (scalar, align, name, count) = self.declaration()?;
        let mut init = Vec::new();
        if self.take('=') {
            if self.take('{') {
                while !self.take('}') {
                    init.extend_from_slice(&self.number()?.to_le_bytes()[..scalar.bytes()]);
                    self.take(',');
                }
            } else {
                init.extend_from_slice(&self.number()?.to_le_bytes()[..scalar.bytes()]);
            }
        }
        self.expect(';')?;
        let bytes = scalar.bytes() * count;
        if bytes == 0 && space != Space::Shared {
            return self.refuse(name, "a variable without a size");
        }
        Ok(Variable {
            name: name.into(),
            space,
            align,
            bytes,
            init,
        })
    }

    /// Type, alignment, name and number of elements of a variable or parameter; `name[]` has none.
    fn declaration(&mut self) -> Result<(Scalar, usize, &'a str, usize), Error> {
        let (mut scalar, mut align) = (None, None);
        let name = loop {
            match self.word()? {
                ".align" => align = Some(self.number()? as usize),
                ".ptr" | ".global" => {}
                ".attribute" => return self.refuse(".attribute", "attributes are not implemented"),
                word if word.starts_with('.') => match Scalar::parse(&word[1..]) {
                    Some(found) => scalar = Some(found),
                    None => return self.refuse(word, "unknown in a declaration"),
                },
                name => break name,
            }
        };
        let mut count = 1;
        while self.take('[') {
            count *= if self.take(']') {
                0
            } else {
                let extent = self.number()? as usize;
                self.expect(']')?;
                extent
            };
        }
        match scalar {
            Some(scalar) => Ok((scalar, align.unwrap_or(scalar.bytes()).max(1), name, count)),
            None => self.syntax(format!("`{name}` has no type")),
        }
    }

    fn entry(&mut self) -> Result<Entry, Error> {
        let name = self.word()?.to_string();
        let (mut params, mut end) = (Vec::new(), 0usize);
        if self.take('(') {
            while !self.take(')') {
                if self.word()? != ".param" {
                    return self.syntax("a parameter must be in .param");
                }
                let (scalar, align, name, count) = self.declaration()?;
                let offset = end.next_multiple_of(align);
                let bytes = scalar.bytes() * count;
                params.push(Param {
                    name: name.into(),
                    offset,
                    bytes,
                });
                end = offset + bytes;
                self.take(',');
            }
        }
        let mut max_threads = None;
        while let Some(Token::Word(word)) = self.peek() {
            self.at += 1;
            let mut numbers = vec![];
            while matches!(self.peek(), Some(Token::Word(word)) if immediate(word).is_some()) {
                numbers.push(self.number()? as u32);
                self.take(',');
            }
            match word {
                ".maxntid" | ".reqntid" => max_threads = Some(numbers.iter().product()),
                ".minnctapersm" | ".maxnreg" => {}
                other => return self.refuse(other, "this kernel attribute is not implemented"),
            }
        }
        self.expect('{')?;
        self.location = Location::default();
        let body = self.body()?;
        Ok(Entry {
            name,
            params,
            max_threads,
            body,
        })
    }

    fn body(&mut self) -> Result<Vec<Statement>, Error> {
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
fn immediate(word: &str) -> Option<u64> {
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

    #[test]
    fn a_kernel_is_read() {
        let text = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(\n.param .u32 k_param_0,\n.param .u64 k_param_1\n)\n.maxntid 128, 1, 1\n{\n.reg .b32 %r<3>;\n.loc 1 7 5, inlined_at 1 2 3\n$L1:\n@!%p1 ld.global.v2.f32 {%f1, _}, [%rd1+-8];\nret;\n}\n";
        let module = parse(text).unwrap();
        let entry = &module.entries[0];
        assert_eq!((entry.params[1].offset, entry.max_threads), (8, Some(128)));
        let Statement::Instruction(load) = &entry.body[2] else {
            panic!("{:?}", entry.body)
        };
        assert_eq!(load.guard, Some(("%p1".into(), true)));
        assert_eq!(
            load.operands[0],
            Operand::Vector(vec![Operand::Name("%f1".into()), Operand::Sink])
        );
        assert_eq!(load.operands[1], Operand::Address(Some("%rd1".into()), -8));
        assert_eq!(
            load.location,
            Location {
                file: 1,
                line: 7,
                ptx_line: 13
            }
        );
    }

    #[test]
    fn calls_are_refused_by_name() {
        let error =
            parse(".visible .func (.param .b32 r) slow(.param .b32 x)\n{\nret;\n}").unwrap_err();
        assert!(error.to_string().contains("slow"), "{error}");
    }
}
