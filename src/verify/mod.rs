//! Checks of this build and machine against reference files.
//!
//! A reference file holds inputs, weights and what the official code computed from them; `data/golden/` has some, their
//! README gives names and tolerances. [`verify`] recognises the file by the tensors that it holds, computes everything
//! again and reports every tensor with its error and its limit.

mod block;
mod curve;
mod file;
mod layers;
mod network;
mod recipe;
mod reference;
mod steps;
mod stratified;
mod trainer;

use crate::device::Device;
use crate::graph::Var;
use crate::weights::{Tensors, safetensors};
use crate::{Error, Result};
use file::ReferenceFile;
pub use reference::{Finding, Report};
use std::path::Path;

/// What a check sees.
struct Case<'a> {
    file: &'a ReferenceFile<'a>,
    /// State of the network, for files that hold none.
    weights: Option<&'a Tensors>,
    device: Device,
}

/// What a layer recorded: its output, the inputs whose gradients are compared with their names and shapes, and inner
/// values with their names.
struct Recorded {
    output: Var,
    inputs: Vec<(&'static str, Vec<usize>, Var)>,
    taps: Vec<(&'static str, Var)>,
}

impl Recorded {
    fn new(output: Var, inputs: &[(&layers::Input, Var)]) -> Self {
        let named = |(input, var): &(&layers::Input, Var)| (input.name, input.dims.clone(), *var);
        Recorded {
            output,
            inputs: inputs.iter().map(named).collect(),
            taps: Vec::new(),
        }
    }
}

type Recognise = fn(&Tensors) -> bool;
type Run = fn(&Case<'_>, &mut Report) -> Result<()>;

/// Every kind of reference file: its name, how it is recognised, and what is computed.
const CHECKS: [(&str, Recognise, Run); 25] = [
    (
        "training curve",
        |t| t.get("batch0.segment").is_some(),
        curve::run,
    ),
    (
        "whole network",
        |t| t.get("eval_logits").is_some(),
        network::run,
    ),
    (
        "residual block",
        |t| t.get("input.idx").is_some(),
        block::run,
    ),
    (
        "grid pool",
        |t| t.get("voxel_key").is_some(),
        layers::grid_pool,
    ),
    (
        "unpool",
        |t| t.get("input.skip_feat").is_some(),
        layers::unpool,
    ),
    (
        "batch norm",
        |t| t.get("input.x").is_some(),
        layers::batch_norm,
    ),
    ("grouping", |t| t.get("out_xyz").is_some(), steps::grouping),
    (
        "interpolation",
        |t| t.get("room.out").is_some(),
        steps::interpolation,
    ),
    (
        "nearest neighbours",
        |t| t.get("self.idx").is_some(),
        steps::knn,
    ),
    ("losses", |t| t.get("lovasz_grad").is_some(), recipe::losses),
    ("optimizer", |t| t.get("p0.1").is_some(), recipe::optimizer),
    (
        "schedules",
        |t| t.get("onecycle.lr").is_some(),
        recipe::schedules,
    ),
    (
        "metrics",
        |t| t.get("target_count").is_some(),
        recipe::metrics,
    ),
    (
        "voxel sampling",
        |t| t.get("fnv_key_bits").is_some(),
        recipe::voxels,
    ),
    (
        "farthest point sampling",
        |t| t.get("c0.new_offset").is_some() && t.get("c0.new_xyz").is_none(),
        stratified::steps::sampling,
    ),
    (
        "nearest neighbours of other points",
        |t| t.get("c0.new_xyz").is_some(),
        stratified::steps::neighbors,
    ),
    (
        "window partition",
        |t| t.get("small.v2p").is_some(),
        stratified::steps::partitions,
    ),
    (
        "stratified keys",
        |t| t.get("block0.index_0").is_some(),
        stratified::steps::keys,
    ),
    (
        "window attention",
        |t| t.get("rv.out").is_some(),
        stratified::layers::attention,
    ),
    (
        "transformer block",
        |t| t.get("attn_out").is_some(),
        stratified::layers::block,
    ),
    (
        "kernel point convolution",
        |t| t.get("kpconv_out").is_some(),
        stratified::layers::kernel_points,
    ),
    (
        "transition down",
        |t| t.get("fps_idx").is_some(),
        stratified::layers::transition_down,
    ),
    (
        "upsampling",
        |t| t.get("interp_of_feats").is_some(),
        stratified::layers::upsample,
    ),
    (
        "whole Stratified network",
        |t| t.get("out.eval_logits").is_some(),
        stratified::network::run,
    ),
    (
        "Stratified training curve",
        |t| t.get("batch0.neighbor_idx").is_some(),
        stratified::curve::run,
    ),
];

/// Checks this build against the reference file `path`. `weights` gives the network's state where the file holds
/// none. A file that no check recognises is an error, and so is one in which a tensor is missing, has another shape or
/// type than its kind of file asks for, or belongs to no check.
pub fn verify(path: &Path, weights: Option<&Path>, device: Device) -> Result<Report> {
    let file = safetensors::read(path)?;
    let weights = weights.map(safetensors::read).transpose()?;
    verify_tensors(&file, path, weights.as_ref(), device)
}

/// As [`verify`], for tensors in memory that come from, or could lie at, `path`: errors name it, and what some files
/// read beside them lies there.
pub fn verify_tensors(
    file: &Tensors,
    path: &Path,
    weights: Option<&Tensors>,
    device: Device,
) -> Result<Report> {
    let reference = ReferenceFile::new(file, path);
    let case = Case {
        file: &reference,
        weights,
        device,
    };
    let mut report = Report::default();
    for (name, recognise, run) in &CHECKS {
        if recognise(file) {
            report.kinds.push((*name).to_string());
            run(&case, &mut report)?;
        }
    }
    if report.findings.is_empty() {
        return Err(Error::unusable(
            path,
            format!(
                "holds nothing that can be checked; known kinds are {}",
                CHECKS.map(|(name, ..)| name).join(", ")
            ),
        ));
    }
    reference.complete()?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::devices;

    #[test]
    fn index_steps_and_what_reads_them_pass_on_every_device() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden");
        for device in devices() {
            for name in [
                "ptv2/op_knn",
                "ptv2/op_grouping",
                "ptv2/op_gridpool",
                "ptv2/op_interpolation",
                "ptv2/op_unpool_interp",
                "ptv2/op_unpool_map",
                "stratified/op_knn",
            ] {
                let report = verify(&folder.join(format!("{name}.safetensors")), None, device);
                let report = report.unwrap_or_else(|e| panic!("{name} on {device}: {e}"));
                let failed: Vec<_> = report.findings.iter().filter(|f| !f.passed()).collect();
                assert!(failed.is_empty(), "{name} on {device}: {failed:#?}");
            }
        }
    }

    #[test]
    fn every_reference_file_in_the_repository_passes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden");
        let mut files: Vec<_> = ["ptv2", "stratified"]
            .iter()
            .flat_map(|network| std::fs::read_dir(folder.join(network)).unwrap())
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        assert_eq!(files.len(), 19 + 12);
        files.sort();
        for file in files {
            let report = verify(&file, None, Device::Cpu).unwrap();
            let failed: Vec<_> = report.findings.iter().filter(|f| !f.passed()).collect();
            assert!(failed.is_empty(), "{}: {failed:#?}", file.display());
            assert!(!report.findings.is_empty());
        }
    }
}
