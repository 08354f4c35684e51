//! The header of a PCD file: lines of a keyword and values, up to `DATA`.
//!
//! | keyword | values |
//! |---|---|
//! | `VERSION` | .5, .6 or .7 |
//! | `FIELDS` (old: `COLUMNS`) | names; `_` is padding |
//! | `SIZE`, `TYPE`, `COUNT` | per field: bytes, one of `I U F`, numbers in the field |
//! | `WIDTH`, `HEIGHT`, `POINTS` | columns, rows (more than 1: organised) and their product |
//! | `VIEWPOINT` | position and quaternion of the sensor |
//! | `DATA` | `ascii`, `binary` or `binary_compressed` |
//!
//! Source: "The PCD (Point Cloud Data) file format", Point Cloud Library.

use crate::Result;
use crate::cloud::Kind;
use crate::io::input::Input;

/// Most lines in a header; real ones have a dozen.
const MOST_LINES: usize = 10_000;
/// Most bytes in a row.
const LONGEST_ROW: usize = 1 << 20;

/// How the points are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Encoding {
    Ascii,
    Binary,
    Compressed,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub name: String,
    pub kind: Kind,
    /// Numbers in the field.
    pub count: usize,
    /// Place in a binary row.
    pub offset: usize,
}

impl Field {
    /// Bytes in a binary row.
    pub fn size(&self) -> usize {
        self.kind.size() * self.count
    }
}

#[derive(Debug, Clone)]
pub(super) struct Header {
    /// All lines as stored, with their ends.
    pub lines: Vec<Vec<u8>>,
    pub fields: Vec<Field>,
    pub stride: usize,
    pub points: u64,
    pub encoding: Encoding,
}

/// Values behind each keyword.
#[derive(Default)]
struct Draft {
    fields: Option<Vec<String>>,
    size: Option<Vec<String>>,
    kind: Option<Vec<String>>,
    count: Option<Vec<String>>,
    width: Option<u64>,
    height: Option<u64>,
    points: Option<u64>,
}

type Parsed<T> = std::result::Result<T, String>;

fn number(keyword: &str, words: &[&str]) -> Parsed<Option<u64>> {
    match words {
        [word] => (word.parse().map(Some)).map_err(|_| format!("{keyword} `{word}` is no count")),
        _ => Err(format!("{keyword} takes one value")),
    }
}

impl Draft {
    fn line(&mut self, words: &[&str]) -> Parsed<()> {
        let Some((keyword, values)) = words.split_first() else {
            return Ok(());
        };
        let list = || Some(values.iter().map(|w| w.to_string()).collect());
        match *keyword {
            "VERSION" => {
                let known = ["0.5", "0.6", "0.7", ".5", ".6", ".7"];
                if values.len() != 1 || !known.contains(&values[0]) {
                    let version = values.join(" ");
                    return Err(format!(
                        "version {version}; versions 0.5 to 0.7 can be read"
                    ));
                }
            }
            "FIELDS" | "COLUMNS" => self.fields = list(),
            "SIZE" => self.size = list(),
            "TYPE" => self.kind = list(),
            "COUNT" => self.count = list(),
            "WIDTH" => self.width = number("WIDTH", values)?,
            "HEIGHT" => self.height = number("HEIGHT", values)?,
            "POINTS" => self.points = number("POINTS", values)?,
            first if first.parse::<f64>().is_ok() => {
                return Err("numbers before the line `DATA`".into());
            }
            // Writers add keywords of their own.
            _ => {}
        }
        Ok(())
    }

    fn fields(&self) -> Parsed<(Vec<Field>, usize)> {
        let names = self.fields.as_ref().ok_or("the line `FIELDS` is missing")?;
        let sizes = self.size.as_ref().ok_or("the line `SIZE` is missing")?;
        let kinds = self.kind.as_ref().ok_or("the line `TYPE` is missing")?;
        let ones = vec!["1".to_string(); names.len()];
        let counts = self.count.as_ref().unwrap_or(&ones);
        for (what, list) in [("sizes", sizes), ("types", kinds), ("counts", counts)] {
            if list.len() != names.len() {
                return Err(format!("{} fields but {} {what}", names.len(), list.len()));
            }
        }
        let mut fields: Vec<Field> = Vec::new();
        let mut offset = 0;
        for (i, name) in names.iter().enumerate() {
            if name != "_" && fields.iter().any(|f| f.name == *name) {
                return Err(format!("field `{name}` is declared twice"));
            }
            let kind =
                parse_kind(&kinds[i], &sizes[i]).map_err(|f| format!("field `{name}`: {f}"))?;
            let count = (counts[i].parse().ok())
                .filter(|&n| n > 0 && n <= LONGEST_ROW)
                .ok_or_else(|| format!("field `{name}`: COUNT {}", counts[i]))?;
            fields.push(Field {
                name: name.clone(),
                kind,
                count,
                offset,
            });
            offset += kind.size() * count;
            if offset > LONGEST_ROW {
                return Err(format!("rows of more than {LONGEST_ROW} bytes"));
            }
        }
        Ok((fields, offset))
    }

