//! Tokens to [`Module`]. Covers what NVRTC writes for kernels whose device functions are all inlined.

use super::lexer::{Spanned, Token, tokens};
use super::statement::immediate;
use super::{Entry, Location, Module, Param, Scalar, Space, Variable};
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

/// A place in the tokens of a file.
pub(super) struct Parser<'a> {
    pub source: &'a str,
    pub tokens: Vec<Spanned<'a>>,
    pub at: usize,
    /// The source line that the next instructions come from.
    pub location: Location,
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

    pub fn refuse<T>(&self, what: &str, why: &'static str) -> Result<T, Error> {
        Err(Error::Refused {
            line: self.line(),
            what: what.into(),
            why: why.into(),
        })
    }

    pub fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|spanned| spanned.token)
    }

    pub fn next(&mut self) -> Result<Token<'a>, Error> {
        match self.peek() {
            Some(token) => {
                self.at += 1;
                Ok(token)
            }
            None => self.syntax("the file ends too early"),
        }
    }

    pub fn word(&mut self) -> Result<&'a str, Error> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => {
                self.at -= 1;
                self.syntax(format!("a word is missing before {other:?}"))
            }
        }
    }

    pub fn take(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, mark: char) -> Result<(), Error> {
        if self.take(mark) {
            Ok(())
        } else {
            self.syntax(format!("`{mark}` is missing"))
        }
    }

    pub fn number(&mut self) -> Result<u64, Error> {
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
    pub fn rest_of_line(&mut self) -> Vec<Token<'a>> {
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
    pub fn variable(&mut self, space: &str) -> Result<Variable, Error> {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::{Operand, Statement};

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
