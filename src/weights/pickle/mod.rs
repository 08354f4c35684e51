//! Python pickles read as data: a stack machine that builds plain values and never runs anything.
//!
//! A pickle is a program; Python's own reader lets it call any function by name. This one knows the opcodes that
//! `torch.save` writes (protocols 2 to 5) and a short list of constructors ([`Global`]); every other name is an error
//! that says it. The opcodes are those of Python's `pickletools` documentation.
//!
//! Values live in one list and refer to each other by number, so shared and cyclic values cost nothing, and a file of
//! n bytes makes at most n values. Constructors copy their arguments; what they copy in all is bounded by the length
//! of the pickle. Nothing here recurses.

mod machine;

pub use machine::parse;

use super::constructors::Global;

/// Number of a value in its [`Graph`].
pub type Id = u32;

/// Result of reading a pickle; the error is a sentence that says at which byte what is wrong.
pub type PickleResult<T> = std::result::Result<T, String>;

/// A value that a pickle describes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of up to 16 bytes.
    Int(i128),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dictionary, plain or ordered: pairs as they were added.
    Dict(Vec<(Id, Id)>),
    /// A constructor or type by name.
    Global(Global),
    /// Tensor data kept outside the pickle.
    Storage(Box<StorageRef>),
    /// A view of tensor data.
    Tensor(Box<TensorRef>),
    /// Something that only the skipped parts of a checkpoint hold, such as a device name or a NumPy array.
    Opaque,
}

impl Value {
    /// What the value is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a truth value",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Str(_) => "text",
            Value::Bytes(_) => "bytes",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Global(_) => "a type",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
            Value::Opaque => "an object",
        }
    }
}

/// Tensor data kept outside the pickle.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageRef {
    /// Name of the data inside the file.
    pub key: String,
    /// Type of the numbers; `None` for untyped bytes.
    pub dtype: Option<super::Dtype>,
    /// First number of this view of the data.
    pub start: u64,
    /// Count of numbers (bytes, if untyped) that the pickle says there are.
    pub count: u64,
}

/// A tensor as a strided view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRef {
    /// The data.
    pub storage: StorageRef,
    /// Type of the numbers.
    pub dtype: super::Dtype,
    /// Number of the storage at which the tensor starts.
    pub offset: u64,
    /// Sizes, outermost first.
    pub dims: Vec<u64>,
    /// Steps of the storage per step of each dimension.
    pub strides: Vec<u64>,
}

/// All values of one pickle.
#[derive(Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    /// Items and bytes that constructors may still copy.
    allowance: usize,
}

impl Graph {
    /// The value with this number.
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.values[id as usize]
    }

    pub(super) fn push(&mut self, value: Value) -> PickleResult<Id> {
        let id = Id::try_from(self.values.len()).map_err(|_| "it holds too many values")?;
        self.values.push(value);
        Ok(id)
    }

    /// Accounts for copying the values `ids` into a new one.
    pub(super) fn charge(&mut self, ids: &[Id]) -> PickleResult<()> {
        let size = |id: &Id| match self.get(*id) {
            Value::Str(s) => s.len(),
            Value::Bytes(b) => b.len(),
            Value::Tuple(items) | Value::List(items) => items.len(),
            Value::Dict(pairs) => pairs.len(),
            Value::Storage(s) => s.key.len(),
            Value::Tensor(t) => t.storage.key.len() + t.dims.len(),
            _ => 0,
        };
        let cost = ids.iter().map(|id| 1 + size(id)).sum();
        self.allowance = self
            .allowance
            .checked_sub(cost)
            .ok_or("it copies the same values again and again")?;
        Ok(())
    }

    /// The text with this number, if it is text.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The value of a dictionary's text key, the last one if it occurs several times.
    pub fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        match self.get(dict) {
            Value::Dict(pairs) => pairs
                .iter()
                .rev()
                .find(|(k, _)| self.text(*k) == Some(key))
                .map(|(_, v)| *v),
            _ => None,
        }
    }
}
