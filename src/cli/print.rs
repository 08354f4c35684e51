//! What people see: results, tables, errors.

use crate::Error;
use crate::error::{one_line, path_text};
use crate::io::Warning;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

/// Writes a result to standard output. A reader that has gone away (`cairn info scan.laz | head -1`) is no error.
///
/// What names of files and attributes hold besides text goes out as escapes.
pub fn result(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let text = lines(text) + "\n";
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("standard output", e).into()),
        _ => Ok(()),
    }
}

/// Writes a result as indented JSON to standard output.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    result(&serde_json::to_string_pretty(value)?)
}

/// Text whose control characters are escapes, but for the ends of its lines.
fn lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(one_line).collect();
    lines.join("\n")
}

/// Writes a line for people to standard error. Where that fails, there is nobody left to tell; the exit status still says
/// how the work went.
pub fn say(text: impl Display) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Prints warnings about a file for people.
pub fn warnings<'a>(path: &Path, warnings: impl IntoIterator<Item = &'a Warning>) {
    let (head, path) = (coloured("warning:", "33"), path_text(path));
    for warning in warnings {
        say(format_args!(
            "{head} {path}: {}",
            one_line(&warning.to_string())
        ));
    }
}

/// Prints the chain of an error once and says with which code to leave.
pub fn error(error: &anyhow::Error) -> ExitCode {
    let cause = error.chain().find_map(|e| e.downcast_ref::<Error>());
    if let Some(Error::Interrupted { .. }) = cause {
        say(chain(error));
    } else {
        say(format_args!(
            "{} {}",
            coloured("error:", "31;1"),
            chain(error)
        ));
    }
    if let Some(hint) = cause.and_then(hint) {
        say(format_args!("{} {hint}", coloured("hint:", "36")));
    }
    ExitCode::from(cause.map_or(1, Error::exit_code))
}

/// The messages of a chain, joined; a message that repeats the end of the one before it is said once.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let mut message = match cause.downcast_ref::<Error>() {
            Some(error) => error.to_string(),
            None => lines(&cause.to_string()),
        };
        if text.ends_with(&message) {
            continue;
        }
        // "reading scan.laz" and "scan.laz: byte 0: …" name the file twice.
        if let Some((subject, rest)) = message.split_once(": ")
            && text.ends_with(subject)
        {
            message = rest.to_string();
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&message);
    }
    text
}

/// What to do about an error whose message cannot say it.
fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => {
                Some("check the path; relative paths start at the current folder")
            }
            ErrorKind::PermissionDenied => {
                Some("check the permissions, or write somewhere else with -o")
            }
            ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded => Some(
                "make room or write somewhere else with -o; an older output was left as it was",
            ),
            _ => None,
        },
        Error::Weights { .. } => Some(
            "`cairn info FILE` shows what a model file holds; `cairn convert` makes one from an official checkpoint",
        ),
        _ => None,
    }
}

fn coloured(text: &str, code: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    if io::stderr().is_terminal() && !plain {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_string()
    }
}

/// A whole number with thin groups: 1 234 567.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Rows of cells as text: the first column left, the others right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|r| r.get(c));
        cells.map(|s| s.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cell = |(c, s): (usize, &String)| match c {
            0 => format!("{s:<w$}", w = widths[c]),
            _ => format!("  {s:>w$}", w = widths[c]),
        };
        let line: String = row.iter().enumerate().map(cell).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_chain_names_everything_once() {
        let io = io::Error::from(ErrorKind::NotFound);
        let error: anyhow::Error = Error::io("a/scan.laz", io).into();
        let error = error.context("reading a/scan.laz");
        let text = chain(&error);
        assert_eq!(text.matches("scan.laz").count(), 1, "{text}");
        assert_eq!(text.matches("not found").count(), 1, "{text}");
        let error = Err::<(), _>(Error::malformed("x.ply", "line 3", "no count"))
            .context("reading the scan")
            .unwrap_err();
        assert_eq!(chain(&error), "reading the scan: x.ply: line 3: no count");
    }

    #[test]
    fn names_in_a_chain_cannot_steer_a_terminal() {
        let path = "a\n\x1b[2J.las";
        let error = anyhow::Error::from(Error::unusable(path, "is odd"))
            .context(format!("reading {}", path_text(Path::new(path))))
            .context("in \x1b[31mred");
        let want = "in \\u{1b}[31mred: reading a\\n\\u{1b}[2J.las: is odd";
        assert_eq!(chain(&error), want);
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (1_234_567, "1 234 567"),
        ] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn tables_align() {
        let rows = [["class", "points"], ["ground", "5"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|r| r.map(String::from).to_vec()).collect();
        assert_eq!(table(&rows), "class   points\nground       5\n");
    }
}
