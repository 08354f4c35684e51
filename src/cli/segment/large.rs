//! Labelling a scan that does not fit into memory.

use super::report::{Bounded, Report, Tally};
use super::truth::{LabelSearch, Truth};
use super::{Args, Chosen, KEPT};
use crate::cli::progress::Progress;
use crate::cli::{Global, print, signals};
use crate::cloud::PointCloud;
use crate::error::path_text;
use crate::infer::large::{Large, Results, Survey};
use crate::infer::memory::{ANY_CLASSES, ANY_NETWORK, Memory, Needs};
use crate::infer::shipped::Facts;
use crate::infer::{Codes, LabelMap, Prediction, Segmenter, Shipped};
use crate::io::{self, Reader, Warning};
use crate::measure::peak_memory;
use crate::weights::InputSpec;
use crate::{Error, Result};
use anyhow::Context;
use std::path::Path;
use std::time::Instant;

/// Points without usable coordinates that are kept to ask the output's format about them.
const WITNESSES: usize = 1 << 16;
/// Rows that are measured where a format does not say how many there are.
const SAMPLE: usize = 1000;

/// What is to be labelled.
pub struct Scan<'a> {
    pub input: &'a Path,
    pub output: &'a Path,
    /// At the start of the input.
    pub reader: Box<dyn Reader>,
    /// Number of points, about.
    pub points: u64,
}

/// The budget that was asked for, or that of the machine.
pub fn budget(args: &Args) -> Memory {
    args.memory.unwrap_or_else(Memory::of_machine)
}

/// True when a scan of about `points` points with the attributes of `schema` can be labelled in memory as a whole, beside
/// `held` bytes of its file.
pub fn is_held(
    args: &Args,
    chosen: &mut Chosen,
    points: u64,
    schema: &PointCloud,
    held: u64,
) -> Result<bool> {
    let memory = budget(args);
    let any = Needs {
        features: &[],
        classes: ANY_CLASSES,
        per_voxel: ANY_NETWORK,
        held,
    };
    let holds = |needs: &Needs<'_>| memory.holds(points, schema, args.tile_voxels, needs);
    Ok(match (&mut chosen.segmenter, chosen.by_scan) {
        // The network is only measured where it matters: a budget of the user's is kept whatever the network takes.
        (Some(segmenter), false) if args.memory.is_some() || !holds(&any) => {
            holds(&segmenter.needs(any.held)?)
        }
        _ => holds(&any),
    })
}

/// Number of points of a scan, about.
pub fn expected(input: &Path, reader: &dyn Reader) -> Result<u64> {
    if let Some(count) = reader.count() {
        return Ok(count);
    }
    let size = std::fs::metadata(input)
        .map_err(|e| Error::io(input, e))?
        .len();
    let Some(chunk) = io::open(input)?.next_chunk(SAMPLE)? else {
        return Ok(0);
    };
    let rows = chunk.records.len().max(1);
    let bytes: usize = (0..chunk.records.len())
        .map(|i| chunk.records.row(i).len() + 1)
        .sum();
    Ok(size * rows as u64 / bytes.max(1) as u64)
}

/// A scan after its first reading.
struct Read {
    large: Large,
    /// No points but some without coordinates; what the file held besides them.
    rest: io::Scan,
    /// Names and types of the attributes.
    schema: PointCloud,
    labels: LabelSearch,
    held: u64,
}

/// Labels one scan in bounded memory.
pub fn run(
    args: &Args,
    global: &Global,
    chosen: &mut Chosen,
    map: &LabelMap,
    scan: Scan<'_>,
) -> anyhow::Result<Report> {
    let (start, memory) = (Instant::now(), budget(args));
    let Scan { input, output, .. } = scan;
    let folder = output.parent().unwrap_or(Path::new(""));
    let inputs = chosen.inputs()?;
    if let (Some(segmenter), false) = (&mut chosen.segmenter, chosen.by_scan) {
        memory.share(args.tile_voxels, &segmenter.needs(scan.reader.held())?)?;
    }
    let read = read(args, global, (folder, &inputs), scan)?;
    read.labels.found(&read.schema)?;
    let context = || format!("segmenting {}", path_text(input));
    let measured = *read.large.measured();
    let (schema, source) = (&read.schema, &read.rest.source);
    let facts = || Facts::measured(measured.extent, measured.points, schema, source);
    let segmenter = chosen.for_facts(facts, global).with_context(context)?;
    let codes = map.resolve(segmenter)?;
    io::check_output(output, &read.rest, &codes.all()).context("preparing the output")?;
    let share = memory.share(args.tile_voxels, &segmenter.needs(read.held)?)?;
    global.note(format_args!(
        "{} points need more than {memory}: {} went to a temporary file, tiles have at most {} voxels",
        print::count(measured.points),
        Memory(read.large.bytes()),
        print::count(share.tile_voxels as u64),
    ));
    let reading = start.elapsed();

    let progress = Progress::of_points(global, "segmenting");
    let options = args.options();
    let outcome = segmenter
        .segment_large(&read.large, folder, &options, share, &mut |done, total| {
            progress.set(done, total);
            signals::check(KEPT)
        })
        .with_context(context)?;
    drop(progress);
    let segmented = start.elapsed() - reading;

    let tally = write(
        global,
        segmenter,
        &codes,
        [input, output],
        &read,
        &outcome.results,
    )?;
    let written = start.elapsed() - reading - segmented;
    let mut report = Report {
        without_class: (measured.missing + measured.absurd) as usize,
        tiles: outcome.tiles,
        passes: outcome.passes,
        ..tally.report(segmenter.metadata())
    };
    report.bounded = Some(Bounded {
        memory: memory.0,
        peak: peak_memory(),
        temporary: read.large.bytes(),
        blocks: outcome.blocks,
    });
    report.set_times([reading, segmented, written]);
    report.set_codes(&codes.of_class);
    Ok(chosen.named(report, [input, output], global))
}

