//! What a single line of a text file holds: separator, values, counts.

/// What stands between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// Any number of blanks and tabs.
    Blank,
    /// Any number of tabs, perhaps with blanks around them.
    Tab,
    /// One of this character, perhaps with blanks around it.
    Char(char),
}

impl Separator {
    /// The separator of a line.
    pub fn of(line: &str) -> Separator {
        if line.contains(';') {
            return Separator::Char(';');
        }
        let comma = Separator::Char(',');
        // `1,5 2,5` has decimal commas: between separators there are no blanks inside a value.
        let inner = |f: &str| !f.starts_with('"') && f.contains(char::is_whitespace);
        if line.contains(',') && !comma.split_raw(line).map(str::trim).any(inner) {
            return comma;
        }
        // Blanks between numbers separate, those between words do not.
        let numbers = |f: &str| f.split_ascii_whitespace().filter(|w| is_number(w)).count() > 1;
        match line.contains('\t') && !Separator::Tab.split_raw(line).any(numbers) {
            true => Separator::Tab,
            false => Separator::Blank,
        }
    }

    /// The values of a line, without the blanks and quotes around them.
    pub fn split(self, line: &str) -> impl Iterator<Item = &str> {
        self.split_raw(line).map(unquoted)
    }

    /// The values of a line as they are.
    pub fn split_raw(self, line: &str) -> Fields<'_> {
        Fields {
            rest: Some(line),
            separator: self,
        }
    }

    /// Plural for people.
    pub fn plural(self) -> &'static str {
        match self {
            Separator::Blank => "blanks",
            Separator::Tab => "tabs",
            Separator::Char(';') => "semicolons",
            Separator::Char(_) => "commas",
        }
    }

    /// What a writer puts between two values.
    pub fn text(self) -> &'static str {
        match self {
            Separator::Blank => " ",
            Separator::Tab => "\t",
            Separator::Char(';') => ";",
            Separator::Char(_) => ",",
        }
    }
}

/// The values of a line; a separator inside quotes separates nothing.
pub struct Fields<'a> {
    rest: Option<&'a str>,
    separator: Separator,
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let mut rest = self.rest?;
        if matches!(self.separator, Separator::Blank | Separator::Tab) {
            rest = rest.trim_ascii_start();
            if rest.is_empty() {
                self.rest = None;
                return None;
            }
        }
        let ends = |c: char| match self.separator {
            Separator::Blank => c.is_ascii_whitespace(),
            Separator::Tab => c == '\t',
            Separator::Char(separator) => c == separator,
        };
        let mut quoted = false;
        let end = rest.char_indices().find(|(_, c)| {
            quoted ^= *c == '"';
            !quoted && ends(*c)
        });
        let (field, left) = match end {
            Some((at, c)) => (&rest[..at], Some(&rest[at + c.len_utf8()..])),
            None => (rest, None),
        };
        self.rest = left;
        Some(field)
    }
}

fn unquoted(field: &str) -> &str {
    let field = field.trim_ascii();
    match field.strip_prefix('"').and_then(|f| f.strip_suffix('"')) {
        Some(inner) => inner.trim_ascii(),
        None => field,
    }
}

/// Refuses lines that end inside quotes, which would take in what a writer puts behind them.
pub fn check_quotes(line: &str) -> std::result::Result<(), &'static str> {
    match line.bytes().filter(|b| *b == b'"').count() % 2 {
        0 => Ok(()),
        _ => Err("a quote is opened and never closed"),
    }
}

/// True for lines that hold no point.
pub fn is_comment(line: &[u8]) -> bool {
    line.starts_with(b"#") || line.starts_with(b"//") || line.starts_with(b"%")
}

/// The number on a line that holds nothing but one count.
pub fn count(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line.trim_ascii()).ok()?.parse().ok()
}

/// Exactly `wanted` finite numbers of a line.
pub fn numbers(line: &[u8], wanted: usize) -> std::result::Result<Vec<f64>, String> {
    let text = String::from_utf8_lossy(line);
    let found: Option<Vec<f64>> = (text.split_ascii_whitespace())
        .map(|w| w.parse().ok().filter(|x: &f64| x.is_finite()))
        .collect();
    found.filter(|row| row.len() == wanted).ok_or_else(|| {
        format!(
            "{wanted} finite numbers are expected, not `{}`",
            text.trim()
        )
    })
}

/// What is said about a value that is no number.
pub fn not_a_number(field: &str, column: &str) -> String {
    let shown: String = field.chars().take(40).collect();
    let mend = match field.contains(',') {
        true => "; use a decimal point",
        false => "",
    };
    format!(
        "`{}` is not a number for `{column}`{mend}",
        shown.escape_debug()
    )
}

/// True for a number or nothing.
pub fn is_number(field: &str) -> bool {
    field.is_empty() || field.parse::<f64>().is_ok()
}
