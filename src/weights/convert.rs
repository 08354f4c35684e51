//! From an official checkpoint to a model file: `cairn convert`.
//!
//! The tensors say most of the configuration ([`super::architecture`]). What they cannot say comes from a file given by
//! the user, else from the published configuration of the same shape ([`super::presets`]); what remains unknown is an
//! error that lists it. The result is checked against the network tensor by tensor before anything is written.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::architecture::{self, Family, untold};
use super::checkpoint::{self, Checkpoint};
use super::metadata::{ClassInfo, InputSpec, ModelMetadata};
use super::presets::{Conventions, Preset};
use super::safetensors;
use super::state::{load_model, save_state};
use super::tensors::Tensors;
use crate::device::Device;
use crate::{Error, Result, toml_text};

/// What the user may say about a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct ConvertOptions {
    /// TOML file with any of `[network]`, `[[classes]]`, `[input]` and `ignore_label`, in the form of the model
    /// description; it goes before the preset.
    pub config: Option<PathBuf>,
    /// Published configuration; by default the one whose depths, inputs and classes the checkpoint has.
    pub preset: Option<Preset>,
    /// Which training code it comes from; by default the one that names tensors that way.
    pub conventions: Option<Conventions>,
}

/// What was converted.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The description that was written.
    pub model: ModelMetadata,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of trained parameters, running statistics not counted.
    pub parameters: usize,
    /// What was cut off the names.
    pub prefix: String,
    /// Parts of the checkpoint that were left out, such as `optimizer`.
    pub skipped: Vec<String>,
    /// The published configuration that was used.
    pub preset: Option<Preset>,
    /// The conventions that were used.
    pub conventions: Conventions,
}

/// The file given by the user.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    #[serde(default)]
    network: Map<String, Value>,
    classes: Option<Vec<ClassInfo>>,
    input: Option<InputSpec>,
    ignore_label: Option<i64>,
}

/// Converts `input`, a checkpoint of any container and prefix form, to the model file `output`.
///
/// # Errors
/// Whatever is wrong with the file; a network of no known family; conventions of another family; arguments that the tensors contradict;
/// arguments that nothing tells; tensors that do not fit or are not finite. Nothing is written then.
pub fn convert(input: &Path, output: &Path, options: &ConvertOptions) -> Result<Converted> {
    let checkpoint = checkpoint::read(input)?;
    let (mut state, converted) = describe(checkpoint, input, options)?;
    converted.model.store(&mut state);
    safetensors::write(output, &state)?;
    Ok(converted)
}

/// The tensors in single precision and their description.
fn describe(
    checkpoint: Checkpoint,
    input: &Path,
    options: &ConvertOptions,
) -> Result<(Tensors, Converted)> {
    let given = options
        .config
        .as_deref()
        .map(read_config)
        .transpose()?
        .unwrap_or_default();
    let (family, told) = architecture::infer(&checkpoint.state)?;
    let preset = options.preset.or_else(|| Preset::matching(family, &told));
    let conventions = conventions(family, &checkpoint, options)?;
    let network = network(family, told, preset, &given.network)?;
    let lacking = |key: &str| {
        Error::config(
            key,
            "is not told by the checkpoint, and its shape is that of no published configuration; give it in a \
             configuration file (--config)",
        )
    };
    let classes = given.classes.or_else(|| preset.map(Preset::classes));
    let spec = given.input.or_else(|| preset.map(|p| p.input(conventions)));
    let mut model = ModelMetadata::new(
        Value::Object(network),
        classes.ok_or_else(|| lacking("classes"))?,
        spec.ok_or_else(|| lacking("input"))?,
    );
    model.ignore_label = given.ignore_label.unwrap_or(conventions.ignore_label());
    model.notes = notes(&checkpoint, input, conventions);
    model.check()?;
    // Loading is the check that every tensor fits, saving gives them in single precision and in the official order.
    let network = load_model(&model.network, &checkpoint.state, Device::Cpu)?;
    let state = save_state(&network.params)?;
    let parameters = network.params.layout().weight_count();
    let converted = Converted {
        model,
        tensors: state.len(),
        parameters,
        prefix: checkpoint.prefix,
        skipped: checkpoint.skipped,
        preset,
        conventions,
    };
    Ok((state, converted))
}

