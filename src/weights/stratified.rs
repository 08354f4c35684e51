//! The configuration of a Stratified Transformer, as far as its tensors tell it.

use serde_json::{Map, Value, json};

use super::architecture::{count, matrix};
use super::presets::object;
use super::tensors::Tensors;
use crate::{Error, Result};

/// The constructor arguments that the tensors of a state dict (bare names) tell. The depth of a first level without a
/// transformer, of which there are no tensors, is taken to be that of the second, and its heads half as many, as in the
/// published configuration; they matter for drop path rates and not at all.
///
/// # Errors
/// A tensor that every such network has is missing or has the wrong number of dimensions; the error names it.
pub(super) fn infer(state: &Tensors) -> Result<Map<String, Value>> {
    let [_, in_channels, stem_channels] = dims(state, "stem_layer.0.kpconv.weight")?;
    let stem_transformer = state.dims("stem_layer.1.kpconv.weight").is_none();
    let [classes, _] = matrix(state, "classifier.3.weight")?;
    let stages = count(state, "layers.");
    if stages == 0 {
        return Err(Error::weights("layers.0", "is missing"));
    }
    let (mut depths, mut channels, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = None;
    for stage in 0..stages {
        let blocks = format!("layers.{stage}.blocks.");
        let [triple, width] = matrix(state, &format!("{blocks}0.attn.qkv.weight"))?;
        if triple != 3 * width {
            let fault = format!("has {triple} rows for {width} channels");
            return Err(Error::weights(format!("{blocks}0.attn.qkv.weight"), fault));
        }
        let [bins, count_of_heads, _, _] = table(state, &format!("{blocks}0.attn."))?;
        rows = rows.or(Some(bins));
        depths.push(count(state, &blocks));
        channels.push(width);
        heads.push(count_of_heads);
    }
    if !stem_transformer {
        depths.insert(0, depths[0]);
        channels.insert(0, stem_channels);
        heads.insert(0, (heads[0] / 2).max(1));
    }
    let first = "layers.0.blocks.0.attn";
    let has = |name: &str| state.get(&format!("{first}.{name}")).is_some();
    // Tables of Stratified Transformer have an even number of rows, those of 3D Swin an odd one.
    let kind = match rows.unwrap_or(0) % 2 {
        0 => "Stratified",
        _ => "Swin3D",
    };
    Ok(object(json!({
        "type": kind,
        "in_channels": in_channels,
        "num_classes": classes,
        "stem_transformer": stem_transformer,
        "depths": depths,
        "channels": channels,
        "num_heads": heads,
        "rel_query": has("relative_pos_query_table"),
        "rel_key": has("relative_pos_key_table"),
        "rel_value": has("relative_pos_value_table"),
        "qkv_bias": has("qkv.bias"),
    })))
}

/// Shape of the first position table that a block has.
fn table(state: &Tensors, attention: &str) -> Result<[usize; 4]> {
    let names = ["query", "key", "value"].map(|n| format!("{attention}relative_pos_{n}_table"));
    let found = names.iter().find(|name| state.get(name).is_some());
    dims(state, found.unwrap_or(&names[0]))
}

fn dims<const D: usize>(state: &Tensors, name: &str) -> Result<[usize; D]> {
    let dims = state.require(name)?.dims();
    dims.try_into().map_err(|_| {
        let fault = format!("has {D} dimensions in every network, here it has shape {dims:?}");
        Error::weights(name, fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::models::Model;
    use crate::weights::architecture::{self, Family};
    use crate::weights::{Preset, save_state};

    /// A published configuration with its published channels.
    fn published(preset: Preset, kind: &str) -> Value {
        let family = Family::Stratified;
        let mut config = preset.untold(family);
        config.extend(object(match preset {
            Preset::S3dis => json!({
                "num_classes": 13, "stem_transformer": true, "depths": [2, 2, 6, 2],
                "channels": [48, 96, 192, 384], "num_heads": [3, 6, 12, 24],
            }),
            Preset::Scannet => json!({
                "num_classes": 20, "stem_transformer": false, "depths": [3, 3, 9, 3, 3],
                "channels": [48, 96, 192, 384, 384], "num_heads": [3, 6, 12, 24, 24],
            }),
        }));
        config.extend(object(json!({
            "type": kind, "in_channels": 6, "rel_query": true, "rel_key": true, "rel_value": true, "qkv_bias": true,
        })));
        Value::Object(config)
    }

    #[test]
    fn published_networks_are_recognised_by_their_tensors() {
        for (preset, kind, parameters, entries) in [
            (Preset::S3dis, "Stratified", 8_022_970, 229),
            (Preset::Scannet, "Stratified", 18_798_662, 349),
            (Preset::S3dis, "Swin3D", 7_367_194, 229),
            (Preset::Scannet, "Swin3D", 17_204_582, 349),
        ] {
            let config = published(preset, kind);
            let model = Model::new(&config, Device::Cpu, 0).unwrap();
            assert_eq!(model.params.layout().weight_count(), parameters);
            let state = save_state(&model.params).unwrap();
            assert_eq!(state.len(), entries);
            let (family, told) = architecture::infer(&state).unwrap();
            assert_eq!(family, Family::Stratified);
            assert_eq!(Preset::matching(family, &told), Some(preset));
            for (key, value) in &told {
                assert_eq!(config.get(key), Some(value), "{key}");
            }
            let known = preset.untold(family);
            assert!(
                architecture::untold(family)
                    .iter()
                    .all(|key| known.contains_key(*key))
            );
        }
    }
}
