//! `cairn kernels`: what the CUDA kernels cost, counted by the emulator.

mod measured;
mod network;
mod spills;

use super::print;
use crate::device::{Choice, Device, Gpu, cuda};
use crate::profile::gpus::{CARDS, occupancy};
use crate::profile::{Row, excess, measure, table};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Source lines that are listed for a kernel.
const LINES: usize = 5;

/// Show what each CUDA kernel costs: registers, traffic, bounds
///
/// Runs every kernel on the emulator at sizes of the S3DIS network and prints exact counts, the registers, spills, shared
/// memory and occupancy on one kind of GPU, and the time in microseconds that no A100, H100, RTX 4090 or Jetson Orin can
/// go below, with what bounds it: memory, the issue of instructions, shared memory, tensor cores. `moved` are the bytes
/// that warps request, in sectors of 32, `least` the distinct ones: each input read once, each output written once. Needs
/// no GPU, but NVRTC and the emulator; `cairn info --devices` says whether they are there.
///
/// With --device cuda it times the same kernels on a GPU instead, at 32 times the points, beside the time that this GPU
/// cannot go below.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn kernels\n  cairn kernels linear --arch sm_90\n  cairn kernels --network 80000\n  cairn kernels --device cuda\n  cairn kernels --record kernels/counts.txt"
)]
pub struct Args {
    /// Only cases, or else kernels, whose names contain this, with their instructions by class and dearest source lines
    filter: Option<String>,
    /// How many times the usual numbers of points
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64),
        conflicts_with_all = ["record", "compare", "spills", "network"])]
    points: u16,
    /// GPU that registers and occupancy are of
    #[arg(long, default_value = "sm_80", value_name = "sm_NN", value_parser = architecture)]
    arch: u32,
    /// Print JSON instead of text
    #[arg(long, conflicts_with_all = ["record", "compare", "spills"])]
    json: bool,
    /// Instead: Point Transformer V2 in its S3DIS configuration on a room of this many points, inference: the sum of the
    /// bounds of all kernels beside that of the official operators, and the bytes of the attention of both networks
    #[arg(long, value_name = "POINTS", num_args = 0..=1, default_missing_value = "80000", conflicts_with = "filter",
        value_parser = clap::value_parser!(u32).range(2000..=1_000_000))]
    network: Option<u32>,
    /// Instead: registers of every kernel on sm_75, 80, 86, 89, 90 and 120; fail when one spills
    #[arg(long, conflicts_with_all = ["filter", "network"])]
    spills: bool,
    /// Write the counts as a table for --compare
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filter", "network", "spills"])]
    record: Option<PathBuf>,
    /// Fail when a count is more than 2 % above that of a table, or a kernel that memory bounds requests more than 1.3 times
    /// the least
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filter", "network", "record", "spills"])]
    compare: Option<PathBuf>,
}

fn architecture(name: &str) -> Result<u32, String> {
    let number = name.strip_prefix("sm_").and_then(|n| n.parse().ok());
    number
        .filter(|n| *n >= cuda::OLDEST_CAPABILITY)
        .ok_or_else(|| "an architecture is sm_75 or newer, as sm_80 or sm_90".into())
}

