//! The names that a PyTorch checkpoint may refer to, and what each of them builds. Nothing else is accepted.
//!
//! | name | becomes |
//! |---|---|
//! | `torch.FloatStorage` and its siblings, `UntypedStorage` | type of a storage |
//! | `torch._utils._rebuild_tensor`, `_v2`, `_v3`, `_rebuild_parameter`, `_with_state` | a tensor |
//! | `torch.float32` and its siblings | type of a tensor |
//! | `collections.OrderedDict` | a dictionary |
//! | `torch.Size` | its tuple |
//! | `numpy…scalar`, `numpy.dtype`, `_codecs.encode` | a number (`best_metric_value` of training codes) |
//! | `numpy…_reconstruct`, `numpy.ndarray`, `torch.device`, `collections.Counter`, `collections.defaultdict`, `dict` | an object that is never looked into |
//! | `torch.optim…`, the schedulers of the training codes, `getattr` of such an object | likewise |
//!
//! The last two rows stand in optimizer and scheduler states, which are skipped: PyTorch before 2.0 kept the whole
//! one-cycle scheduler as the owner of its annealing function. An object there is inert, whatever is done with it.

use super::pickle::{Graph, Id, PickleResult, StorageRef, TensorRef, Value};
use super::tensors::Dtype;

/// A name on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    /// Type of a storage.
    Storage(Option<Dtype>),
    /// Type of a tensor.
    Dtype(Dtype),
    /// `_rebuild_tensor(storage, offset, size, stride)`; later versions have more arguments.
    Tensor,
    /// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype)`.
    TypedTensor,
    /// `_rebuild_parameter(tensor, …)`.
    Parameter,
    /// `OrderedDict()` or of a list of pairs.
    OrderedDict,
    /// `torch.Size(tuple)`.
    Size,
    /// `numpy.dtype(code, align, copy)`.
    NumpyDtype,
    /// `scalar(dtype, bytes)`.
    NumpyScalar,
    /// `encode(text, 'latin1')`.
    Encode,
    /// `getattr(object, name)` of an inert object.
    Attribute,
    /// Something that is never looked into.
    Inert,
}

/// The entry of the list for `module.name`; the error names what is not on it.
pub fn find(module: &str, name: &str) -> PickleResult<Global> {
    let global = match (module, name) {
        ("torch", "Size") => Global::Size,
        ("torch", "device") => Global::Inert,
        ("torch" | "torch.storage", name) => {
            return torch_type(name).ok_or_else(|| refusal(module, name));
        }
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::TypedTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Global::Parameter
        }
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("collections", "Counter" | "defaultdict") => Global::Inert,
        ("builtins" | "__builtin__", "dict") => Global::Inert,
        ("builtins" | "__builtin__", "getattr") => Global::Attribute,
        ("pointcept.utils.scheduler" | "pcr.utils.scheduler", _) => Global::Inert,
        (module, _) if module.starts_with("torch.optim.") => Global::Inert,
        ("numpy", "dtype") => Global::NumpyDtype,
        ("numpy", "ndarray") => Global::Inert,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::Inert,
        ("_codecs", "encode") => Global::Encode,
        _ => return Err(refusal(module, name)),
    };
    Ok(global)
}

fn refusal(module: &str, name: &str) -> String {
    format!(
        "the file asks for {module}.{name}, which no tensor needs; it was not run. If you trust the file, load it in \
         Python and save its state_dict alone"
    )
}

fn torch_type(name: &str) -> Option<Global> {
    let dtype = |name| {
        Some(match name {
            "float64" | "DoubleStorage" => Dtype::F64,
            "float32" | "FloatStorage" => Dtype::F32,
            "float16" | "HalfStorage" => Dtype::F16,
            "bfloat16" | "BFloat16Storage" => Dtype::BF16,
            "int64" | "LongStorage" => Dtype::I64,
            "int32" | "IntStorage" => Dtype::I32,
            "int16" | "ShortStorage" => Dtype::I16,
            "int8" | "CharStorage" => Dtype::I8,
            "uint8" | "ByteStorage" => Dtype::U8,
            "uint16" => Dtype::U16,
            "uint32" => Dtype::U32,
            "uint64" => Dtype::U64,
            "bool" | "BoolStorage" => Dtype::Bool,
            _ => return None,
        })
    };
    if name == "UntypedStorage" {
        return Some(Global::Storage(None));
    }
    let dtype = dtype(name)?;
    Some(if name.ends_with("Storage") {
        Global::Storage(Some(dtype))
    } else {
        Global::Dtype(dtype)
    })
}