    fn points(&self) -> Parsed<u64> {
        let grid = self
            .width
            .map(|w| w.saturating_mul(self.height.unwrap_or(1)));
        match (self.points, grid) {
            (Some(points), Some(grid)) if points != grid => Err(format!(
                "POINTS {points}, but WIDTH times HEIGHT is {grid}; mend the header"
            )),
            (Some(points), _) => Ok(points),
            (None, Some(grid)) => Ok(grid),
            (None, None) => Err("neither POINTS nor WIDTH is given".into()),
        }
    }
}

fn parse_kind(kind: &str, size: &str) -> Parsed<Kind> {
    Ok(match (kind, size) {
        ("U", "1") => Kind::U8,
        ("I", "1") => Kind::I8,
        ("U", "2") => Kind::U16,
        ("I", "2") => Kind::I16,
        ("U", "4") => Kind::U32,
        ("I", "4") => Kind::I32,
        ("U", "8") => Kind::U64,
        ("I", "8") => Kind::I64,
        ("F", "4") => Kind::F32,
        ("F", "8") => Kind::F64,
        ("I" | "U" | "F", _) => return Err(format!("type {kind} has no size {size}")),
        _ => return Err(format!("unknown type `{kind}`")),
    })
}

/// Letter of a kind in the line `TYPE`.
pub(super) fn type_letter(kind: Kind) -> char {
    match kind {
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => 'U',
        Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => 'I',
        Kind::F32 | Kind::F64 => 'F',
    }
}

/// True for bytes that begin a PCD file: after comments comes one of its keywords.
pub(super) fn is_pcd(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.find(|l| !l.starts_with('#'));
    match first {
        Some(line) => {
            let word = line.split_whitespace().next().unwrap_or_default();
            [
                "VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "WIDTH", "HEIGHT", "POINTS",
            ]
            .contains(&word)
        }
        None => text.starts_with('#') && text.contains("PCD"),
    }
}

impl Header {
    /// Reads up to and with the line `DATA`.
    pub fn read(input: &mut Input) -> Result<Header> {
        let mut lines = Vec::new();
        let mut draft = Draft::default();
        let encoding = loop {
            let place = format!("header line {}", lines.len() + 1);
            let line = match input.line()? {
                Some(line) if lines.len() < MOST_LINES => line,
                _ => return Err(input.malformed(place, "the line `DATA` is missing")),
            };
            let text = String::from_utf8_lossy(&line).into_owned();
            lines.push(line);
            if text.trim_start().starts_with('#') {
                continue;
            }
            let words: Vec<&str> = text.split_whitespace().collect();
            match words[..] {
                ["DATA", "ascii"] => break Encoding::Ascii,
                ["DATA", "binary"] => break Encoding::Binary,
                ["DATA", "binary_compressed"] => break Encoding::Compressed,
                ["DATA", ..] => {
                    let text = format!(
                        "`{}`: ascii, binary and binary_compressed exist",
                        words.join(" ")
                    );
                    return Err(input.malformed(place, text));
                }
                _ => (draft.line(&words)).map_err(|fault| input.malformed(place, fault))?,
            }
        };
        let fault = |text: String| input.malformed("header", text);
        let (fields, stride) = draft.fields().map_err(fault)?;
        let points = draft.points().map_err(fault)?;
        Ok(Header {
            lines,
            fields,
            stride,
            points,
            encoding,
        })
    }

    /// Places of the fields x, y and z.
    pub fn axes(&self) -> Parsed<[usize; 3]> {
        let mut axes = [0; 3];
        for (axis, name) in axes.iter_mut().zip(["x", "y", "z"]) {
            let found = (self.fields.iter())
                .position(|f| f.count == 1 && f.name.eq_ignore_ascii_case(name));
            *axis = found.ok_or_else(|| {
                let names: Vec<_> = self.fields.iter().map(|f| f.name.as_str()).collect();
                format!(
                    "no field `{name}` of one number, only: {}",
                    names.join(", ")
                )
            })?;
        }
        Ok(axes)
    }
}
