//! Writes E57, in a thread that takes batches of points and labels from a short queue.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use e57::{E57Writer, Extension, Record, RecordDataType, RecordName, RecordValue};

use crate::cloud::{Column, Kind, PointCloud};
use crate::io::atomic::Atomic;
use crate::io::input::Input;
use crate::io::labels::{LABEL, LabelNames};
use crate::io::scan::{Labels, Output, Records, Source as AnySource, Warning, Writer};
use crate::io::{check_batch, check_total};
use crate::{Error, Result};

use super::packets::{Pages, Points};
use super::{QUEUE, SPACE, Source, read_xml};

/// Points on their way to the thread.
struct Batch {
    /// Only for clouds from other formats.
    cloud: PointCloud,
    labels: Option<(Vec<i32>, Vec<f32>)>,
}

/// What the thread must know.
struct Plan {
    /// The file whose values are copied.
    source: Option<(PathBuf, Source)>,
    schema: PointCloud,
    /// For each attribute whether it is written.
    kept: Vec<bool>,
    labels: LabelNames,
}

struct E57Output {
    queue: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<Result<Atomic>>>,
    path: PathBuf,
    is_copy: bool,
    labelled: bool,
    promised: u64,
    done: u64,
}

pub(super) fn create(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    let names = LabelNames::of(plan);
    let labelled = names.is_labelled;
    let source = match plan.source {
        AnySource::E57(source) if source.points == plan.count => {
            let path = source.path.clone();
            path.map(|path| (path, (**source).clone()))
        }
        _ => None,
    };
    let attributes = plan.schema.attributes.iter();
    let owned = Plan {
        kept: attributes.map(|a| !names.replace(&a.name)).collect(),
        schema: PointCloud {
            coord: Vec::new(),
            attributes: plan.schema.select(&[]).attributes,
        },
        labels: names,
        source,
    };
    let (queue, batches) = sync_channel(QUEUE);
    let path = output.path().to_path_buf();
    let is_copy = owned.source.is_some();
    let thread = thread::Builder::new()
        .name("e57".into())
        .spawn(move || run(output, &owned, batches))
        .map_err(|e| Error::io(&path, e))?;
    Ok(Box::new(E57Output {
        queue: Some(queue),
        thread: Some(thread),
        path,
        is_copy,
        labelled,
        promised: plan.count,
        done: 0,
    }))
}

impl E57Output {
    /// Ends the thread and takes its result.
    fn join(&mut self) -> Result<Atomic> {
        self.queue = None;
        let thread = self.thread.take();
        let result = thread.and_then(|t| t.join().ok());
        result.unwrap_or_else(|| Err(Error::unusable(&self.path, "the E57 writer failed")))
    }
}