/// Runs the subcommand.
pub fn run(args: Args, choice: Choice) -> anyhow::Result<ExitCode> {
    if let Choice::Only(Device::Cuda(gpu @ Gpu::Card(_))) = choice {
        let counted = [
            args.record.is_some(),
            args.compare.is_some(),
            args.spills,
            args.network.is_some(),
        ];
        if counted.contains(&true) {
            let fault = "counts come from the emulator and the compiler, whatever GPU is there; leave --device out";
            return Err(Error::argument("device", fault).into());
        }
        choice.open()?;
        return measured::run(&args, gpu);
    }
    if args.record.is_some() || args.compare.is_some() {
        return keep(&args);
    }
    if args.spills {
        return spills::run();
    }
    if let Some(points) = args.network {
        return network::run(points as usize, args.json);
    }
    let filter = args.filter.as_deref().unwrap_or_default();
    let rows = measure(filter, usize::from(args.points), Some(args.arch))?;
    if rows.is_empty() {
        return Err(nothing(filter).into());
    }
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|row| machine(row, args.arch)).collect();
        let arch = format!("sm_{}", args.arch);
        print::json(&json!({ "compiler": cuda::compiler()?, "arch": arch, "kernels": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = overview(&rows, args.arch);
    if args.filter.is_some() {
        rows.iter().for_each(|row| details(row, &mut text));
    }
    print::result(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn nothing(filter: &str) -> Error {
    let fault = format!("no case and no kernel contains {filter:?}");
    Error::argument("filter", fault)
}

/// Writes the table of counts, or compares with one.
fn keep(args: &Args) -> anyhow::Result<ExitCode> {
    let rows = measure("", 1, None)?;
    if let Some(file) = &args.record {
        let text = table::write(&rows, &cuda::compiler()?);
        std::fs::write(file, text).map_err(|e| Error::io(file, e))?;
    }
    if let Some(file) = &args.compare {
        let recorded = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
        let wasteful = excess::find(&rows);
        if !wasteful.is_empty() {
            anyhow::bail!(
                "kernels that memory bounds request too much:\n{}",
                wasteful.join("\n")
            );
        }
        let faults = table::compare(&rows, &recorded);
        if !faults.is_empty() {
            let file = file.display();
            anyhow::bail!(
                "kernels are worse than {file} says:\n{}\nwhere that is meant, `cairn kernels --record {file}` records it",
                faults.join("\n")
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Registers, spilled bytes, shared memory and share of the warps that fit; dashes for code that the GPU does not get.
fn fit(row: &Row, arch: u32) -> [String; 4] {
    match &row.resources {
        None => ["-"; 4].map(String::from),
        Some(resources) => [
            resources.registers.to_string(),
            (resources.spills[0] + resources.spills[1]).to_string(),
            row.shared.to_string(),
            format!(
                "{:.0} %",
                100.0 * occupancy(arch, resources, row.block, row.shared)
            ),
        ],
    }
}

fn overview(rows: &[Row], arch: u32) -> String {
    let mut cells = vec![vec!["case".to_string(), "kernel".into()]];
    let heads = [
        "regs",
        "spilled",
        "shared",
        "warps fit",
        "instr",
        "moved",
        "least",
        "ratio",
        "confl",
        "diverg",
        "tensor op",
    ];
    cells[0].extend(heads.map(String::from));
    cells[0].extend(CARDS.map(|card| format!("{} µs", card.name)));
    cells[0].push("by".into());
    for row in rows {
        let mut line = vec![row.case.clone(), row.kernel.clone()];
        line.extend(fit(row, arch));
        let ratio = row.moved() as f64 / row.least().max(1) as f64;
        line.extend([
            print::count(row.cost.instructions.warps),
            print::count(row.moved()),
            print::count(row.least()),
            format!("{ratio:.2}"),
            print::count(row.cost.bank_conflicts),
            print::count(row.cost.divergent_branches),
            print::count(row.cost.tensor_operations),
        ]);
        let bounds = CARDS.map(|card| card.bound(row.work));
        line.extend(bounds.map(|bound| format!("{:.3}", bound.time)));
        line.push(bounds[0].by.into());
        cells.push(line);
    }
    print::table(&cells)
}

/// Instructions by class and the dearest lines.
fn details(row: &Row, text: &mut String) {
    let mut line = |words: String| {
        writeln!(text, "{words}").expect("writing to a string never fails");
    };
    line(format!(
        "\n{} in {}: {} launches, blocks of {} threads",
        row.kernel, row.case, row.launches, row.block
    ));
    let mut classes: Vec<_> = row.classes.iter().collect();
    classes.sort_by_key(|(_, count)| std::cmp::Reverse(count.warps));
    let all = row.cost.instructions.warps.max(1) as f64;
    let classes = classes.iter().map(|(name, count)| {
        let share = 100.0 * count.warps as f64 / all;
        format!("{} {share:.0} %", name.replace('_', " "))
    });
    line(format!("  {}", classes.collect::<Vec<_>>().join(", ")));
    for hot in row.lines.iter().take(LINES) {
        let share = format!("{:.0} %", 100.0 * hot.share);
        line(format!("  {share:>5}  {:<18} {}", hot.place, hot.text));
    }
}

fn machine(row: &Row, arch: u32) -> Value {
    let resources = row.resources.as_ref().map(|r| {
        json!({
            "registers": r.registers,
            "spill_store_bytes": r.spills[0],
            "spill_load_bytes": r.spills[1],
            "local_bytes": r.stack,
            "occupancy": occupancy(arch, r, row.block, row.shared),
        })
    });
    let bounds = CARDS.map(|card| {
        let bound = card.bound(row.work);
        json!({ "card": card.name, "microseconds": bound.time, "by": bound.by })
    });
    let instructions = row.cost.instructions;
    let classes = row.classes.iter().map(|(name, count)| {
        let count = json!({ "warps": count.warps, "lanes": count.lanes });
        (name.clone(), count)
    });
    let lines = row
        .lines
        .iter()
        .take(LINES)
        .map(|line| json!({ "place": line.place, "text": line.text, "share": line.share }));
    json!({
        "case": row.case,
        "kernel": row.kernel,
        "launches": row.launches,
        "block_threads": row.block,
        "shared_bytes": row.shared,
        "on_arch": resources,
        "instructions": { "warps": instructions.warps, "lanes": instructions.lanes },
        "classes": classes.collect::<serde_json::Map<_, _>>(),
        "bytes_moved": row.moved(),
        "bytes_read_least": row.least[0],
        "bytes_written_least": row.least[1],
        "shared_wavefronts": row.cost.shared_wavefronts,
        "bank_conflicts": row.cost.bank_conflicts,
        "divergent_branches": row.cost.divergent_branches,
        "tensor_operations": row.cost.tensor_operations,
        "tensor_time": row.work.tensor,
        "bounds": bounds,
        "lines": lines.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_named_as_the_compiler_names_them() {
        assert_eq!(architecture("sm_90"), Ok(90));
        for wrong in ["90", "sm_", "sm_70", "compute_80", "sm_9x"] {
            assert!(architecture(wrong).is_err(), "{wrong}");
        }
    }
}
