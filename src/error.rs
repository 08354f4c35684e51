//! The one error type of the library.
//!
//! Each variant carries the values involved, so callers can match and messages can be precise. A message names
//! what was read or run, the place in it, what is wrong and, where the user can do something, the mend.
//! [`Error::exit_code`] tells the command line which exit status fits: 2 for bad input, 1 for a failure.

use std::path::{Path, PathBuf};

/// Result of every fallible function of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, grouped by whose turn it is to act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read, write or create a file.
    #[error("{}: {source}", path_text(path))]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what its format promises.
    #[error("{}: {place}: {fault}", path_text(path))]
    Malformed {
        /// The file concerned.
        path: PathBuf,
        /// Line, byte, point or tensor at which the fault lies.
        place: String,
        /// What is wrong there and, where one exists, the mend.
        fault: String,
    },
    /// A valid file that this program cannot use as asked.
    #[error("{}: {fault}", path_text(path))]
    Unusable {
        /// The file concerned.
        path: PathBuf,
        /// Why it cannot be used, and what to do.
        fault: String,
    },
    /// A configuration key is missing, unknown or holds a value that makes no sense.
    #[error("configuration: {key}: {fault}")]
    Config {
        /// Dotted name of the key.
        key: String,
        /// What is wrong with it and which values are allowed.
        fault: String,
    },
    /// Weights do not fit the network that was asked to load them.
    #[error("weights do not fit the network: {tensor}: {fault}")]
    Weights {
        /// The first tensor that does not fit.
        tensor: String,
        /// Both shapes, or what is missing.
        fault: String,
    },
    /// The inputs of an op do not fit each other.
    #[error("{op}: {fault}")]
    Shape {
        /// The op, with its node where one is known.
        op: String,
        /// Both shapes and the rule that they break.
        fault: String,
    },
    /// An argument is outside what the function can do.
    #[error("{what}: {fault}")]
    Argument {
        /// The argument.
        what: String,
        /// Its value and the allowed range.
        fault: String,
    },
    /// The device that was asked for is not there or failed.
    #[error("device {device}: {fault}")]
    Device {
        /// Name of the device as given on the command line.
        device: String,
        /// What is missing and how to get it.
        fault: String,
    },
    /// The computation produced values that are not finite.
    #[error("{what} is not finite: {fault}")]
    NotFinite {
        /// The quantity.
        what: String,
        /// Where it happened and what usually helps.
        fault: String,
    },
    /// The user interrupted the work.
    #[error("interrupted: {saved}")]
    Interrupted {
        /// What was kept and how to go on.
        saved: String,
    },
}

impl Error {
    /// Attaches a file name to an operating-system error.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io {
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// A fault inside a file.
    pub fn malformed(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        fault: impl Into<String>,
    ) -> Self {
        Error::Malformed {
            path: path.as_ref().to_path_buf(),
            place: printable(place),
            fault: printable(fault),
        }
    }

    /// A valid file that cannot be used as asked.
    pub fn unusable(path: impl AsRef<Path>, fault: impl Into<String>) -> Self {
        Error::Unusable {
            path: path.as_ref().to_path_buf(),
            fault: printable(fault),
        }
    }

    /// A bad configuration value.
    pub fn config(key: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Config {
            key: printable(key),
            fault: printable(fault),
        }
    }

    /// Weights that do not fit.
    pub fn weights(tensor: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Weights {
            tensor: printable(tensor),
            fault: printable(fault),
        }
    }

    /// Op inputs that do not fit.
    pub fn shape(op: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Shape {
            op: printable(op),
            fault: printable(fault),
        }
    }

    /// An argument outside its range.
    pub fn argument(what: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Argument {
            what: printable(what),
            fault: printable(fault),
        }
    }

    /// Exit status of the command line: 2 when the input is at fault, 1 when the work failed, 130 on interrupt.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Io { .. }
            | Error::Malformed { .. }
            | Error::Unusable { .. }
            | Error::Config { .. }
            | Error::Weights { .. }
            | Error::Shape { .. }
            | Error::Argument { .. }
            | Error::Device { .. } => 2,
            Error::NotFinite { .. } => 1,
            Error::Interrupted { .. } => 130,
        }
    }
}

/// Longest part of a message, bytes.
const LONGEST: usize = 600;

/// What a message may say when it quotes a file: one line that neither fills a screen nor steers a terminal.
pub(crate) fn printable(text: impl Into<String>) -> String {
    let text = text.into();
    if text.len() <= LONGEST && text.chars().all(is_plain) {
        return text;
    }
    let mut plain = String::new();
    for c in text.trim_end().chars() {
        if plain.len() > LONGEST {
            plain.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => plain.push(' '),
            c if is_plain(c) => plain.push(c),
            c => plain.extend(c.escape_default()),
        }
    }
    plain
}

/// False for characters that steer a terminal, or that make text look like another one: controls, directions of writing
/// and what has no width (Unicode Technical Report 36, section 2).
fn is_plain(c: char) -> bool {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !hides
}

/// Text as one line that cannot steer a terminal: such characters as escapes, nothing cut.
pub(crate) fn one_line(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match is_plain(c) {
            true => plain.push(c),
            false => plain.extend(c.escape_default()),
        }
    }
    plain
}

/// A path for people, as [`one_line`]; bytes that are no UTF-8 as escapes, too, so that different names look different.
pub(crate) fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text.push_str(&one_line(chunk.valid()));
        let odd = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        text.extend(odd);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_holds_cannot_steer_a_terminal_or_fill_a_screen() {
        let fault = Error::malformed("a.ply", "line 3", "no type is called `\x1b[2J\0`\nnor so")
            .to_string();
        assert_eq!(
            fault,
            "a.ply: line 3: no type is called `\\u{1b}[2J\\u{0}` nor so"
        );
        // Shown as it is, the second name would read like the first.
        assert_eq!(one_line("gpj.las"), "gpj.las");
        assert_eq!(one_line("\u{202e}sal.jpg"), "\\u{202e}sal.jpg");
        let fault = Error::config("key", "é".repeat(1000)).to_string();
        assert!(fault.ends_with("éé…") && fault.len() < LONGEST + 40);
        assert_eq!(printable("ü".repeat(300)), "ü".repeat(300));
    }

    #[test]
    fn names_of_files_cannot_either() {
        let fault = Error::unusable("a\n\x1b[2Jé.las", "is odd").to_string();
        assert_eq!(fault, "a\\n\\u{1b}[2Jé.las: is odd");
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_stay_different() {
        use std::os::unix::ffi::OsStrExt;
        let name = |bytes: &'static [u8]| path_text(Path::new(std::ffi::OsStr::from_bytes(bytes)));
        assert_eq!(name(b"a\xff.las"), "a\\xff.las");
        assert_ne!(name(b"a\xff.las"), name(b"a\xfe.las"));
    }
}
