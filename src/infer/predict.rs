//! Running a network on prepared points.

use crate::device::cuda::Mark;
use crate::device::random::Random;
use crate::device::{Array, Device, parallel};
use crate::graph::{Executor, Graph, Mode, Shape};
use crate::models::{Geometry, Model, Network};
use crate::{Error, Result};

/// Rows per parallel piece of the softmax.
const CHUNK: usize = 1 << 12;

/// What a network sees, brought to its device.
#[derive(Debug)]
pub struct Prepared {
    points: usize,
    feat: Array<f32>,
    geometry: Geometry,
    /// What to wait for before anything of it is used.
    ready: Option<Mark>,
}

/// Index lists and features of a ragged batch on `device`: `coord` \[N\] metres, `offsets` B+1 entries, `feat` [N, Cin].
///
/// # Errors
/// Sizes that do not fit each other, and faults of a GPU.
pub fn prepare(
    network: &dyn Network,
    device: Device,
    coord: &[[f32; 3]],
    offsets: &[usize],
    feat: Vec<f32>,
) -> Result<Prepared> {
    let geometry = network.geometry(device, coord, offsets)?;
    let feat = Array::from(feat);
    if let Device::Cuda(gpu) = device {
        feat.on(gpu)?;
    }
    Ok(Prepared {
        points: coord.len(),
        feat,
        geometry,
        ready: device.mark()?,
    })
}

/// Runs `model` in inference form on a ragged batch: `coord` \[N\] metres, `offsets` B+1 entries, `feat` [N, Cin].
/// Returns the logits [N, C].
///
/// # Errors
/// Sizes that do not fit each other or the network, and logits that are not finite.
pub fn logits(
    model: &Model,
    executor: &mut Executor,
    coord: &[[f32; 3]],
    offsets: &[usize],
    feat: Vec<f32>,
) -> Result<Vec<f32>> {
    let device = model.params.device();
    let prepared = prepare(&*model.network, device, coord, offsets, feat)?;
    logits_of(model, executor, prepared)
}

/// As [`logits`], of what is prepared.
///
/// # Errors
/// As there.
pub fn logits_of(model: &Model, executor: &mut Executor, input: Prepared) -> Result<Vec<f32>> {
    if let Some(mark) = &input.ready {
        mark.wait()?;
    }
    let mut graph = Graph::new(&model.params, Mode::Inference, Random::new(0, 0));
    let shape = Shape::new(input.points, model.network.input_channels());
    let feat = graph.input(input.feat, shape)?;
    let geometry = input.geometry;
    let output = model.network.record(&mut graph, &geometry, feat.into())?;
    graph.keep(output);
    let run = executor.run(&graph, None)?;
    let logits = run.read(output).to_vec();
    if let Some(bad) = logits.iter().position(|x| !x.is_finite()) {
        return Err(Error::NotFinite {
            what: "the network's output".into(),
            fault: format!(
                "{} at point {} of {}; the weights or the input features are far outside what the network was \
                 trained on",
                logits[bad],
                bad / model.network.classes(),
                input.points
            ),
        });
    }
    Ok(logits)
}

/// Turns rows of `classes` logits into probabilities.
pub fn softmax(logits: &mut [f32], classes: usize) {
    parallel::for_each_rows(logits, classes, CHUNK, |_, rows| {
        for row in rows.chunks_exact_mut(classes) {
            let largest = row.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
            row.iter_mut().for_each(|x| *x = (*x - largest).exp());
            let total: f32 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= total);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_and_large_logits_do_not_overflow() {
        let mut rows = [0.0, 2f32.ln(), 1000.0, 900.0, -1e30, 1e30];
        softmax(&mut rows, 2);
        for (found, expected) in rows.iter().zip([1.0 / 3.0, 2.0 / 3.0, 1.0, 0.0, 0.0, 1.0]) {
            assert!((found - expected).abs() < 1e-6, "{rows:?}");
        }
    }
}
