//! Names and types of the columns of a text file.

use crate::cloud::Kind;

use super::line::{Separator, check_quotes};

/// A line of names.
pub struct Header {
    /// Number of the line, from 0.
    pub line: usize,
    pub text: String,
    /// False for names in a comment.
    pub is_row: bool,
}

impl Header {
    /// The names of `width` columns and the separator between them.
    pub fn names(
        &self,
        separator: Separator,
        width: usize,
    ) -> std::result::Result<(Vec<String>, Separator), String> {
        check_quotes(&self.text)?;
        let own = Separator::of(&self.text);
        let fits = |s: &Separator| s.split(&self.text).count() == width;
        let separator = [separator, own].into_iter().find(fits).ok_or_else(|| {
            let names = own.split(&self.text).count();
            format!("{names} names, but the rows below have {width} values")
        })?;
        let names = separator.split(&self.text).enumerate();
        let names: Vec<String> = names
            .map(|(i, name)| match name.trim() {
                "" => format!("column_{i}"),
                name => name.to_string(),
            })
            .collect();
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(format!("two columns are called `{name}`; rename one"));
            }
        }
        Ok((names, separator))
    }
}

/// The places of x, y and z; a unit may follow the name: `X [m]`.
pub fn axes_of<S: AsRef<str>>(names: &[S]) -> Option<[usize; 3]> {
    let is = |name: &S, axis: &str| {
        let name = name.as_ref();
        let plain = name.split(['[', '(']).next().unwrap_or("").trim();
        plain.eq_ignore_ascii_case(axis)
    };
    let find = |axis| names.iter().position(|n| is(n, axis));
    Some([find("x")?, find("y")?, find("z")?])
}

pub fn axes(names: &[String], has_header: bool) -> std::result::Result<[usize; 3], String> {
    if has_header {
        return axes_of(names).ok_or_else(|| {
            format!(
                "no columns called x, y and z, only: {}; rename them or remove the line",
                names.join(", ")
            )
        });
    }
    match names.len() {
        0..3 => Err(format!(
            "{} values; a point has at least x, y and z",
            names.len()
        )),
        _ => Ok([0, 1, 2]),
    }
}

/// Colours that are whole numbers stay such; every other number is kept in full.
pub fn kind_of(name: &str, samples: &[Vec<&str>], column: usize) -> Kind {
    let is_color = ["red", "green", "blue", "r", "g", "b"]
        .iter()
        .any(|c| name.eq_ignore_ascii_case(c));
    let values = || samples.iter().filter_map(|row| row.get(column));
    match name {
        // As written by this program, so that it is replaced and not kept beside a new one.
        "confidence" => Kind::F32,
        // Three colours in the bits of one number.
        "rgb" | "rgba" if values().all(|v| v.parse::<u32>().is_ok()) => Kind::U32,
        "rgb" | "rgba" => Kind::F32,
        _ if is_color && values().all(|v| v.parse::<u16>().is_ok()) => Kind::U16,
        _ => Kind::F64,
    }
}

/// Names for columns that have none; where colours could start at two places, `late` takes the second.
pub fn guessed(samples: &[Vec<&str>], width: usize, late: bool) -> Vec<String> {
    let is_color = |first: &usize| {
        let all = || samples.iter().filter(|row| row.len() == width);
        let is_level = |v: &&str| v.parse::<u8>().is_ok();
        width >= first + 3 && all().all(|row| row[*first..first + 3].iter().all(is_level))
    };
    let places = if late { [4, 3] } else { [3, 4] };
    let colors = places.into_iter().find(is_color);
    let names = (0..width).map(|i| match (i, colors) {
        (0..3, _) => ["x", "y", "z"][i].to_string(),
        (_, Some(first)) if (first..first + 3).contains(&i) => {
            ["red", "green", "blue"][i - first].to_string()
        }
        (3, Some(4)) => "intensity".to_string(),
        _ => format!("column_{i}"),
    });
    names.collect()
}
