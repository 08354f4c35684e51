//! `cairn verify`: checks this build and machine against reference files.

use super::{Global, print};
use crate::error::path_text;
use crate::verify::{Finding, Report, verify};
use anyhow::Context;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check this build and machine against reference values of the official code
///
/// A reference file holds inputs, weights and what the official code computed from them. Everything is computed again
/// and compared: every tensor with its error and its limit. Files for single operators, whole networks and training
/// curves are told apart by their contents. Exit code 1 when something is off by more than its limit.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cairn verify data/golden/ptv2/net_a.safetensors\n  \
    cairn verify data/golden/ptv2/*.safetensors --json")]
pub struct Args {
    /// Reference files (safetensors)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// State of the network, for files that hold none (safetensors)
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// List every tensor, not only the worst of each kind and what failed
    #[arg(long, short)]
    all: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct FileReport {
    file: PathBuf,
    passed: bool,
    #[serde(flatten)]
    report: Report,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    global.announce();
    let mut reports = Vec::new();
    for file in &args.files {
        let report = verify(file, args.weights.as_deref(), global.device)
            .with_context(|| format!("verifying {}", path_text(file)))?;
        if !args.json {
            print::result(&text(file, &report, args.all))?;
        }
        reports.push(FileReport {
            file: file.clone(),
            passed: report.passed(),
            report,
        });
    }
    if args.json {
        print::json(&reports)?;
    }
    Ok(match reports.iter().all(|r| r.passed) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The worst finding of each measure, everything that failed, and a summary.
fn text(file: &std::path::Path, report: &Report, all: bool) -> String {
    let share = |f: &Finding| {
        if f.error == 0.0 {
            0.0
        } else {
            f.error / f.limit
        }
    };
    let mut shown: Vec<&Finding> = Vec::new();
    for finding in &report.findings {
        let worse = |other: &Finding| share(other) > share(finding);
        let rivals = || {
            report
                .findings
                .iter()
                .filter(|f| f.measure == finding.measure)
        };
        let listed = shown
            .iter()
            .any(|f| f.measure == finding.measure && f.passed());
        if all || !finding.passed() || (!listed && !rivals().any(worse)) {
            shown.push(finding);
        }
    }
    let failed = report.findings.iter().filter(|f| !f.passed()).count();
    let verdict = if failed == 0 { "passed" } else { "FAILED" };
    let mut text = format!(
        "{}: {} — {verdict}",
        file.display(),
        report.kinds.join(", ")
    );
    let _ = writeln!(
        text,
        ", {} of {} checks failed",
        failed,
        report.findings.len()
    );
    let _ = writeln!(
        text,
        "  {:>9}  {:>9}  {:6}  tensor (measure)",
        "error", "limit", ""
    );
    for f in shown {
        let mark = if f.passed() { "ok" } else { "FAILED" };
        let _ = writeln!(
            text,
            "  {:>9.2e}  {:>9.2e}  {mark:6}  {} ({})",
            f.error, f.limit, f.name, f.measure
        );
    }
    text
}
