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
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what its format promises.
    #[error("{}: {place}: {fault}", path.display())]
    Malformed {
        /// The file concerned.
        path: PathBuf,
        /// Line, byte, point or tensor at which the fault lies.
        place: String,
        /// What is wrong there and, where one exists, the mend.
        fault: String,
    },
    /// A valid file that this program cannot use as asked.
    #[error("{}: {fault}", path.display())]
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
            place: place.into(),
            fault: fault.into(),
        }
    }

    /// A valid file that cannot be used as asked.
    pub fn unusable(path: impl AsRef<Path>, fault: impl Into<String>) -> Self {
        Error::Unusable {
            path: path.as_ref().to_path_buf(),
            fault: fault.into(),
        }
    }

    /// A bad configuration value.
    pub fn config(key: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Config {
            key: key.into(),
            fault: fault.into(),
        }
    }

    /// Weights that do not fit.
    pub fn weights(tensor: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Weights {
            tensor: tensor.into(),
            fault: fault.into(),
        }
    }

    /// Op inputs that do not fit.
    pub fn shape(op: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Shape {
            op: op.into(),
            fault: fault.into(),
        }
    }

    /// An argument outside its range.
    pub fn argument(what: impl Into<String>, fault: impl Into<String>) -> Self {
        Error::Argument {
            what: what.into(),
            fault: fault.into(),
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
