//! The configuration of a network, as far as the names and shapes of its tensors tell it.
//!
//! For a Point Transformer V2 they tell the mode, all depths, channels and groups, the position encodings and the biases;
//! for a Stratified Transformer the stem, depths, channels, heads and tables, and by the tables whether it is the 3D Swin
//! baseline. They do not tell [`untold`]: sizes in metres, numbers of neighbours, how decoders upsample, and the rates that
//! matter in training only.

use serde_json::{Map, Value, json};

use super::presets::object;
use super::tensors::Tensors;
use crate::{Error, Result};

/// Constructor arguments that change what the network computes and cannot be seen in its tensors.
pub const fn untold(family: Family) -> &'static [&'static str] {
    match family {
        Family::PointTransformerV2 => &[
            "patch_embed_neighbours",
            "enc_neighbours",
            "dec_neighbours",
            "grid_sizes",
            "unpool_backend",
        ],
        Family::Stratified => &["grid_size", "window_size", "quant_size", "downsample_scale"],
    }
}

/// Networks whose checkpoints can be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Point Transformer V2, both modes.
    PointTransformerV2,
    /// Stratified Transformer and 3D Swin.
    Stratified,
}

impl Family {
    /// The family that a state dict (bare names) belongs to, by the layer that every member has.
    pub fn of(state: &Tensors) -> Option<Family> {
        let known = [
            ("patch_embed.proj.0.weight", Family::PointTransformerV2),
            ("stem_layer.0.kpconv.weight", Family::Stratified),
        ];
        let found = known.iter().find(|(name, _)| state.dims(name).is_some());
        found.map(|(_, family)| *family)
    }
}

/// The constructor arguments that the tensors of a state dict (bare names) tell.
///
/// # Errors
/// A tensor that every such network has is missing or has the wrong number of dimensions; the error names it.
pub fn infer(state: &Tensors) -> Result<(Family, Map<String, Value>)> {
    let family = Family::of(state).ok_or_else(|| {
        Error::weights(
            "patch_embed.proj.0.weight, stem_layer.0.kpconv.weight",
            "are both missing, so this is no Point Transformer V2 and no Stratified Transformer; other networks cannot be \
             converted",
        )
    })?;
    let told = match family {
        Family::PointTransformerV2 => point_transformer(state)?,
        Family::Stratified => super::stratified::infer(state)?,
    };
    Ok((family, told))
}

fn point_transformer(state: &Tensors) -> Result<Map<String, Value>> {
    let stages = count(state, "enc_stages.");
    let decoders = count(state, "dec_stages.");
    if decoders != stages || stages == 0 {
        return Err(Error::weights(
            "dec_stages",
            format!("there are {decoders} decoder stages for {stages} encoder stages"),
        ));
    }
    let patch = Sequence::of(state, "patch_embed", "proj.0.weight")?;
    let encoders = sequences(state, "enc_stages", "down.fc.weight", stages)?;
    let dec = sequences(state, "dec_stages", "up.proj.0.weight", stages)?;
    let [_, in_channels] = matrix(state, "patch_embed.proj.0.weight")?;
    let [classes, _] = matrix(state, "seg_head.3.weight")?;
    // All blocks are alike; a stage may have none.
    let block = state
        .iter()
        .find_map(|(name, _)| name.strip_suffix("weight_encoding.3.weight"));
    let has = |name: &str| block.is_some_and(|b| state.get(&format!("{b}{name}")).is_some());
    let kind = if has("weight_encoding.0.bias") {
        "PT-v2m2"
    } else {
        "PT-v2m1"
    };
    let list = |of: &[Sequence], what: fn(&Sequence) -> usize| -> Vec<usize> {
        of.iter().map(what).collect()
    };
    Ok(object(json!({
        "type": kind,
        "in_channels": in_channels,
        "num_classes": classes,
        "patch_embed_depth": patch.depth,
        "patch_embed_channels": patch.channels,
        "patch_embed_groups": patch.groups,
        "enc_depths": list(&encoders, |s| s.depth),
        "enc_channels": list(&encoders, |s| s.channels),
        "enc_groups": list(&encoders, |s| s.groups),
        "dec_depths": list(&dec, |s| s.depth),
        "dec_channels": list(&dec, |s| s.channels),
        "dec_groups": list(&dec, |s| s.groups),
        "attn_qkv_bias": has("linear_v.bias"),
        "pe_multiplier": has("linear_p_multiplier.0.weight"),
        "pe_bias": has("linear_p_bias.0.weight"),
    })))
}

/// What the tensors of one block sequence tell.
struct Sequence {
    depth: usize,
    channels: usize,
    groups: usize,
}

impl Sequence {
    /// The blocks of `stage`, whose features the weight `enter` makes.
    fn of(state: &Tensors, stage: &str, enter: &str) -> Result<Self> {
        let blocks = format!("{stage}.blocks.blocks.");
        let [channels, _] = matrix(state, &format!("{stage}.{enter}"))?;
        let depth = count(state, &blocks);
        let groups = match depth {
            // Nothing is computed with it, and it divides any number of channels.
            0 => 1,
            _ => matrix(state, &format!("{blocks}0.attn.weight_encoding.3.weight"))?[0],
        };
        Ok(Sequence {
            depth,
            channels,
            groups,
        })
    }
}

fn sequences(state: &Tensors, part: &str, enter: &str, stages: usize) -> Result<Vec<Sequence>> {
    (0..stages)
        .map(|i| Sequence::of(state, &format!("{part}.{i}"), enter))
        .collect()
}

