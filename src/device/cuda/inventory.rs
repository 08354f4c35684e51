//! What a machine has to run kernels with, for people who wonder why their GPU is not used.

use std::path::PathBuf;

/// What [`super::describe`] finds.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// The cards that the driver reports, or why it reports none.
    pub cards: Result<Vec<Card>, String>,
    /// The compiler of kernels, or how to get it.
    pub nvrtc: Result<Nvrtc, String>,
    /// Folders in which the compiler is looked for, in this order, before the system's own.
    pub nvrtc_folders: Vec<PathBuf>,
    /// The emulator's library, or how to get it.
    pub emulator: Result<PathBuf, String>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// What the driver calls it.
    pub name: String,
    /// Compute capability, as major · 10 + minor.
    pub capability: u32,
    /// Size of its memory, bytes.
    pub memory: u64,
    /// Newest version of CUDA that the driver knows, as "13.0".
    pub driver: String,
}

/// The compiler of kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct Nvrtc {
    /// Its version, as "13.0".
    pub version: String,
    /// Its library; without one, the system's loader found it by name.
    pub file: Option<PathBuf>,
}

impl Card {
    /// False for a card older than the kernels.
    pub fn is_usable(&self) -> bool {
        self.capability >= super::OLDEST_CAPABILITY
    }
}

impl std::fmt::Display for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = (self.capability / 10, self.capability % 10);
        let gigabytes = self.memory as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "{}, compute capability {major}.{minor}, {gigabytes:.1} GiB",
            self.name
        )
    }
}
