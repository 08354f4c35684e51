//! `cairn kernels --network`: whole networks, from the sums of the bounds of their kernels.

use super::print;
use crate::Error;
use crate::profile::attention::{Bytes, grouped, windows};
use crate::profile::gpus::CARDS;
use crate::profile::network::{Forecast, Sum, s3dis};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

/// Kernels that are listed one by one; the rest is one line.
const LISTED: usize = 12;

/// Prints both tables.
pub fn run(points: usize, as_json: bool) -> anyhow::Result<ExitCode> {
    let forecast = s3dis(points)?;
    let levels: [usize; 4] = forecast
        .levels
        .clone()
        .try_into()
        .map_err(|_| Error::argument("levels", "the S3DIS network has four"))?;
    // Stratified Transformer keeps a quarter of the points from level to level.
    let quarters = [1, 4, 16, 64].map(|part| points / part);
    let (grouped, windows) = (grouped(levels)?, windows(quarters)?);
    if as_json {
        print::json(&json!({
            "levels": levels,
            "cards": CARDS.map(|card| card.name),
            "index_lists": machine(&forecast.lists),
            "features": machine(&forecast.features),
            "official_index_lists": sum(&forecast.official_lists),
            "official_features": sum(&forecast.official_features),
            "grouped_vector_attention": grouped.iter().map(bytes).collect::<Vec<_>>(),
            "window_attention": windows.iter().map(bytes).collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    let mut line =
        |words: &str| writeln!(text, "{words}").expect("writing to a string never fails");
    line(&format!(
        "Point Transformer V2, S3DIS configuration, inference of one room of {points} points (levels of {levels:?})."
    ));
    line(
        "Milliseconds that no such GPU can go below: the sum over all kernels of the largest of memory, issue, shared",
    );
    line(
        "memory and tensor cores. Launches, latency and idle multiprocessors are not in it, on either side.\n",
    );
    line(&times(&forecast));
    for (name, layers) in [
        (
            "Grouped vector attention (Point Transformer V2) with its norm and ReLU",
            &grouped,
        ),
        ("Window attention (Stratified Transformer)", &windows),
    ] {
        line(&format!(
            "{name}: MB that a layer moves from q, k, v to its output.\n"
        ));
        line(&attention(layers));
    }
    print::result(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn total(kernels: &BTreeMap<String, Sum>) -> Sum {
    let mut total = Sum::default();
    for sum in kernels.values() {
        total.work += sum.work;
        total
            .times
            .iter_mut()
            .zip(sum.times)
            .for_each(|(t, s)| *t += s);
    }
    total
}

fn both(a: &Sum, b: &Sum) -> Sum {
    total(&BTreeMap::from([
        ("a".into(), a.clone()),
        ("b".into(), b.clone()),
    ]))
}

fn times(forecast: &Forecast) -> String {
    let mut cells = vec![vec!["".to_string(), "GB".into()]];
    cells[0].extend(CARDS.map(|card| card.name.to_string()));
    let mut row = |name: &str, sum: &Sum| {
        let mut line = vec![
            name.to_string(),
            format!("{:.3}", sum.work.bytes as f64 / 1e9),
        ];
        line.extend(sum.times.map(|t| format!("{:.3}", t / 1e3)));
        cells.push(line);
    };
    let (lists, features) = (total(&forecast.lists), total(&forecast.features));
    let mut dearest: Vec<_> = forecast.features.iter().collect();
    dearest.sort_by(|a, b| b.1.times[0].total_cmp(&a.1.times[0]));
    for (name, sum) in dearest.iter().take(LISTED) {
        row(name, sum);
    }
    let rest = dearest.iter().skip(LISTED);
    row(
        "other kernels of features",
        &total(&rest.map(|(n, s)| ((*n).clone(), (*s).clone())).collect()),
    );
    row("all features", &features);
    row("index lists", &lists);
    let ours = both(&features, &lists);
    row("all", &ours);
    let official = both(&forecast.official_features, &forecast.official_lists);
    row("official features", &forecast.official_features);
    row("official neighbours", &forecast.official_lists);
    row("official", &official);
    let mut ratio = vec!["official / all".to_string(), String::new()];
    ratio.extend((0..CARDS.len()).map(|i| format!("{:.1}", official.times[i] / ours.times[i])));
    cells.push(ratio);
    print::table(&cells)
}

fn attention(layers: &[Bytes]) -> String {
    let heads = [
        "C",
        "points",
        "least",
        "requested",
        "official",
        "official / least",
        "official / requested",
    ];
    let mut cells = vec![heads.map(String::from).to_vec()];
    let mega = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
    let ratio = |a: u64, b: u64| format!("{:.1}", a as f64 / b as f64);
    for layer in layers {
        cells.push(vec![
            layer.channels.to_string(),
            layer.points.to_string(),
            mega(layer.least),
            mega(layer.requested),
            mega(layer.official),
            ratio(layer.official, layer.least),
            ratio(layer.official, layer.requested),
        ]);
    }
    print::table(&cells)
}

fn sum(sum: &Sum) -> Value {
    json!({
        "bytes": sum.work.bytes,
        "instructions": sum.work.instructions,
        "shared_wavefronts": sum.work.wavefronts,
        "tensor_operations": sum.work.tensor,
        "microseconds": sum.times,
    })
}

fn machine(kernels: &BTreeMap<String, Sum>) -> Value {
    kernels
        .iter()
        .map(|(name, s)| (name.clone(), sum(s)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn bytes(layer: &Bytes) -> Value {
    json!({
        "channels": layer.channels,
        "points": layer.points,
        "least_bytes": layer.least,
        "requested_bytes": layer.requested,
        "official_bytes": layer.official,
    })
}
