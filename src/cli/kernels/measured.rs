//! `cairn kernels --device cuda`: how long kernels take on a real GPU, beside what it cannot be faster than.

use super::{Args, print};
use crate::device::Gpu;
use crate::profile::gpus::{CARDS, Card, Work};
use crate::profile::stopwatch::{Timed, time};
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

/// How many times the points that the emulator counts: 32 768 in the first stage of the S3DIS network, 4096 in the last.
const GROWTH: usize = 32;

/// Work of a kernel, by the case without its number of points and the kernel.
type Works = BTreeMap<(String, String), Work>;

/// Times the kernels on `gpu` and prints a table.
pub fn run(args: &Args, gpu: Gpu) -> anyhow::Result<ExitCode> {
    let filter = args.filter.as_deref().unwrap_or_default();
    let growth = GROWTH * usize::from(args.points);
    let timed = time(filter, growth, gpu)?;
    if timed.is_empty() {
        return Err(super::nothing(filter).into());
    }
    let name = gpu.open()?.name()?;
    let card = CARDS.iter().find(|card| name.contains(card.name));
    // A process that uses the driver cannot use the emulator.
    let works = card.map(|_| works(filter, growth));
    let (works, missing) = match works {
        Some(Ok(works)) => (works, None),
        Some(Err(error)) => (Works::new(), Some(format!("no bounds: {error:#}"))),
        None => (
            Works::new(),
            Some(format!("no bounds: none are known of {name}")),
        ),
    };
    let rows: Vec<(&Timed, Option<Work>)> = timed
        .iter()
        .map(|timed| (timed, works.get(&key(&timed.case, &timed.kernel)).copied()))
        .collect();
    if args.json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(t, work)| machine(t, *work, card))
            .collect();
        print::json(&json!({ "card": name, "bounds_missing": missing, "kernels": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(missing) = missing {
        print::say(missing);
    }
    print::result(&format!("{name}\n{}", table(&rows, card)))?;
    Ok(ExitCode::SUCCESS)
}

/// A case without its number of points, and a kernel.
fn key(case: &str, kernel: &str) -> (String, String) {
    let (name, size) = case.rsplit_once('/').unwrap_or((case, ""));
    let channels = size.split_once('x').map_or("", |(_, channels)| channels);
    (format!("{name}x{channels}"), kernel.to_string())
}

/// What the emulator counts, carried on to `growth` times the points from counts at once and twice the points: counts
/// are a share that stays and one that grows with the points.
fn works(filter: &str, growth: usize) -> anyhow::Result<Works> {
    let [once, twice] = [counted(filter, 1)?, counted(filter, 2)?];
    let carry = |(key, one): (_, Work)| {
        let two: Work = *twice.get(&key)?;
        let on = |a: u64, b: u64| a + b.saturating_sub(a) * (growth as u64 - 1);
        let work = Work {
            bytes: on(one.bytes, two.bytes),
            instructions: on(one.instructions, two.instructions),
            wavefronts: on(one.wavefronts, two.wavefronts),
            tensor: on(one.tensor, two.tensor),
        };
        Some((key, work))
    };
    Ok(once.into_iter().filter_map(carry).collect())
}

/// What `cairn kernels` counts in a process of its own.
fn counted(filter: &str, points: usize) -> anyhow::Result<Works> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .args([
            "kernels", filter, "--json", "--device", "emulator", "--points",
        ])
        .arg(points.to_string())
        .stdin(Stdio::null())
        .output()
        .context("counting on the emulator")?;
    if !output.status.success() {
        let fault = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{}", fault.trim().trim_start_matches("error: "));
    }
    let counts: Value = serde_json::from_slice(&output.stdout)?;
    let rows = counts["kernels"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let work = |row: &Value| {
        let bytes = number(&row["bytes_read_least"]) + number(&row["bytes_written_least"]);
        let work = Work {
            bytes,
            instructions: number(&row["instructions"]["warps"]),
            wavefronts: number(&row["shared_wavefronts"]),
            tensor: number(&row["tensor_time"]),
        };
        let key = key(row["case"].as_str()?, row["kernel"].as_str()?);
        Some((key, work))
    };
    Ok(rows.iter().filter_map(work).collect())
}

fn table(rows: &[(&Timed, Option<Work>)], card: Option<&Card>) -> String {
    let heads = [
        "case",
        "kernel",
        "launches",
        "µs",
        "GB/s",
        "bound µs",
        "by",
        "of the bound",
    ];
    let mut cells = vec![heads.map(String::from).to_vec()];
    for (timed, work) in rows {
        let mut line = vec![
            timed.case.clone(),
            timed.kernel.clone(),
            timed.launches.to_string(),
            format!("{:.1}", timed.microseconds),
        ];
        line.extend(match work.zip(card) {
            None => ["-"; 4].map(String::from),
            Some((work, card)) => {
                let bound = card.bound(work);
                [
                    format!("{:.0}", work.bytes as f64 / timed.microseconds / 1e3),
                    format!("{:.1}", bound.time),
                    bound.by.to_string(),
                    format!("{:.0} %", 100.0 * bound.time / timed.microseconds),
                ]
            }
        });
        cells.push(line);
    }
    print::table(&cells)
}

fn machine(timed: &Timed, work: Option<Work>, card: Option<&Card>) -> Value {
    let bound = work.zip(card).map(|(work, card)| {
        let bound = card.bound(work);
        json!({ "microseconds": bound.time, "by": bound.by, "bytes": work.bytes })
    });
    json!({
        "case": timed.case,
        "kernel": timed.kernel,
        "launches": timed.launches,
        "microseconds": timed.microseconds,
        "bound": bound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_of_any_number_of_points_have_one_key() {
        let [a, b] = ["linear bf16/1024x48", "linear bf16/65536x48"].map(|case| key(case, "k"));
        assert_eq!(a, b);
        assert_ne!(a, key("linear bf16/1024x384", "k"));
    }
}
