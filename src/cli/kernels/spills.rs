//! `cairn kernels --spills`: registers of every kernel on every architecture.

use super::print;
use crate::device::Precision;
use crate::profile::{ARCHITECTURES, assemble};
use std::process::ExitCode;

/// Prints the registers and fails when something is kept in memory instead.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut cells = vec![vec!["kernel".to_string()]];
    cells[0].extend(ARCHITECTURES.map(|arch| format!("sm_{arch}")));
    let mut faults = Vec::new();
    for (precision, file) in assemble()? {
        // A kernel may be left out on GPUs that lack its instructions.
        let mut names: Vec<&str> = file.iter().flatten().map(|r| r.kernel.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let shown = match precision {
                Precision::F32 => name.to_string(),
                half => format!("{name} ({half})"),
            };
            let mut line = vec![shown.clone()];
            for (arch, kernels) in ARCHITECTURES.iter().zip(&file) {
                let found = kernels.iter().find(|r| r.kernel == name);
                line.push(found.map_or("-".into(), |r| r.registers.to_string()));
                let Some(r) = found else { continue };
                if r.spills != [0; 2] || r.stack > 0 {
                    let [stored, loaded] = r.spills;
                    faults.push(format!(
                        "{shown} on sm_{arch}: {stored} bytes spilled, {loaded} loaded again, {} bytes of stack",
                        r.stack
                    ));
                }
            }
            cells.push(line);
        }
    }
    print::result(&print::table(&cells))?;
    if !faults.is_empty() {
        anyhow::bail!(
            "kernels keep in memory what belongs into registers:\n{}",
            faults.join("\n")
        );
    }
    Ok(ExitCode::SUCCESS)
}
