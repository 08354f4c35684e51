//! The header of an NPY file: a Python dictionary literal with the type, the memory order and the shape.
//!
//! Source: NEP 1 and `numpy.lib.format`. Nothing is ever unpickled: object arrays are refused.

use crate::Result;
use crate::cloud::{Endian, Kind};
use crate::io::input::Input;

use super::literal::{Literal, Parsed};

/// Longest header that is read, bytes; numpy's own limit is 10 000.
const LONGEST: u64 = 1 << 20;

/// How one number of a row is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stored {
    /// A plain number.
    Number(Kind, Endian),
    /// A half-precision float.
    Half(Endian),
    /// Bytes that are kept but hold no number that a cloud could use: text, times, complex numbers, and long doubles, which
    /// are not the same on all machines.
    Opaque,
}

/// One field of a row; a plain array has one per column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub name: String,
    pub stored: Stored,
    /// Type as numpy writes it, such as `<f4`.
    pub descr: String,
    pub offset: usize,
    /// Bytes of one number.
    pub size: usize,
    /// Numbers in a field that is an array itself.
    pub count: usize,
    /// Shape of such a field as numpy writes it.
    pub shape: Vec<u64>,
}

/// Type, order and shape of the array.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub fields: Vec<Field>,
    /// True for arrays of records with named fields, false for plain tables of numbers.
    pub is_structured: bool,
    /// True when a plain table is stored column by column.
    pub by_column: bool,
    pub rows: u64,
    /// Bytes of a row.
    pub stride: usize,
}

/// Type and size of a numpy type name.
fn parse_type(descr: &str) -> Parsed<(Stored, usize)> {
    let bad = || format!("type `{descr}` is not known");
    let (order, rest) = descr.split_at_checked(1).ok_or_else(bad)?;
    let endian = match order {
        ">" => Endian::Big,
        "<" | "|" | "=" => Endian::Little,
        _ => return Err(bad()),
    };
    let (code, size) = rest.split_at_checked(1).ok_or_else(bad)?;
    if code == "O" {
        return Err(
            "an array of Python objects; reading it would run code, so it is refused".into(),
        );
    }
    // Times have a unit: `<M8[ns]`.
    let size = match code {
        "M" | "m" => size.split('[').next().unwrap_or(size),
        _ => size,
    };
    let size: usize = size.parse().map_err(|_| bad())?;
    let kind = match (code, size) {
        ("b" | "u", 1) => Kind::U8,
        ("i", 1) => Kind::I8,
        ("u", 2) => Kind::U16,
        ("i", 2) => Kind::I16,
        ("u", 4) => Kind::U32,
        ("i", 4) => Kind::I32,
        ("u", 8) => Kind::U64,
        ("i", 8) => Kind::I64,
        ("f", 4) => Kind::F32,
        ("f", 8) => Kind::F64,
        ("f", 2) => return Ok((Stored::Half(endian), 2)),
        ("U", n) => return Ok((Stored::Opaque, n.checked_mul(4).ok_or_else(bad)?)),
        ("S" | "V" | "a", n) => return Ok((Stored::Opaque, n)),
        ("M" | "m", 8) | ("c", 8 | 16 | 24 | 32) | ("f", 12 | 16) => {
            return Ok((Stored::Opaque, size));
        }
        _ => return Err(format!("type `{descr}` holds no numbers that can be used")),
    };
    Ok((Stored::Number(kind, endian), size))
}

fn parse_shape(literal: &Literal) -> Parsed<Vec<u64>> {
    let Literal::List(items) = literal else {
        return match literal {
            Literal::Integer(n) => Ok(vec![*n]),
            _ => Err("the shape is not a tuple".into()),
        };
    };
    (items.iter())
        .map(|item| match item {
            Literal::Integer(n) => Ok(*n),
            _ => Err("the shape is not a tuple of integers".into()),
        })
        .collect()
}