impl Writer for E57Output {
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        check_batch(
            cloud,
            self.is_copy.then_some(records),
            labels,
            self.labelled,
        )?;
        let batch = Batch {
            cloud: match self.is_copy {
                true => PointCloud::default(),
                false => cloud.clone(),
            },
            labels: labels.map(|l| (l.code.clone(), l.confidence.clone())),
        };
        self.done += cloud.len() as u64;
        let sent = self.queue.as_ref().is_some_and(|q| q.send(batch).is_ok());
        match sent {
            true => Ok(()),
            false => self.join().map(drop),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Warning>> {
        check_total(&self.path, self.promised, self.done)?;
        self.join()?.finish()?;
        Ok(Vec::new())
    }
}

fn run(mut output: Atomic, plan: &Plan, batches: Receiver<Batch>) -> Result<Atomic> {
    let path = output.path().to_path_buf();
    let done = match &plan.source {
        Some((path, source)) => copy(&mut output, path, source, plan, batches),
        None => fresh(&mut output, plan, batches),
    };
    done.map_err(|error| match error {
        Fault::Ours(error) => error,
        Fault::Writing(e57::Error::Write {
            source: Some(source),
            desc,
        }) => match source.downcast::<std::io::Error>() {
            Ok(source) => Error::io(&path, *source),
            Err(_) => Error::unusable(&path, desc),
        },
        Fault::Writing(error) => Error::unusable(&path, error.to_string()),
    })?;
    Ok(output)
}

enum Fault {
    Ours(Error),
    Writing(e57::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Ours(error)
    }
}

impl From<e57::Error> for Fault {
    fn from(error: e57::Error) -> Fault {
        Fault::Writing(error)
    }
}

/// The labels of a queue, one by one.
struct Feed {
    batches: Receiver<Batch>,
    open: std::vec::IntoIter<(i32, f32)>,
}

impl Feed {
    fn next(&mut self) -> Option<(i32, f32)> {
        loop {
            if let Some(label) = self.open.next() {
                return Some(label);
            }
            let (codes, confidences) = self.batches.recv().ok()?.labels?;
            let labels: Vec<(i32, f32)> = codes.into_iter().zip(confidences).collect();
            self.open = labels.into_iter();
        }
    }
}

fn own(name: &str) -> RecordName {
    RecordName::Unknown {
        namespace: SPACE.into(),
        name: name.into(),
    }
}

/// The fields of labels.
fn label_records(plan: &Plan) -> Vec<Record> {
    if !plan.labels.is_labelled {
        return Vec::new();
    }
    let (min, max) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let record = |name: &str, data_type| Record {
        name: own(name),
        data_type,
    };
    vec![
        record(LABEL, RecordDataType::Integer { min, max }),
        record(
            plan.labels.confidence,
            RecordDataType::Single {
                min: None,
                max: None,
            },
        ),
    ]
}

fn push_label(values: &mut Vec<RecordValue>, (code, confidence): (i32, f32)) {
    values.push(RecordValue::Integer(code.into()));
    values.push(RecordValue::Single(confidence));
}

/// Copies the source value by value and adds the labels.
fn copy(
    output: &mut Atomic,
    path: &Path,
    source: &Source,
    plan: &Plan,
    batches: Receiver<Batch>,
) -> std::result::Result<(), Fault> {
    let changed = || Error::unusable(path, "was changed while it was in use; start again");
    let mut input = Input::open(path)?;
    let mut pages = Pages::new(Input::open(path)?);
    let reader = read_xml(&mut input)?;
    let mut writer = E57Writer::new(output, reader.guid())?;
    writer.set_creation(reader.creation());
    writer.set_coordinate_metadata(reader.coordinate_metadata().map(String::from));
    for extension in reader.extensions() {
        if extension.namespace != SPACE {
            writer.register_extension(extension)?;
        }
    }
    writer.register_extension(Extension::new(SPACE, "urn:cairn:attributes"))?;
    let mut feed = Feed {
        batches,
        open: Vec::new().into_iter(),
    };
    let mut done = 0u64;
    for cloud in reader.pointclouds() {
        let is_label = |r: &Record| {
            let name = super::fields::name_of(&r.name);
            plan.labels.replace(&name) && matches!(r.name, RecordName::Unknown { .. })
        };
        let keep: Vec<bool> = cloud.prototype.iter().map(|r| !is_label(r)).collect();
        let mut prototype = cloud.prototype.clone();
        let mut kept = keep.iter();
        prototype.retain(|_| kept.next() == Some(&true));
        for record in &mut prototype {
            let name = super::fields::name_of(&record.name);
            let new = plan.labels.written(&name);
            if new != name && matches!(record.name, RecordName::Unknown { .. }) {
                record.name = own(new);
            }
        }
        prototype.extend(label_records(plan));
        let guid = cloud.guid.clone().unwrap_or_default();
        let mut target = writer.add_pointcloud(&guid, prototype)?;
        describe(&mut target, &cloud);
        let mut points = Points::open(&mut pages, &cloud)?;
        let mut values = Vec::new();
        while points.next(&mut pages, &mut values)? {
            let mut values = std::mem::take(&mut values);
            let mut kept = keep.iter();
            values.retain(|_| kept.next() == Some(&true));
            if plan.labels.is_labelled {
                let label = feed.next().ok_or_else(changed)?;
                push_label(&mut values, label);
            }
            target.add_point(values)?;
            done += 1;
        }
        target.finalize()?;
    }
    // Unlabelled points are only counted.
    while feed.batches.recv().is_ok() {}
    if done != source.points {
        return Err(changed().into());
    }
    writer.finalize()?;
    Ok(())
}

fn describe<T: std::io::Read + std::io::Write + std::io::Seek>(
    target: &mut e57::PointCloudWriter<'_, T>,
    from: &e57::PointCloud,
) {
    let from = from.clone();
    target.set_name(from.name);
    target.set_description(from.description);
    target.set_original_guids(from.original_guids);
    target.set_transform(from.transform);
    target.set_acquisition_start(from.acquisition_start);
    target.set_acquisition_end(from.acquisition_end);
    target.set_sensor_vendor(from.sensor_vendor);
    target.set_sensor_model(from.sensor_model);
    target.set_sensor_serial(from.sensor_serial);
    target.set_sensor_sw_version(from.sensor_sw_version);
    target.set_sensor_hw_version(from.sensor_hw_version);
    target.set_sensor_fw_version(from.sensor_fw_version);
    target.set_temperature(from.temperature);
    target.set_humidity(from.humidity);
    target.set_atmospheric_pressure(from.atmospheric_pressure);
    if from.intensity_limits.is_some() {
        target.set_intensity_limits(from.intensity_limits);
    }
    if from.color_limits.is_some() {
        target.set_color_limits(from.color_limits);
    }
}

/// Writes points of other formats as one cloud.
fn fresh(
    output: &mut Atomic,
    plan: &Plan,
    batches: Receiver<Batch>,
) -> std::result::Result<(), Fault> {
    let guid = "{63616972-6e20-4535-8700-000000000000}";
    let mut writer = E57Writer::new(output, guid)?;
    writer.register_extension(Extension::new(SPACE, "urn:cairn:attributes"))?;
    let mut prototype = prototype(plan);
    prototype.extend(label_records(plan));
    let mut target = writer.add_pointcloud(guid, prototype)?;
    for batch in batches {
        for row in 0..batch.cloud.len() {
            let p = batch.cloud.coord[row];
            let missing = p.iter().any(|x| !x.is_finite());
            let p = if missing { [0.0; 3] } else { p };
            let mut values: Vec<RecordValue> = p.map(RecordValue::Double).into();
            values.push(RecordValue::Integer(if missing { 2 } else { 0 }));
            let attributes = batch.cloud.attributes.iter().zip(&plan.kept);
            for (attribute, _) in attributes.filter(|(_, kept)| **kept) {
                values.push(value(&attribute.column, row));
            }
            if let Some((codes, confidences)) = &batch.labels {
                push_label(&mut values, (codes[row], confidences[row]));
            }
            target.add_point(values)?;
        }
    }
    target.finalize()?;
    writer.finalize()?;
    Ok(())
}

/// Fields for the coordinates and attributes of a cloud.
fn prototype(plan: &Plan) -> Vec<Record> {
    let double = || RecordDataType::Double {
        min: None,
        max: None,
    };
    let mut records: Vec<Record> = [
        RecordName::CartesianX,
        RecordName::CartesianY,
        RecordName::CartesianZ,
    ]
    .map(|name| Record {
        name,
        data_type: double(),
    })
    .into();
    records.push(Record {
        name: RecordName::CartesianInvalidState,
        data_type: RecordDataType::Integer { min: 0, max: 2 },
    });
    let colors = ["red", "green", "blue"];
    let integer = |name: &str| plan.schema.attribute(name).is_some_and(Column::is_integer);
    let has_colors = colors.iter().all(|name| integer(name));
    let attributes = plan.schema.attributes.iter().zip(&plan.kept);
    for (attribute, _) in attributes.filter(|(_, kept)| **kept) {
        let taken = |name: &RecordName| records.iter().any(|r| r.name == *name);
        let standard = match attribute.name.as_str() {
            "intensity" => Some(RecordName::Intensity),
            "red" if has_colors => Some(RecordName::ColorRed),
            "green" if has_colors => Some(RecordName::ColorGreen),
            "blue" if has_colors => Some(RecordName::ColorBlue),
            _ => None,
        };
        let name = standard.filter(|name| !taken(name)).unwrap_or_else(|| {
            let plain = plain(plan.labels.written(&attribute.name));
            let is_label = plan.labels.replace(&plain);
            let mut name = plain.clone();
            let mut number = if is_label { 2 } else { 1 };
            while number > 1 && name == plain || taken(&own(&name)) {
                number += 1;
                name = format!("{plain}_{number}");
            }
            own(&name)
        });
        records.push(Record {
            name,
            data_type: data_type(attribute.column.kind()),
        });
    }
    records
}

/// A name that the standard allows.
fn plain(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let plain: String = name
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    let starts_well = plain.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    match starts_well && !plain.to_ascii_lowercase().starts_with("xml") {
        true => plain,
        false => format!("_{plain}"),
    }
}

fn data_type(kind: Kind) -> RecordDataType {
    let integer = |min: i64, max: i64| RecordDataType::Integer { min, max };
    match kind {
        Kind::U8 => integer(0, u8::MAX.into()),
        Kind::I8 => integer(i8::MIN.into(), i8::MAX.into()),
        Kind::U16 => integer(0, u16::MAX.into()),
        Kind::I16 => integer(i16::MIN.into(), i16::MAX.into()),
        Kind::U32 => integer(0, u32::MAX.into()),
        Kind::I32 => integer(i32::MIN.into(), i32::MAX.into()),
        Kind::F32 => RecordDataType::Single {
            min: None,
            max: None,
        },
        // Ranges of 64 bits overflow in many readers; doubles hold integers to 2^53.
        Kind::U64 | Kind::I64 | Kind::F64 => RecordDataType::Double {
            min: None,
            max: None,
        },
    }
}

fn value(column: &Column, row: usize) -> RecordValue {
    match column {
        Column::F32(v) => RecordValue::Single(v[row]),
        Column::F64(_) | Column::U64(_) | Column::I64(_) => RecordValue::Double(column.get(row)),
        _ => RecordValue::Integer(column.get(row) as i64),
    }
}