/// The training code that the user names, or else the one that names tensors that way.
fn conventions(
    family: Family,
    checkpoint: &Checkpoint,
    options: &ConvertOptions,
) -> Result<Conventions> {
    let usual = match family {
        Family::Stratified => Conventions::Stratified,
        Family::PointTransformerV2 if checkpoint.has_backbone() => Conventions::Pointcept,
        Family::PointTransformerV2 => Conventions::Original,
    };
    let conventions = options.conventions.unwrap_or(usual);
    if conventions.family() != family {
        let fault = format!("{} are those of another network", conventions.name());
        return Err(Error::argument("conventions", fault));
    }
    Ok(conventions)
}

fn read_config(path: &Path) -> Result<Given> {
    let text = crate::io::read_text(path)?;
    toml_text::parse(&text).map_err(|f| Error::malformed(path, format!("line {}", f.line), f.fault))
}

/// True for numbers of groups that differ in stages without blocks only, where the tensors do not tell them.
fn differ_without_blocks(told: &Map<String, Value>, key: &str, given: &Value) -> bool {
    let Some(part) = key.strip_suffix("_groups") else {
        return false;
    };
    let list = |value: Option<&Value>| match value {
        Some(Value::Array(list)) => list.clone(),
        other => other.into_iter().cloned().collect(),
    };
    let depths = told.get(&format!("{part}_depths"));
    let depths = list(depths.or_else(|| told.get(&format!("{part}_depth"))));
    let (told, given) = (list(told.get(key)), list(Some(given)));
    let mut pairs = told.iter().zip(&given).zip(&depths);
    told.len() == given.len() && pairs.all(|((a, b), d)| a == b || *d == 0)
}

/// Constructor arguments from the tensors, the preset and the user, the later ones first.
fn network(
    family: Family,
    told: Map<String, Value>,
    preset: Option<Preset>,
    given: &Map<String, Value>,
) -> Result<Map<String, Value>> {
    let mut network = told;
    for (key, value) in given {
        let differs =
            |told: &&Value| *told != value && !differ_without_blocks(&network, key, value);
        if let Some(told) = network.get(key).filter(differs) {
            return Err(Error::config(
                format!("network.{key}"),
                format!(
                    "is {value} in the configuration file, but the tensors are those of {told}"
                ),
            ));
        }
        network.insert(key.clone(), value.clone());
    }
    for (key, value) in preset.map(|p| p.untold(family)).unwrap_or_default() {
        network.entry(key).or_insert(value);
    }
    let missing: Vec<&str> = untold(family)
        .iter()
        .copied()
        .filter(|key| !network.contains_key(*key))
        .collect();
    if !missing.is_empty() {
        return Err(Error::config(
            format!("network.{}", missing[0]),
            format!(
                "cannot be seen in the tensors, and no published configuration has this shape; give {} in the [network] \
                 table of a configuration file (--config), or --preset {}",
                missing.join(", "),
                Preset::ALL.map(Preset::name).join("|")
            ),
        ));
    }
    network.entry("drop_path_rate").or_insert(json!(0.0));
    if family == Family::PointTransformerV2 {
        network.entry("attn_drop_rate").or_insert(json!(0.0));
        network.entry("enable_checkpoint").or_insert(json!(false));
    }
    Ok(network)
}

fn notes(
    checkpoint: &Checkpoint,
    input: &Path,
    conventions: Conventions,
) -> std::collections::BTreeMap<String, String> {
    let file = input.file_name().unwrap_or_default().to_string_lossy();
    let mut notes = checkpoint.beside.clone();
    notes.insert(
        "converted from".into(),
        format!("{file} ({})", checkpoint.container),
    );
    notes.insert("name prefix".into(), checkpoint.prefix.clone());
    notes.insert("conventions".into(), conventions.name().into());
    notes
}
