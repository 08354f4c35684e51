//! The network that a file means, and lists that follow from its points.

use super::super::Case;
use super::super::file::ReferenceFile;
use super::super::network::Input;
use super::super::reference::Report;
use crate::Result;
use crate::geometry::{Choice, Hierarchy};
use serde_json::{Value, json};

/// The `network` table that the constructor arguments of a reference file amount to.
pub(super) fn config(file: &ReferenceFile<'_>, input_channels: usize) -> Result<Value> {
    let told = file.metadata("config")?;
    let number = |value: &Value, key: &str| {
        let found = value.as_f64();
        found.ok_or_else(|| file.fault(&format!("metadata config.{key}"), "is not a number"))
    };
    let grid = number(&told["prev_grid_size"], "prev_grid_size")?;
    let mut config = json!({
        "type": "Stratified",
        "in_channels": input_channels,
        "grid_size": grid,
        "window_size": number(&told["window_size"][0], "window_size")? / grid,
        "quant_size": told["quant_sizes"][0],
        "ball_radius": number(&told["ball_radius"], "ball_radius")? / grid,
        "ball_choice": "nearest",
    });
    for key in [
        "num_classes",
        "stem_transformer",
        "depths",
        "channels",
        "num_heads",
        "downsample_scale",
        "rel_query",
        "rel_key",
        "rel_value",
        "ratio",
        "k",
        "sigma",
        "max_num_neighbors",
    ] {
        config[key] = told[key].clone();
    }
    Ok(config)
}

/// Number of classes of the network of a file.
pub(super) fn classes(file: &ReferenceFile<'_>) -> Result<usize> {
    let classes = file.metadata("config")?["num_classes"].as_u64();
    let fault = || file.fault("metadata config.num_classes", "is not a number");
    Ok(classes.ok_or_else(fault)? as usize)
}

/// Compares the file's list of the element of each point.
pub(super) fn elements(
    file: &ReferenceFile<'_>,
    prefix: &str,
    offsets: &[usize],
    report: &mut Report,
) -> Result<()> {
    let sizes = offsets.windows(2).map(|ends| ends[1] - ends[0]);
    let elements = (0i64..).zip(sizes);
    let found: Vec<i64> = elements
        .flat_map(|(element, size)| std::iter::repeat_n(element, size))
        .collect();
    let name = format!("{prefix}batch");
    report.equal(&name, &found, &file.list(&name)?);
    Ok(())
}

/// Compares the neighbours in the ball around each point with the file's, in any order.
pub(super) fn ball(
    case: &Case<'_>,
    prefix: &str,
    input: &Input,
    report: &mut Report,
) -> Result<()> {
    let told = case.file.metadata("config")?;
    let fault = || case.file.fault("metadata config", "tells no ball");
    let radius = told["ball_radius"].as_f64().ok_or_else(fault)?;
    let k = told["max_num_neighbors"].as_u64().ok_or_else(fault)? as usize;
    let name = format!("{prefix}neighbor_idx");
    let rows = input.coord.len();
    let mut want = case.file.rows(&name, &[rows, k], rows)?;
    let mut points = Hierarchy::on(case.device, input.coord.clone(), input.offsets.clone())?;
    let found = points.ball(0, radius as f32, k, Choice::Nearest)?;
    let mut found = found.index.to_vec();
    for list in [&mut want, &mut found] {
        list.chunks_exact_mut(k.max(1))
            .for_each(<[u32]>::sort_unstable);
    }
    report.equal(name, &found, &want);
    Ok(())
}
