//! Reference files that are damaged: `verify` never panics, and no file passes in which a tensor is missing, cut, of
//! another shape or type, or holds other values.
//!
//! Every kind of damage is done to a sample of the tensors of every reference file of the repository.
//! `CAIRN_DAMAGE_SAMPLE` is the number of tensors of a file, 6 unless told; files of whole networks and curves, which
//! take long, get a share of it.

use cairn::device::Device;
use cairn::verify::{Report, verify_tensors};
use cairn::weights::{Dtype, Tensor, Tensors, safetensors};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    /// The tensor is not there.
    Missing,
    /// Its last row is not there.
    Cut,
    /// It has no rows.
    Empty,
    /// It has one dimension, and the same values.
    Flat,
    /// Integers are floating-point numbers, and the other way round.
    Type,
    /// Integers are 7 larger; every fifth floating-point number is larger by half the largest, at least by 0.1. One alone
    /// may be one that nothing depends on: of a row that is ignored, or behind a ReLU that is off.
    Value,
}

const DAMAGES: [Damage; 6] = [
    Damage::Missing,
    Damage::Cut,
    Damage::Empty,
    Damage::Flat,
    Damage::Type,
    Damage::Value,
];

/// Tensors whose damage once went unnoticed or made the program panic.
const KNOWN: [(&str, &str, Damage); 29] = [
    ("ptv2/curve_a", "ce.loss", Damage::Missing),
    ("ptv2/curve_a", "ce.tol.loss", Damage::Cut),
    ("ptv2/curve_a", "ce.anchor.tol.loss", Damage::Empty),
    ("ptv2/curve_a", "ce.anchor.tol.grad_norm", Damage::Cut),
    (
        "ptv2/curve_a",
        "ce.anchor.exp_avg.seg_head.0.bias",
        Damage::Cut,
    ),
    (
        "ptv2/curve_a",
        "lovasz.anchor.exp_avg_sq.seg_head.0.bias",
        Damage::Cut,
    ),
    ("ptv2/net_c", "grad.seg_head.0.weight", Damage::Cut),
    ("ptv2/net_c", "after_step.seg_head.0.weight", Damage::Cut),
    ("ptv2/net_c", "train_loss", Damage::Empty),
    ("ptv2/net_c", "train_logits", Damage::Missing),
    (
        "ptv2/net_c",
        "buffer_after_forward.seg_head.1.norm.num_batches_tracked",
        Damage::Type,
    ),
    ("ptv2/op_knn", "self.idx", Damage::Flat),
    ("ptv2/op_knn", "self.dist", Damage::Missing),
    ("ptv2/op_knn", "self.coord", Damage::Missing),
    ("ptv2/op_knn", "lattice.idx", Damage::Value),
    ("ptv2/op_grouping", "idx", Damage::Flat),
    ("ptv2/op_grouping", "feat", Damage::Flat),
    ("ptv2/op_interpolation", "feat", Damage::Flat),
    ("ptv2/op_gridpool", "state.fc.weight", Damage::Flat),
    ("ptv2/op_gridpool", "voxel_key", Damage::Value),
    ("ptv2/op_gridpool", "unique_key", Damage::Value),
    ("ptv2/op_unpool_map", "state.proj.0.weight", Damage::Flat),
    (
        "ptv2/op_unpool_map",
        "state.proj_skip.0.weight",
        Damage::Flat,
    ),
    (
        "ptv2/op_unpool_map",
        "train.buffer_after.proj.1.norm.num_batches_tracked",
        Damage::Type,
    ),
    ("ptv2/op_loss", "logits", Damage::Cut),
    ("ptv2/op_loss", "logits", Damage::Flat),
    ("ptv2/op_metrics", "pred", Damage::Value),
    ("ptv2/op_batchnorm_2d", "input.x", Damage::Flat),
    ("stratified/op_partition", "small.cell_id", Damage::Value),
];

