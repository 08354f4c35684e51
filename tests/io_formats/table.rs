//! The table for people.

use crate::survey::{Fidelity, Keeps};
use std::fmt::Write;

const HEAD: &str = "\
| format | coordinates | attributes kept, besides label and confidence | points tried | read, million/s | write, million/s |
|---|---|---|---|---|---|
";

/// Where reading is a part of writing.
const NO_READ: &str = "in writing";

/// What was measured for a format.
pub struct Row {
    pub keeps: Keeps,
    /// Points per second; `None` where reading is not done by itself.
    pub read: Option<f64>,
    /// Points per second of writing with labels.
    pub write: f64,
    pub points: u64,
}

/// What is true at every size and on every machine.
fn lasting(name: &str, row: &Row) -> String {
    let kept = |wanted| {
        let names = row.keeps.attributes.iter();
        let names: Vec<&str> = names
            .filter(|(_, f)| *f == wanted)
            .map(|(n, _)| &**n)
            .collect();
        names.join(", ")
    };
    let mut attributes = match kept(Fidelity::Gone).is_empty() {
        true => "all".to_string(),
        false => kept(Fidelity::Exact),
    };
    if !kept(Fidelity::EightBits).is_empty() {
        let comma = if attributes.is_empty() { "" } else { ", " };
        let _ = write!(
            attributes,
            "{comma}{} with 8 bits",
            kept(Fidelity::EightBits)
        );
    }
    let coordinates = match (row.keeps.is_exact(), row.keeps.deviation <= 1e-3) {
        (true, _) => "exact",
        (false, true) => "to a millimetre",
        (false, false) => panic!("{name}: {} m off", row.keeps.deviation),
    };
    format!("| {name} | {coordinates} | {attributes} |")
}

/// The whole table.
pub fn render(rows: &[(&str, Row)]) -> String {
    let mut text = String::from(HEAD);
    for (name, row) in rows {
        let points = row.points.to_string();
        let groups: Vec<&str> = (points.as_bytes().rchunks(3).rev())
            .map(|group| std::str::from_utf8(group).expect("digits"))
            .collect();
        let _ = writeln!(
            text,
            "{} {} | {} | {:.2} |",
            lasting(name, row),
            groups.join(" "),
            row.read
                .map_or(NO_READ.into(), |rate| format!("{:.2}", rate / 1e6)),
            row.write / 1e6
        );
    }
    text
}

/// The table says what was found; sizes and speeds are those of another day, and there.
pub fn check(table: &str, rows: &[(&str, Row)]) {
    let lines = table.strip_prefix(HEAD).expect("the table has this head");
    assert_eq!(lines.lines().count(), rows.len());
    for (line, (name, row)) in lines.lines().zip(rows) {
        let lasting = lasting(name, row);
        let measured = line.strip_prefix(&*lasting);
        let measured = measured.unwrap_or_else(|| panic!("found:\n{lasting}\ndocumented:\n{line}"));
        let cells: Vec<&str> = measured.trim_matches(['|', ' ']).split(" | ").collect();
        let [points, read, write] = cells[..] else {
            panic!("{line}");
        };
        let points: u64 = points.replace(' ', "").parse().unwrap();
        assert!(points >= row.points, "{line}");
        match row.read {
            Some(_) => assert!(read.parse::<f64>().unwrap() > 0.0, "{line}"),
            None => assert_eq!(read, NO_READ, "{line}"),
        }
        assert!(write.parse::<f64>().unwrap() > 0.0, "{line}");
    }
}
