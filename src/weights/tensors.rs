//! Named tensors in memory: what every checkpoint and reference file becomes once it is read.

use std::collections::{BTreeMap, HashMap};

use crate::{Error, Result};

/// Type of the numbers of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the variants are the types they name")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Dtype {
    /// All types, widest first.
    pub const ALL: [Dtype; 13] = [
        Dtype::F64,
        Dtype::I64,
        Dtype::U64,
        Dtype::F32,
        Dtype::I32,
        Dtype::U32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I16,
        Dtype::U16,
        Dtype::I8,
        Dtype::U8,
        Dtype::Bool,
    ];

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// Name as written in safetensors headers.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::I64 => "I64",
            Dtype::I32 => "I32",
            Dtype::I16 => "I16",
            Dtype::I8 => "I8",
            Dtype::U64 => "U64",
            Dtype::U32 => "U32",
            Dtype::U16 => "U16",
            Dtype::U8 => "U8",
            Dtype::Bool => "BOOL",
        }
    }

    /// The type called `name` in safetensors headers.
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|d| d.name() == name)
    }

    /// True for the floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}

/// Number of elements of a shape, or `None` when it does not fit the machine.
pub fn element_count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// One tensor: row-major numbers, little-endian bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    dims: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

/// Reads little-endian numbers of type `$t` and converts each with `$f`.
macro_rules! decode {
    ($bytes:expr, $t:ty, $f:expr) => {
        $bytes
            .chunks_exact(size_of::<$t>())
            .map(|b| {
                $f(<$t>::from_le_bytes(
                    b.try_into().expect("a chunk is as long as the number"),
                ))
            })
            .collect()
    };
}

impl Tensor {
    /// A tensor from its bytes; their number has to be what shape and type ask for.
    pub fn new(dims: Vec<usize>, dtype: Dtype, bytes: Vec<u8>) -> Result<Self> {
        let wanted = element_count(&dims).and_then(|n| n.checked_mul(dtype.size()));
        if wanted != Some(bytes.len()) {
            return Err(Error::argument(
                "tensor",
                format!(
                    "{} bytes do not make a {} tensor of shape {dims:?}",
                    bytes.len(),
                    dtype.name()
                ),
            ));
        }
        Ok(Tensor { dims, dtype, bytes })
    }

    /// A single-precision tensor. Errors when the shape does not hold that many numbers.
    pub fn from_f32(dims: &[usize], values: &[f32]) -> Result<Self> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(dims.to_vec(), Dtype::F32, bytes)
    }

    /// A double-precision tensor. Errors when the shape does not hold that many numbers.
    pub fn from_f64(dims: &[usize], values: &[f64]) -> Result<Self> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(dims.to_vec(), Dtype::F64, bytes)
    }

    /// A tensor of 64-bit integers. Errors when the shape does not hold that many numbers.
    pub fn from_i64(dims: &[usize], values: &[i64]) -> Result<Self> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(dims.to_vec(), Dtype::I64, bytes)
    }

    /// Sizes, outermost first; empty for a scalar.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Type of the numbers.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The numbers as stored: row-major, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All elements as `f32`; wider types are rounded.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => decode!(self.bytes, f32, |v| v),
            _ => self.to_f64().into_iter().map(|v| v as f32).collect(),
        }
    }

    /// All elements as `f64`; 64-bit integers beyond 2^53 are rounded, booleans are 0 and 1.
    pub fn to_f64(&self) -> Vec<f64> {
        let b = &self.bytes;
        match self.dtype {
            Dtype::F64 => decode!(b, f64, |v| v),
            Dtype::F32 => decode!(b, f32, f64::from),
            Dtype::F16 => decode!(b, u16, |v| half::f16::from_bits(v).to_f64()),
            Dtype::BF16 => decode!(b, u16, |v| half::bf16::from_bits(v).to_f64()),
            Dtype::I64 => decode!(b, i64, |v| v as f64),
            Dtype::I32 => decode!(b, i32, f64::from),
            Dtype::I16 => decode!(b, i16, f64::from),
            Dtype::I8 => decode!(b, i8, f64::from),
            Dtype::U64 => decode!(b, u64, |v| v as f64),
            Dtype::U32 => decode!(b, u32, f64::from),
            Dtype::U16 => decode!(b, u16, f64::from),
            Dtype::U8 => decode!(b, u8, f64::from),
            Dtype::Bool => decode!(b, u8, |v| f64::from(u8::from(v != 0))),
        }
    }

    /// All elements as `i64`, or `None` for floating-point tensors and unsigned values past the range.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let b = &self.bytes;
        Some(match self.dtype {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => return None,
            Dtype::I64 => decode!(b, i64, |v| v),
            Dtype::I32 => decode!(b, i32, i64::from),
            Dtype::I16 => decode!(b, i16, i64::from),
            Dtype::I8 => decode!(b, i8, i64::from),
            Dtype::U64 => {
                let values: Vec<u64> = decode!(b, u64, |v| v);
                let exact: Result<Vec<i64>, _> = values.into_iter().map(i64::try_from).collect();
                return exact.ok();
            }
            Dtype::U32 => decode!(b, u32, i64::from),
            Dtype::U16 => decode!(b, u16, i64::from),
            Dtype::U8 => decode!(b, u8, i64::from),
            Dtype::Bool => decode!(b, u8, |v| i64::from(v != 0)),
        })
    }
}