/// How many consecutive numbers from 0 follow `prefix` in the names.
pub(super) fn count(state: &Tensors, prefix: &str) -> usize {
    let numbers = state.iter().filter_map(|(name, _)| {
        let (number, _) = name.strip_prefix(prefix)?.split_once('.')?;
        number.parse::<usize>().ok()
    });
    let seen: std::collections::BTreeSet<usize> = numbers.collect();
    seen.iter()
        .zip(0..)
        .take_while(|(found, wanted)| *found == wanted)
        .count()
}

pub(super) fn matrix(state: &Tensors, name: &str) -> Result<[usize; 2]> {
    let dims = state.require(name)?.dims();
    dims.try_into().map_err(|_| {
        Error::weights(
            name,
            format!("is a matrix in every network, here it has shape {dims:?}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::models::Model;
    use crate::weights::{Preset, Tensor, save_state};

    /// A published configuration with its published channels.
    fn published(preset: Preset, kind: &str) -> Value {
        let mut config = preset.untold(Family::PointTransformerV2);
        let (inputs, classes, patch) = match preset {
            Preset::S3dis => (6, 13, 2),
            Preset::Scannet => (9, 20, 1),
        };
        let stages = if preset == Preset::S3dis { 3 } else { 4 };
        let cut = |list: [usize; 4]| json!(list[..stages]);
        config.extend(object(json!({
            "type": kind,
            "in_channels": inputs,
            "num_classes": classes,
            "patch_embed_depth": patch,
            "patch_embed_channels": 48,
            "patch_embed_groups": 6,
            "enc_depths": if stages == 3 { json!([2, 6, 2]) } else { json!([2, 2, 6, 2]) },
            "enc_channels": cut([96, 192, 384, 512]),
            "enc_groups": cut([12, 24, 48, 64]),
            "dec_depths": cut([1; 4]),
            "dec_channels": cut([48, 96, 192, 384]),
            "dec_groups": cut([6, 12, 24, 48]),
            "attn_qkv_bias": true,
            "pe_multiplier": kind == "PT-v2m1",
            "pe_bias": true,
        })));
        Value::Object(config)
    }

    #[test]
    fn published_networks_are_recognised_by_their_tensors() {
        for (preset, kind, parameters, entries) in [
            (Preset::S3dis, "PT-v2m2", 3_908_641, 840),
            (Preset::S3dis, "PT-v2m1", 4_442_755, 960),
            (Preset::Scannet, "PT-v2m2", 11_323_948, 962),
            (Preset::Scannet, "PT-v2m1", 12_847_652, 1_098),
        ] {
            let config = published(preset, kind);
            let model = Model::new(&config, Device::Cpu, 0).unwrap();
            assert_eq!(model.params.layout().weight_count(), parameters);
            let state = save_state(&model.params).unwrap();
            assert_eq!(state.len(), entries);
            let (family, told) = infer(&state).unwrap();
            assert_eq!(family, Family::PointTransformerV2);
            assert_eq!(Preset::matching(family, &told), Some(preset));
            for (key, value) in &told {
                assert_eq!(config.get(key), Some(value), "{key}");
            }
            let known = preset.untold(family);
            for key in object(config).keys() {
                assert!(told.contains_key(key) != known.contains_key(key), "{key}");
            }
            assert!(untold(family).iter().all(|key| known.contains_key(*key)));
        }
    }

    #[test]
    fn other_networks_are_refused() {
        let mut state = Tensors::new();
        assert!(infer(&state).is_err());
        let tensor = || Tensor::from_f32(&[1, 1], &[1.0]).unwrap();
        state.insert("conv1.weight", tensor()).unwrap();
        let fault = infer(&state).unwrap_err().to_string();
        assert!(fault.contains("no Point Transformer V2"), "{fault}");
        state.insert("patch_embed.proj.0.weight", tensor()).unwrap();
        let fault = infer(&state).unwrap_err().to_string();
        assert!(fault.contains("0 encoder stages"), "{fault}");
        state
            .insert("enc_stages.0.down.fc.weight", tensor())
            .unwrap();
        let fault = infer(&state).unwrap_err().to_string();
        assert!(fault.contains("0 decoder stages"), "{fault}");
        state
            .insert("dec_stages.0.up.proj.0.weight", tensor())
            .unwrap();
        let fault = infer(&state).unwrap_err().to_string();
        assert!(fault.contains("seg_head.3.weight"), "{fault}");
    }

    #[test]
    fn stages_without_blocks_are_recognised() {
        let mut config = published(Preset::S3dis, "PT-v2m1");
        config["patch_embed_depth"] = json!(0);
        config["enc_depths"] = json!([2, 0, 1]);
        config["dec_depths"] = json!([0, 1, 0]);
        let model = Model::new(&config, Device::Cpu, 0).unwrap();
        let (_, told) = infer(&save_state(&model.params).unwrap()).unwrap();
        for (key, value) in &told {
            if !key.ends_with("_groups") {
                assert_eq!(config.get(key), Some(value), "{key}");
            }
        }
        assert_eq!(told["patch_embed_groups"], 1);
        assert_eq!(told["enc_groups"], json!([12, 1, 48]));
        assert_eq!(told["dec_groups"], json!([1, 12, 1]));
    }

    #[test]
    fn huge_stage_numbers_cost_nothing() {
        let mut state = Tensors::new();
        let name = format!("enc_stages.{}.x", u64::MAX);
        state
            .insert(name, Tensor::from_f32(&[1], &[1.0]).unwrap())
            .unwrap();
        assert!(infer(&state).is_err());
    }
}