fn parse_field(literal: &Literal) -> Parsed<Field> {
    let Literal::List(parts) = literal else {
        return Err("a field of the type is not a tuple".into());
    };
    let name = match parts.first() {
        Some(Literal::Text(name)) => name,
        // A pair of title and name.
        Some(Literal::List(pair)) => match pair.last() {
            Some(Literal::Text(name)) => name,
            _ => return Err("a field of the type has no name".into()),
        },
        _ => return Err("a field of the type has no name".into()),
    };
    let Some(Literal::Text(descr)) = parts.get(1) else {
        return Err(format!(
            "field `{name}` is a record itself, which is not supported"
        ));
    };
    let (stored, size) = parse_type(descr)?;
    let shape = parts.get(2).map_or(Ok(Vec::new()), parse_shape)?;
    let count = (shape.iter())
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= 1 << 16)
        .ok_or_else(|| format!("field `{name}` has too many values"))?;
    Ok(Field {
        name: name.clone(),
        stored,
        descr: descr.clone(),
        offset: 0,
        size,
        count: count as usize,
        shape,
    })
}

/// The fields that a plain table of `columns` columns has: x, y, z, then `column_3` and on.
fn columns_of(descr: &str, columns: u64) -> Parsed<Vec<Field>> {
    let (stored, size) = parse_type(descr)?;
    if stored == Stored::Opaque {
        return Err(format!(
            "type `{descr}` holds no numbers that can be used; save the table as `<f8`"
        ));
    }
    if !(3..=1 << 16).contains(&columns) {
        return Err(format!(
            "{columns} columns; a cloud needs at least 3: x, y, z"
        ));
    }
    Ok((0..columns)
        .map(|i| Field {
            name: match i {
                0..=2 => ["x", "y", "z"][i as usize].into(),
                _ => format!("column_{i}"),
            },
            stored,
            descr: descr.into(),
            offset: 0,
            size,
            count: 1,
            shape: Vec::new(),
        })
        .collect())
}

fn parse_layout(text: &str) -> Parsed<Layout> {
    let Literal::Dictionary(items) = Literal::parse(text)? else {
        return Err("is not a dictionary".into());
    };
    let get = |name: &str| {
        let key = Literal::Text(name.into());
        (items.iter().find(|(k, _)| *k == key))
            .map(|(_, v)| v)
            .ok_or_else(|| format!("key `{name}` is missing"))
    };
    let shape = parse_shape(get("shape")?)?;
    let Literal::Truth(by_column) = *get("fortran_order")? else {
        return Err("`fortran_order` is neither True nor False".into());
    };
    let (mut fields, is_structured) = match get("descr")? {
        Literal::Text(descr) => {
            let [_, columns] = shape[..] else {
                // The type comes first: an array of objects is refused as such whatever its shape.
                parse_type(descr)?;
                return Err(format!(
                    "shape {shape:?}; a cloud is a table of N rows and at least 3 columns"
                ));
            };
            (columns_of(descr, columns)?, false)
        }
        Literal::List(fields) => {
            if !(shape.len() == 1 || shape.len() == 2 && shape[1] == 1) {
                return Err(format!(
                    "shape {shape:?}; a list of records has one dimension"
                ));
            }
            let fields: Parsed<Vec<_>> = fields.iter().map(parse_field).collect();
            (fields?, true)
        }
        _ => return Err("the type is neither text nor a list of fields".into()),
    };
    let mut stride = 0usize;
    for field in &mut fields {
        field.offset = stride;
        stride = (field.size.checked_mul(field.count))
            .and_then(|n| n.checked_add(stride))
            .filter(|&n| n <= 1 << 24)
            .ok_or("rows of more than 16 MiB")?;
    }
    Ok(Layout {
        fields,
        is_structured,
        by_column: by_column && !is_structured,
        rows: shape[0],
        stride,
    })
}

impl Layout {
    /// Reads the header at the start of the file and compares the shape with the bytes behind it.
    pub fn read(input: &mut Input) -> Result<Layout> {
        let head = input.bytes(8, "NPY header")?;
        let version = head[6];
        let len = match version {
            1 => {
                let b = input.bytes(2, "NPY header length")?;
                u64::from(u16::from_le_bytes([b[0], b[1]]))
            }
            2 | 3 => {
                let b = input.bytes(4, "NPY header length")?;
                u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            }
            _ => {
                let text = format!("NPY version {version}; versions 1 to 3 can be read");
                return Err(input.malformed("byte 6", text));
            }
        };
        if len > LONGEST {
            return Err(input.malformed("byte 8", format!("a header of {len} bytes")));
        }
        let text = input.bytes(len, "NPY header")?;
        let text = String::from_utf8_lossy(&text);
        let layout = parse_layout(&text).map_err(|fault| input.malformed("NPY header", fault))?;
        let bytes = layout.rows.checked_mul(layout.stride as u64);
        if bytes.is_none_or(|n| n > input.remaining()) {
            return Err(input.malformed(
                format!("byte {}", input.position()),
                format!(
                    "{} rows of {} bytes promised, {} bytes there; the file is cut short",
                    layout.rows,
                    layout.stride,
                    input.remaining()
                ),
            ));
        }
        if layout.stride == 0 && layout.rows > 0 {
            return Err(input.malformed("NPY header", "rows without any bytes"));
        }
        Ok(layout)
    }

