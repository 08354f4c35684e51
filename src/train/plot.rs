//! The training curve as one SVG: loss (left axis, smoothed over a fiftieth of the run) and validation mIoU (right axis).

use super::log::Record;
use crate::{Error, Result};
use plotters::prelude::*;

/// Width and height, pixels.
const SIZE: (u32, u32) = (900, 420);
const LOSS: RGBColor = RGBColor(31, 87, 158);
const MIOU: RGBColor = RGBColor(200, 90, 20);

/// Draws `records` and returns the SVG text.
///
/// # Errors
/// The drawing library fails.
pub fn svg(records: &[Record], title: &str) -> Result<String> {
    let (mut losses, mut mious) = (Vec::new(), Vec::new());
    for record in records {
        match record {
            Record::Step { step, loss, .. } => losses.push((*step as f64, *loss)),
            Record::Validation { step, miou, .. } => mious.push((*step as f64, *miou)),
        }
    }
    let losses = smooth(&losses, (losses.len() / 50).max(1));
    let last = records.iter().map(|r| r.step()).max().unwrap_or(1) as f64;
    let most = losses.iter().fold(1e-6f64, |m, (_, v)| m.max(*v)) * 1.05;
    let mut text = String::new();
    draw(&mut text, title, (last, most), &losses, &mious)
        .map_err(|e| Error::argument("plot", e))?;
    Ok(text)
}

fn smooth(values: &[(f64, f64)], width: usize) -> Vec<(f64, f64)> {
    (0..values.len())
        .map(|i| {
            let part = &values[(i + 1).saturating_sub(width)..=i];
            (
                values[i].0,
                part.iter().map(|v| v.1).sum::<f64>() / part.len() as f64,
            )
        })
        .collect()
}

fn draw(
    text: &mut String,
    title: &str,
    (last, most): (f64, f64),
    losses: &[(f64, f64)],
    mious: &[(f64, f64)],
) -> std::result::Result<(), String> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|e| said(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .right_y_label_area_size(52)
        .build_cartesian_2d(0.0..last, 0.0..most)
        .map_err(|e| said(&e))?
        .set_secondary_coord(0.0..last, 0.0..1.0);
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss")
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(|e| said(&e))?;
    chart
        .configure_secondary_axes()
        .y_desc("validation mIoU")
        .draw()
        .map_err(|e| said(&e))?;
    chart
        .draw_series(LineSeries::new(losses.iter().copied(), &LOSS))
        .map_err(|e| said(&e))?
        .label("loss")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], LOSS));
    chart
        .draw_secondary_series(
            LineSeries::new(mious.iter().copied(), MIOU.stroke_width(2)).point_size(3),
        )
        .map_err(|e| said(&e))?
        .label("validation mIoU")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], MIOU));
    chart
        .configure_series_labels()
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|e| said(&e))?;
    root.present().map_err(|e| said(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_becomes_a_picture() {
        let mut records: Vec<Record> = (1..=100)
            .map(|step| Record::Step {
                step,
                loss: 1.0 / step as f64,
                accuracy: 0.5,
                lr: 1e-3,
                grad_norm: 1.0,
                skipped: false,
                points: 10,
                seconds: 0.1,
            })
            .collect();
        records.push(Record::Validation {
            step: 100,
            miou: 0.5,
            macc: 0.5,
            accuracy: 0.5,
            iou: vec![0.5],
            miou_voxels: 0.5,
        });
        let text = svg(&records, "test <run>").unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("validation mIoU") && text.contains("polyline"));
        assert!(svg(&[], "nothing yet").unwrap().starts_with("<svg"));
    }
}
