//! The counts that are kept under version control, `kernels/counts.txt`: a change that makes one worse by more than 2 %
//! has to change the table, where everybody sees it.

use super::Row;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A count may grow by this share before it counts as worse.
pub const SLACK: f64 = 0.02;

/// Names of the columns; every count is better when it is lower.
const COLUMNS: [&str; 6] = [
    "instructions",
    "moved_bytes",
    "least_bytes",
    "conflicts",
    "divergent",
    "tensor_ops",
];

fn counts(row: &Row) -> [u64; 6] {
    [
        row.cost.instructions.warps,
        row.moved(),
        row.least(),
        row.cost.bank_conflicts,
        row.cost.divergent_branches,
        row.cost.tensor_operations,
    ]
}

/// The table of `rows`. `compiler` names where the code comes from: counts of another one may differ.
pub fn write(rows: &[Row], compiler: &str) -> String {
    let mut text = format!(
        "# What the kernels cost on the emulator, PTX of {compiler}. `cairn kernels --record FILE` writes it.\n"
    );
    let mut line = |case: &str, kernel: &str, cells: [String; 6]| {
        let [a, b, c, d, e, f] = cells;
        writeln!(
            text,
            "{case:<28} {kernel:<36} {a:>12} {b:>12} {c:>12} {d:>10} {e:>10} {f:>12}"
        )
        .expect("writing to a string never fails");
    };
    line("# case", "kernel", COLUMNS.map(String::from));
    for row in rows {
        line(&row.case, &row.kernel, counts(row).map(|n| n.to_string()));
    }
    text
}

/// What is wrong with `rows` against a recorded table: counts that are worse, kernels that are not in it, entries that
/// no case gives. Empty when nothing is.
pub fn compare(rows: &[Row], recorded: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut table: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
    for line in recorded.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        if let (Some(case), Some(kernel)) = (words.next(), words.next()) {
            let numbers: Option<Vec<u64>> = words.map(|w| w.parse().ok()).collect();
            match numbers.filter(|n| n.len() == COLUMNS.len()) {
                Some(numbers) => drop(table.insert((case, kernel), numbers)),
                None => faults.push(format!("the table has an odd line: {line}")),
            }
        }
    }
    for row in rows {
        let Some(old) = table.remove(&(row.case.as_str(), row.kernel.as_str())) else {
            faults.push(format!("{} {} is not in the table", row.case, row.kernel));
            continue;
        };
        for ((name, old), new) in COLUMNS.iter().zip(old).zip(counts(row)) {
            if new as f64 > old as f64 * (1.0 + SLACK) {
                faults.push(format!(
                    "{} {}: {name} grew from {old} to {new}",
                    row.case, row.kernel
                ));
            }
        }
    }
    let gone = table.keys();
    faults
        .extend(gone.map(|(case, kernel)| format!("{case} {kernel} is recorded but does not run")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Precision;
    use crate::profile::gpus::Work;
    use crate::profile::{Cost, Instructions};

    fn row(kernel: &str, warps: u64, sectors: u64) -> Row {
        Row {
            case: "relu/1024x48".into(),
            kernel: kernel.into(),
            precision: Precision::F32,
            launches: 1,
            block: 256,
            shared: 0,
            least: [100, 100],
            work: Work::default(),
            cost: Cost {
                instructions: Instructions {
                    warps,
                    lanes: 32 * warps,
                },
                global_sectors: sectors,
                ..Cost::default()
            },
            classes: BTreeMap::new(),
            lines: Vec::new(),
            resources: None,
        }
    }

    #[test]
    fn what_is_recorded_passes_and_two_percent_more_does_too() {
        let table = write(&[row("relu_forward", 1000, 50)], "NVRTC 13.0");
        assert!(compare(&[row("relu_forward", 1020, 51)], &table).is_empty());
        assert!(compare(&[row("relu_forward", 10, 5)], &table).is_empty());
    }

    #[test]
    fn worse_counts_new_kernels_and_lost_ones_are_faults() {
        let table = write(&[row("relu_forward", 1000, 50)], "NVRTC 13.0");
        let faults = compare(&[row("relu_forward", 1021, 52)], &table);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("instructions grew from 1000 to 1021"));
        let faults = compare(&[row("relu_backward", 1, 1)], &table);
        assert!(faults[0].contains("relu_backward is not in the table"));
        assert!(faults[1].contains("relu_forward is recorded but does not run"));
        let faults = compare(&[], "relu/1024x48 relu_forward 5 many\n");
        assert!(faults[0].contains("odd line"), "{faults:?}");
    }
}