/// Tensors by name, in the order in which they were added, with free-form string metadata.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensors {
    list: Vec<(String, Tensor)>,
    position: HashMap<String, usize>,
    /// Strings that travel with the tensors, sorted by key so that equal contents give equal files.
    pub metadata: BTreeMap<String, String>,
}

impl Tensors {
    /// No tensors, no metadata.
    pub fn new() -> Self {
        Tensors::default()
    }

    /// Adds a tensor at the end. Errors when the name is taken.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<()> {
        let name = name.into();
        if self.position.contains_key(&name) {
            return Err(Error::weights(
                name,
                "there is already a tensor of this name",
            ));
        }
        self.position.insert(name.clone(), self.list.len());
        self.list.push((name, tensor));
        Ok(())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.list.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// The tensor called `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.position.get(name).map(|&i| &self.list[i].1)
    }

    /// The tensor called `name`, or an error that says it is missing.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        self.get(name)
            .ok_or_else(|| Error::weights(name, "the file holds no tensor of this name"))
    }

    /// Sizes of the tensor called `name`, if there is one.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(Tensor::dims)
    }

    /// Elements of the tensor called `name` as `f32`; see [`Tensor::to_f32`]. Errors when it is missing.
    pub fn get_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.require(name).map(Tensor::to_f32)
    }

    /// Elements of the tensor called `name` as `f64`; see [`Tensor::to_f64`]. Errors when it is missing.
    pub fn get_f64(&self, name: &str) -> Result<Vec<f64>> {
        self.require(name).map(Tensor::to_f64)
    }

    /// Elements of the integer tensor called `name`. Errors when it is missing or holds floating-point numbers.
    pub fn get_i64(&self, name: &str) -> Result<Vec<i64>> {
        let tensor = self.require(name)?;
        tensor.to_i64().ok_or_else(|| {
            Error::weights(
                name,
                format!(
                    "integers are needed, the file holds {}",
                    tensor.dtype().name()
                ),
            )
        })
    }

    /// The tensors whose names begin with `prefix`, without it; metadata is not carried over.
    pub fn with_prefix(&self, prefix: &str) -> Tensors {
        let mut out = Tensors::new();
        for (name, tensor) in self.iter() {
            if let Some(rest) = name.strip_prefix(prefix) {
                out.position.insert(rest.to_string(), out.list.len());
                out.list.push((rest.to_string(), tensor.clone()));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_converts() {
        let half = |bits: u16| bits.to_le_bytes().to_vec();
        let cases: [(Dtype, Vec<u8>, f64); 13] = [
            (Dtype::F64, (-1.5f64).to_le_bytes().to_vec(), -1.5),
            (Dtype::F32, (-1.5f32).to_le_bytes().to_vec(), -1.5),
            (Dtype::F16, half(half::f16::from_f32(-1.5).to_bits()), -1.5),
            (
                Dtype::BF16,
                half(half::bf16::from_f32(-1.5).to_bits()),
                -1.5,
            ),
            (Dtype::I64, (-7i64).to_le_bytes().to_vec(), -7.0),
            (Dtype::I32, (-7i32).to_le_bytes().to_vec(), -7.0),
            (Dtype::I16, (-7i16).to_le_bytes().to_vec(), -7.0),
            (Dtype::I8, (-7i8).to_le_bytes().to_vec(), -7.0),
            (Dtype::U64, 7u64.to_le_bytes().to_vec(), 7.0),
            (Dtype::U32, 7u32.to_le_bytes().to_vec(), 7.0),
            (Dtype::U16, 7u16.to_le_bytes().to_vec(), 7.0),
            (Dtype::U8, vec![7], 7.0),
            (Dtype::Bool, vec![1], 1.0),
        ];
        for (dtype, bytes, value) in cases {
            let t = Tensor::new(vec![1, 1], dtype, bytes).unwrap();
            assert_eq!(t.to_f64(), [value], "{dtype:?}");
            assert_eq!(t.to_f32(), [value as f32], "{dtype:?}");
            let integers = (!dtype.is_float()).then(|| vec![value as i64]);
            assert_eq!(t.to_i64(), integers, "{dtype:?}");
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
    }

    #[test]
    fn bytes_have_to_fit_the_shape() {
        assert!(Tensor::new(vec![2, 3], Dtype::F32, vec![0; 24]).is_ok());
        assert!(Tensor::new(vec![2, 3], Dtype::F32, vec![0; 20]).is_err());
        assert!(Tensor::new(vec![usize::MAX, 3], Dtype::F32, vec![0; 20]).is_err());
        assert_eq!(
            Tensor::new(vec![], Dtype::I64, vec![0; 8]).unwrap().len(),
            1
        );
    }

    #[test]
    fn names_are_unique_and_keep_their_order() {
        let mut all = Tensors::new();
        for name in ["b.x", "a.y", "b.a"] {
            all.insert(name, Tensor::from_f32(&[1], &[0.0]).unwrap())
                .unwrap();
        }
        let again = Tensor::from_f32(&[1], &[0.0]).unwrap();
        assert!(all.insert("a.y", again).is_err());
        let names: Vec<&str> = all.iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["b.x", "a.y", "b.a"]);
        let part = all.with_prefix("b.");
        let names: Vec<&str> = part.iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["x", "a"]);
        assert!(part.get_f32("y").unwrap_err().to_string().contains('y'));
    }

    #[test]
    fn integers_are_not_taken_from_floats() {
        let mut all = Tensors::new();
        all.insert("x", Tensor::from_f32(&[1], &[1.0]).unwrap())
            .unwrap();
        assert!(all.get_i64("x").unwrap_err().to_string().contains("F32"));
    }
}
