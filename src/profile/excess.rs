//! What a kernel that memory bounds may request: at most [`MOST`] times the least, each sector read once and each written
//! once. Kernels that cannot keep that are in [`EXCEPTIONS`], with the reason; the table of counts holds what they request.

use super::Row;
use super::gpus::CARDS;

/// Bytes that a kernel bound by memory requests, by the least.
pub const MOST: f64 = 1.3;

/// A row of three coordinates is 12 bytes of a sector of 32, or of two: 40 bytes on average.
const POINTS: &str = "reads points in another order than they lie in, 40 bytes for 12; sorting their coordinates along moves more";
/// A number per row, in an order that the data give.
const SCATTERED: &str =
    "reads or writes single numbers in the order that a sort gave, a sector for each";
/// Rows of G = 6 numbers.
const NARROW_ROWS: &str = "reads rows of 24 bytes in the order of lists, 48 bytes of sectors each; from G = 8 on rows are whole sectors";
/// Flags become lists.
const COMPACTED: &str = "writes what it keeps of a line side by side: every warp's part begins and ends within a sector";

/// Kernels that request more, and why no better one is known.
pub const EXCEPTIONS: [(&str, &str); 12] = [
    ("partition_means", POINTS),
    ("partition_clusters", SCATTERED),
    ("window_places", SCATTERED),
    ("window_pick", SCATTERED),
    ("window_groups", SCATTERED),
    ("add_listed_rows", NARROW_ROWS),
    ("relation_multiplier_gather", NARROW_ROWS),
    (
        "relation_multiplier_forward",
        "reads the key of every pair, which is counted once for all pairs of a point",
    ),
    ("window_starts", COMPACTED),
    ("window_tiles", COMPACTED),
    (
        "sort_moves_32",
        "writes the keys of a digit in runs of eight on average, which begin and end within a sector",
    ),
    (
        "linear_forward_tensor",
        "reads W again for every 64 rows, which weighs where W has few columns",
    ),
];

/// What is wrong: rows that memory bounds, on the first of [`CARDS`], and that request too much without being excused, and
/// excuses that no row needs. Empty when nothing is.
pub fn find(rows: &[Row]) -> Vec<String> {
    let wasteful: Vec<(&Row, f64)> = rows
        .iter()
        .map(|row| (row, row.moved() as f64 / row.least().max(1) as f64))
        .filter(|(row, ratio)| *ratio > MOST && CARDS[0].bound(row.work).by == "memory")
        .collect();
    let is_excused = |row: &Row| EXCEPTIONS.iter().any(|(kernel, _)| *kernel == row.kernel);
    let mut faults: Vec<String> = wasteful
        .iter()
        .filter(|(row, _)| !is_excused(row))
        .map(|(row, ratio)| {
            let (case, kernel) = (&row.case, &row.kernel);
            format!("{case} {kernel} requests {ratio:.2} times the least bytes")
        })
        .collect();
    let needed = |kernel: &str| wasteful.iter().any(|(row, _)| row.kernel == kernel);
    faults.extend(
        EXCEPTIONS
            .iter()
            .filter(|(kernel, _)| !needed(kernel))
            .map(|(kernel, _)| format!("{kernel} is excused for requesting too much and does not")),
    );
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::gpus::Work;
    use crate::profile::{Cost, Instructions};
    use std::collections::BTreeMap;

    fn row(kernel: &str, sectors: u64, instructions: u64) -> Row {
        Row {
            case: "relu/1024x48".into(),
            kernel: kernel.into(),
            precision: crate::device::Precision::F32,
            launches: 1,
            block: 256,
            shared: 0,
            least: [32_000, 32_000],
            work: Work {
                bytes: 64_000,
                instructions,
                ..Work::default()
            },
            cost: Cost {
                instructions: Instructions {
                    warps: instructions,
                    lanes: 32 * instructions,
                },
                global_sectors: sectors,
                ..Cost::default()
            },
            classes: BTreeMap::new(),
            lines: Vec::new(),
            resources: None,
        }
    }

    /// Rows that need every excuse.
    fn excused() -> Vec<Row> {
        EXCEPTIONS.map(|(kernel, _)| row(kernel, 4000, 10)).into()
    }

    #[test]
    fn kernels_that_request_too_much_are_faults_where_memory_bounds_them() {
        let mut rows = excused();
        assert!(find(&rows).is_empty());
        rows.push(row("relu_forward", 2600, 10));
        assert!(find(&rows).is_empty());
        rows.push(row("relu_forward", 4000, 1_000_000));
        assert!(find(&rows).is_empty(), "issue bounds it");
        rows.push(row("relu_forward", 2601, 10));
        let faults = find(&rows);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("relu_forward requests 1.30"));
    }

    #[test]
    fn excuses_that_are_not_needed_are_faults() {
        let faults = find(&excused()[1..]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(EXCEPTIONS[0].0));
    }
}
