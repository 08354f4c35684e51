//! State of a network as tensors: loading with every shape checked, and saving in the official order.

use super::{Tensor, Tensors};
use crate::graph::{ParamKind, Params};
use crate::{Error, Result};

/// Loads every tensor of the network from `state`. The names and shapes must be exactly those of the network; the
/// first that differs is named. Counters may be missing (older files do not hold them).
pub fn load_state(params: &mut Params, state: &Tensors) -> Result<()> {
    let layout = params.layout().clone();
    for spec in layout.specs() {
        let id = layout
            .find(&spec.name)
            .expect("every tensor of the layout has a name");
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
        if spec.kind == ParamKind::Counter {
            let value = tensor.to_i64().and_then(|v| v.first().copied());
            params.set_counter(id, value.unwrap_or(0));
            continue;
        }
        if tensor.dims() != spec.dims {
            return Err(Error::weights(
                &spec.name,
                format!(
                    "the network needs {:?}, the file holds {:?}",
                    spec.dims,
                    tensor.dims()
                ),
            ));
        }
        let values = tensor.to_f32();
        if let Some(bad) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::weights(
                &spec.name,
                format!("value {bad} is {}; the checkpoint is damaged", values[bad]),
            ));
        }
        params.set(id, &values)?;
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