    /// Place of the fields x, y and z.
    pub fn axes(&self) -> std::result::Result<[usize; 3], String> {
        let mut axes = [0; 3];
        for (axis, name) in axes.iter_mut().zip(["x", "y", "z"]) {
            let found = self.fields.iter().position(|f| {
                f.name.eq_ignore_ascii_case(name) && f.count == 1 && f.stored != Stored::Opaque
            });
            *axis = found.ok_or_else(|| {
                let names: Vec<_> = self.fields.iter().map(|f| f.name.as_str()).collect();
                format!("no number field `{name}` among {}", names.join(", "))
            })?;
        }
        Ok(axes)
    }
}

/// The header as numpy writes it, padded so that the data start at a multiple of 64.
pub(super) fn header_bytes(descr: &str, by_column: bool, shape: &str) -> Vec<u8> {
    let order = if by_column { "True" } else { "False" };
    let text = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}");
    let long = text.len() + 80 > usize::from(u16::MAX);
    // Version 3 says that names are UTF-8, version 2 only that the length has 32 bits.
    let version = match (text.is_ascii(), long) {
        (true, false) => 1,
        (true, true) => 2,
        (false, _) => 3,
    };
    let start = if version == 1 { 10 } else { 12 };
    let end = (start + text.len() + 1).next_multiple_of(64);
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    let len = end - start;
    match version {
        1 => bytes.extend((len as u16).to_le_bytes()),
        _ => bytes.extend((len as u32).to_le_bytes()),
    }
    bytes.extend(text.as_bytes());
    bytes.resize(end - 1, b' ');
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_headers_parse() {
        let bytes = header_bytes(
            "[('x', '<f8'), ('y', '>f4'), ('z', '<i2', (2, 3))]",
            false,
            "(7,)",
        );
        assert_eq!(bytes.len() % 64, 0);
        let layout = parse_layout(std::str::from_utf8(&bytes[10..]).unwrap()).unwrap();
        assert_eq!(
            (layout.rows, layout.stride, layout.is_structured),
            (7, 24, true)
        );
        assert_eq!(layout.fields[2].count, 6);
    }

    #[test]
    fn fields_that_hold_no_numbers_are_bytes() {
        let fields = "[('x', '<f8'), ('t', '<M8[ns]'), ('c', '<c16'), ('q', '<f16'), ('s', '<U2')]";
        let bytes = header_bytes(fields, false, "(7,)");
        let layout = parse_layout(std::str::from_utf8(&bytes[10..]).unwrap()).unwrap();
        assert_eq!(layout.stride, 8 + 8 + 16 + 16 + 8);
        assert!(
            layout.fields[1..]
                .iter()
                .all(|f| f.stored == Stored::Opaque)
        );
        let fault = columns_of("<f16", 3).unwrap_err();
        assert!(fault.contains("save the table as `<f8`"), "{fault}");
    }

    #[test]
    fn hostile_headers_are_refused() {
        let dict = |descr: &str, shape: &str| {
            parse_layout(&format!(
                "{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
            ))
        };
        assert!(dict("'|O'", "(4,)").unwrap_err().contains("objects"));
        assert!(dict("'<f8'", "(4, 2)").unwrap_err().contains("at least 3"));
        assert!(dict("'<c16'", "(4, 3)").is_err());
        assert!(dict("'<f8'", "(99999999999999999999, 3)").is_err());
        assert!(dict("'<f8'", "(-1, 3)").is_err());
        assert!(dict("[('x', '<f8', (9999999, 9999999))]", "(4,)").is_err());
        let deep = format!("{{'shape': {}", "(".repeat(100_000));
        assert!(parse_layout(&deep).unwrap_err().contains("deep"));
    }
}
