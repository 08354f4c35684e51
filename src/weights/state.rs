//! State of a network as tensors: loading with every shape checked, and saving in the official order.

use super::{Tensor, Tensors};
use crate::device::Device;
use crate::graph::{Layout, ParamKind, Params};
use crate::models::{Model, construct};
use crate::{Error, Result};
use serde_json::Value;

/// Builds the network that `config` describes with the weights of `state`; memory is taken for them only after all of
/// them were found to fit.
///
/// # Errors
/// A configuration that makes no network; the first tensor that does not fit.
pub fn load_model(config: &Value, state: &Tensors, device: Device) -> Result<Model> {
    let (network, layout) = construct(config)?;
    check_state(&layout, state)?;
    let mut params = Params::zeros(layout, device)?;
    load_state(&mut params, state)?;
    Ok(Model {
        network,
        params,
        config: config.clone(),
    })
}

/// Compares names and shapes of `state` with those of a network. They must be the same; the first that differs is named.
/// Counters may be missing (older files do not hold them).
fn check_state(layout: &Layout, state: &Tensors) -> Result<()> {
    for spec in layout.specs() {
        let Some(tensor) = state.get(&spec.name) else {
            if spec.kind == ParamKind::Counter {
                continue;
            }
            return Err(Error::weights(
                &spec.name,
                format!(
                    "the network needs {:?}, the file does not hold it",
                    spec.dims
                ),
            ));
        };
        if spec.kind != ParamKind::Counter && tensor.dims() != spec.dims {
            return Err(Error::weights(
                &spec.name,
                format!(
                    "the network needs {:?}, the file holds {:?}",
                    spec.dims,
                    tensor.dims()
                ),
            ));
        }
    }
    match state.iter().find(|(name, _)| layout.find(name).is_none()) {
        None => Ok(()),
        Some((name, tensor)) => Err(Error::weights(
            name,
            format!(
                "the file holds {:?}, the network has no such tensor",
                tensor.dims()
            ),
        )),
    }
}

/// Loads every tensor of the network from `state`, whose names and shapes must be exactly those of the network.
///
/// # Errors
/// The first tensor that does not fit, or that holds values which no training leaves behind.
pub fn load_state(params: &mut Params, state: &Tensors) -> Result<()> {
    let layout = params.layout().clone();
    check_state(&layout, state)?;
    for spec in layout.specs() {
        let id = layout
            .find(&spec.name)
            .expect("every tensor of the layout has a name");
        if spec.kind == ParamKind::Counter {
            let value = state.get(&spec.name).and_then(Tensor::to_i64);
            params.set_counter(id, value.and_then(|v| v.first().copied()).unwrap_or(0));
            continue;
        }
        let values = state.require(&spec.name)?.to_f32();
        let is_variance = spec.kind == ParamKind::Running && spec.name.ends_with("running_var");
        let bad = |x: &f32| !x.is_finite() || (is_variance && *x < 0.0);
        if let Some(at) = values.iter().position(bad) {
            return Err(Error::weights(
                &spec.name,
                format!("value {at} is {}; the checkpoint is damaged", values[at]),
            ));
        }
        params.set(id, &values)?;
    }
    Ok(())
}

/// All tensors of the network in the official order.
pub fn save_state(params: &Params) -> Result<Tensors> {
    let layout = params.layout();
    let mut state = Tensors::new();
    for spec in layout.specs() {
        let id = layout
            .find(&spec.name)
            .expect("every tensor of the layout has a name");
        let tensor = match spec.kind {
            ParamKind::Counter => Tensor::from_i64(&[], &[params.counter(id)])?,
            _ => Tensor::from_f32(&spec.dims, params.get(id))?,
        };
        state.insert(&spec.name, tensor)?;
    }
    Ok(state)
}
