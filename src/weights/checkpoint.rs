//! Finds the state dict in a checkpoint file, whatever program wrote it, and brings its names to their bare form.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::pickle::{Graph, Id, Value};
use super::pth::{self, Pth};
use super::safetensors;
use super::tensors::Tensors;
use crate::{Error, Result};

/// Keys under which training programs keep the state dict.
const STATE_KEYS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Levels that training programs put around a network: the distributed wrapper, then the segmentor.
const LEVELS: [&str; 2] = ["module.", "backbone."];

/// A state dict and what stands beside it.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Container: `safetensors`, `PyTorch zip` or `PyTorch plain`.
    pub container: &'static str,
    /// The tensors with bare names, and the metadata of a safetensors file.
    pub state: Tensors,
    /// What was cut off every name: `module.backbone.`, `backbone.`, `module.` or nothing.
    pub prefix: String,
    /// Numbers and texts beside the state dict, such as `epoch` and `best_metric_value`.
    pub beside: BTreeMap<String, String>,
    /// Dictionaries beside the state dict that were not read, such as `optimizer`.
    pub skipped: Vec<String>,
}

impl Checkpoint {
    /// True when the names had the level that Pointcept adds and the original repository did not.
    pub fn has_backbone(&self) -> bool {
        self.prefix.ends_with("backbone.")
    }
}

/// Reads a safetensors file or one written by `torch.save`; decided by its first bytes.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let path = path.as_ref();
    let mut head = Vec::new();
    (crate::io::open_regular(path)?
        .take(16)
        .read_to_end(&mut head))
    .map_err(|e| Error::io(path, e))?;
    if pth::recognise(&head) {
        let container = if head.starts_with(b"PK") {
            "PyTorch zip"
        } else {
            "PyTorch plain"
        };
        return from_pth(path, container);
    }
    if !safetensors::recognise(&head) {
        return Err(Error::unusable(
            path,
            "is no checkpoint: neither safetensors nor a file that torch.save wrote",
        ));
    }
    let (state, prefix) = bare(safetensors::read(path)?)?;
    Ok(Checkpoint {
        container: "safetensors",
        state,
        prefix,
        beside: BTreeMap::new(),
        skipped: Vec::new(),
    })
}

fn from_pth(path: &Path, container: &'static str) -> Result<Checkpoint> {
    let mut file = Pth::open(path)?;
    let (graph, root) = (file.graph(), file.root());
    let dict = state_dict(graph, root).ok_or_else(|| {
        Error::unusable(
            path,
            format!(
                "holds no state dict: neither {} nor tensors at the top, only {}",
                STATE_KEYS.join(", "),
                contents(graph, root)
            ),
        )
    })?;
    let mut beside = BTreeMap::new();
    let mut skipped = Vec::new();
    if let Value::Dict(pairs) = graph.get(root)
        && dict != root
    {
        for (key, value) in pairs.iter().filter(|(_, v)| *v != dict) {
            let key = graph.text(*key).unwrap_or("?").to_string();
            match scalar(graph.get(*value)) {
                Some(text) => {
                    beside.insert(key, text);
                }
                None => skipped.push(key),
            }
        }
    }
    let (state, prefix) = bare(file.tensors(dict)?)?;
    Ok(Checkpoint {
        container,
        state,
        prefix,
        beside,
        skipped,
    })
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(v) => Some(v.to_string()),
        Value::Int(v) => Some(v.to_string()),
        Value::Float(v) => Some(v.to_string()),
        Value::Str(v) => Some(v.clone()),
        _ => None,
    }
}

/// The dictionary of tensors: under one of the known keys, or the whole content.
fn state_dict(graph: &Graph, root: Id) -> Option<Id> {
    let holds_tensors = |id: Id| match graph.get(id) {
        Value::Dict(pairs) => pairs
            .iter()
            .any(|(_, v)| matches!(graph.get(*v), Value::Tensor(_))),
        _ => false,
    };
    let under = STATE_KEYS.iter().filter_map(|key| graph.entry(root, key));
    under.chain([root]).find(|id| holds_tensors(*id))
}

/// The first keys of a dictionary, or what else the value is.
fn contents(graph: &Graph, root: Id) -> String {
    match graph.get(root) {
        Value::Dict(pairs) if !pairs.is_empty() => {
            let keys = pairs
                .iter()
                .take(8)
                .map(|(k, _)| graph.text(*k).unwrap_or("?"));
            keys.collect::<Vec<_>>().join(", ")
        }
        other => other.kind().to_string(),
    }
}

/// Cuts the levels off that all names share. Errors when only some names have one.
fn bare(state: Tensors) -> Result<(Tensors, String)> {
    let mut prefix = String::new();
    for level in LEVELS {
        let longer = format!("{prefix}{level}");
        let with = state.iter().filter(|(n, _)| n.starts_with(&longer)).count();
        if with == state.len() && with > 0 {
            prefix = longer;
        } else if with > 0 {
            let odd = state.iter().find(|(n, _)| !n.starts_with(&longer));
            return Err(Error::weights(
                odd.map_or("", |(n, _)| n),
                format!("does not begin with {longer} as {with} other names do"),
            ));
        }
    }
    let mut out = Tensors::new();
    for (name, tensor) in state.iter() {
        out.insert(renamed(&name[prefix.len()..]), tensor.clone())?;
    }
    out.metadata = state.metadata;
    Ok((out, prefix))
}

/// Released Stratified checkpoints may spell `item_layer` what the code calls `stem_layer`.
fn renamed(name: &str) -> String {
    match name.strip_prefix("item_layer.") {
        Some(rest) => format!("stem_layer.{rest}"),
        None => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Tensor;

    fn named(names: &[&str]) -> Tensors {
        let mut all = Tensors::new();
        for name in names {
            all.insert(*name, Tensor::from_f32(&[1], &[1.0]).unwrap())
                .unwrap();
        }
        all
    }

    #[test]
    fn all_prefix_forms_become_bare() {
        for prefix in ["module.backbone.", "backbone.", "module.", ""] {
            let names = ["seg_head.0.bias", "patch_embed.proj.0.weight"];
            let long = names.map(|n| format!("{prefix}{n}"));
            let (state, cut) = bare(named(&long.each_ref().map(String::as_str))).unwrap();
            assert_eq!(cut, prefix);
            assert_eq!(state, named(&names));
        }
    }

    #[test]
    fn names_with_and_without_a_prefix_are_refused() {
        for names in [
            ["module.a", "b"],
            ["backbone.a", "b"],
            ["module.backbone.a", "module.b"],
        ] {
            let fault = bare(named(&names)).unwrap_err().to_string();
            assert!(fault.contains(names[1]), "{fault}");
        }
    }

    #[test]
    fn other_files_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for (bytes, message) in [
            (&b""[..], "no checkpoint"),
            (b"ply\nformat ascii 1.0\n", "no checkpoint"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let fault = read(&path).unwrap_err().to_string();
            assert!(fault.contains(message), "{fault}");
        }
        assert!(matches!(
            read(folder.path().join("none")),
            Err(Error::Io { .. })
        ));
    }
}
