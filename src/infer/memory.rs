//! How much memory a run may take, and what it is spent on.
//!
//! | part | bytes |
//! |---|---|
//! | program, threads, buffers of readers and writers | [`BASE`] |
//! | what the reader of a format holds of its file | told by the reader |
//! | the network | voxels of a tile × bytes per voxel, measured on the network |
//! | the points at hand | the rest |
//!
//! A tenth stays free: allocators keep a part of what was given back.

use crate::cloud::PointCloud;
use crate::cloud::features::Feature;
use crate::{Error, Result};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What every run takes, bytes: twice what was measured for a scan of a few points.
pub const BASE: u64 = 48 << 20;
/// Bytes per voxel of a network that is not known yet.
pub const ANY_NETWORK: u64 = 2500;
/// Classes of a network that is not known yet.
pub const ANY_CLASSES: usize = 20;
/// Voxels of the smallest tile in which a network sees some surroundings.
const LEAST_TILE: u64 = 4096;
/// Where the machine does not say what it has.
const UNKNOWN_MACHINE: u64 = 4 << 30;
/// What is taken even where less is free: usual scans and models then still run, and the system decides.
const LEAST_DEFAULT: u64 = 256 << 20;

/// Bytes that a run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(pub u64);

const UNITS: [(&str, u64); 13] = [
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
];

impl FromStr for Memory {
    type Err = Error;

    fn from_str(text: &str) -> Result<Memory> {
        let lower = text.trim().to_ascii_lowercase();
        let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = lower.split_at(end.unwrap_or(lower.len()));
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
        match (number.parse::<f64>(), unit) {
            (Ok(number), Some((_, unit))) if number > 0.0 => {
                Ok(Memory((number * *unit as f64) as u64))
            }
            _ => Err(Error::argument(
                "memory",
                format!("`{text}` is no amount of memory such as 512MiB, 2GiB or 800MB"),
            )),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        match mib < 1024.0 {
            true => write!(f, "{:.0} MiB", mib.ceil()),
            false => write!(f, "{:.1} GiB", mib / 1024.0),
        }
    }
}

/// What a network and its features need.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// What the network reads of a point.
    pub features: &'a [Feature],
    /// Number of classes.
    pub classes: usize,
    /// Bytes that the network takes per voxel.
    pub per_voxel: u64,
    /// Bytes that reader and writer hold of their files.
    pub held: u64,
}

/// What fits into memory at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Voxels that the network sees.
    pub tile_voxels: usize,
    /// Points at hand, one per voxel.
    pub voxels: u64,
    /// Points at hand when every point is seen.
    pub points: u64,
}

impl Memory {
    /// Half of what the machine, or the container in which the program runs, has free; 256 MiB at least.
    pub fn of_machine() -> Memory {
        let machine = read_table("/proc/meminfo", "MemAvailable:").map(|kib| kib << 10);
        let limit = read_table("/proc/self/limits", "Max address space");
        let free = [machine, container(), limit].into_iter().flatten().min();
        Memory(
            free.map_or(UNKNOWN_MACHINE, |free| free / 2)
                .max(LEAST_DEFAULT),
        )
    }

    /// What is left after the program itself and `held` bytes of files.
    fn room(self, held: u64) -> u64 {
        (self.0 - self.0 / 10).saturating_sub(BASE + held)
    }

    /// Bytes for points that are collected before they go to the disk.
    pub fn buffer(self, held: u64) -> u64 {
        self.room(held) / 2
    }

    /// True when a scan of `points` points with these attributes can be segmented as a whole.
    pub fn holds(
        self,
        points: u64,
        schema: &PointCloud,
        tile_voxels: usize,
        needs: &Needs<'_>,
    ) -> bool {
        let stored: usize = schema
            .attributes
            .iter()
            .map(|a| a.column.kind().size())
            .sum();
        // Votes of several tiles on one point.
        let votes = match points > tile_voxels as u64 {
            true => 4 * needs.classes as u64 + 4,
            false => 0,
        };
        // Positions, attributes as numbers and as stored, what the network reads, rows and results.
        let each = 24 + 2 * stored as u64 + 12 + sample(needs.features) + 56 + votes;
        let network = points
            .min(tile_voxels as u64)
            .saturating_mul(needs.per_voxel);
        points.saturating_mul(each).saturating_add(network) <= self.room(needs.held)
    }

