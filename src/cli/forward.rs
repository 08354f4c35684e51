//! `cairn forward`: raw tensors in, logits out, for other programs.

use super::{Global, Products};
use crate::cloud::features;
use crate::device::Precision;
use crate::infer::Segmenter;
use crate::weights::{Tensor, Tensors, safetensors};
use crate::{Error, Result};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run a network on tensors: for programs that prepare their own input
///
/// The input file holds `coord` [N, 3] in metres, `feat` [N, C] with the features that the network was trained on, and
/// `offset` [B], the end of every cloud of the batch (the last is N; a leading 0 is allowed). The output file holds
/// `logits` [N, classes].
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cairn forward --weights model.safetensors --input batch.safetensors -o logits.safetensors"
)]
pub struct Args {
    /// Model file (safetensors)
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Tensors to run on (safetensors)
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the logits go (safetensors)
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    products: Products,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let precision = args.products.on(global.device, Precision::F32)?;
    let batch = read_batch(&args.input).context("reading the input")?;
    let model = Segmenter::read(&args.weights, global.device).context("loading the weights")?;
    let mut model = model.in_precision(precision)?;
    let channels = features::channels(&model.metadata().input.features);
    if batch.channels != channels {
        let fault = format!(
            "tensor feat has {} columns, the network reads {channels}",
            batch.channels
        );
        return Err(Error::unusable(&args.input, fault).into());
    }
    global.announce_in(precision);
    let dims = [batch.coord.len(), model.metadata().classes.len()];
    let logits = model
        .logits(&batch.coord, &batch.offsets, batch.feat)
        .context("running the network")?;
    let mut output = Tensors::new();
    output.insert("logits", Tensor::from_f32(&dims, &logits)?)?;
    safetensors::write(&args.output, &output).context("writing the logits")?;
    Ok(ExitCode::SUCCESS)
}

/// Checked content of an input file.
#[derive(Debug)]
pub(super) struct RawBatch {
    pub coord: Vec<[f32; 3]>,
    pub feat: Vec<f32>,
    pub channels: usize,
    pub offsets: Vec<usize>,
}

pub(super) fn read_batch(path: &Path) -> Result<RawBatch> {
    let file = safetensors::read(path)?;
    let fault = |name: &str, text: String| Error::malformed(path, format!("tensor {name}"), text);
    let matrix = |name: &str| -> Result<(Vec<usize>, Vec<f32>)> {
        let tensor = file
            .get(name)
            .ok_or_else(|| fault(name, "is missing; coord, feat and offset are needed".into()))?;
        if tensor.dims().len() != 2 {
            return Err(fault(
                name,
                format!("has shape {:?}, two dimensions are needed", tensor.dims()),
            ));
        }
        let values = tensor.to_f32();
        if let Some(bad) = values.iter().position(|x| !x.is_finite()) {
            let row = bad / tensor.dims()[1].max(1);
            return Err(fault(name, format!("holds {} in row {row}", values[bad])));
        }
        Ok((tensor.dims().to_vec(), values))
    };
    let (coord_dims, coord) = matrix("coord")?;
    let (feat_dims, feat) = matrix("feat")?;
    let rows = coord_dims[0];
    if coord_dims[1] != 3 {
        return Err(fault(
            "coord",
            format!("has shape {coord_dims:?}, [N, 3] is needed"),
        ));
    }
    if feat_dims[0] != rows {
        return Err(fault(
            "feat",
            format!("has {} rows, coord has {rows}", feat_dims[0]),
        ));
    }
    let offset = file.get("offset").ok_or_else(|| {
        fault(
            "offset",
            "is missing; coord, feat and offset are needed".into(),
        )
    })?;
    let ends = offset
        .to_i64()
        .ok_or_else(|| fault("offset", "holds fractions, integers are needed".into()))?;
    Ok(RawBatch {
        coord: coord.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect(),
        feat,
        channels: feat_dims[1],
        offsets: offsets(&ends, rows).map_err(|text| fault("offset", text))?,
    })
}

/// Ends of clouds, with or without a leading 0, as B+1 offsets.
fn offsets(ends: &[i64], rows: usize) -> Result<Vec<usize>, String> {
    let mut offsets = vec![0usize];
    for (i, end) in ends.iter().enumerate() {
        let end = usize::try_from(*end).map_err(|_| format!("entry {i} is {end}"))?;
        if end == 0 && i == 0 && ends.len() > 1 {
            continue;
        }
        let last = offsets[offsets.len() - 1];
        if end < last {
            return Err(format!(
                "entry {i} is {end}, less than the one before it, {last}"
            ));
        }
        offsets.push(end);
    }
    match offsets[offsets.len() - 1] {
        last if last == rows && offsets.len() > 1 => Ok(offsets),
        last => Err(format!("ends with {last}, but coord has {rows} rows")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_become_offsets() {
        assert_eq!(offsets(&[3, 7], 7).unwrap(), [0, 3, 7]);
        assert_eq!(offsets(&[0, 3, 7], 7).unwrap(), [0, 3, 7]);
        assert_eq!(offsets(&[3, 3, 7], 7).unwrap(), [0, 3, 3, 7]);
        assert_eq!(offsets(&[0], 0).unwrap(), [0, 0]);
        for (bad, rows) in [
            (&[][..], 7),
            (&[][..], 0),
            (&[3][..], 7),
            (&[7, 3][..], 3),
            (&[-1, 7][..], 7),
        ] {
            assert!(offsets(bad, rows).is_err(), "{bad:?}");
        }
    }
}
