//! The few Python literals that NPY headers are made of: text, integers, truth values, tuples, lists, dictionaries.

/// Deepest nesting of lists and tuples.
const DEEPEST: usize = 16;

/// A Python literal.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Text(String),
    Integer(u64),
    Truth(bool),
    List(Vec<Literal>),
    Dictionary(Vec<(Literal, Literal)>),
}

impl Literal {
    /// Parses the literal at the start of a text.
    pub fn parse(text: &str) -> Parsed<Literal> {
        Parser { text, at: 0 }.value(0)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// What a piece of text means, or why it means nothing.
pub(super) type Parsed<T> = std::result::Result<T, String>;

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Parsed<Literal> {
        if depth > DEEPEST {
            return Err("nested too deeply".into());
        }
        match self.peek() {
            Some(quote @ ('\'' | '"')) => self.text(quote),
            Some('(') => self.sequence(')', depth),
            Some('[') => self.sequence(']', depth),
            Some('{') => self.dictionary(depth),
            Some(c) if c.is_ascii_alphanumeric() => self.word(),
            Some(c) => Err(format!("unexpected `{c}`")),
            None => Err("ends early".into()),
        }
    }

    fn text(&mut self, quote: char) -> Parsed<Literal> {
        let start = self.at + 1;
        let len = self.text[start..]
            .find(quote)
            .ok_or("text without an end")?;
        self.at = start + len + 1;
        let text = &self.text[start..start + len];
        if text.contains('\\') {
            return Err("escapes in names are not supported".into());
        }
        Ok(Literal::Text(text.to_string()))
    }

    fn word(&mut self) -> Parsed<Literal> {
        let rest = &self.text[self.at..];
        let len = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let word = &rest[..len];
        self.at += len;
        match word {
            "True" => Ok(Literal::Truth(true)),
            "False" => Ok(Literal::Truth(false)),
            // Python 2 wrote long integers as `5L`.
            _ => (word.strip_suffix('L').unwrap_or(word).parse())
                .map(Literal::Integer)
                .map_err(|_| format!("`{word}` is not a number that a shape can have")),
        }
    }

    fn sequence(&mut self, close: char, depth: usize) -> Parsed<Literal> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.value(depth + 1)?);
            if !self.take(',') && self.peek() != Some(close) {
                return Err(format!("`{close}` or `,` expected"));
            }
        }
        Ok(Literal::List(items))
    }

    fn dictionary(&mut self, depth: usize) -> Parsed<Literal> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take('}') {
            let key = self.value(depth + 1)?;
            if !self.take(':') {
                return Err("`:` expected".into());
            }
            items.push((key, self.value(depth + 1)?));
            if !self.take(',') && self.peek() != Some('}') {
                return Err("`}` or `,` expected".into());
            }
        }
        Ok(Literal::Dictionary(items))
    }
}