/// What calling `callee` with the tuple `arguments` builds.
pub fn call(graph: &mut Graph, callee: Id, arguments: Id) -> PickleResult<Value> {
    let global = match graph.get(callee) {
        Value::Global(g) => *g,
        // Only a method or a class of an inert object can stand here.
        Value::Opaque => return Ok(Value::Opaque),
        other => return Err(format!("it calls {}", other.kind())),
    };
    let Value::Tuple(arguments) = graph.get(arguments) else {
        return Err("the arguments of a call are no tuple".into());
    };
    let arguments = arguments.clone();
    graph.charge(&arguments)?;
    let argument = |i: usize| {
        let id = arguments
            .get(i)
            .ok_or_else(|| format!("argument {i} of a call is missing"))?;
        Ok::<&Value, String>(graph.get(*id))
    };
    match global {
        Global::Tensor => tensor(graph, &arguments, None),
        Global::TypedTensor => match argument(6)? {
            Value::Global(Global::Dtype(dtype)) => tensor(graph, &arguments, Some(*dtype)),
            other => Err(format!("the type of a tensor is {}", other.kind())),
        },
        Global::Parameter => match argument(0)? {
            Value::Tensor(t) => Ok(Value::Tensor(t.clone())),
            other => Err(format!("a parameter is made of {}", other.kind())),
        },
        Global::OrderedDict => match arguments.first() {
            None => Ok(Value::Dict(Vec::new())),
            Some(pairs) => dictionary(graph, *pairs),
        },
        Global::Size => match argument(0)? {
            Value::Tuple(items) | Value::List(items) => Ok(Value::Tuple(items.clone())),
            other => Err(format!("a size is made of {}", other.kind())),
        },
        // Kept as its code; byte order follows in a state that is not needed for little-endian numbers.
        Global::NumpyDtype => match argument(0)? {
            Value::Str(code) => Ok(Value::Str(code.clone())),
            other => Err(format!("a NumPy type is named by {}", other.kind())),
        },
        Global::NumpyScalar => Ok(scalar(argument(0)?, argument(1)?)),
        Global::Encode => match (argument(0)?, argument(1)?) {
            (Value::Str(text), Value::Str(code)) if code == "latin1" => latin1(text),
            _ => Err("_codecs.encode is used for something else than latin1".into()),
        },
        Global::Attribute => match argument(0)? {
            Value::Opaque => Ok(Value::Opaque),
            _ => Err(refusal("builtins", "getattr")),
        },
        Global::Inert => Ok(Value::Opaque),
        Global::Storage(_) | Global::Dtype(_) => Err("it calls a tensor type".into()),
    }
}

/// Checks that `target` may be given a state; the state itself is never needed.
pub fn set_state(graph: &Graph, target: Id) -> PickleResult<()> {
    match graph.get(target) {
        // OrderedDict: `_metadata` of state dicts. Str: byte order of a NumPy type. Tensor: attributes of parameters.
        Value::Dict(_) | Value::Opaque | Value::Str(_) | Value::Tensor(_) => Ok(()),
        other => Err(format!("it sets the state of {}", other.kind())),
    }
}