impl Chosen {
    /// What the model reads of a scan; if it is not chosen yet, what each one reads.
    fn inputs(&self) -> Result<Vec<InputSpec>> {
        match (&self.segmenter, self.by_scan) {
            (Some(segmenter), false) => Ok(vec![segmenter.metadata().input.clone()]),
            _ => Shipped::inputs(),
        }
    }
}

/// Reads a scan for the first time.
fn read(
    args: &Args,
    global: &Global,
    (folder, inputs): (&Path, &[InputSpec]),
    scan: Scan<'_>,
) -> anyhow::Result<Read> {
    let context = "reading the scan";
    let Scan {
        input,
        mut reader,
        points,
        ..
    } = scan;
    let held = reader.held();
    let schema = reader.schema().clone();
    let buffer = budget(args).buffer(held);
    let mut survey = Survey::new(folder, &schema, inputs, points, buffer)?;
    let mut labels = LabelSearch::new(args.labels.as_deref());
    let mut rest = io::Scan::default();
    let progress = Progress::of_points(global, "reading");
    let mut done = 0;
    while let Some(chunk) = reader.next_chunk(io::CHUNK).context(context)? {
        signals::check(KEPT)?;
        labels.see(&chunk.cloud);
        let without = (chunk.cloud.coord.iter()).filter(|p| !crate::cloud::is_usable(p));
        let room = WITNESSES - rest.cloud.len();
        rest.cloud.coord.extend(without.take(room));
        survey.push(&chunk.cloud)?;
        done += chunk.cloud.len() as u64;
        progress.set(done, points);
    }
    drop(progress);
    // Text holds what lies between its rows, which only shows now.
    let held = held.max(reader.held());
    (rest.source, rest.warnings) = reader.finish().context(context)?;
    print::warnings(input, &rest.warnings);
    let large = survey.finish()?;
    let measured = large.measured();
    let about = io::warnings_about(measured.points, measured.missing, measured.absurd);
    print::warnings(input, &about);
    if measured.points == 0 {
        return Err(Error::unusable(input, "holds no points").into());
    }
    // The corners stand for the points whose coordinates a format may not hold.
    let corners = measured
        .extent
        .into_iter()
        .flat_map(|(low, high)| [low, high]);
    rest.cloud.coord.extend(corners);
    Ok(Read {
        large,
        rest,
        schema,
        labels,
        held,
    })
}

/// Reads the scan once more and writes it with its labels.
fn write(
    global: &Global,
    segmenter: &Segmenter,
    codes: &Codes,
    [input, output]: [&Path; 2],
    read: &Read,
    results: &Results,
) -> anyhow::Result<Tally> {
    let context = "writing the labelled scan";
    let measured = read.large.measured();
    let metadata = segmenter.metadata();
    let names = codes.labels(segmenter, &Prediction::default()).classes;
    let plan = io::Output {
        schema: &read.schema,
        source: &read.rest.source,
        count: measured.points,
        extent: measured.extent,
        classes: Some(&names),
    };
    let truth = read.labels.found(&read.schema)?;
    let mut reader = io::open(input).context("reading the scan again")?;
    let mut writer = io::create(output, &plan).context(context)?;
    let mut tally = Tally::new(metadata.classes.len());
    let progress = Progress::of_points(global, "writing");
    let mut done = 0;
    while let Some(chunk) = reader
        .next_chunk(io::CHUNK)
        .context("reading the scan again")?
    {
        let points = chunk.cloud.len();
        let (class, confidence) = results.get(done, points)?;
        let truth = match truth {
            None => None,
            Some(name) => {
                let labels = chunk.cloud.labels_of(name).ok_or_else(|| changed(input))?;
                Some(Truth::new(&labels, metadata, codes))
            }
        };
        tally.add(&class, &confidence, truth.as_ref());
        let prediction = Prediction {
            class,
            confidence,
            ..Prediction::default()
        };
        let labels = codes.labels(segmenter, &prediction);
        writer
            .write(&chunk.cloud, &chunk.records, Some(&labels))
            .context(context)?;
        done += points as u64;
        progress.set(done, measured.points);
    }
    drop(progress);
    if done != measured.points {
        return Err(changed(input).into());
    }
    let mut notes: Vec<Warning> = writer.finish().context(context)?;
    notes.extend(io::beyond_attributes(output, &read.rest.source)?);
    print::warnings(output, &notes);
    Ok(tally)
}

fn changed(input: &Path) -> Error {
    Error::unusable(
        input,
        "changed while it was being labelled; run again when it is complete",
    )
}