    /// Divides the memory between the network and the points, the network seeing at most `tile_voxels`.
    ///
    /// # Errors
    /// Less memory than the smallest useful tile needs; the message says how much that is.
    pub fn share(self, tile_voxels: usize, needs: &Needs<'_>) -> Result<Share> {
        let room = self.room(needs.held);
        let tile = (room / 2 / needs.per_voxel).min(tile_voxels as u64);
        let least_tile = LEAST_TILE.min(tile_voxels as u64);
        if tile < least_tile {
            let least = BASE + needs.held + 2 * least_tile * needs.per_voxel;
            return Err(Error::argument(
                "memory",
                format!(
                    "{self} is too little for this scan and model; the least is {}",
                    Memory(least / 9 * 10 + (1 << 20))
                ),
            ));
        }
        let left = room - tile * needs.per_voxel;
        let sample = sample(needs.features);
        let votes = 4 * needs.classes as u64;
        // Vectors that grow take up to twice their content; numbers of voxels, decisions, rows of tiles, what several blocks
        // see and the votes on it.
        let voxel = 2 * (sample + 9) + 32 + 8 + 16 + 20 + votes;
        // Views, cells and votes are those of a tile, which may hold all points.
        let point = 2 * (sample + 9) + 2 * sample + 2 * votes + 132;
        Ok(Share {
            tile_voxels: tile as usize,
            voxels: left / voxel,
            points: (left / point).max(1),
        })
    }
}

/// Bytes of a point in a sample.
fn sample(features: &[Feature]) -> u64 {
    let of = |f: &Feature| match f.name.as_str() {
        "coord" => 0,
        "color" | "normal" => 12,
        _ => 4,
    };
    12 + features.iter().map(of).sum::<u64>()
}

/// The number behind `name` in a file of names and numbers.
pub fn read_table(path: impl AsRef<Path>, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the control groups of this process leave, bytes; nothing without limits.
fn container() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let root = Path::new("/sys/fs/cgroup");
    let of_group = |line: &str| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let group = group.trim_start_matches('/');
        let names = match controllers {
            "" => (root.join(group), "memory.max", "memory.current", "file "),
            c if c.split(',').any(|c| c == "memory") => (
                root.join("memory").join(group),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_cache ",
            ),
            _ => return None,
        };
        let (folder, limit, usage, cache) = names;
        // A group is bound by all those around it.
        let free = |folder: &Path| {
            let limit = read_table(folder.join(limit), "")?;
            let usage = read_table(folder.join(usage), "")?;
            // Cached files make room for whoever needs it.
            let cache = read_table(folder.join("memory.stat"), cache).unwrap_or(0);
            Some(limit.saturating_sub(usage.saturating_sub(cache)))
        };
        let up = folder.ancestors().take_while(|f| f.starts_with(root));
        up.filter_map(free).min()
    };
    groups.lines().filter_map(of_group).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{Attribute, Column};

    #[test]
    fn amounts_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("512MiB", 512 << 20, "512 MiB"),
            ("2 gib", 2 << 30, "2.0 GiB"),
            ("1.5G", 3 << 29, "1.5 GiB"),
            ("800MB", 800_000_000, "763 MiB"),
            ("1b", 1, "1 MiB"),
        ] {
            let memory: Memory = text.parse().unwrap();
            assert_eq!(memory, Memory(bytes), "{text}");
            assert_eq!(memory.to_string(), shown);
        }
        for text in [
            "",
            "2",
            "GiB",
            "-1GiB",
            "2 potatoes",
            "nan GiB",
            "0MiB",
            "1.2.3GiB",
        ] {
            let fault = text.parse::<Memory>().unwrap_err().to_string();
            assert!(fault.contains("such as 512MiB"), "{fault}");
        }
    }

    #[test]
    fn the_machine_has_some_memory() {
        let memory = Memory::of_machine();
        assert!(memory > Memory(32 << 20), "{memory}");
        assert!(memory < Memory(1 << 50), "{memory}");
    }

    #[test]
    fn shares_follow_the_budget_and_name_the_least() {
        let features = [Feature::new("intensity"), Feature::new("color")];
        let needs = Needs {
            features: &features,
            classes: 13,
            per_voxel: 2000,
            held: 10 << 20,
        };
        let share = |memory: Memory| memory.share(200_000, &needs);
        let large = share(Memory(4 << 30)).unwrap();
        assert_eq!(large.tile_voxels, 200_000);
        let small = share(Memory(256 << 20)).unwrap();
        assert!(
            small.tile_voxels < 200_000
                && small.voxels < large.voxels
                && small.points < small.voxels
        );
        let fault = share(Memory(64 << 20)).unwrap_err().to_string();
        let (_, least) = fault.split_once("the least is ").unwrap();
        let least: Memory = least.parse().unwrap();
        assert!(share(least).is_ok(), "{fault}");
        assert!(share(Memory(least.0 - (4 << 20))).is_err(), "{fault}");
    }

    #[test]
    fn a_scan_is_held_whole_when_it_fits() {
        let schema = PointCloud {
            coord: Vec::new(),
            attributes: vec![Attribute {
                name: "gps_time".into(),
                column: Column::F64(Vec::new()),
            }],
        };
        let needs = Needs {
            features: &[],
            classes: 3,
            per_voxel: 1000,
            held: 0,
        };
        let holds = |points| Memory(1 << 30).holds(points, &schema, 200_000, &needs);
        assert!(holds(5_000_000) && !holds(8_000_000) && !holds(u64::MAX));
    }
}
