//! The header of a PLY file: lines of text up to `end_header`.
//!
//! Source: Greg Turk, "The PLY Polygon File Format", 1994. Lines are kept as they are, so that comments and unknown
//! lines come back in a rewritten file.

use crate::Result;
use crate::cloud::{Endian, Kind};
use crate::io::input::Input;

/// Longest header that is read, bytes.
const LONGEST: u64 = 1 << 20;

/// How the elements are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Encoding {
    Ascii,
    Binary(Endian),
}

/// One property of an element.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Property {
    pub name: String,
    pub kind: Kind,
    /// Type of the length when the property is a list.
    pub list: Option<Kind>,
}

/// One element: a table of rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Element {
    pub name: String,
    pub count: u64,
    pub properties: Vec<Property>,
}

/// What a header line says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meaning {
    /// `ply`, `format`, `end_header`, comments.
    Other,
    /// Declares the element of this number.
    Element(usize),
    /// Declares a property: element, number in it.
    Property(usize, usize),
}

#[derive(Debug, Clone)]
pub(super) struct Header {
    pub encoding: Encoding,
    pub elements: Vec<Element>,
    /// Which element holds the points.
    pub vertex: usize,
    /// All lines with their ends.
    pub lines: Vec<(Vec<u8>, Meaning)>,
}

type Parsed<T> = std::result::Result<T, String>;

fn parse_kind(name: &str) -> Parsed<Kind> {
    Ok(match name {
        "char" | "int8" => Kind::I8,
        "uchar" | "uint8" => Kind::U8,
        "short" | "int16" => Kind::I16,
        "ushort" | "uint16" => Kind::U16,
        "int" | "int32" => Kind::I32,
        "uint" | "uint32" => Kind::U32,
        "int64" => Kind::I64,
        "uint64" => Kind::U64,
        "float" | "float32" => Kind::F32,
        "double" | "float64" => Kind::F64,
        other => return Err(format!("unknown type `{other}`")),
    })
}

/// The usual name of a type that PLY has.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::U8 => "uchar",
        Kind::I8 => "char",
        Kind::U16 => "ushort",
        Kind::I16 => "short",
        Kind::U32 => "uint",
        Kind::I32 => "int",
        Kind::F32 => "float",
        // There are no 64-bit integers; doubles hold them up to 2^53.
        Kind::U64 | Kind::I64 | Kind::F64 => "double",
    }
}

impl Element {
    /// Bytes of a row in a binary file, or `None` when lists make it vary.
    pub fn stride(&self) -> Option<usize> {
        (self.properties.iter())
            .map(|p| p.list.is_none().then(|| p.kind.size()))
            .sum()
    }

    fn declare(&mut self, words: &[&str]) -> Parsed<()> {
        let (kind, list, name) = match words {
            ["list", length, kind, name] => {
                let length = parse_kind(length)?;
                if !length.is_integer() {
                    return Err("the length of a list must be an integer".into());
                }
                (parse_kind(kind)?, Some(length), name)
            }
            [kind, name] if *kind != "list" => (parse_kind(kind)?, None, name),
            _ => {
                return Err(
                    "`property TYPE NAME` or `property list TYPE TYPE NAME` expected".into(),
                );
            }
        };
        if self.properties.iter().any(|p| p.name == *name) {
            return Err(format!("property `{name}` is declared twice"));
        }
        self.properties.push(Property {
            name: name.to_string(),
            kind,
            list,
        });
        Ok(())
    }

    /// Places of x, y and z.
    pub fn axes(&self) -> Parsed<[usize; 3]> {
        let mut axes = [0; 3];
        for (axis, name) in axes.iter_mut().zip(["x", "y", "z"]) {
            let found = (self.properties.iter())
                .position(|p| p.list.is_none() && p.name.eq_ignore_ascii_case(name));
            *axis = found.ok_or_else(|| {
                let names: Vec<_> = self.properties.iter().map(|p| p.name.as_str()).collect();
                format!(
                    "vertices have no property `{name}`, only: {}",
                    names.join(", ")
                )
            })?;
        }
        Ok(axes)
    }
}

/// What is known after some lines.
#[derive(Default)]
struct Draft {
    encoding: Option<Encoding>,
    elements: Vec<Element>,
}

impl Draft {
    /// Takes one line behind `ply`.
    fn line(&mut self, words: &[&str]) -> Parsed<Meaning> {
        match words {
            [] | ["comment" | "obj_info", ..] => {}
            ["format", form, version] => {
                if *version != "1.0" {
                    return Err(format!("version {version}; only 1.0 exists"));
                }
                self.encoding = Some(match *form {
                    "ascii" => Encoding::Ascii,
                    "binary_little_endian" => Encoding::Binary(Endian::Little),
                    "binary_big_endian" => Encoding::Binary(Endian::Big),
                    other => return Err(format!("unknown format `{other}`")),
                });
            }
            ["element", name, count] => {
                if self.elements.iter().any(|e| e.name == *name) {
                    return Err(format!("element `{name}` is declared twice"));
                }
                let count =
                    (count.parse()).map_err(|_| format!("`{count}` is not a count of elements"))?;
                self.elements.push(Element {
                    name: name.to_string(),
                    count,
                    properties: Vec::new(),
                });
                return Ok(Meaning::Element(self.elements.len() - 1));
            }
            ["property", rest @ ..] => {
                let number = self.elements.len();
                let element = (self.elements.last_mut()).ok_or("a property outside an element")?;
                element.declare(rest)?;
                return Ok(Meaning::Property(number - 1, element.properties.len() - 1));
            }
            [other, ..] => return Err(format!("`{other}` begins no line of a PLY header")),
        }
        Ok(Meaning::Other)
    }
}

impl Header {
    /// Reads up to and with `end_header`.
    pub fn read(input: &mut Input) -> Result<Header> {
        let mut lines = Vec::new();
        let mut draft = Draft::default();
        loop {
            let place = format!("header line {}", lines.len() + 1);
            let line = match input.line()? {
                Some(line) if input.position() <= LONGEST => line,
                Some(_) => return Err(input.malformed(place, "the header is longer than 1 MiB")),
                None => return Err(input.malformed(place, "the file ends before `end_header`")),
            };
            let text = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = text.split_whitespace().collect();
            if lines.is_empty() {
                if words != ["ply"] {
                    return Err(input.malformed(place, "not a PLY file: `ply` expected"));
                }
                lines.push((line, Meaning::Other));
                continue;
            }
            let last = words == ["end_header"];
            let meaning = match last {
                true => Meaning::Other,
                false => (draft.line(&words)).map_err(|fault| input.malformed(place, fault))?,
            };
            lines.push((line, meaning));
            if last {
                break;
            }
        }
        let fault = |text: &str| input.malformed("header", text);
        let encoding = draft
            .encoding
            .ok_or_else(|| fault("the line `format` is missing"))?;
        let vertex = (draft.elements.iter().position(|e| e.name == "vertex"))
            .ok_or_else(|| fault("no element `vertex`, so the file holds no points"))?;
        Ok(Header {
            encoding,
            elements: draft.elements,
            vertex,
            lines,
        })
    }

    /// The element that holds the points.
    pub fn points(&self) -> &Element {
        &self.elements[self.vertex]
    }

    /// End of line as the file has it.
    pub fn newline(&self) -> &'static str {
        match self.lines[0].0.ends_with(b"\r\n") {
            true => "\r\n",
            false => "\n",
        }
    }
}
