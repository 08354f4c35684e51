//! `cairn info`: what a scan or a checkpoint holds, and what there is to compute with.

mod devices;

use super::{Global, print, progress::Progress, signals};
use crate::cloud::PointCloud;
use crate::error::{one_line, path_text};
use crate::io::{self, Reader};
use crate::weights::{self, safetensors};
use crate::{Error, Result};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Points read at a time.
const CHUNK: usize = 1 << 18;
/// Classes listed; a label attribute with more different codes is an identifier.
const CODES: usize = 256;

/// Show what a scan or a model file holds
///
/// For a scan: format, number of points, extent in metres, every attribute with type and range, the class codes and how
/// often they occur, and whatever is odd about the file. For a checkpoint: network, parameters, classes and the input
/// that it expects. The content decides which of the two it is, not the name. With --devices: the processor, the GPUs,
/// the compiler of their kernels, the emulator, and what to do about those that are missing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn info scan.laz\n  cairn info model.safetensors --json\n  cairn info --devices"
)]
pub struct Args {
    /// Scan (LAS, LAZ, PLY, PCD, NPY, E57, text, KITTI) or checkpoint (safetensors, PyTorch)
    #[arg(required_unless_present = "devices", conflicts_with = "devices")]
    file: Option<PathBuf>,
    /// Show what there is to compute with
    #[arg(long)]
    devices: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.file else {
        return devices::run(args.json);
    };
    if is_checkpoint(path)? {
        return checkpoint(path, args.json);
    }
    let info = ScanInfo::read(path, global).context("reading the scan")?;
    if args.json {
        print::json(&info)?;
    } else {
        print::result(&info.text(path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// True when the first bytes are those of a safetensors file, a zip archive or a pickle.
fn is_checkpoint(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let mut head = Vec::new();
    (io::open_regular(path)?.take(16).read_to_end(&mut head)).map_err(|e| Error::io(path, e))?;
    Ok(safetensors::recognise(&head) || head.starts_with(b"PK") || head.starts_with(&[0x80]))
}

/// Prints what a checkpoint holds.
fn checkpoint(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let info = weights::info(path).context("reading the checkpoint")?;
    if json {
        print::json(&info)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{}: checkpoint ({})\n", path_text(path), info.container);
    let _ = writeln!(
        text,
        "  parameters  {} in {} tensors",
        info.parameters,
        info.tensors.len()
    );
    let network = info
        .model
        .as_ref()
        .map(|m| &m.network)
        .or(info.architecture.as_ref());
    if let Some(kind) = network.and_then(|n| n.get("type")?.as_str()) {
        let _ = writeln!(text, "  network     {kind}");
    }
    if let Some(model) = &info.model {
        let _ = writeln!(text, "  classes     {}", model.class_names().join(", "));
        let _ = writeln!(text, "  voxel size  {} m", model.input.voxel_size);
        for (key, note) in &model.notes {
            let _ = writeln!(text, "  {key}: {note}");
        }
    } else if let Some(preset) = info.preset {
        let _ = writeln!(
            text,
            "  shape of    {preset}; `cairn convert` makes a model of it"
        );
    }
    print::result(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct ScanInfo {
    format: &'static str,
    version: String,
    points: u64,
    without_coordinates: u64,
    low: Option<[f64; 3]>,
    high: Option<[f64; 3]>,
    has_crs: bool,
    attributes: Vec<AttributeInfo>,
    labels: Option<LabelInfo>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct AttributeInfo {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    low: Option<f64>,
    high: Option<f64>,
    not_finite: u64,
}

#[derive(Debug, Serialize)]
struct LabelInfo {
    attribute: String,
    count: BTreeMap<i64, u64>,
}

impl ScanInfo {
    /// Reads a scan piece by piece: memory does not grow with it.
    fn read(path: &Path, global: &Global) -> Result<ScanInfo> {
        let format = io::format_of_content(path)?.name;
        let mut reader = io::open(path)?;
        let progress = Progress::new(global, "reading");
        let mut info = ScanInfo::new(format, &*reader);
        let promised = reader.count();
        let mut labels = Labels::Open;
        while let Some(chunk) = reader.next_chunk(CHUNK)? {
            signals::check("nothing was written")?;
            info.add(&chunk.cloud);
            labels.add(&chunk.cloud);
            if let Some(promised) = promised {
                progress.set(info.points, promised);
            }
        }
        let (source, warnings) = reader.finish()?;
        info.version = source.description();
        info.has_crs = source.has_crs();
        info.labels = labels.finish();
        info.warnings = warnings.iter().map(ToString::to_string).collect();
        if info.without_coordinates > 0 {
            info.warnings.push(format!(
                "{} points have no usable coordinates and would get no class",
                info.without_coordinates
            ));
        }
        Ok(info)
    }

    fn new(format: &'static str, reader: &dyn Reader) -> ScanInfo {
        let attributes = reader.schema().attributes.iter();
        ScanInfo {
            format,
            version: String::new(),
            points: 0,
            without_coordinates: 0,
            low: None,
            high: None,
            has_crs: false,
            attributes: attributes
                .map(|a| AttributeInfo {
                    name: a.name.clone(),
                    kind: format!("{:?}", a.column.kind()).to_lowercase(),
                    low: None,
                    high: None,
                    not_finite: 0,
                })
                .collect(),
            labels: None,
            warnings: Vec::new(),
        }
    }

    fn add(&mut self, cloud: &PointCloud) {
        self.points += cloud.len() as u64;
        self.without_coordinates += (cloud.len() - cloud.usable_rows().len()) as u64;
        if let Some((low, high)) = cloud.extent() {
            let (l, h) = (self.low.unwrap_or(low), self.high.unwrap_or(high));
            self.low = Some(std::array::from_fn(|a| l[a].min(low[a])));
            self.high = Some(std::array::from_fn(|a| h[a].max(high[a])));
        }
        for (info, attribute) in self.attributes.iter_mut().zip(&cloud.attributes) {
            for value in (0..attribute.column.len()).map(|row| attribute.column.get(row)) {
                if value.is_finite() {
                    info.low = Some(info.low.map_or(value, |l| l.min(value)));
                    info.high = Some(info.high.map_or(value, |h| h.max(value)));
                } else {
                    info.not_finite += 1;
                }
            }
        }
    }

    fn text(&self, path: &Path) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            writeln!(text, "{name:<12} {value}").expect("writing to a string never fails");
        };
        line("file", path_text(path));
        line(
            "format",
            format!("{} {}", self.format, self.version)
                .trim()
                .to_string(),
        );
        line("points", print::count(self.points));
        if let (Some(low), Some(high)) = (self.low, self.high) {
            for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
                let size = high[axis] - low[axis];
                let [low, high, size] = [low[axis], high[axis], size].map(|x| short(x, 3));
                let range = format!("{low} to {high}  ({size} m)");
                line(name, range);
            }
            let area = (high[0] - low[0]) * (high[1] - low[1]);
            if area > 0.0 {
                line(
                    "density",
                    format!("{} points/m²", short(self.points as f64 / area, 1)),
                );
            }
        }
        let crs = if self.has_crs {
            "named in the file"
        } else {
            "none named"
        };
        line("coordinates", crs.to_string());
        for warning in &self.warnings {
            line("warning", warning.clone());
        }
        if !self.attributes.is_empty() {
            text.push('\n');
            text.push_str(&self.attribute_table());
        }
        if let Some(labels) = &self.labels {
            text.push('\n');
            text.push_str(&labels.table(self.points));
        }
        text
    }

    fn attribute_table(&self) -> String {
        let number = |x: Option<f64>| x.map_or("-".to_string(), number);
        let head = ["attribute", "type", "lowest", "highest"].map(String::from);
        let rows = self.attributes.iter().map(|a| {
            let mut row = vec![
                one_line(&a.name),
                a.kind.clone(),
                number(a.low),
                number(a.high),
            ];
            if a.not_finite > 0 {
                row.push(format!("{} not finite", a.not_finite));
            }
            row
        });
        print::table(&[head.to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
    }
}

impl LabelInfo {
    fn table(&self, points: u64) -> String {
        let head = vec![self.attribute.clone(), "points".into(), "share".into()];
        let rows = self.count.iter().map(|(code, count)| {
            let share = 100.0 * *count as f64 / points.max(1) as f64;
            vec![
                code.to_string(),
                print::count(*count),
                format!("{share:.1} %"),
            ]
        });
        print::table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
    }
}

/// A number in as many digits as tell it from its neighbours, with an exponent where it would be long.
fn number(x: f64) -> String {
    match x == 0.0 || (1e-5..1e16).contains(&x.abs()) {
        true => x.to_string(),
        false => format!("{x:e}"),
    }
}

/// A number with so many decimals, with an exponent where it would be long.
fn short(x: f64, decimals: usize) -> String {
    match x.abs() < 1e12 {
        true => format!("{x:.decimals$}"),
        false => format!("{x:.decimals$e}"),
    }
}

/// Class codes met so far.
enum Labels {
    Open,
    Some(LabelInfo),
    /// There are none, or the attribute holds other than classes.
    None,
}

impl Labels {
    fn add(&mut self, cloud: &PointCloud) {
        if matches!(self, Labels::None) || cloud.is_empty() {
            return;
        }
        let Some(found) = cloud.labels() else {
            *self = Labels::None;
            return;
        };
        if matches!(self, Labels::Open) {
            *self = Labels::Some(LabelInfo {
                attribute: found.name,
                count: BTreeMap::new(),
            });
        }
        if let Labels::Some(info) = self {
            for code in found.code {
                *info.count.entry(code).or_default() += 1;
            }
            if info.count.len() > CODES {
                *self = Labels::None;
            }
        }
    }

    fn finish(self) -> Option<LabelInfo> {
        match self {
            Labels::Some(info) => Some(info),
            _ => None,
        }
    }
}