/// Why other values of a tensor are not noticed; any other damage of it is.
fn informative(file: &str, name: &str, golden: &Tensors) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    if file == "stratified/op_attention" && starts(&["rv.scores", "rv.probs"]) {
        return Some("our attention writes neither scores nor probabilities down");
    }
    let unused = ["weight", "bias"].map(|n| format!("param.res.bn.batch_norm.{n}"));
    if file == "stratified/op_kpconv" && unused.iter().any(|n| n == name) {
        return Some("the official block has a norm that it does not use");
    }
    if file == "ptv2/op_unpool_map" && starts(&["input.coord", "input.skip_coord"]) {
        return Some("the way up by clusters does not look where points are");
    }
    if !file.ends_with("curve_a") {
        return None;
    }
    if ["tol.", "gap."].iter().any(|limit| name.contains(limit)) {
        return Some("a limit, not a value: the file says how far a step may be off");
    }
    if name.contains("anchor.exp_avg_sq.") {
        return Some("one second moment shortens one step of one weight, by less than the limits");
    }
    let listed = golden.metadata.values().any(|text| {
        let zero = text.contains("zero_grad") || text.starts_with("[\"");
        zero && name
            .split_once("state.")
            .or(name.split_once("init."))
            .or(name.split_once("exp_avg."))
            .is_some_and(|(_, param)| text.contains(&format!("\"{param}\"")))
    });
    let shift = name.ends_with("weight_encoding.3.bias");
    if listed && (!name.contains("final.state.") || shift) {
        return Some("in training nothing depends on what has no gradient");
    }
    None
}

fn golden(file: &str) -> (PathBuf, Tensors) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(format!("data/golden/{file}.safetensors"));
    let tensors = safetensors::read(&path).unwrap();
    (path, tensors)
}

fn goldens() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden");
    let mut files = Vec::new();
    for network in ["ptv2", "stratified"] {
        for entry in std::fs::read_dir(folder.join(network)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let stem = path.file_stem().unwrap().to_str().unwrap();
                files.push(format!("{network}/{stem}"));
            }
        }
    }
    files.sort();
    files
}

/// A copy in which `name` holds `tensor`, or nothing.
fn with(golden: &Tensors, name: &str, tensor: Option<Tensor>) -> Tensors {
    let mut copy = Tensors::new();
    copy.metadata = golden.metadata.clone();
    for (found, kept) in golden.iter() {
        let kept = match found == name {
            true => tensor.clone(),
            false => Some(kept.clone()),
        };
        if let Some(kept) = kept {
            copy.insert(found, kept).unwrap();
        }
    }
    copy
}

/// The damaged copy; None where the damage changes nothing.
fn damaged(golden: &Tensors, name: &str, damage: Damage) -> Option<Tensors> {
    let tensor = golden.get(name).unwrap_or_else(|| panic!("no {name}"));
    let (dims, dtype) = (tensor.dims(), tensor.dtype());
    let rows = |rows: usize| {
        let rest = dims.get(1..).unwrap_or(&[]);
        let row = rest.iter().product::<usize>() * dtype.size();
        let dims = [&[rows], rest].concat();
        Tensor::new(dims, dtype, tensor.bytes()[..rows * row].to_vec()).unwrap()
    };
    let changed = match damage {
        Damage::Missing => return Some(with(golden, name, None)),
        Damage::Cut => rows(dims.first().map_or(0, |rows| rows - 1)),
        Damage::Empty => rows(0),
        Damage::Flat if dims.len() == 1 => return None,
        Damage::Flat => Tensor::new(vec![tensor.len()], dtype, tensor.bytes().to_vec()).unwrap(),
        Damage::Type if dtype.is_float() => {
            let values = tensor.to_f32();
            let bytes = values.iter().flat_map(|v| (*v as i32).to_le_bytes());
            Tensor::new(dims.to_vec(), Dtype::I32, bytes.collect()).unwrap()
        }
        Damage::Type => Tensor::from_f32(dims, &tensor.to_f32()).unwrap(),
        Damage::Value => return Some(with(golden, name, Some(other(tensor)))),
    };
    Some(with(golden, name, Some(changed)))
}

fn other(tensor: &Tensor) -> Tensor {
    let dims = tensor.dims();
    if let Some(values) = tensor.to_i64() {
        let values: Vec<i64> = values.iter().map(|v| v.wrapping_add(7)).collect();
        return Tensor::from_i64(dims, &values).unwrap();
    }
    let mut values = tensor.to_f64();
    let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let fifth = values.len().min(3) - 1;
    for value in values.iter_mut().skip(fifth).step_by(5) {
        *value += (0.5 * largest).max(0.1);
    }
    Tensor::from_f64(dims, &values).unwrap()
}

/// What `verify` says; a panic is an error of the test.
fn outcome(path: &Path, tensors: &Tensors, what: &str) -> cairn::Result<Report> {
    let run = || verify_tensors(tensors, path, None, Device::Cpu);
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("{what}: verify panicked"))
}

/// Pieces of damage that passed; a few lines at most.
struct Unnoticed(Vec<String>);

