//! Writes frames and their label files.

use crate::cloud::{Column, Endian, PointCloud};
use crate::io::atomic::Atomic;
use crate::io::scan::{
    Labels, Output, Records, Scan, Source as AnySource, Warning, WarningKind, Writer,
};
use crate::io::{check_batch, check_total};
use crate::{Error, Result};

/// Rounding of a coordinate that is accepted, metres: below what scanners measure.
const ROUNDING: f64 = 1e-3;

/// Says why label files cannot hold these codes.
pub(super) fn check_codes(codes: &[i32]) -> std::result::Result<(), String> {
    match codes.iter().find(|code| **code > i32::from(u16::MAX)) {
        None => Ok(()),
        Some(code) => Err(format!(
            "the code {code} does not fit the 16 bits of KITTI labels; write another format or map it"
        )),
    }
}

/// Says why 32-bit floats cannot hold these points.
pub(super) fn check_coordinates(scan: &Scan) -> std::result::Result<(), String> {
    match &scan.source {
        AnySource::Bin(_) => Ok(()),
        _ => scan.cloud.coord.iter().try_for_each(check_point),
    }
}

fn check_point(p: &[f64; 3]) -> std::result::Result<(), String> {
    let rounds = |x: &&f64| (f64::from(**x as f32) - **x).abs() > ROUNDING;
    match p.iter().find(rounds) {
        None => Ok(()),
        Some(x) => Err(format!(
            "the coordinate {x} loses more than a millimetre as a 32-bit float, all that this format has; write \
             another format"
        )),
    }
}

struct BinWriter {
    points: Option<Atomic>,
    labels: Option<Atomic>,
    /// True when the bytes of the points come from a file of this format.
    kept: bool,
    labelled: bool,
    warnings: Vec<Warning>,
    promised: u64,
    done: u64,
}

pub(super) fn create(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    let labelled = plan.classes.is_some();
    let labels = match labelled {
        true => {
            let path = super::label_path(output.path());
            if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
            }
            Some(Atomic::create(&path)?)
        }
        false => None,
    };
    let kept = matches!(plan.source, AnySource::Bin(_));
    let mut writer = BinWriter::new(Some(output), labels, plan);
    let carried = |name: &str| {
        let name = name.to_ascii_lowercase();
        kept || ["intensity", "reflectance"].contains(&name.as_str())
            || labelled && ["label", "confidence", "instance"].contains(&name.as_str())
    };
    let lost: Vec<&str> = (plan.schema.attributes.iter())
        .map(|a| a.name.as_str())
        .filter(|name| !carried(name))
        .collect();
    if !lost.is_empty() {
        let text = format!("this format cannot hold: {}", lost.join(", "));
        let warning = Warning::new(WarningKind::NotKept, lost.len() as u64, text);
        writer.warnings.push(warning);
    }
    Ok(Box::new(writer))
}

/// Writes the labels of any scan alone.
pub(super) fn create_labels(output: Atomic, plan: &Output<'_>) -> Result<Box<dyn Writer>> {
    if plan.classes.is_none() {
        let fault = "holds labels only, and there are none to write";
        return Err(Error::unusable(output.path(), fault));
    }
    Ok(Box::new(BinWriter::new(None, Some(output), plan)))
}

impl BinWriter {
    fn new(points: Option<Atomic>, labels: Option<Atomic>, plan: &Output<'_>) -> BinWriter {
        let text = "label files hold no confidence; write another format to keep it";
        let warning = Warning::new(WarningKind::NotKept, plan.count, text);
        BinWriter {
            points,
            warnings: labels.is_some().then_some(warning).into_iter().collect(),
            labels,
            kept: matches!(plan.source, AnySource::Bin(_)),
            labelled: plan.classes.is_some(),
            promised: plan.count,
            done: 0,
        }
    }

    fn put_points(&mut self, cloud: &PointCloud, records: &Records) -> Result<()> {
        let Some(output) = &mut self.points else {
            return Ok(());
        };
        if self.kept {
            return output.put(records.bytes());
        }
        let intensity = cloud.intensity();
        let mut bytes = Vec::with_capacity(16 * cloud.len());
        for (row, p) in cloud.coord.iter().enumerate() {
            check_point(p).map_err(|fault| Error::unusable(output.path(), fault))?;
            p.iter()
                .for_each(|x| bytes.extend((*x as f32).to_le_bytes()));
            let level = intensity.as_ref().map_or(0.0, |i| i[row]);
            bytes.extend(level.to_le_bytes());
        }
        output.put(&bytes)
    }

    fn put_labels(&mut self, cloud: &PointCloud, labels: &Labels) -> Result<()> {
        let Some(output) = &mut self.labels else {
            return Ok(());
        };
        check_codes(&labels.code).map_err(|fault| Error::unusable(output.path(), fault))?;
        let instance = cloud.attribute("instance");
        let instance = instance.filter(|column| matches!(column, Column::U16(_)));
        let mut bytes = Vec::with_capacity(4 * cloud.len());
        for (row, code) in labels.code.iter().enumerate() {
            bytes.extend((code.max(&0).unsigned_abs() as u16).to_le_bytes());
            match instance {
                Some(column) => column.put(row, Endian::Little, &mut bytes),
                None => bytes.extend([0, 0]),
            }
        }
        output.put(&bytes)
    }
}

impl Writer for BinWriter {
    fn write(
        &mut self,
        cloud: &PointCloud,
        records: &Records,
        labels: Option<&Labels>,
    ) -> Result<()> {
        let uses_records = self.kept && self.points.is_some();
        check_batch(
            cloud,
            uses_records.then_some(records),
            labels,
            self.labelled,
        )?;
        self.put_points(cloud, records)?;
        if let Some(labels) = labels {
            self.put_labels(cloud, labels)?;
        }
        self.done += cloud.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Warning>> {
        // The points take their name last: where they are, a scan counts as done.
        let mut outputs: Vec<Atomic> = [self.labels, self.points].into_iter().flatten().collect();
        // Both are whole on the disk before one of them takes its name: a full disk leaves both as they were.
        for output in &mut outputs {
            check_total(output.path(), self.promised, self.done)?;
            output.settle()?;
        }
        outputs.into_iter().try_for_each(Atomic::finish)?;
        Ok(self.warnings)
    }
}