/// The storage that a persistent id names:
/// `('storage', type, key, place, count)`, in old files with a view `(key, start, count)` or None behind.
pub fn storage(graph: &mut Graph, id: Id) -> PickleResult<StorageRef> {
    let Value::Tuple(items) = graph.get(id) else {
        return Err("outside data is not named by a tuple".into());
    };
    let items = items.clone();
    graph.charge(&items)?;
    let fault = || "outside data is not named as PyTorch does it".to_string();
    let item = |i: usize| items.get(i).map(|id| graph.get(*id)).ok_or_else(fault);
    match item(0)? {
        Value::Str(kind) if kind == "storage" => {}
        Value::Str(kind) if kind == "module" => {
            return Err(
                "the file holds a whole module with its source code; load it in Python and save its state_dict".into(),
            );
        }
        _ => return Err(fault()),
    }
    let Value::Global(Global::Storage(dtype)) = item(1)? else {
        return Err(fault());
    };
    let (Value::Str(key), Some(count)) = (item(2)?, count_of(item(4)?)) else {
        return Err(fault());
    };
    let (mut start, mut length) = (0, count);
    if let Some(Value::Tuple(view)) = items.get(5).map(|id| graph.get(*id)) {
        let part = |i: usize| view.get(i).and_then(|id| count_of(graph.get(*id)));
        (start, length) = (part(1).ok_or_else(fault)?, part(2).ok_or_else(fault)?);
        if start.checked_add(length).is_none_or(|end| end > count) {
            return Err(format!(
                "a view {start}+{length} exceeds its storage of {count}"
            ));
        }
    }
    Ok(StorageRef {
        key: key.clone(),
        dtype: *dtype,
        start,
        count: length,
    })
}

fn count_of(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn tensor(graph: &Graph, arguments: &[Id], dtype: Option<Dtype>) -> PickleResult<Value> {
    let argument = |i: usize| {
        let id = arguments.get(i).ok_or("a tensor lacks arguments")?;
        Ok::<&Value, String>(graph.get(*id))
    };
    let Value::Storage(storage) = argument(0)? else {
        return Err("a tensor is not made of a storage".into());
    };
    let counts = |value: &Value| match value {
        Value::Tuple(items) | Value::List(items) => items
            .iter()
            .map(|id| count_of(graph.get(*id)))
            .collect::<Option<Vec<u64>>>(),
        _ => None,
    };
    let offset = count_of(argument(1)?).ok_or("the offset of a tensor is not a count")?;
    let dims = counts(argument(2)?).ok_or("the size of a tensor is not a tuple of counts")?;
    let strides = counts(argument(3)?).ok_or("the stride of a tensor is not a tuple of counts")?;
    if dims.len() != strides.len() {
        let text = format!(
            "a tensor has {} sizes and {} strides",
            dims.len(),
            strides.len()
        );
        return Err(text);
    }
    let dtype = dtype.or(storage.dtype).ok_or("a tensor has no type")?;
    Ok(Value::Tensor(Box::new(TensorRef {
        storage: StorageRef::clone(storage),
        dtype,
        offset,
        dims,
        strides,
    })))
}

fn dictionary(graph: &Graph, pairs: Id) -> PickleResult<Value> {
    let items = match graph.get(pairs) {
        Value::Dict(pairs) => return Ok(Value::Dict(pairs.clone())),
        Value::List(items) | Value::Tuple(items) => items,
        other => return Err(format!("a dictionary is made of {}", other.kind())),
    };
    let pair = |id: &Id| match graph.get(*id) {
        Value::List(p) | Value::Tuple(p) if p.len() == 2 => Ok((p[0], p[1])),
        _ => Err("an item of a dictionary is no pair".to_string()),
    };
    items
        .iter()
        .map(pair)
        .collect::<PickleResult<_>>()
        .map(Value::Dict)
}

/// The number of a NumPy scalar, if it is one of the common types.
fn scalar(dtype: &Value, bytes: &Value) -> Value {
    let (Value::Str(code), Value::Bytes(bytes)) = (dtype, bytes) else {
        return Value::Opaque;
    };
    match (code.as_str(), bytes.len()) {
        ("f8", 8) => Value::Float(f64::from_le_bytes(bytes[..].try_into().expect("8 bytes"))),
        ("f4", 4) => {
            Value::Float(f32::from_le_bytes(bytes[..].try_into().expect("4 bytes")).into())
        }
        ("i8", 8) => Value::Int(i64::from_le_bytes(bytes[..].try_into().expect("8 bytes")).into()),
        _ => Value::Opaque,
    }
}

fn latin1(text: &str) -> PickleResult<Value> {
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    let bytes = bytes.map_err(|_| "text for latin1 holds other characters")?;
    Ok(Value::Bytes(bytes))
}