impl Unnoticed {
    fn try_one(&mut self, file: &str, (path, golden): &(PathBuf, Tensors), name: &str, d: Damage) {
        let what = format!("{file}: {d:?} {name}");
        let Some(tensors) = damaged(golden, name, d) else {
            return;
        };
        match outcome(path, &tensors, &what) {
            Ok(report) if report.passed() => self.0.push(what),
            Ok(_) => {}
            // what is missing or of another shape is told with its name and that of the file
            Err(fault) => {
                let text = fault.to_string();
                assert_eq!(fault.exit_code(), 2, "{what}: {text}");
                let structural = matches!(d, Damage::Cut | Damage::Empty | Damage::Type);
                assert!(
                    !structural || text.contains("safetensors"),
                    "{what}: {text}"
                );
            }
        }
    }
}

/// Numbers that look random, the same in every run.
fn next(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (*state >> 33) as usize
}

#[test]
fn damage_that_was_once_not_noticed_is() {
    let mut unnoticed = Unnoticed(Vec::new());
    for (file, name, damage) in KNOWN {
        unnoticed.try_one(file, &golden(file), name, damage);
    }
    assert!(unnoticed.0.is_empty(), "{:#?}", unnoticed.0);
}

#[test]
fn no_damage_passes_and_none_panics() {
    let sample = std::env::var("CAIRN_DAMAGE_SAMPLE");
    let sample: usize = sample.map_or(6, |text| text.parse().unwrap());
    let mut unnoticed = Unnoticed(Vec::new());
    let mut state = 20;
    for file in goldens() {
        let held = golden(&file);
        let mut names: Vec<&str> = held.1.iter().map(|(name, _)| name).collect();
        let (curve, network) = (file.contains("curve_"), file.contains("net_"));
        let tensors = if curve || network {
            sample.div_ceil(2)
        } else {
            sample
        };
        // steps of training take seconds
        let values = if curve {
            sample / 20
        } else if network {
            sample.div_ceil(6)
        } else {
            sample
        };
        for at in 0..tensors.min(names.len()) {
            let chosen = names.swap_remove(next(&mut state) % names.len());
            for damage in DAMAGES {
                let known = informative(&file, chosen, &held.1).is_some();
                if damage == Damage::Value && (at >= values || known) {
                    continue;
                }
                unnoticed.try_one(&file, &held, chosen, damage);
            }
        }
    }
    assert!(unnoticed.0.is_empty(), "{:#?}", unnoticed.0);
}

#[test]
fn a_distance_that_is_a_centimetre_off_is_noticed() {
    for (file, name) in [
        ("ptv2/op_knn", "pad.dist"),
        ("ptv2/op_knn", "self.dist"),
        ("ptv2/op_interpolation", "room.dist"),
        ("stratified/op_knn", "c1.dist"),
    ] {
        let (path, golden) = golden(file);
        let tensor = golden.get(name).unwrap();
        let mut values = tensor.to_f32();
        let there = values.iter().position(|d| *d > 0.0 && *d < 1e5).unwrap();
        values[there] += 0.01;
        let tensor = Tensor::from_f32(tensor.dims(), &values).unwrap();
        let damaged = with(&golden, name, Some(tensor));
        let report = outcome(&path, &damaged, name).unwrap();
        let failed = report.findings.iter().filter(|f| !f.passed());
        let failed: Vec<&str> = failed.map(|f| f.name.as_str()).collect();
        assert_eq!(failed, [name], "{file}");
    }
}

#[test]
fn faults_name_the_file_the_tensor_and_both_shapes() {
    let (path, golden) = golden("ptv2/op_gridpool");
    let told = |damage| {
        let tensors = damaged(&golden, "eval.grad.param.fc.weight", damage).unwrap();
        outcome(&path, &tensors, "fc.weight")
            .unwrap_err()
            .to_string()
    };
    let cut = told(Damage::Cut);
    for part in [
        "op_gridpool.safetensors",
        "eval.grad.param.fc.weight",
        "[11, 8]",
        "[12, 8]",
    ] {
        assert!(cut.contains(part), "{part}: {cut}");
    }
    let missing = told(Damage::Missing);
    assert!(
        missing.contains("eval.grad.param.fc.weight: is missing"),
        "{missing}"
    );
    assert!(told(Damage::Type).contains("I32"));

    let mut more = golden.clone();
    more.insert(
        "eval.grad.param.fc.bias",
        Tensor::from_f32(&[1], &[0.0]).unwrap(),
    )
    .unwrap();
    let foreign = outcome(&path, &more, "fc.bias").unwrap_err().to_string();
    assert!(foreign.contains("eval.grad.param.fc.bias"), "{foreign}");
}
